/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PAGES records: a batch of pages of one image, as one zstd frame.
 *
 *   payload = image u32 | count u32 | raw_bytes u32 | reserved u32 (0) | zstd frame
 *   frame   = table: count x u64 (page index << 8 | kind), then, if any page is of kind 2 or 3,
 *             check u64, then by kind and in the order of the table:
 *     0 zero       nothing
 *     1 raw        4096 bytes each
 *     2 duplicate  u64 each: page index << 16 | image of another page, whose content it has
 *     3 delta      see below
 *
 * A page that has not changed, by the 128-bit XXH3 of what was last sent of it, is not in the record
 * at all.
 *
 * Kinds 2 and 3 are of streams only: they speak of what the reader has of a page when the record
 * comes, whatever epoch brought it. A delta is the words of 8 bytes that differ, as they are now. For all
 * deltas of the record, first which groups of 8 words have any (u64 per page), then which words of
 * such a group do (a byte per group), then the words.
 *
 * check is XXH3-64 over the content of each page of kind 2 and 3 in turn, the seed being the result of
 * the one before (0 for the first): if reader and writer do not agree on what the reader has,
 * the record is refused.
 *
 * An image is a member's RAM or a disk (layout_image_count in layout.h); a disk's pages are its blocks.
 */
#ifndef DISTRICT_CKPT_ENCODE_H
#define DISTRICT_CKPT_ENCODE_H

#include "ckpt/dedup.h"
#include "ckpt/format.h"
#include "ckpt/pagecache.h"

#define PAGES_HEADER_BYTES 16
/* Upper bound of a PAGES payload before compression. */
#define PAGES_RAW_MAX (8 + PAGES_PER_RECORD_MAX * (8 + PAGE_BYTES))

typedef enum { PAGE_ZERO = 0, PAGE_RAW = 1, PAGE_DUPLICATE = 2, PAGE_DELTA = 3 } PageKind;

/* 20 bytes per guest page: hash of what the other side has (all zero: it has nothing), and where in a
 * cache that content is. */
typedef struct PageHashes PageHashes;
PageHashes *page_hashes_new(uint64_t n_pages);
void page_hashes_free(PageHashes *hashes);
/* Forget everything: the other side starts from nothing (its RAM is all zero pages). A cache that was
 * used with it is to be freed first. */
void page_hashes_reset(PageHashes *hashes);

typedef struct EncodeStats {
    uint64_t zero;
    uint64_t unchanged;
    uint64_t raw;
    uint64_t delta;
    uint64_t duplicate;
    /* Disks are counted apart, by the sink: blocks, and how many of them were zeros. */
    uint64_t disk_blocks;
    uint64_t disk_zero;
    /* Of all records: into zstd, and out of it. */
    uint64_t plain_bytes;
    uint64_t encoded_bytes;
} EncodeStats;
void encode_stats_add(EncodeStats *sum, const EncodeStats *stats);

typedef struct PageRef {
    uint64_t index;      /* page index in the image */
    const uint8_t *data; /* PAGE_BYTES, stable while encoding */
} PageRef;

/*
 * Per-thread encoder (zstd context and buffers). Two encoders may work on the same PageHashes at
 * the same time if their pages are disjoint.
 */
typedef struct Encoder Encoder;
Encoder *encoder_new(int zstd_level);
void encoder_free(Encoder *encoder);
void encoder_set_level(Encoder *encoder, int zstd_level);

/*
 * Encode up to PAGES_PER_RECORD_MAX pages. hashes may be NULL (nothing is left out then, except
 * that full, if set, says the receiver starts from zero pages so zero pages are left out; a page
 * may then be given only once per epoch). Appends one PAGES payload to out (nothing if no page is
 * left to send) and returns the number of pages in it; stats are added to, not reset.
 */
uint32_t encoder_pages(Encoder *encoder, uint32_t image, const PageRef *pages, uint32_t count,
                       PageHashes *hashes, bool full, GByteArray *out, EncodeStats *stats);

/* What a stream knows of its reader beside the hashes of an image. */
typedef struct EncodeMemory {
    PageCache *cache; /* of the pages that this encoder gets; NULL: no deltas */
    Dedup *dedup;     /* of all pages; NULL: no duplicates */
    DedupTime now;
} EncodeMemory;

/* The same for a stream, with deltas and duplicates. The pages must be distinct; no hashes and no
 * memory for blocks of disks. */
uint32_t encoder_stream_pages(Encoder *encoder, uint32_t image, const PageRef *pages,
                              uint32_t count, PageHashes *hashes, const EncodeMemory *memory,
                              bool full, GByteArray *out, EncodeStats *stats);

/* A decoded PAGES payload. Pointers stay valid until the next call on the same decoder. */
typedef struct DecodedPage {
    uint64_t index;
    const uint8_t *data; /* NULL: a zero page */
} DecodedPage;

typedef struct Decoder Decoder;
Decoder *decoder_new(void);
void decoder_free(Decoder *decoder);

/*
 * What the reader has of page of image, which are in range and of RAM, before the record that is
 * being decoded: PAGE_BYTES, valid until the next record. Never NULL.
 */
typedef const uint8_t *(*PageContentFunc)(void *opaque, uint32_t image, uint64_t page);

typedef struct DecodeInput {
    const uint64_t *n_pages_of; /* pages of each image, for range checks */
    uint32_t n_images;
    uint32_t n_ram;          /* the first ones are RAM: only these have deltas and duplicates */
    PageContentFunc content; /* NULL: there are none, as in files */
    void *opaque;
} DecodeInput;

/*
 * Decode a PAGES payload. Returns the page array (owned by the decoder), *image and *count set; NULL
 * with error set.
 */
const DecodedPage *decoder_pages(Decoder *decoder, const uint8_t *payload, size_t len,
                                 const DecodeInput *input, uint32_t *image, uint32_t *count,
                                 GError **error);

/* One zstd frame of a packed CutState, and back. Caller frees. A writer checks len against
 * CUT_STATE_BYTES_MAX and the result against RECORD_LENGTH_MAX; the way back refuses more. */
GByteArray *state_compress(const void *data, size_t len);
GByteArray *state_decompress(const void *data, size_t len, GError **error);

#endif
