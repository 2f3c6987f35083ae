/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encoder of PAGES records and of the compressed CutState; decode.c is the way back.
 *
 * Theory of operation. A batch is encoded in two passes. The first looks at each page once: is it
 * all zero, is it (by its 128-bit hash) what the other side already has, does it differ in few
 * words from what the other side has, has another page just been sent with the same content, or
 * must it go raw. It collects the page table and the parts that each kind needs. The second lays the
 * parts one behind the other, so that all of it is one zstd frame with its size known, and the
 * receiver can check the size before it inflates.
 * Hash and cache are updated when a page is encoded: a stream that breaks afterwards must start again
 * with new ones and a full epoch.
 */
#include "ckpt/encode.h"

#include "ckpt/pagewords.h"
#include "common/xxh.h"

#include <zstd.h>

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define STATE_ZSTD_LEVEL 1

struct PageHashes {
    uint64_t n_pages;
    /* Anonymous mappings: only pages once sent cost memory. */
    XXH128_hash_t *of;
    uint32_t *places; /* in the cache */
};

/* A delta of more words is no smaller than the page. */
#define DELTA_WORDS_MAX (PAGE_WORDS / 8 * 7)

struct Encoder {
    ZSTD_CCtx *zstd;
    uint8_t *plain; /* what becomes the frame */

    /* The batch under way, in parts. */
    uint32_t n_entries, n_raw, n_refs, n_deltas, n_masks, n_words;
    uint64_t *entries;   /* the table */
    const uint8_t **raw; /* pages that go raw */
    uint64_t *refs;      /* of duplicates */
    uint64_t *groups;    /* of deltas: groups of words that differ */
    uint8_t *masks;      /* of those groups: which words */
    uint8_t *words;      /* those: 8 bytes each */
    uint64_t check;
};

/* ---- Hashes of what the other side has ---- */

static void *
map_pages_array(uint64_t n_pages, size_t each)
{
    void *map = mmap(NULL, MAX(n_pages, 1) * each, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED)
        g_error("out of memory for the hashes of %" G_GUINT64_FORMAT " pages", n_pages);
    return map;
}

PageHashes *
page_hashes_new(uint64_t n_pages)
{
    PageHashes *hashes = g_new0(PageHashes, 1);

    hashes->n_pages = n_pages;
    hashes->of = map_pages_array(n_pages, sizeof *hashes->of);
    hashes->places = map_pages_array(n_pages, sizeof *hashes->places);
    return hashes;
}

void
page_hashes_free(PageHashes *hashes)
{
    if (hashes == NULL)
        return;
    munmap(hashes->of, MAX(hashes->n_pages, 1) * sizeof *hashes->of);
    munmap(hashes->places, MAX(hashes->n_pages, 1) * sizeof *hashes->places);
    g_free(hashes);
}

static void
clear_map(void *map, size_t bytes)
{
    if (madvise(map, bytes, MADV_DONTNEED) != 0)
        memset(map, 0, bytes);
}

void
page_hashes_reset(PageHashes *hashes)
{
    clear_map(hashes->of, MAX(hashes->n_pages, 1) * sizeof *hashes->of);
    clear_map(hashes->places, MAX(hashes->n_pages, 1) * sizeof *hashes->places);
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

void
encode_stats_add(EncodeStats *sum, const EncodeStats *stats)
{
    sum->zero += stats->zero;
    sum->unchanged += stats->unchanged;
    sum->raw += stats->raw;
    sum->delta += stats->delta;
    sum->duplicate += stats->duplicate;
    sum->disk_blocks += stats->disk_blocks;
    sum->disk_zero += stats->disk_zero;
    sum->plain_bytes += stats->plain_bytes;
    sum->encoded_bytes += stats->encoded_bytes;
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

/* What the pages of a call have in common. */
typedef struct Batch {
    uint32_t image;
    PageHashes *hashes; /* may be NULL */
    const EncodeMemory *memory;
    bool full;
    EncodeStats *stats;
} Batch;

static void
add_entry(Encoder *encoder, const PageRef *page, PageKind kind)
{
    encoder->entries[encoder->n_entries++] = GUINT64_TO_LE(page->index << 8 | kind);
}

static void
add_to_check(Encoder *encoder, const PageRef *page)
{
    encoder->check = XXH3_64bits_withSeed(page->data, PAGE_BYTES, encoder->check);
}

/* The words of a group of eight whose bits are set. */
static void
add_group_words(Encoder *encoder, const uint8_t *group, unsigned bits)
{
    for (; bits != 0; bits &= bits - 1) {
        const uint8_t *word = group + (size_t)__builtin_ctz(bits) * PAGE_WORD_BYTES;

        memcpy(encoder->words + encoder->n_words++ * PAGE_WORD_BYTES, word, PAGE_WORD_BYTES);
    }
}

/* FALSE: there is nothing to make a delta against, or it would not be worth it. */
static bool
add_delta(Encoder *encoder, const PageRef *page, const Batch *batch)
{
    uint8_t mask[PAGE_MASK_BYTES];
    uint64_t groups = 0;
    const uint8_t *base;

    if (batch->memory->cache == NULL)
        return false;
    base = page_cache_find(batch->memory->cache, &batch->hashes->places[page->index]);
    if (base == NULL || page_ops()->diff(page->data, base, mask) > DELTA_WORDS_MAX)
        return false;
    for (size_t group = 0; group < PAGE_MASK_BYTES; group++) {
        if (mask[group] == 0)
            continue;
        groups |= UINT64_C(1) << group;
        encoder->masks[encoder->n_masks++] = mask[group];
        add_group_words(encoder, page->data + group * PAGE_GROUP_BYTES, mask[group]);
    }
    encoder->groups[encoder->n_deltas++] = GUINT64_TO_LE(groups);
    add_entry(encoder, page, PAGE_DELTA);
    add_to_check(encoder, page);
    batch->stats->delta++;
    return true;
}

static bool
add_duplicate(Encoder *encoder, const PageRef *page, XXH128_hash_t hash, const Batch *batch)
{
    const uint64_t words[2] = {hash.low64, hash.high64};
    DedupPage self = {batch->image, page->index}, other;

    if (batch->memory->dedup == NULL ||
        !dedup_find_or_note(batch->memory->dedup, words, batch->memory->now, self, &other))
        return false;
    encoder->refs[encoder->n_refs++] = GUINT64_TO_LE(other.page << 16 | other.image);
    add_entry(encoder, page, PAGE_DUPLICATE);
    add_to_check(encoder, page);
    batch->stats->duplicate++;
    return true;
}

static void
add_raw(Encoder *encoder, const PageRef *page, const Batch *batch)
{
    add_entry(encoder, page, PAGE_RAW);
    encoder->raw[encoder->n_raw++] = page->data;
    batch->stats->raw++;
}

static void
add_zero(Encoder *encoder, const PageRef *page, const Batch *batch, bool had_none)
{
    batch->stats->zero++;
    if (!batch->full || !had_none)
        add_entry(encoder, page, PAGE_ZERO);
}

/* A page whose hash is kept. had_none: the other side has not been sent it before. */
static void
add_changed(Encoder *encoder, const PageRef *page, XXH128_hash_t hash, bool had_none,
            const Batch *batch)
{
    PageCache *cache = batch->memory->cache;
    uint32_t *place = &batch->hashes->places[page->index];

    if (!add_delta(encoder, page, batch) && !add_duplicate(encoder, page, hash, batch))
        add_raw(encoder, page, batch);
    /* What comes for the first time, as in a full copy, need not come again. */
    if (cache != NULL && !had_none)
        page_cache_put(cache, place, page->data);
}

static void
add_page(Encoder *encoder, const PageRef *page, const Batch *batch)
{
    PageHashes *hashes = batch->hashes;
    bool zero = page_ops()->is_zero(page->data);

    if (hashes == NULL || page->index >= hashes->n_pages) {
        if (zero)
            add_zero(encoder, page, batch, true);
        else
            add_raw(encoder, page, batch);
        return;
    }
    XXH128_hash_t hash = zero ? zero_page_hash() : page_hash(page->data);
    XXH128_hash_t *had = &hashes->of[page->index];
    bool had_none = hash_is_none(had);
    if (!had_none && XXH128_isEqual(*had, hash)) {
        batch->stats->unchanged++;
        return;
    }
    *had = hash;
    if (!zero) {
        add_changed(encoder, page, hash, had_none, batch);
        return;
    }
    if (batch->memory->cache != NULL)
        page_cache_drop(batch->memory->cache, &hashes->places[page->index]);
    add_zero(encoder, page, batch, had_none);
}

Encoder *
encoder_new(int zstd_level)
{
    Encoder *encoder = g_new0(Encoder, 1);

    encoder->zstd = ZSTD_createCCtx();
    if (encoder->zstd == NULL)
        g_error("out of memory for a zstd context");
    encoder->plain = g_malloc(PAGES_RAW_MAX);
    encoder->entries = g_new(uint64_t, PAGES_PER_RECORD_MAX);
    encoder->raw = g_new(const uint8_t *, PAGES_PER_RECORD_MAX);
    encoder->refs = g_new(uint64_t, PAGES_PER_RECORD_MAX);
    encoder->groups = g_new(uint64_t, PAGES_PER_RECORD_MAX);
    encoder->masks = g_malloc(PAGES_PER_RECORD_MAX * PAGE_MASK_BYTES);
    encoder->words = g_malloc(PAGES_PER_RECORD_MAX * DELTA_WORDS_MAX * PAGE_WORD_BYTES);
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
    g_free(encoder->entries);
    g_free(encoder->raw);
    g_free(encoder->refs);
    g_free(encoder->groups);
    g_free(encoder->masks);
    g_free(encoder->words);
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

static uint8_t *
lay(uint8_t *to, const void *part, size_t bytes)
{
    memcpy(to, part, bytes);
    return to + bytes;
}

/* Lay the parts of the batch one behind the other; returns how many bytes that makes. */
static size_t
lay_parts(Encoder *encoder)
{
    uint64_t check = GUINT64_TO_LE(encoder->check);
    uint8_t *at = lay(encoder->plain, encoder->entries, encoder->n_entries * sizeof(uint64_t));

    if (encoder->n_refs + encoder->n_deltas > 0)
        at = lay(at, &check, sizeof check);
    for (uint32_t i = 0; i < encoder->n_raw; i++)
        at = lay(at, encoder->raw[i], PAGE_BYTES);
    at = lay(at, encoder->refs, encoder->n_refs * sizeof(uint64_t));
    at = lay(at, encoder->groups, encoder->n_deltas * sizeof(uint64_t));
    at = lay(at, encoder->masks, encoder->n_masks);
    at = lay(at, encoder->words, encoder->n_words * PAGE_WORD_BYTES);
    return (size_t)(at - encoder->plain);
}

uint32_t
encoder_stream_pages(Encoder *encoder, uint32_t image, const PageRef *pages, uint32_t count,
                     PageHashes *hashes, const EncodeMemory *memory, bool full, GByteArray *out,
                     EncodeStats *stats)
{
    Batch batch = {image, hashes, memory, full, stats};
    size_t plain_bytes;
    guint before = out->len;

    g_return_val_if_fail(count <= PAGES_PER_RECORD_MAX, 0);
    encoder->n_entries = encoder->n_raw = encoder->n_refs = 0;
    encoder->n_deltas = encoder->n_masks = encoder->n_words = 0;
    encoder->check = 0;
    for (uint32_t i = 0; i < count; i++)
        add_page(encoder, &pages[i], &batch);
    if (encoder->n_entries == 0)
        return 0;
    plain_bytes = lay_parts(encoder);
    append_header(out, image, encoder->n_entries, (uint32_t)plain_bytes);
    append_frame(encoder->zstd, encoder->plain, plain_bytes, out);
    stats->plain_bytes += plain_bytes;
    stats->encoded_bytes += out->len - before;
    return encoder->n_entries;
}

uint32_t
encoder_pages(Encoder *encoder, uint32_t image, const PageRef *pages, uint32_t count,
              PageHashes *hashes, bool full, GByteArray *out, EncodeStats *stats)
{
    const EncodeMemory none = {0};

    return encoder_stream_pages(encoder, image, pages, count, hashes, &none, full, out, stats);
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
