/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a district's image from a checkpoint file.
 *
 * Theory of operation. A checkpoint file is a stream: HELLO, one full epoch, then any number of
 * epochs that build on it. It goes through the same Receiver as a stream from the wire, so every
 * byte is verified. Pages are written to fresh memfds as they come; these become an Image only when
 * the file ends exactly after an EPOCH_END. On any other end they are dropped, also when a BYE says
 * that it was wanted: an image is whole or it is not there.
 *
 * A file of a district with disks is not loaded here: there is no place for its disks.
 */
#include "ckpt/image.h"

#include "ckpt/layout.h"
#include "ckpt/ramset.h"
#include "ckpt/record-file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* How often memory is looked at. */
#define MEMORY_CHECK_PAGES 8192

typedef struct Loader {
    RamSet *ram;
    uint64_t *sizes; /* of the members' RAM; NULL before the first full epoch */
    char **names;    /* of the members */
    size_t n;
    District__CutState *cut;
    uint64_t epoch;
    uint64_t pages; /* stored since memory was last looked at */
} Loader;

static gboolean
load_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    (void)opaque;
    (void)hello;
    (void)error;
    return TRUE;
}

static bool
same_members(const Loader *loader, const District__StreamEpochBegin *begin)
{
    if (loader->sizes == NULL || loader->n != begin->n_members)
        return false;
    for (size_t i = 0; i < loader->n; i++) {
        if (strcmp(loader->names[i], begin->members[i]->name) != 0 ||
            loader->sizes[i] != begin->members[i]->ram_size)
            return false;
    }
    return true;
}

static void
drop_ram(Loader *loader)
{
    g_clear_pointer(&loader->ram, ram_set_free);
    g_clear_pointer(&loader->names, g_strfreev);
    g_clear_pointer(&loader->sizes, g_free);
}

static gboolean
refuse_disks(const District__StreamEpochBegin *begin, GError **error)
{
    if (layout_image_count(begin) == begin->n_members)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                "it has disks; use district restart from the store");
    return FALSE;
}

static gboolean
load_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Loader *loader = opaque;

    if (!refuse_disks(begin, error))
        return FALSE;
    if (!begin->full) {
        if (begin->base_epoch == loader->epoch && same_members(loader, begin))
            return TRUE;
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "epoch %" G_GUINT64_FORMAT " builds on epoch %" G_GUINT64_FORMAT
                    " of these members, which the file does not have",
                    begin->epoch, begin->base_epoch);
        return FALSE;
    }
    drop_ram(loader);
    loader->n = begin->n_members;
    loader->sizes = g_new(uint64_t, loader->n);
    loader->names = g_new0(char *, loader->n + 1);
    for (size_t i = 0; i < loader->n; i++) {
        loader->sizes[i] = begin->members[i]->ram_size;
        loader->names[i] = g_strdup(begin->members[i]->name);
    }
    loader->ram = ram_set_new(loader->sizes, (uint32_t)loader->n, error);
    return loader->ram != NULL;
}

/* Look now and then whether the host still has memory for it. */
static gboolean
check_memory(Loader *loader, uint32_t count, GError **error)
{
    loader->pages += count;
    if (loader->pages < MEMORY_CHECK_PAGES)
        return TRUE;
    loader->pages = 0;
    return ram_set_check_room(loader->ram, error);
}

static gboolean
load_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Loader *loader = opaque;

    if (!check_memory(loader, count, error))
        return FALSE;
    for (uint32_t i = 0; i < count; i++)
        ram_set_put(loader->ram, image, pages[i].index, pages[i].data);
    return TRUE;
}

static void
drop_cut(Loader *loader)
{
    if (loader->cut != NULL)
        district__cut_state__free_unpacked(loader->cut, NULL);
    loader->cut = NULL;
}

static gboolean
load_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
           GError **error)
{
    Loader *loader = opaque;

    (void)state;
    drop_cut(loader);
    loader->cut = (District__CutState *)layout_unpack(&district__cut_state__descriptor, packed, len,
                                                      "STATE record", error);
    return loader->cut != NULL;
}

static gboolean
load_end(void *opaque, uint64_t epoch, GError **error)
{
    Loader *loader = opaque;

    (void)error;
    loader->epoch = epoch;
    return TRUE;
}

static const ReceiverOps load_ops = {
    .hello = load_hello,
    .begin = load_begin,
    .pages = load_pages,
    .state = load_state,
    .end = load_end,
};

/* Feed records to the receiver until the file ends where it may. */
static gboolean
feed_file(int fd, Receiver *receiver, GError **error)
{
    g_autoptr(RecordFile) file = record_file_new(fd);
    gboolean more = TRUE;

    while (more) {
        if (!record_file_feed(file, receiver, &more, error))
            return FALSE;
    }
    return TRUE;
}

static Image *
image_from_loader(Loader *loader)
{
    Image *image = g_new0(Image, 1);

    image->cut = g_steal_pointer(&loader->cut);
    image->n_members = loader->ram->n;
    image->ram_fds = g_memdup2(loader->ram->fds, loader->ram->n * sizeof *loader->ram->fds);
    for (uint32_t i = 0; i < loader->ram->n; i++)
        loader->ram->fds[i] = -1;
    return image;
}

static gboolean
load_file(Loader *loader, int fd, const char *path, GError **error)
{
    Receiver *receiver = receiver_new(&load_ops, loader);

    if (lseek(fd, 0, SEEK_SET) < 0 && errno != ESPIPE)
        g_debug("%s: lseek: %s", path, g_strerror(errno));
    gboolean whole = feed_file(fd, receiver, error);
    receiver_free(receiver);
    if (whole && loader->epoch == 0) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED,
                    "truncated: there is no whole epoch in it: use an intact copy");
        whole = FALSE;
    }
    if (!whole)
        g_prefix_error(error, "checkpoint file %s: ", path);
    return whole;
}

static void
loader_clear(Loader *loader)
{
    drop_ram(loader);
    drop_cut(loader);
}

Image *
image_load_file(int fd, const char *path, GError **error)
{
    Loader loader = {0};
    Image *image = load_file(&loader, fd, path, error) ? image_from_loader(&loader) : NULL;

    loader_clear(&loader);
    return image;
}
