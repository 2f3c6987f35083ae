/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Three guests that notice what does not fit together. */
#include "trio.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_US 10000
#define DISK_BYTES (4 << 20)

static const char *const names[TRIO_MEMBERS] = {"db", "left", "right"};
static const char *const commands[TRIO_MEMBERS] = {
    "base=0x400000 pages=128 dirty=8 report=8 verify=16 seed=1",
    "op=devices net=send peer=52:54:00:00:00:03 report=4 base=0x400000 pages=1 delay=4000",
    "op=devices net=echo report=4 base=0x400000 pages=1",
};
static const char *const homes[TRIO_MEMBERS] = {NULL, "left.raw", "right.qcow2"};

/* ---- The definition ---- */

Host *
trio_host(Trio *trio)
{
    return &trio->pair->hosts[0];
}

char *
trio_path(Trio *trio, const char *name)
{
    return g_build_filename(lossy_path(trio->lossy), name, NULL);
}

static void
make_home(Trio *trio, const char *name)
{
    g_autofree char *path = trio_path(trio, name);
    g_autofree char *bytes = g_strdup_printf("%d", DISK_BYTES);
    const char *format = g_str_has_suffix(name, ".qcow2") ? "qcow2" : "raw";
    const char *argv[] = {"timeout", "20",   "qemu-img", "create", "-q",
                          "-f",      format, path,       bytes,    NULL};
    int status = -1;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

static void
define(Trio *trio, const char *options)
{
    Pair *pair = trio->pair;
    g_autoptr(GString) text = g_string_new("[District]\nName=shop\nInterval=10ms\n");

    g_string_append(text, options);
    for (guint i = 0; i < TRIO_MEMBERS; i++) {
        g_string_append_printf(text,
                               "[Member %s]\nKernel=%s\nCommandLine=%s\nMemory=16M\n"
                               "MAC=52:54:00:00:00:%02x\nDebugcon=%s/out/%s\n",
                               names[i], g_getenv("TINY_GUEST"), commands[i], i + 1, pair->dir,
                               names[i]);
        if (homes[i]) {
            make_home(trio, homes[i]);
            g_string_append_printf(text, "Disk=%s/%s\n", lossy_path(trio->lossy), homes[i]);
        }
    }
    sync();
    pair->definition = g_build_filename(pair->dir, "shop.district", NULL);
    g_assert_true(g_file_set_contents(pair->definition, text->str, -1, NULL));
}

/* ---- Life ---- */

Trio *
trio_new(const char *options, guint mib, char **why)
{
    Pair *pair = pair_new_off();
    g_autofree char *state = g_build_filename(pair->dir, pair->hosts[0].name, "state", NULL);
    g_autofree char *image = g_build_filename(pair->dir, "disk.img", NULL);
    Lossy *lossy = lossy_new(image, state, mib, why);
    g_autoptr(GError) error = NULL;

    if (!lossy) {
        pair_free(pair);
        return NULL;
    }
    Trio *trio = g_new0(Trio, 1);
    trio->pair = pair;
    trio->lossy = lossy;
    trio->checker = guest_checker_new(commands[0], &error);
    g_assert_no_error(error);
    trio->mounts = g_array_new(FALSE, FALSE, sizeof(ino_t));
    define(trio, options);
    trio_start_daemon(trio);
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};
    pair_must(pair, trio_host(trio), create);
    trio_new_life(trio);
    trio->booted = TRUE;
    pair_must(pair, trio_host(trio), start);
    trio_wait_progress(trio);
    return trio;
}

static void
note_mounts(Trio *trio, const Host *host)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/mnt", host->daemon.pid);
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_array_append_val(trio->mounts, st.st_ino);
}

static bool
lives_in(const Trio *trio, const char *pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/ns/mnt", pid);
    struct stat st;

    if (stat(path, &st) != 0)
        return false;
    for (guint i = 0; i < trio->mounts->len; i++) {
        if (g_array_index(trio->mounts, ino_t, i) == st.st_ino)
            return true;
    }
    return false;
}

/* Kill what is left; how many that was. A zombie is in no namespace any more. */
static guint
kill_some(const Trio *trio)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    guint n = 0;

    for (const char *name; (name = g_dir_read_name(proc));) {
        if (!g_ascii_isdigit(*name) || !lives_in(trio, name))
            continue;
        kill((pid_t)strtol(name, NULL, 10), SIGKILL);
        n++;
    }
    return n;
}

void
trio_kill_all(Trio *trio)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    while (kill_some(trio) > 0) {
        if (g_get_monotonic_time() > limit)
            rig_fail(trio->pair->dir, "processes of the host cannot be killed");
        g_usleep(1000);
    }
    proc_kill(&trio_host(trio)->daemon);
    g_array_set_size(trio->mounts, 0);
}

void
trio_lose_power(Trio *trio)
{
    g_autofree char *run = g_strdup_printf("%s/%s/run", trio->pair->dir, trio_host(trio)->name);
    const char *rm[] = {"rm", "-rf", run, NULL};

    lossy_cut_power(trio->lossy);
    trio_kill_all(trio);
    g_assert_true(g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                               NULL, NULL));
}

/* Processes of the second host, which are in the mount namespace of its districtd. */
static void
kill_standby(Trio *trio)
{
    Host *host = &trio->pair->hosts[1];

    note_mounts(trio, host);
    trio_kill_all(trio);
    proc_kill(&host->daemon);
}

void
trio_boot(Trio *trio, const char *options)
{
    if (options)
        lossy_mount(trio->lossy, options);
    trio_start_daemon(trio);
}

void
trio_start_daemon(Trio *trio)
{
    pair_daemon_start(trio->pair, trio_host(trio));
    note_mounts(trio, trio_host(trio));
}

void
trio_protect(Trio *trio, guint mib)
{
    Pair *pair = trio->pair;
    const char *protect[] = {"protect", "shop", "--standby", pair->hosts[1].name, "--wait", NULL};
    g_autofree char *state = g_build_filename(pair->dir, pair->hosts[1].name, "state", NULL);
    g_autofree char *image = g_build_filename(pair->dir, "standby.img", NULL);
    g_autofree char *why = NULL;

    trio->standby_lossy = lossy_new(image, state, mib, &why);
    if (!trio->standby_lossy)
        rig_fail(pair->dir, "%s", why);
    pair_on(pair);
    pair_wait_link(pair, trio_host(trio));
    pair_must(pair, trio_host(trio), protect);
}

void
trio_free(Trio *trio)
{
    trio_kill_all(trio);
    if (trio->standby_lossy) {
        kill_standby(trio);
        lossy_free(trio->standby_lossy);
    }
    lossy_free(trio->lossy);
    guest_checker_free(trio->checker);
    g_array_unref(trio->mounts);
    pair_free(trio->pair);
    g_free(trio);
}

/* ---- What guests print ---- */

static char *
output(const Trio *trio, guint member)
{
    g_autofree char *path = g_build_filename(trio->pair->hosts[0].out, names[member], NULL);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

void
trio_new_life(Trio *trio)
{
    trio->booted = FALSE;
    for (guint i = 0; i < TRIO_MEMBERS; i++) {
        g_autofree char *text = output(trio, i);
        trio->from[i] = strlen(text);
    }
}

static void
place_add(TrioPlace *place, guint64 at)
{
    if (place->first == 0)
        place->first = at;
    place->last = at;
}

static void
look_at_chain(Trio *trio, const char *text, TrioPlace *place)
{
    g_autoptr(GError) error = NULL;

    guest_checker_output(trio->checker, text, NULL, &error);
    if (error)
        rig_fail(trio->pair->dir, "db: %s", error->message);
    for (const char *p = text; (p = strstr(p, " round=")); p++) {
        if (strchr(p, '\n'))
            place_add(place, strtoull(p + strlen(" round="), NULL, 10));
    }
}

static guint64
number_in(const char *line, const char *key)
{
    const char *at = strstr(line, key);

    return at ? strtoull(at + strlen(key), NULL, 10) : G_MAXUINT64;
}

static void
look_at_line(Trio *trio, guint member, const char *line, TrioPlace *place)
{
    bool good = true;

    if (g_str_has_prefix(line, "disk ")) {
        good = number_in(line, " bad=") == 0 &&
               (trio->disk_errors || number_in(line, " errors=") == 0);
        place_add(place, number_in(line, " writes="));
    } else if (g_str_has_prefix(line, "net tx=")) {
        good = g_str_has_suffix(line, " lost=0 dup=0 bad=0");
    } else {
        good = g_str_has_prefix(line, "devices ") || g_str_has_prefix(line, "net peer ") ||
               (trio->booted && g_str_has_prefix(line, "ready "));
    }
    if (!good)
        rig_fail(trio->pair->dir, "%s: %s", names[member], line);
}

static void
look_at_member(Trio *trio, guint member, TrioPlace *place)
{
    g_autofree char *text = output(trio, member);
    const char *begun = text + trio->from[member];
    const char *whole = trio->booted ? begun : strchr(begun, '\n');

    if (!whole)
        return;
    whole += !trio->booted;
    if (member == 0) {
        look_at_chain(trio, whole, place);
        return;
    }
    g_auto(GStrv) lines = g_strsplit(whole, "\n", -1);
    /* The last one may not be whole yet. */
    for (char **line = lines; line[0] && line[1]; line++)
        look_at_line(trio, member, *line, place);
}

void
trio_look(Trio *trio, TrioPlace places[TRIO_MEMBERS])
{
    memset(places, 0, TRIO_MEMBERS * sizeof *places);
    for (guint i = 0; i < TRIO_MEMBERS; i++)
        look_at_member(trio, i, &places[i]);
}

void
trio_wait_progress(Trio *trio)
{
    TrioPlace before[TRIO_MEMBERS], now[TRIO_MEMBERS];
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    trio_look(trio, before);
    for (guint i = 0; i < TRIO_MEMBERS;) {
        trio_look(trio, now);
        if (now[i].first != 0 && now[i].last > before[i].last) {
            i++;
            continue;
        }
        if (g_get_monotonic_time() > limit)
            rig_fail(trio->pair->dir, "%s stands still for %d ms", names[i], RIG_LIMIT_MS);
        g_usleep(POLL_US);
    }
}
