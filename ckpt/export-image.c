/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading an image that is exported, in windows of as many pages as a record has. A window in which
 * neither the home nor the overlay has anything is passed over.
 */
#include "ckpt/export-image.h"

#include "common/diskindex.h"
#include "disk/home.h"
#include "disk/nbd-server.h"

#include <errno.h>
#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW_PAGES PAGES_PER_RECORD_MAX
#define WINDOW_BYTES ((size_t)WINDOW_PAGES * PAGE_BYTES)
#define OWN_PREFIX "image:"

struct ExportImage {
    char *name; /* of the home */
    Home *home;
    NbdServer *server; /* our own, or NULL */
    uint64_t bytes;
    int data_fd;             /* of the overlay, the caller's */
    DiskIndexEntry *entries; /* sorted by block */
    uint64_t n_entries;
    uint64_t next_entry;           /* the first that has not been read */
    uint64_t data_start, data_end; /* bytes: a range of the home with data; equal: not known */
    uint8_t *window;
};

static gboolean
image_fail(const ExportImage *image, const char *doing, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "%s: %s: %s", image->name,
                doing, g_strerror(err));
    return FALSE;
}

/* ---- Opening ---- */

/* "image:FORMAT:PATH" by a qemu-nbd of our own. */
static gboolean
home_serve(ExportImage *image, const char *home, const char *socket_dir, GError **error)
{
    g_auto(GStrv) words = g_strsplit(home, ":", 3);
    g_autofree char *ours = NULL;
    struct nbd_handle *nbd = NULL;

    if (g_strv_length(words) != 3 || socket_dir == NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "%s: not image:FORMAT:PATH, or no directory for its socket", home);
        return FALSE;
    }
    image->server = nbd_server_start(words[2], words[1], true, socket_dir, &nbd, error);
    if (image->server == NULL)
        return FALSE;
    nbd_close(nbd);
    ours = g_strconcat("nbd:", nbd_server_socket(image->server), NULL);
    image->home = home_open(ours, image->bytes, false, error);
    return image->home != NULL;
}

static int
entry_compare(const void *a, const void *b)
{
    const DiskIndexEntry *x = a, *y = b;

    return x->block < y->block ? -1 : x->block > y->block;
}

static gboolean
read_all(const ExportImage *image, int fd, void *buf, size_t len, uint64_t offset, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return image_fail(image, "reading its overlay", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

/* 16 bytes for each block of 4096 of the overlay. */
static gboolean
overlay_open(ExportImage *image, const ImageDisk *overlay, GError **error)
{
    size_t len;

    if (overlay == NULL || overlay->data_fd < 0 || overlay->entries == 0)
        return TRUE;
    if (overlay->entries > disk_blocks(image->bytes))
        return image_fail(image, "its overlay has more blocks than it", EINVAL, error);
    len = overlay->entries * sizeof *image->entries;
    image->entries = g_try_malloc(len);
    if (image->entries == NULL)
        return image_fail(image, "its overlay's index", ENOMEM, error);
    image->n_entries = overlay->entries;
    image->data_fd = overlay->data_fd;
    if (!read_all(image, overlay->index_fd, image->entries, len, 0, error))
        return FALSE;
    qsort(image->entries, image->n_entries, sizeof *image->entries, entry_compare);
    return TRUE;
}

ExportImage *
export_image_open(const char *home, uint64_t bytes, const ImageDisk *overlay,
                  const char *socket_dir, GError **error)
{
    ExportImage *image = g_new0(ExportImage, 1);

    image->name = g_strdup(home);
    image->bytes = bytes;
    image->window = g_malloc(WINDOW_BYTES);
    if (g_str_has_prefix(home, OWN_PREFIX))
        home_serve(image, home, socket_dir, error);
    else
        image->home = home_open(home, bytes, false, error);
    if (image->home != NULL && overlay_open(image, overlay, error))
        return image;
    export_image_close(image);
    return NULL;
}

void
export_image_close(ExportImage *image)
{
    if (image == NULL)
        return;
    if (image->home != NULL)
        home_close(image->home);
    if (image->server != NULL)
        nbd_server_stop(image->server);
    g_free(image->entries);
    g_free(image->window);
    g_free(image->name);
    g_free(image);
}

gboolean
export_image_data(ExportImage *image, uint64_t *bytes, GError **error)
{
    uint64_t at = 0;

    *bytes = image->n_entries * PAGE_BYTES;
    for (;;) {
        uint64_t start, end;
        if (!home_next_data(image->home, at, &start, &end, error))
            return FALSE;
        if (start >= image->bytes)
            return TRUE;
        *bytes += end - start;
        at = end;
    }
}

/* ---- Reading ---- */

/* The first range of the home with data that ends after at. */
static gboolean
find_data(ExportImage *image, uint64_t at, GError **error)
{
    return image->data_end > at ||
           home_next_data(image->home, at, &image->data_start, &image->data_end, error);
}

/* The first page of the next window in which there may be something; at least page. */
static uint64_t
next_window(const ExportImage *image, uint64_t page)
{
    uint64_t first = MAX(image->data_start / PAGE_BYTES, page);

    if (image->next_entry < image->n_entries)
        first = MIN(first, image->entries[image->next_entry].block);
    return first - first % WINDOW_PAGES;
}

/* Put the overlay's blocks below page end into the window that begins at page first. */
static gboolean
window_overlay(ExportImage *image, uint64_t first, uint64_t end, GError **error)
{
    for (; image->next_entry < image->n_entries; image->next_entry++) {
        const DiskIndexEntry *entry = &image->entries[image->next_entry];
        uint8_t *to;

        if (entry->block >= end)
            break;
        to = image->window + (entry->block - first) * PAGE_BYTES;
        if (entry->offset == DISK_INDEX_ZERO)
            memset(to, 0, PAGE_BYTES);
        else if (!read_all(image, image->data_fd, to, PAGE_BYTES, entry->offset, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
window_read(ExportImage *image, uint64_t first, uint64_t count, GError **error)
{
    uint64_t at = first * PAGE_BYTES, end = (first + count) * PAGE_BYTES;

    memset(image->window, 0, count * PAGE_BYTES);
    if (image->data_start < end &&
        !home_read(image->home, at, image->window, MIN(end, image->bytes) - at, error))
        return FALSE;
    return window_overlay(image, first, first + count, error);
}

static gboolean
window_give(ExportImage *image, uint64_t first, uint64_t count, ExportPages take, void *opaque,
            GError **error)
{
    PageRef refs[WINDOW_PAGES];

    for (uint64_t i = 0; i < count; i++)
        refs[i] = (PageRef){first + i, image->window + i * PAGE_BYTES};
    return take(opaque, refs, (uint32_t)count, error);
}

gboolean
export_image_read(ExportImage *image, ExportPages take, void *opaque, GError **error)
{
    uint64_t pages = disk_blocks(image->bytes);

    image->next_entry = 0;
    image->data_start = image->data_end = 0;
    for (uint64_t page = 0; page < pages;) {
        uint64_t count;

        if (!find_data(image, page * PAGE_BYTES, error))
            return FALSE;
        page = next_window(image, page);
        if (page >= pages)
            break;
        count = MIN(WINDOW_PAGES, pages - page);
        if (!window_read(image, page, count, error) ||
            !window_give(image, page, count, take, opaque, error))
            return FALSE;
        page += count;
    }
    return TRUE;
}
