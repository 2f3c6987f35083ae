/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Worker threads that encode items of sinks; each has its own queue, so order within a shard is
 * kept. */
#ifndef DISTRICT_CKPT_ENCODE_POOL_H
#define DISTRICT_CKPT_ENCODE_POOL_H

#include "ckpt/sink.h"

#define ENCODE_WORKERS_MAX 4
/* Pages of one shard lie in runs of 16 MiB. */
#define ENCODE_SHARD_SHIFT 12

/* One worker fewer than there are CPUs, 1 to ENCODE_WORKERS_MAX. */
EncodePool *encode_pool_new(void);
/* Nothing may be queued any more. */
void encode_pool_free(EncodePool *pool);

unsigned encode_pool_shards(const EncodePool *pool);
unsigned encode_pool_shard_of(const EncodePool *pool, uint64_t page);
void encode_pool_push(EncodePool *pool, unsigned shard, SinkItem *item);

/* A sink lives until its thread has ended: it uses the pool from encode_pool_use to _leave. */
void encode_pool_use(EncodePool *pool);
void encode_pool_leave(EncodePool *pool);
/* Wait until no sink is left; false if one still is after timeout_ms. */
bool encode_pool_wait_unused(EncodePool *pool, int timeout_ms);

#endif
