/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks of an overlay.
 *
 * Theory of operation: the upper bits of a block's hash choose the segment, the next ones its first
 * slot in there; collisions go to the slots behind (linear probing). A segment that is four fifths
 * full is copied to one half as large again. Entries are never taken out one by one: what is to go
 * is left out when a segment is copied, so there are no tombstones.
 */
#include "disk/blockmap.h"

#include <string.h>

#define SEGMENT_SHIFT (64 - 10)
#define SEGMENT_SLOTS_MIN 8
#define CUT_LOW_BITS 30

G_STATIC_ASSERT(((uint64_t)1 << (64 - SEGMENT_SHIFT)) == BLOCKMAP_SEGMENTS);

/* A free slot has all bits set, which makes its place PLACE_NONE. */
typedef struct Slot {
    uint64_t block : 34;
    uint64_t cut_low : CUT_LOW_BITS;
    uint64_t place : 44;
    uint64_t cut_high : 20;
} Slot;

G_STATIC_ASSERT(sizeof(Slot) == 16);
G_STATIC_ASSERT(DISK_BYTES_MAX >> PAGE_SHIFT_4K <= (uint64_t)1 << 34);

typedef struct Segment {
    Slot *slots;
    uint32_t n_slots;
    uint32_t used;
} Segment;

struct BlockMap {
    uint64_t count;
    Segment segments[BLOCKMAP_SEGMENTS];
};

static uint64_t
block_hash(uint64_t block)
{
    return block * UINT64_C(0x9e3779b97f4a7c15);
}

static Segment *
segment_of(const BlockMap *map, uint64_t block)
{
    return (Segment *)&map->segments[block_hash(block) >> SEGMENT_SHIFT];
}

/* The slot of block, or the free one where it would go. The segment has a free one. */
static Slot *
segment_slot(const Segment *segment, uint64_t block)
{
    uint64_t hash = (block_hash(block) >> (SEGMENT_SHIFT - 32)) & UINT32_MAX;
    uint32_t i = (uint32_t)((hash * segment->n_slots) >> 32);

    while (segment->slots[i].place != PLACE_NONE && segment->slots[i].block != block) {
        if (++i == segment->n_slots)
            i = 0;
    }
    return &segment->slots[i];
}

static BlockValue
slot_value(const Slot *slot)
{
    return (BlockValue){
        .place = slot->place,
        .cut = slot->cut_low | (uint64_t)slot->cut_high << CUT_LOW_BITS,
    };
}

static void
segment_allocate(Segment *segment, uint32_t n_slots)
{
    segment->n_slots = n_slots;
    segment->slots = g_malloc_n(n_slots, sizeof(Slot));
    memset(segment->slots, 0xff, (size_t)n_slots * sizeof(Slot));
}

static bool
segment_full(const Segment *segment)
{
    return (uint64_t)segment->used * 5 >= (uint64_t)segment->n_slots * 4;
}

static void
segment_grow(Segment *segment)
{
    Segment old = *segment;

    segment_allocate(segment, MAX(old.n_slots + old.n_slots / 2, SEGMENT_SLOTS_MIN));
    for (uint32_t i = 0; i < old.n_slots; i++) {
        if (old.slots[i].place != PLACE_NONE)
            *segment_slot(segment, old.slots[i].block) = old.slots[i];
    }
    g_free(old.slots);
}

BlockMap *
blockmap_new(void)
{
    return g_new0(BlockMap, 1);
}

void
blockmap_free(BlockMap *map)
{
    for (unsigned i = 0; i < BLOCKMAP_SEGMENTS; i++)
        g_free(map->segments[i].slots);
    g_free(map);
}

uint64_t
blockmap_count(const BlockMap *map)
{
    return map->count;
}

bool
blockmap_find(const BlockMap *map, uint64_t block, BlockValue *value)
{
    const Segment *segment = segment_of(map, block);
    const Slot *slot;

    if (segment->used == 0)
        return false;
    slot = segment_slot(segment, block);
    if (slot->place == PLACE_NONE)
        return false;
    *value = slot_value(slot);
    return true;
}

bool
blockmap_set(BlockMap *map, uint64_t block, BlockValue value, BlockValue *old)
{
    Segment *segment = segment_of(map, block);
    Slot *slot;
    bool found;

    if (segment_full(segment))
        segment_grow(segment);
    slot = segment_slot(segment, block);
    found = slot->place != PLACE_NONE;
    if (found) {
        *old = slot_value(slot);
    } else {
        segment->used++;
        map->count++;
    }
    slot->block = block;
    slot->place = value.place;
    slot->cut_low = value.cut & (((uint64_t)1 << CUT_LOW_BITS) - 1);
    slot->cut_high = value.cut >> CUT_LOW_BITS;
    return found;
}

uint64_t
blockmap_each(const BlockMap *map, unsigned segment, BlockMapFunc func, void *opaque)
{
    const Segment *s = &map->segments[segment];

    for (uint32_t i = 0; i < s->n_slots; i++) {
        if (s->slots[i].place != PLACE_NONE)
            func(opaque, s->slots[i].block, slot_value(&s->slots[i]));
    }
    return s->used;
}

static uint32_t
segment_count_from(const Segment *segment, uint64_t cut)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < segment->n_slots; i++) {
        const Slot *slot = &segment->slots[i];
        if (slot->place != PLACE_NONE && slot_value(slot).cut >= cut)
            n++;
    }
    return n;
}

uint64_t
blockmap_drop_below(BlockMap *map, unsigned segment, uint64_t cut, BlockMapFunc func, void *opaque)
{
    Segment *s = &map->segments[segment];
    Segment old = *s;
    uint32_t keep = segment_count_from(s, cut);

    if (keep == old.used)
        return old.used;
    *s = (Segment){.used = keep};
    if (keep > 0)
        segment_allocate(s, MAX(keep + keep / 2, SEGMENT_SLOTS_MIN));
    map->count -= old.used - keep;
    for (uint32_t i = 0; i < old.n_slots; i++) {
        const Slot *slot = &old.slots[i];

        if (slot->place == PLACE_NONE)
            continue;
        if (slot_value(slot).cut >= cut)
            *segment_slot(s, slot->block) = *slot;
        else
            func(opaque, slot->block, slot_value(slot));
    }
    g_free(old.slots);
    return old.used;
}
