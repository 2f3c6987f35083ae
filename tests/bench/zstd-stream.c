/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages as they are, through one zstd stream: both ends. */
#include "zstd-stream.h"

#include <inttypes.h>
#include <zstd.h>

#define IMAGE_BITS 16

struct ZstdStream {
    ZSTD_CCtx *writer;
    ZSTD_DCtx *reader;
    GArray *table; /* uint64_t */
};

/* What a function of zstd returned, if that is an error. */
static gboolean
zstd_good(size_t result, const char *what, GError **error)
{
    if (!ZSTD_isError(result))
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED, "zstd: %s: %s", what,
                ZSTD_getErrorName(result));
    return FALSE;
}

static gboolean
set_window(ZstdStream *stream, int window_log, GError **error)
{
    return zstd_good(ZSTD_CCtx_setParameter(stream->writer, ZSTD_c_windowLog, window_log),
                     "window of the writer", error) &&
           zstd_good(ZSTD_CCtx_setParameter(stream->writer, ZSTD_c_enableLongDistanceMatching, 1),
                     "matching over long distances", error) &&
           zstd_good(ZSTD_DCtx_setParameter(stream->reader, ZSTD_d_windowLogMax, window_log),
                     "window of the reader", error);
}

ZstdStream *
zstd_stream_new(int level, int window_log, GError **error)
{
    ZstdStream *stream = g_new0(ZstdStream, 1);

    stream->writer = ZSTD_createCCtx();
    stream->reader = ZSTD_createDCtx();
    if (stream->writer == NULL || stream->reader == NULL)
        g_error("out of memory");
    stream->table = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    if (zstd_good(ZSTD_CCtx_setParameter(stream->writer, ZSTD_c_compressionLevel, level), "level",
                  error) &&
        (window_log == 0 || set_window(stream, window_log, error)))
        return stream;
    zstd_stream_free(stream);
    return NULL;
}

void
zstd_stream_free(ZstdStream *stream)
{
    if (stream == NULL)
        return;
    ZSTD_freeCCtx(stream->writer);
    ZSTD_freeDCtx(stream->reader);
    g_array_unref(stream->table);
    g_free(stream);
}

/* ---- The writer ---- */

static gboolean
compress(ZstdStream *stream, const void *data, size_t len, ZSTD_EndDirective end, GByteArray *out,
         GError **error)
{
    ZSTD_inBuffer in = {data, len, 0};
    size_t left;

    do {
        guint at = out->len;
        g_byte_array_set_size(out, at + (guint)ZSTD_CStreamOutSize());
        ZSTD_outBuffer to = {out->data + at, ZSTD_CStreamOutSize(), 0};
        left = ZSTD_compressStream2(stream->writer, &to, &in, end);
        g_byte_array_set_size(out, at + (guint)to.pos);
        if (!zstd_good(left, "compression", error))
            return FALSE;
    } while (in.pos < in.size || (end == ZSTD_e_flush && left > 0));
    return TRUE;
}

gboolean
zstd_stream_encode(ZstdStream *stream, const GArray *pages, GByteArray *out, GError **error)
{
    uint64_t count = pages->len;

    g_array_set_size(stream->table, 0);
    g_array_append_val(stream->table, count);
    for (guint i = 0; i < pages->len; i++) {
        const BenchPage *page = &g_array_index(pages, BenchPage, i);
        uint64_t entry = page->ref.index << IMAGE_BITS | page->image;
        g_array_append_val(stream->table, entry);
    }
    if (!compress(stream, stream->table->data, stream->table->len * sizeof(uint64_t),
                  ZSTD_e_continue, out, error))
        return FALSE;
    for (guint i = 0; i < pages->len; i++) {
        const BenchPage *page = &g_array_index(pages, BenchPage, i);
        if (!compress(stream, page->ref.data, PAGE_BYTES, ZSTD_e_continue, out, error))
            return FALSE;
    }
    return compress(stream, NULL, 0, ZSTD_e_flush, out, error);
}

/* ---- The reader ---- */

/* So many bytes, all of them. */
static gboolean
decompress(ZstdStream *stream, ZSTD_inBuffer *in, void *data, size_t len, GError **error)
{
    ZSTD_outBuffer out = {data, len, 0};

    while (out.pos < out.size) {
        size_t before = in->pos, had = out.pos;
        if (!zstd_good(ZSTD_decompressStream(stream->reader, &out, in), "decompression", error))
            return FALSE;
        if (in->pos == before && out.pos == had) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED,
                        "zstd: the epoch ends before its last page");
            return FALSE;
        }
    }
    return TRUE;
}

gboolean
zstd_stream_decode(ZstdStream *stream, const GByteArray *data, ZstdStreamPlace place, void *opaque,
                   GError **error)
{
    ZSTD_inBuffer in = {data->data, data->len, 0};
    uint64_t count = 0;

    if (!decompress(stream, &in, &count, sizeof count, error))
        return FALSE;
    if (count > G_MAXUINT / sizeof count) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "zstd: an epoch of %" G_GUINT64_FORMAT " pages", count);
        return FALSE;
    }
    g_array_set_size(stream->table, (guint)count);
    if (count > 0 && !decompress(stream, &in, stream->table->data, count * sizeof(uint64_t), error))
        return FALSE;
    for (guint i = 0; i < count; i++) {
        uint64_t entry = g_array_index(stream->table, uint64_t, i);
        uint8_t *to =
            place(opaque, (uint32_t)(entry & ((1U << IMAGE_BITS) - 1)), entry >> IMAGE_BITS);
        if (to == NULL) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED, "zstd: no page 0x%" PRIx64,
                        entry);
            return FALSE;
        }
        if (!decompress(stream, &in, to, PAGE_BYTES, error))
            return FALSE;
    }
    if (in.pos == in.size)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "zstd: the epoch has more than its pages");
    return FALSE;
}
