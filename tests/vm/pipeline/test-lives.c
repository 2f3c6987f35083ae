/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lives of a district: it is restarted from its store, which is checked; its disks go with it from
 * host to host, in a lineage of their own; and a host that boots goes on with it. Real districtd, on
 * two hosts that are one machine (pair.h).
 */
#include "pair.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const failover[] = {"failover", "shop", NULL};

/* ---- Restart ---- */

static const char *const restart[] = {"restart", "shop", NULL};

/* It is refused, and the guests that run have not noticed. */
static void
restart_refused(Pair *pair, const char *why)
{
    Host *home = pair_home(pair);
    GPid db = pair_process(pair, home, "members.0.pid"),
         app = pair_process(pair, home, "members.1.pid");
    g_autofree char *text = NULL;

    g_assert_null(pair_command(pair, home, &text, restart));
    if (strstr(text, why) == NULL)
        rig_fail(pair->dir, "restart: not \"%s\" but: %s", why, text);
    pair_wait_progress(pair);
    g_assert_cmpint(pair_process(pair, home, "members.0.pid"), ==, db);
    g_assert_cmpint(pair_process(pair, home, "members.1.pid"), ==, app);
}

static void
flip_byte(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 0x40;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

static void
test_restart_refused(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    g_autofree char *file = g_strdup_printf("%s/%s/state/districts/shop/store/checkpoint-1-0.dcp",
                                            pair->dir, home->name);
    g_autofree char *kernel = g_build_filename(pair->dir, "kernel", NULL);
    struct stat st;

    pair_must(pair, home, checkpoint);
    g_assert_cmpint(stat(file, &st), ==, 0);
    flip_byte(file, st.st_size / 2);
    restart_refused(pair, "damaged");
    flip_byte(file, st.st_size / 2);
    g_assert_cmpint(unlink(kernel), ==, 0);
    restart_refused(pair, "Kernel");
    g_assert_cmpint(symlink(g_getenv("TINY_GUEST"), kernel), ==, 0);
    proc_kill(&pair_standby(pair)->daemon);
    restart_refused(pair, "may have taken over");
    pair_daemon_start(pair, pair_standby(pair));
    pair_wait_protected(pair);
    gint64 incarnation = pair_number(pair, home, "incarnation");
    pair_wait(pair, pair_standby(pair), "state", "standby");
    pair_must(pair, home, restart);
    g_assert_cmpint(pair_number(pair, home, "incarnation"), ==, incarnation + 1);
    pair_wait_progress(pair);
    pair_free(pair);
}

static void
test_store_check(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    const char *check[] = {"store", "check", "shop", NULL};
    g_autofree char *file = g_strdup_printf("%s/%s/state/districts/shop/store/checkpoint-2-0.dcp",
                                            pair->dir, home->name);
    g_autofree char *damage = NULL;
    struct stat st;

    pair_must(pair, home, checkpoint);
    pair_must(pair, home, checkpoint);
    pair_must(pair, home, check);
    g_assert_cmpint(stat(file, &st), ==, 0);
    flip_byte(file, st.st_size / 2);
    g_assert_null(pair_command(pair, home, &damage, check));
    if (strstr(damage, "faults in its store: 1, the first in checkpoint-2-0.dcp") == NULL)
        rig_fail(pair->dir, "store check: %s", damage);
    pair_wait_progress(pair);
    pair_free(pair);
}

/* ---- Disks ---- */

/* The standby, which is home now, has what app wrote before, and what it writes from here on. */
static void
check_moved_disk(Pair *pair)
{
    pair_wait(pair, pair_standby(pair), "state", "running");
    pair_swap(pair);
    pair_wait_progress(pair);
    pair_wait_progress(pair);
    g_assert_cmpuint(pair_check_disk(pair, pair_home(pair)), >, 0);
}

static void
test_disk_failover(void)
{
    Pair *pair = pair_new_disk();
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    const char *check[] = {"store", "check", "shop", NULL};

    for (int round = 0; round < 3; round++) {
        pair_wait_progress(pair);
        rig_sleep_at_random(500);
        g_assert_cmpuint(pair_check_disk(pair, pair_home(pair)), >, 0);
        if (round != 0)
            pair_lose_power(pair);
        pair_must(pair, pair_standby(pair), failover);
        check_moved_disk(pair);
        if (round != 0)
            pair_daemon_start(pair, pair_standby(pair));
        /* Its durable checkpoints begin anew there, and a restart goes on from them. */
        pair_must(pair, pair_home(pair), checkpoint);
        pair_wait_progress(pair);
        pair_must(pair, pair_home(pair), restart);
        pair_wait_progress(pair);
        pair_must(pair, pair_home(pair), check);
        g_assert_cmpuint(pair_check_disk(pair, pair_home(pair)), >, 0);
        pair_wait(pair, pair_standby(pair), "state", "superseded");
        const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                                 "--wait",  NULL};
        pair_must(pair, pair_home(pair), protect);
    }
    pair_free(pair);
}

/* The copy goes; what this host had of its own life before stays. */
static void
test_disk_dropped(void)
{
    Pair *pair = pair_new_disk();
    const char *checkpoint[] = {"checkpoint", "shop", NULL}, *log[] = {"log", "shop", NULL};
    const char *unprotect[] = {"unprotect", "shop", NULL};

    pair_must(pair, pair_home(pair), checkpoint);
    pair_must(pair, pair_standby(pair), failover);
    check_moved_disk(pair);
    Host *home = pair_home(pair), *standby = pair_standby(pair);
    g_autofree char *copy =
        g_strdup_printf("%s/%s/state/districts/shop/lineage-1", pair->dir, standby->name);
    const char *protect[] = {"protect", "shop", "--standby", standby->name, "--wait", NULL};
    pair_wait(pair, standby, "state", "superseded");
    pair_must(pair, home, protect);
    g_assert_true(g_file_test(copy, G_FILE_TEST_IS_DIR));
    pair_must(pair, home, unprotect);
    g_assert_false(g_file_test(copy, G_FILE_TEST_EXISTS));
    g_autoptr(JsonNode) answer = pair_command(pair, standby, NULL, log);
    JsonArray *checkpoints =
        json_object_get_array_member(json_node_get_object(answer), "checkpoints");
    g_assert_cmpuint(json_array_get_length(checkpoints), >, 0);
    pair_wait_progress(pair);
    pair_free(pair);
}

/* A take-over that is under way may fail: then there is a copy, which its home must not have forgotten. */
static void
test_disk_dropped_late(void)
{
    Pair *pair = pair_new_disk();
    GPid keeper = pair_process(pair, pair_standby(pair), "processes.standby");
    const char *unprotect[] = {"unprotect", "shop", NULL};
    g_autofree char *why = NULL;
    Proc command = {0};

    kill(keeper, SIGSTOP); /* no engine is started before it has said what disks it has */
    pair_command_start(pair, pair_standby(pair), &command, failover);
    pair_wait(pair, pair_standby(pair), "operation", "failover");
    g_assert_null(pair_command(pair, pair_home(pair), &why, unprotect));
    kill(keeper, SIGCONT);
    g_assert_nonnull(strstr(why, "being taken over"));
    g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), ==, 0);
    g_free(command.name);
    check_moved_disk(pair);
    pair_wait(pair, pair_standby(pair), "state", "superseded");
    pair_free(pair);
}

/* The only copy of its disks is in its directory then. */
static void
test_disk_destroyed(void)
{
    Pair *pair = pair_new_disk();
    const char *stop[] = {"stop", "shop", "--force", NULL}, *destroy[] = {"destroy", "shop", NULL};
    const char *force[] = {"destroy", "shop", "--force", NULL};
    g_autofree char *why = NULL;

    pair_must(pair, pair_standby(pair), failover);
    check_moved_disk(pair);
    Host *home = pair_home(pair);
    g_autofree char *named = pair_field(pair, home, "members.1.disks.0.home");
    g_autofree char *disk = g_strdup_printf("%s/%s/state/districts/shop/lineage-1/disks/app-0.raw",
                                            pair->dir, home->name);
    g_assert_cmpstr(named, ==, disk);
    pair_must(pair, home, stop);
    g_assert_null(pair_command(pair, home, &why, destroy));
    g_assert_nonnull(strstr(why, "its disks came from another host"));
    g_assert_true(g_file_test(disk, G_FILE_TEST_IS_REGULAR));
    pair_must(pair, home, force);
    g_assert_false(g_file_test(disk, G_FILE_TEST_EXISTS));
    pair_swap(pair); /* which has ended it */
    pair_free(pair);
}

/* Its last writes are durable long before the next checkpoint is due: they are nowhere else by then. */
static void
test_disk_power_off(void)
{
    Pair *pair = pair_new_disk_with("AutoFailover=no\nDurableEvery=60min\n", "raw", "rounds=80");
    Host *home = pair_home(pair);
    gint64 deadline = g_get_monotonic_time() + 120 * G_USEC_PER_SEC;

    while (pair_number(pair, home, "members.1.off") != 1) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "app does not power itself off");
        g_usleep(20000);
    }
    gint64 before = pair_number(pair, home, "checkpointing.durable_id");
    if (before < 2)
        pair_wait_above(pair, home, "checkpointing.durable_id", before);
    g_assert_cmpint(pair_number(pair, home, "checkpointing.durable_id"), >=, 2);
    /* Now db goes off, too, and a stop saves the disks of a district without a member that is on. */
    const char *stop[] = {"stop", "shop", "--timeout", "5s", NULL};
    pair_must(pair, home, stop);
    pair_wait(pair, home, "state", "stopped");
    pair_free(pair);
}

static void
test_disk_migrate(void)
{
    Pair *pair = pair_new_disk();

    for (int round = 0; round < 3; round++) {
        const char *migrate[] = {"migrate", "shop", "--to", pair_standby(pair)->name, NULL};
        pair_wait_progress(pair);
        pair_wait_protected(pair);
        pair_must(pair, pair_home(pair), migrate);
        check_moved_disk(pair);
    }
    pair_free(pair);
}

/* ---- Autostart ---- */

/* shop, to be started at a boot, has got to a durable checkpoint. */
static Pair *
pair_new_autostart(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\nAutostart=yes\n", "");
    const char *checkpoint[] = {"checkpoint", "shop", NULL};

    pair_must(pair, pair_home(pair), checkpoint);
    pair_wait_progress(pair);
    return pair;
}

static void
autostarted(Pair *pair, const char *how)
{
    Host *home = pair_home(pair);

    pair_wait(pair, home, "state", "running");
    pair_wait_protected(pair);
    pair_wait_progress(pair);
    g_autofree char *text = pair_event_text(pair, home, "autostarted");
    g_assert_cmpstr(text, ==, how);
}

static void
test_autostart(void)
{
    Pair *pair = pair_new_autostart();
    Host *home = pair_home(pair);
    gint64 incarnation = pair_number(pair, home, "incarnation");

    pair_lose_power(pair);
    pair_daemon_start(pair, home);
    autostarted(pair, "from checkpoint 1");
    g_assert_cmpint(pair_number(pair, home, "incarnation"), ==, incarnation + 1);
    pair_check_output(pair, home);
    /* It is no boot when districtd alone starts again. */
    const char *stop[] = {"stop", "shop", "--force", NULL};
    pair_must(pair, home, stop);
    proc_kill(&home->daemon);
    pair_daemon_start(pair, home);
    pair_wait_link(pair, home);
    g_usleep(2 * G_USEC_PER_SEC);
    pair_wait(pair, home, "state", "stopped");
    pair_free(pair);
}

static void
test_autostart_stopped(void)
{
    Pair *pair = pair_new_autostart();
    const char *stop[] = {"stop", "shop", "--timeout", "0s", NULL};

    pair_must(pair, pair_home(pair), stop);
    pair_lose_power(pair);
    pair_daemon_start(pair, pair_home(pair));
    autostarted(pair, "booted");
    pair_free(pair);
}

static void
test_autostart_waits(void)
{
    Pair *pair = pair_new_autostart();
    Host *home = pair_home(pair);

    proc_kill(&pair_standby(pair)->daemon);
    pair_lose_power(pair);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "reason",
              "autostart waits for the standby's host, which may have taken over");
    /* A districtd that is killed meanwhile does not forget. */
    proc_kill(&home->daemon);
    pair_daemon_start(pair, home);
    pair_wait(pair, home, "state", "stopped");
    pair_daemon_start(pair, pair_standby(pair));
    autostarted(pair, "from checkpoint 1");
    pair_free(pair);
}

/* ---- Main ---- */

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lives/a restart that cannot be does not end what runs", test_restart_refused);
    g_test_add_func("/lives/a store is checked while its district runs and damage is named",
                    test_store_check);
    g_test_add_func("/lives/a failover takes the disks along as the memory has them",
                    test_disk_failover);
    g_test_add_func("/lives/a copy that is dropped takes its disks with it and nothing else",
                    test_disk_dropped);
    g_test_add_func("/lives/a copy that is being taken over is not dropped",
                    test_disk_dropped_late);
    g_test_add_func("/lives/disks that came along are not destroyed unasked", test_disk_destroyed);
    g_test_add_func("/lives/what a guest that powers itself off wrote last is durable at once",
                    test_disk_power_off);
    g_test_add_func("/lives/a district with disks moves there and back", test_disk_migrate);
    g_test_add_func("/lives/after a boot of the host a district goes on from its checkpoint",
                    test_autostart);
    g_test_add_func("/lives/after a boot of the host a district that was stopped boots",
                    test_autostart_stopped);
    g_test_add_func("/lives/nothing is autostarted that may have been taken over",
                    test_autostart_waits);
    return g_test_run();
}
