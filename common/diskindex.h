/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two files of a disk's overlay, shared between an engine, which writes them, and district-ckpt,
 * which reads them at any time. Both are nameless files in the store's directory: the page cache
 * keeps what is hot in memory, and the rest spills to the file system by itself.
 *
 *   data    blocks of 4096 bytes, each at an offset that the engine chose. A block is written whole
 *           and never changed while it is needed: a block that the guest writes again gets another
 *           place.
 *   index   a log of entries of 16 bytes, one for each block written, in the order in which writes
 *           ended. Of several entries for one block the last one holds. What the client has
 *           released is punched out of the front; the numbers of entries go on.
 *
 * Entry n of the index is at byte n * 16. Integers are native (little-endian).
 */
#ifndef DISTRICT_COMMON_DISKINDEX_H
#define DISTRICT_COMMON_DISKINDEX_H

#include <stdint.h>

/* In place of an offset: the block reads as zeros and has no data. */
#define DISK_INDEX_ZERO UINT64_MAX

typedef struct DiskIndexEntry {
    uint64_t block;  /* of the disk, in units of PAGE_BYTES */
    uint64_t offset; /* in the data file, bytes, a multiple of PAGE_BYTES; or DISK_INDEX_ZERO */
} DiskIndexEntry;

#endif
