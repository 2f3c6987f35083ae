/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A host's disk that is full, fails, hangs, or has changed what was written to it, below a district
 * of three tiny guests (trio.h): what is wrong is named, no guest is lied to, who does not need the
 * disk goes on, and when the disk is well again so does everyone.
 */
#include "trio.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SKIP 77
#define FS_MIB 96
#define STANDBY_MIB 64
#define DB 0
#define LEFT 1
#define RIGHT 2
/* No durable checkpoint by itself, or all the time. */
#define ON_DEMAND "DurableEvery=60min\nAutoFailover=no\n"
#define OFTEN "DurableEvery=200ms\nKeep=2\nAutoFailover=no\n"

static const char *const checkpoint[] = {"checkpoint", "shop", NULL};
static const char *const restart[] = {"restart", "shop", NULL};
static const char *const check[] = {"store", "check", "shop", NULL};

static Trio *
trio_or_skip(const char *options)
{
    g_autofree char *why = NULL;
    Trio *trio = trio_new(options, FS_MIB, &why);

    if (!trio)
        g_test_skip(why);
    return trio;
}

/* Wait until one guest has got further. */
static void
wait_guest(Trio *trio, int guest)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * INT64_C(1000);
    TrioPlace before[TRIO_MEMBERS], now[TRIO_MEMBERS];

    trio_look(trio, before);
    do {
        if (g_get_monotonic_time() > limit)
            rig_fail(trio->pair->dir, "guest %d stands still", guest);
        g_usleep(10000);
        trio_look(trio, now);
    } while (now[guest].last <= before[guest].last);
}

/* The guest prints nothing for a while. */
static void
assert_stands_still(Trio *trio, int guest)
{
    TrioPlace before[TRIO_MEMBERS], now[TRIO_MEMBERS];

    trio_look(trio, before);
    g_usleep(300000);
    trio_look(trio, now);
    g_assert_cmpuint(now[guest].last, ==, before[guest].last);
}

/* Wait until a field of show has this in it; "": until it is empty. */
static void
wait_said(Trio *trio, const char *path, const char *text)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * INT64_C(1000);

    for (;;) {
        g_autofree char *said = pair_field(trio->pair, trio_host(trio), path);
        if (said && (*text ? strstr(said, text) != NULL : *said == '\0'))
            return;
        if (g_get_monotonic_time() > limit)
            rig_fail(trio->pair->dir, "%s is \"%s\", without \"%s\"", path, said ? said : "", text);
        g_usleep(20000);
    }
}

/* The command fails and says this. */
static void
assert_refused(Trio *trio, const char *const *command, const char *text)
{
    g_autofree char *why = NULL;
    g_autoptr(JsonNode) answer = pair_command(trio->pair, trio_host(trio), &why, command);

    if (answer || !strstr(why, text))
        rig_fail(trio->pair->dir, "%s: not \"%s\" but \"%s\"", command[0], text,
                 answer ? "done" : why);
}

static GPid
engine(Trio *trio, int guest)
{
    g_autofree char *path = g_strdup_printf("members.%d.pid", guest);

    return pair_process(trio->pair, trio_host(trio), path);
}

/* A checkpoint now; its number. */
static gint64
save(Trio *trio)
{
    g_autofree char *why = NULL;
    g_autoptr(JsonNode) answer = pair_command(trio->pair, trio_host(trio), &why, checkpoint);

    if (!answer)
        rig_fail(trio->pair->dir, "checkpoint: %s", why);
    return json_object_get_int_member(json_node_get_object(answer), "id");
}

/* It goes on from checkpoint id or a later one, in order. */
static void
come_back(Trio *trio, gint64 id)
{
    g_autofree char *why = NULL;

    trio_new_life(trio);
    g_autoptr(JsonNode) answer = pair_command(trio->pair, trio_host(trio), &why, restart);
    if (!answer)
        rig_fail(trio->pair->dir, "restart: %s", why);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(answer), "checkpoint"), >=, id);
    trio_wait_progress(trio);
    pair_must(trio->pair, trio_host(trio), check);
}

/* ---- Full ---- */

static void
test_full(void)
{
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    save(trio);
    lossy_fill(trio->lossy, 0);
    wait_said(trio, "checkpointing.members.1.waiting", "make room there");
    wait_said(trio, "checkpointing.durable_error", "free some space");
    g_assert_true(pair_had_event(trio->pair, trio_host(trio), "member-waits"));
    g_assert_true(pair_had_event(trio->pair, trio_host(trio), "store-failed"));
    assert_stands_still(trio, LEFT);
    wait_guest(trio, DB);
    /* What was there is still good, and looking at it needs no room. */
    pair_must(trio->pair, trio_host(trio), check);
    lossy_make_room(trio->lossy);
    trio_wait_progress(trio); /* without an error of a disk */
    wait_said(trio, "checkpointing.members.1.waiting", "");
    come_back(trio, save(trio));
    trio_free(trio);
}

/* The power is lost while it is full: what was committed comes back, when there is room. */
static void
test_full_power(void)
{
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    gint64 id = save(trio);
    lossy_fill(trio->lossy, 0);
    wait_said(trio, "checkpointing.durable_error", "free some space");
    trio_lose_power(trio);
    trio_boot(trio, "");
    lossy_fill(trio->lossy, 0); /* what was freed by that */
    g_autofree char *why = NULL;
    g_assert_null(pair_command(trio->pair, trio_host(trio), &why, restart));
    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, "No space left on device"));
    lossy_make_room(trio->lossy);
    come_back(trio, id);
    trio_free(trio);
}

/* A restart for which there is no room does not end what runs. */
static void
test_full_restart(void)
{
    Trio *trio = trio_or_skip(ON_DEMAND);

    if (!trio)
        return;
    gint64 id = save(trio);
    GPid db = engine(trio, DB), left = engine(trio, LEFT);
    lossy_fill(trio->lossy, 0);
    assert_refused(trio, restart, "No space left on device");
    g_assert_cmpint(engine(trio, DB), ==, db);
    g_assert_cmpint(engine(trio, LEFT), ==, left);
    wait_guest(trio, DB);
    lossy_make_room(trio->lossy);
    trio_wait_progress(trio);
    come_back(trio, id);
    trio_free(trio);
}

/* Guests whose writes could not be saved are not ended as if they had been. */
static void
test_full_stop(void)
{
    Trio *trio = trio_or_skip(OFTEN);
    const char *stop[] = {"stop", "shop", "--timeout", "1s", NULL};

    if (!trio)
        return;
    lossy_fill(trio->lossy, 0);
    wait_said(trio, "checkpointing.durable_error", "free some space");
    GPid left = engine(trio, LEFT);
    assert_refused(trio, stop, "cannot be saved");
    g_assert_cmpint(engine(trio, LEFT), ==, left);
    wait_guest(trio, DB);
    lossy_make_room(trio->lossy);
    trio_wait_progress(trio);
    wait_said(trio, "checkpointing.durable_error", "");
    pair_must(trio->pair, trio_host(trio), stop);
    trio_free(trio);
}

static void
test_standby_full(void)
{
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    trio_protect(trio, STANDBY_MIB);
    pair_wait_protected(trio->pair);
    lossy_fill(trio->standby_lossy, 0);
    wait_said(trio, "checkpointing.protection_error", "free some room there");
    trio_wait_progress(trio);
    save(trio);
    lossy_make_room(trio->standby_lossy);
    pair_wait_protected(trio->pair);
    const char *failover[] = {"failover", "shop", NULL};
    pair_must(trio->pair, &trio->pair->hosts[1], failover);
    trio_free(trio);
}

/* It is said how much will come: the standby refuses what it has no room for before any of it does. */
static void
test_standby_small(void)
{
    const char *unprotect[] = {"unprotect", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", NULL};
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    trio_protect(trio, STANDBY_MIB);
    for (int i = 0; i < 5; i++)
        trio_wait_progress(trio);
    pair_must(trio->pair, trio_host(trio), unprotect);
    lossy_fill(trio->standby_lossy, 8);
    pair_must(trio->pair, trio_host(trio), protect);
    wait_said(trio, "checkpointing.protection_error", "not enough room for disks");
    trio_wait_progress(trio);
    lossy_make_room(trio->standby_lossy);
    pair_wait_protected(trio->pair);
    trio_free(trio);
}

/* ---- Broken ---- */

/* Every access fails. The guests' requests fail too, which is no lie. */
static void
test_broken(void)
{
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    gint64 id = save(trio);
    GPid db = engine(trio, DB);
    lossy_cut_power(trio->lossy);
    wait_said(trio, "checkpointing.durable_error", "Input/output error");
    g_assert_true(pair_had_event(trio->pair, trio_host(trio), "store-failed"));
    assert_refused(trio, restart, "Input/output error");
    assert_refused(trio, check, "Input/output error");
    g_assert_cmpint(engine(trio, DB), ==, db);
    trio_lose_power(trio);
    trio_boot(trio, "");
    come_back(trio, id);
    trio_free(trio);
}

/* ---- Slow ---- */

/* What needs the disk waits; cuts, commits at the standby, and who asks do not. */
static void
test_hangs(void)
{
    Trio *trio = trio_or_skip(OFTEN);

    if (!trio)
        return;
    trio_protect(trio, STANDBY_MIB);
    pair_wait_protected(trio->pair);
    lossy_freeze(trio->lossy);
    for (int i = 0; i < 3; i++) {
        gint64 began = g_get_monotonic_time();
        gint64 epoch = pair_number(trio->pair, trio_host(trio), "checkpointing.epoch");
        g_assert_cmpint(epoch, >, 0);
        g_assert_cmpint(g_get_monotonic_time() - began, <, 2 * G_USEC_PER_SEC);
        wait_guest(trio, DB);
        pair_wait_above(trio->pair, &trio->pair->hosts[1], "standby.committed_epoch", epoch);
    }
    assert_stands_still(trio, LEFT);
    lossy_thaw(trio->lossy);
    trio_wait_progress(trio);
    pair_wait_protected(trio->pair);
    come_back(trio, save(trio));
    trio_free(trio);
}

/* ---- Damage ---- */

#define FLIPS_EACH 1

static void
flip_bit(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t data, at;
    struct stat st;
    uint8_t byte;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    /* Not in a hole of a sparse one, mostly. */
    data = lseek(fd, 0, SEEK_DATA);
    at = MAX(data, 0) + g_test_rand_int_range(0, (gint32)MIN(st.st_size - MAX(data, 0), 65536));
    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= (uint8_t)(1u << g_test_rand_int_range(0, 8));
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

static void
copy_store(const char *from, const char *to)
{
    const char *rm[] = {"rm", "-rf", to, NULL},
               *cp[] = {"cp", "-a", "--sparse=always", from, to, NULL};
    int status = -1;

    g_assert_true(g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                               NULL, NULL));
    g_assert_true(g_spawn_sync(NULL, (char **)cp, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                               &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* Every guest has got further since it was restarted. */
static bool
all_go_on(Trio *trio)
{
    TrioPlace now[TRIO_MEMBERS];

    trio_look(trio, now);
    for (int i = 0; i < TRIO_MEMBERS; i++) {
        if (now[i].last <= now[i].first)
            return false;
    }
    return true;
}

/* It runs while its memory is read. FALSE: what is damaged has ended it, and *why says so (caller
 * frees). */
static bool
runs_on(Trio *trio, char **why)
{
    gint64 limit = g_get_monotonic_time() + 2 * RIG_LIMIT_MS * INT64_C(1000);

    while (pair_number(trio->pair, trio_host(trio), "checkpointing.load_total_pages") != 0 ||
           !all_go_on(trio)) {
        g_autofree char *state = pair_field(trio->pair, trio_host(trio), "state");
        if (g_strcmp0(state, "failed") == 0) {
            *why = pair_field(trio->pair, trio_host(trio), "reason");
            return false;
        }
        if (g_get_monotonic_time() > limit)
            rig_fail(trio->pair->dir, "it neither fails nor goes on");
        g_usleep(20000);
    }
    return true;
}

/* An SQLite log that is cut short says what was so once: files that went since are missing, or
 * district-ckpt does not open the store. */
static bool
blames_catalog(Trio *trio, const char *why)
{
    g_autofree char *path =
        g_strdup_printf("%s/%s/log/shop/ckpt.log", trio->pair->dir, trio_host(trio)->name);
    g_autofree char *log = NULL;

    if (!strstr(why, "look into ckpt.log"))
        return strstr(why, "catalog.db: damaged") || strstr(why, "/store/checkpoint-");
    g_assert_true(g_file_get_contents(path, &log, NULL, NULL));
    g_strchomp(log);
    const char *last = strrchr(log, '\n');
    return last && strstr(last, "catalog.db: damaged");
}

/* Is the district refused, or ended as soon as it needs what is damaged? Else what comes back must be
 * right. */
static bool
is_refused(Trio *trio, const char *file)
{
    g_autofree char *why = NULL;

    trio_new_life(trio);
    g_autoptr(JsonNode) answer = pair_command(trio->pair, trio_host(trio), &why, restart);
    bool runs = answer && runs_on(trio, &why);
    trio_kill_all(trio);
    trio_boot(trio, NULL);
    if (runs)
        return false;
    /* A guest that waits for a page that is damaged may be taken for lost first. */
    bool named = g_str_has_prefix(file, "catalog.db") ? blames_catalog(trio, why)
                                                      : strstr(why, file) != NULL;
    if (!named && !(answer && strstr(why, "was lost")))
        rig_fail(trio->pair->dir, "damage in %s, and restart says: %s", file, why);
    return true;
}

/* Of a file that is being written nothing is in the store yet. */
static bool
is_listed(Trio *trio, const char *name)
{
    const char *log[] = {"log", "shop", NULL};
    g_autoptr(JsonNode) answer = pair_command(trio->pair, trio_host(trio), NULL, log);
    JsonArray *list = json_object_get_array_member(json_node_get_object(answer), "checkpoints");
    gint64 id = g_ascii_strtoll(name + strlen("checkpoint-"), NULL, 10);

    for (guint i = 0; i < json_array_get_length(list); i++) {
        if (json_object_get_int_member(json_array_get_object_element(list, i), "id") == id)
            return true;
    }
    return false;
}

/* What is said to be damaged when name, below the store, is; caller frees. */
static char *
blamed(const char *name)
{
    char *file = g_strdup(name);

    /* A page and its sum that differ are told as the page's. */
    if (g_str_has_prefix(name, "base/"))
        *strrchr(file, '.') = '\0';
    return file;
}

static void
damage(Trio *trio, const char *store, const char *name, guint *named, guint *harmless)
{
    bool catalog = g_str_has_prefix(name, "catalog.db");
    g_autofree char *path = g_build_filename(store, name, NULL);
    g_autofree char *file = blamed(name), *why = NULL;

    flip_bit(path);
    g_autoptr(JsonNode) clean = pair_command(trio->pair, trio_host(trio), &why, check);
    if (!clean && !catalog && !strstr(why, file))
        rig_fail(trio->pair->dir, "damage in %s, and store check says: %s", name, why);
    bool refused = is_refused(trio, file);
    /* Of SQLite's files parts are not in use, and an earlier state is one, too. */
    if (clean && !catalog && (refused || is_listed(trio, name)))
        rig_fail(trio->pair->dir, "damage in %s, and store check finds nothing", name);
    *named += !clean;
    *harmless += !refused;
}

/* Below the store; caller frees. */
static GPtrArray *
files_of(const char *store)
{
    GPtrArray *files = g_ptr_array_new_with_free_func(g_free);

    for (int i = 0; i < 2; i++) {
        g_autofree char *path = g_build_filename(store, i == 0 ? "." : "base", NULL);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        for (const char *name; dir && (name = g_dir_read_name(dir));) {
            g_autofree char *file = g_build_filename(path, name, NULL);
            struct stat st;
            if (stat(file, &st) == 0 && S_ISREG(st.st_mode) && st.st_blocks > 0 &&
                strcmp(name, "lock") != 0 && !g_str_has_suffix(name, "-shm"))
                g_ptr_array_add(files, g_strdup_printf("%s%s", i == 0 ? "" : "base/", name));
        }
    }
    return files;
}

static void
test_damage(void)
{
    Trio *trio = trio_or_skip(OFTEN);
    guint named = 0, harmless = 0;

    if (!trio)
        return;
    while (save(trio) < 8)
        g_usleep(100000); /* for merges */
    trio_kill_all(trio);
    trio_boot(trio, NULL);
    g_autofree char *store = trio_path(trio, "districts/shop/store");
    g_autofree char *good = g_build_filename(trio->pair->dir, "good", NULL);
    g_autoptr(GPtrArray) files = files_of(store);
    copy_store(store, good);
    for (guint i = 0; i < FLIPS_EACH * files->len; i++) {
        damage(trio, store, g_ptr_array_index(files, i / FLIPS_EACH), &named, &harmless);
        copy_store(good, store);
    }
    g_test_message("%u flips in %u files: %u named by store check, %u without harm to a restart",
                   FLIPS_EACH * files->len, files->len, named, harmless);
    g_assert_cmpuint(named, >=, files->len / 2);
    come_back(trio, 8);
    trio_free(trio);
}

/* ---- Main ---- */

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
    g_test_add_func("/faults/a full disk makes writes and checkpoints wait, and says so",
                    test_full);
    g_test_add_func("/faults/power lost with a full disk loses no checkpoint", test_full_power);
    g_test_add_func("/faults/a restart for which there is no room ends nothing", test_full_restart);
    g_test_add_func("/faults/a district whose disks cannot be saved is stopped by force only",
                    test_full_stop);
    g_test_add_func("/faults/a standby's full disk costs the home its protection only",
                    test_standby_full);
    g_test_add_func("/faults/a standby with too little room says so before the copy",
                    test_standby_small);
    g_test_add_func("/faults/a disk that fails is named, and costs no checkpoint", test_broken);
    g_test_add_func("/faults/a flipped bit in any file of the store is named, and never loaded",
                    test_damage);
    g_test_add_func("/faults/a disk that hangs holds up only who needs it", test_hangs);
    return g_test_run();
}
