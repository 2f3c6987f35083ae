/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would the district go on from a checkpoint of its store? All that it is made of is verified, by a
 * process of its own: it may be large, and what is in it is not to be trusted. Asked before
 * anything is ended.
 */
#include "control/daemon.h"

#include <gio/gio.h>
#include <string.h>

static gboolean G_GNUC_PRINTF(3, 4) misfit(const Job *job, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);

    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                "%s: checkpoint %" G_GUINT64_FORMAT ": %s", job->district->name, job->id, what);
    return FALSE;
}

static gboolean
check_member(const Job *job, const char *name, const char *ram_size, GError **error)
{
    const Definition *definition = job->district->definition;
    int index = definition_find_member(definition, name);

    if (index < 0)
        return misfit(job, error,
                      "there is no member %.60s now: use the definition it was saved with", name);
    const DefinitionMember *m = definition->members->pdata[index];
    if (g_ascii_strtoull(ram_size, NULL, 10) == m->memory)
        return TRUE;
    return misfit(job, error,
                  "member %s had %.20s bytes of memory: use the definition it was saved with", name,
                  ram_size);
}

/* The words of one line of district-ckpt --verify. */
static gboolean
check_line(const Job *job, char *const *words, GError **error)
{
    const District *d = job->district;
    guint n = g_strv_length((char **)words);

    if (n == 3 && strcmp(words[0], "member") == 0)
        return check_member(job, words[1], words[2], error);
    if (n == 2 && strcmp(words[0], "district") == 0)
        return strcmp(words[1], d->name) == 0 ||
               misfit(job, error, "it is of district %.60s", words[1]);
    if (n == 2 && strcmp(words[0], "incarnation") == 0)
        return g_ascii_strtoull(words[1], NULL, 10) < district_next_incarnation(d) ||
               misfit(job, error, "it is of incarnation %.20s, which is still to come here",
                      words[1]);
    return misfit(job, error, "district-ckpt says \"%.60s\": use the same release", words[0]);
}

static gboolean
check_lines(const Job *job, const char *text, GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line != NULL && **line != '\0'; line++) {
        g_auto(GStrv) words = g_strsplit(*line, " ", -1);
        if (!check_line(job, words, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_answer(const Job *job, GSubprocess *process, GAsyncResult *result, GError **error)
{
    g_autofree char *out = NULL, *err = NULL;

    if (!g_subprocess_communicate_utf8_finish(process, result, &out, &err, error))
        return FALSE;
    if (g_subprocess_get_successful(process))
        return check_lines(job, out, error);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", job->district->name,
                g_strstrip(err));
    return FALSE;
}

static void
on_verified(GObject *source, GAsyncResult *result, gpointer data)
{
    Job *job = data;
    g_autoptr(GError) error = NULL;

    if (check_answer(job, G_SUBPROCESS(source), result, &error))
        job_next(job);
    else
        job_fail(job, error);
    job_unref(job);
}

void
step_verify_store(Job *job)
{
    g_autofree char *dir = district_store_dir(job->district);
    g_autofree char *id = g_strdup_printf("%" G_GUINT64_FORMAT, job->id);
    g_autoptr(GError) error = NULL;
    g_autofree char *program =
        child_find_program(job->district->daemon->config->libexec_dir, "district-ckpt", &error);
    g_autoptr(GSubprocess) process = NULL;

    if (program != NULL)
        process = g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE,
                                   &error, program, "--verify", id, "--store", dir, NULL);
    if (process == NULL)
        job_fail(job, error);
    else
        g_subprocess_communicate_utf8_async(process, NULL, NULL, on_verified, job_ref(job));
}
