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
    static const uint64_t n_pages_of[2] = {1, N_PAGES};
    uint32_t image;

    return decoder_pages(f->decoder, payload, len, n_pages_of, 2, &image, count, error);
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
        {2, 1, 0, 5 << 8 | PAGE_ZERO, 0, false},  /* no such image */
        {0, 1, 0, 1 << 8 | PAGE_ZERO, 0, false},  /* no such page */
        {1, 1, 0, UINT64_MAX, PAGE_BYTES, false}, /* no such page, nor kind */
        {1, 1, 0, 5 << 8 | 2, PAGE_BYTES, false}, /* no such kind */
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
    ADD("/decoder/a record cut short anywhere is refused", test_truncation);
    ADD("/decoder/a second frame is refused", test_trailing_frame);
    ADD("/decoder/impossible headers and tables are refused", test_forged);
    ADD("/state/it comes back as it was, or is refused", test_state);
    ADD("/state/it cannot inflate beyond its limit", test_state_bomb);
    return g_test_run();
}
