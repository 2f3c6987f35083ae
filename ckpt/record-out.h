/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing one checkpoint of one full epoch as records, to a file or a pipe: HELLO, JOURNAL if there
 * are any, EPOCH_BEGIN, PAGES, STATE, EPOCH_END, in this order. One thread. After a failure it is only to be freed.
 */
#ifndef DISTRICT_CKPT_RECORD_OUT_H
#define DISTRICT_CKPT_RECORD_OUT_H

#include "ckpt/encode.h"
#include "stream.pb-c.h"

typedef struct RecordOut RecordOut;

/* Writes at fd's position; fd stays the caller's. name: what messages call the file. */
RecordOut *record_out_new(int fd, const char *name);
void record_out_free(RecordOut *out);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RecordOut, record_out_free)

gboolean record_out_hello(RecordOut *out, const District__StreamHello *hello, GError **error);
gboolean record_out_journal(RecordOut *out, const District__StreamJournal *record, GError **error);
gboolean record_out_begin(RecordOut *out, const District__StreamEpochBegin *begin, GError **error);
/*
 * Up to PAGES_PER_RECORD_MAX pages of an image. skip_zeros: zero pages are left out; then no page
 * may be given twice. *written, which may be NULL, grows by the pages in the record.
 */
gboolean record_out_pages(RecordOut *out, uint32_t image, const PageRef *pages, uint32_t count,
                          bool skip_zeros, uint64_t *written, GError **error);
/* STATE and EPOCH_END. */
gboolean record_out_end(RecordOut *out, const District__CutState *cut, GError **error);
/* All of it is durable, if it is a file. */
gboolean record_out_sync(RecordOut *out, GError **error);

uint64_t record_out_bytes(const RecordOut *out);

#endif
