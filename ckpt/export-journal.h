/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journals in an exported file (docs/format.md, "Exported"). */
#ifndef DISTRICT_CKPT_EXPORT_JOURNAL_H
#define DISTRICT_CKPT_EXPORT_JOURNAL_H

#include "ckpt/export.h"
#include "ckpt/record-out.h"

/* JOURNAL records of all of them, at least one, for right after HELLO. Zeros are left out. */
gboolean export_journals(RecordOut *out, const ExportJournal *journals, uint32_t n,
                         Progress *progress, GError **error);

#endif
