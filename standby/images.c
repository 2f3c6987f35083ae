/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The images of a shadow. */
#include "standby/images.h"

/* What the disks may add to a redo log: it lies in memory, however big they are. */
#define EPOCH_DISK_BYTES_MAX ((uint64_t)1 << 40)

void
images_clear(Images *images)
{
    g_clear_pointer(&images->ram, ram_set_free);
    g_clear_pointer(&images->disks, disk_set_free);
}

uint32_t
images_count(const Images *images)
{
    return images->ram->n + images->disks->n;
}

uint64_t
images_pages(const Images *images, uint32_t image)
{
    if (image < images->ram->n)
        return page_count(images->ram->sizes[image]);
    return disk_blocks(images->disks->files[image - images->ram->n].bytes);
}

uint64_t
images_bytes(const Images *images)
{
    return ram_set_bytes(images->ram) + MIN(disk_set_bytes(images->disks), EPOCH_DISK_BYTES_MAX);
}

gboolean
images_store(Images *images, uint32_t image, const DecodedPage *pages, uint32_t count,
             GError **error)
{
    if (image >= images->ram->n)
        return disk_set_store(images->disks, image - images->ram->n, pages, count, error);
    for (uint32_t i = 0; i < count; i++)
        ram_set_put(images->ram, image, pages[i].index, pages[i].data);
    return TRUE;
}
