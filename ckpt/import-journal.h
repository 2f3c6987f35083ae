/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journals that an import brings: files of their own, beside the disks', of which none counts
 * before all are complete.
 */
#ifndef DISTRICT_CKPT_IMPORT_JOURNAL_H
#define DISTRICT_CKPT_IMPORT_JOURNAL_H

#include "stream.pb-c.h"

#include <glib.h>
#include <stdbool.h>

typedef struct ImportJournals ImportJournals;

/* In directory dir, absolute. */
ImportJournals *import_journals_new(const char *dir);
void import_journals_free(ImportJournals *journals);

/* A JOURNAL record that layout_check_journal has passed. FALSE with error set: it does not follow those
 * before it (docs/format.md), or cannot be written. */
gboolean import_journals_take(ImportJournals *journals, const District__StreamJournal *record,
                              GError **error);
/* PUBLISH has come. */
bool import_journals_complete(const ImportJournals *journals);
/* All is durable, but for the names in the directory. */
gboolean import_journals_sync(const ImportJournals *journals, GError **error);

guint import_journals_count(const ImportJournals *journals);
const char *import_journals_member(const ImportJournals *journals, guint i, uint64_t *bytes);

#endif
