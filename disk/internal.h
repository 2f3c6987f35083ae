/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a disk share: its state, and how requests end. */
#ifndef DISTRICT_DISK_INTERNAL_H
#define DISTRICT_DISK_INTERNAL_H

#include "disk/disk.h"
#include "disk/overlay-io.h"

typedef void (*DiskSoon)(void *opaque);
typedef struct DiskLazy DiskLazy;

struct Disk {
    char *name;
    BlockBackend *home;
    char *overlay_dir;
    OverlayIo *io;  /* NULL: no overlay */
    DiskLazy *lazy; /* NULL: all of its data is there */
    /* Calls to be made from the main loop. */
    GQueue soon;
    guint soon_source;
    uint64_t busy; /* requests under way, while there is an overlay */
    bool used;     /* there has been a request */

    /* disk-write.c: */
    GQueue writes;       /* of DiskWrite, in the order they came, until they end */
    unsigned n_blocked;  /* of these, that wait for an earlier one */
    GQueue starved;      /* of DiskWrite: to be tried again */
    unsigned n_starving; /* writes that have found no room and not ended */
    guint retry_source;
    char *waiting; /* for disk_waiting, while n_starving */
};

typedef enum WriteKind {
    WRITE_DATA,
    WRITE_ZERO,
    WRITE_DISCARD,
} WriteKind;

/* Call func from the main loop. */
void disk_soon(Disk *disk, DiskSoon func, void *opaque);

/* A request that changes the disk, through the overlay. buf: of WRITE_DATA. len is not 0. */
void disk_write_start(Disk *disk, WriteKind kind, uint64_t offset, const void *buf, uint64_t len,
                      DiskDone done, void *opaque);

#endif
