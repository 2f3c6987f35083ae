/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crashes: at random moments of commits, of the merge of checkpoints into base images and homes, and
 * of bringing the district back, processes are killed or the power is lost, with all that was not
 * synced (lossy.h). Then the district is restarted, and must be at exactly a committed checkpoint,
 * no older than the last that anyone was told of, memory, disks and frames together; its store must
 * be clean; and it must go on.
 *
 * A few rounds by default; DISTRICT_ROUNDS=200 for more, --seed for the choices of an earlier run.
 */
#include "trio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define ROUNDS 10
#define SKIP 77
#define IDS_MAX 100000
#define FS_MIB 192
#define OPTIONS "DurableEvery=150ms\nKeep=4\n"

/* ---- Where a crash falls ---- */

typedef enum {
    AT_A_TIME,
    AT_FILE_CREATED, /* of a checkpoint: prepared, or written anew by a fold */
    AT_FILE_WRITTEN,
    AT_FILE_CLOSED,
    AT_FILE_REMOVED,
    AT_CATALOG,
    AT_BASE,
    AT_HOME,
    MOMENTS,
} Moment;

static const struct {
    const char *name;
    const char *dir; /* below StateDir= */
    guint32 mask;
    const char *file; /* begins so; NULL: any */
} moments[MOMENTS] = {
    [AT_A_TIME] = {"a random time", NULL, 0, NULL},
    [AT_FILE_CREATED] = {"a checkpoint's file made", "districts/shop/store", IN_CREATE,
                         "checkpoint-"},
    [AT_FILE_WRITTEN] = {"a checkpoint being written", "districts/shop/store", IN_MODIFY,
                         "checkpoint-"},
    [AT_FILE_CLOSED] = {"a checkpoint complete", "districts/shop/store", IN_CLOSE_WRITE,
                        "checkpoint-"},
    [AT_FILE_REMOVED] = {"a checkpoint removed", "districts/shop/store", IN_DELETE, "checkpoint-"},
    [AT_CATALOG] = {"the catalog being written", "districts/shop/store", IN_MODIFY, "catalog"},
    [AT_BASE] = {"a base image being written", "districts/shop/store/base", IN_MODIFY, NULL},
    [AT_HOME] = {"a home being written", "", IN_MODIFY, "left."},
};

static bool
has_event(int fd, const char *file)
{
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t len = read(fd, buf, sizeof(buf));

    for (ssize_t at = 0; at < len;) {
        const struct inotify_event *event = (const void *)(buf + at);
        if (event->len > 0 && (!file || g_str_has_prefix(event->name, file)))
            return true;
        at += (ssize_t)(sizeof(*event) + event->len);
    }
    return false;
}

/* Wait for the moment, one of its kind at random, for no longer than limit_ms. */
static void
wait_moment(Trio *trio, Moment moment, int limit_ms)
{
    gint64 limit = g_get_monotonic_time() + limit_ms * INT64_C(1000);
    int left = g_test_rand_int_range(1, 12);

    if (moment == AT_A_TIME) {
        g_usleep((gulong)g_test_rand_int_range(0, limit_ms) * 1000);
        return;
    }
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    g_autofree char *dir = trio_path(trio, moments[moment].dir);
    g_assert_cmpint(inotify_add_watch(fd, dir, moments[moment].mask), >=, 0);
    while (left > 0) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        int ms = (int)((limit - g_get_monotonic_time()) / 1000);
        if (ms <= 0 || poll(&pfd, 1, ms) <= 0)
            break;
        left -= has_event(fd, moments[moment].file);
    }
    close(fd);
    if (g_test_rand_bit())
        g_usleep((gulong)g_test_rand_int_range(0, 3000));
}

/* ---- What there must be ---- */

typedef struct Known {
    TrioPlace low,
        high; /* the guests' places when the checkpoint was asked for, and when it was done */
} Known;

typedef struct Crashes {
    Trio *trio;
    gint64 told;                  /* the newest checkpoint that anyone was told of */
    gint64 highest;               /* the highest number seen */
    gint64 chosen;                /* a command to go to this one is under way; 0: none */
    GHashTable *known;            /* of those that were asked for: id -> Known[TRIO_MEMBERS] */
    TrioPlace seen[TRIO_MEMBERS]; /* before the crash */
    guint crashes[MOMENTS];
    guint exact; /* times that the district was at a checkpoint whose place is known */
} Crashes;

/* The answer's number under this name; 0 if there is no answer. Frees it. */
static gint64
number_of(JsonNode *answer, const char *name)
{
    gint64 number =
        answer ? json_object_get_int_member_with_default(json_node_get_object(answer), name, 0) : 0;

    g_clear_pointer(&answer, json_node_unref);
    return number;
}

static void
told_of(Crashes *c, gint64 id)
{
    c->told = MAX(c->told, id);
    c->highest = MAX(c->highest, id);
}

static void
look_at_durable(Crashes *c)
{
    told_of(c, pair_number(c->trio->pair, trio_host(c->trio), "checkpointing.durable_id"));
}

static void
checkpoint(Crashes *c)
{
    const char *labelled[] = {"checkpoint", "shop", "--label", "kept", NULL};
    const char *plain[] = {"checkpoint", "shop", NULL};
    TrioPlace low[TRIO_MEMBERS], high[TRIO_MEMBERS];
    g_autofree char *why = NULL;

    trio_look(c->trio, low);
    gint64 id = number_of(pair_command(c->trio->pair, trio_host(c->trio), &why,
                                       g_test_rand_int_range(0, 8) == 0 ? labelled : plain),
                          "id");
    if (id == 0)
        rig_fail(c->trio->pair->dir, "checkpoint: %s", why);
    trio_look(c->trio, high);
    Known *known = g_new0(Known, TRIO_MEMBERS);
    for (guint i = 0; i < TRIO_MEMBERS; i++)
        known[i] = (Known){low[i], high[i]};
    g_hash_table_replace(c->known, g_memdup2(&id, sizeof(id)), known);
    told_of(c, id);
}

/* The guests are where checkpoint id has them. What they print first is a report later. */
static void
check_places(Crashes *c, gint64 id)
{
    const Known *known = g_hash_table_lookup(c->known, &id);
    TrioPlace now[TRIO_MEMBERS];

    trio_look(c->trio, now);
    for (guint i = 0; i < TRIO_MEMBERS; i++) {
        guint64 step = i == 0 ? 8 : 1, skipped = 2 * step;
        guint64 low = known ? known[i].low.last : 0;
        guint64 high = known ? known[i].high.last : G_MAXUINT64 - skipped;
        if (now[i].first < low || now[i].first > high + skipped)
            rig_fail(c->trio->pair->dir,
                     "checkpoint %" G_GINT64_FORMAT " has guest %u at %" G_GUINT64_FORMAT
                     ", not from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                     id, i, now[i].first, low, high);
    }
    c->exact += known != NULL;
}

static void
check_id(Crashes *c, gint64 id)
{
    if (id != c->told && id <= c->highest && (c->chosen == 0 || id != c->chosen))
        rig_fail(c->trio->pair->dir,
                 "checkpoint %" G_GINT64_FORMAT " came back, but %" G_GINT64_FORMAT
                 " had been told of (and %" G_GINT64_FORMAT " chosen)",
                 id, c->told, c->chosen);
    c->told = id;
    c->highest = MAX(c->highest, id);
    c->chosen = 0;
}

static void
check_store(Crashes *c)
{
    const char *check[] = {"store", "check", "shop", NULL};

    pair_must(c->trio->pair, trio_host(c->trio), check);
}

/* ---- Crashes ---- */

typedef enum { LOSE_POWER, KILL_ALL } Crash;

static void
crash(Crashes *c, Crash how, Moment moment, int limit_ms)
{
    wait_moment(c->trio, moment, limit_ms);
    c->crashes[moment]++;
    if (how == KILL_ALL) {
        trio_kill_all(c->trio);
        trio_boot(c->trio, NULL);
        return;
    }
    if (g_test_rand_bit())
        lossy_write_some(c->trio->lossy);
    trio_lose_power(c->trio);
    trio_boot(c->trio, g_test_rand_bit() ? "commit=1" : "data=writeback,commit=1");
}

static Moment
any_moment(void)
{
    return (Moment)g_test_rand_int_range(0, MOMENTS);
}

/* Something else happens to it right before. */
static void
kill_one(Crashes *c)
{
    static const char *const paths[] = {"processes.ckpt", "members.0.pid", "members.1.pid"};
    int which = g_test_rand_int_range(0, 12);

    if (which < (int)G_N_ELEMENTS(paths)) {
        gint64 pid = pair_number(c->trio->pair, trio_host(c->trio), paths[which]);
        if (pid > 1)
            kill((pid_t)pid, SIGKILL);
    } else if (which == G_N_ELEMENTS(paths)) {
        proc_kill(&trio_host(c->trio)->daemon);
        trio_start_daemon(c->trio);
    }
}

/* ---- Coming back ---- */

/* One that is there, at random. */
static gint64
any_checkpoint(Crashes *c)
{
    const char *log[] = {"log", "shop", NULL};
    g_autoptr(JsonNode) answer = pair_command(c->trio->pair, trio_host(c->trio), NULL, log);
    JsonArray *list =
        answer ? json_object_get_array_member(json_node_get_object(answer), "checkpoints") : NULL;
    guint n = list ? json_array_get_length(list) : 0;

    if (n == 0)
        rig_fail(c->trio->pair->dir, "there is no checkpoint any more");
    guint which = (guint)g_test_rand_int_range(0, (gint32)n);
    return json_object_get_int_member(json_array_get_object_element(list, which), "id");
}

/* The restart command, to a certain one now and then. from: room for its number. */
static void
restart_arguments(Crashes *c, const char *arguments[5], char **from)
{
    const char *plain[5] = {"restart", "shop", NULL, NULL, NULL};

    memcpy(arguments, plain, sizeof(plain));
    *from = NULL;
    if (g_test_rand_int_range(0, 4) != 0)
        return;
    c->chosen = any_checkpoint(c);
    arguments[2] = "--from";
    arguments[3] = *from = g_strdup_printf("%" G_GINT64_FORMAT, c->chosen);
}

/* A restart that does not get to its end: the power is lost. Whether the head has moved is open. */
static void
restart_in_vain(Crashes *c)
{
    Proc command = {0};
    const char *arguments[5];
    g_autofree char *from = NULL;

    restart_arguments(c, arguments, &from);
    pair_command_start(c->trio->pair, trio_host(c->trio), &command, arguments);
    crash(c, LOSE_POWER, AT_A_TIME, 400);
    proc_wait(&command, 2 * RIG_LIMIT_MS);
    g_free(command.name);
}

static void
restart(Crashes *c)
{
    const char *arguments[5];
    g_autofree char *from = NULL, *why = NULL;

    restart_arguments(c, arguments, &from);
    if (c->chosen != 0)
        c->told = c->chosen;
    trio_new_life(c->trio);
    gint64 id =
        number_of(pair_command(c->trio->pair, trio_host(c->trio), &why, arguments), "checkpoint");
    if (id == 0)
        rig_fail(c->trio->pair->dir, "restart: %s", why);
    check_id(c, id);
    trio_wait_progress(c->trio);
    check_places(c, id);
}

static void
one_round(Crashes *c)
{
    if (g_test_rand_int_range(0, 3) != 0)
        checkpoint(c);
    kill_one(c);
    look_at_durable(c);
    crash(c, g_test_rand_int_range(0, 4) == 0 ? KILL_ALL : LOSE_POWER, any_moment(), 800);
    if (g_test_rand_int_range(0, 5) == 0)
        restart_in_vain(c);
    restart(c);
    check_store(c);
}

/* ---- Figures ---- */

/* How often district-ckpt has said this. */
static guint
said(Crashes *c, const char *what)
{
    g_autofree char *path =
        g_strdup_printf("%s/%s/log/shop/ckpt.log", c->trio->pair->dir, trio_host(c->trio)->name);
    g_autofree char *text = NULL;
    guint n = 0;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        for (const char *at = text; (at = strstr(at, what)); at++)
            n++;
    }
    return n;
}

static void
tell(Crashes *c, guint rounds)
{
    for (guint i = 0; i < MOMENTS; i++)
        g_test_message("%u crashes at %s", c->crashes[i], moments[i].name);
    g_test_message("%u rounds, checkpoints up to %" G_GINT64_FORMAT
                   ", %u times exactly where a checkpoint asked for was",
                   rounds, c->highest, c->exact);
    g_test_message(
        "at opening, %u times a file that was never committed, %u times an entry that was "
        "lost, %u times what was left of a fold",
        said(c, "never committed"), said(c, "but its entry lost"),
        said(c, "what is left of rewriting"));
}

static guint
rounds_wanted(void)
{
    const char *text = g_getenv("DISTRICT_ROUNDS");
    guint64 n = ROUNDS;

    if (text && !g_ascii_string_to_unsigned(text, 10, 1, IDS_MAX, &n, NULL))
        g_error("DISTRICT_ROUNDS=%s is no number of rounds", text);
    return (guint)n;
}

static void
test_crashes(void)
{
    g_autofree char *why = NULL;
    Crashes c = {.trio = trio_new(OPTIONS, FS_MIB, &why)};
    guint rounds = rounds_wanted();

    if (!c.trio) {
        g_test_skip(why);
        return;
    }
    c.known = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    checkpoint(&c);
    for (guint i = 0; i < rounds; i++)
        one_round(&c);
    tell(&c, rounds);
    g_hash_table_unref(c.known);
    trio_free(c.trio);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    if (!lossy_own_mounts()) {
        g_print("1..0 # SKIP no right to mount\n");
        return SKIP;
    }
    g_test_init(&argc, &argv, NULL);
    g_log_set_handler(NULL, G_LOG_LEVEL_MESSAGE, g_log_default_handler, NULL);
    g_test_add_func(
        "/crashes/whenever power or processes are lost, a committed checkpoint comes back",
        test_crashes);
    return g_test_run();
}
