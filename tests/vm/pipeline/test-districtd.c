/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any process of a protected district may be killed at any moment, districtd included: guests go
 * on, and protection comes back by itself; and when the guests' own process is killed, the standby
 * takes over by itself. Real districtd, on two hosts that are one machine (pair.h).
 */
#include "pair.h"

#include "common/memfd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 10
#define TAKEOVERS 5
/* Of kills of one process as fast as it comes back: fewer than what districtd takes for a loop. */
#define FAST_ROUNDS 4
/* A guest's life from boot to power-off: some seconds more than it takes to set a pair up. */
#define OFF_ROUNDS "3000"
#define OFF_LIMIT_MS 120000

/* ---- districtd itself ---- */

static void
test_home_daemon(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    GPid before[PAIR_HOME_PROCESSES];

    for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
        before[i] = pair_process(pair, home, pair_home_paths[i]);
    for (int round = 0; round < ROUNDS; round++) {
        rig_sleep_at_random(200);
        proc_kill(&home->daemon);
        gint64 epoch = pair_number(pair, standby, "standby.committed_epoch");
        pair_wait_progress(pair);
        pair_wait_above(pair, standby, "standby.committed_epoch", epoch);
        pair_daemon_start(pair, home);
        pair_wait_protected(pair);
        for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
            g_assert_cmpint(pair_process(pair, home, pair_home_paths[i]), ==, before[i]);
    }
    pair_check_output(pair, home);
    pair_free(pair);
}

/* End districtd in an orderly way, as systemctl restart does. */
static void
end_daemon(Pair *pair, Host *host)
{
    kill(host->daemon.pid, SIGTERM);
    int status = proc_wait(&host->daemon, RIG_LIMIT_MS);
    if (status != 0)
        rig_fail(pair->dir, "%s: districtd ended with status %d", host->name, status);
}

/* Whatever districtd is at when it is told to end, above all bringing a killed process back. */
static void
test_home_daemon_ends(void)
{
    /* While districtd and district-ckpt are both gone the home is as good as lost to a standby. */
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    GPid members[PAIR_MEMBERS] = {pair_process(pair, home, "members.0.pid"),
                                  pair_process(pair, home, "members.1.pid")};

    for (int round = 0; round < 2 * ROUNDS; round++) {
        if (round % 2 == 0)
            kill(pair_process(pair, home, "processes.ckpt"), SIGKILL);
        rig_sleep_at_random(round % 2 == 0 ? 60 : 200);
        end_daemon(pair, home);
        pair_wait_progress(pair);
        pair_daemon_start(pair, home);
        pair_wait_protected(pair);
        pair_wait_progress(pair);
    }
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, members[0]);
    g_assert_cmpint(pair_process(pair, home, "members.1.pid"), ==, members[1]);
    pair_check_output(pair, home);
    pair_free(pair);
}

static void
test_standby_daemon(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    GPid before = pair_process(pair, standby, "processes.standby");

    for (int round = 0; round < ROUNDS; round++) {
        rig_sleep_at_random(200);
        proc_kill(&standby->daemon);
        gint64 epoch = pair_number(pair, home, "checkpointing.committed_epoch");
        pair_wait_progress(pair);
        pair_wait_above(pair, home, "checkpointing.committed_epoch", epoch);
        pair_daemon_start(pair, standby);
        pair_wait(pair, standby, "state", "standby");
        g_assert_cmpint(pair_process(pair, standby, "processes.standby"), ==, before);
        pair_wait_protected(pair);
    }
    pair_check_output(pair, home);
    pair_free(pair);
}

/* ---- What districtd keeps running ---- */

typedef struct Victim {
    gboolean at_standby;
    const char *path;
} Victim;

static const Victim victims[] = {
    {FALSE, "processes.net"},
    {FALSE, "processes.ckpt"},
    {TRUE, "processes.standby"},
};

static void
kill_and_wait(Pair *pair, const Victim *victim)
{
    const Host *host = victim->at_standby ? pair_standby(pair) : pair_home(pair);
    GPid pid = pair_process(pair, host, victim->path);
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    kill(pid, SIGKILL);
    for (gint64 now = pid; now <= 1 || now == pid; now = pair_number(pair, host, victim->path)) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s: %s was killed and not started again", host->name,
                     victim->path);
        g_usleep(10000);
    }
    pair_wait_progress(pair);
    pair_wait_protected(pair);
    /* Protected is not only a word: a whole epoch from now on arrives. */
    gint64 epoch = pair_number(pair, pair_home(pair), "checkpointing.epoch");
    pair_wait_above(pair, pair_standby(pair), "standby.committed_epoch", epoch);
}

/* Nothing may slip out of a switch that takes the place of one that held output. */
static void
test_net_holds(void)
{
    Pair *pair = pair_new();
    g_autofree char *command = NULL;
    gsize len;

    kill_and_wait(pair, &victims[0]);
    g_autofree char *path =
        g_strdup_printf("/proc/%d/cmdline", pair_process(pair, pair_home(pair), "processes.net"));
    g_assert_true(g_file_get_contents(path, &command, &len, NULL));
    g_assert_nonnull(memmem(command, len, "--hold", sizeof("--hold")));
    pair_free(pair);
}

static gint64
mean_of(JsonObject *object, const char *measure)
{
    g_assert_true(json_object_has_member(object, measure));
    JsonObject *percentiles = json_object_get_object_member(object, measure);

    g_assert_cmpint(json_object_get_int_member(percentiles, "count"), >, 0);
    return json_object_get_int_member(percentiles, "mean");
}

static void
test_phases(void)
{
    static const char *const phases[] = {"kick_ns",  "devices_ns", "save_ns",  "harvest_ns",
                                         "reply_ns", "residue_ns", "state_ns", "resume_ns"};
    const char *show[] = {"show", "shop", NULL};
    Pair *pair = pair_new();
    gint64 sum = 0;

    pair_wait_above(pair, pair_home(pair), "checkpointing.pause_ns.count", 10);
    g_autoptr(JsonNode) answer = pair_command(pair, pair_home(pair), NULL, show);
    g_assert_nonnull(answer);
    JsonObject *c = json_object_get_object_member(json_node_get_object(answer), "checkpointing");
    JsonObject *of_all = json_object_get_object_member(c, "phases");
    for (guint i = 0; i < G_N_ELEMENTS(phases); i++)
        sum += mean_of(of_all, phases[i]);
    g_assert_cmpuint(json_object_get_size(of_all), ==, G_N_ELEMENTS(phases));
    /* Means are rounded down. */
    g_assert_cmpint(ABS(mean_of(c, "pause_ns") - sum), <=, (gint64)G_N_ELEMENTS(phases));
    g_assert_cmpint(mean_of(of_all, "kick_ns"), >, 0);
    g_assert_cmpint(mean_of(of_all, "save_ns"), >, 0);
    pair_free(pair);
}

/* Guests lose what they may, with a fifth of it for what is uneven; fails the test if not in time. */
static void
wait_slowdown(Pair *pair, gint64 ppm)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000, told = 0, now_ns = 0;

    while (g_get_monotonic_time() < deadline) {
        told = pair_number(pair, pair_home(pair), "checkpointing.slowdown_ppm");
        now_ns = pair_number(pair, pair_home(pair), "checkpointing.interval_now_ns");
        if (now_ns > 0 && told > 0 && told <= ppm + ppm / 5) {
            g_assert_cmpint(now_ns, >=, 2000000);
            g_assert_cmpint(now_ns, <=, 2000000000);
            g_test_message("cut every %.1f ms, %.1f %% slowdown", (double)now_ns / 1e6,
                           (double)told / 1e4);
            return;
        }
        g_usleep(50000);
    }
    rig_fail(pair->dir, "guests lose %" G_GINT64_FORMAT " ppm, cut every %" G_GINT64_FORMAT " ns",
             told, now_ns);
}

static void
test_auto_interval(void)
{
    const char *fixed[] = {"protect", "shop", "--standby", "h2", "--max-lag", "500ms", NULL};
    const char *wrong[] = {"protect", "shop", "--standby", "h2", "--max-slowdown", "99%", NULL};
    const char *chosen[] = {"protect",        "shop", "--standby", "h2",    "--interval", "auto",
                            "--max-slowdown", "20%",  "--max-lag", "500ms", "--wait",     NULL};
    const char *unprotect[] = {"unprotect", "shop", NULL};
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    g_autofree char *why_fixed = NULL, *why_wrong = NULL;

    g_assert_null(pair_command(pair, pair_home(pair), &why_fixed, fixed));
    g_assert_nonnull(strstr(why_fixed, "add --interval auto"));
    g_assert_null(pair_command(pair, pair_home(pair), &why_wrong, wrong));
    g_assert_nonnull(strstr(why_wrong, "1% to 50%"));
    g_assert_cmpint(pair_number(pair, pair_home(pair), "interval_us"), ==, 5000);
    pair_must(pair, pair_home(pair), unprotect);
    pair_must(pair, pair_home(pair), chosen);
    /* As many epochs as what is told of it remembers, and some more. */
    pair_wait_above(pair, pair_home(pair), "checkpointing.interval_now_ns", 0);
    gint64 epoch = pair_number(pair, pair_home(pair), "checkpointing.committed_epoch");
    pair_wait_above(pair, pair_home(pair), "checkpointing.committed_epoch", epoch + 40);
    wait_slowdown(pair, 200000);
    const Host *both[] = {pair_home(pair), pair_standby(pair)};
    for (guint i = 0; i < G_N_ELEMENTS(both); i++) {
        g_assert_cmpint(pair_number(pair, both[i], "interval_us"), ==, 0);
        g_assert_cmpint(pair_number(pair, both[i], "max_slowdown_percent"), ==, 20);
        g_assert_cmpint(pair_number(pair, both[i], "max_lag_us"), ==, 500000);
    }
    pair_check_output(pair, pair_home(pair));
    pair_free(pair);
}

static void
test_helpers(void)
{
    Pair *pair = pair_new();
    GPid members[PAIR_MEMBERS] = {pair_process(pair, pair_home(pair), "members.0.pid"),
                                  pair_process(pair, pair_home(pair), "members.1.pid")};

    for (int round = 0; round < ROUNDS; round++) {
        rig_sleep_at_random(200);
        kill_and_wait(pair, &victims[(guint)round % G_N_ELEMENTS(victims)]);
    }
    g_assert_cmpint(pair_process(pair, pair_home(pair), "members.0.pid"), ==, members[0]);
    g_assert_cmpint(pair_process(pair, pair_home(pair), "members.1.pid"), ==, members[1]);
    pair_check_output(pair, pair_home(pair));
    pair_free(pair);
}

/* ---- district-ckpt in a migration ---- */

/* Its standby hears nothing, so the hand-over hangs with the members paused; then its owner dies. */
static void
kill_in_hand_over(Pair *pair)
{
    Host *home = pair_home(pair);
    GPid standby = pair_process(pair, pair_standby(pair), "processes.standby");
    GPid ckpt = pair_process(pair, home, "processes.ckpt");
    const char *migrate[] = {"migrate", "shop", "--to", pair_standby(pair)->name, NULL};
    Proc command = {0};

    kill(standby, SIGSTOP);
    pair_command_start(pair, home, &command, migrate);
    pair_wait(pair, home, "operation", "migrate");
    rig_sleep_at_random(300);
    kill(ckpt, SIGKILL);
    g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), !=, 0);
    g_free(command.name);
    kill(standby, SIGCONT);
    pair_wait_progress(pair);
    pair_wait_protected(pair);
}

static void
test_hand_over(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    GPid members[PAIR_MEMBERS] = {pair_process(pair, home, "members.0.pid"),
                                  pair_process(pair, home, "members.1.pid")};

    for (int round = 0; round < FAST_ROUNDS; round++)
        kill_in_hand_over(pair);
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, members[0]);
    g_assert_cmpint(pair_process(pair, home, "members.1.pid"), ==, members[1]);
    pair_check_output(pair, home);
    pair_free(pair);
}

/* ---- A take-over ---- */

/* One RAM memfd of the image that the standby keeps, opened by way of its process. */
static int
open_image_ram(Pair *pair)
{
    GPid pid = pair_process(pair, pair_standby(pair), "processes.standby");
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        struct stat st;
        if (target && g_str_has_prefix(target, "/memfd:") && stat(link, &st) == 0 &&
            st.st_size == PAIR_MEMBER_BYTES)
            return open(link, O_RDONLY | O_CLOEXEC);
    }
    rig_fail(pair->dir, "district-standby keeps no RAM");
}

/* Wait until the image is marked: from here on the engines have the only copy. */
static void
wait_spent(Pair *pair, int ram)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    while (!memfd_is_spent(ram)) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "the image is not run");
    }
}

static const char *const failover[] = {"failover", "shop", NULL};

/* The standby is home now: its guests run, and are protected by the other host. */
static void
after_failover(Pair *pair)
{
    pair_wait(pair, pair_standby(pair), "state", "running");
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
    pair_wait(pair, pair_standby(pair), "state", "superseded");
    const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                             "--wait",  NULL};
    pair_must(pair, pair_home(pair), protect);
}

/* Kill a process of the new home as soon as the members may run. */
static void
kill_after_spent(Pair *pair, const char *path)
{
    Host *standby = pair_standby(pair);
    Proc command = {0};
    int ram = open_image_ram(pair);
    GPid pid = pair_process(pair, standby, path);

    pair_command_start(pair, standby, &command, failover);
    wait_spent(pair, ram);
    kill(pid, SIGKILL);
    close(ram);
    if (proc_wait(&command, RIG_LIMIT_MS) != 0)
        rig_fail(pair->dir, "%s: failover gave up when %s was killed", standby->name, path);
    g_free(command.name);
    after_failover(pair);
}

static void
test_killed_after_spent(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");

    for (int round = 0; round < ROUNDS; round++)
        kill_after_spent(pair, round % 2 ? "processes.net" : "processes.ckpt");
    pair_free(pair);
}

/* The same with districtd, and with both: its successor finishes what was begun. */
static void
test_daemon_killed_after_spent(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");

    for (int round = 0; round < ROUNDS; round++) {
        Host *standby = pair_standby(pair);
        Proc command = {0};
        int ram = open_image_ram(pair);
        GPid ckpt = pair_process(pair, standby, "processes.ckpt");

        pair_command_start(pair, standby, &command, failover);
        wait_spent(pair, ram);
        proc_kill(&standby->daemon);
        if (round % 2)
            kill(ckpt, SIGKILL);
        close(ram);
        proc_wait(&command, RIG_LIMIT_MS); /* it may have been answered just in time */
        g_free(command.name);
        pair_daemon_start(pair, standby);
        after_failover(pair);
    }
    pair_free(pair);
}

/* A switch that hangs holds the image up before it is marked; then district-ckpt dies. */
static void
test_killed_before_spent(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");

    for (int round = 0; round < FAST_ROUNDS; round++) {
        Host *standby = pair_standby(pair);
        Proc command = {0};
        GPid ckpt = pair_process(pair, standby, "processes.ckpt");
        kill(pair_process(pair, standby, "processes.net"), SIGSTOP);
        pair_command_start(pair, standby, &command, failover);
        pair_wait(pair, standby, "state", "activating");
        rig_sleep_at_random(300);
        kill(ckpt, SIGKILL);
        g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), !=, 0);
        g_free(command.name);
        /* Nothing is lost: once more, with new processes. */
        pair_must(pair, standby, failover);
        after_failover(pair);
    }
    pair_free(pair);
}

/* Its districtd was started again and finds engines, of which nobody says yet that they only wait;
 * and its name sorts before the home's, so that of equals it would be the one to go on. */
static void
test_unclear_standby(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");

    pair_must(pair, pair_standby(pair), failover);
    after_failover(pair);
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    g_assert_cmpstr(standby->name, <, home->name);
    pair_wait_above(pair, standby, "processes.ckpt", 1);
    GPid ckpt = pair_process(pair, standby, "processes.ckpt");
    GPid db = pair_process(pair, home, "members.0.pid");
    kill(ckpt, SIGSTOP);
    proc_kill(&standby->daemon);
    pair_daemon_start(pair, standby);
    pair_wait_link(pair, home);
    pair_wait(pair, standby, "state", "activating");
    g_usleep(G_USEC_PER_SEC);
    pair_wait_progress(pair);
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, db);
    kill(ckpt, SIGCONT);
    pair_wait(pair, standby, "state", "standby");
    pair_wait_protected(pair);
    pair_free(pair);
}

/* On a standby that can start nothing neither a failover nor a migration costs the home anything. */
static void
test_unfit_standby(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    const char *migrate[] = {"migrate", "shop", "--to", standby->name, NULL};
    g_autofree char *logs = g_strdup_printf("%s/%s/log/shop", pair->dir, standby->name);
    g_autofree char *aside = g_strdup_printf("%s.aside", logs);
    GPid members[PAIR_MEMBERS] = {pair_process(pair, home, "members.0.pid"),
                                  pair_process(pair, home, "members.1.pid")};

    g_assert_cmpint(rename(logs, aside), ==, 0);
    g_assert_true(g_file_set_contents(logs, "", 0, NULL));
    kill(pair_process(pair, standby, "members.0.pid"), SIGKILL);
    pair_wait(pair, home, "standby_reason",
              "cannot take over: district-vmm of db ended (status 137): look into db.log");
    g_assert_null(pair_command(pair, standby, NULL, failover));
    pair_wait_progress(pair);
    gint64 began = g_get_monotonic_time();
    g_assert_null(pair_command(pair, home, NULL, migrate));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 5000000);
    pair_wait_progress(pair);
    pair_wait_protected(pair);
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, members[0]);
    g_assert_cmpint(pair_process(pair, home, "members.1.pid"), ==, members[1]);
    g_assert_cmpint(remove(logs), ==, 0);
    g_assert_cmpint(rename(aside, logs), ==, 0);
    pair_must(pair, standby, failover);
    after_failover(pair);
    pair_free(pair);
}

/* ---- A member ---- */

/* Kill an engine at home: the other host takes over by itself, under the next incarnation. */
static void
lose_member(Pair *pair)
{
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    gint64 incarnation = pair_number(pair, home, "incarnation");
    g_autofree char *path = g_strdup_printf("members.%d.pid", g_random_int_range(0, PAIR_MEMBERS));

    kill(pair_process(pair, home, path), SIGKILL);
    pair_wait(pair, standby, "state", "running");
    g_assert_cmpint(pair_number(pair, standby, "incarnation"), >, incarnation);
    g_assert_true(pair_had_event(pair, home, "failed"));
    pair_check_output(pair, home);
    pair_wait(pair, home, "state", "superseded");
    g_assert_cmpint(pair_number(pair, home, "members.0.pid"), ==, 0);
    g_assert_cmpint(pair_number(pair, home, "members.1.pid"), ==, 0);
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
}

static void
test_members(void)
{
    Pair *pair = pair_new();

    for (int round = 0; round < ROUNDS; round++) {
        rig_sleep_at_random(200);
        lose_member(pair);
        const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                                 "--wait",  NULL};
        pair_must(pair, pair_home(pair), protect);
    }
    pair_free(pair);
}

/* The other host has been asked to take over, and has; nobody has called the home silent. */
static void
check_asked(Pair *pair)
{
    pair_wait(pair, pair_standby(pair), "state", "running");
    g_assert_true(pair_had_event(pair, pair_standby(pair), "home-failed"));
    g_assert_false(pair_had_event(pair, pair_standby(pair), "failover"));
    pair_wait(pair, pair_home(pair), "state", "superseded");
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
}

/* The districtd that finds out about it has no connection to the other host yet. */
static void
test_member_and_daemon(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair);
    GPid app = pair_process(pair, home, "members.1.pid");

    proc_kill(&home->daemon);
    kill(app, SIGKILL);
    pair_daemon_start(pair, home);
    check_asked(pair);
    pair_free(pair);
}

/* The other host cannot be asked when it happens, and the home's next districtd has not seen it. */
static void
test_member_without_standby(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);

    proc_kill(&standby->daemon);
    kill(pair_process(pair, home, "members.0.pid"), SIGKILL);
    pair_wait(pair, home, "state", "failed");
    proc_kill(&home->daemon);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "state", "failed");
    pair_daemon_start(pair, standby);
    check_asked(pair);
    pair_free(pair);
}

/* A start would take the number that the other host is about to take. */
static void
test_start_during_takeover(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    const char *start[] = {"start", "shop", NULL};
    g_autofree char *why = NULL;

    pair_wait_above(pair, standby, "processes.ckpt", 1);
    GPid ckpt = pair_process(pair, standby, "processes.ckpt");
    kill(ckpt, SIGSTOP); /* it has to be ready first */
    kill(pair_process(pair, home, "members.0.pid"), SIGKILL);
    pair_wait(pair, standby, "operation", "failover");
    g_assert_null(pair_command(pair, home, &why, start));
    kill(ckpt, SIGCONT);
    g_assert_nonnull(strstr(why, "runs it, or is about to"));
    check_asked(pair);
    pair_free(pair);
}

/* ---- A host ---- */

/* Whatever happened to the districtd of home before: all of home dies, and the other host runs. */
static void
lose_home(Pair *pair)
{
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    gint64 incarnation = pair_number(pair, standby, "incarnation");
    gint64 committed = pair_number(pair, standby, "standby.committed_epoch");
    GPid pids[PAIR_HOME_PROCESSES];

    for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
        pids[i] = pair_process(pair, home, pair_home_paths[i]);
    rig_sleep_at_random(50);
    proc_kill(&home->daemon);
    rig_sleep_at_random(50);
    for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
        kill(pids[i], SIGKILL);
    pair_check_output(pair, home);
    pair_wait(pair, standby, "state", "running");
    g_assert_cmpint(pair_number(pair, standby, "incarnation"), >, incarnation);
    g_assert_cmpint(pair_started_epoch(pair, standby), >=, committed);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "state", "superseded");
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
}

/* A home that cannot load its record may run what it says, one without any has nothing to end. */
static void
test_home_set_up_anew(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    g_autofree char *record =
        g_strdup_printf("%s/%s/state/districts/shop/state.json", pair->dir, home->name);
    const char *destroy[] = {"destroy", "shop", "--force", NULL};
    g_autofree char *why = NULL;

    pair_lose_power(pair);
    g_assert_true(g_file_set_contents(record, "{", 1, NULL));
    pair_daemon_start(pair, home);
    pair_wait_link(pair, standby);
    g_assert_null(pair_command(pair, standby, &why, failover));
    g_assert_nonnull(strstr(why, "was not loaded"));
    pair_must(pair, home, destroy);
    pair_must(pair, standby, failover);
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
    pair_free(pair);
}

static void
test_takeover(gboolean at_standby)
{
    Pair *pair = pair_new_failover_after("1s");

    for (int round = 0; round < TAKEOVERS; round++) {
        Host *standby = pair_standby(pair);
        rig_sleep_at_random(200);
        if (at_standby) {
            proc_kill(&standby->daemon);
            pair_wait_progress(pair);
            pair_daemon_start(pair, standby);
            pair_wait(pair, standby, "state", "standby");
            pair_wait_link(pair, standby);
        }
        lose_home(pair);
        const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                                 "--wait",  NULL};
        pair_must(pair, pair_home(pair), protect);
    }
    pair_free(pair);
}

static void
test_takeover_home_daemon(void)
{
    test_takeover(FALSE);
}

static void
test_takeover_standby_daemon(void)
{
    test_takeover(TRUE);
}

/* ---- A stop ---- */

static void
test_stop(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    const char *stop[] = {"stop", "shop", "--timeout", "1s", NULL};
    g_autofree char *why = NULL;
    JsonNode *answer;

    pair_wait_progress(pair);
    answer = pair_command(pair, home, &why, stop);
    if (!answer)
        rig_fail(pair->dir, "stop: %s", why);
    g_assert_cmpstr(json_object_get_string_member(json_node_get_object(answer), "unplugged"), ==,
                    "app");
    json_node_unref(answer);
    g_assert_true(pair_had_event(pair, home, "member-off")); /* db */
    pair_wait(pair, home, "state", "stopped");
    /* The standby, which is to take over by itself, does not take this for a failure. */
    g_usleep(G_USEC_PER_SEC);
    pair_wait(pair, standby, "state", "standby");
    g_assert_false(pair_had_event(pair, standby, "failover"));
    pair_check_output(pair, home);
    pair_free(pair);
}

/* An engine that is lost while guests shut down is no reason to stay up, or to take over. */
static void
test_stop_loses_member(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    GPid app = pair_process(pair, home, "members.1.pid");
    const char *stop[] = {"stop", "shop", "--timeout", "20s", NULL};
    gint64 begun = g_get_monotonic_time();
    g_autofree char *why = NULL;
    pid_t killer;

    pair_wait_progress(pair);
    killer = fork();
    if (killer == 0) {
        g_usleep(G_USEC_PER_SEC);
        kill(app, SIGKILL);
        _exit(0);
    }
    g_assert_null(pair_command(pair, home, &why, stop));
    g_assert_nonnull(strstr(why, "app"));
    waitpid(killer, NULL, 0);
    pair_wait(pair, home, "state", "stopped");
    g_assert_cmpint(g_get_monotonic_time() - begun, <, 15 * G_USEC_PER_SEC);
    pair_wait(pair, standby, "state", "standby");
    g_assert_false(pair_had_event(pair, standby, "failover"));
    pair_free(pair);
}

/* It hangs in an operation that would be undone by ending all, as after a failure. */
static void
test_stop_by_force(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    const char *stop[] = {"stop", "shop", "--force", NULL};

    kill(pair_process(pair, home, "processes.ckpt"), SIGSTOP);
    proc_kill(&home->daemon);
    pair_daemon_start(pair, home);
    pair_wait_link(pair, home);
    pair_wait(pair, home, "operation", "adoption");
    pair_must(pair, home, stop);
    pair_wait(pair, home, "state", "stopped");
    g_assert_false(pair_had_event(pair, home, "failed"));
    g_usleep(2 * G_USEC_PER_SEC);
    pair_wait(pair, standby, "state", "standby");
    g_assert_false(pair_had_event(pair, standby, "home-failed"));
    /* Nor when the next districtd looks. */
    proc_kill(&home->daemon);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "state", "stopped");
    pair_free(pair);
}

/* The guests are paused for a hand-over that hangs: a stop does not take them back first. */
static void
test_stop_in_hand_over(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    const char *migrate[] = {"migrate", "shop", "--to", standby->name, NULL};
    const char *stop[] = {"stop", "shop", "--force", NULL};
    GPid keeper = pair_process(pair, standby, "processes.standby");
    Proc command = {0};

    kill(keeper, SIGSTOP);
    pair_command_start(pair, home, &command, migrate);
    pair_wait(pair, home, "operation", "migrate");
    g_usleep(G_USEC_PER_SEC / 2);
    pair_must(pair, home, stop);
    kill(keeper, SIGCONT);
    g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), !=, 0);
    g_free(command.name);
    pair_wait(pair, home, "state", "stopped");
    g_usleep(2 * G_USEC_PER_SEC);
    pair_wait(pair, standby, "state", "standby");
    pair_free(pair);
}

/* districtd is killed while it ends the members: what its successor finds is no failure. */
static void
test_stop_loses_daemon(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    GPid app = pair_process(pair, home, "members.1.pid");
    const char *stop[] = {"stop", "shop", "--timeout", "0s", NULL};
    Proc command = {0};

    kill(pair_process(pair, home, "processes.ckpt"), SIGSTOP); /* it is told to quit first */
    pair_command_start(pair, home, &command, stop);
    pair_wait(pair, home, "state", "stopping");
    proc_kill(&home->daemon);
    kill(app, SIGKILL);
    g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), !=, 0);
    g_free(command.name);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "state", "stopped");
    pair_wait_link(pair, home);
    g_usleep(2 * G_USEC_PER_SEC);
    pair_wait(pair, standby, "state", "standby");
    g_assert_false(pair_had_event(pair, standby, "home-failed"));
    pair_free(pair);
}

/* ---- A silent home ---- */

/* What the standby did with connections across the boundary once it had taken over. */
static void
check_took_over(Pair *pair, const char *connections)
{
    g_autofree char *text = NULL;

    pair_wait(pair, pair_standby(pair), "state", "running");
    text = pair_event_text(pair, pair_standby(pair), "took-over");
    g_assert_nonnull(text);
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, connections));
}

/* Stop all that the home says to the other host. Returns its district-ckpt. */
static GPid
silence_home(Pair *pair)
{
    GPid sender = pair_process(pair, pair_home(pair), "processes.ckpt");

    g_usleep(2 * G_USEC_PER_SEC); /* until it must have had the acknowledgement of its first copy */
    kill(pair_home(pair)->daemon.pid, SIGSTOP);
    kill(sender, SIGSTOP);
    return sender;
}

/* It is heard again, and finds out. */
static void
wake_home(Pair *pair, GPid sender)
{
    kill(sender, SIGCONT);
    kill(pair_home(pair)->daemon.pid, SIGCONT);
    pair_wait(pair, pair_home(pair), "state", "superseded");
    pair_swap(pair);
    pair_wait_progress(pair);
}

/* It had no time to release output, and so nobody outside sees any of this. */
static void
test_silent_home(void)
{
    Pair *pair = pair_new_failover_after("1s");
    GPid sender = silence_home(pair);

    check_took_over(pair, "connections across the boundary go on");
    g_assert_true(pair_had_event(pair, pair_standby(pair), "failover"));
    wake_home(pair, sender);
    pair_free(pair);
}

/* Nobody has called it silent yet, but it may have released output for a second by now. */
static void
test_detached_home(void)
{
    Pair *pair = pair_new();
    GPid sender = silence_home(pair);
    const char *failover[] = {"failover", "shop", NULL};

    g_usleep(6 * G_USEC_PER_SEC);
    g_assert_false(pair_had_event(pair, pair_standby(pair), "stream-silent"));
    pair_must(pair, pair_standby(pair), failover);
    check_took_over(pair, "connections across the boundary are reset");
    wake_home(pair, sender);
    pair_free(pair);
}

/* District-standby ends, and before its home comes back to it the whole home host is lost. */
static void
test_home_lost_after_standby(void)
{
    Pair *pair = pair_new_failover_after("1s");
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    GPid pids[PAIR_HOME_PROCESSES];

    for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
        pids[i] = pair_process(pair, home, pair_home_paths[i]);
    kill(pids[0], SIGSTOP); /* it does not connect again */
    kill(pair_process(pair, standby, "processes.standby"), SIGKILL);
    while (!pair_had_event(pair, standby, "restarted"))
        g_usleep(1000);
    proc_kill(&home->daemon);
    for (guint i = 0; i < PAIR_HOME_PROCESSES; i++)
        kill(pids[i], SIGKILL);
    pair_wait(pair, standby, "state", "running");
    pair_daemon_start(pair, home);
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_check_output(pair, pair_home(pair));
    pair_free(pair);
}

/* A guest powers itself off while districtd is away, with or without district-ckpt. */
static void
power_off_unseen(gboolean kill_ckpt)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "rounds=" OFF_ROUNDS " poweroff=0x604:0x3400");
    Host *home = pair_home(pair);
    GPid db = pair_process(pair, home, "members.0.pid"),
         app = pair_process(pair, home, "members.1.pid");
    GPid ckpt = pair_process(pair, home, "processes.ckpt");
    gint64 deadline = g_get_monotonic_time() + OFF_LIMIT_MS * 1000;

    proc_kill(&home->daemon);
    if (kill_ckpt)
        kill(ckpt, SIGKILL);
    while (kill(app, 0) == 0) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "the guest does not power itself off");
        g_usleep(10000);
    }
    pair_daemon_start(pair, home);
    pair_wait_protected(pair);
    g_assert_cmpint(pair_number(pair, home, "members.1.off"), ==, 1);
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, db);
    gint64 epoch = pair_number(pair, home, "checkpointing.epoch");
    pair_wait_above(pair, pair_standby(pair), "standby.committed_epoch", epoch);
    pair_free(pair);
}

static void
test_power_off_unseen(void)
{
    power_off_unseen(FALSE);
    power_off_unseen(TRUE);
}

/* ---- Main ---- */

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/districtd/guests and protection go on while the home's districtd is away",
                    test_home_daemon);
    g_test_add_func(
        "/districtd/guests go on when the home's districtd is told to end at any moment",
        test_home_daemon_ends);
    g_test_add_func("/districtd/guests and protection go on while the standby's districtd is away",
                    test_standby_daemon);
    g_test_add_func("/districtd/whichever process is killed, protection returns by itself",
                    test_helpers);
    g_test_add_func("/districtd/show tells where the time of pauses goes", test_phases);
    g_test_add_func(
        "/districtd/auto finds an interval that guests bear, and goes along to the standby",
        test_auto_interval);
    g_test_add_func("/districtd/a switch started again holds output from the start",
                    test_net_holds);
    g_test_add_func(
        "/districtd/a migration whose district-ckpt is killed leaves the guests running",
        test_hand_over);
    g_test_add_func("/districtd/a take-over goes on when its processes are killed with the image",
                    test_killed_after_spent);
    g_test_add_func("/districtd/a take-over goes on when districtd is killed with the image",
                    test_daemon_killed_after_spent);
    g_test_add_func("/districtd/a take-over that fails before the members run can be repeated",
                    test_killed_before_spent);
    g_test_add_func("/districtd/a standby that cannot say yet whether it took over ends no home",
                    test_unclear_standby);
    g_test_add_func("/districtd/a standby that can run nothing costs the home nothing",
                    test_unfit_standby);
    g_test_add_func("/districtd/the standby takes over by itself from a killed member",
                    test_members);
    g_test_add_func("/districtd/the standby takes over from a member killed with districtd",
                    test_member_and_daemon);
    g_test_add_func("/districtd/a standby that was away when a member was killed takes over",
                    test_member_without_standby);
    g_test_add_func("/districtd/a home is not started while its standby is about to take over",
                    test_start_during_takeover);
    g_test_add_func("/districtd/the standby takes over when home and its districtd are killed",
                    test_takeover_home_daemon);
    g_test_add_func("/districtd/a standby whose districtd was killed takes over",
                    test_takeover_standby_daemon);
    g_test_add_func("/districtd/a home that was set up anew does not refuse a failover",
                    test_home_set_up_anew);
    g_test_add_func("/districtd/a stop lets guests power off, and unplugs who does not", test_stop);
    g_test_add_func("/districtd/a stop that loses a member ends the others",
                    test_stop_loses_member);
    g_test_add_func("/districtd/a stop by force is no failure, whatever hangs", test_stop_by_force);
    g_test_add_func("/districtd/a stop by force ends a hand-over that hangs",
                    test_stop_in_hand_over);
    g_test_add_func("/districtd/a stop that loses districtd is brought to its end, and no failure",
                    test_stop_loses_daemon);
    g_test_add_func("/districtd/the standby takes over from a silent home", test_silent_home);
    g_test_add_func("/districtd/a home that is lost right after district-standby is failed over",
                    test_home_lost_after_standby);
    g_test_add_func("/districtd/a guest that powers itself off while districtd is away is off",
                    test_power_off_unseen);
    g_test_add_func("/districtd/output that a silent home may have released is reset",
                    test_detached_home);
    return g_test_run();
}
