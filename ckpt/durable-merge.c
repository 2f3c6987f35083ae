/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging and pruning, in slices: the store's oldest checkpoint into base images and homes, and
 * what the policy does not keep out of the store; then indexes of what stays. Homes are opened for
 * a merge and closed after it, so that an idle district has nothing open.
 *
 * While something is pinned nothing is merged, and whoever has pinned it reads the homes. A qemu-nbd
 * may still have in its caches what a merge has written, ours or that of a district-ckpt before us: it
 * is flushed before a pin is told of, and from then on the images do not change.
 */
#include "ckpt/durable-internal.h"

#include "disk/home.h"

#include <string.h>

/* As disk/home.h has it. */
#define HOME_NBD "nbd:"
#define HOME_OWN "image:"
#define MERGE_AGAIN_US (5 * G_USEC_PER_SEC)

static gboolean
merge_home_write(void *opaque, uint64_t offset, const void *data, size_t len, GError **error)
{
    return home_write(opaque, offset, data, len, error);
}

static gboolean
merge_home_zero(void *opaque, uint64_t offset, uint64_t len, GError **error)
{
    return home_zero(opaque, offset, len, error);
}

static gboolean
merge_home_flush(void *opaque, GError **error)
{
    return home_flush(opaque, error);
}

/* The homes in use, by disk; closed when the merge is over. */
void
durable_close_homes(Durable *d)
{
    for (uint32_t i = 0; i < d->n_disks; i++) {
        if (d->homes[i].opaque != NULL)
            home_close(d->homes[i].opaque);
        d->homes[i].opaque = NULL;
    }
}

static char *
home_name(Durable *d, uint32_t i)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&d->lock);

    return g_strdup(d->disks[i].disk.home);
}

/* A raw home has no cache but the kernel's; a socket that has gone is of a member that is off. */
static bool
home_has_cache(const char *home)
{
    return g_str_has_prefix(home, HOME_OWN) ||
           (g_str_has_prefix(home, HOME_NBD) &&
            g_file_test(home + strlen(HOME_NBD), G_FILE_TEST_EXISTS));
}

gboolean
durable_flush_homes(Durable *d, GError **error)
{
    durable_close_homes(d);
    for (uint32_t i = 0; i < d->n_disks; i++) {
        g_autofree char *name = home_name(d, i);

        if (!home_has_cache(name))
            continue;
        Home *home = home_open(name, d->disks[i].disk.size, true, error);
        bool good = home != NULL && home_flush(home, error);

        if (home != NULL)
            home_close(home);
        if (!good)
            return FALSE;
    }
    return TRUE;
}

static const CkptStoreHome *
home_find(void *opaque, const char *member, uint32_t number, uint64_t bytes)
{
    Durable *d = opaque;

    for (uint32_t i = 0; i < d->n_disks; i++) {
        const DurableDisk *disk = &d->disks[i];
        g_autoptr(GError) error = NULL;

        if (strcmp(disk->disk.member, member) != 0 || disk->number != number ||
            disk->disk.size != bytes)
            continue;
        if (d->homes[i].opaque == NULL) {
            g_autofree char *name = home_name(d, i);
            d->homes[i] = (CkptStoreHome){.write = merge_home_write,
                                          .zero = merge_home_zero,
                                          .flush = merge_home_flush,
                                          .opaque = home_open(name, bytes, true, &error)};
            if (d->homes[i].opaque == NULL) {
                g_warning("%s", error->message);
                return NULL;
            }
        }
        return &d->homes[i];
    }
    return NULL;
}

static gboolean
cuts_are_old(gpointer id, gpointer cuts, gpointer root)
{
    return *(const uint64_t *)id <= *(const uint64_t *)root;
}

/* The root is merged: engines may drop what the homes have now. */
static void
merge_done(Durable *d)
{
    const uint64_t *cuts;
    gboolean merged;
    uint64_t root;
    bool news = false;

    if (!ckpt_store_root(d->store, &root, &merged, NULL) || !merged)
        return;
    cuts = g_hash_table_lookup(d->cuts_of, &root);
    if (cuts == NULL)
        return; /* older than these engines: their overlays have nothing of it alone */
    g_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < d->n_disks; i++) {
        news = news || cuts[i] + 1 > d->home_below[i];
        d->home_below[i] = MAX(d->home_below[i], cuts[i] + 1);
    }
    g_mutex_unlock(&d->lock);
    /* Roots that come later have higher numbers. */
    g_hash_table_foreach_remove(d->cuts_of, cuts_are_old, &root);
    if (news)
        durable_post(d, INBOX_DURABLE_HOME, root, NULL);
}

/*
 * A root that cannot be merged is tried again, but not in each slice. Meanwhile what is not kept is
 * folded: where the homes are out of reach for long, the store would fill up.
 */
static gboolean
merge_root(Durable *d, uint64_t budget, GError **error)
{
    gboolean merged;

    d->keep.root_stays = !ckpt_store_merge_some(d->store, budget, home_find, d, &merged, error);
    if (d->keep.root_stays) {
        d->merge_again_us = g_get_monotonic_time() + MERGE_AGAIN_US;
        durable_close_homes(d);
        return FALSE;
    }
    g_clear_pointer(&d->merge_told, g_free);
    if (merged) {
        durable_close_homes(d);
        merge_done(d);
    }
    return TRUE;
}

/* *held: there are pins. */
static gboolean
merge_held(Durable *d, gboolean *held, GError **error)
{
    if (!ckpt_store_is_held(d->store, held, error))
        return FALSE;
    if (*held)
        durable_close_homes(d);
    return TRUE;
}

gboolean
durable_merge_slice(Durable *d, uint64_t budget, bool *idle, GError **error)
{
    CkptStorePruned pruned = {0};
    gboolean merged = FALSE, held = FALSE, indexed;
    uint64_t root = 0;

    /* It is looked at again after a while. */
    *idle = ckpt_store_is_read(d->store);
    if (*idle)
        return TRUE;
    if (!ckpt_store_root(d->store, &root, &merged, error) || !merge_held(d, &held, error))
        return FALSE;
    if (root != 0 && !merged && !held && g_get_monotonic_time() >= d->merge_again_us)
        return merge_root(d, budget, error);
    if (!ckpt_store_prune(d->store, &d->keep, budget, &pruned, error))
        return FALSE;
    *idle = pruned.done;
    if (!*idle)
        return TRUE;
    if (!ckpt_store_index_some(d->store, budget, &indexed, error))
        return FALSE;
    *idle = indexed;
    return TRUE;
}
