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
    char *name; /* of the district */
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
    g_free(query->name);
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
                    "%s: its store did not answer within %u s: is its disk all right?", query->name,
                    query->limit_s);
    else if (!g_subprocess_get_successful(query->process))
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", query->name,
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

static GSubprocess *
spawn(const District *d, const char *dir, const char *const *options, GError **error)
{
    g_autofree char *program =
        child_find_program(d->daemon->config->libexec_dir, "district-ckpt", error);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();

    if (program == NULL)
        return NULL;
    g_ptr_array_add(argv, program);
    g_ptr_array_add(argv, (gpointer) "--store");
    g_ptr_array_add(argv, (gpointer)dir);
    for (; *options != NULL; options++)
        g_ptr_array_add(argv, (gpointer)*options);
    g_ptr_array_add(argv, NULL);
    return g_subprocess_newv((const char *const *)argv->pdata,
                             G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE,
                             error);
}

void
store_query_in(const District *d, const char *dir, const char *const *options, unsigned limit_s,
               StoreQueryDone done, gpointer data)
{
    StoreQuery *query = g_new0(StoreQuery, 1);
    g_autoptr(GError) error = NULL;

    *query =
        (StoreQuery){.name = g_strdup(d->name), .limit_s = limit_s, .done = done, .data = data};
    query->process = spawn(d, dir, options, &error);
    if (query->process == NULL) {
        query_end(query, NULL, error);
        return;
    }
    query->timer = g_timeout_add_seconds(limit_s, on_late, query);
    g_subprocess_communicate_utf8_async(query->process, NULL, NULL, on_answer, query);
}

void
store_query(const District *d, const char *option, const char *value, StoreQueryDone done,
            gpointer data)
{
    g_autofree char *dir = district_store_dir(d);
    const char *options[] = {option, value, NULL};

    store_query_in(d, dir, options, LIMIT_S, done, data);
}
