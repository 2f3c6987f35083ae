/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules that keep at most one incarnation of a district running. */
#include "control/incarnation.h"

#include "common/clock.h"

#include <string.h>

/* A generous one between hosts. */
#define ROUND_TRIP_NS (500 * NS_PER_MS)

uint64_t
incarnation_next(uint64_t own, uint64_t seen)
{
    return MAX(own, seen) + 1;
}

gboolean
incarnation_take(gint64 said, uint64_t *incarnation)
{
    if (said < 0 || (uint64_t)said > INCARNATION_MAX)
        return FALSE;
    *incarnation = (uint64_t)said;
    return TRUE;
}

Verdict
incarnation_judge(const Claim *own, const char *own_host, const Claim *peer, const char *peer_host)
{
    /* A higher number that only records a failed attempt is nobody's life. */
    if (!own->home || !(peer->home || peer->active))
        return VERDICT_KEEP;
    if (peer->incarnation > own->incarnation)
        return VERDICT_SUPERSEDED;
    if (peer->incarnation == own->incarnation && peer->active && own->active)
        return strcmp(own_host, peer_host) <= 0 ? VERDICT_KEEP : VERDICT_SUPERSEDED;
    return VERDICT_KEEP;
}

Verdict
incarnation_judge_takeover(const Claim *own, const char *own_host, uint64_t number,
                           const char *peer_host)
{
    const Claim taking = {.incarnation = number, .active = TRUE};

    if (number > own->incarnation)
        return VERDICT_SUPERSEDED;
    return incarnation_judge(own, own_host, &taking, peer_host);
}

gboolean
incarnation_must_answer(const Claim *own, const Claim *peer)
{
    return peer->active && own->home && peer->incarnation <= own->incarnation;
}

gboolean
incarnation_may_promote(const Silence *silence, int64_t now_ns, int64_t patience_ns)
{
    if (silence->stream_lost_ns == 0 || silence->heard_ns == 0)
        return FALSE;
    if (silence->stalled_ns != 0 && now_ns - silence->stalled_ns < patience_ns + ROUND_TRIP_NS)
        return FALSE;
    return now_ns - silence->stream_lost_ns >= patience_ns &&
           now_ns - silence->heard_ns >= patience_ns;
}

HandoverVerdict
incarnation_judge_handover(uint64_t ended, const Claim *target)
{
    if (target->home && target->incarnation > ended)
        return HANDOVER_GIVEN;
    return target->active ? HANDOVER_WAIT : HANDOVER_RETURN;
}
