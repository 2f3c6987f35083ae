/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Export and import: a checkpoint of a district that runs, with its disk, goes on on another host,
 * under another name, from one file; and whatever ends an export or an import leaves nothing. Real
 * districtd, on two hosts that are one machine (pair.h).
 */
#include "pair.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_US 20000

static const char *const label[] = {"checkpoint", "shop", "--label", "here", NULL};

static char *
path_of(Pair *pair, const char *name)
{
    return g_build_filename(pair->dir, name, NULL);
}

/* ---- What guests have printed on a host ---- */

/* Those of shop where its definition says; those of the copy, on the other host, where no definition
 * from a file has a say. */
static char *
output_path(Pair *pair, const Host *host, const char *member)
{
    if (host == pair_home(pair))
        return g_build_filename(host->out, member, NULL);
    return g_strdup_printf("%s/%s/log/copy/%s.debugcon", pair->dir, host->name, member);
}

static char *
output(Pair *pair, const Host *host, const char *member)
{
    g_autofree char *path = output_path(pair, host, member);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

/* Right lines of db, which checks its memory. */
static guint
check_memory(Pair *pair, const Host *host)
{
    g_autofree char *text = output(pair, host, "db");
    const char *whole = g_str_has_prefix(text, "ready") ? text : strchr(text, '\n');
    g_autoptr(GError) error = NULL;
    guint n = 0;

    if (whole != NULL)
        guest_checker_output(pair->checkers[0], whole, &n, &error);
    if (error != NULL)
        rig_fail(pair->dir, "db on %s: %s", host->name, error->message);
    return n;
}

static guint
check_disk(Pair *pair, const Host *host)
{
    g_autofree char *text = output(pair, host, "app");

    return pair_check_disk_text(pair, host->name, text);
}

/* Both go on, and what they say is right: memory, and the disk against memory. */
static void
wait_right(Pair *pair, const Host *host)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    guint memory = check_memory(pair, host), disk = check_disk(pair, host);

    while (check_memory(pair, host) < memory + 2 || check_disk(pair, host) < disk + 2) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "the guests on %s stand still", host->name);
        g_usleep(POLL_US);
    }
}

static void
forget(Pair *pair, const Host *host)
{
    for (const char *const *member = (const char *const[]){"db", "app", NULL}; *member; member++) {
        g_autofree char *path = output_path(pair, host, *member);
        unlink(path);
    }
}

/* ---- What is there ---- */

/* Names in a directory, in order, as a host sees it. */
static char *
names_in(const Host *host, const char *dir)
{
    g_autofree char *pid = g_strdup_printf("%d", host->daemon.pid);
    const char *ls[] = {"nsenter", "-m", "-t", pid, "ls", "-A", dir, NULL};
    char *out = NULL;
    int status = 1;

    g_assert_true(g_spawn_sync(NULL, (char **)ls, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, NULL,
                               &status, NULL));
    g_assert_cmpint(status, ==, 0);
    return g_strdelimit(g_strchomp(out), "\n", ' ');
}

static char *
districts_dir(Pair *pair, const Host *host)
{
    return g_build_filename(pair->dir, host->name, "state", "districts", NULL);
}

static void
assert_districts(Pair *pair, const Host *host, const char *names)
{
    g_autofree char *dir = districts_dir(pair, host);
    g_autofree char *found = names_in(host, dir);

    g_assert_cmpstr(found, ==, names);
}

static void
wait_districts(Pair *pair, const Host *host, const char *names)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    g_autofree char *dir = districts_dir(pair, host);

    for (;;) {
        g_autofree char *found = names_in(host, dir);
        if (strcmp(found, names) == 0)
            return;
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s has the districts %s, not %s", host->name, found, names);
        g_usleep(POLL_US);
    }
}

/* Files like FILE.xxx in the pair's directory. */
static guint
leftovers(Pair *pair)
{
    g_autoptr(GDir) dir = g_dir_open(pair->dir, 0, NULL);
    const char *name = NULL;
    guint n = 0;

    while ((name = g_dir_read_name(dir)) != NULL)
        n += g_str_has_prefix(name, "file.dcp.") ? 1 : 0;
    return n;
}

static void
must_fail(Pair *pair, const Host *host, const char *const *args, const char *why)
{
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) answer = pair_command(pair, host, &text, args);

    if (answer != NULL || strstr(text, why) == NULL)
        rig_fail(pair->dir, "%s: not \"%s\" but: %s", args[0], why, text ? text : "success");
}

/* A checkpoint of shop, with its label, as a file; its path. */
static char *
export_here(Pair *pair)
{
    char *file = path_of(pair, "file.dcp");
    const char *export[] = {"export", "shop", file, "--at", "here", NULL};

    pair_must(pair, pair_home(pair), label);
    pair_must(pair, pair_home(pair), export);
    return file;
}

/* ---- Going on ---- */

static gint64
start_imported(Pair *pair, const Host *host, const char *name)
{
    const char *start[] = {"start", name, NULL};
    g_autofree char *why = NULL;
    g_autoptr(JsonNode) answer = pair_command(pair, host, &why, start);

    if (answer == NULL)
        rig_fail(pair->dir, "%s: start %s: %s", host->name, name, why);
    return json_object_get_int_member_with_default(json_node_get_object(answer), "checkpoint", 0);
}

static void
stop_and_destroy(Pair *pair, const Host *host, const char *name)
{
    const char *stop[] = {"stop", name, "--force", NULL};
    const char *destroy[] = {"destroy", name, "--force", NULL};

    pair_must(pair, host, stop);
    pair_must(pair, host, destroy);
}

/* Nothing is where the definition in the file has what guests print. */
static void
assert_nothing_printed(const Host *host)
{
    g_autoptr(GDir) dir = g_dir_open(host->out, 0, NULL);

    g_assert_null(g_dir_read_name(dir));
}

static void
test_goes_on(void)
{
    Pair *pair = pair_new_disk();
    const Host *h1 = pair_home(pair), *h2 = pair_standby(pair);
    g_autofree char *file = export_here(pair), *kernel = path_of(pair, "kernel");
    const char *import[] = {"import", file, "--as", "copy", NULL};
    struct stat st;

    g_assert_cmpint(stat(file, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
    wait_right(pair, h1);
    pair_must(pair, h2, import);
    assert_districts(pair, h2, "copy shop");
    /* What the kernel's file has is in the checkpoint. */
    g_assert_cmpint(unlink(kernel), ==, 0);
    g_assert_cmpint(start_imported(pair, h2, "copy"), ==, 1);
    wait_right(pair, h2);
    wait_right(pair, h1);
    pair_wait_protected(pair);
    g_assert_cmpint(symlink(g_getenv("TINY_GUEST"), kernel), ==, 0);
    assert_nothing_printed(h2);
    stop_and_destroy(pair, h2, "copy");
    assert_districts(pair, h2, "shop");
    pair_free(pair);
}

/* What was imported makes checkpoints of its own, which go on as well; then it is as any other. */
static void
test_goes_on_twice(void)
{
    Pair *pair = pair_new_disk();
    const Host *h2 = pair_standby(pair);
    g_autofree char *file = export_here(pair), *second = path_of(pair, "second.dcp");
    const char *import[] = {"import", file, "--as", "copy", NULL};
    const char *save[] = {"checkpoint", "copy", NULL};
    const char *stop[] = {"stop", "copy", "--force", NULL};
    const char *export[] = {"export", "copy", second, NULL};
    const char *destroy[] = {"destroy", "copy", "--force", NULL};
    const char *again[] = {"import", second, NULL};
    const char *check[] = {"store", "check", "copy", NULL};

    pair_must(pair, h2, import);
    g_assert_cmpint(start_imported(pair, h2, "copy"), ==, 1);
    wait_right(pair, h2);
    pair_must(pair, h2, save);
    pair_must(pair, h2, stop);
    pair_must(pair, h2, export);
    pair_must(pair, h2, destroy);
    pair_must(pair, h2, again);
    g_assert_cmpint(start_imported(pair, h2, "copy"), ==, 1);
    wait_right(pair, h2);
    pair_must(pair, h2, check);
    pair_must(pair, h2, stop);
    forget(pair, h2);
    g_assert_cmpint(start_imported(pair, h2, "copy"), ==, 0);
    wait_right(pair, h2);
    g_autofree char *text = output(pair, h2, "db");
    g_assert_true(g_str_has_prefix(text, "ready"));
    stop_and_destroy(pair, h2, "copy");
    pair_free(pair);
}

/* Wait until the oldest checkpoint has gone, and so is in the homes. */
static void
wait_merged(Pair *pair, const Host *host)
{
    const char *log[] = {"log", "shop", NULL};
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000, oldest = 1;

    while (oldest == 1) {
        g_autoptr(JsonNode) answer = pair_command(pair, host, NULL, log);
        JsonArray *list = json_object_get_array_member(json_node_get_object(answer), "checkpoints");
        oldest = json_object_get_int_member(json_array_get_object_element(list, 0), "id");
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s: nothing is merged", host->name);
        g_usleep(POLL_US);
    }
}

/* One stands on what an engine has open, the other on what nobody has; both are the same. */
static void
test_qcow2(void)
{
    Pair *pair = pair_new_disk_with("AutoFailover=no\n", "qcow2", "");
    const Host *h1 = pair_home(pair), *h2 = pair_standby(pair);
    const char *save[] = {"checkpoint", "shop", NULL};
    const char *stop[] = {"stop", "shop", "--force", NULL};
    g_autofree char *file = NULL, *stopped = path_of(pair, "stopped.dcp");
    const char *export[] = {"export", "shop", stopped, "--at", "here", NULL};
    const char *import[] = {"import", NULL, "--as", "copy", NULL};

    /* So that there is something in the home. */
    for (int i = 0; i < 5; i++) {
        pair_must(pair, h1, save);
        wait_right(pair, h1);
    }
    wait_merged(pair, h1);
    file = export_here(pair);
    pair_must(pair, h1, stop);
    pair_must(pair, h1, export);
    for (const char *const *path = (const char *const[]){file, stopped, NULL}; *path; path++) {
        import[1] = *path;
        pair_must(pair, h2, import);
        g_assert_cmpint(start_imported(pair, h2, "copy"), ==, 1);
        wait_right(pair, h2);
        stop_and_destroy(pair, h2, "copy");
        forget(pair, h2);
    }
    pair_free(pair);
}

/* ---- Refusals ---- */

static void
write_part(Pair *pair, const char *name, const char *data, gsize len)
{
    g_autofree char *path = path_of(pair, name);

    g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
}

static void
import_refused(Pair *pair, const char *name, const char *why)
{
    g_autofree char *path = path_of(pair, name);
    const char *import[] = {"import", path, "--as", "copy", NULL};

    must_fail(pair, pair_standby(pair), import, why);
    must_fail(pair, pair_standby(pair), import, name);
    assert_districts(pair, pair_standby(pair), "shop");
}

static void
test_refused(void)
{
    Pair *pair = pair_new_disk();
    g_autofree char *file = export_here(pair), *data = NULL;
    const char *over[] = {"export", "shop", file, NULL},
               *none[] = {"export", "shop", file, "--force", "--at", "99", NULL};
    const char *replace[] = {"export", "shop", file, "--force", NULL};
    const char *same[] = {"import", file, NULL};
    gsize len = 0;

    g_assert_true(g_file_get_contents(file, &data, &len, NULL));
    must_fail(pair, pair_home(pair), over, "export --force replaces it");
    must_fail(pair, pair_home(pair), none, "no checkpoint 99");
    pair_must(pair, pair_home(pair), replace);
    g_assert_cmpuint(leftovers(pair), ==, 0);
    must_fail(pair, pair_standby(pair), same, "import it --as another one");
    write_part(pair, "truncated.dcp", data, len / 2);
    import_refused(pair, "truncated.dcp", "truncated");
    data[len / 2] ^= 0x20;
    write_part(pair, "damaged.dcp", data, len);
    import_refused(pair, "damaged.dcp", "damaged");
    write_part(pair, "foreign.dcp", "PK\003\004 and so on, which is no checkpoint at all", 44);
    import_refused(pair, "foreign.dcp", "not District's checkpoint format");
    pair_free(pair);
}

/* ---- No room ---- */

static void
mount_at(const Host *host, const char *dir, const char *options)
{
    g_autofree char *pid = g_strdup_printf("%d", host->daemon.pid);
    const char *mount[] = {"nsenter", "-m", "-t",    pid,    "mount", "-t",
                           "tmpfs",   "-o", options, "none", dir,     NULL};
    int status = 1;

    g_assert_true(g_spawn_sync(NULL, (char **)mount, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* A file system of its own over dir, as a host sees it; then of so many KiB. */
static void
mount_small(const Host *host, const char *dir)
{
    mount_at(host, dir, "size=4k");
}

static void
resize_small(const Host *host, const char *dir, int kib)
{
    g_autofree char *options = g_strdup_printf("remount,size=%dk", kib);

    mount_at(host, dir, options);
}

static void
test_no_room(void)
{
    Pair *pair = pair_new_disk();
    const Host *h2 = pair_standby(pair);
    g_autofree char *file = export_here(pair), *small = path_of(pair, "small");
    g_autofree char *there = g_build_filename(small, "file.dcp", NULL);
    g_autofree char *districts = districts_dir(pair, h2), *left = NULL;
    const char *export[] = {"export", "shop", there, NULL};
    const char *import[] = {"import", file, "--as", "copy", NULL};

    g_assert_cmpint(mkdir(small, 0700), ==, 0);
    g_assert_cmpint(mount("none", small, "tmpfs", 0, "size=64k"), ==, 0);
    must_fail(pair, pair_home(pair), export, "free some space");
    g_autoptr(GDir) dir = g_dir_open(small, 0, NULL);
    g_assert_null(g_dir_read_name(dir));
    g_clear_pointer(&dir, g_dir_close);
    g_assert_cmpint(umount(small), ==, 0);
    mount_small(h2, districts);
    for (int kib = 16; kib <= 112; kib += 16) {
        resize_small(h2, districts, kib);
        must_fail(pair, h2, import, "free some space");
        g_free(left);
        left = names_in(h2, districts);
        g_assert_cmpstr(left, ==, "");
    }
    pair_free(pair);
}

/* ---- Interrupted ---- */

/* All that a process has started has ended, but for what it had before. */
static guint
children_of(GPid pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", pid, pid);
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;
    guint n = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    words = g_strsplit(g_strstrip(text), " ", -1);
    for (char **word = words; *word != NULL; word++)
        n += **word != '\0' ? 1 : 0;
    return n;
}

static void
wait_children(Pair *pair, const Host *host, guint n)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    while (children_of(host->daemon.pid) != n) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "districtd of %s has %u processes, not %u", host->name,
                     children_of(host->daemon.pid), n);
        g_usleep(POLL_US);
    }
}

/* Files are pipes that stand still, so that what is killed is in the middle. */
static void
test_interrupted(void)
{
    Pair *pair = pair_new_disk();
    const Host *h2 = pair_standby(pair);
    g_autofree char *file = export_here(pair), *fifo = path_of(pair, "fifo"), *data = NULL;
    g_autofree char *during = NULL, *districts = districts_dir(pair, h2);
    const char *import[] = {"import", fifo, "--as", "copy", NULL};
    guint before = children_of(h2->daemon.pid);
    Proc command = {0};
    gsize len = 0;

    g_assert_true(g_file_get_contents(file, &data, &len, NULL));
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    int fd = open(fifo, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(write(fd, data, len / 2), >, 0);
    pair_command_start(pair, h2, &command, import);
    wait_children(pair, h2, before + 1);
    during = names_in(h2, districts);
    g_assert_true(g_str_has_prefix(during, ".import-"));
    /* timeout(1) passes it on to the district command. */
    kill(command.pid, SIGTERM);
    proc_wait(&command, RIG_LIMIT_MS);
    wait_children(pair, h2, before);
    wait_districts(pair, h2, "shop");
    close(fd);
    g_free(command.name);
    pair_free(pair);
}

/* Nobody reads the pipe, so it is in the middle when it is killed. */
static void
test_export_killed(void)
{
    Pair *pair = pair_new_disk();
    const Host *h1 = pair_home(pair);
    g_autofree char *fifo = path_of(pair, "fifo");
    const char *args[] = {"/bin/sh",
                          "-c",
                          "exec \"$0\" -c \"$1\" export shop - >\"$2\"",
                          g_getenv("DISTRICT"),
                          h1->conf,
                          fifo,
                          NULL};
    Proc command = {0};

    pair_must(pair, h1, label);
    guint before = children_of(h1->daemon.pid);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    int fd = open(fifo, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_SETPIPE_SZ, 4096), ==, 4096);
    proc_start(&command, pair->dir, "export", args);
    wait_children(pair, h1, before + 1);
    proc_kill(&command);
    wait_children(pair, h1, before);
    wait_right(pair, h1);
    close(fd);
    g_free(command.name);
    pair_free(pair);
}

/* What a districtd that was killed had begun, its successor removes. */
static void
test_daemon_killed(void)
{
    Pair *pair = pair_new_disk();
    Host *h2 = pair_standby(pair);
    g_autofree char *file = export_here(pair), *fifo = path_of(pair, "fifo"), *data = NULL;
    const char *import[] = {"import", fifo, "--as", "copy", NULL};
    const char *whole[] = {"import", file, "--as", "copy", NULL};
    const char *destroy[] = {"destroy", "copy", "--force", NULL};
    guint before = children_of(h2->daemon.pid);
    Proc command = {0};
    gsize len = 0;

    g_assert_true(g_file_get_contents(file, &data, &len, NULL));
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    int fd = open(fifo, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(write(fd, data, len / 2), >, 0);
    pair_command_start(pair, h2, &command, import);
    wait_children(pair, h2, before + 1);
    proc_kill(&h2->daemon);
    g_assert_cmpint(proc_wait(&command, RIG_LIMIT_MS), !=, 0);
    pair_daemon_start(pair, h2);
    wait_districts(pair, h2, "shop");
    close(fd);
    pair_must(pair, h2, whole);
    assert_districts(pair, h2, "copy shop");
    pair_must(pair, h2, destroy);
    pair_wait_link(pair, h2);
    g_free(command.name);
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    /* For file systems of our own. */
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        g_error("no mount namespace");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/transfer/a checkpoint goes on elsewhere, memory and disk, while the original "
                    "runs",
                    test_goes_on);
    g_test_add_func("/transfer/what was imported is a district as any other", test_goes_on_twice);
    g_test_add_func("/transfer/a disk that is not raw comes through the qemu-nbd that has it open",
                    test_qcow2);
    g_test_add_func("/transfer/what cannot be is refused by name and nothing is left",
                    test_refused);
    g_test_add_func("/transfer/a full disk leaves nothing behind", test_no_room);
    g_test_add_func("/transfer/an import that is interrupted leaves nothing behind",
                    test_interrupted);
    g_test_add_func("/transfer/an export whose command is killed ends", test_export_killed);
    g_test_add_func("/transfer/an import that districtd did not survive leaves nothing behind",
                    test_daemon_killed);
    return g_test_run();
}
