/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules that keep at most one incarnation of a district running. */
#include "control/incarnation.h"

#include <string.h>

uint64_t
incarnation_next(uint64_t own, uint64_t seen)
{
    return MAX(own, seen) + 1;
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

HandoverVerdict
incarnation_judge_handover(uint64_t ended, const Claim *target)
{
    if (target->home && target->incarnation > ended)
        return HANDOVER_GIVEN;
    return target->active ? HANDOVER_WAIT : HANDOVER_RETURN;
}
