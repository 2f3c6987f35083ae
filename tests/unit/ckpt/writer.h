/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes valid checkpoint streams into memory, for tests of whatever reads them. */
#ifndef DISTRICT_TESTS_UNIT_CKPT_WRITER_H
#define DISTRICT_TESTS_UNIT_CKPT_WRITER_H

#include "ckpt/encode.h"
#include "stream.pb-c.h"

#define WRITER_MEMBERS_MAX 4

typedef struct Writer {
    const char *district;
    uint64_t incarnation;
    uint32_t n_members;
    uint32_t first_member; /* which of the names the first one has */
    uint64_t ram_pages;    /* of each member */
    uint32_t n_disks[WRITER_MEMBERS_MAX];
    uint64_t disk_bytes[WRITER_MEMBERS_MAX][DISKS_MAX + 1];
    uint64_t disk_data; /* said of each disk in a full EPOCH_BEGIN */
    uint32_t version;   /* said in HELLO */

    GByteArray *out;
    GArray *starts; /* offset (size_t) of each record in out */
    uint64_t sequence;
    uint64_t epoch;
    EpochTally tally;
    bool tallying;
    Encoder *encoder;
    PageHashes *hashes[WRITER_MEMBERS_MAX]; /* NULL: as in a file */
    EncodeMemory memory;
    EncodeStats stats; /* of the pages written so far */
} Writer;

void writer_init(Writer *writer, uint32_t n_members, uint64_t ram_pages);
void writer_clear(Writer *writer);
/* From here on as a stream does: unchanged pages are left out, others sent as deltas and duplicates. */
void writer_remember(Writer *writer);
/* One more disk for member; before its first epoch. */
void writer_add_disk(Writer *writer, uint32_t member, uint64_t bytes);
/* The image of a disk in PAGES records. */
uint32_t writer_disk_image(const Writer *writer, uint32_t member, uint32_t disk);
/* Forget what has been written, go on in sequence. */
void writer_drain(Writer *writer);

/* Any record, with the next sequence number. */
void writer_record(Writer *writer, RecordType type, uint64_t epoch, const void *payload,
                   uint32_t length, uint32_t pages);
void writer_message(Writer *writer, RecordType type, uint64_t epoch,
                    const ProtobufCMessage *message);

void writer_hello(Writer *writer);
/* base 0: a full epoch. */
void writer_begin(Writer *writer, uint64_t epoch, uint64_t base);
/* One page whose every byte is fill; 0 is a zero page. */
void writer_page(Writer *writer, uint32_t image, uint64_t page, uint8_t fill);
void writer_pages(Writer *writer, uint32_t image, const PageRef *pages, uint32_t count);
void writer_state(Writer *writer);
void writer_end(Writer *writer);

/* A whole epoch in which every page of [first, first + count) of every image that reaches so far is
 * fill. */
void writer_epoch(Writer *writer, uint64_t epoch, uint64_t base, uint64_t first, uint64_t count,
                  uint8_t fill);

#endif
