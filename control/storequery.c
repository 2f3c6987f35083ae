/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asking a district-ckpt of its own about a district's store, beside the one that writes to it: a
 * store may be large, and what is in its files is not to be trusted. The writer leaves the store
 * unmerged meanwhile, so one that takes too long is killed. Where there is no writer, one can be had
 * for a single change.
 */
#include "control/daemon.h"

#include <gio/gio.h>

#define LIMIT_S (6 * 60 * 60)

typedef struct StoreQuery {
    char *subject; /* errors begin with it */
    GSubprocess *process;
    unsigned limit_s;
    guint timer;
    gboolean late;
    StoreQueryDone done;
    gpointer data;
} StoreQuery;

static void
query_end(StoreQuery *query, const char *out, const GError *error)
{
    query->done(out, error, query->data);
    if (query->timer != 0)
        g_source_remove(query->timer);
    g_clear_object(&query->process);
    g_free(query->subject);
    g_free(query);
}

static gboolean
on_late(gpointer data)
{
    StoreQuery *query = data;

    query->timer = 0;
    query->late = TRUE;
    g_subprocess_force_exit(query->process);
    return G_SOURCE_REMOVE;
}

static char *
take_answer(const StoreQuery *query, GAsyncResult *result, GError **error)
{
    g_autofree char *out = NULL, *err = NULL;

    if (!g_subprocess_communicate_utf8_finish(query->process, result, &out, &err, error))
        return NULL;
    if (query->late)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: it was not done within %u s: is the disk all right?", query->subject,
                    query->limit_s);
    else if (!g_subprocess_get_successful(query->process))
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", query->subject,
                    err[0] != '\0' ? g_strstrip(err) : "district-ckpt was killed");
    else
        return g_steal_pointer(&out);
    return NULL;
}

static void
on_answer(GObject *source, GAsyncResult *result, gpointer data)
{
    StoreQuery *query = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *out = take_answer(query, result, &error);

    query_end(query, out, error);
}

/* The first descriptor that the process has a file under. */
#define CHILD_FD (STORE_QUERY_FD - 2)

static GSubprocess *
query_spawn(const Daemon *daemon, const char *const *options, const int *fds, guint n_fds,
            GError **error)
{
    static const char *const fd_options[] = {"--file-fd", "--progress-fd"};
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    char *program = NULL;

    /* Its own from here on. */
    for (guint i = 0; i < n_fds; i++)
        g_subprocess_launcher_take_fd(launcher, fds[i], CHILD_FD + (int)i);
    program = child_find_program(daemon->config->libexec_dir, "district-ckpt", error);
    if (program == NULL)
        return NULL;
    g_ptr_array_add(argv, program);
    for (; *options != NULL; options++)
        g_ptr_array_add(argv, g_strdup(*options));
    for (guint i = 0; i < MIN(n_fds, G_N_ELEMENTS(fd_options)); i++)
        g_ptr_array_add(argv, g_strdup_printf("%s=%d", fd_options[i], CHILD_FD + (int)i));
    g_ptr_array_add(argv, NULL);
    return g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, error);
}

static void
query_start(const Daemon *daemon, const char *subject, const char *const *options, const int *fds,
            guint n_fds, unsigned limit_s, StoreQueryDone done, gpointer data)
{
    StoreQuery *query = g_new0(StoreQuery, 1);
    g_autoptr(GError) error = NULL;

    *query =
        (StoreQuery){.subject = g_strdup(subject), .limit_s = limit_s, .done = done, .data = data};
    query->process = query_spawn(daemon, options, fds, n_fds, &error);
    if (query->process == NULL) {
        query_end(query, NULL, error);
        return;
    }
    query->timer = g_timeout_add_seconds(limit_s, on_late, query);
    g_subprocess_communicate_utf8_async(query->process, NULL, NULL, on_answer, query);
}

void
store_query_files(const Daemon *daemon, const char *subject, const char *const *options,
                  const int *fds, guint n_fds, StoreQueryDone done, gpointer data)
{
    query_start(daemon, subject, options, fds, n_fds, LIMIT_S, done, data);
}

void
store_query_in(const District *d, const char *dir, const char *const *options, unsigned limit_s,
               StoreQueryDone done, gpointer data)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();

    g_ptr_array_add(all, (gpointer) "--store");
    g_ptr_array_add(all, (gpointer)dir);
    for (; *options != NULL; options++)
        g_ptr_array_add(all, (gpointer)*options);
    g_ptr_array_add(all, NULL);
    query_start(d->daemon, d->name, (const char *const *)all->pdata, NULL, 0, limit_s, done, data);
}

void
store_query(const District *d, const char *option, const char *value, StoreQueryDone done,
            gpointer data)
{
    g_autofree char *dir = district_store_dir(d);
    const char *options[] = {option, value, NULL};

    store_query_in(d, dir, options, LIMIT_S, done, data);
}
