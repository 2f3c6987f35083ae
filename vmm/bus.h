/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An address space of device registers: a sorted table of regions that do not overlap. */
#ifndef DISTRICT_VMM_BUS_H
#define DISTRICT_VMM_BUS_H

#include "vmm/machine.h"

typedef struct BusRegion {
    uint64_t base;
    uint64_t size;
    IoHandler handler;
    void *opaque;
} BusRegion;

typedef struct Bus {
    GArray *regions; /* of BusRegion, by base */
} Bus;

void bus_init(Bus *bus);
void bus_clear(Bus *bus);

/* False if the region is empty, wraps around the end of the space or overlaps another. */
bool bus_add(Bus *bus, uint64_t base, uint64_t size, IoHandler handler, void *opaque);

/* Remove the region that starts at base, if there is one. */
void bus_remove(Bus *bus, uint64_t base);

/*
 * One access of len (1-8) bytes. It goes to the region that holds all of it; if there is none a
 * read gives all ones and a write is ignored. Returns whether a region was hit.
 */
bool bus_access(const Bus *bus, uint64_t address, uint8_t *data, unsigned len, bool write);

#endif
