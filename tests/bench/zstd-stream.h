/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the encoder is compared with: pages as they are, through one zstd stream.
 *
 *   epoch = count u64 | count x u64 (page index << 16 | image) | count x 4096 bytes
 *
 * The stream goes on over all epochs, and is flushed after each. So zstd finds in an epoch what its window
 * still has of those before, which is all that it knows of what the reader has.
 */
#ifndef DISTRICT_BENCH_ZSTD_STREAM_H
#define DISTRICT_BENCH_ZSTD_STREAM_H

#include "epochs.h"

typedef struct ZstdStream ZstdStream;

/* Both ends. window_log 0: the level's own window; else so large, with zstd's matching over long distances
 * (zstd --long), at most 31. NULL with error set. */
ZstdStream *zstd_stream_new(int level, int window_log, GError **error);
/* NULL is allowed. */
void zstd_stream_free(ZstdStream *stream);

/* Append pages (of BenchPage) as one epoch to out. */
gboolean zstd_stream_encode(ZstdStream *stream, const GArray *pages, GByteArray *out,
                            GError **error);

/* Where page of image is to be: PAGE_BYTES. NULL: there is no such page. */
typedef uint8_t *(*ZstdStreamPlace)(void *opaque, uint32_t image, uint64_t page);

/* One epoch, all of data, to where its pages belong. */
gboolean zstd_stream_decode(ZstdStream *stream, const GByteArray *data, ZstdStreamPlace place,
                            void *opaque, GError **error);

#endif
