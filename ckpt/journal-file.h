/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying the image of a journal to a file of the same size. Nobody may write to it meanwhile whose
 * writes are to be in the copy whole or not at all: whoever runs it freezes it (journals-copy.h), or
 * has it locked.
 */
#ifndef DISTRICT_CKPT_JOURNAL_FILE_H
#define DISTRICT_CKPT_JOURNAL_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Make to, which is written to only where it differs, what from is; both have bytes, a multiple of
 * 4096. So a second time costs what has changed, and reading. *cancel (atomic, may be NULL) other than
 * 0 ends it with G_IO_ERROR_CANCELLED. path: what messages call from. Not synced.
 */
gboolean journal_file_copy(int from, int to, uint64_t bytes, const char *path, const gint *cancel,
                           GError **error);

/* Does a program have it open to write? Locked as engines do it (disk/block.h). */
bool journal_file_in_use(int fd);

/*
 * Copy the image at path, which no engine has open, and keep it from being opened until that is done.
 * to has its size. All is durable on success.
 */
gboolean journal_file_copy_unused(const char *path, int to, GError **error);

#endif
