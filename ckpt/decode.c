/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decoder of PAGES records and of the compressed CutState. All of it reads what a peer or a file
 * says: a size is checked before a buffer of that size exists, an index before it is used, and a
 * zstd frame must be exactly one frame of exactly the announced size.
 */
#include "ckpt/encode.h"

#include <zstd.h>

#include <string.h>

struct Decoder {
    ZSTD_DCtx *zstd;
    uint8_t *plain;
    DecodedPage *pages;
};

Decoder *
decoder_new(void)
{
    Decoder *decoder = g_new0(Decoder, 1);

    decoder->zstd = ZSTD_createDCtx();
    if (decoder->zstd == NULL)
        g_error("out of memory for a zstd context");
    decoder->plain = g_malloc(PAGES_RAW_MAX);
    decoder->pages = g_new0(DecodedPage, PAGES_PER_RECORD_MAX);
    return decoder;
}

void
decoder_free(Decoder *decoder)
{
    if (decoder == NULL)
        return;
    ZSTD_freeDCtx(decoder->zstd);
    g_free(decoder->plain);
    g_free(decoder->pages);
    g_free(decoder);
}

static gboolean G_GNUC_PRINTF(2, 3) damaged(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED, "%s", text);
    return FALSE;
}

/* Inflate exactly one frame of exactly plain_len bytes into plain. */
static gboolean
inflate_frame(ZSTD_DCtx *zstd, const uint8_t *frame, size_t frame_len, uint8_t *plain,
              size_t plain_len, const char *what, GError **error)
{
    size_t done;

    if (ZSTD_getFrameContentSize(frame, frame_len) != plain_len)
        return damaged(error, "damaged %s: its zstd frame is not of %zu bytes", what, plain_len);
    if (ZSTD_findFrameCompressedSize(frame, frame_len) != frame_len)
        return damaged(error, "damaged %s: not exactly one zstd frame", what);
    done = ZSTD_decompressDCtx(zstd, plain, plain_len, frame, frame_len);
    if (ZSTD_isError(done))
        return damaged(error, "damaged %s: zstd: %s", what, ZSTD_getErrorName(done));
    if (done != plain_len)
        return damaged(error, "damaged %s: %zu bytes instead of %zu", what, done, plain_len);
    return TRUE;
}

/* Read the page table at the start of decoder->plain. */
static gboolean
read_table(Decoder *decoder, uint32_t count, size_t plain_len, uint64_t n_pages, GError **error)
{
    size_t data_at = count * sizeof(uint64_t);

    for (uint32_t i = 0; i < count; i++) {
        DecodedPage *page = &decoder->pages[i];
        uint64_t entry;

        memcpy(&entry, decoder->plain + i * sizeof entry, sizeof entry);
        entry = GUINT64_FROM_LE(entry);
        *page = (DecodedPage){.index = entry >> 8};
        if (page->index >= n_pages)
            return damaged(error,
                           "damaged PAGES record: page %" G_GUINT64_FORMAT
                           " of an image that has %" G_GUINT64_FORMAT,
                           page->index, n_pages);
        switch (entry & 0xff) {
        case PAGE_ZERO:
            break;
        case PAGE_RAW:
            if (plain_len - data_at < PAGE_BYTES)
                return damaged(error, "damaged PAGES record: page data is missing");
            page->data = decoder->plain + data_at;
            data_at += PAGE_BYTES;
            break;
        default:
            return damaged(error, "damaged PAGES record: there is no page kind %u",
                           (unsigned)(entry & 0xff));
        }
    }
    if (data_at != plain_len)
        return damaged(error, "damaged PAGES record: data that belongs to no page");
    return TRUE;
}

const DecodedPage *
decoder_pages(Decoder *decoder, const uint8_t *payload, size_t len, const uint64_t *n_pages_of,
              uint32_t n_images, uint32_t *image, uint32_t *count, GError **error)
{
    uint32_t words[4];
    uint32_t plain_len;

    if (len < PAGES_HEADER_BYTES) {
        damaged(error, "damaged PAGES record: %zu bytes are too few", len);
        return NULL;
    }
    memcpy(words, payload, sizeof words);
    *image = GUINT32_FROM_LE(words[0]);
    *count = GUINT32_FROM_LE(words[1]);
    plain_len = GUINT32_FROM_LE(words[2]);
    if (words[3] != 0 || *image >= n_images || *count == 0 || *count > PAGES_PER_RECORD_MAX ||
        plain_len < *count * sizeof(uint64_t) || plain_len > *count * (8 + PAGE_BYTES)) {
        damaged(error, "damaged PAGES record: image %u, %u pages, %u bytes is not possible", *image,
                *count, plain_len);
        return NULL;
    }
    if (!inflate_frame(decoder->zstd, payload + PAGES_HEADER_BYTES, len - PAGES_HEADER_BYTES,
                       decoder->plain, plain_len, "PAGES record", error) ||
        !read_table(decoder, *count, plain_len, n_pages_of[*image], error))
        return NULL;
    return decoder->pages;
}

GByteArray *
state_decompress(const void *data, size_t len, GError **error)
{
    unsigned long long plain_len = ZSTD_getFrameContentSize(data, len);
    g_autoptr(GByteArray) plain = NULL;
    ZSTD_DCtx *zstd;
    gboolean good;

    if (plain_len == ZSTD_CONTENTSIZE_ERROR || plain_len == ZSTD_CONTENTSIZE_UNKNOWN) {
        damaged(error, "damaged STATE record: not a zstd frame with its size");
        return NULL;
    }
    if (plain_len > CUT_STATE_BYTES_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "STATE record inflates to %llu bytes: at most %u are allowed", plain_len,
                    CUT_STATE_BYTES_MAX);
        return NULL;
    }
    plain = g_byte_array_new();
    g_byte_array_set_size(plain, (guint)plain_len);
    zstd = ZSTD_createDCtx();
    if (zstd == NULL)
        g_error("out of memory for a zstd context");
    good = inflate_frame(zstd, data, len, plain->data, plain_len, "STATE record", error);
    ZSTD_freeDCtx(zstd);
    return good ? g_steal_pointer(&plain) : NULL;
}
