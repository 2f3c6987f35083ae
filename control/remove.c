/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operation: remove a district from this host; at the wish of a person, or of the home whose
 * standby this host was.
 *
 * Its processes are waited for, so that what they leave (a TAP interface, entries in the process
 * table) is cleared up by those who clear it up always. A copy that is dropped leaves the durable
 * checkpoints that were taken while this host was home: they are not part of the copy.
 *
 * When a clone has gone, what its original kept for it is released.
 */
#include "control/daemon.h"
#include "common/clock.h"

#define GONE_MS 10000
#define GONE_POLL_MS 5

typedef struct Removal {
    Daemon *daemon;
    char *name;
    char *clone_of; /* or NULL */
    JobDone done;
    gpointer data;
} Removal;

static void
step_end(Job *job)
{
    District *d = job->district;

    job->deadline_ns = clock_monotonic_ns() + GONE_MS * NS_PER_MS;
    processes_end_standby(d);
    processes_end(d, TRUE, job);
}

static gboolean
on_poll(gpointer data)
{
    Job *job = data;

    if (job->district->children->len > 0 && clock_monotonic_ns() < job->deadline_ns)
        return G_SOURCE_CONTINUE;
    job->poll = 0;
    if (job->district->children->len > 0)
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: processes do not end: kill them by hand",
                     job->district->name);
    else
        job_next(job);
    return G_SOURCE_REMOVE;
}

/* district-standby is none of those that processes_end waits for. */
static void
step_wait_gone(Job *job)
{
    job->poll = g_timeout_add(GONE_POLL_MS, on_poll, job);
}

/* data: the job. */
static void
on_copy_removed(gpointer data)
{
    job_next(data);
    job_unref(data);
}

static void
step_keep_checkpoints(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;
    unsigned copy = d->record.copy;

    d->record.copy = 0; /* what is left is of this host's own life */
    g_autoptr(JsonArray) checkpoints = checkpoint_list(d, &error);

    if (checkpoints == NULL && !job->force) {
        d->record.copy = copy;
        job_fail(job, error);
        return;
    }
    /* One with a lineage of its own had disks, and a life before it may have left some as well. */
    g_autoptr(GPtrArray) clones = district_clones(d);
    if (job->force ||
        (json_array_get_length(checkpoints) == 0 && d->record.lineage == 0 && clones->len == 0)) {
        job_next(job);
        return;
    }
    d->record.role = ROLE_NONE;
    d->record.home_stopped = FALSE;
    g_clear_pointer(&d->record.peer, g_free);
    if (!district_save_record(d, &error)) {
        job_fail(job, error);
        return;
    }
    json_object_set_boolean_member(job->result, "kept", TRUE);
    district_set_state(d, STATE_STOPPED, "kept for its checkpoints; its home is another host");
    /* What is left of it is in nobody's way: the next copy gets another number. */
    if (copy != 0)
        district_remove_lineage(d, copy, on_copy_removed, job_ref(job));
    else
        job_next(job);
}

static const JobStep remove_steps[] = {step_end, step_wait_gone, step_keep_checkpoints, NULL};

static void
removal_end(Removal *removal, JsonObject *result, const GError *error)
{
    removal->done(error != NULL ? NULL : result, error, removal->data);
    g_free(removal->clone_of);
    g_free(removal->name);
    g_free(removal);
}

/* JobDone */
static void
on_released(JsonObject *result, const GError *error, gpointer data)
{
    removal_end(data, NULL, NULL);
}

/* Its files are gone: what is left is what its original kept for it. */
static void
on_files_removed(gpointer data)
{
    Removal *removal = data;
    District *original = removal->clone_of != NULL
                             ? g_hash_table_lookup(removal->daemon->districts, removal->clone_of)
                             : NULL;

    if (original != NULL)
        clone_release(original, on_released, removal);
    else
        removal_end(removal, NULL, NULL);
}

/* JobDone: only now does nothing hold on to the district. */
static void
on_done(JsonObject *result, const GError *why, gpointer data)
{
    Removal *removal = data;
    Daemon *daemon = removal->daemon;
    g_autoptr(GError) error = NULL;
    char *left = NULL;

    if (why != NULL || json_get_bool(result, "kept", FALSE)) {
        removal_end(removal, result, why);
        return;
    }
    left = store_destroy(daemon->config->state_dir, removal->name, &error);
    if (left == NULL) {
        removal_end(removal, NULL, error);
        return;
    }
    g_hash_table_remove(daemon->districts, removal->name);
    store_remove_later(left, on_files_removed, removal);
}

void
operation_remove(District *d, gboolean checkpoints_too, JobDone done, gpointer data)
{
    Removal *removal = g_new0(Removal, 1);

    removal->daemon = d->daemon;
    removal->name = g_strdup(d->name);
    removal->clone_of = g_strdup(d->record.clone_of);
    removal->done = done;
    removal->data = data;
    Job *job = job_new(d, "removal", remove_steps, on_done, removal);
    if (job == NULL)
        return;
    job->force = checkpoints_too;
    job_next(job);
}
