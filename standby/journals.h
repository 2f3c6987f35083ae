/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journals that a stream brings: a thread that writes them to files, makes them durable and
 * tells when, in the order in which they come (docs/architecture.md, The journal). One for each
 * stream.
 */
#ifndef DISTRICT_STANDBY_JOURNALS_H
#define DISTRICT_STANDBY_JOURNALS_H

#include "ckpt/format.h"
#include "stream.pb-c.h"

typedef struct Journals Journals;

/* All JOURNAL records up to seq are durable. On the journals' thread; must not block. */
typedef void (*JournalsDurable)(uint64_t seq, gpointer opaque);

/* dir: where the files are, absolute; NULL: the first record is refused. */
Journals *journals_new(const char *dir, JournalsDurable durable, gpointer opaque);
/*
 * Let go: durable is not called any more, what is queued is dropped, and nothing is begun. The thread
 * ends by itself after what it is at; who must not meet it waits with journals_wait_ended.
 */
void journals_free(Journals *journals);

/* Queue a record that layout_check_journal has passed (copied). FALSE with error set if it does not
 * fit what came before, or journals_good fails. */
gboolean journals_push(Journals *journals, const District__StreamJournal *record, GError **error);
/* FALSE with error set: an earlier record could not be written. */
gboolean journals_good(Journals *journals, GError **error);

/* Wait, timeout_ms at most, until no thread of Journals that have been freed is left. */
bool journals_wait_ended(int timeout_ms);

/* Name of the file of member's journal in the directory; caller frees. */
char *journals_file_name(const char *member);

#endif
