/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes the disks of a shadow durable in the background. */
#include "standby/disksync.h"

#include "standby/error.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* How often at most, unless somebody waits. */
#define SYNC_EVERY_US (250 * G_TIME_SPAN_MILLISECOND)

struct DiskSync {
    gatomicrefcount refs; /* the owner's and the thread's */
    uint32_t n;
    int *fds;     /* of the disks, then of the directory */
    char **names; /* of the disks, then of the directory; NULL-terminated */

    GMutex lock; /* guards what follows */
    GCond cond;
    uint64_t noted;  /* counts notes */
    uint64_t synced; /* all that was noted up to here is durable */
    unsigned waiters;
    bool stop;
    GError *error; /* a disk has failed */
};

static void
disk_sync_unref(DiskSync *sync)
{
    if (!g_atomic_ref_count_dec(&sync->refs))
        return;
    for (uint32_t i = 0; i < sync->n; i++) {
        if (sync->fds[i] >= 0)
            close(sync->fds[i]);
    }
    g_free(sync->fds);
    g_strfreev(sync->names);
    g_clear_error(&sync->error);
    g_mutex_clear(&sync->lock);
    g_cond_clear(&sync->cond);
    g_free(sync);
}

static gboolean
sync_all(const DiskSync *sync, GError **error)
{
    for (uint32_t i = 0; i < sync->n; i++) {
        if (fdatasync(sync->fds[i]) == 0 || errno == EINVAL) /* EINVAL: nothing to sync there */
            continue;
        g_set_error(error, STANDBY_ERROR, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN,
                    "%s cannot be made durable on the standby host: %s", sync->names[i],
                    g_strerror(errno));
        return FALSE;
    }
    return TRUE;
}

/* Wait until there is something to do, and not too soon after the last time. With the lock. */
static void
wait_for_work(DiskSync *sync, gint64 not_before)
{
    while (!sync->stop && sync->noted == sync->synced)
        g_cond_wait(&sync->cond, &sync->lock);
    while (!sync->stop && sync->waiters == 0 &&
           g_cond_wait_until(&sync->cond, &sync->lock, not_before))
        ;
}

static gpointer
disk_sync_run(gpointer data)
{
    DiskSync *sync = data;
    gint64 not_before = g_get_monotonic_time() + SYNC_EVERY_US;

    g_mutex_lock(&sync->lock);
    for (;;) {
        wait_for_work(sync, not_before);
        if (sync->stop || sync->error != NULL)
            break;
        uint64_t noted = sync->noted;
        GError *error = NULL;

        g_mutex_unlock(&sync->lock);
        gboolean good = sync_all(sync, &error);
        not_before = g_get_monotonic_time() + SYNC_EVERY_US;
        g_mutex_lock(&sync->lock);
        if (good)
            sync->synced = noted;
        else
            sync->error = error;
        g_cond_broadcast(&sync->cond);
        if (!good)
            break;
    }
    g_mutex_unlock(&sync->lock);
    disk_sync_unref(sync);
    return NULL;
}

DiskSync *
disk_sync_new(const DiskSet *set, GError **error)
{
    DiskSync *sync;

    if (set->n == 0)
        return NULL;
    sync = g_new0(DiskSync, 1);
    g_atomic_ref_count_init(&sync->refs);
    g_mutex_init(&sync->lock);
    g_cond_init(&sync->cond);
    sync->n = set->n + 1;
    sync->fds = g_new(int, sync->n);
    sync->names = g_new0(char *, sync->n + 1);
    for (uint32_t i = 0; i < sync->n; i++) {
        bool disk = i < set->n;

        sync->fds[i] = fcntl(disk ? set->files[i].fd : set->dir_fd, F_DUPFD_CLOEXEC, 0);
        sync->names[i] = disk ? disk_set_name(set, i) : g_strdup(set->dir);
        if (sync->fds[i] >= 0)
            continue;
        g_set_error(error, STANDBY_ERROR, STANDBY_FULL, "%s: %s: raise the limit of open files",
                    sync->names[i], g_strerror(errno));
        sync->n = i;
        disk_sync_unref(sync);
        return NULL;
    }
    g_atomic_ref_count_inc(&sync->refs);
    g_thread_unref(g_thread_new("disk-sync", disk_sync_run, sync));
    return sync;
}

void
disk_sync_free(DiskSync *sync)
{
    if (sync == NULL)
        return;
    g_mutex_lock(&sync->lock);
    sync->stop = true;
    g_cond_broadcast(&sync->cond);
    g_mutex_unlock(&sync->lock);
    disk_sync_unref(sync);
}

void
disk_sync_note(DiskSync *sync)
{
    if (sync == NULL)
        return;
    g_mutex_lock(&sync->lock);
    if (sync->noted++ == sync->synced)
        g_cond_broadcast(&sync->cond);
    g_mutex_unlock(&sync->lock);
}

/* With the lock. */
static gboolean
good_locked(const DiskSync *sync, GError **error)
{
    if (sync->error == NULL)
        return TRUE;
    if (error != NULL)
        *error = g_error_copy(sync->error);
    return FALSE;
}

gboolean
disk_sync_wait(DiskSync *sync, int timeout_ms, GError **error)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = NULL;
    gboolean in_time = TRUE;
    uint64_t target;

    if (sync == NULL)
        return TRUE;
    locker = g_mutex_locker_new(&sync->lock);
    target = sync->noted;
    sync->waiters++;
    g_cond_broadcast(&sync->cond);
    while (in_time && sync->synced < target && sync->error == NULL)
        in_time = g_cond_wait_until(&sync->cond, &sync->lock, until);
    sync->waiters--;
    if (sync->synced >= target || sync->error != NULL)
        return good_locked(sync, error);
    g_set_error(error, STANDBY_ERROR, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN,
                "the disks were not durable within %d ms: their file system is too slow or hangs; "
                "try again",
                timeout_ms);
    return FALSE;
}

gboolean
disk_sync_good(DiskSync *sync, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = NULL;

    if (sync == NULL)
        return TRUE;
    locker = g_mutex_locker_new(&sync->lock);
    return good_locked(sync, error);
}
