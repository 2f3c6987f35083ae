/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A district's image: one committed cut as memfds, ready to be run. What failover, migration and
 * restart from a file have in common.
 */
#ifndef DISTRICT_CKPT_IMAGE_H
#define DISTRICT_CKPT_IMAGE_H

#include "ckpt/format.h"
#include "common/lazydisk.h"
#include "stream.pb-c.h"

/* What a disk has that its home image may not have: an overlay for its engine. */
typedef struct ImageDisk {
    int data_fd;      /* owned; -1: none, the home has all of it */
    int index_fd;     /* owned (common/diskindex.h); -1 like data_fd */
    uint64_t entries; /* in the index, no block twice */
    LazyDisk *lazy;   /* owned; the data file is being filled in (store-ram.h). NULL: it is whole */
} ImageDisk;

typedef struct Image {
    District__CutState *cut; /* owned */
    uint32_t n_members;
    int *ram_fds; /* one sealed memfd per member, owned */
    uint32_t n_disks;
    ImageDisk *disks; /* the disks of the first member in cut, of the second...; NULL if none came
                         with the image */
} Image;

/* Take over a CutState memfd's first state_len bytes and ram fds (ownership passes, also on
 * failure; state_fd stays the caller's). Everything is checked. */
Image *image_from_fds(int state_fd, uint64_t state_len, int *ram_fds, uint32_t n_fds,
                      GError **error);

/* Only the CutState: everything but the RAM. Free with free_unpacked. */
District__CutState *image_cut_from_fd(int state_fd, uint64_t state_len, GError **error);

/* Read a whole checkpoint file, verifying every byte, into memfds. path is for messages only.
 * Refuses damaged, truncated and foreign files by name; never loads in part. */
Image *image_load_file(int fd, const char *path, GError **error);

/* Its members are about to run on its RAM: from here on it is no image (common/memfd.h). */
gboolean image_mark_spent(const Image *image, GError **error);

void image_free(Image *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Image, image_free)

#endif
