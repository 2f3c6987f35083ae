/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks of a request that changes a disk.
 *
 * The request's own buffer has most blocks whole. The first and the last may be there in part, or
 * be the short last block of the disk: they have buffers of their own, head and tail. What zeroes
 * or discards has no data except in these two.
 */
#include "disk/write.h"

#include <string.h>

uint64_t
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

bool
writes_conflict(const DiskWrite *a, const DiskWrite *b)
{
    return (a->head_partial && write_touches(b, a->first)) ||
           (a->tail_partial && write_touches(b, a->last)) ||
           (b->head_partial && write_touches(a, b->first)) ||
           (b->tail_partial && write_touches(a, b->last));
}

/* ---- Where the data of each block is, and where it goes ---- */

uint8_t *
write_data(const DiskWrite *write, uint64_t block)
{
    if (block == write->first && write->head != NULL)
        return write->head;
    if (block == write->last && write->tail != NULL)
        return write->tail;
    return (uint8_t *)write->buf + (block * PAGE_BYTES - write->offset);
}

uint64_t *
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

void
write_find_zeros(DiskWrite *write)
{
    for (uint64_t block = write->first; write->n_places > 0 && block <= write->last; block++) {
        uint64_t *place = write_place(write, block);

        if (place != NULL)
            *place = block_is_zero(write_data(write, block)) ? PLACE_ZERO : PLACE_NONE;
        else if (block < write->last)
            block = write->last - 1; /* nothing between head and tail has data */
    }
}

void
write_drop_places(DiskWrite *write)
{
    for (uint64_t i = 0; i < write->n_places; i++) {
        if (write->places[i] >= PLACES_MAX)
            continue;
        places_give(overlay_places(write->disk->io->overlay), write->places[i]);
        write->places[i] = PLACE_NONE;
    }
}

bool
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

bool
write_is_placed(const DiskWrite *write, uint64_t block)
{
    const uint64_t *place = write_place(write, block);

    return place != NULL && *place < PLACES_MAX;
}

uint64_t
write_run_length(const DiskWrite *write, uint64_t block)
{
    uint64_t n = 0;

    while (block + n <= write->last && write_is_placed(write, block + n) &&
           *write_place(write, block + n) == *write_place(write, block) + n)
        n++;
    return n;
}

void
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

/* ---- Entries ---- */

size_t
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

void
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

/* ---- The beginning ---- */

/* A buffer for a block that the request has not whole in its own. */
static uint8_t *
write_buffer(const DiskWrite *write, uint64_t block, bool partial)
{
    bool padded = write->kind == WRITE_DATA && block_bytes(write->disk, block) < PAGE_BYTES;

    return partial || padded ? g_malloc0(PAGE_BYTES) : NULL;
}

void
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
