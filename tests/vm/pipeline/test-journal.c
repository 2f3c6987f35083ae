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

/* ---- Copies: of another district ---- */

static const char *const checkpoint_old[] = {"checkpoint", "shop", "--label", "old", NULL};
static const char *const clone_old[] = {"clone", "shop", "--at", "old", "--as", "peek", NULL};
static const char *const stop_shop[] = {"stop", "shop", "--force", NULL};

/* Does app's journal of another district have all up to this number? Its last number. */
static guint64
check_journal_of(Pair *pair, const Host *host, const char *district, guint64 told)
{
    g_autofree char *path = pair_field_of(pair, host, district, "members.1.journal");
    g_autofree char *content = NULL;
    g_autoptr(GError) error = NULL;
    gsize bytes = 0;
    guint64 last = 0;

    if (!g_file_get_contents(path, &content, &bytes, &error) ||
        !guest_journal_check(content, bytes, told, &last, &error))
        rig_fail(pair->dir, "app of %s on %s, told up to %" G_GUINT64_FORMAT ": %s", district,
                 host->name, told, error->message);
    return last;
}

/* The last number that the guest of a clone, or of what was imported, has told; *behind: the one that
 * it has found in the journal. */
static guint64
told_in(const char *path, guint64 *behind)
{
    static const char goes_on[] = "journal goes on after ", journal[] = "journal ";
    g_autofree char *text = NULL;
    guint64 last = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    /* The last line may not be whole. */
    for (guint i = 0; lines[i] != NULL && lines[i + 1] != NULL; i++) {
        if (g_str_has_prefix(lines[i], goes_on))
            *behind = g_ascii_strtoull(lines[i] + strlen(goes_on), NULL, 10);
        else if (g_str_has_prefix(lines[i], journal))
            last = MAX(last, g_ascii_strtoull(lines[i] + strlen(journal), NULL, 10));
    }
    return last;
}

/* Wait until it has found the journal ahead of its memory, and told 20 more numbers; the last one. */
static guint64
wait_copy_goes_on(Pair *pair, const char *path, guint64 told)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    guint64 behind = 0, last = told_in(path, &behind);

    while (behind == 0 || last <= behind + 20) {
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "%s: the guest does not go on", path);
        g_usleep(2000);
        last = told_in(path, &behind);
    }
    g_assert_cmpuint(behind, >=, told);
    return last;
}

static char *
clone_log(Pair *pair, const Host *host)
{
    return g_strdup_printf("%s/%s/log/peek/app.debugcon", pair->dir, host->name);
}

static void
test_clone(void)
{
    const char *stop[] = {"stop", "peek", NULL}, *start[] = {"start", "peek", NULL},
               *destroy[] = {"destroy", "peek", NULL};
    Pair *pair = pair_new_journal(NO_FAILOVER);
    Host *home = pair_home(pair);
    g_autofree char *log = clone_log(pair, home);

    pair_must(pair, home, checkpoint_old);
    wait_told_above(pair, pair_journal_told(home) + 50);
    guint64 told = pair_journal_told(home);
    pair_must(pair, home, clone_old);
    guint64 clone_told = wait_copy_goes_on(pair, log, told);
    check_journal_of(pair, home, "peek", clone_told);
    /* Each writes to its own, and the original has noticed nothing. */
    wait_told_above(pair, pair_journal_told(home) + 20);
    pair_check_journal(pair, home, pair_journal_told(home));
    g_assert_cmpuint(times_behind(home), ==, 0);
    /* What is in it is not undone when the clone's checkpoint is loaded anew. */
    pair_must(pair, home, stop);
    clone_told = check_journal_of(pair, home, "peek", clone_told);
    g_assert_cmpint(unlink(log), ==, 0);
    pair_must(pair, home, start);
    wait_copy_goes_on(pair, log, clone_told);
    g_autofree char *path = pair_field_of(pair, home, "peek", "members.1.journal");
    pair_must(pair, home, stop);
    pair_must(pair, home, destroy);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    /* And neither has the standby. */
    pair_lose_power(pair);
    pair_must(pair, pair_standby(pair), failover);
    check_taken_over(pair);
    pair_free(pair);
}

static void
test_clone_of_stopped(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    Host *home = pair_home(pair);
    g_autofree char *log = clone_log(pair, home);

    pair_must(pair, home, checkpoint_old);
    wait_told_above(pair, pair_journal_told(home) + 50);
    pair_must(pair, home, stop_shop);
    guint64 told = pair_journal_told(home);
    guint64 last = pair_check_journal(pair, home, told);
    pair_must(pair, home, clone_old);
    wait_copy_goes_on(pair, log, last);
    g_assert_cmpuint(pair_check_journal(pair, home, told), ==, last);
    pair_free(pair);
}

/* One that misses what it needs is not there, and leaves the original's journals thawed. */
static void
test_clone_fails(void)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    Host *home = pair_home(pair);
    g_autofree char *why = NULL;
    g_autofree char *kernel = g_build_filename(pair->dir, "kernel", NULL);
    g_autofree char *path = g_strdup_printf("%s/%s/state/districts", pair->dir, home->name);

    pair_must(pair, home, checkpoint_old);
    g_assert_cmpint(unlink(kernel), ==, 0);
    g_assert_null(pair_command(pair, home, &why, clone_old));
    g_assert_nonnull(strstr(why, "Kernel"));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    g_assert_cmpstr(g_dir_read_name(dir), ==, "shop");
    g_assert_null(g_dir_read_name(dir));
    wait_told_above(pair, pair_journal_told(home) + 20);
    pair_check_journal(pair, home, pair_journal_told(home));
    pair_free(pair);
}

/* To the other host, as another district. */
static void
import_goes_on(Pair *pair, const char *file, guint64 told)
{
    const char *import[] = {"import", file, "--as", "copy", NULL};
    const char *start[] = {"start", "copy", NULL}, *stop[] = {"stop", "copy", "--force", NULL};
    Host *other = pair_standby(pair);
    g_autofree char *log = g_strdup_printf("%s/%s/log/copy/app.debugcon", pair->dir, other->name);

    pair_must(pair, other, import);
    check_journal_of(pair, other, "copy", told);
    pair_must(pair, other, start);
    guint64 copy_told = wait_copy_goes_on(pair, log, told);
    pair_must(pair, other, stop);
    check_journal_of(pair, other, "copy", copy_told);
}

static void
export_and_import(gboolean stopped)
{
    Pair *pair = pair_new_journal(NO_FAILOVER);
    Host *home = pair_home(pair);
    g_autofree char *file = g_build_filename(pair->dir, "shop.dcp", NULL);
    const char *export[] = {"export", "shop", file, "--at", "old", NULL};

    pair_must(pair, home, checkpoint_old);
    wait_told_above(pair, pair_journal_told(home) + 50);
    if (stopped)
        pair_must(pair, home, stop_shop);
    guint64 told = pair_journal_told(home);
    pair_must(pair, home, export);
    if (!stopped)
        wait_told_above(pair, pair_journal_told(home) + 20);
    pair_check_journal(pair, home, pair_journal_told(home));
    g_assert_cmpuint(times_behind(home), ==, 0);
    import_goes_on(pair, file, told);
    pair_free(pair);
}

static void
test_export(void)
{
    export_and_import(FALSE);
}

static void
test_export_of_stopped(void)
{
    export_and_import(TRUE);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
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
    g_test_add_func("/journal/a clone has a copy of its own of all that was told", test_clone);
    g_test_add_func("/journal/a district that is stopped can be cloned too", test_clone_of_stopped);
    g_test_add_func("/journal/a clone that fails leaves nothing and stops nothing",
                    test_clone_fails);
    g_test_add_func("/journal/an exported copy has all that was told before", test_export);
    g_test_add_func("/journal/a district that is stopped can be exported too",
                    test_export_of_stopped);
    return g_test_run();
}
