/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for the data of an overlay (disk-lazy.c). For disk.c alone. */
#ifndef DISTRICT_DISK_LAZY_H
#define DISTRICT_DISK_LAZY_H

#include "disk/internal.h"

typedef void (*DiskLazyReady)(void *opaque);

/* No read waits. NULL is allowed. */
void disk_lazy_free(DiskLazy *lazy);
/* false: these places are there already; else ready is called, from the main loop, when they are. */
bool disk_lazy_wait(DiskLazy *lazy, uint64_t first, uint64_t count, DiskLazyReady ready,
                    void *opaque);

#endif
