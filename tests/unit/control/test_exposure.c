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

    exposure_begun(&exposure, 0);
    exposure_synced(&exposure, START - 50 * NS_PER_S);
    return exposure;
}

static gboolean
must_reset(const Exposure *exposure, int64_t heard_ms, int64_t now_ms)
{
    return exposure_must_reset(exposure, START + heard_ms * NS_PER_MS, START + now_ms * NS_PER_MS,
                               DETACH_MS);
}

static void
silent(Exposure *exposure, int64_t heard_ms)
{
    exposure_silent(exposure, START + heard_ms * NS_PER_MS);
}

static void
lost(Exposure *exposure, int64_t heard_ms, int64_t now_ms)
{
    exposure_lost(exposure, START + heard_ms * NS_PER_MS, START + now_ms * NS_PER_MS);
}

static void
begun(Exposure *exposure, int64_t heard_ms)
{
    exposure_begun(exposure, START + heard_ms * NS_PER_MS);
}

static void
test_nothing_known(void)
{
    Exposure exposure = {0};

    g_assert_true(must_reset(&exposure, 0, 0));
    silent(&exposure, 0);
    g_assert_true(must_reset(&exposure, 0, 100));
    begun(&exposure, 0);
    g_assert_true(must_reset(&exposure, 100, 100));
}

static void
test_healthy(void)
{
    Exposure exposure = protected_standby();

    g_assert_false(must_reset(&exposure, 0, 100));
}

/* A host that goes silent is followed until it may have detached, whenever that is noticed. */
static void
test_silent_cut(void)
{
    Exposure exposure = protected_standby();

    g_assert_false(must_reset(&exposure, 0, 1500));
    g_assert_false(must_reset(&exposure, 0, 4000));
    g_assert_true(must_reset(&exposure, 0, 4600));
    lost(&exposure, 0, 10000); /* the stream gives up long after the home has */
    g_assert_true(must_reset(&exposure, 0, 10100));
}

/* Silence was raised, and the stream of the dead host is up still: what failover is for. */
static void
test_silence_raised(void)
{
    Exposure exposure = protected_standby();

    silent(&exposure, 0);
    g_assert_false(must_reset(&exposure, 0, 1100));
    silent(&exposure, 0); /* our own end of the stream */
    g_assert_false(must_reset(&exposure, 0, 4000));
    g_assert_true(must_reset(&exposure, 0, 4600));
}

static void
test_short_silence_then_lost(void)
{
    Exposure exposure = protected_standby();

    silent(&exposure, 0);
    lost(&exposure, 0, 1100);
    g_assert_false(must_reset(&exposure, 0, 1200));
    g_assert_false(must_reset(&exposure, 0, 4000));
    g_assert_true(must_reset(&exposure, 0, 4600));
}

/* The home detaches, comes back, and dies while the full copy goes on. */
static void
test_dies_in_resync(void)
{
    Exposure exposure = protected_standby();

    lost(&exposure, 0, 10);
    begun(&exposure, 9000);
    g_assert_true(must_reset(&exposure, 9500, 9600));
    silent(&exposure, 12000);
    g_assert_true(must_reset(&exposure, 12000, 13000));
    lost(&exposure, 12000, 13000);
    g_assert_true(must_reset(&exposure, 12000, 13100));
}

static void
test_commit_ends_it(void)
{
    Exposure exposure = protected_standby();

    lost(&exposure, 0, 10);
    begun(&exposure, 9000);
    exposure_synced(&exposure, START + 12 * NS_PER_S);
    g_assert_false(must_reset(&exposure, 13000, 13100));
    lost(&exposure, 13000, 14000);
    g_assert_false(must_reset(&exposure, 13000, 14100));
}

/* The home that did not get our acknowledgement counts from the first loss. */
static void
test_commit_unheard(void)
{
    Exposure exposure = protected_standby();

    lost(&exposure, 0, 10);
    begun(&exposure, 9000);
    exposure_synced(&exposure, START + 12 * NS_PER_S);
    lost(&exposure, 12050, 13000);
    g_assert_true(must_reset(&exposure, 12050, 13100));
}

/* A killed district-ckpt: what it held is held for 3 s only, if nobody protects again. */
static void
test_ended_by_living_host(void)
{
    Exposure exposure = protected_standby();

    lost(&exposure, 0, 10);
    g_assert_false(must_reset(&exposure, 0, 2000));
    g_assert_true(must_reset(&exposure, 0, 2600));
}

/* districtd starts anew beside a stream that goes on: epochs that are seen to commit tell. */
static void
test_look(void)
{
    Exposure exposure = {0};

    exposure_look(&exposure, TRUE, 700, START);
    g_assert_true(must_reset(&exposure, 0, 10));
    exposure_look(&exposure, TRUE, 700, START + 400 * NS_PER_MS);
    g_assert_true(must_reset(&exposure, 400, 410));
    exposure_look(&exposure, TRUE, 716, START + 800 * NS_PER_MS);
    g_assert_false(must_reset(&exposure, 1600, 1610));
    /* A silence that passes. */
    silent(&exposure, 1600);
    exposure_look(&exposure, TRUE, 720, START + 7000 * NS_PER_MS);
    g_assert_true(must_reset(&exposure, 7000, 7010));
    exposure_look(&exposure, TRUE, 736, START + 7400 * NS_PER_MS);
    g_assert_false(must_reset(&exposure, 8000, 8010));
    /* What a stream committed that has ended since says nothing of the next one. */
    lost(&exposure, 8000, 8010);
    exposure_look(&exposure, TRUE, 740, START + 15000 * NS_PER_MS);
    g_assert_true(must_reset(&exposure, 15000, 15010));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/exposure/nothing known", test_nothing_known);
    g_test_add_func("/exposure/healthy", test_healthy);
    g_test_add_func("/exposure/silent cut", test_silent_cut);
    g_test_add_func("/exposure/silence raised", test_silence_raised);
    g_test_add_func("/exposure/short silence, then lost", test_short_silence_then_lost);
    g_test_add_func("/exposure/dies while copying again", test_dies_in_resync);
    g_test_add_func("/exposure/a commit ends it", test_commit_ends_it);
    g_test_add_func("/exposure/a commit that was not acknowledged", test_commit_unheard);
    g_test_add_func("/exposure/ended by a host that lives", test_ended_by_living_host);
    g_test_add_func("/exposure/seen to commit", test_look);
    return g_test_run();
}
