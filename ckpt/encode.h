/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PAGES records: a batch of pages of one image, each zero, unchanged (left out) or raw, as one
 * zstd frame.
 *
 *   payload = image u32 | count u32 | raw_bytes u32 | reserved u32 (0) |
 *             zstd frame of: count x u64 (page index << 8 | kind), then the data of the pages in
 * order kind: 0 zero (no data), 1 raw (4096 bytes)
 *
 * "Unchanged" is decided against the 128-bit XXH3 of what was last sent for that page; such a page
 * is not in the record at all.
 *
 * An image is a member's RAM or a disk (layout_image_count in layout.h); a disk's pages are its blocks.
 */
#ifndef DISTRICT_CKPT_ENCODE_H
#define DISTRICT_CKPT_ENCODE_H

#include "ckpt/format.h"

#define PAGES_HEADER_BYTES 16
/* Upper bound of a PAGES payload before compression. */
#define PAGES_RAW_MAX (PAGES_PER_RECORD_MAX * (8 + PAGE_BYTES))

typedef enum { PAGE_ZERO = 0, PAGE_RAW = 1 } PageKind;

/* 16 bytes per guest page: hash of what the other side has; all zero: it has nothing. */
typedef struct PageHashes PageHashes;
PageHashes *page_hashes_new(uint64_t n_pages);
void page_hashes_free(PageHashes *hashes);
/* Forget everything: the other side starts from nothing (its RAM is all zero pages). */
void page_hashes_reset(PageHashes *hashes);

typedef struct EncodeStats {
    uint64_t zero;
    uint64_t unchanged;
    uint64_t raw;
    /* Disks are counted apart, by the sink: blocks, and how many of them were zeros. */
    uint64_t disk_blocks;
    uint64_t disk_zero;
} EncodeStats;

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

/* A decoded PAGES payload. Pointers stay valid until the next call on the same decoder. */
typedef struct DecodedPage {
    uint64_t index;
    const uint8_t *data; /* NULL: a zero page */
} DecodedPage;

typedef struct Decoder Decoder;
Decoder *decoder_new(void);
void decoder_free(Decoder *decoder);

/*
 * Decode a PAGES payload. n_pages_of: pages of each of n_images images, for range checks. Returns
 * the page array (owned by the decoder), *image and *count set; NULL with error set.
 */
const DecodedPage *decoder_pages(Decoder *decoder, const uint8_t *payload, size_t len,
                                 const uint64_t *n_pages_of, uint32_t n_images, uint32_t *image,
                                 uint32_t *count, GError **error);

/* One zstd frame of a packed CutState, and back. Caller frees. A writer checks len against
 * CUT_STATE_BYTES_MAX and the result against RECORD_LENGTH_MAX; the way back refuses more. */
GByteArray *state_compress(const void *data, size_t len);
GByteArray *state_decompress(const void *data, size_t len, GError **error);

#endif
