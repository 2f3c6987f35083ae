/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bookkeeping of an overlay, without any I/O: where each block is, which places of the data
 * file must stay as they are and for whom, and how far the index is. See overlay.c.
 */
#ifndef DISTRICT_DISK_OVERLAY_H
#define DISTRICT_DISK_OVERLAY_H

#include "disk/places.h"

typedef struct Overlay Overlay;
/* One read's hold on all places of the moment. */
typedef struct OverlayPin OverlayPin;

Overlay *overlay_new(uint64_t n_blocks);
void overlay_free(Overlay *overlay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Overlay, overlay_free)

uint64_t overlay_blocks(const Overlay *overlay);
/* Places of the data file for these blocks; the caller's bookkeeping goes on here. */
Places *overlay_places(Overlay *overlay);

/* Where block is: a place, PLACE_ZERO, or PLACE_NONE: in the home only. */
uint64_t overlay_find(const Overlay *overlay, uint64_t block);
/* block is at place (taken from overlay_places, or PLACE_ZERO) from now on. */
void overlay_set(Overlay *overlay, uint64_t block, uint64_t place);

/* Places found by overlay_find from now until the unpin keep their data. */
OverlayPin *overlay_pin(Overlay *overlay);
void overlay_unpin(Overlay *overlay, OverlayPin *pin);

/* Entries in the index, and how many of them at the front nobody needs. */
uint64_t overlay_index_end(const Overlay *overlay);
uint64_t overlay_index_released(const Overlay *overlay);
void overlay_index_add(Overlay *overlay, uint64_t entries);

/* Cuts made so far. */
uint64_t overlay_cuts(const Overlay *overlay);
/* As disk.h. Numbers beyond the running cut count as it. */
uint64_t overlay_cut(Overlay *overlay, uint64_t *index_end);
void overlay_released_below(Overlay *overlay, uint64_t cut);
void overlay_home_below(Overlay *overlay, uint64_t cut);
/* A step of dropping what the home has. Returns whether there is more to do. */
bool overlay_sweep(Overlay *overlay);

/* Call func for each block of the overlay. */
void overlay_each(const Overlay *overlay, BlockMapFunc func, void *opaque);
uint64_t overlay_count(const Overlay *overlay);
/* Entries of all blocks are in the index again: their data belongs to the running cut, too. */
void overlay_resent(Overlay *overlay);

/*
 * Take over what an index says: entries in the order of the index, then the end. FALSE with error
 * set: not a possible overlay. data_places: of the data file.
 */
gboolean overlay_restore_entry(Overlay *overlay, uint64_t block, uint64_t offset,
                               uint64_t data_places, GError **error);
gboolean overlay_restore_end(Overlay *overlay, uint64_t entries, GError **error);

/* The whole as bytes, for another life of the program, and back. Nothing is pinned or left to sweep.
 * NULL with error set: damaged, or not an overlay of so many blocks and places of data. */
size_t overlay_save_size(const Overlay *overlay);
void overlay_save(const Overlay *overlay, uint8_t *out);
Overlay *overlay_load(const uint8_t *data, size_t len, uint64_t n_blocks, uint64_t data_places,
                      GError **error);

#endif
