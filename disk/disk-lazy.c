/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk whose overlay came without its data (common/lazydisk.h).
 *
 * Theory of operation. A read of places that are not there waits until the client has put them there.
 * So does a write that has a block only in part: it reads it first. What has a block whole does not
 * care. All places that the overlay had in the beginning are pinned until all is there: whoever fills
 * them in does not know which of them are still in use, and none may be given to another block.
 *
 * A client that goes leaves reads waiting for the next one.
 */
#include "disk/lazy.h"

#include <glib-unix.h>

struct DiskLazy {
    Disk *disk;
    LazyDisk *shared;
    OverlayPin *pin;
    guint source;
    bool hurry;     /* all of it is waited for */
    GQueue waiting; /* of LazyRead */
};

typedef struct LazyRead {
    uint64_t first, count; /* places */
    DiskLazyReady ready;
    void *opaque;
} LazyRead;

void
disk_lazy_free(DiskLazy *lazy)
{
    if (lazy == NULL)
        return;
    g_assert(g_queue_is_empty(&lazy->waiting));
    g_source_remove(lazy->source);
    overlay_unpin(lazy->disk->io->overlay, lazy->pin);
    lazydisk_free(lazy->shared);
    g_free(lazy);
}

static void
lazy_look(DiskLazy *lazy)
{
    guint n = g_queue_get_length(&lazy->waiting);

    while (n-- > 0) {
        LazyRead *read = g_queue_pop_head(&lazy->waiting);

        if (lazydisk_has(lazy->shared, read->first, read->count)) {
            read->ready(read->opaque);
            g_free(read);
        } else {
            g_queue_push_tail(&lazy->waiting, read);
        }
    }
}

/* Nothing will be put there any more. */
static bool
lazy_is_over(const DiskLazy *lazy)
{
    return lazydisk_done(lazy->shared) ||
           (lazy->hurry && lazydisk_has(lazy->shared, 0, lazydisk_places(lazy->shared)));
}

static gboolean
on_woken(int fd, GIOCondition condition, void *opaque)
{
    DiskLazy *lazy = opaque;
    Disk *disk = lazy->disk;

    lazydisk_woken(lazy->shared, true);
    lazy_look(lazy);
    if (!lazy_is_over(lazy) || !g_queue_is_empty(&lazy->waiting))
        return G_SOURCE_CONTINUE;
    disk_lazy_free(g_steal_pointer(&disk->lazy));
    overlay_io_tidy(disk->io);
    return G_SOURCE_CONTINUE; /* the source has been removed */
}

gboolean
disk_lazy_begin(Disk *disk, const int fds[LAZYDISK_FDS], GError **error)
{
    DiskLazy *lazy = g_new0(DiskLazy, 1);

    lazy->disk = disk;
    lazy->shared = lazydisk_open(fds, error);
    if (lazy->shared == NULL) {
        g_prefix_error(error, "disk %s: ", disk->name);
        g_free(lazy);
        return FALSE;
    }
    g_queue_init(&lazy->waiting);
    lazy->pin = overlay_pin(disk->io->overlay);
    lazy->source = g_unix_fd_add(lazydisk_fds(lazy->shared)[2], G_IO_IN, on_woken, lazy);
    disk->lazy = lazy;
    return TRUE;
}

bool
disk_lazy_wait(DiskLazy *lazy, uint64_t first, uint64_t count, DiskLazyReady ready, void *opaque)
{
    LazyRead *read;

    if (lazydisk_want(lazy->shared, first, count))
        return false;
    read = g_new(LazyRead, 1);
    *read = (LazyRead){first, count, ready, opaque};
    g_queue_push_tail(&lazy->waiting, read);
    return true;
}

void
disk_lazy_hurry(Disk *disk)
{
    DiskLazy *lazy = disk->lazy;

    if (lazy == NULL || lazy->hurry)
        return;
    lazy->hurry = true;
    if (lazydisk_want(lazy->shared, 0, lazydisk_places(lazy->shared)))
        on_woken(lazydisk_fds(lazy->shared)[2], G_IO_IN, lazy);
}

bool
disk_is_lazy(const Disk *disk)
{
    return disk->lazy != NULL;
}

const int *
disk_lazy_fds(const Disk *disk)
{
    return lazydisk_fds(disk->lazy->shared);
}
