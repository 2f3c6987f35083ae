/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Worker threads that encode items of sinks. */
#include "ckpt/encode-pool.h"

#define ENCODE_LEVEL_START 1

struct EncodePool {
    unsigned n_workers;
    GThread *threads[ENCODE_WORKERS_MAX];
    GAsyncQueue *queues[ENCODE_WORKERS_MAX];
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
