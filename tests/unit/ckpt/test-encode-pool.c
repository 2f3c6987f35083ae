/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Workers and shards, with items that only note who was at them and when. */
#include "ckpt/encode-pool.h"

#include <glib.h>

#define WORKERS 4
#define ITEMS 400
#define LIMIT_MS 20000

/* What items do, all together. */
typedef struct Work {
    EncodePool *pool;
    GMutex lock;
    GCond cond;
    unsigned at_once, most_at_once;
    unsigned in_shard[WORKERS]; /* workers that are at an item of the shard */
    unsigned next_of[WORKERS];  /* the number that its next item has */
    unsigned done;
    unsigned gate; /* items are held until so many are at it at once; 0: none is held */
} Work;

struct SinkItem {
    Work *work;
    unsigned shard, number;
};

/* The pool's, here for its test: sink.c is not linked. */
void
sink_item_encode(SinkItem *item, Encoder *encoder)
{
    Work *work = item->work;
    gint64 until = g_get_monotonic_time() + LIMIT_MS * G_TIME_SPAN_MILLISECOND;

    g_assert_nonnull(encoder);
    g_mutex_lock(&work->lock);
    g_assert_cmpuint(work->in_shard[item->shard]++, ==, 0);
    g_assert_cmpuint(work->next_of[item->shard]++, ==, item->number);
    work->at_once++;
    work->most_at_once = MAX(work->most_at_once, work->at_once);
    g_cond_broadcast(&work->cond);
    while (work->most_at_once < work->gate)
        g_assert_true(g_cond_wait_until(&work->cond, &work->lock, until));
    g_mutex_unlock(&work->lock);
    g_thread_yield();
    g_mutex_lock(&work->lock);
    work->at_once--;
    work->in_shard[item->shard]--;
    work->done++;
    g_cond_broadcast(&work->cond);
    g_mutex_unlock(&work->lock);
    g_free(item);
}

static void
set_up(Work *work, gconstpointer data)
{
    g_mutex_init(&work->lock);
    g_cond_init(&work->cond);
    work->pool = encode_pool_new(WORKERS);
}

static void
tear_down(Work *work, gconstpointer data)
{
    encode_pool_free(work->pool);
    g_mutex_clear(&work->lock);
    g_cond_clear(&work->cond);
}

/* Push so many items to each of the first shards, and wait for all of them. */
static void
work_through(Work *work, unsigned shards, unsigned items)
{
    gint64 until = g_get_monotonic_time() + LIMIT_MS * G_TIME_SPAN_MILLISECOND;
    unsigned done = work->done + shards * items;

    for (unsigned i = 0; i < items; i++) {
        for (unsigned shard = 0; shard < shards; shard++) {
            SinkItem *item = g_new(SinkItem, 1);
            *item = (SinkItem){work, shard, i};
            encode_pool_push(work->pool, shard, item);
        }
    }
    g_mutex_lock(&work->lock);
    while (work->done < done)
        g_assert_true(g_cond_wait_until(&work->cond, &work->lock, until));
    for (unsigned shard = 0; shard < shards; shard++) {
        g_assert_cmpuint(work->next_of[shard], ==, items);
        work->next_of[shard] = 0;
    }
    g_mutex_unlock(&work->lock);
}

static void
test_order(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    work_through(work, WORKERS, ITEMS);
    encode_pool_leave(work->pool, WORKERS);
}

static void
test_all_workers(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    work->gate = WORKERS;
    work_through(work, WORKERS, 1);
    g_assert_cmpuint(work->most_at_once, ==, WORKERS);
    encode_pool_leave(work->pool, WORKERS);
}

static void
test_one_shard(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    work_through(work, 1, ITEMS);
    g_assert_cmpuint(work->most_at_once, ==, 1);
    encode_pool_leave(work->pool, WORKERS);
}

static void
test_fewer(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    encode_pool_wish(work->pool, WORKERS, 2);
    work->gate = 2;
    work_through(work, WORKERS, ITEMS);
    g_assert_cmpuint(work->most_at_once, ==, 2);
    encode_pool_leave(work->pool, 2);
}

static void
test_more_again(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    encode_pool_wish(work->pool, WORKERS, 1);
    work_through(work, WORKERS, ITEMS);
    g_assert_cmpuint(work->most_at_once, ==, 1);
    encode_pool_wish(work->pool, 1, WORKERS);
    work->gate = WORKERS;
    work_through(work, WORKERS, 1);
    encode_pool_leave(work->pool, WORKERS);
}

/* Items that wait for their turn go on when the limit is lifted in the middle. */
static gpointer
lift(gpointer data)
{
    Work *work = data;
    gint64 until = g_get_monotonic_time() + LIMIT_MS * G_TIME_SPAN_MILLISECOND;

    g_mutex_lock(&work->lock);
    while (work->at_once < 1)
        g_assert_true(g_cond_wait_until(&work->cond, &work->lock, until));
    g_mutex_unlock(&work->lock);
    encode_pool_wish(work->pool, 1, WORKERS);
    return NULL;
}

static void
test_lifted_under_way(Work *work, gconstpointer data)
{
    GThread *lifter;

    encode_pool_use(work->pool);
    encode_pool_wish(work->pool, WORKERS, 1);
    work->gate = WORKERS;
    lifter = g_thread_new("lift", lift, work);
    work_through(work, WORKERS, 1);
    g_thread_join(lifter);
    encode_pool_leave(work->pool, WORKERS);
}

static void
test_highest_wish(Work *work, gconstpointer data)
{
    encode_pool_use(work->pool);
    encode_pool_use(work->pool);
    encode_pool_wish(work->pool, WORKERS, 1);
    work->gate = WORKERS;
    work_through(work, WORKERS, 1);
    encode_pool_leave(work->pool, WORKERS);
    /* The other one has left: what is left of wishes is 1. */
    work->gate = work->most_at_once = 0;
    work_through(work, WORKERS, ITEMS);
    g_assert_cmpuint(work->most_at_once, ==, 1);
    encode_pool_leave(work->pool, 1);
    g_assert_true(encode_pool_wait_unused(work->pool, LIMIT_MS));
}

#define ADD(name, test) g_test_add("/encode-pool/" name, Work, NULL, set_up, test, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("each shard's items are encoded in order, one at a time", test_order);
    ADD("shards are encoded by all workers at once", test_all_workers);
    ADD("a single shard has one worker at a time", test_one_shard);
    ADD("no more workers are at it than is wished for", test_fewer);
    ADD("workers come back when they are wished for again", test_more_again);
    ADD("a wish for more helps items that wait already", test_lifted_under_way);
    ADD("of two wishes the higher one counts", test_highest_wish);
    return g_test_run();
}
