/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that change a disk with an overlay.
 *
 * Theory of operation: a request goes through these states:
 *
 *   BLOCKED   an earlier request that has not ended touches one of the same blocks, and one of the
 *             two has that block only in part. In the order in which they came, so none waits for
 *             ever, and none in a circle.
 *   READING   what the disk has of the blocks that the request has only in part, at most its first
 *             and its last, is read into a buffer, and the request's data put over it.
 *   WRITING   each block that is not all zeros is written to a fresh place.
 *   ENDING    entries go to the index, then the map is changed, and the request has ended.
 *
 * Requests that have their blocks whole do not wait for each other: each has its own places, and
 * the one that ends last wins. Where the file system is full in WRITING or ENDING, or places have
 * run out, the request stays in that state and is tried again after a while.
 *
 * A long request to zero or discard ends in pieces, so that the main loop is not held up: a cut may
 * have some of them. Such a request can be begun anew without harm, and until it ends the guest can
 * count neither on the old nor on the new.
 */
#include "disk/write.h"

#include <errno.h>

#define RETRY_MS 500
/* Most blocks of one piece of zeroing or discarding. */
#define PIECE_BLOCKS 16384

static void write_step(DiskWrite *write);

/* ---- The end ---- */

static void
write_unblock(Disk *disk, const DiskWrite *ended, GList *later)
{
    for (; later != NULL && disk->n_blocked > 0; later = later->next) {
        DiskWrite *write = later->data;

        if (write->state != WRITE_BLOCKED || !writes_conflict(ended, write))
            continue;
        if (--write->blockers == 0) {
            disk->n_blocked--;
            write_step(write);
        }
    }
}

static void
write_end(DiskWrite *write)
{
    Disk *disk = write->disk;
    DiskDone done = write->done;
    void *opaque = write->opaque;
    int error = write->error;
    GList *later = write->link.next;

    if (error != 0)
        write_drop_places(write);
    if (write->starving)
        disk->n_starving--;
    g_queue_unlink(&disk->writes, &write->link);
    write_unblock(disk, write, later);
    disk->busy--;
    g_free(write->head);
    g_free(write->tail);
    g_free(write->places);
    g_free(write);
    done(opaque, error);
}

/* ---- No room ---- */

static void
write_step_soon(void *opaque)
{
    write_step(opaque);
}

static gboolean
on_retry(gpointer opaque)
{
    Disk *disk = opaque;
    GList *link;

    disk->retry_source = 0;
    while ((link = g_queue_pop_head_link(&disk->starved)) != NULL)
        disk_soon(disk, write_step_soon, link->data);
    return G_SOURCE_REMOVE;
}

static bool
error_is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

/* Try again after a while. error: ENOBUFS: there are no places left. */
static void
write_starve(DiskWrite *write, int error)
{
    Disk *disk = write->disk;

    if (!write->starving)
        disk->n_starving++;
    write->starving = true;
    g_free(disk->waiting);
    if (error == ENOBUFS)
        disk->waiting =
            g_strdup_printf("disk %s: its overlay is as large as it may become, and the "
                            "guest's writes wait: see why no checkpoint gets done",
                            disk->name);
    else
        disk->waiting = g_strdup_printf("disk %s: no room for its overlay in %s (%s), and the "
                                        "guest's writes wait: make room there, and they go on",
                                        disk->name, disk->overlay_dir, g_strerror(error));
    g_queue_push_tail_link(&disk->starved, &write->starved_link);
    if (disk->retry_source == 0)
        disk->retry_source = g_timeout_add(RETRY_MS, on_retry, disk);
    overlay_io_make_room(disk->io);
}

const char *
disk_waiting(const Disk *disk)
{
    return disk->n_starving > 0 ? disk->waiting : NULL;
}

/* ---- ENDING ---- */

static void
write_commit(DiskWrite *write)
{
    uint64_t end = write->last + 1;
    g_autofree DiskIndexEntry *entries = NULL;
    size_t n;
    int error;

    if (write->kind != WRITE_DATA)
        end = MIN(end, write->at + PIECE_BLOCKS);
    entries = g_new(DiskIndexEntry, end - write->at);
    n = write_entries(write, end, entries);
    error = overlay_io_append(write->disk->io, entries, n);
    if (error_is_full(error)) {
        write_starve(write, error);
        return;
    }
    if (error == 0) {
        write_set_map(write, entries, n);
        write->at = end;
        if (end <= write->last) {
            disk_soon(write->disk, write_step_soon, write);
            return;
        }
    }
    write->error = error;
    write_end(write);
}

/* ---- WRITING ---- */

static void
write_written(DiskWrite *write)
{
    int error = write->error;

    if (error == 0) {
        write->state = WRITE_ENDING;
        write_step(write);
    } else if (error_is_full(error)) {
        write->error = 0;
        write_starve(write, error);
    } else {
        write_end(write);
    }
}

static void
on_written(void *opaque, int error)
{
    DiskWrite *write = opaque;

    /* An error that is for good counts more than one that is not. */
    if (error != 0 && (write->error == 0 || error_is_full(write->error)))
        write->error = error;
    if (--write->pending == 0)
        write_written(write);
}

/* Write n blocks, which go to places in a row. */
static void
write_run(DiskWrite *write, uint64_t block, uint64_t n)
{
    OverlayIo *io = write->disk->io;
    uint64_t place = *write_place(write, block);
    struct iovec iov[3]; /* head, middle, tail */
    unsigned n_iov = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint8_t *data = write_data(write, block + i);

        if (n_iov > 0 && data == (uint8_t *)iov[n_iov - 1].iov_base + iov[n_iov - 1].iov_len) {
            iov[n_iov - 1].iov_len += PAGE_BYTES;
            continue;
        }
        g_assert(n_iov < G_N_ELEMENTS(iov));
        iov[n_iov++] = (struct iovec){data, PAGE_BYTES};
    }
    write->pending++;
    uring_writev(io->uring, io->data_fd, iov, n_iov, place * PAGE_BYTES, on_written, write);
}

static void
write_submit(DiskWrite *write)
{
    if (!write_take_places(write)) {
        write_starve(write, ENOBUFS);
        return;
    }
    write->pending = 1;
    if (write->kind == WRITE_DATA) {
        for (uint64_t block = write->first; block <= write->last;) {
            uint64_t n = write_run_length(write, block);

            if (n > 0)
                write_run(write, block, n);
            block += MAX(n, 1);
        }
    } else {
        if (write_is_placed(write, write->first))
            write_run(write, write->first, 1);
        if (write->first != write->last && write_is_placed(write, write->last))
            write_run(write, write->last, 1);
    }
    if (--write->pending == 0) {
        write->state = WRITE_ENDING;
        disk_soon(write->disk, write_step_soon, write);
    }
}

/* The data is complete. */
static void
write_begin(DiskWrite *write)
{
    write->state = WRITE_WRITING;
    write_find_zeros(write);
    write_submit(write);
}

/* ---- READING ---- */

static void
write_complete_data(DiskWrite *write)
{
    write_merge(write, write->first, write->head);
    write_merge(write, write->last, write->tail);
    write_begin(write);
}

static void
on_old(void *opaque, int error)
{
    DiskWrite *write = opaque;

    if (error != 0)
        write->error = error;
    if (--write->pending > 0)
        return;
    if (write->error != 0)
        write_end(write);
    else
        write_complete_data(write);
}

static void
write_read_old(DiskWrite *write, uint64_t block, uint8_t *whole)
{
    write->pending++;
    disk_read(write->disk, block * PAGE_BYTES, whole, block_bytes(write->disk, block), on_old,
              write);
}

static void
write_read(DiskWrite *write)
{
    write->state = WRITE_READING;
    if (write->head_partial)
        write_read_old(write, write->first, write->head);
    if (write->tail_partial)
        write_read_old(write, write->last, write->tail);
    if (write->pending == 0)
        write_complete_data(write);
}

static void
write_step(DiskWrite *write)
{
    switch (write->state) {
    case WRITE_BLOCKED:
        write_read(write);
        break;
    case WRITE_READING:
        g_assert_not_reached();
    case WRITE_WRITING:
        write_submit(write);
        break;
    case WRITE_ENDING:
        write_commit(write);
        break;
    }
}

/* ---- The beginning ---- */

void
disk_write_start(Disk *disk, WriteKind kind, uint64_t offset, const void *buf, uint64_t len,
                 DiskDone done, void *opaque)
{
    DiskWrite *write = g_new0(DiskWrite, 1);

    write->link.data = write->starved_link.data = write;
    write->disk = disk;
    write->kind = kind;
    write->offset = offset;
    write->len = len;
    write->buf = buf;
    write->done = done;
    write->opaque = opaque;
    write_lay_out(write);
    for (const GList *earlier = disk->writes.head; earlier != NULL; earlier = earlier->next)
        write->blockers += writes_conflict(earlier->data, write);
    g_queue_push_tail_link(&disk->writes, &write->link);
    disk->busy++;
    if (write->blockers > 0)
        disk->n_blocked++;
    else
        write_step(write);
}
