/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journals of the members on their way to the standby; journals.c has the theory of operation.
 * Coordinator thread only.
 */
#ifndef DISTRICT_CKPT_JOURNALS_H
#define DISTRICT_CKPT_JOURNALS_H

#include "ckpt/disk-sync.h"

#include <stdbool.h>

struct Coordinator;

/* journals.c has the moves. */
typedef enum {
    JOURNALS_OFF,        /* no stream */
    JOURNALS_OPENING,    /* engines are asked to tell of writes */
    JOURNALS_COPYING,    /* what the images hold is sent, and what is written meanwhile */
    JOURNALS_CLOSING,    /* engines are told to let writes wait */
    JOURNALS_PUBLISHING, /* the copies are to take the place of what the standby had */
    JOURNALS_LIVE,       /* a write ends when the standby has it */
} JournalsPhase;

typedef struct Journals {
    JournalsPhase phase;
    uint64_t sent;     /* seq of the last JOURNAL record of this stream */
    uint64_t acked;    /* up to here they are durable at the standby */
    uint64_t awaited;  /* COPYING: of the end of the copy, 0 before; PUBLISHING: of PUBLISH */
    int64_t waited_ns; /* since when nothing that was sent has been acknowledged */
    DiskSync *copy;    /* COPYING: the reader of the images */
    GQueue told; /* of writes told of by engines that may have to be told their end, in order */
} Journals;

/* Is there any? */
bool journals_are(const struct Coordinator *c);
/* Take what engines tell on their links, which are not to be polled while this is full. */
void journals_take(struct Coordinator *c);
bool journals_full(const struct Coordinator *c);
void journals_tick(struct Coordinator *c, int64_t now);

/* The stream is up, or goes (before it is released). */
void journals_stream_up(struct Coordinator *c);
void journals_stream_down(struct Coordinator *c);
void journals_ack(struct Coordinator *c, uint64_t seq);
/* Would what the standby may commit from here on find the journals there? */
bool journals_ready(const struct Coordinator *c);
/* The district counts as unprotected from now on: its output was released. */
void journals_release(struct Coordinator *c);
/* For how long the standby has not acknowledged what was sent; 0: nothing is waited for. */
int64_t journals_stalled_ns(const struct Coordinator *c, int64_t now);

#endif
