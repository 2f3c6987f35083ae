/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Places, in chunks.
 *
 * Theory of operation: places are handed out from one chunk, the current one, upwards. When its end
 * is reached, the next is a free one (the one freed last, as the page cache still has it), else one
 * that is at most half full, else one that has been punched, else a new one at the end of the file.
 * So writes that come together lie together, and are likely to be freed together.
 *
 *   CURRENT ──end reached──▶ FULL ──half free──▶ PARTIAL ──all free──▶ FREE ──▶ PUNCHING ──▶ PUNCHED
 *      ▲                                            │                    │                      │
 *      └────────────────────────────────────────────┴────────────────────┴──────────────────────┘
 */
#include "disk/places.h"

#include <string.h>

#define CHUNK_WORDS (CHUNK_PLACES / 64)
#define CHUNK_NONE UINT32_MAX
/* Most chunks punched by one call. */
#define PUNCH_CHUNKS_MAX 64

typedef enum ChunkState {
    CHUNK_PARTIAL, /* in a list: these three */
    CHUNK_FREE,
    CHUNK_PUNCHED,
    CHUNK_LISTS,
    CHUNK_CURRENT = CHUNK_LISTS,
    CHUNK_FULL,
    CHUNK_PUNCHING,
} ChunkState;

typedef struct Chunk {
    uint64_t bits[CHUNK_WORDS]; /* set: in use */
    uint32_t prev, next;
    uint16_t used;
    uint8_t state;
} Chunk;

typedef struct ChunkList {
    uint32_t head, tail;
    uint32_t length;
} ChunkList;

struct Places {
    Chunk *chunks;
    uint32_t n_chunks, room, limit;
    ChunkList lists[CHUNK_LISTS];
    uint32_t current; /* or CHUNK_NONE */
    unsigned cursor;  /* in the current one: where to look on */
    uint64_t used;
    uint64_t given;
};

static void
list_remove(Places *places, uint32_t i)
{
    Chunk *chunk = &places->chunks[i];
    ChunkList *list = &places->lists[chunk->state];

    *(chunk->prev == CHUNK_NONE ? &list->head : &places->chunks[chunk->prev].next) = chunk->next;
    *(chunk->next == CHUNK_NONE ? &list->tail : &places->chunks[chunk->next].prev) = chunk->prev;
    list->length--;
}

static void
list_push(Places *places, uint32_t i)
{
    Chunk *chunk = &places->chunks[i];
    ChunkList *list = &places->lists[chunk->state];

    chunk->prev = CHUNK_NONE;
    chunk->next = list->head;
    *(list->head == CHUNK_NONE ? &list->tail : &places->chunks[list->head].prev) = i;
    list->head = i;
    list->length++;
}

static void
chunk_move(Places *places, uint32_t i, ChunkState state)
{
    Chunk *chunk = &places->chunks[i];

    if (chunk->state == state)
        return;
    if (chunk->state < CHUNK_LISTS)
        list_remove(places, i);
    chunk->state = (uint8_t)state;
    if (state < CHUNK_LISTS)
        list_push(places, i);
}

/* Where a chunk belongs by how full it is. */
static ChunkState
chunk_fullness(const Chunk *chunk)
{
    if (chunk->used == 0)
        return CHUNK_FREE;
    return chunk->used <= CHUNK_PLACES / 2 ? CHUNK_PARTIAL : CHUNK_FULL;
}

/* Its fullness has changed. */
static void
chunk_settle(Places *places, uint32_t i)
{
    if (i != places->current)
        chunk_move(places, i, chunk_fullness(&places->chunks[i]));
}

static void
chunk_set(Places *places, uint32_t i, unsigned place)
{
    places->chunks[i].bits[place / 64] |= (uint64_t)1 << (place % 64);
    places->chunks[i].used++;
    places->used++;
}

static bool
chunk_test(const Chunk *chunk, unsigned place)
{
    return (chunk->bits[place / 64] >> (place % 64)) & 1;
}

/* The first place from here on that is in use (used) or is not; CHUNK_PLACES: none. */
static unsigned
chunk_next(const Chunk *chunk, unsigned from, bool used)
{
    while (from < CHUNK_PLACES) {
        uint64_t word = used ? chunk->bits[from / 64] : ~chunk->bits[from / 64];

        word >>= from % 64;
        if (word != 0)
            return from + (unsigned)__builtin_ctzll(word);
        from = (from / 64 + 1) * 64;
    }
    return CHUNK_PLACES;
}

/* A new chunk in state FULL and with nothing in use. false: the limit is reached. */
static bool
chunk_add(Places *places)
{
    if (places->n_chunks == places->limit)
        return false;
    if (places->n_chunks == places->room) {
        places->room = MAX(places->room + places->room / 2, 64);
        places->chunks = g_renew(Chunk, places->chunks, places->room);
    }
    places->chunks[places->n_chunks++] = (Chunk){.state = CHUNK_FULL};
    return true;
}

/* Choose the next current chunk. */
static bool
current_next(Places *places)
{
    uint32_t next = CHUNK_NONE;

    if (places->current != CHUNK_NONE)
        chunk_move(places, places->current, chunk_fullness(&places->chunks[places->current]));
    places->current = CHUNK_NONE;
    if (places->lists[CHUNK_FREE].length > 0)
        next = places->lists[CHUNK_FREE].head;
    else if (places->lists[CHUNK_PARTIAL].length > 0)
        next = places->lists[CHUNK_PARTIAL].head;
    else if (places->lists[CHUNK_PUNCHED].length > 0)
        next = places->lists[CHUNK_PUNCHED].head;
    else if (chunk_add(places))
        next = places->n_chunks - 1;
    if (next == CHUNK_NONE)
        return false;
    chunk_move(places, next, CHUNK_CURRENT);
    places->current = next;
    places->cursor = 0;
    return true;
}

Places *
places_new(uint64_t limit)
{
    Places *places = g_new0(Places, 1);

    places->limit = (uint32_t)MIN(limit / CHUNK_PLACES, CHUNK_NONE - 1);
    places->current = CHUNK_NONE;
    for (unsigned i = 0; i < CHUNK_LISTS; i++)
        places->lists[i] = (ChunkList){CHUNK_NONE, CHUNK_NONE, 0};
    return places;
}

void
places_free(Places *places)
{
    g_free(places->chunks);
    g_free(places);
}

uint64_t
places_used(const Places *places)
{
    return places->used;
}

uint64_t
places_take(Places *places, uint64_t want, uint64_t *got)
{
    Chunk *chunk;
    unsigned first = CHUNK_PLACES, end;

    for (;;) {
        if (places->current != CHUNK_NONE)
            first = chunk_next(&places->chunks[places->current], places->cursor, false);
        if (first < CHUNK_PLACES)
            break;
        if (!current_next(places))
            return PLACE_NONE;
    }
    chunk = &places->chunks[places->current];
    end = (unsigned)MIN(chunk_next(chunk, first, true), first + want);
    for (unsigned place = first; place < end; place++)
        chunk_set(places, places->current, place);
    places->cursor = end;
    *got = end - first;
    return (uint64_t)places->current * CHUNK_PLACES + first;
}

bool
places_claim(Places *places, uint64_t place)
{
    uint64_t i = place / CHUNK_PLACES;

    if (i >= places->limit)
        return false;
    while (places->n_chunks <= i) {
        chunk_add(places);
        chunk_move(places, places->n_chunks - 1, CHUNK_FREE);
    }
    if (chunk_test(&places->chunks[i], place % CHUNK_PLACES))
        return false;
    chunk_set(places, (uint32_t)i, place % CHUNK_PLACES);
    chunk_settle(places, (uint32_t)i);
    return true;
}

void
places_give(Places *places, uint64_t place)
{
    uint32_t i = (uint32_t)(place / CHUNK_PLACES);
    Chunk *chunk = &places->chunks[i];

    g_assert(i < places->n_chunks && chunk_test(chunk, place % CHUNK_PLACES));
    chunk->bits[place % CHUNK_PLACES / 64] &= ~((uint64_t)1 << (place % 64));
    chunk->used--;
    places->used--;
    places->given++;
    chunk_settle(places, i);
}

uint64_t
places_given(const Places *places)
{
    return places->given;
}

bool
places_take_gap(Places *places, uint64_t from, uint64_t *first, uint64_t *count)
{
    unsigned start = (unsigned)(from % CHUNK_PLACES), end;

    for (uint64_t i = from / CHUNK_PLACES; i < places->n_chunks; i++, start = 0) {
        const Chunk *chunk = &places->chunks[i];

        if (chunk->used == 0 || (start = chunk_next(chunk, start, false)) == CHUNK_PLACES)
            continue;
        end = chunk_next(chunk, start, true);
        *first = i * CHUNK_PLACES + start;
        *count = end - start;
        for (unsigned place = start; place < end; place++)
            chunk_set(places, (uint32_t)i, place);
        chunk_settle(places, (uint32_t)i);
        return true;
    }
    return false;
}

bool
places_spare(const Places *places)
{
    return places->lists[CHUNK_FREE].length > CHUNKS_KEPT;
}

bool
places_punch(Places *places, bool all, uint64_t *first, uint64_t *count)
{
    uint32_t keep = all ? 0 : CHUNKS_KEPT, start, end;

    if (places->lists[CHUNK_FREE].length <= keep)
        return false;
    start = places->lists[CHUNK_FREE].tail;
    end = start + 1;
    while (start > 0 && end - start < PUNCH_CHUNKS_MAX &&
           places->chunks[start - 1].state == CHUNK_FREE)
        start--;
    while (end < places->n_chunks && end - start < PUNCH_CHUNKS_MAX &&
           places->chunks[end].state == CHUNK_FREE)
        end++;
    for (uint32_t i = start; i < end; i++)
        chunk_move(places, i, CHUNK_PUNCHING);
    *first = (uint64_t)start * CHUNK_PLACES;
    *count = (uint64_t)(end - start) * CHUNK_PLACES;
    return true;
}

void
places_punched(Places *places, uint64_t first, uint64_t count)
{
    for (uint64_t i = first / CHUNK_PLACES; i < (first + count) / CHUNK_PLACES; i++)
        chunk_move(places, (uint32_t)i, CHUNK_PUNCHED);
}
