/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper: which shadow is the committed one, and which incarnations may still change it. */
#include "standby/keeper.h"

#include "common/fdmsg.h"
#include "standby/error.h"

/* An epoch that has committed and waits for its shadow to be held. */
typedef struct Waiting {
    KeeperAcknowledge acknowledge; /* NULL: none */
    uint64_t epoch;
    gpointer opaque;
} Waiting;

struct Keeper {
    char *district;
    char *disk_dir;
    KeeperHold hold;
    gpointer opaque;
    GMutex lock; /* guards all below */
    Shadow *shadow;
    bool held;      /* districtd has been given the shadow's descriptors */
    Shadow *before; /* while it has not: the shadow that it has, or NULL */
    Waiting waiting;
    uint64_t least;
    uint64_t newest;
};

Keeper *
keeper_new(const char *district, const char *disk_dir, KeeperHold hold, gpointer opaque)
{
    Keeper *keeper = g_new0(Keeper, 1);

    keeper->district = g_strdup(district);
    keeper->disk_dir = g_strdup(disk_dir);
    keeper->hold = hold;
    keeper->opaque = opaque;
    g_mutex_init(&keeper->lock);
    return keeper;
}

void
keeper_free(Keeper *keeper)
{
    shadow_free(keeper->shadow);
    shadow_free(keeper->before);
    g_mutex_clear(&keeper->lock);
    g_free(keeper->district);
    g_free(keeper->disk_dir);
    g_free(keeper);
}

const char *
keeper_district(const Keeper *keeper)
{
    return keeper->district;
}

const char *
keeper_disk_dir(const Keeper *keeper)
{
    return keeper->disk_dir;
}

/* ---- Incarnations ---- */

void
keeper_require(Keeper *keeper, uint64_t least, uint64_t newest)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    keeper->least = MAX(keeper->least, least);
    keeper->newest = MAX(keeper->newest, newest);
}

static uint64_t
held_incarnation(const Keeper *keeper)
{
    return keeper->shadow != NULL ? shadow_incarnation(keeper->shadow) : 0;
}

gboolean
keeper_admit(Keeper *keeper, uint64_t incarnation, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);
    uint64_t held = held_incarnation(keeper);

    if (incarnation != 0 && incarnation >= keeper->least && incarnation >= held)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_SUPERSEDED,
                "incarnation %" G_GUINT64_FORMAT
                " of district %s is superseded by %" G_GUINT64_FORMAT ": stop it",
                incarnation, keeper->district, MAX(keeper->newest, held));
    return FALSE;
}

uint64_t
keeper_newest(Keeper *keeper)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    return MAX(keeper->newest, held_incarnation(keeper));
}

/* ---- The shadow ---- */

Shadow *
keeper_shadow(Keeper *keeper)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    return keeper->shadow;
}

static void
acknowledge_locked(Keeper *keeper)
{
    Waiting waiting = keeper->waiting;

    if (!keeper->held || waiting.acknowledge == NULL)
        return;
    keeper->waiting = (Waiting){0};
    waiting.acknowledge(waiting.epoch, waiting.opaque);
}

/* What was held once stays so: a districtd that is away for a while stops no commits. Returns the
 * shadow before if nobody needs it any more; the caller frees it. */
static Shadow *
hold_locked(Keeper *keeper)
{
    int fds[FDMSG_FDS_MAX];
    guint n_fds = shadow_fds(keeper->shadow, fds);
    Shadow *old = NULL;

    if (keeper->hold(fds, n_fds, shadow_committed(keeper->shadow),
                     shadow_incarnation(keeper->shadow), keeper->opaque) &&
        !keeper->held) {
        /* In this order: of a shadow that may be adopted no disk has lost its name to another. */
        shadow_publish(keeper->shadow, keeper->before);
        old = g_steal_pointer(&keeper->before);
        keeper->held = true;
    }
    acknowledge_locked(keeper);
    return old;
}

void
keeper_acknowledge(Keeper *keeper, uint64_t epoch, KeeperAcknowledge acknowledge, gpointer opaque)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    keeper->waiting = (Waiting){acknowledge, epoch, opaque};
    acknowledge_locked(keeper);
}

void
keeper_forget(Keeper *keeper, gpointer opaque)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    if (keeper->waiting.opaque == opaque)
        keeper->waiting = (Waiting){0};
}

gboolean
keeper_held(Keeper *keeper, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    if (keeper->shadow == NULL || keeper->held)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                "districtd on the standby host has not taken epoch %" G_GUINT64_FORMAT
                " of district %s yet: see that it runs",
                shadow_committed(keeper->shadow), keeper->district);
    return FALSE;
}

void
keeper_publish(Keeper *keeper, Shadow *fresh)
{
    Shadow *old;

    g_mutex_lock(&keeper->lock);
    keeper->before = keeper->shadow;
    keeper->shadow = fresh;
    keeper->held = false;
    old = hold_locked(keeper);
    g_mutex_unlock(&keeper->lock);
    shadow_free(old);
}

void
keeper_put(Keeper *keeper, Shadow *shadow)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    g_return_if_fail(keeper->shadow == NULL);
    keeper->shadow = shadow;
    keeper->held = true;
}

Shadow *
keeper_take(Keeper *keeper)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);

    return g_steal_pointer(&keeper->shadow);
}

void
keeper_hold_again(Keeper *keeper)
{
    Shadow *old = NULL;

    g_mutex_lock(&keeper->lock);
    if (keeper->shadow != NULL)
        old = hold_locked(keeper);
    g_mutex_unlock(&keeper->lock);
    shadow_free(old);
}

static void
keeper_disk_free(gpointer data)
{
    KeeperDisk *disk = data;

    g_free(disk->member);
    g_free(disk->path);
    g_free(disk);
}

GPtrArray *
keeper_disks(Keeper *keeper, uint64_t *born)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);
    GPtrArray *list = g_ptr_array_new_with_free_func(keeper_disk_free);
    const DiskSet *set = keeper->shadow != NULL ? shadow_disks(keeper->shadow) : NULL;

    *born = set != NULL ? set->born : 0;
    for (uint32_t i = 0; set != NULL && i < set->n; i++) {
        KeeperDisk *disk = g_new0(KeeperDisk, 1);

        disk->member = g_strdup(set->files[i].member);
        disk->index = set->files[i].index;
        disk->bytes = set->files[i].bytes;
        disk->path = disk_set_path(set, i);
        g_ptr_array_add(list, disk);
    }
    return list;
}

KeeperStatus
keeper_status(Keeper *keeper)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&keeper->lock);
    const Shadow *shadow = keeper->shadow;

    if (shadow == NULL)
        return (KeeperStatus){0};
    return (KeeperStatus){
        .committed_epoch = shadow_committed(shadow),
        .incarnation = shadow_incarnation(shadow),
        .ram_bytes = shadow_ram_bytes(shadow),
        .realtime_ns = shadow_realtime_ns(shadow),
    };
}
