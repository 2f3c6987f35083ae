/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When a take-over with output commit must reset crossing connections all the same. */
#include "control/exposure.h"
#include "common/clock.h"

#define DETACH_MS 5000
/* A standby that has been committing for long, last heard now. */
#define START (1000 * NS_PER_S)

static Exposure
protected_standby(void)
{
    Exposure exposure = {0};

    exposure_broken(&exposure, 0, START - 60 * NS_PER_S);
    exposure_synced(&exposure, START - 50 * NS_PER_S);
    return exposure;
}

static gboolean
must_reset(const Exposure *exposure, gboolean connected, int64_t heard_ms, int64_t now_ms)
{
    return exposure_must_reset(exposure, connected, START + heard_ms * NS_PER_MS,
                               START + now_ms * NS_PER_MS, DETACH_MS);
}

static void
broken(Exposure *exposure, int64_t heard_ms, int64_t now_ms)
{
    exposure_broken(exposure, START + heard_ms * NS_PER_MS, START + now_ms * NS_PER_MS);
}

static void
test_nothing_known(void)
{
    Exposure exposure = {0};

    g_assert_true(must_reset(&exposure, FALSE, 0, 0));
    g_assert_true(must_reset(&exposure, TRUE, 0, 0));
    broken(&exposure, 0, 0);
    g_assert_true(must_reset(&exposure, FALSE, 0, 100));
}

static void
test_healthy(void)
{
    Exposure exposure = protected_standby();

    g_assert_false(must_reset(&exposure, TRUE, 0, 100));
}

/* A host that goes silent is followed until it may have detached, whenever SILENT is raised. */
static void
test_silent_cut(void)
{
    Exposure exposure = protected_standby();

    g_assert_false(must_reset(&exposure, TRUE, 0, 1500));
    g_assert_false(must_reset(&exposure, TRUE, 0, 4000));
    g_assert_true(must_reset(&exposure, TRUE, 0, 4600));
    broken(&exposure, 0, 10000); /* the stream gives up long after the home has */
    g_assert_true(must_reset(&exposure, FALSE, 0, 10100));
}

static void
test_short_silence_then_lost(void)
{
    Exposure exposure = protected_standby();

    broken(&exposure, 0, 1000);
    broken(&exposure, 0, 1100);
    g_assert_false(must_reset(&exposure, FALSE, 0, 1200));
    g_assert_true(must_reset(&exposure, FALSE, 0, 4600));
}

/* The home detaches, comes back, and dies while the full copy goes on. */
static void
test_dies_in_resync(void)
{
    Exposure exposure = protected_standby();

    broken(&exposure, 0, 10);
    broken(&exposure, 9000, 9000); /* a new stream */
    g_assert_true(must_reset(&exposure, TRUE, 9500, 9600));
    broken(&exposure, 12000, 13000);
    g_assert_true(must_reset(&exposure, FALSE, 12000, 13100));
}

static void
test_commit_ends_it(void)
{
    Exposure exposure = protected_standby();

    broken(&exposure, 0, 10);
    broken(&exposure, 9000, 9000);
    exposure_synced(&exposure, START + 12 * NS_PER_S);
    g_assert_false(must_reset(&exposure, TRUE, 13000, 13100));
    broken(&exposure, 13000, 14000);
    g_assert_false(must_reset(&exposure, FALSE, 13000, 14100));
}

/* The home that did not get our acknowledgement counts from the first loss. */
static void
test_commit_unheard(void)
{
    Exposure exposure = protected_standby();

    broken(&exposure, 0, 10);
    exposure_synced(&exposure, START + 12 * NS_PER_S);
    broken(&exposure, 12050, 13000);
    g_assert_true(must_reset(&exposure, FALSE, 12050, 13100));
}

/* A killed district-ckpt: what it held is held for 3 s only, if nobody protects again. */
static void
test_ended_by_living_host(void)
{
    Exposure exposure = protected_standby();

    broken(&exposure, 0, 10);
    g_assert_false(must_reset(&exposure, FALSE, 0, 2000));
    g_assert_true(must_reset(&exposure, FALSE, 0, 2600));
}

/* districtd starts anew beside a stream that goes on: epochs that are seen to commit tell. */
static void
test_look(void)
{
    Exposure exposure = {0};

    exposure_look(&exposure, TRUE, 700, START);
    g_assert_true(must_reset(&exposure, TRUE, 0, 10));
    exposure_look(&exposure, TRUE, 700, START + 400 * NS_PER_MS);
    g_assert_true(must_reset(&exposure, TRUE, 400, 410));
    exposure_look(&exposure, TRUE, 716, START + 800 * NS_PER_MS);
    g_assert_false(must_reset(&exposure, TRUE, 1600, 1610));
    /* What a stream committed that has ended since says nothing of the next one. */
    broken(&exposure, 1600, 1610);
    exposure_look(&exposure, TRUE, 720, START + 9000 * NS_PER_MS);
    g_assert_true(must_reset(&exposure, TRUE, 9000, 9010));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exposure/nothing known", test_nothing_known);
    g_test_add_func("/exposure/healthy", test_healthy);
    g_test_add_func("/exposure/silent cut", test_silent_cut);
    g_test_add_func("/exposure/short silence, then lost", test_short_silence_then_lost);
    g_test_add_func("/exposure/dies while copying again", test_dies_in_resync);
    g_test_add_func("/exposure/a commit ends it", test_commit_ends_it);
    g_test_add_func("/exposure/a commit that was not acknowledged", test_commit_unheard);
    g_test_add_func("/exposure/ended by a host that lives", test_ended_by_living_host);
    g_test_add_func("/exposure/seen to commit", test_look);
    return g_test_run();
}
