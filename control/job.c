/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations of several steps.
 *
 * An operation is a table of step functions. A step does one thing and either goes on at once
 * (job_next), or makes one request whose answer goes on (job_call, job_ask), or fails the job. A
 * district has one operation at a time. When a job fails its undo function puts the district into a
 * state that is true. Requests that are answered after the job has ended find it finished and do
 * nothing; they hold references for that. When districtd ends, its jobs just stop: nothing is undone.
 */
#include "control/daemon.h"
#include "common/clock.h"

#include <unistd.h>

typedef struct Pending {
    Job *job;
    JobMessage message;
    JobAnswer answer;
} Pending;

Job *
job_ref(Job *job)
{
    g_atomic_ref_count_inc(&job->refs);
    return job;
}

void
job_unref(Job *job)
{
    if (!g_atomic_ref_count_dec(&job->refs))
        return;
    g_free(job->host);
    g_free(job->path);
    g_free(job->label);
    g_clear_error(&job->error);
    journal_copies_unref(job->copies);
    definition_free(job->definition);
    g_free(job->made);
    json_object_unref(job->result);
    if (job->fd >= 0)
        close(job->fd);
    g_free(job);
}

Job *
job_new(District *district, const char *verb, const JobStep *steps, JobDone done, gpointer data)
{
    if (district->job != NULL) {
        g_autoptr(GError) error =
            g_error_new(CONTROL_ERROR, CONTROL_ERROR_BUSY, "%s: %s is under way: wait for its end",
                        district->name, district->job->verb);
        done(NULL, error, data);
        return NULL;
    }
    Job *job = g_new0(Job, 1);
    g_atomic_ref_count_init(&job->refs);
    job->district = district;
    job->verb = verb;
    job->steps = steps;
    job->done = done;
    job->data = data;
    job->result = json_object_new();
    job->started_ns = clock_monotonic_ns();
    job->fd = -1;
    district->job = job;
    return job;
}

static void
job_finish(Job *job)
{
    District *district = job->district;

    job->finished = TRUE;
    if (job->poll != 0)
        g_source_remove(job->poll);
    job->poll = 0;
    if (district->gone_job == job)
        district->gone_job = NULL;
    district->job = NULL;
    /* Requests that districtd leaves behind have not failed: our successor finds out what became of
     * them. */
    if (district->daemon->closing) {
        job_unref(job);
        return;
    }
    if (job->error != NULL && job->undo != NULL)
        job->undo(job);
    job->done(job->error != NULL ? NULL : job->result, job->error, job->data);
    job_unref(job);
}

void
job_next(Job *job)
{
    if (job->finished)
        return;
    JobStep step = job->steps[job->next];
    if (step == NULL || job->district->daemon->closing) {
        job_finish(job);
        return;
    }
    job->next++;
    step(job);
}

void
job_fail(Job *job, const GError *error)
{
    if (job->finished)
        return;
    job->error = g_error_copy(error);
    g_message("%s: %s failed: %s", job->district->name, job->verb, error->message);
    job_finish(job);
}

void
job_fail_new(Job *job, ControlError code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(GError) error = g_error_new_valist(CONTROL_ERROR, (gint)code, format, args);
    va_end(args);
    job_fail(job, error);
}

static Pending *
pending_new(Job *job, JobMessage message, JobAnswer answer)
{
    Pending *pending = g_new0(Pending, 1);

    pending->job = job_ref(job);
    pending->message = message;
    pending->answer = answer;
    return pending;
}

static void
pending_free(Pending *pending)
{
    job_unref(pending->job);
    g_free(pending);
}

static void
on_message(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Pending *pending = data;
    Job *job = pending->job;

    if (error != NULL)
        job_fail(job, error);
    else if (!job->finished && pending->message != NULL)
        pending->message(job, message, fds, n_fds);
    else
        job_next(job);
    pending_free(pending);
}

void
job_call(Job *job, Rpc *rpc, ProtobufCMessage *request, const int *fds, guint n_fds, int timeout_ms,
         JobMessage then)
{
    if (rpc == NULL) {
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: its process has ended: look into its log",
                     job->district->name);
        return;
    }
    rpc_call(rpc, request, fds, n_fds, timeout_ms, on_message, pending_new(job, then, NULL));
}

static void
on_answer(JsonObject *answer, const GError *error, gpointer data)
{
    Pending *pending = data;
    Job *job = pending->job;

    if (error != NULL)
        job_fail(job, error);
    else if (!job->finished && pending->answer != NULL)
        pending->answer(job, answer);
    else
        job_next(job);
    pending_free(pending);
}

void
job_ask(Job *job, const char *host, const char *method, JsonObject *arguments, int timeout_ms,
        JobAnswer then)
{
    Peer *peer = g_hash_table_lookup(job->district->daemon->peers, host);

    if (peer == NULL) {
        json_object_unref(arguments);
        job_fail_new(job, CONTROL_ERROR_NOT_FOUND,
                     "%s: host %s is not known here: district host add %s", job->district->name,
                     host, host);
        return;
    }
    peer_request(peer, method, arguments, timeout_ms, on_answer, pending_new(job, NULL, then));
}

void
operation_done_log(JsonObject *result, const GError *error, gpointer data)
{
    if (error != NULL)
        g_warning("%s", error->message);
}
