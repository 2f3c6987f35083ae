/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a long job of a process of its own has got: a line "PHASE DONE TOTAL" five times a second
 * to a pipe, whose other end is held by whoever wants the job done. When that has gone, killed or
 * interrupted, nobody wants it any more, and the process ends at once wherever it is: only for jobs
 * that leave nothing behind then.
 */
#ifndef DISTRICT_CKPT_PROGRESS_H
#define DISTRICT_CKPT_PROGRESS_H

#include <glib.h>
#include <stdint.h>

typedef struct Progress Progress;

/* fd is the progress's own from here on. */
Progress *progress_new(int fd);
void progress_free(Progress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Progress, progress_free)

/* A new phase, a word; nothing of it is done. total: 0 if it is not known. NULL progress: nobody
 * wants to know. */
void progress_phase(Progress *progress, const char *phase, uint64_t total);
void progress_set(Progress *progress, uint64_t done);
void progress_add(Progress *progress, uint64_t done);

#endif
