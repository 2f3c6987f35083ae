/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes as a PAGES payload, once as it is and once as what its zstd frame inflates to; each as one of a
 * file and one of a stream, where it may have deltas.
 */
#include "ckpt/encode.h"

#include <string.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t n_pages_of[] = {1, 64, (uint64_t)1 << 28};

/* Keeps the reads from being optimised away. */
static volatile uint8_t last_sum;

static const uint8_t *
content(void *opaque, uint32_t image, uint64_t page)
{
    static const uint8_t held[PAGE_BYTES] = {1, 2, 3};

    if (image >= 2 || page >= n_pages_of[image])
        g_error("a page is asked for that there is not");
    return held;
}

static void
decode(Decoder *decoder, const uint8_t *payload, size_t len, PageContentFunc func)
{
    const DecodeInput input = {n_pages_of, G_N_ELEMENTS(n_pages_of), 2, func, NULL};
    g_autoptr(GError) error = NULL;
    uint32_t image, count;
    const DecodedPage *pages = decoder_pages(decoder, payload, len, &input, &image, &count, &error);
    uint8_t sum = 0;

    for (uint32_t i = 0; pages != NULL && i < count; i++) {
        if (pages[i].index >= n_pages_of[image])
            g_error("a page out of range was let through");
        if (pages[i].data != NULL)
            sum ^= pages[i].data[0] ^ pages[i].data[PAGE_BYTES - 1];
    }
    last_sum = sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Decoder *decoder = decoder_new();
    GByteArray *state = state_decompress(data, size, NULL);

    g_clear_pointer(&state, g_byte_array_unref);
    decode(decoder, data, size, NULL);
    decode(decoder, data, size, content);
    if (size > 8) {
        size_t plain = size - 8, bound = ZSTD_compressBound(plain);
        g_autofree uint8_t *payload = g_malloc(PAGES_HEADER_BYTES + bound);
        size_t frame;
        uint32_t words[4] = {data[0] % 4, data[1] | (uint32_t)data[2] << 8, (uint32_t)plain, 0};

        memcpy(payload, words, sizeof words);
        frame = ZSTD_compress(payload + PAGES_HEADER_BYTES, bound, data + 8, plain, 1);
        decode(decoder, payload, PAGES_HEADER_BYTES + frame, NULL);
        decode(decoder, payload, PAGES_HEADER_BYTES + frame, content);
    }
    decoder_free(decoder);
    return 0;
}
