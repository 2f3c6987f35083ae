/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A frozen epoch: what one cut took, immutable from then on, shared by the sinks it goes to. The
 * pool of stagings behind it is the back-pressure: no free staging, no cut.
 */
#ifndef DISTRICT_CKPT_EPOCH_H
#define DISTRICT_CKPT_EPOCH_H

#include "ckpt/inbox.h"
#include "ckpt/staging.h"
#include "ckpt/stats.h"

#include <stdbool.h>

/* Stagings of a district: the one being filled, two epochs in flight, one more for a file. */
#define STAGINGS_MAX 4

typedef struct StagingPool StagingPool;

/* All of them are made now, so that a cut does not fail for want of one; it is memory only once
 * filled. Of more than keep_pages per member it is given back after each epoch. NULL: error set. */
StagingPool *staging_pool_new(const uint64_t *n_pages_of, uint32_t n_members, uint64_t keep_pages,
                              Inbox *inbox, GError **error);
/* All stagings must have come back. */
void staging_pool_free(StagingPool *pool);
/* Is there a free one? Only the coordinator takes, so the answer stays true for it. */
bool staging_pool_ready(StagingPool *pool);
/* An empty staging; staging_pool_ready must have said so. */
Staging *staging_pool_take(StagingPool *pool);
/* Empty the staging being filled. */
void staging_pool_clear(StagingPool *pool, Staging *staging);
/* Give back, from any thread; wakes the coordinator. */
void staging_pool_give(StagingPool *pool, Staging *staging);

typedef struct EpochMember {
    GByteArray *state; /* the engine's blob; NULL until cut */
    int64_t stopped_ns;
    int64_t resumed_ns;
    int64_t phase_ns[MEASURE_PHASES]; /* set when it runs again */
    uint64_t residue_pages;
} EpochMember;

typedef struct Epoch {
    gatomicrefcount refs;
    StagingPool *pool;
    Staging *staging;
    uint64_t cut;        /* the cut's number, as district-net knows it */
    uint64_t number;     /* its number on the standby stream; 0: not for the stream */
    int64_t cut_ns;      /* CLOCK_MONOTONIC when the last member had stopped */
    int64_t realtime_ns; /* CLOCK_REALTIME of the same */
    uint32_t n_members;
    EpochMember *members;
    GByteArray *net; /* district-net's state */
} Epoch;

Epoch *epoch_new(uint32_t n_members);
Epoch *epoch_ref(Epoch *epoch);
/* The last reference gives the staging back to its pool. */
void epoch_unref(Epoch *epoch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Epoch, epoch_unref)

#endif
