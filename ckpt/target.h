/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A target: the coordinator's view of one sink, above all of its full sync.
 *
 * Theory of operation. A sink starts from nothing. Its `pending` bitmaps have the pages that it
 * must still get: at first all that hold data (holes of a RAM memfd read as zero, and the reader
 * starts from zero pages). While guests run, pending pages are copied from live RAM in batches and
 * sent; pages harvested dirty become pending again. When so few are left that they may as well be
 * staged, or when further passes do not help because the guests dirty faster than we copy, the rest
 * goes to the staging of the epoch under way and the target is COMPLETING: the next cut completes
 * its full epoch. A copy torn by a running guest does no harm: the page is harvested again before
 * the cut.
 *
 * Numbers. EPOCH_BEGIN, and the header of every record, carry the epoch's number, and a full sync
 * begins long before its cut. So a number is taken from the district's one counter when an epoch is
 * begun, for the sink it is begun on, and never used again: numbers on one sink grow, but may skip
 * those that were taken for another sink meanwhile. One cut that completes a checkpoint file and
 * also feeds the stream has a different number on each.
 */
#ifndef DISTRICT_CKPT_TARGET_H
#define DISTRICT_CKPT_TARGET_H

#include "ckpt/control-server.h"
#include "ckpt/disk-sync.h"
#include "ckpt/sink.h"

struct Coordinator;

/* Batches of a full sync queued and not yet written: bounds memory to as many MiB. */
#define SYNC_BATCHES_MAX 8
#define SYNC_PASSES_MAX 12
/* Few enough to be staged: 16 MiB. */
#define SYNC_RESIDUE_PAGES 4096

typedef enum {
    TARGET_OPENING,    /* its sink is not up yet, or homes of disks are still counted */
    TARGET_SYNCING,    /* full sync under way */
    TARGET_COMPLETING, /* the next cut completes its full epoch */
    TARGET_STEADY,     /* every cut goes to it (stream) */
    TARGET_FINISHING,  /* its one epoch is queued (file) */
} TargetPhase;

typedef struct Target {
    Sink *sink;
    TargetPhase phase;
    uint64_t number; /* of its full epoch */
    uint32_t n_members;
    size_t *words;
    uint64_t **pending; /* per member; NULL before and after the sync */
    uint64_t total;     /* pages pending at the start */
    uint32_t at_member; /* where the pass is */
    size_t at_word;
    unsigned passes;
    uint64_t left_before;    /* pending at the end of the pass before */
    bool up;                 /* stream: its sink is */
    DiskSync *disk_sync;     /* stream: homes of the disks, until all has been sent */
    ControlRequest *request; /* file: to be answered; owned */
} Target;

/* Around sink (taken over). */
Target *target_new(struct Coordinator *c, Sink *sink);
/* Release the sink too; flush as in sink_release. */
void target_free(Target *target, bool flush);

/* Begin the full epoch: take a number, queue EPOCH_BEGIN, mark what is pending. */
void target_begin(struct Coordinator *c, Target *target);

/* Bits of word of member's bitmap were harvested dirty. */
static inline void
target_dirty(Target *target, uint32_t member, size_t word, uint64_t bits)
{
    if (target && target->phase == TARGET_SYNCING)
        target->pending[member][word] |= bits;
}

/* Copy and queue batches while there is room for them; ends the sync when it has converged. */
void target_tick(struct Coordinator *c, Target *target);

uint64_t target_pending(const Target *target);

/* Does the next cut go to it? */
static inline bool
target_takes_cut(const Target *target)
{
    return target && (target->phase == TARGET_COMPLETING || target->phase == TARGET_STEADY);
}

#endif
