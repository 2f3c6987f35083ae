/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A member's journal as district-ckpt sees it: its image, which is only read here, and the link on
 * which the engine tells of writes and is told when they may end. Coordinator thread only.
 */
#ifndef DISTRICT_CKPT_MEMBER_JOURNAL_H
#define DISTRICT_CKPT_MEMBER_JOURNAL_H

#include "member.pb-c.h"

#include <glib.h>
#include <stdbool.h>

/* Most ranges that an engine tells of at once, and bytes in one. */
#define JOURNAL_RANGES_MAX 64

typedef struct MemberJournal {
    char *path;                 /* of the raw image; NULL: the member has no journal */
    uint64_t size;              /* bytes */
    int fd;                     /* the image, open for reading */
    int link;                   /* -1: no engine */
    District__JournalMode mode; /* as ordered last */
    unsigned orders;            /* that have not been confirmed */
    bool can_freeze;
    bool freezing;    /* ordered, and not undone */
    bool frozen;      /* and nothing is being written */
    int64_t ended_ns; /* when the link ended; 0: it has not */
} MemberJournal;

/* The image at path; a size other than 0 is what it must have. FALSE with error set, one line without
 * the member's name. */
gboolean member_journal_open(MemberJournal *journal, const char *path, uint64_t size,
                             GError **error);
/* From HELLO: link is duplicated. */
gboolean member_journal_init(MemberJournal *journal, const District__MemberJournal *hello, int link,
                             GError **error);
void member_journal_clear(MemberJournal *journal);

/* Orders. If the engine has gone, or takes none, that is noted in ended_ns. */
void member_journal_set_mode(MemberJournal *journal, District__JournalMode mode);
void member_journal_end(MemberJournal *journal, uint64_t seq);
/* on: frozen says when that is so. */
void member_journal_freeze(MemberJournal *journal, bool on);

/*
 * The next news, checked, or NULL: there is none now, or the link has ended (ended_ns), because the
 * engine has gone, or with a warning because what it says cannot be. Confirmations are counted here
 * and not returned. Free with free_unpacked.
 */
District__JournalNews *member_journal_take(MemberJournal *journal, const char *member);

/* Read what is in the image. FALSE with error set. */
gboolean member_journal_read(const MemberJournal *journal, uint64_t offset, uint8_t *data,
                             size_t len, GError **error);

#endif
