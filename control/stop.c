/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operation: stop. First the power buttons of the members are pressed, and those whose guests
 * listen for it have some time to power themselves off. Then what is on the disks is saved, and what
 * is left is told to quit: the plug is pulled. A district whose disks cannot be saved is not stopped,
 * because what its guests were told is written would be gone. With force everything is killed at once.
 */
#include "control/daemon.h"

#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <string.h>

#define BUTTON_TIMEOUT_MS 5000
#define OFF_POLL_MS 50
#define STATE_TIMEOUT_MS 10000
#define SAVE_TIMEOUT_MS 30000

static void
step_check(Job *job)
{
    District *d = job->district;

    if (d->record.role == ROLE_STANDBY)
        job_fail_new(
            job, CONTROL_ERROR_STATE,
            "%s: its home is host %s: stop it there, or unprotect it there to drop this copy",
            d->name, d->record.peer);
    else if (processes_count(d) == 0 && d->state != STATE_RUNNING && d->state != STATE_STOPPING)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it does not run", d->name);
    else
        job_next(job);
}

/* ---- The button ---- */

/* data: the job. A district whose buttons cannot be pressed is stopped without. */
static void
on_pressed(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Job *job = data;
    const District__CkptMessage *m = (const District__CkptMessage *)message;

    if (error != NULL) {
        g_message("%s: power buttons not pressed: %s", job->district->name, error->message);
    } else if (m->reply->n_members_heard > 0) {
        g_autofree char **names = g_new0(char *, m->reply->n_members_heard + 1);
        memcpy(names, m->reply->members_heard, m->reply->n_members_heard * sizeof(*names));
        job->label = g_strjoinv(" ", names);
    }
    job_next(job);
    job_unref(job);
}

static void
step_press(Job *job)
{
    District *d = job->district;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPowerButtonRequest button = DISTRICT__CKPT_POWER_BUTTON_REQUEST__INIT;

    if (d->state != STATE_RUNNING || d->ckpt == NULL) {
        job_next(job);
        return;
    }
    /* Told to the standby before anything ends, so that it does not take this for a failure. */
    district_set_state(d, STATE_STOPPING, NULL);
    if (job->timeout_us == 0) {
        job_next(job);
        return;
    }
    request.op_case = DISTRICT__CKPT_REQUEST__OP_POWER_BUTTON;
    request.power_button = &button;
    rpc_call(d->ckpt, &request.base, NULL, 0, BUTTON_TIMEOUT_MS, on_pressed, job_ref(job));
}

/* Those of the members in names, separated by spaces, that are not off. */
static char *
still_on(const District *d, const char *names)
{
    g_auto(GStrv) members = g_strsplit(names, " ", -1);
    g_autoptr(GString) on = g_string_new(NULL);

    for (guint i = 0; members[i] != NULL; i++) {
        if (processes_find(d, "vmm", members[i]) != NULL)
            g_string_append_printf(on, "%s%s", on->len > 0 ? " " : "", members[i]);
    }
    return g_string_free(g_steal_pointer(&on), FALSE);
}

static gboolean
look_whether_off(gpointer data)
{
    Job *job = data;
    g_autofree char *on = still_on(job->district, job->label);

    job->poll = 0;
    if (on[0] != '\0' && clock_monotonic_ns() < job->deadline_ns) {
        job->poll = g_timeout_add(OFF_POLL_MS, look_whether_off, job);
        return G_SOURCE_REMOVE;
    }
    if (on[0] != '\0') {
        g_message("%s: did not power off in time: %s", job->district->name, on);
        json_object_set_string_member(job->result, "unplugged", on);
    }
    job_next(job);
    return G_SOURCE_REMOVE;
}

static void
step_await_off(Job *job)
{
    if (job->label == NULL) {
        job_next(job); /* nobody listens */
        return;
    }
    job->deadline_ns = clock_monotonic_ns() + (int64_t)job->timeout_us * 1000;
    job->poll = g_timeout_add(OFF_POLL_MS, look_whether_off, job);
}

/* ---- The disks ---- */

/* It runs on, as far as its guests are not off. */
static void
refuse_to_stop(Job *job, const char *why)
{
    District *d = job->district;

    if (d->state == STATE_STOPPING)
        district_set_state(d, STATE_RUNNING, NULL);
    job_fail_new(job, CONTROL_ERROR_STATE,
                 "%s: not stopped, because what is on its disks cannot be saved: %s; or stop "
                 "--force and lose what was written since the last checkpoint",
                 d->name, why);
}

/* Why the store cannot be written, as far as is known; "": it can. */
static const char *
store_error(const District *d)
{
    return definition_has_disks(d->definition)
               ? json_get_string(d->ckpt_status, "durable_error", "")
               : "";
}

/* Before any button is pressed. */
static void
step_check_store(Job *job)
{
    const char *why = store_error(job->district);

    if (job->district->state == STATE_RUNNING && why[0] != '\0')
        refuse_to_stop(job, why);
    else
        job_next(job);
}

typedef struct Unsaved {
    Job *job;
    char *why;
} Unsaved;

/* data: an Unsaved. A district-ckpt whose members are all off, or have failed, has nothing to save any
 * more. */
static void
on_unsaved_state(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                 gpointer data)
{
    Unsaved *unsaved = data;
    const District__CkptReply *reply =
        message != NULL ? ((const District__CkptMessage *)message)->reply : NULL;

    if (unsaved->job->finished ||
        (reply != NULL && reply->status != NULL && strcmp(reply->status->state, "running") != 0))
        job_next(unsaved->job);
    else
        refuse_to_stop(unsaved->job, unsaved->why);
    job_unref(unsaved->job);
    g_free(unsaved->why);
    g_free(unsaved);
}

static void
ask_why_unsaved(Job *job, const char *why)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;
    Unsaved *unsaved = g_new(Unsaved, 1);

    *unsaved = (Unsaved){job_ref(job), g_strdup(why)};
    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    rpc_call(job->district->ckpt, &request.base, NULL, 0, STATE_TIMEOUT_MS, on_unsaved_state,
             unsaved);
}

/* data: the job. */
static void
on_disks_saved(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Job *job = data;

    if (error == NULL || job->finished || job->district->ckpt == NULL) {
        job_next(job);
    } else if (!g_error_matches(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE)) {
        ask_why_unsaved(job, error->message);
    } else {
        const char *why = store_error(job->district);
        refuse_to_stop(job, why[0] != '\0' ? why : "no checkpoint got done in time, try again");
    }
    job_unref(job);
}

static void
step_save_disks(Job *job)
{
    District *d = job->district;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPersistRequest persist = DISTRICT__CKPT_PERSIST_REQUEST__INIT;

    if (d->state != STATE_STOPPING || d->ckpt == NULL || !definition_has_disks(d->definition)) {
        job_next(job);
        return;
    }
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PERSIST;
    request.persist = &persist;
    rpc_call(d->ckpt, &request.base, NULL, 0, SAVE_TIMEOUT_MS, on_disks_saved, job_ref(job));
}

/* ---- The plug ---- */

/* Written down before anything ends: whoever finds members half ended does not take that for a failure,
 * which the standby would have to take over from. */
static void
note_stopped(District *d)
{
    g_autoptr(GError) error = NULL;

    district_set_state(d, STATE_STOPPING, NULL);
    d->unit_failed = FALSE;
    if (d->record.stopped)
        return;
    d->record.stopped = TRUE;
    d->record.failover_wanted = FALSE;
    if (!district_save_record(d, &error))
        g_warning("%s: a boot of this host would go on from a checkpoint: %s", d->name,
                  error->message);
}

/* What was handed over is not ours to stop, but when its target does not run it: then the target has to
 * hear from us, as from any home, that it is stopped. */
static void
end_members(District *d, gboolean at_once, Job *job)
{
    g_autoptr(GError) error = NULL;

    if (d->state == STATE_HANDED_OVER && d->taking_back && !migrate_own_again(d, TRUE, &error))
        g_warning("%s", error->message);
    if (d->state != STATE_SUPERSEDED && (d->state != STATE_HANDED_OVER || d->taking_back))
        note_stopped(d);
    processes_end(d, at_once, job);
}

static void
step_end(Job *job)
{
    end_members(job->district, job->force, job);
}

static void
step_stopped(Job *job)
{
    if (job->district->state == STATE_STOPPING)
        district_set_state(job->district, STATE_STOPPED, NULL);
    job_next(job);
}

static const JobStep stop_steps[] = {step_check, step_end, step_stopped, NULL};
static const JobStep shut_down_steps[] = {
    step_check,      step_check_store, step_press,   step_await_off,
    step_save_disks, step_end,         step_stopped, NULL};

void
operation_stop(District *d, gboolean force, JobDone done, gpointer data)
{
    /* Force also ends an operation that hangs; but not one whose members may be the only copy. Members
     * first: an operation that is undone neither brings them back then, nor takes them for lost. */
    if (force && d->job != NULL && !takeover_has_image(d)) {
        if (d->record.role == ROLE_HOME && processes_count(d) > 0)
            end_members(d, TRUE, NULL);
        job_fail_new(d->job, CONTROL_ERROR_STATE, "%s: stopped by force", d->name);
    }
    Job *job = job_new(d, "stop", stop_steps, done, data);
    if (job == NULL)
        return;
    job->force = force;
    job_next(job);
}

/* A process was lost while the guests were shutting down: there is nothing more to wait for. */
static void
undo_shut_down(Job *job)
{
    District *d = job->district;

    if (d->state == STATE_STOPPING && !d->ending && !d->unit_failed)
        operation_stop(d, TRUE, operation_done_log, NULL);
}

void
operation_shut_down(District *d, uint64_t timeout_us, JobDone done, gpointer data)
{
    Job *job = job_new(d, "stop", shut_down_steps, done, data);

    if (job == NULL)
        return;
    job->undo = undo_shut_down;
    job->timeout_us = timeout_us;
    job_next(job);
}
