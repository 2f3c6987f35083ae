/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What district-ckpt asks of district-net, and what it does when that refuses, hangs or forgets
 * half of its answer: no cut is made, nobody stands still for it, output is neither let out too
 * early nor held for ever.
 */
#include "ckpt-rig.h"

#include "common/clock.h"

#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define OP(name) DISTRICT__NET_REQUEST__OP_##name
#define EVENT(name) DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_##name
#define INTERVAL_US 10000
#define DETACH_MS 20000 /* longer than any hang here */
#define POLL_US 5000
#define LIMIT_US 20000000
#define SLOW_MS 200 /* to pause a member */

static const FakeMemberConfig calm = {.ram_size = 4 * MIB, .writes_per_ms = 5};
static const FakeMemberConfig slow = {
    .ram_size = 4 * MIB, .writes_per_ms = 5, .pause_delay_ms = SLOW_MS};

static Rig *
rig_running(const FakeMemberConfig *like)
{
    Rig *rig = rig_new(2, like);

    rig_add_net(rig);
    rig_run(rig);
    rig_start(rig);
    return rig;
}

static Rig *
rig_protected(unsigned detach_after_ms)
{
    Rig *rig = rig_running(&calm);

    rig_protect(rig, INTERVAL_US, detach_after_ms);
    rig_wait_event(rig, EVENT(PROTECTED));
    return rig;
}

static void
wait_count_above(Rig *rig, FakeNetOp op, unsigned count)
{
    for (int i = 0; i < LIMIT_US / POLL_US && fake_net_count(rig->net, op) <= count; i++)
        g_usleep(POLL_US);
    g_assert_cmpuint(fake_net_count(rig->net, op), >, count);
}

static void
wait_holds(Rig *rig, bool holds)
{
    for (int i = 0; i < LIMIT_US / POLL_US && fake_net_holds(rig->net) != holds; i++)
        g_usleep(POLL_US);
    g_assert_true(fake_net_holds(rig->net) == holds);
}

/* Both run; a cut may hold them for a moment. */
static void
assert_goes_on(Rig *rig)
{
    for (guint i = 0; i < rig->n_members; i++) {
        uint64_t writes = fake_member_writes(rig->members[i]);
        for (int k = 0; k < LIMIT_US / POLL_US && fake_member_writes(rig->members[i]) == writes;
             k++)
            g_usleep(POLL_US);
        g_assert_cmpuint(fake_member_writes(rig->members[i]), >, writes);
    }
}

/* ---- Cuts ---- */

static const FakeNetOp cut_ops[] = {OP(CUT_BEGIN), OP(CUT_MEMBER), OP(CUT_END)};

/* Every cut fails at op for a while: each is called off, the members run, nothing is committed. */
static void
fail_cuts(Rig *rig, FakeNetOp op, FakeNetAnswer answer)
{
    unsigned aborted, good;

    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    fake_net_answer(rig->net, op, answer);
    aborted = fake_net_count(rig->net, OP(CUT_ABORT));
    wait_count_above(rig, OP(CUT_ABORT), aborted + 1);
    good = fake_standby_good(rig->standby);
    wait_count_above(rig, OP(CUT_ABORT), aborted + 3);
    assert_goes_on(rig);
    /* One cut may have been on its way when this began. */
    g_assert_cmpuint(fake_standby_good(rig->standby), <=, good + 1);
    fake_net_answer(rig->net, op, FAKE_NET_DO);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
}

static void
test_cut_refused(void)
{
    Rig *rig = rig_protected(DETACH_MS);

    for (guint i = 0; i < G_N_ELEMENTS(cut_ops); i++)
        fail_cuts(rig, cut_ops[i], FAKE_NET_REFUSE);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

static void
test_cut_without_state(void)
{
    Rig *rig = rig_protected(DETACH_MS);

    fail_cuts(rig, OP(CUT_END), FAKE_NET_NO_STATE);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

/* It says nothing until the time limit has passed; then the connection is made anew. */
static void
hang_cut(Rig *rig, FakeNetOp op)
{
    unsigned told = fake_net_count(rig->net, OP(MODE));

    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    fake_net_answer(rig->net, op, FAKE_NET_HANG);
    wait_count_above(rig, op, fake_net_count(rig->net, op));
    fake_net_answer(rig->net, op, FAKE_NET_DO);
    /* One that has been started anew has to be told to hold. */
    wait_count_above(rig, OP(MODE), told);
    g_assert_true(fake_net_holds(rig->net));
    assert_goes_on(rig);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
}

static void
test_cut_hangs(void)
{
    Rig *rig = rig_protected(DETACH_MS);

    for (guint i = 0; i < G_N_ELEMENTS(cut_ops); i++)
        hang_cut(rig, cut_ops[i]);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

/* Cuts fail at their end, and members have stood still for SLOW_MS then: they run most of the time
 * nevertheless. */
static void
fail_slow_cuts(Rig *rig)
{
    wait_count_above(rig, OP(CUT_ABORT), fake_net_count(rig->net, OP(CUT_ABORT)));
    int64_t since = clock_monotonic_ns();
    uint64_t pauses = fake_member_pauses(rig->members[0]);
    g_usleep(3 * G_USEC_PER_SEC);
    pauses = fake_member_pauses(rig->members[0]) - pauses;
    int64_t ms = (clock_monotonic_ns() - since) / NS_PER_MS;
    g_test_message("%" G_GUINT64_FORMAT " cuts in %" G_GINT64_FORMAT " ms", pauses, ms);
    g_assert_cmpint((int64_t)pauses * SLOW_MS, <, ms / 2);
    fake_net_answer(rig->net, OP(CUT_END), FAKE_NET_DO);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 2);
}

static void
test_rest_before_the_first_cut(void)
{
    Rig *rig = rig_running(&slow);

    fake_net_answer(rig->net, OP(CUT_END), FAKE_NET_REFUSE);
    rig_protect(rig, INTERVAL_US, DETACH_MS);
    fail_slow_cuts(rig);
    rig_free(rig);
}

static void
test_rest_between_cuts(void)
{
    Rig *rig = rig_running(&slow);

    rig_protect(rig, INTERVAL_US, DETACH_MS);
    rig_wait_event(rig, EVENT(PROTECTED));
    fake_net_answer(rig->net, OP(CUT_END), FAKE_NET_REFUSE);
    fail_slow_cuts(rig);
    rig_free(rig);
}

/* A checkpoint file waits for its cut as the stream does. */
static void
test_file_waits(void)
{
    Rig *rig = rig_running(&calm);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckpointRequest checkpoint = DISTRICT__CKPT_CHECKPOINT_REQUEST__INIT;
    g_autofree char *path = g_build_filename(rig->dir, "one.ckpt", NULL);
    int fd = rig_create(path);

    fake_net_answer(rig->net, OP(CUT_MEMBER), FAKE_NET_REFUSE);
    checkpoint.path = path;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECKPOINT;
    request.checkpoint = &checkpoint;
    rig_send(rig, &request, &fd, 1);
    close(fd);
    wait_count_above(rig, OP(CUT_ABORT), 2);
    assert_goes_on(rig);
    fake_net_answer(rig->net, OP(CUT_MEMBER), FAKE_NET_DO);
    District__CkptReply *reply = rig_receive(rig, 20000);
    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    rig_free(rig);
}

/* ---- Commits ---- */

static void
test_commit_refused(void)
{
    Rig *rig = rig_protected(DETACH_MS);
    unsigned commits = fake_net_count(rig->net, OP(COMMIT));

    fake_net_answer(rig->net, OP(COMMIT), FAKE_NET_REFUSE);
    wait_count_above(rig, OP(COMMIT), commits + 5);
    uint64_t released = fake_net_committed(rig->net);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    /* The next one that is taken releases what the refused ones should have. */
    fake_net_answer(rig->net, OP(COMMIT), FAKE_NET_DO);
    for (int i = 0; i < LIMIT_US / POLL_US && fake_net_committed(rig->net) <= released; i++)
        g_usleep(POLL_US);
    g_assert_cmpuint(fake_net_committed(rig->net), >, released);
    assert_goes_on(rig);
    rig_free(rig);
}

/* ---- Holding output ---- */

static void
test_holds_from_the_first_cut(void)
{
    Rig *rig = rig_running(&calm);

    wait_holds(rig, false);
    fake_net_answer(rig->net, OP(MODE), FAKE_NET_REFUSE);
    unsigned told = fake_net_count(rig->net, OP(MODE));
    rig_protect(rig, INTERVAL_US, DETACH_MS);
    wait_count_above(rig, OP(MODE), told + 1);
    /* Nothing is cut that cannot be held. */
    g_assert_cmpuint(fake_net_count(rig->net, OP(CUT_BEGIN)), ==, 0);
    assert_goes_on(rig);
    fake_net_answer(rig->net, OP(MODE), FAKE_NET_DO);
    rig_wait_event(rig, EVENT(PROTECTED));
    g_assert_true(fake_net_holds(rig->net));
    g_assert_cmpuint(fake_net_loose_cuts(rig->net), ==, 0);
    rig_free(rig);
}

static void
test_released(void)
{
    Rig *rig = rig_protected(600);

    fake_standby_hang(rig->standby, true);
    rig_wait_event(rig, EVENT(DETACHED));
    g_assert_false(fake_net_holds(rig->net));
    fake_standby_drop(rig->standby);
    fake_standby_hang(rig->standby, false);
    wait_holds(rig, true);
    rig_unprotect(rig);
    g_assert_false(fake_net_holds(rig->net));
    assert_goes_on(rig);
    rig_free(rig);
}

static void
test_superseded_never_released(void)
{
    Rig *rig = rig_protected(600);

    fake_standby_refuse(rig->standby, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_SUPERSEDED);
    rig_wait_event(rig, EVENT(SUPERSEDED));
    rig_unprotect(rig);
    g_usleep(1000000);
    g_assert_true(fake_net_holds(rig->net));
    rig_free(rig);
}

/* Killed between the end of a hand-over and what it was to tell district-net. */
static void
test_told_again_after_a_kill(void)
{
    Rig *rig = rig_protected(DETACH_MS);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptHandOverRequest hand_over = DISTRICT__CKPT_HAND_OVER_REQUEST__INIT;
    unsigned told = fake_net_count(rig->net, OP(MODE));

    fake_net_answer(rig->net, OP(MODE), FAKE_NET_HANG);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_HAND_OVER;
    request.hand_over = &hand_over;
    District__CkptReply *reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    wait_count_above(rig, OP(MODE), told);
    rig_kill(rig);
    fake_net_answer(rig->net, OP(MODE), FAKE_NET_DO);
    g_assert_true(fake_net_holds(rig->net));
    rig_run(rig);
    g_assert_false(fake_member_running(rig->members[0]));
    rig_start(rig);
    wait_holds(rig, false);
    assert_goes_on(rig);
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/netctl/a cut that is refused is called off and made later", test_cut_refused);
    g_test_add_func("/netctl/a cut whose state does not come is called off",
                    test_cut_without_state);
    g_test_add_func("/netctl/a cut that is not answered is given up after the time limit",
                    test_cut_hangs);
    g_test_add_func("/netctl/members run most of the time while the first cut of a stream fails",
                    test_rest_before_the_first_cut);
    g_test_add_func("/netctl/members run most of the time while cuts of a stream fail",
                    test_rest_between_cuts);
    g_test_add_func("/netctl/a checkpoint file waits for a cut that can be made", test_file_waits);
    g_test_add_func("/netctl/a commit that is refused is made up for by the next",
                    test_commit_refused);
    g_test_add_func("/netctl/output is held before the cut that completes a sync, or there is none",
                    test_holds_from_the_first_cut);
    g_test_add_func("/netctl/output is released when there is nobody to commit to", test_released);
    g_test_add_func("/netctl/what a superseded district holds is never released",
                    test_superseded_never_released);
    g_test_add_func("/netctl/output held for a killed predecessor is released in the end",
                    test_told_again_after_a_kill);
    return g_test_run();
}
