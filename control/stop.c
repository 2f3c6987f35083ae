/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Operation: stop. Members are told to quit; with force they are killed. */
#include "control/daemon.h"

static void
step_end(Job *job)
{
    District *d = job->district;

    if (d->record.role == ROLE_STANDBY) {
        job_fail_new(
            job, CONTROL_ERROR_STATE,
            "%s: its home is host %s: stop it there, or unprotect it there to drop this copy",
            d->name, d->record.peer);
        return;
    }
    if (processes_count(d) == 0 && d->state != STATE_RUNNING) {
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it does not run", d->name);
        return;
    }
    /* Told to the standby before the stream ends, so that it does not take this for a failure. */
    if (d->state != STATE_HANDED_OVER && d->state != STATE_SUPERSEDED)
        district_set_state(d, STATE_STOPPING, NULL);
    processes_end(d, job->force, job);
}

static void
step_stopped(Job *job)
{
    District *d = job->district;

    if (d->state == STATE_STOPPING)
        district_set_state(d, STATE_STOPPED, NULL);
    job_next(job);
}

static const JobStep stop_steps[] = {step_end, step_stopped, NULL};

void
operation_stop(District *d, gboolean force, JobDone done, gpointer data)
{
    /* Force also ends an operation that hangs. */
    if (force && d->job != NULL)
        job_fail_new(d->job, CONTROL_ERROR_STATE, "%s: stopped by force", d->name);
    Job *job = job_new(d, "stop", stop_steps, done, data);
    if (job == NULL)
        return;
    job->force = force;
    job_next(job);
}
