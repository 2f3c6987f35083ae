/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes as a PAGES payload, once as it is and once as what its zstd frame inflates to. */
#include "ckpt/encode.h"

#include <string.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t n_pages_of[] = {1, 64, (uint64_t)1 << 28};

/* Keeps the reads from being optimised away. */
static volatile uint8_t last_sum;

static void
decode(Decoder *decoder, const uint8_t *payload, size_t len)
{
    g_autoptr(GError) error = NULL;
    uint32_t image, count;
    const DecodedPage *pages = decoder_pages(decoder, payload, len, n_pages_of,
                                             G_N_ELEMENTS(n_pages_of), &image, &count, &error);
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
    decode(decoder, data, size);
    if (size > 8) {
        size_t plain = size - 8, bound = ZSTD_compressBound(plain);
        g_autofree uint8_t *payload = g_malloc(PAGES_HEADER_BYTES + bound);
        uint32_t words[4] = {data[0] % 4, data[1] | (uint32_t)data[2] << 8, (uint32_t)plain, 0};

        memcpy(payload, words, sizeof words);
        decode(decoder, payload,
               PAGES_HEADER_BYTES +
                   ZSTD_compress(payload + PAGES_HEADER_BYTES, bound, data + 8, plain, 1));
    }
    decoder_free(decoder);
    return 0;
}
