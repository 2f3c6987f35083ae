/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Overlays that were not made here: from a client, as two files of which nothing is trusted, or from
 * the life of this program before its execve(2), as the same files and a memfd with the bookkeeping
 * (overlay-state.c).
 */
#include "disk/overlay-io.h"

#include "common/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HANDOVER_FORMAT "overlay-1 data=%d index=%d state=%d"
#define RESTORE_BATCH 4096

/* Size of a file that is to be part of the overlay. */
static gboolean
overlay_file_size(const OverlayIo *io, int fd, const char *what, uint64_t *size, GError **error)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &st) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "disk %s: %s file of its overlay: %s", io->name, what, g_strerror(errno));
        return FALSE;
    }
    if (!S_ISREG(st.st_mode) || (flags & O_ACCMODE) != O_RDWR || (flags & (O_APPEND | O_PATH))) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "disk %s: what came as %s file of its overlay is not a regular file, open for "
                    "reading and writing",
                    io->name, what);
        return FALSE;
    }
    *size = (uint64_t)st.st_size;
    return TRUE;
}

static gboolean
index_read(const OverlayIo *io, int fd, uint64_t entry, DiskIndexEntry *entries, size_t n,
           GError **error)
{
    size_t len = n * sizeof *entries;

    for (size_t done = 0; done < len;) {
        ssize_t got =
            pread(fd, (char *)entries + done, len - done, (off_t)(entry * sizeof *entries + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            int code = got < 0 ? errno : EIO;

            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                        "disk %s: reading the index of its overlay: %s", io->name,
                        g_strerror(code));
            return FALSE;
        }
        done += (size_t)got;
    }
    return TRUE;
}

/* Read the index into overlay. */
static gboolean
index_take(const OverlayIo *io, Overlay *overlay, int index_fd, uint64_t entries,
           uint64_t data_places, GError **error)
{
    g_autofree DiskIndexEntry *batch = g_new0(DiskIndexEntry, RESTORE_BATCH);

    for (uint64_t first = 0; first < entries; first += RESTORE_BATCH) {
        size_t n = (size_t)MIN(entries - first, RESTORE_BATCH);

        if (!index_read(io, index_fd, first, batch, n, error))
            return FALSE;
        for (size_t i = 0; i < n; i++) {
            if (overlay_restore_entry(overlay, batch[i].block, batch[i].offset, data_places, error))
                continue;
            g_prefix_error(error,
                           "disk %s: entry %" PRIu64 " of the index of its overlay: ", io->name,
                           first + i);
            return FALSE;
        }
    }
    if (!overlay_restore_end(overlay, entries, error)) {
        g_prefix_error(error, "disk %s: the index of its overlay: ", io->name);
        return FALSE;
    }
    return TRUE;
}

/* The files and bookkeeping are those of io from now on. */
static void
overlay_io_replace(OverlayIo *io, int data_fd, int index_fd, Overlay *overlay)
{
    close(io->data_fd);
    close(io->index_fd);
    overlay_free(io->overlay);
    io->data_fd = data_fd;
    io->index_fd = index_fd;
    io->overlay = overlay;
}

gboolean
overlay_io_restore(OverlayIo *io, int data_fd, int index_fd, uint64_t entries, GError **error)
{
    g_autoptr(Overlay) overlay = overlay_new(overlay_blocks(io->overlay));
    uint64_t data_bytes, index_bytes;

    if (!overlay_file_size(io, data_fd, "data", &data_bytes, error) ||
        !overlay_file_size(io, index_fd, "index", &index_bytes, error))
        return FALSE;
    if (entries > index_bytes / sizeof(DiskIndexEntry)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "disk %s: the index of its overlay has %" PRIu64 " bytes, too few for %" PRIu64
                    " entries",
                    io->name, index_bytes, entries);
        return FALSE;
    }
    if (!index_take(io, overlay, index_fd, entries, data_bytes / PAGE_BYTES, error))
        return FALSE;
    overlay_io_replace(io, data_fd, index_fd, g_steal_pointer(&overlay));
    return TRUE;
}

static gboolean
keep_across_exec(const OverlayIo *io, int fd, bool keep, GError **error)
{
    if (fcntl(fd, F_SETFD, keep ? 0 : FD_CLOEXEC) == 0)
        return TRUE;
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                "disk %s: descriptor %d of its overlay: %s", io->name, fd, g_strerror(errno));
    return FALSE;
}

static int
state_memfd(OverlayIo *io, GError **error)
{
    size_t size = overlay_save_size(io->overlay);
    int fd = memfd_create_sealed("disk-overlay", size, error);
    void *map;

    if (fd < 0)
        return -1;
    map = memfd_map(fd, size, TRUE, error);
    if (map == NULL) {
        close(fd);
        return -1;
    }
    overlay_save(io->overlay, map);
    munmap(map, size);
    return fd;
}

char *
overlay_io_hand_on(OverlayIo *io, GError **error)
{
    int fd;

    /* What is punched by this life must not be written by the next one yet. */
    overlay_io_quiet(io);
    while (overlay_sweep(io->overlay))
        continue;
    fd = state_memfd(io, error);
    if (fd < 0) {
        g_prefix_error(error, "disk %s: saving the state of its overlay: ", io->name);
        return NULL;
    }
    if (io->state_fd >= 0)
        close(io->state_fd);
    io->state_fd = fd;
    if (!keep_across_exec(io, io->data_fd, true, error) ||
        !keep_across_exec(io, io->index_fd, true, error) || !keep_across_exec(io, fd, true, error))
        return NULL;
    return g_strdup_printf(HANDOVER_FORMAT, io->data_fd, io->index_fd, fd);
}

static Overlay *
state_load(const OverlayIo *io, int fd, uint64_t data_places, GError **error)
{
    uint64_t size;
    void *map;
    Overlay *overlay;

    if (!memfd_check(fd, 0, "the state of the overlay", error))
        return NULL;
    size = memfd_size(fd);
    map = memfd_map(fd, size, FALSE, error);
    if (map == NULL)
        return NULL;
    overlay = overlay_load(map, size, overlay_blocks(io->overlay), data_places, error);
    munmap(map, size);
    return overlay;
}

gboolean
overlay_io_inherit(OverlayIo *io, const char *text, GError **error)
{
    int data_fd, index_fd, state_fd, end = -1;
    uint64_t data_bytes, index_bytes;
    Overlay *overlay;

    if (sscanf(text, HANDOVER_FORMAT "%n", &data_fd, &index_fd, &state_fd, &end) != 3 || end < 0 ||
        text[end] != '\0') {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "disk %s: \"%s\" does not say where its overlay is", io->name, text);
        return FALSE;
    }
    if (!overlay_file_size(io, data_fd, "data", &data_bytes, error) ||
        !overlay_file_size(io, index_fd, "index", &index_bytes, error))
        return FALSE;
    overlay = state_load(io, state_fd, data_bytes / PAGE_BYTES, error);
    if (overlay == NULL) {
        g_prefix_error(error, "disk %s: ", io->name);
        return FALSE;
    }
    if (overlay_index_end(overlay) > index_bytes / sizeof(DiskIndexEntry) ||
        !keep_across_exec(io, data_fd, false, error) ||
        !keep_across_exec(io, index_fd, false, error)) {
        if (error != NULL && *error == NULL)
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                        "disk %s: the index of its overlay is cut short", io->name);
        overlay_free(overlay);
        return FALSE;
    }
    overlay_io_replace(io, data_fd, index_fd, overlay);
    close(state_fd);
    return TRUE;
}
