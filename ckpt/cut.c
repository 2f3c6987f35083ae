/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cut. All members are asked to pause at once; as each one's answer arrives, its port changes
 * colour at district-net, the residue of its last harvest and its state blob are copied, and it is
 * resumed: no member waits for another. What is copied while a member stands still is only what it
 * dirtied since the harvest just before.
 */
#include "ckpt/coordinator-internal.h"

#include "common/trace.h"
#include "common/urgent.h"

#include <poll.h>
#include <string.h>

/* Harvests just before the cut: repeated while they still find much, so that little is left. */
#define PRECUT_HARVESTS_MAX 4
#define PRECUT_PAGES_ENOUGH 64
/* Left out if all that the last cut found, with its own harvests, was no more than this: copying so
 * little takes less time than a harvest more, and guests pay for each with faults. But not if the
 * epoch has this many, and harvests have ended. */
#define PRECUT_PAGES_FEW 256
#define PRECUT_PAGES_MANY 1024
#define NET_RETRY_NS (100 * NS_PER_MS)
/* Between two cuts guests have at least this many times as long as they stood still. */
#define CUT_REST 9
#define CUT_REST_MAX_NS NS_PER_S
/* Of the running median of pauses: a part of itself, in ns at least. */
#define PAUSE_STEP 16

typedef enum { MEMBER_OUT, MEMBER_ASKED, MEMBER_STOPPED, MEMBER_RESUMING } MemberStep;

typedef struct Cut {
    Coordinator *c;
    Epoch *epoch;
    bool leave_paused;
    bool watch;        /* the members that are resumed */
    int64_t precut_ns; /* that the harvests just before it took */
    int64_t asked_ns;  /* when members were asked to pause */
    MemberStep *steps;
    GError **errors; /* per member */
    GError *net_error;
} Cut;

/* Nothing here may be slow: guests run, but the shorter this is, the smaller the residue. */
static bool
cut_prepare(Coordinator *c)
{
    uint64_t pages, before = UINT64_MAX;

    c->cut_pages = 0;
    if (c->cut_few && !(harvest_spent(c) && staging_pages(c->staging) > PRECUT_PAGES_MANY))
        return true;
    for (int i = 0; i < PRECUT_HARVESTS_MAX; i++) {
        if (!harvest_all(c, &pages))
            return false;
        /* What the guests dirty while this thread waits for a CPU would be left for the pause. */
        urgent_set(0, true);
        c->cut_pages += pages;
        if (pages <= PRECUT_PAGES_ENOUGH || pages > before / 2)
            break;
        before = pages;
    }
    return true;
}

/* Members that are off are cut as they are: district-net wants to hear of every one. */
static bool
cut_begin_net(Cut *cut)
{
    Coordinator *c = cut->c;

    if (!netctl_cut_begin(c->net, cut->epoch->cut, &cut->net_error))
        return false;
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!member_is_on(c->members[i]) &&
            (!netctl_cut_member_send(c->net, cut->epoch->cut, c->members[i]->name,
                                     &cut->net_error) ||
             !netctl_cut_member_wait(c->net, &cut->net_error)))
            return false;
    }
    return true;
}

static bool
cut_ask(Cut *cut)
{
    Coordinator *c = cut->c;
    bool ok = true;

    cut->asked_ns = clock_monotonic_ns();
    trace_cut_asked(cut->epoch->cut, members_on(c), cut->precut_ns);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!member_is_on(c->members[i]))
            continue;
        if (member_send_pause(c->members[i], true, false, &cut->errors[i]))
            cut->steps[i] = MEMBER_ASKED;
        else
            ok = false;
    }
    return ok;
}

/* The phases that the engine has timed, and the way here. */
static void
cut_take_times(EpochMember *em, const District__MemberPauseReply *pause, int64_t answered_ns)
{
    em->stopped_ns = (int64_t)pause->requested_ns;
    em->phase_ns[MEASURE_KICK] = (int64_t)(pause->vcpus_out_ns - pause->requested_ns);
    em->phase_ns[MEASURE_DEVICES] = (int64_t)(pause->devices_rest_ns - pause->vcpus_out_ns);
    em->phase_ns[MEASURE_SAVE] = (int64_t)(pause->saved_ns - pause->devices_rest_ns);
    em->phase_ns[MEASURE_HARVEST] = (int64_t)(pause->harvested_ns - pause->saved_ns);
    em->phase_ns[MEASURE_REPLY] = answered_ns - (int64_t)pause->harvested_ns;
}

/* The member has been resumed, which it was asked to at sent_ns: what is left is the time between. */
static void
cut_finish_times(EpochMember *em, int64_t sent_ns)
{
    int64_t known = 0;

    em->phase_ns[MEASURE_RESUME] = em->resumed_ns - sent_ns;
    em->phase_ns[MEASURE_STATE] = 0;
    for (unsigned i = 0; i < MEASURE_PHASES; i++)
        known += em->phase_ns[i];
    em->phase_ns[MEASURE_STATE] = em->resumed_ns - em->stopped_ns - known;
}

/* Member i has answered PAUSE: take its part of the cut and let it go. */
static bool
cut_member(Cut *cut, uint32_t i)
{
    Coordinator *c = cut->c;
    Member *m = c->members[i];
    EpochMember *em = &cut->epoch->members[i];
    District__MemberPauseReply pause;

    cut->steps[i] = MEMBER_OUT;
    if (!member_collect_pause(m, &pause, &cut->errors[i]))
        return false;
    int64_t answered_ns = clock_monotonic_ns();
    trace_cut_answered(cut->epoch->cut, m->name, answered_ns - m->sent_ns, pause.state_len);
    cut->steps[i] = MEMBER_STOPPED;
    if (!netctl_cut_member_send(c->net, cut->epoch->cut, m->name, &cut->net_error))
        return false;
    int64_t copy_ns = clock_monotonic_ns();
    page_copier_hurry(c->copier, true);
    em->residue_pages = harvest_take(c, i);
    page_copier_hurry(c->copier, false);
    c->cut_pages += em->residue_pages;
    em->phase_ns[MEASURE_RESIDUE] = clock_monotonic_ns() - copy_ns;
    trace_cut_residue(cut->epoch->cut, m->name, em->residue_pages, em->phase_ns[MEASURE_RESIDUE]);
    em->state = g_byte_array_sized_new((guint)pause.state_len);
    g_byte_array_append(em->state, m->state, (guint)pause.state_len);
    trace_cut_state(cut->epoch->cut, m->name, pause.state_len);
    cut_take_times(em, &pause, answered_ns);
    cut->epoch->cut_ns = MAX(cut->epoch->cut_ns, (int64_t)pause.vcpus_out_ns);
    if (!netctl_cut_member_wait(c->net, &cut->net_error))
        return false;
    trace_cut_coloured(cut->epoch->cut, m->name, clock_monotonic_ns() - answered_ns);
    if (cut->leave_paused)
        return true;
    cut->steps[i] = MEMBER_OUT;
    if (!member_send_resume(m, cut->watch, &cut->errors[i]))
        return false;
    cut->steps[i] = MEMBER_RESUMING;
    return true;
}

/* Take the members in the order in which they answer. */
static bool
cut_collect(Cut *cut)
{
    Coordinator *c = cut->c;
    g_autofree struct pollfd *polls = g_new0(struct pollfd, c->n_members);
    int64_t deadline = clock_monotonic_ns() + MEMBER_CALL_TIMEOUT_MS * NS_PER_MS;

    for (;;) {
        unsigned waiting = 0;
        for (uint32_t i = 0; i < c->n_members; i++) {
            bool asked = cut->steps[i] == MEMBER_ASKED;
            polls[i] = (struct pollfd){.fd = asked ? c->members[i]->fd : -1, .events = POLLIN};
            waiting += asked;
        }
        if (waiting == 0)
            return true;
        int64_t left = MAX(deadline - clock_monotonic_ns(), 0);
        bool expired = poll(polls, c->n_members, (int)(left / NS_PER_MS)) == 0;
        for (uint32_t i = 0; i < c->n_members; i++) {
            if (cut->steps[i] == MEMBER_ASKED && (polls[i].revents != 0 || expired) &&
                !cut_member(cut, i))
                return false;
        }
    }
}

static bool
cut_collect_resumed(Cut *cut)
{
    Coordinator *c = cut->c;
    bool ok = true;

    for (uint32_t i = 0; i < c->n_members; i++) {
        if (cut->steps[i] != MEMBER_RESUMING)
            continue;
        cut->steps[i] = MEMBER_OUT;
        EpochMember *em = &cut->epoch->members[i];
        if (!member_collect_resume(c->members[i], &em->resumed_ns, &cut->errors[i])) {
            ok = false;
            continue;
        }
        trace_cut_resumed(cut->epoch->cut, c->members[i]->name, em->resumed_ns - em->stopped_ns);
        cut_finish_times(em, c->members[i]->sent_ns);
    }
    return ok;
}

/* All members; the caller ends the hurry. */
static bool
cut_members(Cut *cut)
{
    urgent_set(0, true);
    return cut_ask(cut) && cut_collect(cut) && cut_collect_resumed(cut);
}

/* No cut: collect what was asked for, let the network and the members go on. */
static void
cut_abort(Cut *cut)
{
    Coordinator *c = cut->c;
    District__MemberPauseReply pause;

    for (uint32_t i = 0; i < c->n_members; i++) {
        if (cut->steps[i] == MEMBER_ASKED &&
            member_collect_pause(c->members[i], &pause, &cut->errors[i]))
            harvest_take(c, i);
    }
    cut_collect_resumed(cut);
    if (netctl_connected(c->net))
        netctl_cut_abort(c->net, cut->epoch->cut, NULL);
    if (cut->net_error) {
        g_warning("no cut was made: %s", cut->net_error->message);
        g_error_free(cut->net_error);
    }
    /* A member that powered itself off or refused must not leave the others standing. */
    members_settle(c, cut->errors);
    if (coordinator_runs(c))
        members_resume(c);
    epoch_unref(cut->epoch);
}

/* A median: one pause that was held up says nothing of the others. */
static void
cut_note_pause(Coordinator *c, int64_t pause_ns)
{
    int64_t step = c->pause_ns / PAUSE_STEP;

    if (c->pause_ns == 0)
        c->pause_ns = pause_ns;
    else
        c->pause_ns += pause_ns > c->pause_ns ? step : -step;
    c->pause_ns = MAX(c->pause_ns, PAUSE_STEP);
}

static void
cut_record_pause(Coordinator *c, const EpochMember *em, int64_t now)
{
    for (unsigned i = 0; i < MEASURE_PHASES; i++)
        coordinator_measure(c, (MeasureKind)i, em->phase_ns[i], now);
    coordinator_measure(c, MEASURE_PAUSE, em->resumed_ns - em->stopped_ns, now);
    coordinator_measure(c, MEASURE_RESIDUE_PAGES, (int64_t)em->residue_pages, now);
}

/* The first cut of a stream ends a full copy: it says nothing of those after it. */
static void
cut_note_pace(Coordinator *c, int64_t longest_ns, int64_t interval_ns)
{
    uint64_t faults = 0;

    for (uint32_t i = 0; i < c->n_members; i++)
        faults = MAX(faults, c->faults_of[i] / MAX(c->members[i]->vcpus, 1));
    memset(c->faults_of, 0, c->n_members * sizeof(*c->faults_of));
    if (c->stream && c->stream->phase == TARGET_STEADY)
        pace_cut(&c->protect.pace, longest_ns, faults, interval_ns);
}

static void
cut_record_times(Coordinator *c, const Epoch *epoch, bool leave_paused)
{
    int64_t first = INT64_MAX, last = 0, longest = 0, now = clock_monotonic_ns();

    if (members_on(c) == 0)
        return;
    for (uint32_t i = 0; i < c->n_members; i++) {
        const EpochMember *em = &epoch->members[i];
        if (!em->state)
            continue;
        first = MIN(first, em->stopped_ns);
        last = MAX(last, em->stopped_ns);
        if (leave_paused)
            continue;
        longest = MAX(longest, em->resumed_ns - em->stopped_ns);
        cut_record_pause(c, em, now);
    }
    if (!leave_paused) {
        cut_note_pause(c, longest);
        cut_note_pace(c, longest, epoch->cut_ns - c->last_cut_ns);
    }
    coordinator_measure(c, MEASURE_SKEW, last - first, now);
    if (c->last_cut_ns)
        coordinator_measure(c, MEASURE_INTERVAL, epoch->cut_ns - c->last_cut_ns, now);
    c->last_cut_ns = epoch->cut_ns;
}

bool
cut_make(Coordinator *c, bool leave_paused)
{
    Cut cut = {.c = c, .leave_paused = leave_paused};

    /* From the cut that completes a full sync on, output is held until it is committed. */
    if (c->stream && c->stream->phase == TARGET_COMPLETING && !protect_tell_net(c, true))
        return false;
    int64_t start = clock_monotonic_ns();
    cut.watch = !leave_paused && rest_wanted(c, start);
    c->rest_until_ns = 0;
    if (!cut_prepare(c)) {
        urgent_set(0, false);
        return false;
    }
    cut.precut_ns = clock_monotonic_ns() - start;
    cut.steps = g_newa0(MemberStep, c->n_members);
    cut.errors = g_newa0(GError *, c->n_members);
    cut.epoch = epoch_new(c->n_members);
    cut.epoch->cut = numbers_next(c);
    bool members_cut = cut_begin_net(&cut) && cut_members(&cut);
    urgent_set(0, false);
    if (!members_cut || !netctl_cut_end(c->net, cut.epoch->cut, &cut.epoch->net, &cut.net_error)) {
        cut_abort(&cut);
        return false;
    }
    trace_cut_end(cut.epoch->cut, clock_monotonic_ns() - cut.asked_ns);
    if (cut.epoch->cut_ns == 0) /* all members are off: their disks alone */
        cut.epoch->cut_ns = clock_monotonic_ns();
    cut.epoch->realtime_ns = clock_realtime_ns() - (clock_monotonic_ns() - cut.epoch->cut_ns);
    cut_record_times(c, cut.epoch, leave_paused);
    coordinator_measure(c, MEASURE_PRECUT, cut.precut_ns, start);
    c->last_cut = cut.epoch->cut;
    c->cut_few = c->cut_pages <= PRECUT_PAGES_FEW;
    c->harvested_again = 0;
    c->epoch_pages = staging_pages(c->staging);
    c->next_harvest_ns = clock_monotonic_ns() + harvest_interval_ns(c);
    freeze_epoch(c, cut.epoch);
    if (cut.watch)
        rest_begin(c);
    return true;
}

bool
cut_possible(const Coordinator *c)
{
    bool full = target_takes_cut(c->stream) && c->in_flight.length >= EPOCHS_IN_FLIGHT_MAX;

    return !full && staging_pool_ready(c->stagings) && netctl_connected(c->net);
}

static bool
cut_due(const Coordinator *c, int64_t now)
{
    if (c->stream && c->stream->phase == TARGET_COMPLETING)
        return true;
    if (c->stream && c->stream->phase == TARGET_STEADY)
        return now >= c->next_cut_ns || staging_pages(c->staging) > STAGING_SOFT_PAGES / 2;
    return persist_cut_due(c, now) || (c->file && c->file->phase == TARGET_COMPLETING);
}

/* district-net has been restarted or will be: try again, without waiting. */
void
cut_reach_net(Coordinator *c, int64_t now)
{
    g_autoptr(GError) error = NULL;

    netctl_check(c->net);
    if (netctl_connected(c->net) || now < c->net_retry_ns)
        return;
    c->net_retry_ns = now + NET_RETRY_NS;
    if (!netctl_connect(c->net, 0, &error))
        return;
    g_warning("district-net: connected again; connections across its loss may have to recover");
    /* It may have been started to hold (--hold) or not: say what is wanted in any case. */
    bool hold = c->protect.net_told != NET_TOLD_FREE;
    c->protect.net_told = NET_TOLD_UNKNOWN;
    protect_tell_net(c, hold);
}

/*
 * Pauses that are long (much residue, or a host that is short of CPU) would leave the guests no time
 * for their work at the interval asked for: it is stretched. What is done ahead of a cut does not
 * count, as guests run meanwhile. Interval=auto takes pauses into account already; there it is left to
 * see that a cut that took unusually long is not followed by the next one at once.
 */
static int64_t
cut_rest_ns(const Coordinator *c)
{
    if (c->protect.interval_ns == 0)
        return pace_interval_ns(&c->protect.pace) / 2;
    return MIN(c->pause_ns * CUT_REST, CUT_REST_MAX_NS);
}

int64_t
cut_interval_ns(const Coordinator *c)
{
    return c->protect.interval_ns ? c->protect.interval_ns : pace_interval_ns(&c->protect.pace);
}

int64_t
cut_interval_now_ns(const Coordinator *c)
{
    return MAX(cut_interval_ns(c), c->pause_ns + cut_rest_ns(c));
}

/* Members may have stood still all the time, and may do so again: they get the rest that a cut would
 * have given them, whoever waits for one. */
static void
cut_rest_failed(Coordinator *c, int64_t began_ns)
{
    int64_t now = clock_monotonic_ns();

    c->cut_retry_ns = now + CLAMP((now - began_ns) * CUT_REST, NET_RETRY_NS, CUT_REST_MAX_NS);
}

void
cut_tick(Coordinator *c, int64_t now)
{
    if (c->run != RUN_RUNNING || now < c->cut_retry_ns || !cut_due(c, now) || !cut_possible(c))
        return;
    /* Keep the beat; after a wait, start a new one. */
    c->next_cut_ns += cut_interval_ns(c);
    if (c->next_cut_ns < now)
        c->next_cut_ns = now + cut_interval_ns(c);
    if (cut_make(c, false))
        c->next_cut_ns = MAX(c->next_cut_ns, clock_monotonic_ns() + cut_rest_ns(c));
    else
        cut_rest_failed(c, now);
}
