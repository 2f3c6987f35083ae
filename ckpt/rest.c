/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rest. While no guest does anything, what has been cut last is what there is, and another cut would
 * be of no use to anyone: cuts fall out until a guest stirs. The engines tell when (vmm/stir.h): the
 * next cut is then made when it would have been made without the rest, so that no write is older when
 * it is cut, and no output is held for longer.
 *
 * An engine watches from a cut on, so the cut before it must have shown that it may be worth it.
 */
#include "ckpt/coordinator-internal.h"

/* Guests that wrote no more between two cuts may rest after the next one: pages for each. */
#define REST_PAGES 64
/* Even so there is a cut at last. */
#define REST_MAX_NS (10 * NS_PER_S)
/* After rests that were of no use so many cuts pass before another one is tried, at most. */
#define REST_PASS_MAX 31

/* Nothing else is to be done for which cuts or harvests are needed. */
static bool
rest_possible(const Coordinator *c, int64_t now)
{
    return c->run == RUN_RUNNING && c->stream && c->stream->phase == TARGET_STEADY && !c->file &&
           !(c->persist && c->persist->full) && !persist_cut_due(c, now) &&
           netctl_connected(c->net);
}

static bool
rest_watched(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (member_is_on(c->members[i]) && c->members[i]->stir_fd < 0)
            return false;
    }
    return members_on(c) > 0;
}

bool
rest_wanted(Coordinator *c, int64_t now)
{
    if (c->epoch_pages > (uint64_t)REST_PAGES * members_on(c) || !rest_possible(c, now) ||
        !rest_watched(c))
        return false;
    if (c->rest_pass == 0)
        return true;
    c->rest_pass--;
    return false;
}

void
rest_begin(Coordinator *c)
{
    c->rest_until_ns = clock_monotonic_ns() + REST_MAX_NS;
}

bool
rest_holds(const Coordinator *c, int64_t now)
{
    return now < c->rest_until_ns && rest_possible(c, now);
}

/* The beat goes on where it would be. A rest that has saved no cut was not worth it, nor will be the
 * next one: guests compute, and write little. */
static void
rest_end(Coordinator *c, int64_t now)
{
    int64_t interval = cut_interval_ns(c), late = now - c->next_cut_ns;

    c->rest_until_ns = 0;
    if (late <= 0) {
        c->rest_futile = MIN(2 * c->rest_futile + 1, REST_PASS_MAX);
        c->rest_pass = c->rest_futile;
        return;
    }
    c->rest_futile = 0;
    c->next_cut_ns += (late + interval - 1) / interval * interval;
    c->next_harvest_ns = MIN(now + harvest_interval_ns(c), c->next_cut_ns);
}

void
rest_stir(Coordinator *c)
{
    /* What made the descriptor readable is taken back by the engine when it is to watch again; it is not
     * looked at before, and nobody here reads from what an engine has passed. */
    if (c->rest_until_ns != 0)
        rest_end(c, clock_monotonic_ns());
}
