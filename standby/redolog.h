/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A redo log: one incoming epoch in a memfd, until its pages are in the images.
 *
 *   log   = entry*, each 8-byte aligned
 *   entry = kind u32 (1 pages, 2 state) | image u32 | count u32 | reserved u32 | bytes u64 | body
 *   body of pages: count x u64 (page << 8 | 0 zero, 1 raw), then 4096 bytes per raw page
 *   body of state: count bytes, the packed CutState
 *
 * bytes is the whole entry with its padding. The checksum kept in the ledger covers everything but
 * page data. The memfd grows as needed and so is not sealed; only district-standby writes it.
 */
#ifndef DISTRICT_STANDBY_REDOLOG_H
#define DISTRICT_STANDBY_REDOLOG_H

#include "standby/images.h"
#include "standby/ledger.h"

typedef struct RedoLog RedoLog;

/* fd -1: a new memfd; else one from another process (ownership passes on success only).
 * images: what it is a log of, bounds what an epoch can take. NULL with error set. */
RedoLog *redolog_new(int fd, const Images *images, GError **error);
void redolog_free(RedoLog *log);
int redolog_fd(const RedoLog *log);

/* Start over; memory that a large epoch took is given back. */
void redolog_reset(RedoLog *log);

/* Append; FALSE with FORMAT_ERROR_LIMIT when the epoch outgrows the images or the host's memory. */
gboolean redolog_append_pages(RedoLog *log, uint32_t image, const DecodedPage *pages,
                              uint32_t count, GError **error);
gboolean redolog_append_state(RedoLog *log, const uint8_t *packed, size_t len, GError **error);

/* The content that was appended last of a page of RAM since redolog_reset; NULL: none. It is never of
 * a log that another process has written. Valid until redolog_reset. */
const uint8_t *redolog_find(const RedoLog *log, uint32_t image, uint64_t page);

/* Fill in the log fields of slot for what has been appended. */
void redolog_describe(const RedoLog *log, LedgerSlot *slot);

/* Check every entry of the log that slot describes; nothing is trusted. */
gboolean redolog_check(const RedoLog *log, const LedgerSlot *slot, const Images *images,
                       GError **error);
/* Store the pages of a log that was checked or written here. Idempotent. FALSE with error set if a
 * disk cannot be written. */
gboolean redolog_apply(const RedoLog *log, const LedgerSlot *slot, Images *images, GError **error);

/* The packed CutState, in place. */
const uint8_t *redolog_state(const RedoLog *log, const LedgerSlot *slot);

#endif
