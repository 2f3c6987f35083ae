/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Worker threads that encode items of sinks. */
#include "ckpt/encode-pool.h"

#define ENCODE_LEVEL_START 1

typedef struct Shard {
    GQueue items;
    bool served;  /* a worker is at one of its items */
    GList in_due; /* its place in EncodePool.due, while it has items and is not served */
} Shard;

struct EncodePool {
    unsigned n_workers; /* and shards */
    GThread *threads[ENCODE_WORKERS_MAX];

    GMutex lock;    /* guards what follows */
    GCond due_cond; /* workers wait on it */
    GCond unused_cond;
    Shard shards[ENCODE_WORKERS_MAX];
    GQueue due; /* of Shard, the one that has waited longest first */
    unsigned busy;
    unsigned users;
    unsigned wishes[ENCODE_WORKERS_MAX + 1]; /* users that wish for so many workers */
    bool stop;
};

/* How many workers may be at it. With the lock. */
static unsigned
pool_limit(const EncodePool *pool)
{
    unsigned most = pool->n_workers;

    while (most > 1 && pool->wishes[most] == 0)
        most--;
    return pool->users == 0 ? pool->n_workers : most;
}

/* With the lock, as all that follow. */
static void
pool_wake(EncodePool *pool)
{
    if (!g_queue_is_empty(&pool->due) && pool->busy < pool_limit(pool))
        g_cond_signal(&pool->due_cond);
}

static void
shard_due(EncodePool *pool, Shard *shard)
{
    g_queue_push_tail_link(&pool->due, &shard->in_due);
    pool_wake(pool);
}

/* The shard to serve next; NULL: it is over. */
static Shard *
worker_next(EncodePool *pool)
{
    while (!pool->stop && (g_queue_is_empty(&pool->due) || pool->busy >= pool_limit(pool)))
        g_cond_wait(&pool->due_cond, &pool->lock);
    if (pool->stop)
        return NULL;
    return g_queue_pop_head_link(&pool->due)->data;
}

static gpointer
worker_run(gpointer data)
{
    EncodePool *pool = data;
    Encoder *encoder = encoder_new(ENCODE_LEVEL_START);
    Shard *shard;

    g_mutex_lock(&pool->lock);
    while ((shard = worker_next(pool)) != NULL) {
        SinkItem *item = g_queue_pop_head(&shard->items);

        shard->served = true;
        pool->busy++;
        pool_wake(pool);
        g_mutex_unlock(&pool->lock);
        sink_item_encode(item, encoder);
        g_mutex_lock(&pool->lock);
        pool->busy--;
        shard->served = false;
        if (!g_queue_is_empty(&shard->items))
            shard_due(pool, shard);
    }
    g_mutex_unlock(&pool->lock);
    encoder_free(encoder);
    return NULL;
}

EncodePool *
encode_pool_new(unsigned workers)
{
    EncodePool *pool = g_new0(EncodePool, 1);

    if (workers == 0)
        workers = MAX(g_get_num_processors(), 2) - 1;
    pool->n_workers = MIN(workers, ENCODE_WORKERS_MAX);
    g_mutex_init(&pool->lock);
    g_cond_init(&pool->due_cond);
    g_cond_init(&pool->unused_cond);
    g_queue_init(&pool->due);
    for (unsigned i = 0; i < pool->n_workers; i++) {
        g_queue_init(&pool->shards[i].items);
        pool->shards[i].in_due.data = &pool->shards[i];
    }
    for (unsigned i = 0; i < pool->n_workers; i++)
        pool->threads[i] = g_thread_new("encode", worker_run, pool);
    return pool;
}

void
encode_pool_free(EncodePool *pool)
{
    g_mutex_lock(&pool->lock);
    pool->stop = true;
    g_cond_broadcast(&pool->due_cond);
    g_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->n_workers; i++)
        g_thread_join(pool->threads[i]);
    g_mutex_clear(&pool->lock);
    g_cond_clear(&pool->due_cond);
    g_cond_clear(&pool->unused_cond);
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
encode_pool_push(EncodePool *pool, unsigned shard_index, SinkItem *item)
{
    Shard *shard = &pool->shards[shard_index];

    g_mutex_lock(&pool->lock);
    g_queue_push_tail(&shard->items, item);
    if (!shard->served && g_queue_get_length(&shard->items) == 1)
        shard_due(pool, shard);
    g_mutex_unlock(&pool->lock);
}

void
encode_pool_use(EncodePool *pool)
{
    g_mutex_lock(&pool->lock);
    pool->users++;
    pool->wishes[pool->n_workers]++;
    pool_wake(pool);
    g_mutex_unlock(&pool->lock);
}

void
encode_pool_wish(EncodePool *pool, unsigned wish_before, unsigned wish)
{
    g_mutex_lock(&pool->lock);
    pool->wishes[wish_before]--;
    pool->wishes[wish]++;
    /* Each worker that starts wakes the next one. */
    pool_wake(pool);
    g_mutex_unlock(&pool->lock);
}

void
encode_pool_leave(EncodePool *pool, unsigned last_wish)
{
    g_mutex_lock(&pool->lock);
    pool->users--;
    pool->wishes[last_wish]--;
    g_cond_broadcast(&pool->unused_cond);
    g_mutex_unlock(&pool->lock);
}

bool
encode_pool_wait_unused(EncodePool *pool, int timeout_ms)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    bool in_time = true;

    g_mutex_lock(&pool->lock);
    while (pool->users > 0 && in_time)
        in_time = g_cond_wait_until(&pool->unused_cond, &pool->lock, until);
    bool unused = pool->users == 0;
    g_mutex_unlock(&pool->lock);
    return unused;
}
