/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which blocks of a disk are in its overlay: block -> (place, cut). A hash table of 16 bytes a slot,
 * about 24 bytes a block, in segments that grow one by one, so that no single call takes long
 * however large the whole has become.
 */
#ifndef DISTRICT_DISK_BLOCKMAP_H
#define DISTRICT_DISK_BLOCKMAP_H

#include "common/page.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* A place is a page of the data file, by number; these two are none. */
#define PLACE_NONE (((uint64_t)1 << 44) - 1)
/* The block reads as zeros and has no data. */
#define PLACE_ZERO (PLACE_NONE - 1)
/* Places are below this, cuts too. */
#define PLACES_MAX (PLACE_NONE - 1)
#define CUTS_MAX ((uint64_t)1 << 50)

#define BLOCKMAP_SEGMENTS 1024

typedef struct BlockValue {
    uint64_t place;
    uint64_t cut; /* in which it was written */
} BlockValue;

typedef struct BlockMap BlockMap;
typedef void (*BlockMapFunc)(void *opaque, uint64_t block, BlockValue value);

BlockMap *blockmap_new(void);
void blockmap_free(BlockMap *map);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockMap, blockmap_free)

uint64_t blockmap_count(const BlockMap *map);
/* Whether block is in the map; if so, its value. */
bool blockmap_find(const BlockMap *map, uint64_t block, BlockValue *value);
/* Returns whether the block had a value before; if so, it is in *old. */
bool blockmap_set(BlockMap *map, uint64_t block, BlockValue value, BlockValue *old);

/* Call func for each entry of a segment (below BLOCKMAP_SEGMENTS), in no order. It must not change
 * the map. Returns how many there were. */
uint64_t blockmap_each(const BlockMap *map, unsigned segment, BlockMapFunc func, void *opaque);
/* Drop the entries of a segment that were written in cuts below this one, and call func for each.
 * Returns how many entries were looked at. */
uint64_t blockmap_drop_below(BlockMap *map, unsigned segment, uint64_t cut, BlockMapFunc func,
                             void *opaque);

#endif
