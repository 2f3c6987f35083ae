/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frozen epochs and the pool of stagings. */
#include "ckpt/epoch.h"

struct StagingPool {
    uint64_t keep_pages;
    Inbox *inbox;
    GMutex lock;     /* guards idle */
    GPtrArray *idle; /* of Staging */
};

StagingPool *
staging_pool_new(const uint64_t *n_pages_of, uint32_t n_members, uint64_t keep_pages, Inbox *inbox,
                 GError **error)
{
    g_autoptr(GPtrArray) idle = g_ptr_array_new_with_free_func((GDestroyNotify)staging_free);

    for (guint i = 0; i < STAGINGS_MAX; i++) {
        Staging *staging = staging_new(n_pages_of, n_members, error);
        if (!staging)
            return NULL;
        g_ptr_array_add(idle, staging);
    }
    StagingPool *pool = g_new0(StagingPool, 1);
    g_mutex_init(&pool->lock);
    pool->keep_pages = keep_pages;
    pool->inbox = inbox;
    pool->idle = g_steal_pointer(&idle);
    return pool;
}

void
staging_pool_free(StagingPool *pool)
{
    g_ptr_array_unref(pool->idle);
    g_mutex_clear(&pool->lock);
    g_free(pool);
}

bool
staging_pool_ready(StagingPool *pool)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pool->lock);

    return pool->idle->len > 0;
}

Staging *
staging_pool_take(StagingPool *pool)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&pool->lock);

    return g_ptr_array_steal_index_fast(pool->idle, pool->idle->len - 1);
}

void
staging_pool_clear(StagingPool *pool, Staging *staging)
{
    staging_clear(staging, pool->keep_pages);
}

void
staging_pool_give(StagingPool *pool, Staging *staging)
{
    staging_pool_clear(pool, staging);
    g_mutex_lock(&pool->lock);
    g_ptr_array_add(pool->idle, staging);
    g_mutex_unlock(&pool->lock);
    inbox_wake(pool->inbox);
}

Epoch *
epoch_new(uint32_t n_members)
{
    Epoch *epoch = g_new0(Epoch, 1);

    g_atomic_ref_count_init(&epoch->refs);
    epoch->n_members = n_members;
    epoch->members = g_new0(EpochMember, n_members);
    return epoch;
}

Epoch *
epoch_ref(Epoch *epoch)
{
    g_atomic_ref_count_inc(&epoch->refs);
    return epoch;
}

void
epoch_unref(Epoch *epoch)
{
    if (!g_atomic_ref_count_dec(&epoch->refs))
        return;
    if (epoch->staging)
        staging_pool_give(epoch->pool, epoch->staging);
    for (uint32_t i = 0; i < epoch->n_members; i++)
        g_clear_pointer(&epoch->members[i].state, g_byte_array_unref);
    g_clear_pointer(&epoch->net, g_byte_array_unref);
    g_free(epoch->members);
    g_free(epoch);
}
