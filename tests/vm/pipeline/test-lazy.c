/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lazy restores: guests that check all of their memory run while it is still read from the store.
 * Real districtd (pair.h).
 */
#include "pair.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* So slow that it takes minutes to read what nobody waits for. */
#define SLOWLY "AutoFailover=no\nLoadRate=16K\n"
/* app has more to read than what a few faults bring in. */
#define WIDE " pages=6144 init=1 verify=256 vwords=2"
#define INDEX_LIMIT_S 30
#define BUSY_LIMIT_S 20

static const char *const restart[] = {"restart", "shop", NULL};
static const char *const checkpoint[] = {"checkpoint", "shop", NULL};

static gint64
pages_to_load(Pair *pair)
{
    return pair_number(pair, pair_home(pair), "checkpointing.load_total_pages");
}

/* shop runs from its checkpoint, most of its memory not read yet. */
static Pair *
pair_new_loading(void)
{
    Pair *pair = pair_new_with(SLOWLY, WIDE);

    pair_must(pair, pair_home(pair), checkpoint);
    pair_must(pair, pair_home(pair), restart);
    pair_wait_above(pair, pair_home(pair), "checkpointing.load_total_pages", 0);
    return pair;
}

/* What has failed may be ending still, and protection be about to begin. */
static void
restart_at_last(Pair *pair)
{
    gint64 limit = g_get_monotonic_time() + BUSY_LIMIT_S * G_USEC_PER_SEC;

    while (TRUE) {
        g_autofree char *why = NULL;
        g_autoptr(JsonNode) started = pair_command(pair, pair_home(pair), &why, restart);

        if (started)
            return;
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "restart: %s", why);
        g_usleep(100000);
    }
}

static void
test_runs(void)
{
    Pair *pair = pair_new_loading();

    pair_wait_progress(pair);
    pair_wait_progress(pair);
    pair_free(pair);
}

static void
test_checkpoint(void)
{
    Pair *pair = pair_new_loading();

    pair_must(pair, pair_home(pair), checkpoint);
    restart_at_last(pair);
    pair_wait_progress(pair);
    pair_wait_progress(pair);
    pair_free(pair);
}

static void
test_killed(void)
{
    Pair *pair = pair_new_with(SLOWLY, WIDE);
    Host *home = pair_home(pair);
    g_autofree char *log = g_build_filename(pair->dir, home->name, "log", "shop", "ckpt.log", NULL);
    g_autofree char *said = NULL;

    pair_must(pair, home, checkpoint);
    pair_must(pair, home, restart);
    kill(pair_process(pair, home, "processes.ckpt"), SIGKILL);
    pair_wait_progress(pair);
    pair_wait_progress(pair);
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    if (strstr(said, "going on reading memory") == NULL)
        rig_fail(pair->dir, "all memory had been read before district-ckpt was killed");
    pair_free(pair);
}

static void
test_protected(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");

    pair_must(pair, pair_home(pair), checkpoint);
    pair_must(pair, pair_home(pair), restart);
    pair_wait_protected(pair);
    g_assert_cmpint(pages_to_load(pair), ==, 0);
    pair_wait_progress(pair);
    pair_free(pair);
}

static void
flip_middle(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t at = lseek(fd, 0, SEEK_END) / 2;
    uint8_t byte;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 0x40;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

static void
wait_for_file(const Pair *pair, const char *path)
{
    gint64 limit = g_get_monotonic_time() + INDEX_LIMIT_S * G_USEC_PER_SEC;

    while (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "%s: not made within %d s", path, INDEX_LIMIT_S);
        g_usleep(100000);
    }
}

/* Seen while the members load their state, or when the guests run. */
static void
test_damaged(void)
{
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    const char *stop[] = {"stop", "shop", "--force", NULL};
    g_autofree char *store =
        g_strdup_printf("%s/%s/state/districts/shop/store", pair->dir, home->name);
    g_autofree char *file = g_build_filename(store, "checkpoint-1-0.dcp", NULL);
    g_autofree char *why = NULL;
    g_autofree char *index = g_build_filename(store, "index", "checkpoint-1-0.idx", NULL);

    pair_must(pair, home, checkpoint);
    wait_for_file(pair, index);
    pair_must(pair, home, stop);
    flip_middle(file);
    g_autoptr(JsonNode) started = pair_command(pair, home, &why, restart);
    pair_wait(pair, home, "state", "failed");
    if (started)
        why = pair_field(pair, home, "reason");
    if (why == NULL || strstr(why, "checkpoint-1-0.dcp") == NULL)
        rig_fail(pair->dir, "it failed, but not by name: %s", why);
    flip_middle(file);
    restart_at_last(pair);
    pair_wait_progress(pair);
    pair_free(pair);
}

/* ---- Disks ---- */

/* Checkpoints that are kept have blocks of their own, which are not in the home. */
#define KEPT "AutoFailover=no\nDurableEvery=200ms\nKeep=20\n"
#define RAM_PAGES (PAIR_MEMBERS * (PAIR_MEMBER_BYTES / 4096))
#define BLOCKS_MIN 8

/* shop runs from a checkpoint, and blocks of app's disk are still to be read. */
static Pair *
pair_new_disk_loading(const char *options)
{
    const char *unprotect[] = {"unprotect", "shop", NULL};
    Pair *pair = pair_new_disk_with(options, "raw", "");
    gint64 limit = g_get_monotonic_time() + 3 * RIG_LIMIT_MS * 1000;

    pair_must(pair, pair_home(pair), unprotect);
    while (TRUE) {
        gint64 pages;
        for (int i = 0; i < 10; i++)
            pair_wait_progress(pair);
        pair_must(pair, pair_home(pair), checkpoint);
        pair_must(pair, pair_home(pair), restart);
        pair_wait_above(pair, pair_home(pair), "checkpointing.load_total_pages", 0);
        pages = pages_to_load(pair);
        if (pages >= RAM_PAGES + BLOCKS_MIN)
            return pair;
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "no more than %" G_GINT64_FORMAT " pages are to be read", pages);
    }
}

/* app reads each place before it writes there, and compares. */
static void
check_disk(Pair *pair)
{
    for (int i = 0; i < 4; i++)
        pair_wait_progress(pair);
    g_assert_cmpuint(pair_check_disk(pair, pair_home(pair)), >, 0);
}

static void
test_disk(void)
{
    Pair *pair = pair_new_disk_loading(KEPT "LoadRate=4K\n");

    check_disk(pair);
    pair_free(pair);
}

/* The next one has other checkpoints, and a home to which some of them have been merged. */
static void
test_disk_killed(void)
{
    Pair *pair = pair_new_disk_loading(KEPT "LoadRate=4K\n");

    g_autofree char *log =
        g_build_filename(pair->dir, pair_home(pair)->name, "log", "shop", "ckpt.log", NULL);
    g_autofree char *said = NULL;

    for (int i = 0; i < 3; i++) {
        kill(pair_process(pair, pair_home(pair), "processes.ckpt"), SIGKILL);
        check_disk(pair);
    }
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    if (strstr(said, "going on reading memory") == NULL)
        rig_fail(pair->dir, "all had been read before district-ckpt was killed");
    pair_must(pair, pair_home(pair), checkpoint);
    restart_at_last(pair);
    check_disk(pair);
    pair_free(pair);
}

/* Then it is whole: the standby gets all of it. */
static void
test_disk_protected(void)
{
    const char *failover[] = {"failover", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", "--wait", NULL};
    Pair *pair = pair_new_disk_loading(KEPT "LoadRate=128K\n");

    pair_must(pair, pair_home(pair), protect);
    g_assert_cmpint(pages_to_load(pair), ==, 0);
    check_disk(pair);
    pair_lose_power(pair);
    pair_must(pair, pair_standby(pair), failover);
    pair_swap(pair);
    check_disk(pair);
    pair_free(pair);
}

/* ---- Clones ---- */

static const char *const peek[] = {"clone", "shop", "--at", "latest", "--as", "peek", NULL};

/* Rounds of app's clone. */
static guint
clone_rounds(const Pair *pair, const Host *host)
{
    g_autofree char *path = g_strdup_printf("%s/%s/log/peek/app.debugcon", pair->dir, host->name);
    g_autofree char *text = NULL;
    guint n = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    if (strstr(text, "fail") != NULL)
        rig_fail(pair->dir, "the clone's app: %s", strstr(text, "fail"));
    for (const char *p = text; (p = strstr(p, "chain cpu=")); p++)
        n++;
    return n;
}

static void
clone_goes_on(const Pair *pair, const Host *host)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    for (guint before = clone_rounds(pair, host); clone_rounds(pair, host) < before + 5;) {
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "the clone's app stands still");
        g_usleep(20000);
    }
}

static guint64
clone_pages_to_load(Pair *pair, Host *home)
{
    g_autofree char *pages = pair_field_of(pair, home, "peek", "checkpointing.load_total_pages");

    return pages ? g_ascii_strtoull(pages, NULL, 10) : 0;
}

static Pair *
pair_new_clone_loading(void)
{
    Pair *pair = pair_new_with(SLOWLY "DurableEvery=300ms\nKeep=1\n", WIDE);
    Host *home = pair_home(pair);

    pair_must(pair, home, checkpoint);
    pair_must(pair, home, peek);
    for (gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
         clone_pages_to_load(pair, home) == 0; g_usleep(20000)) {
        if (g_get_monotonic_time() > limit)
            rig_fail(pair->dir, "all memory of the clone has been read");
    }
    return pair;
}

/* While the original makes checkpoints, and folds files. */
static void
test_clone(void)
{
    Pair *pair = pair_new_clone_loading();
    Host *home = pair_home(pair);

    clone_goes_on(pair, home);
    for (int i = 0; i < 4; i++) {
        pair_must(pair, home, checkpoint);
        clone_goes_on(pair, home);
        pair_wait_progress(pair);
    }
    pair_free(pair);
}

static void
test_clone_killed(void)
{
    Pair *pair = pair_new_clone_loading();
    Host *home = pair_home(pair);
    g_autofree char *log = g_build_filename(pair->dir, home->name, "log", "peek", "ckpt.log", NULL);
    g_autofree char *pid = pair_field_of(pair, home, "peek", "processes.ckpt");
    g_autofree char *said = NULL;

    kill((GPid)g_ascii_strtoll(pid, NULL, 10), SIGKILL);
    clone_goes_on(pair, home);
    clone_goes_on(pair, home);
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    if (strstr(said, "going on reading memory") == NULL)
        rig_fail(pair->dir, "all memory had been read before district-ckpt was killed");
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lazy/guests run before their memory has been read", test_runs);
    g_test_add_func("/lazy/a checkpoint taken meanwhile is whole", test_checkpoint);
    g_test_add_func("/lazy/guests go on when district-ckpt is killed meanwhile", test_killed);
    g_test_add_func("/lazy/protection begins when the memory has been read", test_protected);
    g_test_add_func("/lazy/damage that guests run into ends the district by name", test_damaged);
    g_test_add_func("/lazy/a guest finds its disk right before it has been read", test_disk);
    g_test_add_func("/lazy/disks are right when district-ckpt is killed meanwhile",
                    test_disk_killed);
    g_test_add_func("/lazy/a disk that has been read is whole", test_disk_protected);
    g_test_add_func("/lazy/a clone runs before its memory has been read", test_clone);
    g_test_add_func("/lazy/a clone goes on when its district-ckpt is killed meanwhile",
                    test_clone_killed);
    return g_test_run();
}
