/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first copy of disks, and that of journals: a thread that reads what their homes hold, extent
 * by extent, while the guests run, at a bounded rate. Homes hold nothing that is not committed, and what is written to
 * them meanwhile comes as entries of the overlays too; so it does not matter when a block is read.
 * What is written to a journal meanwhile is sent as well; there the blocks that are found here are
 * read again when they are sent.
 *
 * First it counts what there is to read, then it waits to be told to begin.
 */
#ifndef DISTRICT_CKPT_DISK_SYNC_H
#define DISTRICT_CKPT_DISK_SYNC_H

#include "ckpt/format.h"
#include "ckpt/inbox.h"

typedef struct DiskSync DiskSync;

typedef struct DiskSyncHome {
    uint32_t image;   /* on the wire; of a journal: the member */
    const char *home; /* as MemberDisk.home; copied */
    uint64_t bytes;
} DiskSyncHome;

/* rate: bytes per second of blocks that are not zero; 0: no limit. Wakes the inbox. */
DiskSync *disk_sync_new(const DiskSyncHome *homes, uint32_t n, uint64_t rate, Inbox *inbox);
/* The thread ends by itself after the read it is at, which is not waited for. */
void disk_sync_free(DiskSync *sync);

/* True when all extents have been counted, or that has failed (disk_sync_over says so then). */
bool disk_sync_counted(DiskSync *sync);
/* Once counted: how many bytes they have of an image; 0 of one that is not read. */
uint64_t disk_sync_data(const DiskSync *sync, uint32_t image);
/* Read from here on, as soon as it has counted. */
void disk_sync_begin(DiskSync *sync);

/* Blocks of one image, in ascending order. */
typedef struct DiskSyncBatch {
    uint32_t image;
    uint32_t n;
    uint64_t blocks[PAGES_PER_RECORD_MAX];
    uint8_t *data; /* n * PAGE_BYTES, owned */
} DiskSyncBatch;
void disk_sync_batch_free(DiskSyncBatch *batch);

/* The next batch that has been read, or NULL. */
DiskSyncBatch *disk_sync_take(DiskSync *sync);
/* True when there is nothing more to come; *error is set if a home could not be read. */
bool disk_sync_over(DiskSync *sync, GError **error);

typedef struct DiskSyncProgress {
    uint64_t done, total; /* bytes of extents that hold data */
} DiskSyncProgress;
DiskSyncProgress disk_sync_progress(DiskSync *sync);

#endif
