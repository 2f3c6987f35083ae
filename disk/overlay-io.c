/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of an overlay.
 *
 * Theory of operation: entries are written to the index with plain writes into the page cache: 16
 * bytes a block, when the block's data is there already. All else that takes time is done in the
 * background, in small steps, one of each kind at a time: the map forgets what the home has, free
 * ranges of the data file and the released front of the index are punched out.
 */
#include "disk/overlay-io.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define ENTRY_BYTES sizeof(DiskIndexEntry)
/* Punch the index in pieces of at least so many bytes. */
#define INDEX_PUNCH_BYTES 65536
#define RESEND_BATCH 4096

G_STATIC_ASSERT(sizeof(DiskIndexEntry) == 16);

/* A nameless file in dir, on file systems without O_TMPFILE too. */
static int
nameless_file(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    g_autofree char *path = NULL;

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    path = g_build_filename(dir, "overlay-XXXXXX", NULL);
    fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        g_unlink(path);
    return fd;
}

OverlayIo *
overlay_io_new(const char *name, const char *dir, uint64_t n_blocks, GError **error)
{
    OverlayIo *io = g_new0(OverlayIo, 1);

    io->name = g_strdup(name);
    io->state_fd = -1;
    io->overlay = overlay_new(n_blocks);
    io->data_fd = nameless_file(dir);
    io->index_fd = io->data_fd < 0 ? -1 : nameless_file(dir);
    if (io->index_fd < 0) {
        int code = errno;

        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                    "disk %s: cannot make its overlay's files in %s: %s; see that the directory is "
                    "there, can be written and has room",
                    name, dir, g_strerror(code));
        overlay_io_free(io);
        return NULL;
    }
    io->uring = uring_new(error);
    if (io->uring == NULL) {
        g_prefix_error(error, "disk %s: ", name);
        overlay_io_free(io);
        return NULL;
    }
    return io;
}

void
overlay_io_free(OverlayIo *io)
{
    if (io->uring != NULL) {
        overlay_io_quiet(io);
        uring_free(io->uring);
    }
    if (io->work_source != 0)
        g_source_remove(io->work_source);
    if (io->data_fd >= 0)
        close(io->data_fd);
    if (io->index_fd >= 0)
        close(io->index_fd);
    if (io->state_fd >= 0)
        close(io->state_fd);
    overlay_free(io->overlay);
    g_free(io->name);
    g_free(io);
}

/* ---- The index ---- */

static int
index_write(const OverlayIo *io, uint64_t entry, const DiskIndexEntry *entries, size_t n)
{
    const char *data = (const char *)entries;

    for (size_t done = 0; done < n * ENTRY_BYTES;) {
        ssize_t wrote = pwrite(io->index_fd, data + done, n * ENTRY_BYTES - done,
                               (off_t)(entry * ENTRY_BYTES + done));
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? errno : EIO;
        done += (size_t)wrote;
    }
    return 0;
}

int
overlay_io_append(OverlayIo *io, const DiskIndexEntry *entries, size_t n)
{
    /* What is written of a failed attempt lies beyond the end, and is written over by the next. */
    int error = index_write(io, overlay_index_end(io->overlay), entries, n);

    if (error == 0)
        overlay_index_add(io->overlay, n);
    return error;
}

typedef struct Resend {
    OverlayIo *io;
    uint64_t at; /* entry of the index where the batch goes */
    size_t n;
    int error;
    DiskIndexEntry batch[RESEND_BATCH];
} Resend;

static void
resend_flush(Resend *resend)
{
    if (resend->error == 0)
        resend->error = index_write(resend->io, resend->at, resend->batch, resend->n);
    resend->at += resend->n;
    resend->n = 0;
}

static void
resend_block(void *opaque, uint64_t block, BlockValue value)
{
    Resend *resend = opaque;

    resend->batch[resend->n++] = (DiskIndexEntry){
        .block = block,
        .offset = value.place == PLACE_ZERO ? DISK_INDEX_ZERO : value.place * PAGE_BYTES,
    };
    if (resend->n == RESEND_BATCH)
        resend_flush(resend);
}

int
overlay_io_resend(OverlayIo *io)
{
    g_autofree Resend *resend = g_new0(Resend, 1);
    uint64_t end = overlay_index_end(io->overlay);

    resend->io = io;
    resend->at = end;
    overlay_each(io->overlay, resend_block, resend);
    resend_flush(resend);
    if (resend->error != 0) {
        /* Give back what this took. If that fails, too, it is just not given back. */
        if (ftruncate(io->index_fd, (off_t)(end * ENTRY_BYTES)) < 0)
            g_debug("disk %s: cannot shorten the index: %s", io->name, g_strerror(errno));
        return resend->error;
    }
    overlay_index_add(io->overlay, resend->at - end);
    overlay_resent(io->overlay);
    return 0;
}

/* ---- In the background ---- */

/* A file system that cannot punch keeps the space, which will be used again. */
static void
note_punch(const OverlayIo *io, int error)
{
    if (error != 0)
        g_debug("disk %s: cannot give back free space of the overlay: %s", io->name,
                g_strerror(error));
}

static void
on_punched(void *opaque, int error)
{
    OverlayIo *io = opaque;

    note_punch(io, error);
    io->punching = false;
    places_punched(overlay_places(io->overlay), io->punch_first, io->punch_count);
    overlay_io_tidy(io);
}

static void
punch_data(OverlayIo *io)
{
    if (io->punching)
        return;
    io->punching = places_punch(overlay_places(io->overlay), io->punch_all, &io->punch_first,
                                &io->punch_count);
    if (!io->punching) {
        io->punch_all = false;
        return;
    }
    uring_fallocate(io->uring, io->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    io->punch_first * PAGE_BYTES, io->punch_count * PAGE_BYTES, on_punched, io);
}

static void
on_index_punched(void *opaque, int error)
{
    OverlayIo *io = opaque;

    note_punch(io, error);
    io->index_punching = false;
    overlay_io_tidy(io);
}

static void
punch_index(OverlayIo *io)
{
    uint64_t end = overlay_index_released(io->overlay) * ENTRY_BYTES / PAGE_BYTES * PAGE_BYTES;

    if (io->index_punching || end < io->index_punched + INDEX_PUNCH_BYTES)
        return;
    io->index_punching = true;
    uring_fallocate(io->uring, io->index_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    io->index_punched, end - io->index_punched, on_index_punched, io);
    io->index_punched = end;
}

static gboolean
on_work(gpointer opaque)
{
    OverlayIo *io = opaque;

    if (overlay_sweep(io->overlay))
        return G_SOURCE_CONTINUE;
    punch_data(io);
    punch_index(io);
    io->work_source = 0;
    return G_SOURCE_REMOVE;
}

void
overlay_io_tidy(OverlayIo *io)
{
    /* Not at idle priority: under load that would never come, and the space is wanted then. */
    if (io->work_source == 0)
        io->work_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_work, io, NULL);
}

static void scour_gap(OverlayIo *io, uint64_t from);

static void
on_gap_punched(void *opaque, int error)
{
    OverlayIo *io = opaque;
    uint64_t given = places_given(overlay_places(io->overlay));

    note_punch(io, error);
    for (uint64_t i = 0; i < io->gap_count; i++)
        places_give(overlay_places(io->overlay), io->gap_first + i);
    /* That was nothing new. */
    io->scoured_given += places_given(overlay_places(io->overlay)) - given;
    scour_gap(io, io->gap_first + io->gap_count);
}

static void
scour_gap(OverlayIo *io, uint64_t from)
{
    io->scouring = !io->ending && places_take_gap(overlay_places(io->overlay), from, &io->gap_first,
                                                  &io->gap_count);
    if (io->scouring)
        uring_fallocate(io->uring, io->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        io->gap_first * PAGE_BYTES, io->gap_count * PAGE_BYTES, on_gap_punched, io);
}

void
overlay_io_make_room(OverlayIo *io)
{
    uint64_t given = places_given(overlay_places(io->overlay));

    io->punch_all = true;
    punch_data(io);
    overlay_io_tidy(io);
    /* Free places between others have room on the file system, too, and the places that a waiting
     * write has got may have none. */
    if (!io->scouring && io->scoured_given != given) {
        io->scoured_given = given;
        scour_gap(io, 0);
    }
}

void
overlay_io_quiet(OverlayIo *io)
{
    io->ending = true;
    uring_drain(io->uring);
    io->ending = false;
}
