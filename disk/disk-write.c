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
#include "disk/internal.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#define RETRY_MS 500
/* Most blocks of one piece of zeroing or discarding. */
#define PIECE_BLOCKS 16384

typedef enum WriteState {
    WRITE_BLOCKED,
    WRITE_READING,
    WRITE_WRITING,
    WRITE_ENDING,
} WriteState;

typedef struct DiskWrite {
    GList link, starved_link;
    Disk *disk;
    WriteKind kind;
    WriteState state;
    uint64_t offset, len;
    const uint8_t *buf;
    DiskDone done;
    void *opaque;

    uint64_t first, last;            /* blocks */
    bool head_partial, tail_partial; /* first, last; tail only if it is not the first */
    unsigned blockers;               /* earlier requests that this one waits for */
    /* First and last block whole, where buf does not have them so. */
    uint8_t *head, *tail;
    /* Of WRITE_DATA for all blocks, else for first and last if they are partial: where they go. */
    uint64_t *places;
    uint64_t n_places;
    uint64_t at; /* next block to end */
    unsigned pending;
    int error;
    bool starving; /* has met a full file system */
} DiskWrite;

static void write_step(DiskWrite *write);

/* ---- Which blocks ---- */

/* Bytes of a block that the disk has. */
static uint64_t
block_bytes(const Disk *disk, uint64_t block)
{
    return MIN(PAGE_BYTES, disk_bytes(disk) - block * PAGE_BYTES);
}

static bool
write_has_whole(const DiskWrite *write, uint64_t block)
{
    uint64_t start = block * PAGE_BYTES;

    return write->offset <= start &&
           start + block_bytes(write->disk, block) <= write->offset + write->len;
}

static bool
write_touches(const DiskWrite *write, uint64_t block)
{
    return write->first <= block && block <= write->last;
}

static bool
writes_conflict(const DiskWrite *a, const DiskWrite *b)
{
    return (a->head_partial && write_touches(b, a->first)) ||
           (a->tail_partial && write_touches(b, a->last)) ||
           (b->head_partial && write_touches(a, b->first)) ||
           (b->tail_partial && write_touches(a, b->last));
}

/* ---- Where the data of each block is, and where it goes ---- */

/* The data of a block, whole. Not for the middle of what has no data. */
static uint8_t *
write_data(const DiskWrite *write, uint64_t block)
{
    if (block == write->first && write->head != NULL)
        return write->head;
    if (block == write->last && write->tail != NULL)
        return write->tail;
    return (uint8_t *)write->buf + (block * PAGE_BYTES - write->offset);
}

/* The entry for a block in places; NULL: it has no data, it becomes zero. */
static uint64_t *
write_place(const DiskWrite *write, uint64_t block)
{
    if (write->kind == WRITE_DATA)
        return &write->places[block - write->first];
    if (block == write->first && write->head != NULL)
        return &write->places[0];
    if (block == write->last && write->tail != NULL)
        return &write->places[write->n_places - 1];
    return NULL;
}

static bool
block_is_zero(const uint8_t *data)
{
    return data[0] == 0 && memcmp(data, data + 1, PAGE_BYTES - 1) == 0;
}

/* Give back places that no block is at. */
static void
write_drop_places(DiskWrite *write)
{
    for (uint64_t i = 0; i < write->n_places; i++) {
        if (write->places[i] < PLACES_MAX)
            places_give(overlay_places(write->disk->io->overlay), write->places[i]);
        write->places[i] = PLACE_NONE;
    }
}

/* Find a place for each block that needs one. false: there are not enough. */
static bool
write_take_places(DiskWrite *write)
{
    Places *places = overlay_places(write->disk->io->overlay);
    uint64_t need = 0, place = 0, got = 0;

    for (uint64_t i = 0; i < write->n_places; i++)
        need += write->places[i] == PLACE_NONE;
    for (uint64_t i = 0; i < write->n_places; i++) {
        if (write->places[i] != PLACE_NONE)
            continue;
        if (got == 0)
            place = places_take(places, need, &got);
        if (place == PLACE_NONE) {
            write_drop_places(write);
            return false;
        }
        write->places[i] = place++;
        got--;
        need--;
    }
    return true;
}

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

/* Entries for the blocks from write->at to end (without it). Returns how many. */
static size_t
write_entries(const DiskWrite *write, uint64_t end, DiskIndexEntry *entries)
{
    size_t n = 0;

    for (uint64_t block = write->at; block < end; block++) {
        const uint64_t *place = write_place(write, block);

        if (place == NULL) {
            uint64_t now = overlay_find(write->disk->io->overlay, block);

            /* The home's blocks may stay as they are where the content is of no interest. */
            if (now == PLACE_ZERO || (write->kind == WRITE_DISCARD && now == PLACE_NONE))
                continue;
        }
        entries[n++] = (DiskIndexEntry){
            .block = block,
            .offset = place == NULL || *place == PLACE_ZERO ? DISK_INDEX_ZERO : *place * PAGE_BYTES,
        };
    }
    return n;
}

/* The entries are in the index: change the map likewise. */
static void
write_set_map(DiskWrite *write, const DiskIndexEntry *entries, size_t n)
{
    OverlayIo *io = write->disk->io;

    for (size_t i = 0; i < n; i++) {
        uint64_t *place = write_place(write, entries[i].block);

        overlay_set(io->overlay, entries[i].block, place == NULL ? PLACE_ZERO : *place);
        if (place != NULL)
            *place = PLACE_ZERO; /* it is the map's now */
    }
    if (places_spare(overlay_places(io->overlay)))
        overlay_io_tidy(io);
}

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

/* Whether a block has a place in the data file. */
static bool
write_is_placed(const DiskWrite *write, uint64_t block)
{
    const uint64_t *place = write_place(write, block);

    return place != NULL && *place < PLACES_MAX;
}

/* Blocks from this one on that go to places in a row; 0: this one has no place. */
static uint64_t
write_run_length(const DiskWrite *write, uint64_t block)
{
    uint64_t n = 0;

    while (block + n <= write->last && write_is_placed(write, block + n) &&
           *write_place(write, block + n) == *write_place(write, block) + n)
        n++;
    return n;
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

/* The data is complete: see which blocks need no place. */
static void
write_begin(DiskWrite *write)
{
    write->state = WRITE_WRITING;
    for (uint64_t block = write->first; write->n_places > 0 && block <= write->last; block++) {
        uint64_t *place = write_place(write, block);

        if (place != NULL)
            *place = block_is_zero(write_data(write, block)) ? PLACE_ZERO : PLACE_NONE;
        else if (block < write->last)
            block = write->last - 1; /* nothing between head and tail has data */
    }
    write_submit(write);
}

/* ---- READING ---- */

/* Put the request's data over what the disk has of a block. */
static void
write_merge(const DiskWrite *write, uint64_t block, uint8_t *whole)
{
    uint64_t start = block * PAGE_BYTES;
    uint64_t from = MAX(start, write->offset);
    uint64_t to = MIN(start + PAGE_BYTES, write->offset + write->len);

    if (whole == NULL)
        return;
    if (write->kind == WRITE_DATA)
        memcpy(whole + (from - start), write->buf + (from - write->offset), to - from);
    else
        memset(whole + (from - start), 0, to - from);
}

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

/* A buffer for a block that the request has not whole in its own. */
static uint8_t *
write_buffer(const DiskWrite *write, uint64_t block, bool partial)
{
    bool padded = write->kind == WRITE_DATA && block_bytes(write->disk, block) < PAGE_BYTES;

    return partial || padded ? g_malloc0(PAGE_BYTES) : NULL;
}

static void
write_lay_out(DiskWrite *write)
{
    write->first = write->at = write->offset / PAGE_BYTES;
    write->last = (write->offset + write->len - 1) / PAGE_BYTES;
    write->head_partial = !write_has_whole(write, write->first);
    write->head = write_buffer(write, write->first, write->head_partial);
    if (write->first != write->last) {
        write->tail_partial = !write_has_whole(write, write->last);
        write->tail = write_buffer(write, write->last, write->tail_partial);
    }
    if (write->kind == WRITE_DATA)
        write->n_places = write->last - write->first + 1;
    else
        write->n_places = (write->head != NULL) + (write->tail != NULL);
    write->places = g_new(uint64_t, write->n_places);
    for (uint64_t i = 0; i < write->n_places; i++)
        write->places[i] = PLACE_NONE;
}

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
