/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Durable checkpoints: what the coordinator calls, and the gatherer. */
#include "ckpt/durable-internal.h"

#include <unistd.h>

/* Memory that an empty gathering keeps, pages per member. */
#define GATHERING_KEEP_PAGES 1024

void
durable_post(Durable *d, InboxKind kind, uint64_t number, GError *error)
{
    InboxMessage message = {.kind = kind, .number = number, .error = error};

    inbox_post(d->inbox, &message);
}

void
durable_cut_free(DurableCut *cut)
{
    if (cut == NULL)
        return;
    g_free(cut->label);
    g_clear_pointer(&cut->begin, g_byte_array_unref);
    g_clear_pointer(&cut->state, g_byte_array_unref);
    g_free(cut->wire_index);
    g_free(cut->ranges);
    g_free(cut);
}

void
write_job_free(WriteJob *job)
{
    durable_cut_free(job->cut);
    g_free(job);
}

/* ---- The gatherer ---- */

static void
gather_copy(Durable *d, const Epoch *epoch)
{
    for (uint32_t m = 0; m < d->n_members; m++) {
        uint64_t count = staging_member_pages(epoch->staging, m);
        for (uint64_t slot = 0; slot < count; slot++) {
            PageRef page = staging_page(epoch->staging, m, slot);
            staging_copy(d->gathering, m, page.index, page.data);
        }
    }
}

/* The gathering becomes the writer's; durable_ready has made sure that there is a spare one. */
static void
gather_hand_over(Durable *d, DurableCut *cut)
{
    WriteJob *job = g_new0(WriteJob, 1);

    *job = (WriteJob){.kind = WRITE_GATHERED, .cut = cut, .pages = d->gathering};
    g_mutex_lock(&d->lock);
    d->gathering = g_steal_pointer(&d->spare);
    d->write = job;
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
}

static gpointer
gatherer_run(gpointer data)
{
    Durable *d = data;

    for (;;) {
        g_mutex_lock(&d->lock);
        while (!d->stop && g_queue_is_empty(&d->gather_jobs))
            g_cond_wait(&d->cond, &d->lock);
        GatherJob *job = g_queue_pop_head(&d->gather_jobs);
        bool stop = d->stop;
        g_mutex_unlock(&d->lock);
        if (job == NULL) {
            g_atomic_int_set(&d->gatherer_ended, 1);
            return NULL;
        }
        if (job->epoch != NULL) {
            if (!stop)
                gather_copy(d, job->epoch);
            epoch_unref(job->epoch);
        } else if (stop || job->cut == NULL) {
            durable_cut_free(job->cut);
            staging_clear(d->gathering, GATHERING_KEEP_PAGES);
        } else {
            gather_hand_over(d, job->cut);
        }
        g_mutex_lock(&d->lock);
        d->stats.gathered_pages = staging_pages(d->gathering);
        g_mutex_unlock(&d->lock);
        g_free(job);
    }
}

static void
gather_queue(Durable *d, Epoch *epoch, DurableCut *cut)
{
    GatherJob *job = g_new0(GatherJob, 1);

    *job = (GatherJob){.epoch = epoch, .cut = cut};
    g_mutex_lock(&d->lock);
    g_queue_push_tail(&d->gather_jobs, job);
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
}

void
durable_gather(Durable *d, Epoch *epoch)
{
    gather_queue(d, epoch_ref(epoch), NULL);
}

void
durable_gather_clear(Durable *d)
{
    gather_queue(d, NULL, NULL);
}

/* ---- Cuts ---- */

bool
durable_ready(Durable *d)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    return d->prepared != 0 && d->write == NULL && !d->write_taken && d->spare != NULL;
}

void
durable_write(Durable *d, DurableCut *cut)
{
    g_mutex_lock(&d->lock);
    d->write_taken = true; /* until the gatherer has come to it, and the writer has done it */
    g_mutex_unlock(&d->lock);
    gather_queue(d, NULL, cut);
}

bool
durable_take_file(Durable *d, uint64_t *id, int *fd)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    if (d->prepared == 0 || d->write != NULL || d->write_taken)
        return false;
    *id = d->prepared;
    *fd = d->prepared_fd;
    d->prepared = 0;
    d->prepared_fd = -1;
    d->write_taken = true;
    return true;
}

void
durable_file_done(Durable *d, uint64_t id, DurableCut *cut)
{
    WriteJob *job = g_new0(WriteJob, 1);

    *job = (WriteJob){.kind = cut != NULL ? WRITE_FILE : WRITE_DISCARD, .id = id, .cut = cut};
    g_mutex_lock(&d->lock);
    d->write = job;
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
}

/* ---- The rest ---- */

CkptStore *
durable_store(Durable *d)
{
    return d->store;
}

uint64_t
durable_home_below(Durable *d, uint32_t i)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    return d->home_below != NULL ? d->home_below[i] : 0; /* NULL: nothing is made durable */
}

void
durable_set_home(Durable *d, uint32_t i, const char *home)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    if (i >= d->n_disks)
        return; /* nothing is made durable */
    g_free(d->disks[i].disk.home);
    d->disks[i].disk.home = g_strdup(home);
}

void
durable_stats(Durable *d, DurableStats *stats)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    *stats = d->stats;
}

void
durable_begin(Durable *d, DurableDisk *disks, uint32_t n_disks, uint64_t from_id)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    d->disks = disks;
    d->n_disks = n_disks;
    d->home_below = g_new0(uint64_t, MAX(n_disks, 1));
    d->homes = g_new0(CkptStoreHome, MAX(n_disks, 1));
    /* Entries that a restore brought count as cut 0. */
    if (from_id != 0)
        g_hash_table_insert(d->cuts_of, g_memdup2(&from_id, sizeof from_id),
                            g_new0(uint64_t, MAX(n_disks, 1)));
    d->writer = g_thread_new("durable", durable_writer_run, d);
}

Durable *
durable_new(const DurableConfig *config, GError **error)
{
    g_autoptr(CkptStore) store =
        ckpt_store_open(config->dir, config->district, CKPT_STORE_CREATE, error);
    Staging *two[2] = {NULL, NULL};

    if (store == NULL)
        return NULL;
    for (unsigned i = 0; i < 2; i++) {
        two[i] = staging_new(config->n_pages_of, config->n_members, error);
        if (two[i] == NULL) {
            if (i > 0)
                staging_free(two[0]);
            return NULL;
        }
    }
    Durable *d = g_new0(Durable, 1);
    g_mutex_init(&d->lock);
    g_cond_init(&d->cond);
    g_queue_init(&d->gather_jobs);
    g_queue_init(&d->pins);
    d->district = g_strdup(config->district);
    d->host = g_strdup(config->host);
    d->store = g_steal_pointer(&store);
    d->keep = config->keep;
    d->merge_rate = config->merge_rate;
    d->inbox = config->inbox;
    d->n_members = config->n_members;
    d->n_pages_of = g_memdup2(config->n_pages_of, config->n_members * sizeof(uint64_t));
    d->gathering = two[0];
    d->spare = two[1];
    d->prepared_fd = -1;
    d->encoder = encoder_new(1);
    d->hashes = g_new0(PageHashes *, config->n_members);
    for (uint32_t i = 0; i < config->n_members; i++)
        d->hashes[i] = page_hashes_new(config->n_pages_of[i]);
    d->cuts_of = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    d->gatherer = g_thread_new("gatherer", gatherer_run, d);
    return d;
}

/* A thread that waits for the store's disk cannot be interrupted, only left. */
static bool
join_within(GThread **thread, const gint *ended, int64_t until_us)
{
    while (*thread != NULL && !g_atomic_int_get(ended)) {
        if (g_get_monotonic_time() >= until_us)
            return false;
        g_usleep(1000);
    }
    if (*thread != NULL)
        g_thread_join(g_steal_pointer(thread));
    return true;
}

static void
durable_clear(Durable *d)
{
    durable_refuse_pins(d);
    if (d->write != NULL) {
        if (d->write->pages != NULL)
            staging_free(d->write->pages);
        write_job_free(d->write);
    }
    if (d->spare != NULL)
        staging_free(d->spare);
    staging_free(d->gathering);
    if (d->prepared_fd >= 0)
        close(d->prepared_fd);
    for (uint32_t i = 0; i < d->n_members; i++)
        page_hashes_free(d->hashes[i]);
    for (uint32_t i = 0; i < d->n_disks; i++)
        member_disk_clear(&d->disks[i].disk);
    g_free(d->disks);
    g_free(d->home_below);
    g_free(d->merge_told);
    g_free(d->homes);
    g_free(d->hashes);
    g_free(d->n_pages_of);
    encoder_free(d->encoder);
    g_hash_table_unref(d->cuts_of);
    ckpt_store_close(d->store);
    g_free(d->district);
    g_free(d->host);
    g_mutex_clear(&d->lock);
    g_cond_clear(&d->cond);
    g_free(d);
}

bool
durable_free(Durable *d, int timeout_ms)
{
    int64_t until_us = g_get_monotonic_time() + timeout_ms * INT64_C(1000);

    g_mutex_lock(&d->lock);
    __atomic_store_n(&d->stop, true, __ATOMIC_RELAXED);
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
    if (!join_within(&d->gatherer, &d->gatherer_ended, until_us) ||
        !join_within(&d->writer, &d->writer_ended, until_us))
        return false;
    durable_clear(d);
    return true;
}
