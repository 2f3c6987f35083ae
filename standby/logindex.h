/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where in a redo log the pages of RAM are that it has: what a delta is applied to is found by it.
 *
 * Theory of operation. 8 bytes per page of RAM, mapped as they are used. Each entry says which
 * filling of the log it is of, so that forgetting all of them is counting one up. It is not kept beyond the
 * process: a stream that goes on after that finds everything in the images.
 */
#ifndef DISTRICT_STANDBY_LOGINDEX_H
#define DISTRICT_STANDBY_LOGINDEX_H

#include "ckpt/ramset.h"

typedef struct LogIndex LogIndex;

/* An offset that stands for a zero page, which has no data in the log. */
#define LOG_INDEX_ZERO 0

LogIndex *log_index_new(const RamSet *ram);
void log_index_free(LogIndex *index);

/* Forget all pages. */
void log_index_clear(LogIndex *index);
/* A page is at offset now, a multiple of 8. Images that are no RAM are left out. */
void log_index_set(LogIndex *index, uint32_t image, uint64_t page, uint64_t offset);
/* FALSE: the log does not have it. image and page are of RAM, and in range. */
gboolean log_index_get(const LogIndex *index, uint32_t image, uint64_t page, uint64_t *offset);

#endif
