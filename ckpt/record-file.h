/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a file of records, one at a time, into a Receiver. A file that does not end between two
 * epochs, or before the first, is truncated.
 */
#ifndef DISTRICT_CKPT_RECORD_FILE_H
#define DISTRICT_CKPT_RECORD_FILE_H

#include "ckpt/receive.h"

typedef struct RecordFile RecordFile;

/* Reads from fd's position on; fd stays the caller's. */
RecordFile *record_file_new(int fd);
void record_file_free(RecordFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RecordFile, record_file_free)

/* Feed the next record. *more FALSE: there was none, and the file ends where it may. */
gboolean record_file_feed(RecordFile *file, Receiver *receiver, gboolean *more, GError **error);

/* Bytes of the records fed so far. */
uint64_t record_file_bytes(const RecordFile *file);

#endif
