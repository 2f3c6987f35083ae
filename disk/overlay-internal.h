/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the overlay's bookkeeping share. */
#ifndef DISTRICT_DISK_OVERLAY_INTERNAL_H
#define DISTRICT_DISK_OVERLAY_INTERNAL_H

#include "disk/overlay.h"

struct Overlay {
    uint64_t n_blocks;
    BlockMap *map;
    Places *places;
    uint64_t running; /* number of the cut that will be made next; from 1 */
    uint64_t released_below, home_below;
    unsigned to_sweep; /* segments of the map still to be looked at for home_below */
    /* Last cut with entries of all blocks, whether the running one has them, and from which cut on. */
    uint64_t resent;
    bool resending;
    uint64_t resent_from;
    GTree *held;  /* cut -> GArray of places that were overwritten, until the cut is released */
    GQueue pins;  /* of OverlayPin, oldest first */
    GArray *ends; /* index ends of cuts from released_below to running - 1 */
    uint64_t index_end, index_released;
};

/* Keep place until cut is released. */
void overlay_hold(Overlay *overlay, uint64_t cut, uint64_t place);
/* The most places an overlay of so many blocks may have. */
uint64_t overlay_places_limit(uint64_t n_blocks);

#endif
