/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first copy of disks. */
#include "ckpt/disk-sync.h"

#include "disk/home.h"

#include <string.h>

/* Batches read and not taken yet: bounds memory to as many MiB. */
#define QUEUE_MAX 8
#define BATCH_BYTES (PAGES_PER_RECORD_MAX * PAGE_BYTES)

typedef struct HomeCopy {
    uint32_t image;
    char *home;
    uint64_t bytes;
    uint64_t data; /* counted; the thread's until counted is set */
} HomeCopy;

struct DiskSync {
    gatomicrefcount refs; /* the owner's and the thread's, which may hang in a read */
    HomeCopy *homes;
    uint32_t n;
    uint64_t rate;
    Inbox *inbox;

    GMutex lock; /* guards what follows */
    GCond cond;
    GQueue queue; /* of DiskSyncBatch */
    bool counted;
    bool begun;
    bool stop;
    bool over;
    GError *error;
    DiskSyncProgress progress;
};

void
disk_sync_batch_free(DiskSyncBatch *batch)
{
    g_free(batch->data);
    g_free(batch);
}

/* Wait for room in the queue, and until the rate allows more. False: stop. */
static bool
sync_put(DiskSync *sync, DiskSyncBatch *batch, int64_t not_before_us)
{
    bool stop;

    g_mutex_lock(&sync->lock);
    while (!sync->stop && sync->queue.length >= QUEUE_MAX)
        g_cond_wait(&sync->cond, &sync->lock);
    while (!sync->stop && g_get_monotonic_time() < not_before_us)
        g_cond_wait_until(&sync->cond, &sync->lock, not_before_us);
    stop = sync->stop;
    if (!stop) {
        g_queue_push_tail(&sync->queue, batch);
        inbox_wake(sync->inbox);
    }
    g_mutex_unlock(&sync->lock);
    if (stop)
        disk_sync_batch_free(batch);
    return !stop;
}

static bool
block_is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, PAGE_BYTES - 1) == 0;
}

/* The blocks from offset on that hold something; zero ones are left out. */
static DiskSyncBatch *
sync_read(Home *home, const HomeCopy *copy, uint64_t offset, uint64_t bytes, GError **error)
{
    DiskSyncBatch *batch = g_new0(DiskSyncBatch, 1);

    batch->image = copy->image;
    batch->data = g_malloc0(BATCH_BYTES);
    if (!home_read(home, offset, batch->data, MIN(bytes, copy->bytes - offset), error)) {
        disk_sync_batch_free(batch);
        return NULL;
    }
    for (uint64_t at = 0; at < bytes; at += PAGE_BYTES) {
        if (block_is_zero(batch->data + at))
            continue;
        memmove(batch->data + batch->n * PAGE_BYTES, batch->data + at, PAGE_BYTES);
        batch->blocks[batch->n++] = page_count(offset + at);
    }
    return batch;
}

/* False: stop. */
static bool
sync_count(DiskSync *sync, uint64_t done, uint64_t total)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);

    sync->progress.done += done;
    sync->progress.total += total;
    return !sync->stop;
}

/* One extent of data, in whole blocks. False: stop, or error is set. */
static bool
sync_extent(DiskSync *sync, Home *home, const HomeCopy *copy, uint64_t start, uint64_t end,
            int64_t *next_us, GError **error)
{
    start -= start % PAGE_BYTES;
    for (uint64_t at = start; at < end; at += BATCH_BYTES) {
        uint64_t bytes = MIN(end - at, BATCH_BYTES);
        bytes = disk_blocks(bytes) * PAGE_BYTES;
        DiskSyncBatch *batch = sync_read(home, copy, at, bytes, error);
        if (!batch)
            return false;
        int64_t span = sync->rate ? (int64_t)(batch->n * PAGE_BYTES * 1000000 / sync->rate) : 0;
        *next_us = MAX(*next_us, g_get_monotonic_time()) + span;
        if (batch->n == 0)
            disk_sync_batch_free(batch);
        else if (!sync_put(sync, batch, *next_us))
            return false;
        if (!sync_count(sync, bytes, 0))
            return false;
    }
    return true;
}

/* Call sync_extent for each extent, or only count them. False: stop, or error is set. */
static bool
sync_home(DiskSync *sync, HomeCopy *copy, bool count, int64_t *next_us, GError **error)
{
    Home *home = home_open(copy->home, copy->bytes, false, error);
    uint64_t at = 0, end = 0;
    bool good = home != NULL;

    while (good) {
        uint64_t start;
        good = home_next_data(home, at, &start, &end, error);
        if (!good || start >= copy->bytes)
            break;
        if (count) {
            good = sync_count(sync, 0, end - start);
            copy->data += end - start;
        } else {
            good = sync_extent(sync, home, copy, start, end, next_us, error);
        }
        at = end;
    }
    if (home)
        home_close(home);
    return good;
}

static void
sync_unref(DiskSync *sync)
{
    if (!g_atomic_ref_count_dec(&sync->refs))
        return;
    g_queue_clear_full(&sync->queue, (GDestroyNotify)disk_sync_batch_free);
    for (uint32_t i = 0; i < sync->n; i++)
        g_free(sync->homes[i].home);
    g_clear_error(&sync->error);
    g_mutex_clear(&sync->lock);
    g_cond_clear(&sync->cond);
    g_free(sync->homes);
    g_free(sync);
}

/* All has been counted: wait until it is to be read. False: stop. */
static bool
sync_wait_begin(DiskSync *sync)
{
    bool stop;

    g_mutex_lock(&sync->lock);
    sync->counted = true;
    if (!sync->stop)
        inbox_wake(sync->inbox);
    while (!sync->begun && !sync->stop)
        g_cond_wait(&sync->cond, &sync->lock);
    stop = sync->stop;
    g_mutex_unlock(&sync->lock);
    return !stop;
}

static gpointer
sync_run(gpointer data)
{
    DiskSync *sync = data;
    GError *error = NULL;
    int64_t next_us = 0;
    bool good = true;

    for (uint32_t i = 0; good && i < sync->n; i++)
        good = sync_home(sync, &sync->homes[i], true, &next_us, &error);
    good = good && sync_wait_begin(sync);
    for (uint32_t i = 0; good && i < sync->n; i++)
        good = sync_home(sync, &sync->homes[i], false, &next_us, &error);
    g_mutex_lock(&sync->lock);
    sync->counted = sync->over = true;
    sync->error = error;
    if (!sync->stop)
        inbox_wake(sync->inbox);
    g_mutex_unlock(&sync->lock);
    sync_unref(sync);
    return NULL;
}

DiskSync *
disk_sync_new(const DiskSyncHome *homes, uint32_t n, uint64_t rate, Inbox *inbox)
{
    DiskSync *sync = g_new0(DiskSync, 1);

    g_mutex_init(&sync->lock);
    g_cond_init(&sync->cond);
    g_queue_init(&sync->queue);
    sync->homes = g_new0(HomeCopy, n);
    sync->n = n;
    sync->rate = rate;
    sync->inbox = inbox;
    for (uint32_t i = 0; i < n; i++)
        sync->homes[i] = (HomeCopy){
            .image = homes[i].image, .home = g_strdup(homes[i].home), .bytes = homes[i].bytes};
    g_atomic_ref_count_init(&sync->refs);
    g_atomic_ref_count_inc(&sync->refs);
    g_thread_unref(g_thread_new("disk-sync", sync_run, sync));
    return sync;
}

void
disk_sync_free(DiskSync *sync)
{
    g_mutex_lock(&sync->lock);
    sync->stop = true;
    g_cond_broadcast(&sync->cond);
    g_mutex_unlock(&sync->lock);
    sync_unref(sync);
}

bool
disk_sync_counted(DiskSync *sync)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);

    return sync->counted;
}

uint64_t
disk_sync_data(const DiskSync *sync, uint32_t image)
{
    for (uint32_t i = 0; i < sync->n; i++) {
        if (sync->homes[i].image == image)
            return sync->homes[i].data;
    }
    return 0;
}

void
disk_sync_begin(DiskSync *sync)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);

    sync->begun = true;
    g_cond_broadcast(&sync->cond);
}

DiskSyncBatch *
disk_sync_take(DiskSync *sync)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);
    DiskSyncBatch *batch = g_queue_pop_head(&sync->queue);

    if (batch)
        g_cond_broadcast(&sync->cond);
    return batch;
}

bool
disk_sync_over(DiskSync *sync, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);

    if (!sync->over || !g_queue_is_empty(&sync->queue))
        return false;
    if (sync->error)
        g_propagate_error(error, g_steal_pointer(&sync->error));
    return true;
}

DiskSyncProgress
disk_sync_progress(DiskSync *sync)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sync->lock);

    return sync->progress;
}
