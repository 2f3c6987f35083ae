/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clones: an old checkpoint of shop runs beside it as "peek". The guest app compares its disk with its
 * memory, so a clone that was given anything else than what its checkpoint had says so. Real districtd,
 * on two hosts that are one machine (pair.h).
 */
#include "pair.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 20000
/* Checkpoints and merges are frequent. */
#define BUSY "AutoFailover=no\nDurableEvery=300ms\nKeep=12\n"
/* As a definition may have it. */
#define NOTE "# \303\251t\303\251\n"
#define KILLS 6

static const char *const checkpoint_old[] = {"checkpoint", "shop", "--label", "old", NULL};
static const char *const make[] = {"clone", "shop", "--at", "old", "--as", "peek", NULL};
static const char *const stop_peek[] = {"stop", "peek", NULL};
static const char *const destroy_peek[] = {"destroy", "peek", NULL};
static const char *const check_store[] = {"store", "check", "shop", NULL};

static gint64
deadline_new(void)
{
    return g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
}

/* ---- What the guests say ---- */

/* All that the clone's app has printed since it was started first. */
static char *
clone_output(Pair *pair, const Host *host)
{
    g_autofree char *path = g_strdup_printf("%s/%s/log/peek/app.debugcon", pair->dir, host->name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

static gint64
writes_at(const char *line)
{
    return line != NULL ? g_ascii_strtoll(line + strlen("disk writes="), NULL, 10) : 0;
}

/* How many writes app has said to have made, on shop's host. */
static gint64
original_writes(const Host *host)
{
    g_autofree char *path = g_build_filename(host->out, "app", NULL);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return writes_at(g_strrstr(text, "disk writes="));
}

/* The clone prints more lines, all of them good. */
static void
clone_goes_on(Pair *pair, const Host *host)
{
    gint64 deadline = deadline_new();
    guint before = 0, now = 0;

    for (gboolean first = TRUE; first || now < before + 5; first = FALSE) {
        g_autofree char *text = clone_output(pair, host);
        now = pair_check_disk_text(pair, "the clone's app", text);
        if (first)
            before = now;
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "the clone's app stands still");
        g_usleep(POLL_US);
    }
}

/* ---- The store ---- */

static JsonNode *
store_log(Pair *pair, const Host *host)
{
    const char *log[] = {"log", "shop", NULL};
    g_autofree char *why = NULL;
    JsonNode *answer = pair_command(pair, host, &why, log);

    if (!answer)
        rig_fail(pair->dir, "log: %s", why);
    return answer;
}

/* How many checkpoints have this mark. */
static guint
count_marked(Pair *pair, const Host *host, const char *mark)
{
    g_autoptr(JsonNode) answer = store_log(pair, host);
    JsonArray *all = json_object_get_array_member(json_node_get_object(answer), "checkpoints");
    guint n = 0;

    for (guint i = 0; i < json_array_get_length(all); i++)
        n += json_object_get_boolean_member(json_array_get_object_element(all, i), mark);
    return n;
}

static gint64
root_of(Pair *pair, const Host *host)
{
    g_autoptr(JsonNode) answer = store_log(pair, host);
    JsonArray *all = json_object_get_array_member(json_node_get_object(answer), "checkpoints");

    return json_object_get_int_member(json_array_get_object_element(all, 0), "id");
}

static void
wait_pins(Pair *pair, const Host *host, guint pins)
{
    gint64 deadline = deadline_new();

    while (count_marked(pair, host, "pinned") != pins) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "not %u pinned checkpoints", pins);
        g_usleep(POLL_US);
    }
}

static char *
home_sum(Pair *pair, const char *format)
{
    g_autofree char *path = g_strdup_printf("%s/app.%s", pair->dir, format);
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)data, len);
}

/* Merges have come to the home. */
static void
wait_home_changed(Pair *pair, const char *format, const char *before)
{
    gint64 deadline = deadline_new();

    for (;;) {
        g_autofree char *now = home_sum(pair, format);
        if (strcmp(now, before) != 0)
            return;
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "nothing is merged");
        g_usleep(POLL_US);
    }
}

/* Number of a new checkpoint, which has no label: a labelled one would stay, and end all merging. */
static char *
checkpoint_now(Pair *pair, const Host *host)
{
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    g_autofree char *why = NULL;
    g_autoptr(JsonNode) answer = pair_command(pair, host, &why, checkpoint);

    if (!answer)
        rig_fail(pair->dir, "checkpoint: %s", why);
    return g_strdup_printf("%" G_GINT64_FORMAT,
                           json_object_get_int_member(json_node_get_object(answer), "id"));
}

/* ---- Life of a clone ---- */

static void
remove_clone(Pair *pair, const Host *host)
{
    g_autofree char *state = pair_field_of(pair, host, "peek", "state");

    if (g_strcmp0(state, "running") == 0)
        pair_must(pair, host, stop_peek);
    pair_must(pair, host, destroy_peek);
}

static void
expect_state(Pair *pair, const Host *host, const char *state)
{
    g_autofree char *now = pair_field_of(pair, host, "peek", "state");

    g_assert_cmpstr(now, ==, state);
}

static void
beside_its_original(const char *format)
{
    Pair *pair = pair_new_disk_with(BUSY, format, "");
    Host *home = pair_home(pair);
    gint64 before, after;

    pair_wait_progress(pair);
    before = original_writes(home);
    g_autofree char *id = checkpoint_now(pair, home);
    after = original_writes(home);
    while (original_writes(home) < after + 4)
        g_usleep(POLL_US);
    const char *make_at[] = {"clone", "shop", "--at", id, "--as", "peek", NULL};
    pair_must(pair, home, make_at);
    /* Nobody writes to the home from here on; what was merged last is on it. */
    g_autofree char *pinned = home_sum(pair, format);
    expect_state(pair, home, "running");
    clone_goes_on(pair, home);
    g_autofree char *text = clone_output(pair, home);
    gint64 began = writes_at(strstr(text, "disk writes="));
    g_assert_cmpint(began, >=, before);
    g_assert_cmpint(began, <=, after + 2);
    /* Both write, and neither finds anything of the other. */
    gint64 root = root_of(pair, home);
    for (int i = 0; i < 3; i++) {
        pair_wait_progress(pair);
        clone_goes_on(pair, home);
    }
    g_assert_cmpuint(pair_check_disk(pair, home), >, 0);
    g_assert_cmpuint(count_marked(pair, home, "pinned"), ==, 1);
    g_autofree char *during = home_sum(pair, format);
    g_assert_cmpstr(during, ==, pinned);
    g_assert_cmpint(root_of(pair, home), <=, root + 1);
    pair_must(pair, home, check_store);
    remove_clone(pair, home);
    g_assert_cmpuint(count_marked(pair, home, "pinned"), ==, 0);
    wait_home_changed(pair, format, pinned);
    pair_wait_progress(pair);
    g_assert_cmpuint(pair_check_disk(pair, home), >, 0);
    pair_must(pair, home, check_store);
    pair_free(pair);
}

static void
test_raw(void)
{
    beside_its_original("raw");
}

static void
test_qcow2(void)
{
    beside_its_original("qcow2");
}

static void
test_again(void)
{
    const char *start[] = {"start", "peek", NULL};
    const char *restart[] = {"restart", "peek", NULL};
    Pair *pair = pair_new_disk_with(BUSY NOTE, "qcow2", "");
    Host *home = pair_home(pair);
    g_autofree char *definition =
        g_strdup_printf("%s/%s/state/districts/peek/peek.district", pair->dir, home->name);
    g_autofree char *text = NULL;
    gint64 began[3];

    pair_wait_progress(pair);
    pair_must(pair, home, checkpoint_old);
    pair_must(pair, home, make);
    g_assert_true(g_file_get_contents(definition, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, NOTE));
    for (int i = 0; i < 3; i++) {
        clone_goes_on(pair, home);
        g_autofree char *said = clone_output(pair, home);
        began[i] = writes_at(strstr(said, "disk writes="));
        g_autofree char *path =
            g_strdup_printf("%s/%s/log/peek/app.debugcon", pair->dir, home->name);
        if (i == 0) {
            pair_must(pair, home, stop_peek);
            expect_state(pair, home, "stopped");
        }
        unlink(path);
        pair_must(pair, home, i == 0 ? start : restart);
    }
    g_assert_cmpint(ABS(began[1] - began[0]), <=, 3);
    g_assert_cmpint(ABS(began[2] - began[0]), <=, 3);
    remove_clone(pair, home);
    pair_free(pair);
}

static void
refused(Pair *pair, const char *const *args, const char *why)
{
    g_autofree char *text = NULL;

    g_assert_null(pair_command(pair, pair_home(pair), &text, args));
    if (strstr(text, why) == NULL)
        rig_fail(pair->dir, "%s: not \"%s\" but: %s", args[0], why, text);
}

static void
test_refused(void)
{
    static const char *const of_clone[][6] = {
        {"checkpoint", "peek"},
        {"log", "peek"},
        {"store", "check", "peek"},
        {"protect", "peek", "--standby", "h2"},
        {"migrate", "peek", "--to", "h2"},
        {"rollback", "peek", "--to", "old"},
    };
    const char *destroy[] = {"destroy", "shop", NULL},
               *force[] = {"destroy", "shop", "--force", NULL};
    const char *twice[] = {"clone", "shop", "--at", "old", "--as", "peek", NULL};
    const char *of_clone_again[] = {"clone", "peek", "--at", "1", "--as", "x", NULL};
    const char *nowhere[] = {"clone", "shop", "--at", "999", "--as", "x", NULL};
    const char *bad[] = {"clone", "shop", "--at", "old", "--as", "../x", NULL};
    const char *stop[] = {"stop", "shop", "--force", NULL};
    Pair *pair = pair_new_with("AutoFailover=no\n", "");
    Host *home = pair_home(pair);
    g_autofree char *kernel = g_build_filename(pair->dir, "kernel", NULL);

    pair_must(pair, home, checkpoint_old);
    /* One that cannot be started is not there. */
    g_assert_cmpint(unlink(kernel), ==, 0);
    refused(pair, make, "Kernel");
    g_assert_null(pair_field_of(pair, home, "peek", "state"));
    wait_pins(pair, home, 0);
    g_assert_cmpint(symlink(g_getenv("TINY_GUEST"), kernel), ==, 0);
    pair_must(pair, home, make);
    for (guint i = 0; i < G_N_ELEMENTS(of_clone); i++)
        refused(pair, of_clone[i], "it is a clone of shop at checkpoint 1");
    refused(pair, of_clone_again, "it is a clone of shop at checkpoint 1");
    refused(pair, twice, "exists already");
    refused(pair, nowhere, "no checkpoint 999");
    refused(pair, bad, "\"../x\" is not a name");
    wait_pins(pair, home, 1);
    pair_must(pair, home, stop);
    refused(pair, destroy, "there are clones of it: destroy peek first");
    refused(pair, force, "there are clones of it: destroy peek first");
    remove_clone(pair, home);
    wait_pins(pair, home, 0);
    pair_free(pair);
}

/* What happens to the original is its own affair. */
static void
test_original_lives(void)
{
    const char *stop[] = {"stop", "shop", "--timeout", "0s", NULL},
               *start[] = {"start", "shop", NULL};
    const char *rollback[] = {"rollback", "shop", "--to", "old", NULL};
    Pair *pair = pair_new_disk_with(BUSY, "qcow2", "");
    Host *home = pair_home(pair), *standby = pair_standby(pair);

    pair_wait_progress(pair);
    pair_must(pair, home, checkpoint_old);
    pair_wait_progress(pair);
    pair_must(pair, home, stop);
    /* No district-ckpt has the store open now. */
    pair_must(pair, home, make);
    g_autofree char *before = home_sum(pair, "qcow2");
    clone_goes_on(pair, home);
    pair_must(pair, home, start);
    pair_wait_progress(pair);
    pair_must(pair, home, rollback);
    pair_wait_progress(pair);
    clone_goes_on(pair, home);
    kill(pair_process(pair, home, "processes.ckpt"), SIGKILL);
    pair_wait_progress(pair);
    pair_wait_protected(pair);
    const char *migrate[] = {"migrate", "shop", "--to", standby->name, NULL};
    pair_must(pair, home, migrate);
    pair_swap(pair);
    pair_wait_progress(pair);
    clone_goes_on(pair, home);
    g_autofree char *after = home_sum(pair, "qcow2");
    g_assert_cmpstr(after, ==, before);
    remove_clone(pair, home);
    g_assert_cmpuint(pair_check_disk(pair, pair_home(pair)), >, 0);
    pair_free(pair);
}

/* ---- Kills ---- */

/* Whatever was killed in whatever moment: it is a clone that can be destroyed, or nothing is left. */
static void
test_killed(void)
{
    Pair *pair = pair_new_disk_with(BUSY, "qcow2", "");
    Host *home = pair_home(pair);

    pair_wait_progress(pair);
    pair_must(pair, home, checkpoint_old);
    for (int round = 0; round < KILLS; round++) {
        Proc command = {0};

        pair_command_start(pair, home, &command, round % 3 == 2 ? destroy_peek : make);
        rig_sleep_at_random(round % 3 == 2 ? 100 : 400);
        proc_kill(&home->daemon);
        proc_wait(&command, RIG_LIMIT_MS);
        g_free(command.name);
        pair_daemon_start(pair, home);
        g_autofree char *state = pair_field_of(pair, home, "peek", "state");
        g_test_message("round %d: peek is %s", round, state != NULL ? state : "not there");
        if (state == NULL) {
            wait_pins(pair, home, 0);
            pair_must(pair, home, make);
        } else {
            wait_pins(pair, home, 1);
        }
        /* The next round destroys one, or makes one. */
        if (round % 3 != 1)
            remove_clone(pair, home);
    }
    wait_pins(pair, home, 0);
    pair_wait_progress(pair);
    g_assert_cmpuint(pair_check_disk(pair, home), >, 0);
    pair_must(pair, home, check_store);
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/clone/has what its checkpoint had while its original runs on", test_raw);
    g_test_add_func("/clone/the same over an image that qemu-nbd reads", test_qcow2);
    g_test_add_func("/clone/begins anew each time that it is started", test_again);
    g_test_add_func("/clone/what it cannot is said, and its original is not destroyed",
                    test_refused);
    g_test_add_func("/clone/goes on whatever its original does", test_original_lives);
    g_test_add_func("/clone/no kill leaves half of one", test_killed);
    return g_test_run();
}
