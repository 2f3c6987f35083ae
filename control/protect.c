/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations: protect and unprotect. Protection is a wish that is kept on disk; protect_resume
 * brings it about again whenever district-ckpt says that it is off although it is wanted.
 */
#include "control/protect.h"
#include "control/daemon.h"
#include "ckpt.pb-c.h"

#include <string.h>

#define PREPARE_TIMEOUT_MS 10000
#define PROTECT_TIMEOUT_MS 30000

static void
step_check(Job *job)
{
    District *d = job->district;

    if (d->record.role == ROLE_STANDBY)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: its home is host %s: protect it there", d->name,
                     d->record.peer);
    else if (d->state != STATE_RUNNING)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is %s: start it first", d->name,
                     district_state_name(d->state));
    else if (d->record.protect && g_strcmp0(d->record.peer, job->host) != 0)
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: it is protected by host %s: district unprotect %s first", d->name,
                     d->record.peer, d->name);
    else if (strcmp(job->host, d->daemon->config->host_name) == 0)
        job_fail_new(job, CONTROL_ERROR_INVALID, "%s: a standby on the same host protects nothing",
                     d->name);
    else
        job_next(job);
}

void
protect_step_prepare(Job *job)
{
    District *d = job->district;
    JsonObject *arguments = exchange_arguments(d);

    json_object_set_string_member(arguments, "definition", d->definition->text);
    json_object_set_int_member(arguments, "incarnation", (gint64)d->incarnation);
    json_object_set_boolean_member(arguments, "output_commit", job->output_commit);
    pacing_to_json(&job->pacing, arguments);
    job_ask(job, job->host, "prepare-standby", arguments, PREPARE_TIMEOUT_MS, NULL);
}

/* Written before the stream starts: from its first commit on the peer can take over. */
void
protect_step_record(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    g_free(d->record.peer);
    d->record.peer = g_strdup(job->host);
    d->record.protect = TRUE;
    d->record.output_commit = job->output_commit;
    d->record.pacing = job->pacing;
    if (district_save_record(d, &error))
        job_next(job);
    else
        job_fail(job, error);
}

void
protect_step_ckpt(Job *job)
{
    District *d = job->district;
    const Host *host = daemon_find_host(d->daemon, job->host, NULL);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptProtectRequest protect = DISTRICT__CKPT_PROTECT_REQUEST__INIT;

    if (host == NULL) {
        job_fail_new(job, CONTROL_ERROR_NOT_FOUND, "host %s: not known any more", job->host);
        return;
    }
    protect.peer_name = job->host;
    protect.address = host->address;
    protect.port = host->port;
    protect.interval_us = job->pacing.interval_us;
    protect.auto_interval = job->pacing.interval_us == PACING_AUTO;
    protect.max_slowdown = job->pacing.max_slowdown;
    protect.max_lag_us = job->pacing.max_lag_us;
    protect.output_commit = job->output_commit;
    protect.detach_after_ms = d->definition->detach_after_ms;
    protect.failover_after_ms = d->definition->failover_after_ms;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PROTECT;
    request.protect = &protect;
    job_call(job, d->ckpt, &request.base, NULL, 0, PROTECT_TIMEOUT_MS, NULL);
}

/* What is known of it was asked before: protect_resume must not take it for off. */
static void
step_note(Job *job)
{
    if (job->district->ckpt_status != NULL)
        json_object_set_string_member(job->district->ckpt_status, "protection", "connecting");
    job_next(job);
}

static const JobStep protect_steps[] = {
    step_check, protect_step_prepare, protect_step_record, protect_step_ckpt, step_note, NULL};

void
operation_protect(District *d, const char *host, const Pacing *pacing, gboolean output_commit,
                  JobDone done, gpointer data)
{
    Job *job = job_new(d, "protect", protect_steps, done, data);
    if (job == NULL)
        return;
    job->host = g_strdup(host);
    job->pacing = *pacing;
    job->output_commit = output_commit;
    job_next(job);
}

static void
protect_resumed(JsonObject *result, const GError *error, gpointer data)
{
    /* Tried again by the ticker; job_fail has logged it. */
}

void
protect_resume(District *d)
{
    Peer *peer = d->record.peer ? g_hash_table_lookup(d->daemon->peers, d->record.peer) : NULL;

    if (d->state != STATE_RUNNING || !d->record.protect || d->job != NULL || d->ending ||
        peer == NULL || !peer_reachable(peer))
        return;
    if (strcmp(json_get_string(d->ckpt_status, "protection", ""), "off") != 0)
        return;
    g_autofree char *host = g_strdup(d->record.peer);
    operation_protect(d, host, &d->record.pacing, d->record.output_commit, protect_resumed, NULL);
}

/* ---- Unprotect ---- */

static void
step_check_protected(Job *job)
{
    District *d = job->district;

    if (d->record.role != ROLE_HOME || d->record.peer == NULL || !d->record.protect) {
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is not protected from here", d->name);
        return;
    }
    job->host = g_strdup(d->record.peer);
    job_next(job);
}

static void
on_dropped(JsonObject *answer, const GError *error, gpointer data)
{
    Job *job = data;

    /* A standby that does not know of it has nothing to drop. One that refuses, as it is about to take
     * over, may do so later: it has to find us protected then. */
    if (error == NULL || error->code == CONTROL_ERROR_NOT_FOUND || job->force || job->finished)
        job_next(job);
    else if (error->code == CONTROL_ERROR_UNREACHABLE)
        job_fail_new(job, CONTROL_ERROR_UNREACHABLE,
                     "%s: host %s keeps a copy and cannot be told to drop it: connect it, or "
                     "unprotect --force",
                     job->district->name, job->host);
    else
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: host %s keeps its copy (%s): try again, or unprotect --force",
                     job->district->name, job->host, error->message);
    job_unref(job);
}

/* First the copy goes, so that a standby with AutoFailover= never sees a silent home. */
static void
step_drop(Job *job)
{
    District *d = job->district;
    Peer *peer = g_hash_table_lookup(d->daemon->peers, job->host);
    JsonObject *arguments = exchange_arguments(d);

    if (peer != NULL) {
        peer_request(peer, "drop-standby", arguments, PREPARE_TIMEOUT_MS, on_dropped, job_ref(job));
        return;
    }
    json_object_unref(arguments);
    job_next(job);
}

static void
step_forget(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    d->record.protect = FALSE;
    g_clear_pointer(&d->record.peer, g_free);
    if (!district_save_record(d, &error))
        job_fail(job, error);
    else
        job_next(job);
}

static void
step_ckpt_unprotect(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptUnprotectRequest unprotect = DISTRICT__CKPT_UNPROTECT_REQUEST__INIT;

    if (job->district->ckpt == NULL) {
        job_next(job); /* it does not run */
        return;
    }
    request.op_case = DISTRICT__CKPT_REQUEST__OP_UNPROTECT;
    request.unprotect = &unprotect;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, PROTECT_TIMEOUT_MS, NULL);
}

static const JobStep unprotect_steps[] = {step_check_protected, step_drop, step_forget,
                                          step_ckpt_unprotect, NULL};

void
operation_unprotect(District *d, gboolean force, JobDone done, gpointer data)
{
    Job *job = job_new(d, "unprotect", unprotect_steps, done, data);
    if (job == NULL)
        return;
    job->force = force;
    job_next(job);
}
