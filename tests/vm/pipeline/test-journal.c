/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal disk (Journal=): a guest appends numbered records and tells each number once the write
 * has ended. Whatever happens to the hosts and to processes of ours, a number that was told is in the
 * journal that the district goes on with. Real districtd, on two hosts that are one machine (pair.h).
 */
#include "pair.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define APP (PAIR_MEMBERS - 1)
#define NO_FAILOVER "AutoFailover=no\n"

static const char *const failover[] = {"failover", "shop", NULL};

/* How often app has learned on a host that the journal is ahead of what it remembers. */
static guint
times_behind(const Host *host)
{
    g_autofree char *text = pair_output(host, APP);
    guint n = 0;

    for (const char *p = text; (p = strstr(p, "journal goes on after ")); p++)
        n++;
    return n;
}

/* Wait until app has told more than this number on the home. */
static void
wait_told_above(Pair *pair, guint64 number)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    while (pair_journal_told(pair_home(pair)) <= number) {
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "app on %s tells no number above %" G_GUINT64_FORMAT,
                     pair_home(pair)->name, number);
        g_usleep(2000);
    }
}

/* The standby runs it: it has what was told at the home, and its guest goes on behind that. */
static void
check_taken_over(Pair *pair)
{
    guint64 told = pair_journal_told(pair_home(pair));

    g_assert_cmpuint(told, >, 0);
    pair_wait(pair, pair_standby(pair), "state", "running");
    guint64 last = pair_check_journal(pair, pair_standby(pair), told);
    pair_swap(pair);
    wait_told_above(pair, last);
    pair_check_journal(pair, pair_home(pair), pair_journal_told(pair_home(pair)));
}

static void
protect_again(Pair *pair)
{
    const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                             "--wait",  NULL};

    pair_wait(pair, pair_standby(pair), "state", "superseded");
    pair_must(pair, pair_home(pair), protect);
}

static void
test_failover(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);

    for (int round = 0; round < 4; round++) {
        wait_told_above(pair, pair_journal_told(pair_home(pair)) + 20);
        rig_sleep_at_random(300);
        pair_lose_power(pair);
        pair_must(pair, pair_standby(pair), failover);
        check_taken_over(pair);
        pair_daemon_start(pair, pair_standby(pair));
        protect_again(pair);
    }
    pair_free(pair);
}

static void
test_rollback(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    const char *checkpoint[] = {"checkpoint", "shop", NULL}, *restart[] = {"restart", "shop", NULL};
    Host *home = pair_home(pair);

    for (int round = 0; round < 3; round++) {
        pair_wait_protected(pair);
        pair_must(pair, home, checkpoint);
        wait_told_above(pair, pair_journal_told(home) + 50);
        guint behind = times_behind(home);
        pair_must(pair, home, restart);
        guint64 told = pair_journal_told(home);
        guint64 last = pair_check_journal(pair, home, told);
        wait_told_above(pair, last + 10);
        pair_check_journal(pair, home, pair_journal_told(home));
        g_assert_cmpuint(times_behind(home), ==, behind + 1);
    }
    pair_free(pair);
}

/* Each number is told once, and no write has failed. */
static void
test_migrate(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);

    for (int round = 0; round < 3; round++) {
        const char *migrate[] = {"migrate", "shop", "--to", pair_standby(pair)->name, NULL};
        pair_wait_protected(pair);
        pair_must(pair, pair_home(pair), migrate);
        guint64 told = pair_journal_told(pair_home(pair));
        check_taken_over(pair);
        g_autofree char *next = g_strdup_printf("journal %" G_GUINT64_FORMAT "\n", told + 2);
        g_autofree char *after = pair_output(pair_home(pair), APP);
        g_assert_nonnull(strstr(after, next));
        g_assert_cmpuint(times_behind(pair_home(pair)), ==, 0);
    }
    pair_free(pair);
}

static void
kill_process(Pair *pair, const Host *host, const char *path)
{
    kill(pair_process(pair, host, path), SIGKILL);
}

/* One after the other, while the guest writes; and at last all of the home, right after the last. */
static void
test_kills(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);

    for (int round = 0; round < 3; round++) {
        wait_told_above(pair, pair_journal_told(pair_home(pair)) + 10);
        kill_process(pair, pair_home(pair), "processes.ckpt");
        rig_sleep_at_random(200);
        pair_check_journal(pair, pair_home(pair), pair_journal_told(pair_home(pair)));
        pair_wait_protected(pair);
        wait_told_above(pair, pair_journal_told(pair_home(pair)) + 10);
        kill_process(pair, pair_standby(pair), "processes.standby");
        rig_sleep_at_random(200);
        pair_wait_protected(pair);
        wait_told_above(pair, pair_journal_told(pair_home(pair)) + 10);
    }
    kill_process(pair, pair_home(pair), "processes.ckpt");
    rig_sleep_at_random(300);
    pair_lose_power(pair);
    pair_must(pair, pair_standby(pair), failover);
    check_taken_over(pair);
    pair_free(pair);
}

/* The standby's district-standby has just been killed: as soon as there is another one. */
static void
failover_when_possible(Pair *pair)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    for (;;) {
        g_autofree char *why = NULL;
        g_autoptr(JsonNode) answer = pair_command(pair, pair_standby(pair), &why, failover);
        if (answer)
            return;
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "failover: %s", why);
        g_usleep(20000);
    }
}

/* What has reached its host and not its disk is no more than what has not left the home. */
static void
test_standby_stopped(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    Host *home = pair_home(pair);

    wait_told_above(pair, 20);
    GPid standby = pair_process(pair, pair_standby(pair), "processes.standby");
    kill(standby, SIGSTOP);
    g_usleep(G_USEC_PER_SEC / 10);
    guint64 told = pair_journal_told(home);
    g_usleep(G_USEC_PER_SEC / 2);
    g_assert_cmpuint(pair_journal_told(home), ==, told);
    kill(standby, SIGKILL);
    pair_lose_power(pair);
    failover_when_possible(pair);
    check_taken_over(pair);
    pair_free(pair);
}

static void
test_engine_killed(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);

    wait_told_above(pair, 30);
    kill_process(pair, pair_home(pair), "members.1.pid");
    pair_wait(pair, pair_home(pair), "state", "failed");
    pair_check_journal(pair, pair_home(pair), pair_journal_told(pair_home(pair)));
    pair_must(pair, pair_standby(pair), failover);
    check_taken_over(pair);
    pair_free(pair);
}

/* Another district-ckpt has taken the place of one that was killed. */
static void
replace_ckpt(Pair *pair)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    g_autofree char *old = pair_field(pair, pair_home(pair), "processes.ckpt");

    kill_process(pair, pair_home(pair), "processes.ckpt");
    for (;;) {
        g_autofree char *now = pair_field(pair, pair_home(pair), "processes.ckpt");
        g_autofree char *operation = pair_field(pair, pair_home(pair), "operation");
        if (now && strcmp(now, old) != 0 && !operation)
            return;
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "district-ckpt was not started again");
        g_usleep(20000);
    }
}

/* A district-ckpt that has never seen its engine takes its journal along, and so does the standby. */
static void
test_member_off(void)
{
    Pair *pair = pair_new_journal_off(20);
    const char *unprotect[] = {"unprotect", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", "--wait", NULL};

    g_assert_cmpuint(pair_journal_told(pair_home(pair)), ==, 20);
    pair_must(pair, pair_home(pair), unprotect);
    replace_ckpt(pair);
    pair_must(pair, pair_home(pair), protect);
    pair_wait_above(pair, pair_standby(pair), "standby.committed_epoch", 0);
    pair_check_journal(pair, pair_standby(pair), 20);
    pair_lose_power(pair);
    pair_must(pair, pair_standby(pair), failover);
    pair_check_journal(pair, pair_standby(pair), 20);
    pair_swap(pair);
    pair_free(pair);
}

/* Writes wait for as long as output would be held, and not for longer. */
static void
test_standby_lost(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER "DetachAfter=3s\n");
    Host *home = pair_home(pair);
    GPid standby = pair_process(pair, pair_standby(pair), "processes.standby");

    wait_told_above(pair, 20);
    proc_kill(&pair_standby(pair)->daemon);
    kill(standby, SIGKILL);
    g_usleep(G_USEC_PER_SEC);
    guint64 told = pair_journal_told(home);
    g_usleep(G_USEC_PER_SEC / 2);
    g_assert_cmpuint(pair_journal_told(home), ==, told);
    wait_told_above(pair, told + 20);
    pair_wait(pair, home, "protection", "detached");
    g_assert_true(pair_had_event(pair, home, "detached"));
    pair_check_journal(pair, home, pair_journal_told(home));
    /* What was written meanwhile is there as soon as the standby is. */
    pair_daemon_start(pair, pair_standby(pair));
    pair_wait_protected(pair);
    pair_lose_power(pair);
    pair_must(pair, pair_standby(pair), failover);
    check_taken_over(pair);
    pair_free(pair);
}

static void
refused(Pair *pair, const char *const *args)
{
    g_autofree char *why = NULL;

    g_assert_null(pair_command(pair, pair_home(pair), &why, args));
    if (strstr(why, "member app has a journal") == NULL)
        rig_fail(pair->dir, "district %s: %s", args[0], why);
}

static void
test_refused(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    g_autofree char *file = g_build_filename(pair->dir, "shop.dcp", NULL);
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    const char *clone[] = {"clone", "shop", "--at", "latest", "--as", "peek", NULL};
    const char *export[] = {"export", "shop", file, NULL};

    pair_must(pair, pair_home(pair), checkpoint);
    refused(pair, clone);
    refused(pair, export);
    g_assert_false(g_file_test(file, G_FILE_TEST_EXISTS));
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/journal/a district with one is neither cloned nor exported", test_refused);
    g_test_add_func("/journal/a failover loses no record that was told", test_failover);
    g_test_add_func("/journal/a rollback undoes no record", test_rollback);
    g_test_add_func("/journal/a migration is not noticed", test_migrate);
    g_test_add_func("/journal/what is killed at any time loses no record", test_kills);
    g_test_add_func("/journal/a record is told when it is on the standby's disk and not before",
                    test_standby_stopped);
    g_test_add_func("/journal/a lost member leaves all records at the standby", test_engine_killed);
    g_test_add_func("/journal/a member that is off keeps its journal", test_member_off);
    g_test_add_func("/journal/writes wait for a lost standby as held output does",
                    test_standby_lost);
    return g_test_run();
}
