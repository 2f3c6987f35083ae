/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Worker threads that encode items of sinks. */
#include "ckpt/encode-pool.h"

#define ENCODE_LEVEL_START 1

struct EncodePool {
    unsigned n_workers;
    GThread *threads[ENCODE_WORKERS_MAX];
    GAsyncQueue *queues[ENCODE_WORKERS_MAX];

    GMutex lock; /* guards users */
    GCond cond;
    unsigned users;
};

/* What ends a worker. */
static char stop_mark;

static gpointer
worker_run(gpointer data)
{
    GAsyncQueue *queue = data;
    Encoder *encoder = encoder_new(ENCODE_LEVEL_START);
    gpointer item;

    while ((item = g_async_queue_pop(queue)) != &stop_mark)
        sink_item_encode(item, encoder);
    encoder_free(encoder);
    return NULL;
}

EncodePool *
encode_pool_new(void)
{
    EncodePool *pool = g_new0(EncodePool, 1);
    unsigned cpus = g_get_num_processors();

    pool->n_workers = CLAMP(cpus, 2, ENCODE_WORKERS_MAX + 1) - 1;
    g_mutex_init(&pool->lock);
    g_cond_init(&pool->cond);
    for (unsigned i = 0; i < pool->n_workers; i++) {
        pool->queues[i] = g_async_queue_new();
        pool->threads[i] = g_thread_new("encode", worker_run, pool->queues[i]);
    }
    return pool;
}

void
encode_pool_free(EncodePool *pool)
{
    for (unsigned i = 0; i < pool->n_workers; i++) {
        g_async_queue_push(pool->queues[i], &stop_mark);
        g_thread_join(pool->threads[i]);
        g_async_queue_unref(pool->queues[i]);
    }
    g_mutex_clear(&pool->lock);
    g_cond_clear(&pool->cond);
    g_free(pool);
}

unsigned
encode_pool_shards(const EncodePool *pool)
{
    return pool->n_workers;
}

unsigned
encode_pool_shard_of(const EncodePool *pool, uint64_t page)
{
    return (unsigned)((page >> ENCODE_SHARD_SHIFT) % pool->n_workers);
}

void
encode_pool_push(EncodePool *pool, unsigned shard, SinkItem *item)
{
    g_async_queue_push(pool->queues[shard], item);
}

void
encode_pool_use(EncodePool *pool)
{
    g_mutex_lock(&pool->lock);
    pool->users++;
    g_mutex_unlock(&pool->lock);
}

void
encode_pool_leave(EncodePool *pool)
{
    g_mutex_lock(&pool->lock);
    pool->users--;
    g_cond_broadcast(&pool->cond);
    g_mutex_unlock(&pool->lock);
}

bool
encode_pool_wait_unused(EncodePool *pool, int timeout_ms)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    bool in_time = true;

    g_mutex_lock(&pool->lock);
    while (pool->users > 0 && in_time)
        in_time = g_cond_wait_until(&pool->cond, &pool->lock, until);
    bool unused = pool->users == 0;
    g_mutex_unlock(&pool->lock);
    return unused;
}
