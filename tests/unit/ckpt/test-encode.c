/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGES records and the compressed CutState: there and back, and what the decoder refuses. */
#include "ckpt/encode.h"

#include <string.h>
#include <zstd.h>

#define N_PAGES 64

typedef struct Fixture {
    Encoder *encoder;
    Decoder *decoder;
    PageHashes *hashes;
    GByteArray *out;
    EncodeStats stats;
    uint8_t pages[N_PAGES][PAGE_BYTES];
    PageRef refs[N_PAGES];
    PageContentFunc content; /* NULL: as of a file */
} Fixture;

static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    f->encoder = encoder_new(1);
    f->decoder = decoder_new();
    f->hashes = page_hashes_new(N_PAGES);
    f->out = g_byte_array_new();
    for (unsigned i = 0; i < N_PAGES; i++) {
        for (size_t at = 0; at < PAGE_BYTES; at++)
            f->pages[i][at] = (uint8_t)g_random_int();
        f->refs[i] = (PageRef){i, f->pages[i]};
    }
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    encoder_free(f->encoder);
    decoder_free(f->decoder);
    page_hashes_free(f->hashes);
    g_byte_array_unref(f->out);
}

/* Encode count pages anew. */
static uint32_t
encode(Fixture *f, uint32_t count, bool full)
{
    g_byte_array_set_size(f->out, 0);
    f->stats = (EncodeStats){0};
    return encoder_pages(f->encoder, 1, f->refs, count, f->hashes, full, f->out, &f->stats);
}

static const DecodedPage *
decode(Fixture *f, const void *payload, size_t len, uint32_t *count, GError **error)
{
    static const uint64_t n_pages_of[3] = {1, N_PAGES, N_PAGES};
    const DecodeInput input = {n_pages_of, 3, 2, f->content, f};
    uint32_t image;

    return decoder_pages(f->decoder, payload, len, &input, &image, count, error);
}

static void
test_round_trip(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const DecodedPage *pages;
    uint32_t count;

    memset(f->pages[3], 0, PAGE_BYTES);
    g_assert_cmpuint(encode(f, N_PAGES, false), ==, N_PAGES);
    pages = decode(f, f->out->data, f->out->len, &count, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(count, ==, N_PAGES);
    for (unsigned i = 0; i < N_PAGES; i++) {
        g_assert_cmpuint(pages[i].index, ==, i);
        if (i == 3)
            g_assert_null(pages[i].data);
        else
            g_assert_cmpmem(pages[i].data, PAGE_BYTES, f->pages[i], PAGE_BYTES);
    }
}

static void
test_zero_costs_no_data(Fixture *f, gconstpointer data)
{
    memset(f->pages[0], 0, PAGE_BYTES);
    g_assert_cmpuint(encode(f, 1, false), ==, 1);
    g_assert_cmpuint(f->stats.zero, ==, 1);
    g_assert_cmpuint(f->out->len, <, 64);
}

static void
test_last_byte_makes_it_not_zero(Fixture *f, gconstpointer data)
{
    for (size_t at = 0; at < PAGE_BYTES; at++) {
        memset(f->pages[0], 0, PAGE_BYTES);
        f->pages[0][at] = 1;
        page_hashes_reset(f->hashes);
        encode(f, 1, false);
        g_assert_cmpuint(f->stats.raw, ==, 1);
    }
}

static void
test_unchanged_is_left_out(Fixture *f, gconstpointer data)
{
    encode(f, 4, false);
    f->pages[2][77] ^= 1;
    g_assert_cmpuint(encode(f, 4, false), ==, 1);
    g_assert_cmpuint(f->stats.unchanged, ==, 3);
    g_assert_cmpuint(f->stats.raw, ==, 1);
    g_assert_cmpuint(encode(f, 4, false), ==, 0);
    g_assert_cmpuint(f->out->len, ==, 0);
}

static void
test_reset_sends_again(Fixture *f, gconstpointer data)
{
    encode(f, 4, false);
    page_hashes_reset(f->hashes);
    g_assert_cmpuint(encode(f, 4, false), ==, 4);
}

static void
test_full_leaves_out_zero(Fixture *f, gconstpointer data)
{
    memset(f->pages[0], 0, PAGE_BYTES);
    g_assert_cmpuint(encode(f, 2, true), ==, 1);
    g_assert_cmpuint(f->stats.zero, ==, 1);
    /* And it is known from then on that the other side has it. */
    g_assert_cmpuint(encode(f, 2, false), ==, 0);
}

static void
test_full_zero_after_data_is_sent(Fixture *f, gconstpointer data)
{
    encode(f, 1, true);
    memset(f->pages[0], 0, PAGE_BYTES);
    g_assert_cmpuint(encode(f, 1, true), ==, 1);
}

/* ---- Deltas and duplicates: a writer with a memory, and a reader's RAM of two images ---- */

typedef struct Pair {
    Encoder *encoder;
    Decoder *decoder;
    PageHashes *hashes[2];
    EncodeMemory memory;
    EncodeStats stats;
    GByteArray *record; /* the last one */
    uint8_t writer[2][N_PAGES][PAGE_BYTES];
    uint8_t reader[2][N_PAGES][PAGE_BYTES];
} Pair;

static void
pair_set_up(Pair *p, gconstpointer cache_pages)
{
    p->encoder = encoder_new(1);
    p->decoder = decoder_new();
    p->memory.cache = page_cache_new(GPOINTER_TO_SIZE(cache_pages) * PAGE_BYTES);
    p->memory.dedup = dedup_new();
    p->memory.now = (DedupTime){1, 1};
    p->record = g_byte_array_new();
    for (unsigned i = 0; i < 2; i++)
        p->hashes[i] = page_hashes_new(N_PAGES);
    for (size_t at = 0; at < sizeof p->writer; at++)
        (&p->writer[0][0][0])[at] = (uint8_t)g_test_rand_int();
}

static void
pair_tear_down(Pair *p, gconstpointer data)
{
    encoder_free(p->encoder);
    decoder_free(p->decoder);
    page_cache_free(p->memory.cache);
    dedup_free(p->memory.dedup);
    g_byte_array_unref(p->record);
    for (unsigned i = 0; i < 2; i++)
        page_hashes_free(p->hashes[i]);
}

static const uint8_t *
pair_content(void *opaque, uint32_t image, uint64_t page)
{
    return ((Pair *)opaque)->reader[image][page];
}

/* Encode count pages of image from first on as the next batch. */
static uint32_t
pair_encode(Pair *p, uint32_t image, uint32_t first, uint32_t count)
{
    PageRef refs[N_PAGES];

    for (uint32_t i = 0; i < count; i++)
        refs[i] = (PageRef){first + i, p->writer[image][first + i]};
    g_byte_array_set_size(p->record, 0);
    p->stats = (EncodeStats){0};
    p->memory.now.order++;
    return encoder_stream_pages(p->encoder, image, refs, count, p->hashes[image], &p->memory, false,
                                p->record, &p->stats);
}

/* Decode the record; content NULL: as of a file. n_ram: images that are RAM. */
static gboolean
pair_decode(Pair *p, PageContentFunc content, uint32_t n_ram, GError **error)
{
    static const uint64_t n_pages_of[2] = {N_PAGES, N_PAGES};
    const DecodeInput input = {n_pages_of, 2, n_ram, content, p};
    uint32_t image, count;
    const DecodedPage *pages =
        decoder_pages(p->decoder, p->record->data, p->record->len, &input, &image, &count, error);

    for (uint32_t i = 0; pages != NULL && i < count; i++) {
        if (pages[i].data != NULL)
            memcpy(p->reader[image][pages[i].index], pages[i].data, PAGE_BYTES);
        else
            memset(p->reader[image][pages[i].index], 0, PAGE_BYTES);
    }
    return pages != NULL;
}

/* Send pages; the reader must have the same RAM as the writer then. */
static void
pair_send(Pair *p, uint32_t image, uint32_t first, uint32_t count)
{
    g_autoptr(GError) error = NULL;

    if (pair_encode(p, image, first, count) > 0)
        pair_decode(p, pair_content, 2, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(p->reader[image][first], count * PAGE_BYTES, p->writer[image][first],
                    count * PAGE_BYTES);
}

/* All pages twice, as a full copy and an epoch after it: now they are in the cache. */
static void
pair_warm_up(Pair *p)
{
    for (uint32_t image = 0; image < 2; image++)
        pair_send(p, image, 0, N_PAGES);
    for (uint32_t i = 0; i < N_PAGES; i++) {
        p->writer[0][i][i]++;
        p->writer[1][i][i]++;
    }
    for (uint32_t image = 0; image < 2; image++)
        pair_send(p, image, 0, N_PAGES);
}

static void
test_delta(Pair *p, gconstpointer data)
{
    pair_warm_up(p);
    p->writer[0][5][0] ^= 1;
    p->writer[0][5][4095] ^= 1;
    p->writer[0][6][2048] ^= 1;
    pair_send(p, 0, 0, N_PAGES);
    g_assert_cmpuint(p->stats.delta, ==, 2);
    g_assert_cmpuint(p->stats.unchanged, ==, N_PAGES - 2);
    g_assert_cmpuint(p->record->len, <, 128);
}

static void
test_delta_of_any_size(Pair *p, gconstpointer data)
{
    uint64_t deltas = 0, raw = 0;

    pair_warm_up(p);
    for (unsigned words = 1; words <= PAGE_BYTES / 8; words++) {
        for (unsigned i = 0; i < words; i++)
            p->writer[1][7][i * 8 + words % 8] += (uint8_t)(1 + i % 255);
        pair_send(p, 1, 7, 1);
        deltas += p->stats.delta;
        raw += p->stats.raw;
    }
    g_assert_cmpuint(deltas, >, 300);
    g_assert_cmpuint(raw, >, 0);
}

static void
test_zero_and_back(Pair *p, gconstpointer data)
{
    pair_warm_up(p);
    memset(p->writer[0][3], 0, PAGE_BYTES);
    pair_send(p, 0, 3, 1);
    g_assert_cmpuint(p->stats.zero, ==, 1);
    p->writer[0][3][9] = 1;
    pair_send(p, 0, 3, 1);
    g_assert_cmpuint(p->stats.raw, ==, 1);
}

static void
test_delta_against_other(Pair *p, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    pair_warm_up(p);
    p->reader[0][5][77] ^= 1;
    p->writer[0][5][0] ^= 1;
    g_assert_cmpuint(pair_encode(p, 0, 0, N_PAGES), ==, 1);
    g_assert_false(pair_decode(p, pair_content, 2, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    g_assert_nonnull(strstr(error->message, "do not fit what is held here"));
}

static void
test_delta_of_file(Pair *p, gconstpointer data)
{
    g_autoptr(GError) file = NULL, disk = NULL;

    pair_warm_up(p);
    p->writer[1][5][0] ^= 1;
    g_assert_cmpuint(pair_encode(p, 1, 5, 1), ==, 1);
    g_assert_false(pair_decode(p, NULL, 2, &file));
    g_assert_nonnull(strstr(file->message, "not of a disk or in a file"));
    g_assert_false(pair_decode(p, pair_content, 1, &disk));
    g_assert_nonnull(strstr(disk->message, "not of a disk or in a file"));
}

static void
test_duplicates(Pair *p, gconstpointer data)
{
    memcpy(p->writer[1], p->writer[0], sizeof p->writer[0]);
    pair_send(p, 0, 0, N_PAGES);
    g_assert_cmpuint(p->stats.raw, ==, N_PAGES);
    pair_send(p, 1, 0, N_PAGES);
    /* The table of what has been sent has one place for several hashes: now and then two meet there. */
    uint64_t again = N_PAGES - p->stats.duplicate;
    g_assert_cmpuint(again, <=, N_PAGES / 8);
    g_assert_cmpuint(p->record->len, <, N_PAGES * 16 + again * PAGE_BYTES);
}

static void
test_duplicate_of_other(Pair *p, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    memcpy(p->writer[1][9], p->writer[0][4], PAGE_BYTES);
    pair_send(p, 0, 0, N_PAGES);
    p->reader[0][4][100] ^= 1;
    pair_encode(p, 1, 9, 1);
    g_assert_cmpuint(p->stats.duplicate, ==, 1);
    g_assert_false(pair_decode(p, pair_content, 2, &error));
    g_assert_nonnull(strstr(error->message, "do not fit what is held here"));
}

static void
random_change(Pair *p, uint32_t image, uint32_t page)
{
    uint8_t *data = p->writer[image][page];

    switch (g_test_rand_int_range(0, 6)) {
    case 0:
        memset(data, 0, PAGE_BYTES);
        break;
    case 1:
        for (size_t at = 0; at < PAGE_BYTES; at++)
            data[at] = (uint8_t)g_test_rand_int();
        break;
    case 2: /* the same as many others */
        memset(data, g_test_rand_int_range(1, 4), PAGE_BYTES);
        break;
    case 3:
        break;
    default:
        for (int i = g_test_rand_int_range(1, 600); i > 0; i--)
            data[g_test_rand_int_range(0, PAGE_BYTES)]++;
        break;
    }
}

/* With a cache that is too small, so that pages come and go. */
static void
test_random_epochs(Pair *p, gconstpointer data)
{
    EncodeStats sum = {0};

    for (unsigned epoch = 0; epoch < 150; epoch++) {
        p->memory.now.scope++;
        for (uint32_t image = 0; image < 2; image++) {
            uint32_t first = (uint32_t)g_test_rand_int_range(0, N_PAGES / 2);

            for (uint32_t i = first; i < first + N_PAGES / 2; i++)
                random_change(p, image, i);
            pair_send(p, image, first, N_PAGES / 2);
            encode_stats_add(&sum, &p->stats);
        }
    }
    g_assert_cmpuint(sum.delta, >, 100);
    g_assert_cmpuint(sum.duplicate, >, 100);
    g_assert_cmpuint(sum.raw, >, 100);
    g_assert_cmpuint(sum.zero, >, 100);
    g_assert_cmpuint(sum.unchanged, >, 100);
}

static void
test_truncation(Fixture *f, gconstpointer data)
{
    uint32_t count;

    encode(f, 2, false);
    for (size_t len = 0; len < f->out->len; len++) {
        g_autoptr(GError) error = NULL;
        /* Exactly sized, so that a read beyond the end is seen by a sanitizer. */
        g_autofree uint8_t *cut = g_memdup2(f->out->data, len);

        g_assert_null(decode(f, cut, len, &count, &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    }
}

static void
test_trailing_frame(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    uint32_t count;
    uint8_t frame[64];
    size_t len = ZSTD_compress(frame, sizeof frame, "", 0, 1);

    encode(f, 2, false);
    g_byte_array_append(f->out, frame, (guint)len);
    g_assert_null(decode(f, f->out->data, f->out->len, &count, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
}

/* A PAGES payload with any header and table. */
static GByteArray *
forge(uint32_t image, uint32_t count, uint32_t reserved, const uint64_t *table, uint32_t entries,
      uint32_t data_bytes)
{
    GByteArray *out = g_byte_array_new();
    uint32_t plain_len = entries * 8 + data_bytes;
    uint32_t words[4] = {image, count, plain_len, reserved};
    g_autofree uint8_t *plain = g_malloc0(plain_len + 1);
    uint8_t frame[8192];

    memcpy(plain, table, entries * 8);
    g_byte_array_append(out, (const guint8 *)words, sizeof words);
    g_byte_array_append(out, frame, (guint)ZSTD_compress(frame, sizeof frame, plain, plain_len, 1));
    return out;
}

static void
test_forged(Fixture *f, gconstpointer data)
{
    static const struct {
        uint32_t image, count, reserved;
        uint64_t entry;
        uint32_t data_bytes;
        bool good;
    } cases[] = {
        {1, 1, 0, 5 << 8 | PAGE_RAW, PAGE_BYTES, true},
        {1, 1, 0, 5 << 8 | PAGE_ZERO, 0, true},
        {3, 1, 0, 5 << 8 | PAGE_ZERO, 0, false},  /* no such image */
        {0, 1, 0, 1 << 8 | PAGE_ZERO, 0, false},  /* no such page */
        {1, 1, 0, UINT64_MAX, PAGE_BYTES, false}, /* no such page, nor kind */
        {1, 1, 0, 5 << 8 | 4, PAGE_BYTES, false}, /* no such kind */
        {1, 1, 0, 5 << 8 | PAGE_RAW, 0, false},   /* data missing */
        {1, 1, 0, 5 << 8 | PAGE_RAW, PAGE_BYTES - 1, false},
        {1, 1, 0, 5 << 8 | PAGE_ZERO, 8, false}, /* data too much */
        {1, 0, 0, 5 << 8 | PAGE_ZERO, 0, false}, /* nothing */
        {1, 2, 0, 5 << 8 | PAGE_ZERO, 0, false}, /* table missing */
        {1, PAGES_PER_RECORD_MAX + 1, 0, 0, 0, false},
        {1, UINT32_MAX, 0, 0, 0, false},
        {1, 1, 1, 5 << 8 | PAGE_ZERO, 0, false}, /* reserved */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) forged = forge(cases[i].image, cases[i].count, cases[i].reserved,
                                             &cases[i].entry, 1, cases[i].data_bytes);
        g_autoptr(GError) error = NULL;
        uint32_t count;
        bool good = decode(f, forged->data, forged->len, &count, &error) != NULL;

        g_assert_cmpint(good, ==, cases[i].good);
        if (!good)
            g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    }
}

/* One page of a forged record with deltas: what is behind the table. */
typedef struct ForgedDelta {
    uint64_t kind;
    const char *hex; /* after the check */
    bool good;       /* but for the check, which is not right */
} ForgedDelta;

static GByteArray *
from_hex(const char *hex)
{
    GByteArray *bytes = g_byte_array_new();

    for (; hex[0] != '\0'; hex += 2) {
        uint8_t byte = (uint8_t)(g_ascii_xdigit_value(hex[0]) << 4 | g_ascii_xdigit_value(hex[1]));
        g_byte_array_append(bytes, &byte, 1);
    }
    return bytes;
}

static void
test_forged_deltas(Pair *p, gconstpointer data)
{
#define GROUPS_NONE "0000000000000000"
#define GROUPS_FIRST "0100000000000000"
#define WORD "0102030405060708"
    static const ForgedDelta cases[] = {
        {PAGE_DELTA, GROUPS_NONE, true},
        {PAGE_DELTA, GROUPS_FIRST "01" WORD, true},
        {PAGE_DELTA, GROUPS_FIRST "00", true},
        {PAGE_DELTA, GROUPS_FIRST "ff" WORD WORD WORD WORD WORD WORD WORD WORD, true},
        {PAGE_DELTA, "", false},                          /* no groups */
        {PAGE_DELTA, "00000000000000", false},            /* not all of them */
        {PAGE_DELTA, GROUPS_FIRST, false},                /* no mask */
        {PAGE_DELTA, GROUPS_FIRST "01", false},           /* no word */
        {PAGE_DELTA, GROUPS_FIRST "03" WORD, false},      /* a word too few */
        {PAGE_DELTA, GROUPS_FIRST "01" WORD "00", false}, /* a byte too much */
        {PAGE_DELTA,
         "ffffffffffffffff"
         "ffffffff",
         false},                                     /* all groups, few masks */
        {PAGE_DUPLICATE, "0100050000000000", true},  /* page 5 of image 1 */
        {PAGE_DUPLICATE, "0200050000000000", false}, /* no such image */
        {PAGE_DUPLICATE, "0100400000000000", false}, /* no such page */
        {PAGE_DUPLICATE, "ffffffffffffffff", false},
        {PAGE_DUPLICATE, "01000500000000", false},
        {PAGE_DUPLICATE, "", false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) behind = from_hex(cases[i].hex);
        uint64_t entry[2] = {5 << 8 | cases[i].kind, 0x1122334455667788};
        uint8_t plain[128], frame[256];
        uint32_t plain_len = (uint32_t)sizeof entry + behind->len;
        uint32_t words[4] = {0, 1, plain_len, 0};
        g_autoptr(GError) error = NULL;

        memcpy(plain, entry, sizeof entry);
        if (behind->len > 0)
            memcpy(plain + sizeof entry, behind->data, behind->len);
        g_byte_array_set_size(p->record, 0);
        g_byte_array_append(p->record, (const guint8 *)words, sizeof words);
        g_byte_array_append(p->record, frame,
                            (guint)ZSTD_compress(frame, sizeof frame, plain, plain_len, 1));
        g_assert_false(pair_decode(p, pair_content, 2, &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
        g_assert_cmpint(strstr(error->message, "do not fit") != NULL, ==, cases[i].good);
    }
}

static void
test_state(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) packed = state_compress(f->pages, sizeof f->pages);
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) plain = state_decompress(packed->data, packed->len, &error);

    g_assert_no_error(error);
    g_assert_cmpmem(plain->data, plain->len, f->pages, sizeof f->pages);
    for (size_t len = 0; len < packed->len; len += 97) {
        g_autoptr(GError) cut = NULL;
        g_assert_null(state_decompress(packed->data, len, &cut));
        g_assert_error(cut, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    }
}

static void
test_state_bomb(Fixture *f, gconstpointer data)
{
    /* Frame header (RFC 8878 §3.1.1): single segment, 4-byte content size of 1 GiB. */
    static const uint8_t bomb[] = {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 1, 0, 0};
    g_autoptr(GError) error = NULL;

    g_assert_null(state_decompress(bomb, sizeof bomb, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT);
}

#define ADD_PAIR(path, cache_pages, function)                                                      \
    g_test_add(path, Pair, GSIZE_TO_POINTER(cache_pages), pair_set_up, function, pair_tear_down)
#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/encoder/pages come back as they were", test_round_trip);
    ADD("/encoder/a zero page costs no data", test_zero_costs_no_data);
    ADD("/encoder/one byte makes a page not zero", test_last_byte_makes_it_not_zero);
    ADD("/encoder/an unchanged page is left out", test_unchanged_is_left_out);
    ADD("/encoder/after a reset everything is sent again", test_reset_sends_again);
    ADD("/encoder/a full epoch leaves zero pages out", test_full_leaves_out_zero);
    ADD("/encoder/a page that became zero in a full epoch is sent",
        test_full_zero_after_data_is_sent);
    ADD_PAIR("/delta/a page of which few words changed comes as these", 256, test_delta);
    ADD_PAIR("/delta/any number of words comes back as it was", 256, test_delta_of_any_size);
    ADD_PAIR("/delta/a page that was zero in between is none", 256, test_zero_and_back);
    ADD_PAIR("/delta/one against another content is refused", 256, test_delta_against_other);
    ADD_PAIR("/delta/none is taken of a file or a disk", 256, test_delta_of_file);
    ADD_PAIR("/delta/impossible ones are refused", 256, test_forged_deltas);
    ADD_PAIR("/duplicate/pages of another member come as references", 256, test_duplicates);
    ADD_PAIR("/duplicate/one of another content is refused", 256, test_duplicate_of_other);
    ADD_PAIR("/stream/epochs of all kinds of pages come back as they were", 40, test_random_epochs);
    ADD("/decoder/a record cut short anywhere is refused", test_truncation);
    ADD("/decoder/a second frame is refused", test_trailing_frame);
    ADD("/decoder/impossible headers and tables are refused", test_forged);
    ADD("/state/it comes back as it was, or is refused", test_state);
    ADD("/state/it cannot inflate beyond its limit", test_state_bomb);
    return g_test_run();
}
