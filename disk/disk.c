/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk: its home, and the overlay over it.
 *
 * Theory of operation: without overlay all requests go to the home as they are. With it, a read is
 * split into runs of blocks by where they are: in the home, in the data file, or nowhere (zeros).
 * While it is under way it has a pin on the places it has looked up, so that they are not used for
 * something else meanwhile (overlay.h). Whatever changes the disk is in disk-write.c.
 *
 * A request ends from the main loop, in one step: index, map, completion. So a cut, which is made
 * between two turns of the main loop or between two completions, has all of a request or nothing.
 */
#include "disk/lazy.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

/* ---- Calls from the main loop ---- */

typedef struct SoonCall {
    GList link;
    DiskSoon func;
    void *opaque;
} SoonCall;

static gboolean
on_soon(gpointer opaque)
{
    Disk *disk = opaque;
    GSource *source = g_main_current_source();

    /* What these calls add is for the next turn. One of them may free the disk. */
    for (guint n = disk->soon.length; n > 0; n--) {
        SoonCall *call = g_queue_pop_head_link(&disk->soon)->data;

        call->func(call->opaque);
        g_free(call);
        if (g_source_is_destroyed(source))
            return G_SOURCE_REMOVE;
    }
    if (disk->soon.length > 0)
        return G_SOURCE_CONTINUE;
    disk->soon_source = 0;
    return G_SOURCE_REMOVE;
}

void
disk_soon(Disk *disk, DiskSoon func, void *opaque)
{
    SoonCall *call = g_new0(SoonCall, 1);

    call->link.data = call;
    call->func = func;
    call->opaque = opaque;
    g_queue_push_tail_link(&disk->soon, &call->link);
    if (disk->soon_source == 0)
        disk->soon_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_soon, disk, NULL);
}

/* ---- Life ---- */

Disk *
disk_new(const char *name, BlockBackend *home, const char *overlay_dir, GError **error)
{
    Disk *disk = g_new0(Disk, 1);

    disk->name = g_strdup(name);
    disk->home = home;
    disk->overlay_dir = g_strdup(overlay_dir);
    g_queue_init(&disk->soon);
    g_queue_init(&disk->writes);
    g_queue_init(&disk->starved);
    if (overlay_dir != NULL) {
        disk->io = overlay_io_new(name, overlay_dir, disk_blocks(home->bytes), error);
        if (disk->io == NULL) {
            disk_free(disk);
            return NULL;
        }
    }
    return disk;
}

void
disk_free(Disk *disk)
{
    g_assert(disk->busy == 0 && disk->soon.length == 0);
    if (disk->soon_source != 0)
        g_source_remove(disk->soon_source);
    if (disk->retry_source != 0)
        g_source_remove(disk->retry_source);
    g_clear_pointer(&disk->lazy, disk_lazy_free);
    g_clear_pointer(&disk->io, overlay_io_free);
    disk->home->ops->close(disk->home);
    g_free(disk->waiting);
    g_free(disk->overlay_dir);
    g_free(disk->name);
    g_free(disk);
}

uint64_t
disk_bytes(const Disk *disk)
{
    return disk->home->bytes;
}

bool
disk_read_only(const Disk *disk)
{
    /* A home below an overlay is only read in any case. */
    return disk->io == NULL && disk->home->read_only;
}

const char *
disk_home(const Disk *disk)
{
    return disk->home->home;
}

const char *
disk_image(const Disk *disk)
{
    return disk->home->image;
}

bool
disk_has_overlay(const Disk *disk)
{
    return disk->io != NULL;
}

/* ---- A request that has nothing to do ---- */

typedef struct DiskEnd {
    Disk *disk;
    DiskDone done;
    void *opaque;
    int error;
} DiskEnd;

static void
on_end(void *opaque)
{
    DiskEnd end = *(DiskEnd *)opaque;

    g_free(opaque);
    end.disk->busy--;
    end.done(end.opaque, end.error);
}

static void
disk_end_soon(Disk *disk, DiskDone done, void *opaque, int error)
{
    DiskEnd *end = g_new(DiskEnd, 1);

    *end = (DiskEnd){disk, done, opaque, error};
    disk->busy++;
    disk_soon(disk, on_end, end);
}

/* ---- Reading ---- */

typedef struct DiskRead {
    Disk *disk;
    OverlayPin *pin;
    unsigned pending; /* runs, and one for the call itself */
    int error;
    DiskDone done;
    void *opaque;
} DiskRead;

static void
read_end(void *opaque)
{
    DiskRead *read = opaque;
    DiskEnd end = {read->disk, read->done, read->opaque, read->error};

    overlay_unpin(read->disk->io->overlay, read->pin);
    g_free(read);
    end.disk->busy--;
    end.done(end.opaque, end.error);
}

static void
on_run(void *opaque, int error)
{
    DiskRead *read = opaque;

    if (error != 0)
        read->error = error;
    if (--read->pending == 0)
        read_end(read);
}

/* What is in places in a row. */
typedef struct PlaceRead {
    DiskRead *read;
    uint64_t at; /* of the data file */
    struct iovec iov;
} PlaceRead;

static void
read_places(const PlaceRead *p)
{
    const OverlayIo *io = p->read->disk->io;

    uring_readv(io->uring, io->data_fd, &p->iov, 1, p->at, on_run, p->read);
}

static void
on_places_ready(void *opaque)
{
    g_autofree PlaceRead *p = opaque;

    read_places(p);
}

/* Once their data is there. */
static void
read_places_when_there(PlaceRead *p)
{
    DiskLazy *lazy = p->read->disk->lazy;
    uint64_t first = p->at / PAGE_BYTES, last = (p->at + p->iov.iov_len - 1) / PAGE_BYTES;
    PlaceRead *later;

    if (lazy == NULL) {
        read_places(p);
        return;
    }
    later = g_memdup2(p, sizeof *p);
    if (disk_lazy_wait(lazy, first, last - first + 1, on_places_ready, later))
        return;
    g_free(later);
    read_places(p);
}

/* Read what is in one run: in blocks that lie one after the other where they are. place: of the
 * block with offset. */
static void
read_run(DiskRead *read, uint64_t place, uint64_t offset, char *buf, size_t len)
{
    Disk *disk = read->disk;
    PlaceRead p = {read, 0, {buf, len}};

    if (place == PLACE_ZERO) {
        memset(buf, 0, len);
        return;
    }
    read->pending++;
    if (place == PLACE_NONE) {
        disk->home->ops->read(disk->home, offset, buf, len, on_run, read);
        return;
    }
    p.at = place * PAGE_BYTES + offset % PAGE_BYTES;
    read_places_when_there(&p);
}

/* Where the block after one at place would have to be to be in the same run. */
static uint64_t
place_next(uint64_t place)
{
    return place >= PLACE_ZERO ? place : place + 1;
}

static void
read_runs(DiskRead *read, uint64_t offset, char *buf, size_t len)
{
    const Overlay *overlay = read->disk->io->overlay;
    uint64_t at = offset, end = offset + len, start = at;
    uint64_t first = PLACE_NONE, last = PLACE_NONE;

    while (at < end) {
        uint64_t place = overlay_find(overlay, at / PAGE_BYTES);

        if (at == offset)
            first = place;
        else if (place != place_next(last)) {
            read_run(read, first, start, buf + (start - offset), at - start);
            start = at;
            first = place;
        }
        last = place;
        at = MIN((at / PAGE_BYTES + 1) * PAGE_BYTES, end);
    }
    read_run(read, first, start, buf + (start - offset), end - start);
}

void
disk_read(Disk *disk, uint64_t offset, void *buf, size_t len, DiskDone done, void *opaque)
{
    DiskRead *read;

    disk->used = true;
    if (disk->io == NULL) {
        disk->home->ops->read(disk->home, offset, buf, len, done, opaque);
        return;
    }
    if (len == 0) {
        disk_end_soon(disk, done, opaque, 0);
        return;
    }
    read = g_new0(DiskRead, 1);
    read->disk = disk;
    read->pin = overlay_pin(disk->io->overlay);
    read->pending = 1;
    read->done = done;
    read->opaque = opaque;
    disk->busy++;
    read_runs(read, offset, buf, len);
    if (--read->pending == 0)
        disk_soon(disk, read_end, read);
}

/* ---- Changing ---- */

void
disk_write(Disk *disk, uint64_t offset, const void *buf, size_t len, DiskDone done, void *opaque)
{
    disk->used = true;
    if (disk->io == NULL)
        disk->home->ops->write(disk->home, offset, buf, len, done, opaque);
    else if (len == 0)
        disk_end_soon(disk, done, opaque, 0);
    else
        disk_write_start(disk, WRITE_DATA, offset, buf, len, done, opaque);
}

void
disk_flush(Disk *disk, DiskDone done, void *opaque)
{
    disk->used = true;
    if (disk->io == NULL)
        disk->home->ops->flush(disk->home, done, opaque);
    else
        disk_end_soon(disk, done, opaque, 0);
}

void
disk_zero(Disk *disk, uint64_t offset, uint64_t len, bool unmap, DiskDone done, void *opaque)
{
    disk->used = true;
    if (disk->io == NULL)
        disk->home->ops->zero(disk->home, offset, len, unmap, done, opaque);
    else if (len == 0)
        disk_end_soon(disk, done, opaque, 0);
    else
        disk_write_start(disk, WRITE_ZERO, offset, NULL, len, done, opaque);
}

void
disk_discard(Disk *disk, uint64_t offset, uint64_t len, DiskDone done, void *opaque)
{
    uint64_t end = offset + len;

    disk->used = true;
    if (disk->io == NULL) {
        disk->home->ops->discard(disk->home, offset, len, done, opaque);
        return;
    }
    /* Of blocks that are in it only in part, nothing is discarded. */
    offset = (offset + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (end < disk_bytes(disk))
        end = end / PAGE_BYTES * PAGE_BYTES;
    if (offset >= end)
        disk_end_soon(disk, done, opaque, 0);
    else
        disk_write_start(disk, WRITE_DISCARD, offset, NULL, end - offset, done, opaque);
}

/* ---- The overlay ---- */

void
disk_overlay_fds(const Disk *disk, int *data_fd, int *index_fd)
{
    *data_fd = disk->io->data_fd;
    *index_fd = disk->io->index_fd;
}

void
disk_position(const Disk *disk, uint64_t *cuts, uint64_t *entries)
{
    *cuts = overlay_cuts(disk->io->overlay);
    *entries = overlay_index_end(disk->io->overlay);
}

uint64_t
disk_cut(Disk *disk, uint64_t *index_end)
{
    return overlay_cut(disk->io->overlay, index_end);
}

void
disk_released_below(Disk *disk, uint64_t cut)
{
    overlay_released_below(disk->io->overlay, cut);
    overlay_io_tidy(disk->io);
}

void
disk_home_below(Disk *disk, uint64_t cut)
{
    overlay_home_below(disk->io->overlay, cut);
    overlay_io_tidy(disk->io);
}

gboolean
disk_resend(Disk *disk, GError **error)
{
    int code = overlay_io_resend(disk->io);

    if (code == 0)
        return TRUE;
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                "disk %s: cannot write its %" G_GUINT64_FORMAT
                " blocks to the index of its overlay in %s again: %s; make room there",
                disk->name, overlay_count(disk->io->overlay), disk->overlay_dir, g_strerror(code));
    return FALSE;
}

/* An overlay can be taken over only before anything has been read or written. */
static gboolean
check_unused(const Disk *disk, GError **error)
{
    if (disk->io != NULL && !disk->used)
        return TRUE;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "disk %s: cannot take over an overlay: %s",
                disk->name, disk->io == NULL ? "it has none" : "it is in use already");
    return FALSE;
}

gboolean
disk_restore(Disk *disk, int data_fd, int index_fd, uint64_t entries, GError **error)
{
    return check_unused(disk, error) &&
           overlay_io_restore(disk->io, data_fd, index_fd, entries, error);
}

char *
disk_hand_on(Disk *disk, GError **error)
{
    g_assert(disk->busy == 0 && disk->lazy == NULL);
    return overlay_io_hand_on(disk->io, error);
}

gboolean
disk_inherit(Disk *disk, const char *text, GError **error)
{
    return check_unused(disk, error) && overlay_io_inherit(disk->io, text, error);
}
