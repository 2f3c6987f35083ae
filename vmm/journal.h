/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal disk of a member: a raw image whose writes are durable when the guest is told that
 * they have ended, here and, if the client says so, at the standby (docs/architecture.md, The
 * journal). It has no overlay and is in no cut. Main thread only.
 */
#ifndef DISTRICT_VMM_JOURNAL_H
#define DISTRICT_VMM_JOURNAL_H

#include "disk/disk.h"

#include "member.pb-c.h"

typedef struct Journal Journal;

/* Open the image at path, which is locked against other programs. Nobody is waited for at first
 * (JOURNAL_MODE_FREE). NULL with error set. */
Journal *journal_open(const char *path, GError **error);
/* Nobody is waited for any more: the guest has gone, and is not told of what ends now. */
void journal_abandon(Journal *journal);
/* No request of its disk is under way. */
void journal_close(Journal *journal);

/* For virtio-blk; the journal's. */
Disk *journal_disk(Journal *journal);
uint64_t journal_bytes(const Journal *journal);
/* Absolute. */
const char *journal_path(const Journal *journal);
District__JournalMode journal_mode(const Journal *journal);

/*
 * A client has come: a new link, of which the client's end is returned (the caller closes it); the
 * one before ends. Writes that wait are told of again. -1 with error set.
 */
int journal_link(Journal *journal, GError **error);
/*
 * The client has gone. JOURNAL_MODE_HOLD stays: whether the standby has the writes that wait only
 * the next client can find out.
 */
void journal_unlink(Journal *journal);

/* One line on what writes wait for and what to do, or NULL. */
const char *journal_waiting(const Journal *journal);

/*
 * Over a guest reset, which is an execve(2): the link as a descriptor without close-on-exec and a
 * string that says the rest, for journal_inherit in the next life; the image is closed. No request
 * is under way. NULL with error set.
 */
char *journal_hand_on(Journal *journal, GError **error);
gboolean journal_inherit(Journal *journal, const char *text, GError **error);

#endif
