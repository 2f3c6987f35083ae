/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The writer of durable checkpoints: one job at a time; between jobs, pins, merging and pruning.
 *
 * A job ends only with a commit or a discard. What fails (a full disk, an I/O error) is reported
 * once, and tried again with another file until it works or the process ends.
 */
#include "ckpt/durable-internal.h"

#include "common/clock.h"

#include <glib/gstdio.h>
#include <inttypes.h>
#include <unistd.h>

#define RETRY_MS 2000
#define MERGE_SLICE_MS 50
/* Looks for something to merge or prune this often when there was nothing. */
#define MERGE_IDLE_MS 1000
#define MERGE_IDLE_MAX_MS 4000

/* Wait until there is a job, the process ends, or ms have passed. */
static void
writer_wait(Durable *d, int ms, bool for_job)
{
    int64_t until = g_get_monotonic_time() + ms * INT64_C(1000);

    g_mutex_lock(&d->lock);
    while (!d->stop && !(for_job && (d->write != NULL || !g_queue_is_empty(&d->pins)))) {
        if (!g_cond_wait_until(&d->cond, &d->lock, until))
            break;
    }
    g_mutex_unlock(&d->lock);
}

static bool
writer_stops(const Durable *d)
{
    return __atomic_load_n(&d->stop, __ATOMIC_RELAXED);
}

/* Tell of error (taken) unless it has been told of. */
static void
writer_tell(Durable *d, GError *error)
{
    bool news;

    if (writer_stops(d)) {
        g_error_free(error);
        return;
    }
    g_mutex_lock(&d->lock);
    news = g_strcmp0(d->stats.error, error->message) != 0;
    g_strlcpy(d->stats.error, error->message, sizeof d->stats.error);
    g_mutex_unlock(&d->lock);
    if (news) {
        g_warning("durable checkpoints: %s; trying again", error->message);
        durable_post(d, INBOX_DURABLE_FAILED, 0, error);
    } else {
        g_error_free(error);
    }
}

/* The same, and wait before the next try. */
static void
writer_failed(Durable *d, GError *error)
{
    writer_tell(d, error);
    writer_wait(d, RETRY_MS, false);
}

/* The same of a merge, for which no checkpoint waits. That a home is out of reach does not say that the
 * store cannot be written. */
static void
writer_merge_failed(Durable *d, GError *error)
{
    if (!g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND)) {
        writer_tell(d, error);
        return;
    }
    if (writer_stops(d) || g_strcmp0(d->merge_told, error->message) == 0) {
        g_error_free(error);
        return;
    }
    g_free(d->merge_told);
    d->merge_told = g_strdup(error->message);
    g_warning("durable checkpoints: merging: %s; trying again", error->message);
    durable_post(d, INBOX_DURABLE_FAILED, 0, error);
}

/* Have a file ready for the next checkpoint. */
static bool
writer_prepare(Durable *d)
{
    g_autoptr(GError) error = NULL;
    uint64_t id;
    int fd;

    if (!ckpt_store_prepare(d->store, &id, &fd, &error)) {
        writer_failed(d, g_steal_pointer(&error));
        return false;
    }
    g_mutex_lock(&d->lock);
    d->prepared = id;
    d->prepared_fd = fd;
    d->stats.error[0] = '\0';
    g_mutex_unlock(&d->lock);
    inbox_wake(d->inbox);
    return true;
}

static void
writer_discard(Durable *d, uint64_t id)
{
    g_autoptr(GError) error = NULL;

    if (!ckpt_store_discard(d->store, id, &error))
        g_warning("%s", error->message);
}

/* Take the prepared file. */
static void
writer_take_prepared(Durable *d, uint64_t *id, int *fd)
{
    g_mutex_lock(&d->lock);
    *id = d->prepared;
    *fd = d->prepared_fd;
    d->prepared = 0;
    d->prepared_fd = -1;
    g_mutex_unlock(&d->lock);
}

static void
writer_forget_hashes(Durable *d)
{
    for (uint32_t i = 0; i < d->n_members; i++)
        page_hashes_reset(d->hashes[i]);
}

/* One try at writing what was gathered. */
static bool
writer_write(Durable *d, const WriteJob *job, CheckpointFileInfo *info)
{
    g_autoptr(GError) error = NULL;
    int fd;

    *info = (CheckpointFileInfo){0};
    writer_take_prepared(d, &info->id, &fd);
    bool good = durable_file_write(d, job, fd, info, &error);
    close(fd);
    if (good)
        return true;
    /* What has been sent of it is not what is in the store. */
    writer_forget_hashes(d);
    writer_discard(d, info->id);
    writer_failed(d, g_steal_pointer(&error));
    return false;
}

static bool
writer_commit(Durable *d, const DurableCut *cut, const CheckpointFileInfo *info)
{
    CkptStoreCommit commit = {.parent_id = cut->parent_id,
                              .full = cut->full,
                              .epoch = cut->number,
                              .incarnation = cut->incarnation,
                              .realtime_ns = cut->realtime_ns,
                              .label = cut->label,
                              .ram_pages = info->ram_pages,
                              .disk_blocks = info->disk_blocks};
    g_autoptr(GError) error = NULL;

    if (ckpt_store_commit(d->store, info->id, &commit, &error))
        return true;
    writer_failed(d, g_steal_pointer(&error));
    return false;
}

/* Remember which cut of each disk the checkpoint has, for when it is merged. */
static void
writer_note_cuts(Durable *d, uint64_t id, const DurableCut *cut)
{
    uint64_t *cuts = g_new0(uint64_t, MAX(d->n_disks, 1));

    for (uint32_t i = 0; i < d->n_disks; i++)
        cuts[i] = cut->ranges[i].cut;
    g_hash_table_insert(d->cuts_of, g_memdup2(&id, sizeof id), cuts);
}

static void
writer_committed(Durable *d, const WriteJob *job, const CheckpointFileInfo *info)
{
    writer_note_cuts(d, info->id, job->cut);
    g_mutex_lock(&d->lock);
    d->stats.checkpoints++;
    d->stats.bytes += info->bytes;
    d->stats.last_bytes = info->bytes;
    d->stats.last_id = info->id;
    d->stats.last_realtime_ns = job->cut->realtime_ns;
    d->stats.error[0] = '\0';
    g_mutex_unlock(&d->lock);
}

/* The job is over: there is room for the next one. */
static void
writer_job_done(Durable *d, WriteJob *job)
{
    if (job->pages != NULL)
        staging_clear(job->pages, 0);
    g_mutex_lock(&d->lock);
    if (job->pages != NULL)
        d->spare = job->pages;
    d->write = NULL;
    d->write_taken = false;
    g_mutex_unlock(&d->lock);
    write_job_free(job);
}

/* Of a file that a sink has written. */
static uint64_t
writer_file_bytes(const Durable *d, uint64_t id)
{
    g_autofree char *path = ckpt_store_new_path(d->store, id);
    GStatBuf st;

    return g_stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void
writer_do(Durable *d, WriteJob *job)
{
    CheckpointFileInfo info = {.id = job->id};

    if (job->kind == WRITE_FILE)
        info.bytes = writer_file_bytes(d, job->id);

    if (job->kind == WRITE_DISCARD) {
        writer_discard(d, job->id);
        writer_job_done(d, job);
        return;
    }
    while (job->kind == WRITE_GATHERED && !writer_stops(d) && !writer_write(d, job, &info)) {
        while (!writer_stops(d) && !writer_prepare(d))
            ;
    }
    while (!writer_stops(d) && !writer_commit(d, job->cut, &info))
        ;
    if (writer_stops(d))
        return; /* a file that was complete is found again at the next open */
    /* A sink has written all of RAM, of which we know nothing. */
    if (job->kind == WRITE_FILE)
        writer_forget_hashes(d);
    writer_committed(d, job, &info);
    writer_job_done(d, job);
    durable_post(d, INBOX_DURABLE_DONE, info.id, NULL);
}

/* A slice of merging or pruning, and a pause that keeps it to its rate. */
static void
writer_merge(Durable *d, bool *idle)
{
    uint64_t budget = MAX(d->merge_rate * MERGE_SLICE_MS / 1000, UINT64_C(1) << 20);
    g_autoptr(GError) error = NULL;

    if (durable_merge_slice(d, budget, idle, &error))
        return;
    *idle = true;
    writer_merge_failed(d, g_steal_pointer(&error));
}

gpointer
durable_writer_run(gpointer data)
{
    Durable *d = data;
    int idle_ms = MERGE_IDLE_MS;

    while (!writer_stops(d)) {
        bool idle = false;
        g_mutex_lock(&d->lock);
        WriteJob *job = d->write;
        bool prepare = d->prepared == 0 && !(d->write_taken && job == NULL);
        g_mutex_unlock(&d->lock);
        if (prepare && !(job != NULL && job->kind != WRITE_GATHERED)) {
            writer_prepare(d);
            continue;
        }
        if (job != NULL) {
            writer_do(d, job);
            idle_ms = MERGE_IDLE_MS;
            continue;
        }
        if (durable_do_pin(d))
            continue;
        writer_merge(d, &idle);
        writer_wait(d, idle ? idle_ms : MERGE_SLICE_MS, true);
        idle_ms = idle ? MIN(2 * idle_ms, MERGE_IDLE_MAX_MS) : MERGE_IDLE_MS;
    }
    durable_close_homes(d);
    g_atomic_int_set(&d->writer_ended, 1);
    return NULL;
}
