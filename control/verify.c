/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would the district go on from a checkpoint of its store? All that it is made of is verified
 * (storequery.c). Asked before anything is ended.
 */
#include "control/daemon.h"

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

static void
on_verified(const char *out, const GError *why, gpointer data)
{
    Job *job = data;
    g_autoptr(GError) error = why != NULL ? g_error_copy(why) : NULL;

    /* The district of one that has ended may be gone. */
    if (out != NULL && (job->finished || check_lines(job, out, &error)))
        job_next(job);
    else
        job_fail(job, error);
    job_unref(job);
}

void
step_verify_store(Job *job)
{
    /* Nothing runs that would be ended for it: what is read of it is verified then. */
    if (processes_count(job->district) == 0) {
        job_next(job);
        return;
    }
    g_autofree char *id = g_strdup_printf("%" G_GUINT64_FORMAT, job->id);

    store_query(job->district, "--verify", id, on_verified, job_ref(job));
}
