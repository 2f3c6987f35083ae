/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image that is exported, RAM or disk: what its home has, and over it the blocks of an overlay as
 * ckpt_store_load makes one. Read from the front to the end in bounded memory; holes stay holes.
 */
#ifndef DISTRICT_CKPT_EXPORT_IMAGE_H
#define DISTRICT_CKPT_EXPORT_IMAGE_H

#include "ckpt/encode.h"
#include "ckpt/image.h"

typedef struct ExportImage ExportImage;

/*
 * home: "raw:PATH" or "nbd:SOCKET" of one that an engine has open (disk/home.h), or
 * "image:FORMAT:PATH" of one that none has: a qemu-nbd of our own then holds it, with its socket in
 * socket_dir. overlay: NULL for none; its descriptors stay the caller's, and open. NULL with error
 * set.
 */
ExportImage *export_image_open(const char *home, uint64_t bytes, const ImageDisk *overlay,
                               const char *socket_dir, GError **error);
void export_image_close(ExportImage *image);

/* About how many bytes of data it has. */
gboolean export_image_data(ExportImage *image, uint64_t *bytes, GError **error);

/* Pages in ascending order, none twice; some may be zero, and what is left out is zero. */
typedef gboolean (*ExportPages)(void *opaque, const PageRef *pages, uint32_t count, GError **error);
gboolean export_image_read(ExportImage *image, ExportPages take, void *opaque, GError **error);

#endif
