/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that outlive their starter. */
#include "control/child.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Seen {
    gboolean exited;
    int status;
} Seen;

static void
on_exited(Child *child, int status, gpointer data)
{
    Seen *seen = data;

    seen->exited = TRUE;
    seen->status = status;
}

static gboolean
on_late(gpointer data)
{
    g_error("nothing happened in time");
    return G_SOURCE_REMOVE;
}

static void
wait_exited(const Seen *seen)
{
    guint late = g_timeout_add_seconds(10, on_late, NULL);

    while (!seen->exited)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(late);
}

static Child *
spawn_shell(const char *script, Seen *seen)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    g_autoptr(GError) error = NULL;
    Child *child = child_spawn("vmm", "db", argv, "/dev/null", -1, on_exited, seen, &error);

    g_assert_no_error(error);
    return child;
}

static void
test_gate(void)
{
    g_autofree char *dir = g_dir_make_tmp("child-XXXXXX", NULL);
    g_autofree char *file = g_build_filename(dir, "ran", NULL);
    g_autofree char *script = g_strdup_printf("touch %s", file);
    Seen seen = {0};
    Child *child = spawn_shell(script, &seen);

    g_usleep(50000);
    g_assert_false(g_file_test(file, G_FILE_TEST_EXISTS));
    child_release(child);
    wait_exited(&seen);
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    g_assert_cmpint(seen.status, ==, 0);
    child_free(child);
    g_unlink(file);
    g_rmdir(dir);
}

static void
test_starter_dies(void)
{
    Seen seen = {0};
    Child *child = spawn_shell("exit 3", &seen);
    pid_t pid = child_process(child)->pid;
    int status = -1;

    child_free(child); /* closes the gate, as our death would */
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
    g_assert_false(seen.exited);
}

static void
test_status(void)
{
    Seen seen = {0};
    Child *child = spawn_shell("exit 3", &seen);

    child_release(child);
    wait_exited(&seen);
    g_assert_cmpint(seen.status, ==, 3);
    child_free(child);
}

static void
test_killed(void)
{
    Seen seen = {0};
    Child *child = spawn_shell("sleep 100", &seen);

    child_release(child);
    child_signal(child, SIGKILL);
    wait_exited(&seen);
    g_assert_cmpint(seen.status, ==, 128 + SIGKILL);
    child_free(child);
}

static void
test_no_program(void)
{
    const char *argv[] = {"/nowhere/program", NULL};
    Seen seen = {0};
    Child *child = child_spawn("net", NULL, argv, "/dev/null", -1, on_exited, &seen, NULL);

    child_release(child);
    wait_exited(&seen);
    g_assert_cmpint(seen.status, ==, CHILD_STATUS_NO_EXEC);
    child_free(child);
}

/* As a restarted districtd would: by pid and start time from a file, not as a parent. */
static void
test_adopt(void)
{
    Seen parent_seen = {0};
    Seen seen = {0};
    Child *child = spawn_shell("sleep 100", &parent_seen);
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_autofree char *path = NULL;

    child_release(child);
    g_close(g_file_open_tmp("adopt-XXXXXX", &path, NULL), NULL);
    g_ptr_array_add(list, (gpointer)child_process(child));
    g_assert_true(runfile_save(path, list, NULL));
    g_autoptr(GPtrArray) loaded = runfile_load(path, NULL);
    Child *adopted = child_adopt(loaded->pdata[0], on_exited, &seen);
    g_assert_nonnull(adopted);
    child_signal(adopted, SIGKILL);
    wait_exited(&seen);
    child_free(adopted);
    wait_exited(&parent_seen);
    g_assert_null(child_adopt(loaded->pdata[0], on_exited, &seen));
    child_free(child);
    g_unlink(path);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/child/nothing runs before it has been written down", test_gate);
    g_test_add_func("/child/a process held at the gate ends with its starter", test_starter_dies);
    g_test_add_func("/child/an exit status is told", test_status);
    g_test_add_func("/child/a killed process is told from one that exited", test_killed);
    g_test_add_func("/child/a program that is not there is told", test_no_program);
    g_test_add_func("/child/a process is adopted from run.json until it ends", test_adopt);
    return g_test_run();
}
