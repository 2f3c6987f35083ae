/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules that keep at most one incarnation running. */
#include "control/incarnation.h"
#include "common/clock.h"

static const Claim home_running_3 = {3, TRUE, TRUE};

static void
test_next(void)
{
    g_assert_cmpuint(incarnation_next(0, 0), ==, 1);
    g_assert_cmpuint(incarnation_next(3, 7), ==, 8);
    g_assert_cmpuint(incarnation_next(7, 3), ==, 8);
}

static void
test_impossible(void)
{
    uint64_t taken = 5;

    g_assert_false(incarnation_take(-1, &taken));
    g_assert_false(incarnation_take(G_MAXINT64, &taken));
    g_assert_false(incarnation_take((gint64)INCARNATION_MAX + 1, &taken));
    g_assert_cmpuint(taken, ==, 5);
    g_assert_true(incarnation_take((gint64)INCARNATION_MAX, &taken));
    g_assert_cmpuint(taken, ==, INCARNATION_MAX);
}

static void
test_newer_wins(void)
{
    const Claim newer = {4, TRUE, TRUE};
    const Claim newer_activating = {4, FALSE, TRUE};
    const Claim newer_stopped = {4, TRUE, FALSE};

    g_assert_cmpint(incarnation_judge(&home_running_3, "a", &newer, "b"), ==, VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge(&home_running_3, "a", &newer_activating, "b"), ==,
                    VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge(&home_running_3, "a", &newer_stopped, "b"), ==,
                    VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge(&newer, "b", &home_running_3, "a"), ==, VERDICT_KEEP);
}

static void
test_failed_attempt(void)
{
    const Claim standby = {4, FALSE, FALSE};

    g_assert_cmpint(incarnation_judge(&home_running_3, "a", &standby, "b"), ==, VERDICT_KEEP);
}

static void
test_standby_is_not_superseded(void)
{
    const Claim standby = {2, FALSE, FALSE};

    g_assert_cmpint(incarnation_judge(&standby, "b", &home_running_3, "a"), ==, VERDICT_KEEP);
}

static void
test_tie(void)
{
    g_assert_cmpint(incarnation_judge(&home_running_3, "a", &home_running_3, "b"), ==,
                    VERDICT_KEEP);
    g_assert_cmpint(incarnation_judge(&home_running_3, "b", &home_running_3, "a"), ==,
                    VERDICT_SUPERSEDED);
}

/* Whatever two hosts claim, never both and never neither of two running homes go on. */
static void
test_exactly_one(void)
{
    for (uint64_t x = 1; x < 4; x++) {
        for (uint64_t y = 1; y < 4; y++) {
            const Claim a = {x, TRUE, TRUE};
            const Claim b = {y, TRUE, TRUE};
            gboolean a_goes_on = incarnation_judge(&a, "a", &b, "b") == VERDICT_KEEP;
            gboolean b_goes_on = incarnation_judge(&b, "b", &a, "a") == VERDICT_KEEP;
            g_assert_true(a_goes_on != b_goes_on);
        }
    }
}

/* A start at the home and a take-over have chosen the same number: whether the home hears of it by the
 * request or by the claim first, one of the two goes on. */
static void
test_crossed_takeover(void)
{
    const Claim home = {4, TRUE, TRUE}, taking = {4, FALSE, TRUE};

    g_assert_cmpint(incarnation_judge_takeover(&home, "a", 4, "b"), ==, VERDICT_KEEP);
    g_assert_cmpint(incarnation_judge(&home, "a", &taking, "b"), ==, VERDICT_KEEP);
    g_assert_cmpint(incarnation_judge_takeover(&home, "b", 4, "a"), ==, VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge(&home, "b", &taking, "a"), ==, VERDICT_SUPERSEDED);
}

static void
test_takeover(void)
{
    const Claim failed = {3, TRUE, FALSE}, ended = {3, FALSE, FALSE};

    g_assert_cmpint(incarnation_judge_takeover(&home_running_3, "a", 4, "b"), ==,
                    VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge_takeover(&failed, "a", 4, "b"), ==, VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge_takeover(&ended, "a", 4, "b"), ==, VERDICT_SUPERSEDED);
    g_assert_cmpint(incarnation_judge_takeover(&home_running_3, "b", 2, "a"), ==, VERDICT_KEEP);
    g_assert_cmpint(incarnation_judge_takeover(&failed, "b", 3, "a"), ==, VERDICT_KEEP);
}

/* Both run the same number, and one has said so long ago: it says so again, and the other one hears. */
static void
test_answers(void)
{
    const Claim a = {4, TRUE, TRUE}, b = {4, TRUE, TRUE}, b_ended = {4, FALSE, FALSE};
    const Claim b_older = {3, TRUE, TRUE}, b_newer = {5, TRUE, TRUE};

    g_assert_true(incarnation_must_answer(&a, &b));
    g_assert_cmpint(incarnation_judge(&b, "b", &a, "a"), ==, VERDICT_SUPERSEDED);
    g_assert_true(incarnation_must_answer(&a, &b_older));
    /* That is the end of it. */
    g_assert_false(incarnation_must_answer(&a, &b_ended));
    g_assert_false(incarnation_must_answer(&b_ended, &a));
    g_assert_false(incarnation_must_answer(&a, &b_newer));
}

static void
test_handover(void)
{
    const Claim given = {4, TRUE, TRUE};
    const Claim given_failed_since = {4, TRUE, FALSE};
    const Claim at_it = {4, FALSE, TRUE};
    const Claim refused = {4, FALSE, FALSE};
    const Claim never_heard = {3, FALSE, FALSE};

    g_assert_cmpint(incarnation_judge_handover(3, &given), ==, HANDOVER_GIVEN);
    g_assert_cmpint(incarnation_judge_handover(3, &given_failed_since), ==, HANDOVER_GIVEN);
    g_assert_cmpint(incarnation_judge_handover(3, &at_it), ==, HANDOVER_WAIT);
    g_assert_cmpint(incarnation_judge_handover(3, &refused), ==, HANDOVER_RETURN);
    g_assert_cmpint(incarnation_judge_handover(3, &never_heard), ==, HANDOVER_RETURN);
}

#define S NS_PER_S

static void
test_promotion(void)
{
    const Silence silent = {.stream_lost_ns = 10 * S, .heard_ns = 11 * S};

    g_assert_false(incarnation_may_promote(&silent, 12 * S, 2 * S));
    g_assert_true(incarnation_may_promote(&silent, 13 * S, 2 * S));
}

static void
test_promotion_of_the_ignorant(void)
{
    const Silence no_stream = {.heard_ns = 11 * S}, no_link = {.stream_lost_ns = 10 * S};

    g_assert_false(incarnation_may_promote(&no_stream, 60 * S, 2 * S));
    g_assert_false(incarnation_may_promote(&no_link, 60 * S, 2 * S));
}

static void
test_promotion_after_a_stall(void)
{
    const Silence stalled = {.stream_lost_ns = 10 * S, .heard_ns = 11 * S, .stalled_ns = 20 * S};

    g_assert_false(incarnation_may_promote(&stalled, 20 * S, 2 * S));
    g_assert_false(incarnation_may_promote(&stalled, 22 * S, 2 * S));
    g_assert_true(incarnation_may_promote(&stalled, 23 * S, 2 * S));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/incarnation/a new number is above all that were seen", test_next);
    g_test_add_func("/incarnation/a number that no life can have is not taken", test_impossible);
    g_test_add_func("/incarnation/a newer home elsewhere ends the older one", test_newer_wins);
    g_test_add_func("/incarnation/a failed attempt elsewhere ends nothing", test_failed_attempt);
    g_test_add_func("/incarnation/a standby has nothing to end", test_standby_is_not_superseded);
    g_test_add_func("/incarnation/equal numbers are decided alike by both", test_tie);
    g_test_add_func("/incarnation/of two running homes exactly one goes on", test_exactly_one);
    g_test_add_func("/incarnation/a home ends for a take-over under a newer number only",
                    test_takeover);
    g_test_add_func("/incarnation/a start and a take-over under one number are decided alike",
                    test_crossed_takeover);
    g_test_add_func("/incarnation/who runs the same number or an older one is answered",
                    test_answers);
    g_test_add_func("/incarnation/a lost answer to a hand-over is found out", test_handover);
    g_test_add_func("/incarnation/silence on all paths promotes", test_promotion);
    g_test_add_func("/incarnation/who never heard the home does not promote itself",
                    test_promotion_of_the_ignorant);
    g_test_add_func("/incarnation/own standing still is no silence", test_promotion_after_a_stall);
    return g_test_run();
}
