/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk as a guest sees it: a home image, and over it, if wanted, the overlay that takes all
 * writes.
 *
 * Without overlay every request goes to the home. With it, the home is only read: a write goes to a
 * new place in the overlay's data file and becomes part of the disk when it ends, with an entry in
 * the index (common/diskindex.h). Reads see the newest. disk_cut freezes what has been written so
 * far: from then on its data stays unchanged, for the client of the cut, until disk_released_below.
 * When the client has brought the home up to a cut (disk_home_below), the overlay drops what the
 * home has. A flush is a barrier only: how durable the overlay is, is the client's business.
 *
 * Where the overlay's file system is full, requests wait and are tried again (disk_waiting says
 * so): the guest is never told of a write that was not taken.
 *
 * One thread, that of the default main context, as for block.h. Completions come from the main
 * loop. A request may end before or after a cut, but never partly before it: the entries of one
 * block are atomic, those of a request of several blocks are made together when it ends. (Only
 * zeroing and discarding of more than 64 MiB is done in pieces of that; beginning it anew after a
 * restore does no harm.)
 */
#ifndef DISTRICT_DISK_DISK_H
#define DISTRICT_DISK_DISK_H

#include "disk/block.h"

#include "common/lazydisk.h"

typedef struct Disk Disk;
typedef BlockDone DiskDone;

/* home is taken over, on failure too. overlay_dir: where the overlay's files are made, NULL: no
 * overlay. name: for messages. */
Disk *disk_new(const char *name, BlockBackend *home, const char *overlay_dir, GError **error);
/* No request is under way. */
void disk_free(Disk *disk);

uint64_t disk_bytes(const Disk *disk);
/* Whether the guest may only read it: the home may, and there is no overlay. */
bool disk_read_only(const Disk *disk);
const char *disk_home(const Disk *disk);
/* As MemberDisk.image; NULL: none. */
const char *disk_image(const Disk *disk);
bool disk_has_overlay(const Disk *disk);

/* Ranges: multiples of SECTOR_BYTES, inside the disk; the caller has checked that. */
void disk_read(Disk *disk, uint64_t offset, void *buf, size_t len, DiskDone done, void *opaque);
void disk_write(Disk *disk, uint64_t offset, const void *buf, size_t len, DiskDone done,
                void *opaque);
void disk_flush(Disk *disk, DiskDone done, void *opaque);
void disk_zero(Disk *disk, uint64_t offset, uint64_t len, bool unmap, DiskDone done, void *opaque);
void disk_discard(Disk *disk, uint64_t offset, uint64_t len, DiskDone done, void *opaque);

/* Requests that wait for room: one line with what to do; NULL: none do. */
const char *disk_waiting(const Disk *disk);

/* ---- The overlay ---- */
/* Descriptors of data and index; they stay the disk's. */
void disk_overlay_fds(const Disk *disk, int *data_fd, int *index_fd);
/* How many cuts there have been, and entries in the index. */
void disk_position(const Disk *disk, uint64_t *cuts, uint64_t *entries);
/* Freeze what has ended so far. Returns the number of this cut, from 1; *index_end: entries. */
uint64_t disk_cut(Disk *disk, uint64_t *index_end);
void disk_released_below(Disk *disk, uint64_t cut);
void disk_home_below(Disk *disk, uint64_t cut);
/* Append an entry for every block of the overlay again. FALSE with error set: the index is full. */
gboolean disk_resend(Disk *disk, GError **error);
/* Take over an overlay with entries in its index; they count as written in cut 0. Only before the
 * first request. The descriptors are the disk's on success. Nothing in the index is trusted. */
gboolean disk_restore(Disk *disk, int data_fd, int index_fd, uint64_t entries, GError **error);

/* For an execve(2) of the same program: the overlay as descriptors without close-on-exec and a
 * string that says the rest, for disk_inherit in the next life. No request is under way. NULL
 * with error set. */
/*
 * After disk_restore, before the first request: the data of the overlay is put there later, by whoever
 * has the other end of fds (common/lazydisk.h; duplicated). Reads wait for it.
 */
gboolean disk_lazy_begin(Disk *disk, const int fds[LAZYDISK_FDS], GError **error);
/* It is wanted as soon as can be, all of it: disk_is_lazy says when it is there. */
void disk_lazy_hurry(Disk *disk);
/* Is it still being put there? And: the descriptors, for another client; the disk's. */
bool disk_is_lazy(const Disk *disk);
const int *disk_lazy_fds(const Disk *disk);

char *disk_hand_on(Disk *disk, GError **error);
gboolean disk_inherit(Disk *disk, const char *text, GError **error);

#endif
