/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Durable checkpoints: from the epochs of a running district to its store.
 *
 * Theory of operation. A durable checkpoint is one of the cuts that are made anyway, with all that
 * has changed since the durable checkpoint before it. The *gatherer* thread copies the pages of
 * each epoch out of its staging, which it gives back at once, into the gathering: per page the
 * newest content. Of disks nothing is copied: the engine leaves their frozen data alone until it is
 * released. At a durable cut the gathering changes hands: the *writer* thread encodes it into a
 * file of the store, which was prepared ahead of time, syncs the file, and has it committed; an
 * empty gathering takes its place. There are two, so one durable cut can be written while the next
 * is gathered, and no cut ever waits for the store.
 *
 * What cannot be written stays the writer's, is tried again every few seconds, and can be committed
 * as late as that: nothing is lost, only the next durable cut has to wait. Between checkpoints the
 * writer merges the oldest one into base images and homes, throttled, and prunes.
 *
 * The first checkpoint of an engine's life, unless it goes on from one in the store, must have all
 * of RAM: the coordinator sends it through a sink (target.h) into a prepared file.
 *
 * Threads: all calls are the coordinator's; news comes back through its inbox as INBOX_DURABLE_*.
 */
#ifndef DISTRICT_CKPT_DURABLE_H
#define DISTRICT_CKPT_DURABLE_H

#include "ckpt/epoch.h"
#include "ckpt/inbox.h"
#include "ckpt/member-disk.h"
#include "ckpt/store.h"

typedef struct Durable Durable;

typedef struct DurableConfig {
    const char *dir; /* of the store */
    const char *district;
    const char *host;
    CkptStorePolicy keep;
    uint64_t merge_rate; /* bytes per second for merging and pruning */
    Inbox *inbox;
    const uint64_t *n_pages_of; /* RAM pages of each member; copied */
    uint32_t n_members;
} DurableConfig;

/* Opens the store, making it if need be. NULL with error set. */
Durable *durable_new(const DurableConfig *config, GError **error);
/* What is gathered or being written is given up; a write that hangs in the kernel is waited for no
 * longer than timeout_ms. FALSE: it still hangs, nothing was freed, leave at once. */
bool durable_free(Durable *durable, int timeout_ms);

CkptStore *durable_store(Durable *durable);

/* A disk with an overlay, as the store sees it. */
typedef struct DurableDisk {
    uint32_t member;
    unsigned number; /* among the member's disks with an overlay */
    MemberDisk disk; /* our own */
} DurableDisk;

/*
 * The members' disks as they are now; taken over. Once for the life of the engines, before the
 * first cut. from_id: the checkpoint in the store which that life goes on from, 0: none.
 */
void durable_begin(Durable *durable, DurableDisk *disks, uint32_t n_disks, uint64_t from_id);

/* Which entries of a disk's index a checkpoint has, and the cut they end with. */
typedef struct DurableRange {
    uint32_t image; /* on the wire */
    uint64_t from, to;
    uint64_t cut;
} DurableRange;

/* A durable cut. Owned by whoever holds it; all pointers are the cut's own. */
typedef struct DurableCut {
    uint64_t number; /* of its epoch */
    uint64_t incarnation;
    int64_t realtime_ns;
    uint64_t parent_id;
    bool full;            /* through a sink: only what follows is used then */
    char *label;          /* or NULL */
    GByteArray *begin;    /* packed StreamEpochBegin */
    GByteArray *state;    /* packed CutState */
    uint32_t *wire_index; /* of each member's RAM; UINT32_MAX: it has none in this epoch */
    DurableRange *ranges; /* of each disk given to durable_begin */
} DurableCut;
void durable_cut_free(DurableCut *cut);

/* Gather the pages of a frozen epoch; forget what has been gathered. In the order of the calls. */
void durable_gather(Durable *durable, Epoch *epoch);
void durable_gather_clear(Durable *durable);

/* Would the writer take a cut now? It then does until durable_write has been called. */
bool durable_ready(Durable *durable);
/* Write all that has been gathered so far as cut (taken over). INBOX_DURABLE_DONE follows, perhaps
 * after some INBOX_DURABLE_FAILED. */
void durable_write(Durable *durable, DurableCut *cut);

/* A prepared file for a sink: its number, and a descriptor that is the caller's. FALSE: there is
 * none now. Only while durable_ready. */
bool durable_take_file(Durable *durable, uint64_t *id, int *fd);
/* The sink has completed and synced the file (cut is taken over): commit; INBOX_DURABLE_DONE
 * follows. Or it has failed (cut NULL): discard. */
void durable_file_done(Durable *durable, uint64_t id, DurableCut *cut);

/*
 * Pin a checkpoint or release it, as request (a client's CkptPinRequest, taken over) says, and answer:
 * soon, or when the writer can go on. When a pin is told of, the homes do not change any more.
 */
struct ControlRequest;
void durable_pin(Durable *durable, struct ControlRequest *request);

/* Cuts of disk i below which the home has everything, durably. */
uint64_t durable_home_below(Durable *durable, uint32_t i);

/* The home of disk i has another name from now on: its engine has ended. */
void durable_set_home(Durable *durable, uint32_t i, const char *home);

typedef struct DurableStats {
    uint64_t checkpoints; /* committed since the start */
    uint64_t bytes;       /* written for them */
    uint64_t last_bytes;
    int64_t last_realtime_ns;
    uint64_t last_id;
    uint64_t gathered_pages;
    char error[256]; /* why the writer cannot go on; empty: it can */
} DurableStats;
void durable_stats(Durable *durable, DurableStats *stats);

#endif
