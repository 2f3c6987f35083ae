/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All members at once: resume, pause, quit, and what to do when one is lost. */
#include "ckpt/coordinator-internal.h"
#include "ckpt/member-hello.h"

#define QUIT_TIMEOUT_MS 2000
/* An engine stays for 2 s after its guest has powered itself off. */
#define DESCRIBE_INTERVAL_NS (500 * NS_PER_MS)
/* One that powers itself off stirs. */
#define REST_DESCRIBE_NS (5 * NS_PER_S)

bool
member_is_on(const Member *member)
{
    return member->fd >= 0;
}

uint32_t
members_on(const Coordinator *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++)
        n += member_is_on(c->members[i]);
    return n;
}

bool
member_is_listed(const Member *member)
{
    return member_is_on(member) || member_overlays(member) > 0;
}

uint32_t
members_listed(const Coordinator *c, uint32_t *wire_index)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        bool listed = member_is_listed(c->members[i]);
        if (wire_index)
            wire_index[i] = listed ? n : WIRE_INDEX_NONE;
        n += listed;
    }
    return n;
}

bool
members_settle(Coordinator *c, GError **errors)
{
    bool ok = true;

    for (uint32_t i = 0; i < c->n_members; i++) {
        ok = ok && !errors[i];
        if (errors[i])
            members_trouble(c, c->members[i], errors[i]);
    }
    return ok;
}

bool
members_resume(Coordinator *c)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError **errors = g_newa0(GError *, c->n_members);
    int64_t resumed_ns;

    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        if (member_is_on(m) && m->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED)
            asked[i] = member_send_resume(m, false, &errors[i]);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_resume(c->members[i], &resumed_ns, &errors[i]);
    }
    return members_settle(c, errors);
}

/* PAUSE all that run (hold: all), without saving state; goes on past failures. */
static void
members_pause_all(Coordinator *c, bool hold, GError **errors)
{
    bool *asked = g_newa0(bool, c->n_members);
    District__MemberPauseReply pause;

    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        bool wanted = m->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING ||
                      (hold && m->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED);
        asked[i] = member_is_on(m) && wanted && member_send_pause(m, false, hold, &errors[i]);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_pause(c->members[i], &pause, &errors[i]);
    }
}

bool
members_pause(Coordinator *c)
{
    GError **errors = g_newa0(GError *, c->n_members);

    members_pause_all(c, false, errors);
    return members_settle(c, errors);
}

void
members_hold(Coordinator *c)
{
    GError **errors = g_newa0(GError *, c->n_members);

    members_pause_all(c, true, errors);
    /* The district is over here, with or without them. */
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (errors[i])
            g_warning("%s", errors[i]->message);
        g_clear_error(&errors[i]);
    }
}

uint32_t
members_power_button(Coordinator *c, char **names)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError **errors = g_newa0(GError *, c->n_members);
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        if (member_is_on(c->members[i]))
            asked[i] = member_send_power_button(c->members[i], &errors[i]);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        bool heard = false;
        if (asked[i])
            member_collect_power_button(c->members[i], &heard, &errors[i]);
        if (heard)
            names[n++] = c->members[i]->name;
    }
    members_settle(c, errors);
    return n;
}

void
members_quit(Coordinator *c)
{
    bool *asked = g_newa0(bool, c->n_members);

    for (uint32_t i = 0; i < c->n_members; i++)
        asked[i] = member_is_on(c->members[i]) && member_send_quit(c->members[i], NULL);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_quit(c->members[i], QUIT_TIMEOUT_MS, NULL);
    }
}

void
members_fail_district(Coordinator *c, const char *why)
{
    /* A member that waits for memory that cannot be read is lost because of that. */
    if (lazy_failure(c))
        why = lazy_failure(c);
    g_free(c->run_error);
    c->run_error = g_strdup(why);
    life_hand_over_refuse(c, why);
    if (!coordinator_move(c, RUN_FAILED))
        return;
    members_hold(c);
    checkpoint_fail(c, why);
    g_warning("the district has failed: %s", why);
}

static uint32_t
members_index(const Coordinator *c, const Member *member)
{
    uint32_t i = 0;

    while (c->members[i] != member)
        i++;
    return i;
}

static void
members_mark_off(Coordinator *c, Member *member)
{
    member->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
    member_retire(member);
    disks_own_homes(c, members_index(c, member));
    if (!member_is_listed(member))
        persist_members_changed(c);
    else
        persist_soon(c);
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF, member->name, "", 0);
}

void
members_leave_off(Coordinator *c, const bool *off)
{
    bool *asked = g_newa0(bool, c->n_members);

    for (uint32_t i = 0; i < c->n_members; i++)
        asked[i] = off[i] && member_send_quit(c->members[i], NULL);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_quit(c->members[i], QUIT_TIMEOUT_MS, NULL);
        if (!off[i])
            continue;
        g_message("member %s: was off at the checkpoint, and stays off", c->members[i]->name);
        members_mark_off(c, c->members[i]);
    }
}

/* A guest powered itself off: the others go on without it. */
static void
members_off(Coordinator *c, Member *member)
{
    g_message("member %s: the guest powered itself off", member->name);
    disks_member_off(c, members_index(c, member));
    members_mark_off(c, member);
    checkpoint_fail(c, "a member powered itself off while the checkpoint was being taken");
    if (members_on(c) > 0) {
        protect_restart(c, "a member powered itself off");
        return;
    }
    protect_unprotect(c);
    /* What is on the disks is to be in a checkpoint before the end. */
    if (c->n_disks == 0 || !c->persist)
        coordinator_move(c, RUN_WAITING);
}

/* Did the guest power itself off? Asks the engine if it still answers. */
static bool
members_is_shut_down(Member *member, const GError *error)
{
    District__MemberState state = member->run_state;

    if (g_error_matches(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED))
        member_describe(member, &state, NULL, NULL);
    return state == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
}

void
members_trouble(Coordinator *c, Member *member, GError *error)
{
    if (members_is_shut_down(member, error)) {
        members_off(c, member);
    } else if (g_error_matches(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED) && member_is_on(member)) {
        if (!member->refuses)
            g_warning("%s", error->message);
        member->refuses = true;
    } else {
        /* A guest that waits for a page that cannot be read is not lost by itself. */
        const char *damage = lazy_failure(c);
        const char *why = damage != NULL ? damage : error->message;
        member_disconnect(member);
        member->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_UNKNOWN;
        coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_LOST, member->name, why,
                          0);
        members_fail_district(c, why);
    }
    g_error_free(error);
}

void
members_check_idle(Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        GError *error = NULL;
        if (member_is_on(c->members[i]) && !member_check_idle(c->members[i], &error))
            members_trouble(c, c->members[i], error);
    }
}

/* It is told once, when it begins. */
static void
members_tell_waiting(Coordinator *c, const Member *m, bool waited)
{
    if (!m->waiting || waited)
        return;
    g_warning("member %s: %s", m->name, m->waiting);
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_WAITS, m->name, m->waiting,
                      0);
}

void
members_describe_tick(Coordinator *c, int64_t now)
{
    if (now < c->next_describe_ns + (rest_holds(c, now) ? REST_DESCRIBE_NS : 0))
        return;
    c->next_describe_ns = now + DESCRIBE_INTERVAL_NS;
    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        District__MemberState state = DISTRICT__MEMBER_STATE__MEMBER_STATE_UNKNOWN;
        GError *error = NULL;
        bool waited = m->waiting != NULL;
        if (!member_is_on(m))
            continue;
        if (!member_describe(m, &state, NULL, &error))
            members_trouble(c, m, error);
        else if (state == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
            members_off(c, m);
        else
            members_tell_waiting(c, m, waited);
    }
}
