/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of the members' journals, as of one moment of all of them, to files of the client's: for a
 * clone or an export. Coordinator thread only.
 *
 * Theory of operation. A thread copies the images while they are written to (DRAFT), so that most is
 * there. Then all engines are told to begin no write (FREEZING). When none is under way anywhere the
 * thread goes over them again (FINAL) and writes what has become different: only for that long, mostly
 * as fast as memory can be compared, writes of guests wait. Engines are thawed, and the copies made
 * durable (SYNCING). Writes that wait for the standby are on this host's disk, and in the copy.
 *
 *   OFF -> DRAFT -> FREEZING -> FINAL -> SYNCING -> OFF
 *            '--------'----------'---------'-> LEFT -> OFF
 *
 * Every phase has a limit. Whatever goes wrong, engines are thawed; one whose client is gone thaws by
 * itself.
 */
#ifndef DISTRICT_CKPT_JOURNALS_COPY_H
#define DISTRICT_CKPT_JOURNALS_COPY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct ControlRequest;
struct Coordinator;

typedef enum {
    JOURNALS_COPY_OFF,
    JOURNALS_COPY_DRAFT,
    JOURNALS_COPY_FREEZING,
    JOURNALS_COPY_FINAL,
    JOURNALS_COPY_SYNCING,
    JOURNALS_COPY_LEFT, /* the request has been answered, the thread is not done yet */
} JournalsCopyPhase;

typedef struct JournalsCopy {
    JournalsCopyPhase phase;
    struct ControlRequest *request;
    struct CopyWork *work;
    int64_t deadline_ns; /* of the phase */
} JournalsCopy;

/* CkptCopyJournalsRequest; takes request. */
void journals_copy_request(struct Coordinator *c, struct ControlRequest *request);
void journals_copy_tick(struct Coordinator *c, int64_t now);
/* The thread has done what it was at. */
void journals_copy_worked(struct Coordinator *c);
/* The end of the coordinator: the request fails. FALSE: the thread is still there, and cannot be waited
 * for. */
bool journals_copy_abandon(struct Coordinator *c);

#endif
