/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request that changes a disk with an overlay: which blocks it touches, where the data of each is
 * in memory, and where it goes. What happens to it is in disk-write.c.
 */
#ifndef DISTRICT_DISK_WRITE_H
#define DISTRICT_DISK_WRITE_H

#include "disk/internal.h"

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

/* Bytes of a block that the disk has. */
uint64_t block_bytes(const Disk *disk, uint64_t block);
/* Work out the blocks from kind, offset and len, and make room for what is known of them. */
void write_lay_out(DiskWrite *write);
/* Whether one of the two has a block only in part that the other has, too. */
bool writes_conflict(const DiskWrite *a, const DiskWrite *b);
/* The first or last block has been read into its buffer: put the request's data over it. */
void write_merge(const DiskWrite *write, uint64_t block, uint8_t *whole);
/* The data is complete: find the blocks that are zeros and need no place. */
void write_find_zeros(DiskWrite *write);

/* Find a place for each block that needs one. false: there are not enough, and none is taken. */
bool write_take_places(DiskWrite *write);
/* Give back places that no block is at. */
void write_drop_places(DiskWrite *write);
/* Whether a block has a place in the data file. */
bool write_is_placed(const DiskWrite *write, uint64_t block);
/* Blocks from this one on that go to places in a row; 0: this one has no place. */
uint64_t write_run_length(const DiskWrite *write, uint64_t block);
/* The place of a block; NULL: it becomes zero without having data. */
uint64_t *write_place(const DiskWrite *write, uint64_t block);
/* The data of a block that has a place, PAGE_BYTES. */
uint8_t *write_data(const DiskWrite *write, uint64_t block);

/* Entries for the blocks from write->at to end (without it). Returns how many. */
size_t write_entries(const DiskWrite *write, uint64_t end, DiskIndexEntry *entries);
/* These entries are in the index: change the map likewise. */
void write_set_map(DiskWrite *write, const DiskIndexEntry *entries, size_t n);

#endif
