/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The checkpoint format: the same records on the wire and in checkpoint files (docs/format.md).
 *
 *   record = header (40 bytes, little-endian) + payload (length bytes)
 *     magic u32 "DSTR" | type u16 | flags u16 (0) | length u32 | reserved u32 (0) | sequence u64 |
 *     epoch u64 | checksum u64 (XXH3-64 of the header with this field 0, then the payload)
 *
 * A stream or file opens with HELLO (epoch 0); then epochs: EPOCH_BEGIN, PAGES*, STATE, EPOCH_END.
 * HEARTBEAT and, in a stream, JOURNAL may stand between any two records and do not count in the
 * epoch. The sequence starts at 0 and grows by one per record in each direction.
 *
 * Everything read here is hostile until checked: lengths before allocation, indices before use.
 */
#ifndef DISTRICT_CKPT_FORMAT_H
#define DISTRICT_CKPT_FORMAT_H

#include "common/page.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* StreamHello.version of a stream, and of a checkpoint file. */
#define STREAM_VERSION 4
#define FILE_VERSION 3
/* And of one that begins with journals: an exported one. */
#define FILE_VERSION_JOURNALS 5
/* CutState.version. */
#define CUT_STATE_VERSION 2
/* Largest packed CutState, bytes. */
#define CUT_STATE_BYTES_MAX (256u * 1024 * 1024)
/* Largest epoch number: whoever reads one can add to it and shift it. */
#define EPOCH_NUMBER_MAX (UINT64_C(1) << 62)
#define RECORD_MAGIC 0x52545344u /* "DSTR" */
#define RECORD_HEADER_BYTES 40
#define RECORD_LENGTH_MAX (64u * 1024 * 1024)
/* Most pages in one PAGES record. */
#define PAGES_PER_RECORD_MAX 256
/* Most data in one JOURNAL record, bytes. */
#define JOURNAL_DATA_MAX ((size_t)1024 * 1024)

typedef enum {
    RECORD_HELLO = 1,        /* StreamHello */
    RECORD_EPOCH_BEGIN = 2,  /* StreamEpochBegin */
    RECORD_PAGES = 3,        /* encoded batch, see encode.h */
    RECORD_STATE = 4,        /* CutState, zstd */
    RECORD_EPOCH_END = 5,    /* StreamEpochEnd */
    RECORD_HEARTBEAT = 6,    /* empty; both directions */
    RECORD_ACK = 7,          /* StreamAck; standby to primary */
    RECORD_ERROR = 8,        /* StreamError; either way, then the stream closes */
    RECORD_BYE = 9,          /* empty: a wanted end of protection */
    RECORD_JOURNAL = 10,     /* StreamJournal; in a stream between any two, in a file after HELLO */
    RECORD_JOURNAL_ACK = 11, /* StreamJournalAck; standby to primary */
} RecordType;

typedef struct RecordHeader {
    uint16_t type;
    uint32_t length;
    uint64_t sequence;
    uint64_t epoch;
    uint64_t checksum;
} RecordHeader;

typedef enum {
    FORMAT_ERROR_DAMAGED,   /* checksum, order, count or structure is wrong */
    FORMAT_ERROR_TRUNCATED, /* ends in the middle */
    FORMAT_ERROR_FOREIGN,   /* not this format, or another version of it */
    FORMAT_ERROR_LIMIT,     /* more than allowed, or than there is memory for */
} FormatError;

#define FORMAT_ERROR (format_error_quark())
GQuark format_error_quark(void);

/* Set an error of FORMAT_ERROR_DAMAGED; always FALSE. */
gboolean format_damaged(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* "PAGES" for RECORD_PAGES and so on, for messages; never NULL. */
const char *record_type_name(uint16_t type);

/* Write the 40 header bytes for a payload into out; computes the checksum and returns it. */
uint64_t record_header_encode(uint8_t out[RECORD_HEADER_BYTES], RecordType type, uint64_t sequence,
                              uint64_t epoch, const void *payload, uint32_t length);

/* Parse a header: magic, reserved fields, type and the length against the type's limit (at most
 * RECORD_LENGTH_MAX) are checked; the checksum is not yet. */
gboolean record_header_decode(const uint8_t in[RECORD_HEADER_BYTES], RecordHeader *header,
                              GError **error);

/* Check header and payload against the checksum. */
gboolean record_verify(const uint8_t in[RECORD_HEADER_BYTES], const void *payload, GError **error);

/* Running count of an epoch's records, kept alike by writer and reader; see StreamEpochEnd. */
typedef struct EpochTally {
    uint64_t pages_records;
    uint64_t pages;
    uint64_t payload_bytes;
    void *hash; /* XXH3 state */
} EpochTally;

/* Start from nothing; *tally need not be initialised. Clear it before starting it again. */
void epoch_tally_start(EpochTally *tally);
/* Add a record (EPOCH_BEGIN, PAGES, STATE). pages: pages in it. */
void epoch_tally_add(EpochTally *tally, const RecordHeader *header, uint32_t pages);
uint64_t epoch_tally_checksum(const EpochTally *tally);
void epoch_tally_clear(EpochTally *tally);

#endif
