/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encoder of PAGES records and of the compressed CutState; decode.c is the way back.
 *
 * Theory of operation. A batch is encoded in two passes. The first looks at each page once: is it
 * all zero, is it (by its 128-bit hash) what the other side already has, or must it go raw; it
 * writes the page table. The second lays the raw pages behind the table, so that table and data are
 * one zstd frame with its size known, and the receiver can check the size before it inflates.
 * A hash is updated when its page is encoded: a stream that breaks afterwards must start again with
 * page_hashes_reset and a full epoch.
 */
#include "ckpt/encode.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#include <zstd.h>

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define STATE_ZSTD_LEVEL 1

struct PageHashes {
    uint64_t n_pages;
    XXH128_hash_t *of; /* anonymous mapping: only pages once sent cost memory */
};

struct Encoder {
    ZSTD_CCtx *zstd;
    uint8_t *plain;      /* page table and data of a batch */
    const uint8_t **raw; /* pages of the batch that go raw */
};

/* ---- Hashes of what the other side has ---- */

static size_t
hashes_bytes(uint64_t n_pages)
{
    return MAX(n_pages, 1) * sizeof(XXH128_hash_t);
}

PageHashes *
page_hashes_new(uint64_t n_pages)
{
    PageHashes *hashes = g_new0(PageHashes, 1);

    hashes->n_pages = n_pages;
    hashes->of = mmap(NULL, hashes_bytes(n_pages), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (hashes->of == MAP_FAILED)
        g_error("out of memory for the hashes of %" G_GUINT64_FORMAT " pages", n_pages);
    return hashes;
}

void
page_hashes_free(PageHashes *hashes)
{
    if (hashes == NULL)
        return;
    munmap(hashes->of, hashes_bytes(hashes->n_pages));
    g_free(hashes);
}

void
page_hashes_reset(PageHashes *hashes)
{
    if (madvise(hashes->of, hashes_bytes(hashes->n_pages), MADV_DONTNEED) != 0)
        memset(hashes->of, 0, hashes_bytes(hashes->n_pages));
}

/*
 * XXH3 is fast and not cryptographic: what runs in a guest could choose pages that collide, if it
 * knew how they are hashed. The hashes stay in this process, so each process has its own secret.
 */
static uint8_t hash_secret[XXH3_SECRET_SIZE_MIN + 56];

static gpointer
hash_secret_make(gpointer unused)
{
    for (size_t done = 0; done < sizeof hash_secret;) {
        ssize_t n = getrandom(hash_secret + done, sizeof hash_secret - done, 0);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            g_error("getrandom: %s", g_strerror(errno));
    }
    return unused;
}

static XXH128_hash_t
page_hash(const uint8_t *data)
{
    static GOnce once = G_ONCE_INIT;

    g_once(&once, hash_secret_make, NULL);
    return XXH3_128bits_withSecret(data, PAGE_BYTES, hash_secret, sizeof hash_secret);
}

static bool
hash_is_none(const XXH128_hash_t *hash)
{
    return hash->low64 == 0 && hash->high64 == 0;
}

/* ---- Pages ---- */

static bool
page_is_zero(const uint8_t *data)
{
    const size_t step = 64;

    for (size_t at = 0; at < PAGE_BYTES; at += step) {
        uint64_t word[8];
        memcpy(word, data + at, step);
        if ((word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) != 0)
            return false;
    }
    return true;
}

static XXH128_hash_t
zero_page_hash(void)
{
    static const uint8_t zeroes[PAGE_BYTES];
    static gsize ready;
    static XXH128_hash_t hash;

    if (g_once_init_enter(&ready)) {
        hash = page_hash(zeroes);
        g_once_init_leave(&ready, 1);
    }
    return hash;
}

typedef enum { VERDICT_LEAVE_OUT, VERDICT_ZERO, VERDICT_RAW } Verdict;

/* What to do with page; notes in hashes (may be NULL) that the other side will have it. */
static Verdict
page_judge(const PageRef *page, PageHashes *hashes, bool full, EncodeStats *stats)
{
    bool zero = page_is_zero(page->data);

    if (hashes != NULL && page->index < hashes->n_pages) {
        XXH128_hash_t hash = zero ? zero_page_hash() : page_hash(page->data);
        XXH128_hash_t *had = &hashes->of[page->index];
        bool had_none = hash_is_none(had);

        if (!had_none && XXH128_isEqual(*had, hash)) {
            stats->unchanged++;
            return VERDICT_LEAVE_OUT;
        }
        *had = hash;
        full = full && had_none;
    }
    if (!zero) {
        stats->raw++;
        return VERDICT_RAW;
    }
    stats->zero++;
    return full ? VERDICT_LEAVE_OUT : VERDICT_ZERO;
}

Encoder *
encoder_new(int zstd_level)
{
    Encoder *encoder = g_new0(Encoder, 1);

    encoder->zstd = ZSTD_createCCtx();
    if (encoder->zstd == NULL)
        g_error("out of memory for a zstd context");
    encoder->plain = g_malloc(PAGES_RAW_MAX);
    encoder->raw = g_new(const uint8_t *, PAGES_PER_RECORD_MAX);
    encoder_set_level(encoder, zstd_level);
    return encoder;
}

void
encoder_free(Encoder *encoder)
{
    if (encoder == NULL)
        return;
    ZSTD_freeCCtx(encoder->zstd);
    g_free(encoder->plain);
    g_free(encoder->raw);
    g_free(encoder);
}

void
encoder_set_level(Encoder *encoder, int zstd_level)
{
    int level = CLAMP(zstd_level, ZSTD_minCLevel(), ZSTD_maxCLevel());

    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, level);
}

/* Compress plain into out after what is there. Only lack of memory can make it fail. */
static void
append_frame(ZSTD_CCtx *zstd, const void *plain, size_t len, GByteArray *out)
{
    guint before = out->len;
    size_t bound = ZSTD_compressBound(len);
    size_t done;

    g_byte_array_set_size(out, before + (guint)bound);
    done = ZSTD_compress2(zstd, out->data + before, bound, plain, len);
    if (ZSTD_isError(done))
        g_error("zstd cannot compress %zu bytes: %s", len, ZSTD_getErrorName(done));
    g_byte_array_set_size(out, before + (guint)done);
}

static void
append_header(GByteArray *out, uint32_t image, uint32_t count, uint32_t plain_bytes)
{
    const uint32_t words[4] = {
        GUINT32_TO_LE(image),
        GUINT32_TO_LE(count),
        GUINT32_TO_LE(plain_bytes),
        0,
    };
    static_assert(sizeof words == PAGES_HEADER_BYTES, "PAGES header layout");

    g_byte_array_append(out, (const guint8 *)words, sizeof words);
}

uint32_t
encoder_pages(Encoder *encoder, uint32_t image, const PageRef *pages, uint32_t count,
              PageHashes *hashes, bool full, GByteArray *out, EncodeStats *stats)
{
    uint32_t entries = 0, n_raw = 0;
    size_t plain_bytes;

    g_return_val_if_fail(count <= PAGES_PER_RECORD_MAX, 0);
    for (uint32_t i = 0; i < count; i++) {
        Verdict verdict = page_judge(&pages[i], hashes, full, stats);
        uint64_t entry;

        if (verdict == VERDICT_LEAVE_OUT)
            continue;
        entry = pages[i].index << 8 | (verdict == VERDICT_RAW ? PAGE_RAW : PAGE_ZERO);
        entry = GUINT64_TO_LE(entry);
        memcpy(encoder->plain + entries * sizeof entry, &entry, sizeof entry);
        entries++;
        if (verdict == VERDICT_RAW)
            encoder->raw[n_raw++] = pages[i].data;
    }
    if (entries == 0)
        return 0;
    plain_bytes = entries * sizeof(uint64_t);
    for (uint32_t i = 0; i < n_raw; i++, plain_bytes += PAGE_BYTES)
        memcpy(encoder->plain + plain_bytes, encoder->raw[i], PAGE_BYTES);
    append_header(out, image, entries, (uint32_t)plain_bytes);
    append_frame(encoder->zstd, encoder->plain, plain_bytes, out);
    return entries;
}

/* ---- CutState ---- */

GByteArray *
state_compress(const void *data, size_t len)
{
    GByteArray *out = g_byte_array_new();
    ZSTD_CCtx *zstd = ZSTD_createCCtx();

    if (zstd == NULL)
        g_error("out of memory for a zstd context");
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, STATE_ZSTD_LEVEL);
    append_frame(zstd, data, len, out);
    ZSTD_freeCCtx(zstd);
    return out;
}
