/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* run.json: a process is found again, and never taken for another one. */
#include "control/error.h"
#include "control/runfile.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static GPtrArray *
one_process(pid_t pid, uint64_t start)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)run_process_free);
    RunProcess *p = g_new0(RunProcess, 1);

    p->kind = g_strdup("vmm");
    p->member = g_strdup("db");
    p->pid = pid;
    p->start_time = start;
    g_ptr_array_add(list, p);
    return list;
}

static char *
temporary_file(const char *text)
{
    char *path = NULL;
    int fd = g_file_open_tmp("run-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_close(fd, NULL);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

static void
test_round_trip(void)
{
    g_autofree char *path = temporary_file("");
    uint64_t start = 0;

    g_assert_true(process_start_time(getpid(), &start));
    g_autoptr(GPtrArray) in = one_process(getpid(), start);
    g_assert_true(runfile_save(path, in, NULL));
    g_autoptr(GPtrArray) out = runfile_load(path, NULL);
    g_assert_cmpuint(out->len, ==, 1);
    const RunProcess *p = out->pdata[0];
    g_assert_cmpstr(p->kind, ==, "vmm");
    g_assert_cmpstr(p->member, ==, "db");
    g_assert_true(run_process_alive(p));
    g_unlink(path);
}

static void
test_pid_reuse(void)
{
    uint64_t start = 0;

    g_assert_true(process_start_time(getpid(), &start));
    g_autoptr(GPtrArray) other = one_process(getpid(), start - 1);
    g_assert_false(run_process_alive(other->pdata[0]));
}

static void
test_any_alive(void)
{
    uint64_t start = 0;

    g_assert_true(process_start_time(getpid(), &start));
    g_autoptr(GPtrArray) list = one_process(getpid(), start - 1);
    g_assert_false(run_processes_any_alive(list));
    g_autoptr(GPtrArray) alive = one_process(getpid(), start);
    g_ptr_array_add(list, g_ptr_array_steal_index(alive, 0));
    g_assert_true(run_processes_any_alive(list));
}

static void
test_reboot(void)
{
    g_autofree char *path =
        temporary_file("{\"boot_id\":\"another\",\"processes\":[{\"kind\":\"vmm\",\"pid\":2}]}");
    g_autoptr(GPtrArray) list = runfile_load(path, NULL);

    g_assert_cmpuint(list->len, ==, 0);
    g_unlink(path);
}

static void
test_missing(void)
{
    g_autoptr(GPtrArray) list = runfile_load("/nowhere/run.json", NULL);

    g_assert_cmpuint(list->len, ==, 0);
}

static void
test_damaged(void)
{
    g_autofree char *path = temporary_file("{\"processes\":");
    g_autoptr(GError) error = NULL;

    g_assert_null(runfile_load(path, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
    g_unlink(path);
}

static void
test_stat(void)
{
    uint64_t ticks = 0;

    g_assert_true(process_start_time_parse(
        "12 (a) b) (c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1", &ticks));
    g_assert_cmpuint(ticks, ==, 4711);
    g_assert_false(process_start_time_parse("12 (zombie) Z 1 12 12 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 "
                                            "4711 1 1 1",
                                            &ticks));
    g_assert_false(process_start_time_parse("", &ticks));
    g_assert_false(process_start_time_parse("12 (short) S 1 2", &ticks));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/runfile/a process that was saved is found again", test_round_trip);
    g_test_add_func("/runfile/a pid in use by another process is not adopted", test_pid_reuse);
    g_test_add_func("/runfile/of several processes one that lives is enough", test_any_alive);
    g_test_add_func("/runfile/nothing from before a reboot is adopted", test_reboot);
    g_test_add_func("/runfile/a missing file means no processes", test_missing);
    g_test_add_func("/runfile/a damaged file is an error", test_damaged);
    g_test_add_func("/runfile/a process name cannot disturb the start time", test_stat);
    return g_test_run();
}
