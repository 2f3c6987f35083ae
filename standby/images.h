/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The images of a shadow, numbered as the stream does: RAM of each member, then the disks. */
#ifndef DISTRICT_STANDBY_IMAGES_H
#define DISTRICT_STANDBY_IMAGES_H

#include "ckpt/ramset.h"
#include "standby/diskset.h"

typedef struct Images {
    RamSet *ram;    /* owned */
    DiskSet *disks; /* owned; of no disks if there are none */
} Images;

void images_clear(Images *images);

uint32_t images_count(const Images *images);
/* Pages of image, which exists. */
uint64_t images_pages(const Images *images, uint32_t image);
/* Most bytes an epoch can have, about: its redo log is bounded by that. */
uint64_t images_bytes(const Images *images);

/* Store pages of an image; image and pages are in range. Idempotent. FALSE with error set if a disk
 * cannot be written. */
gboolean images_store(Images *images, uint32_t image, const DecodedPage *pages, uint32_t count,
                      GError **error);

#endif
