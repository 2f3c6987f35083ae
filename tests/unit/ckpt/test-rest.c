/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rest: no cuts while guests do nothing, and the next one in time when one does. */
#include "ckpt-rig.h"

#include "common/clock.h"

#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define SOON_NS (5 * NS_PER_S) /* long before a rest ends by itself */

static const FakeMemberConfig idle = {.ram_size = 4 * MIB, .watches = true};

static Rig *
rig_protected(guint n_members, const FakeMemberConfig *like, unsigned interval_us)
{
    Rig *rig = rig_new(n_members, like);

    rig_run(rig);
    rig_start(rig);
    rig_protect(rig, interval_us, 30000);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    return rig;
}

static bool
rests(Rig *rig, uint64_t *lag_ns)
{
    District__CkptReply *hold;
    District__CkptStatusReply *s = rig_status(rig, &hold);
    bool resting = s->resting;

    *lag_ns = s->lag_ns;
    district__ckpt_reply__free_unpacked(hold, NULL);
    return resting;
}

/* Until it rests, and what it has cut is committed. */
static void
wait_rest(Rig *rig)
{
    int64_t until = clock_monotonic_ns() + SOON_NS;
    uint64_t lag_ns = 1;

    while (!rests(rig, &lag_ns) || lag_ns != 0) {
        g_assert_cmpint(clock_monotonic_ns(), <, until);
        g_usleep(5000);
    }
}

static void
wait_pauses(FakeMember *member, uint64_t pauses)
{
    int64_t until = clock_monotonic_ns() + SOON_NS;

    while (fake_member_pauses(member) < pauses) {
        g_assert_cmpint(clock_monotonic_ns(), <, until);
        g_usleep(1000);
    }
}

static void
test_rests(void)
{
    Rig *rig = rig_protected(2, &idle, 5000);

    wait_rest(rig);
    uint64_t pauses = fake_member_pauses(rig->members[0]);
    g_usleep(500 * 1000);
    g_assert_cmpuint(fake_member_pauses(rig->members[0]), ==, pauses);
    rig_free(rig);
}

static void
test_stirs(void)
{
    Rig *rig = rig_protected(2, &idle, 50000);

    for (int i = 0; i < 10; i++) {
        wait_rest(rig);
        unsigned good = fake_standby_good(rig->standby);
        uint64_t pauses = fake_member_pauses(rig->members[0]);
        int64_t begun = clock_monotonic_ns();
        fake_member_write(rig->members[i % 2]);
        wait_pauses(rig->members[0], pauses + 1);
        g_test_message("cut %.1f ms after the write", (double)(clock_monotonic_ns() - begun) / 1e6);
        rig_wait_good(rig, good + 1);
    }
    rig_free(rig);
}

static void
test_cannot_watch(void)
{
    const FakeMemberConfig each[] = {{.ram_size = 4 * MIB, .watches = true}, {.ram_size = 4 * MIB}};
    Rig *rig = rig_new_mixed(2, each);
    uint64_t lag_ns;

    rig_run(rig);
    rig_start(rig);
    rig_protect(rig, 5000, 30000);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    wait_pauses(rig->members[0], fake_member_pauses(rig->members[0]) + 8);
    g_assert_false(rests(rig, &lag_ns));
    rig_free(rig);
}

static void
test_busy(void)
{
    const FakeMemberConfig busy = {.ram_size = 16 * MIB, .writes_per_ms = 40, .watches = true};
    Rig *rig = rig_protected(1, &busy, 10000);
    uint64_t lag_ns;

    for (int i = 0; i < 50; i++) {
        g_assert_false(rests(rig, &lag_ns));
        g_usleep(5000);
    }
    rig_wait_good(rig, fake_standby_good(rig->standby) + 20);
    rig_free(rig);
}

static void
test_checkpoint(void)
{
    Rig *rig = rig_protected(1, &idle, 5000);
    g_autofree char *path = g_build_filename(rig->dir, "checkpoint", NULL);

    wait_rest(rig);
    int64_t begun = clock_monotonic_ns();
    g_autofree char *error = rig_checkpoint(rig, path);
    g_assert_null(error);
    g_assert_cmpint(clock_monotonic_ns() - begun, <, SOON_NS);
    wait_rest(rig);
    unlink(path);
    rig_free(rig);
}

static void
test_powers_off(void)
{
    Rig *rig = rig_protected(2, &idle, 5000);
    int64_t begun;

    wait_rest(rig);
    begun = clock_monotonic_ns();
    fake_member_power_off(rig->members[1]);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF);
    /* Its engine waits for 2 s. */
    g_assert_cmpint(clock_monotonic_ns() - begun, <, 2 * NS_PER_S);
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rest/there_are_no_cuts_while_no_guest_does_anything", test_rests);
    g_test_add_func("/rest/what_a_guest_writes_then_is_cut_and_committed", test_stirs);
    g_test_add_func("/rest/a_member_that_cannot_be_watched_keeps_all_from_resting",
                    test_cannot_watch);
    g_test_add_func("/rest/a_busy_district_does_not_rest", test_busy);
    g_test_add_func("/rest/a_checkpoint_that_is_asked_for_does_not_wait", test_checkpoint);
    g_test_add_func("/rest/a_power_off_is_seen_while_the_engine_still_answers", test_powers_off);
    return g_test_run();
}
