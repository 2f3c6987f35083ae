/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rules that keep at most one incarnation of a district running, as pure functions of what two
 * hosts say about it.
 */
#ifndef DISTRICT_CONTROL_INCARNATION_H
#define DISTRICT_CONTROL_INCARNATION_H

#include <glib.h>
#include <stdint.h>

/* What a host says about a district. */
typedef struct Claim {
    uint64_t incarnation; /* the highest that the host has written down; 0: it knows none */
    gboolean home;        /* the district's home is there, whether it runs or not */
    gboolean active;      /* members run there, or are about to */
} Claim;

typedef enum {
    VERDICT_KEEP,       /* nothing that the other host says stands against ours */
    VERDICT_SUPERSEDED, /* a newer life is over there: end ours at once */
} Verdict;

typedef enum {
    HANDOVER_WAIT,   /* the target is at it */
    HANDOVER_GIVEN,  /* the target has it: end ours for good */
    HANDOVER_RETURN, /* the target does not have it and will not: take back */
} HandoverVerdict;

/* The highest number that is taken from elsewhere: no life gets there, and there is room above it. */
#define INCARNATION_MAX ((uint64_t)1 << 48)

/* The number of a new incarnation: above every number that was ever seen. */
uint64_t incarnation_next(uint64_t own, uint64_t seen);

/* Take a number that another host has said. FALSE: it cannot be one, and *incarnation stays. */
gboolean incarnation_take(gint64 said, uint64_t *incarnation);

/*
 * Our claim against a peer's. Two active claims to the same number come from a forced start, or from
 * a start and a take-over that have crossed; then the host whose name sorts first keeps it, which
 * both sides decide alike.
 */
Verdict incarnation_judge(const Claim *own, const char *own_host, const Claim *peer,
                          const char *peer_host);

/* The same when our standby asks us to end for number: its claim to it may come before or after. */
Verdict incarnation_judge_takeover(const Claim *own, const char *own_host, uint64_t number,
                                   const char *peer_host);

/* Must the peer, whose claim this is, hear ours at once, not at our next change? It runs what has a
 * newer life here, or one with the same number. */
gboolean incarnation_must_answer(const Claim *own, const Claim *peer);

/* What a standby knows of its home's silence; CLOCK_MONOTONIC, ns; 0: never. */
typedef struct Silence {
    int64_t stream_lost_ns; /* when the stream was lost or fell silent */
    int64_t heard_ns;       /* when the home was last heard on any other path */
    int64_t stalled_ns;     /* when this host last stood still itself: the end of it */
} Silence;

/*
 * May the standby promote itself after patience_ns of silence on all paths? Not if it has never
 * heard the home: then it knows too little to act alone. Not on account of time in which it stood
 * still itself: the home has its whole time again from then on.
 */
gboolean incarnation_may_promote(const Silence *silence, int64_t now_ns, int64_t patience_ns);

/*
 * After a hand-over of which no answer came: ended is the incarnation that was ended here, target
 * what the target says now.
 */
HandoverVerdict incarnation_judge_handover(uint64_t ended, const Claim *target);

#endif
