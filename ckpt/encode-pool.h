/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Worker threads that encode items of sinks.
 *
 * Theory of operation. Items queue by shard. A shard is served by one worker at a time, whichever is free,
 * so the items of a shard are encoded in the order in which they came, and no two workers ever touch the
 * hashes and caches of the same pages. How many workers are at it at once is bounded by what the sinks wish
 * for: the highest wish counts. So a link that one worker can fill leaves the other CPUs to the guests.
 */
#ifndef DISTRICT_CKPT_ENCODE_POOL_H
#define DISTRICT_CKPT_ENCODE_POOL_H

#include "ckpt/sink.h"

#define ENCODE_WORKERS_MAX 4
/* Pages of one shard lie in runs of 16 MiB. */
#define ENCODE_SHARD_SHIFT 12

/* workers: of the pool, and shards, 1 to ENCODE_WORKERS_MAX; 0: one fewer than there are CPUs. */
EncodePool *encode_pool_new(unsigned workers);
/* Nothing may be queued any more. */
void encode_pool_free(EncodePool *pool);

unsigned encode_pool_shards(const EncodePool *pool);
unsigned encode_pool_shard_of(const EncodePool *pool, uint64_t page);
void encode_pool_push(EncodePool *pool, unsigned shard, SinkItem *item);

/* A sink lives until its thread has ended: it uses the pool from encode_pool_use to _leave. Its wish is that
 * all workers are at it, until it has another: 1 to encode_pool_shards(). */
void encode_pool_use(EncodePool *pool);
void encode_pool_wish(EncodePool *pool, unsigned wish_before, unsigned wish);
void encode_pool_leave(EncodePool *pool, unsigned last_wish);
/* Wait until no sink is left; false if one still is after timeout_ms. */
bool encode_pool_wait_unused(EncodePool *pool, int timeout_ms);

#endif
