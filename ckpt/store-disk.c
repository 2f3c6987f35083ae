/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The overlay of a disk that is being loaded: a data file and an index as an engine wants them
 * (common/diskindex.h).
 *
 * Theory of operation. Blocks come in the order of the chain, and later ones replace earlier ones.
 * Each block keeps the place in the data file that it was first given, so at the end it is there
 * once; then the index is written. A map says where each block is; only what is used of it costs
 * memory.
 */
#include "ckpt/store-internal.h"

#include "common/diskindex.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Entries of an index that are written together. */
#define INDEX_BATCH 4096

/* Where a block is. */
enum { AT_HOME = 0, AT_ZERO = 1, AT_DATA = 2 /* and more: page of the data file + AT_DATA */ };

struct StoreDisk {
    CkptStore *store;
    const char *dir;
    StoreImage what; /* member is owned */
    uint64_t *at;    /* per block, sparse */
    GArray *blocks;  /* of uint64_t: those not AT_HOME */
    uint64_t used;   /* pages of the data file */
    int data_fd;
    int index_fd;
};

void
storedisk_free(StoreDisk *overlay)
{
    if (overlay == NULL)
        return;
    storefile_unmap(overlay->at, disk_blocks(overlay->what.bytes) * sizeof *overlay->at);
    g_array_unref(overlay->blocks);
    if (overlay->data_fd >= 0)
        close(overlay->data_fd);
    if (overlay->index_fd >= 0)
        close(overlay->index_fd);
    g_free(overlay->what.member);
    g_free(overlay);
}

static gboolean
overlay_fail(const StoreDisk *overlay, int err, GError **error)
{
    g_autofree char *what = g_strdup_printf("overlay of disk %d of member %s in %s",
                                            overlay->what.disk, overlay->what.member, overlay->dir);

    return store_fail_errno(overlay->store, NULL, what, err, error);
}

static int
nameless_file(const StoreDisk *overlay, GError **error)
{
    g_autofree char *name = g_build_filename(overlay->dir, "overlay-XXXXXX", NULL);
    int fd = open(overlay->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    /* Not all file systems have such files. */
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0 && unlink(name) != 0)
            g_warning("%s: %s", name, g_strerror(errno));
    }
    if (fd < 0)
        overlay_fail(overlay, errno, error);
    return fd;
}

StoreDisk *
storedisk_new(CkptStore *store, const StoreImage *what, const char *dir, GError **error)
{
    g_autoptr(StoreDisk) overlay = NULL;

    overlay = g_new0(StoreDisk, 1);
    overlay->store = store;
    overlay->dir = dir;
    overlay->what = *what;
    overlay->what.member = g_strdup(what->member);
    overlay->blocks = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    overlay->data_fd = overlay->index_fd = -1;
    overlay->at = storefile_map(disk_blocks(what->bytes) * sizeof *overlay->at, error);
    if (overlay->at == NULL)
        return NULL;
    if (dir == NULL)
        return g_steal_pointer(&overlay);
    overlay->data_fd = nameless_file(overlay, error);
    if (overlay->data_fd < 0)
        return NULL;
    overlay->index_fd = nameless_file(overlay, error);
    if (overlay->index_fd < 0)
        return NULL;
    return g_steal_pointer(&overlay);
}

const StoreImage *
storedisk_image(const StoreDisk *overlay)
{
    return &overlay->what;
}

static gboolean
put_zeros(StoreDisk *overlay, uint64_t first, uint32_t count)
{
    for (uint64_t block = first; block < first + count; block++) {
        if (overlay->at[block] == AT_HOME)
            g_array_append_val(overlay->blocks, block);
        overlay->at[block] = AT_ZERO;
    }
    return TRUE;
}

/* Give places to as many of the blocks as can have them one after the other, at least one. Returns
 * how many; *place: the first page. */
static uint32_t
take_places(StoreDisk *overlay, uint64_t first, uint32_t count, uint64_t *place)
{
    uint32_t n = 0;

    *place = overlay->at[first] >= AT_DATA ? overlay->at[first] - AT_DATA : overlay->used;
    for (; n < count; n++) {
        uint64_t block = first + n, at = overlay->at[block];

        if ((at >= AT_DATA ? at - AT_DATA : overlay->used) != *place + n)
            break;
        if (at == AT_HOME)
            g_array_append_val(overlay->blocks, block);
        overlay->at[block] = *place + n + AT_DATA;
        overlay->used = MAX(overlay->used, *place + n + 1);
    }
    return n;
}

static gboolean
put_run(void *opaque, uint64_t first, uint32_t count, const uint8_t *data, GError **error)
{
    StoreDisk *overlay = opaque;

    if (data == NULL)
        return put_zeros(overlay, first, count);
    while (count > 0) {
        uint64_t place;
        uint32_t n = take_places(overlay, first, count, &place);
        size_t len = (size_t)n * PAGE_BYTES;
        int err = store_write_all(overlay->data_fd, data, len, place * PAGE_BYTES);

        if (err != 0)
            return overlay_fail(overlay, err, error);
        first += n;
        count -= n;
        data += len;
    }
    return TRUE;
}

gboolean
storedisk_put(StoreDisk *overlay, const DecodedPage *pages, uint32_t count, GError **error)
{
    return storefile_runs(pages, count, put_run, overlay, error);
}

void
storedisk_give_places(StoreDisk *overlay, const GArray *blocks)
{
    g_array_append_vals(overlay->blocks, blocks->data, blocks->len);
    for (guint i = 0; i < blocks->len; i++)
        overlay->at[g_array_index(blocks, uint64_t, i)] = i + AT_DATA;
    overlay->used = blocks->len;
}

bool
storedisk_take_room(StoreDisk *overlay)
{
    return overlay->used == 0 ||
           fallocate(overlay->data_fd, 0, 0, (off_t)(overlay->used * PAGE_BYTES)) == 0;
}

gboolean
storedisk_finish(StoreDisk *overlay, GError **error)
{
    g_autofree DiskIndexEntry *entries = g_new(DiskIndexEntry, INDEX_BATCH);

    for (guint i = 0; i < overlay->blocks->len;) {
        uint64_t offset = (uint64_t)i * sizeof *entries;
        guint n = 0;
        int err;

        for (; n < INDEX_BATCH && i < overlay->blocks->len; n++, i++) {
            uint64_t block = g_array_index(overlay->blocks, uint64_t, i), at = overlay->at[block];
            entries[n] = (DiskIndexEntry){block, at == AT_ZERO ? DISK_INDEX_ZERO
                                                               : (at - AT_DATA) * PAGE_BYTES};
        }
        err = store_write_all(overlay->index_fd, entries, n * sizeof *entries, offset);
        if (err != 0)
            return overlay_fail(overlay, err, error);
    }
    return TRUE;
}

ImageDisk
storedisk_take(StoreDisk *overlay)
{
    ImageDisk disk = {overlay->data_fd, overlay->index_fd, overlay->blocks->len, NULL};

    overlay->data_fd = overlay->index_fd = -1;
    return disk;
}
