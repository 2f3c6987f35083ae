/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two files of an overlay (common/diskindex.h) with their bookkeeping: made, taken over, handed
 * on, appended to, and kept small in the background.
 */
#ifndef DISTRICT_DISK_OVERLAY_IO_H
#define DISTRICT_DISK_OVERLAY_IO_H

#include "disk/overlay.h"
#include "disk/uring.h"

#include "common/diskindex.h"

typedef struct OverlayIo {
    char *name; /* of the disk, for messages */
    Overlay *overlay;
    Uring *uring;
    int data_fd, index_fd;
    int state_fd; /* handed on; -1: none */
    guint work_source;
    bool punching, index_punching;
    bool punch_all;                    /* keep no free chunks */
    uint64_t punch_first, punch_count; /* places, while punching */
    uint64_t index_punched;            /* bytes */
    bool scouring, ending;
    uint64_t gap_first, gap_count; /* places, while scouring */
    uint64_t scoured_given;        /* places_given when the last scouring began */
} OverlayIo;

/* An empty overlay with new, nameless files in dir. */
OverlayIo *overlay_io_new(const char *name, const char *dir, uint64_t n_blocks, GError **error);
void overlay_io_free(OverlayIo *io);

/* Append entries to the index. 0, or an errno value and nothing is appended. */
int overlay_io_append(OverlayIo *io, const DiskIndexEntry *entries, size_t n);
/* Append an entry for each block of the overlay. 0, or an errno value as above. */
int overlay_io_resend(OverlayIo *io);

/* Something may have become free: see to it in the background. */
void overlay_io_tidy(OverlayIo *io);
/* The file system is full: give back all that is free. */
void overlay_io_make_room(OverlayIo *io);
/* Wait until nothing is done in the background. */
void overlay_io_quiet(OverlayIo *io);

/* As disk_restore, disk_hand_on, disk_inherit. */
gboolean overlay_io_restore(OverlayIo *io, int data_fd, int index_fd, uint64_t entries,
                            GError **error);
char *overlay_io_hand_on(OverlayIo *io, GError **error);
gboolean overlay_io_inherit(OverlayIo *io, const char *text, GError **error);

#endif
