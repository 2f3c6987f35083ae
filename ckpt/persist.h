/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The coordinator's side of durable checkpoints (durable.h): when one is due, what it has, and what
 * the engines are told when it has been committed. Coordinator thread only.
 */
#ifndef DISTRICT_CKPT_PERSIST_H
#define DISTRICT_CKPT_PERSIST_H

#include "ckpt/durable.h"

struct Coordinator;

/* persist.c has the allowed moves. */
typedef enum {
    PERSIST_IDLE,    /* members do not run, or nothing durable is wanted */
    PERSIST_WANTED,  /* the next durable checkpoint needs all of RAM, and has not begun */
    PERSIST_SYNCING, /* a full one is under way */
    PERSIST_STEADY,  /* what changes is gathered */
    PERSIST_STATES,
} PersistState;

/* How members came to run. */
typedef enum {
    PERSIST_FROM,    /* from parent_id: RAM and overlays are what it has */
    PERSIST_BOOTED,  /* from their kernels; overlays are what parent_id has */
    PERSIST_ADOPTED, /* what their overlays have beside the homes is not known to be in the store */
} PersistOrigin;

typedef struct Persist {
    Durable *durable;
    char *dir;
    PersistState state;
    int64_t every_ns;  /* INT64_MAX: only when asked for */
    int64_t next_ns;   /* when one is due */
    int64_t resend_ns; /* when to ask engines again for what the store may lack */
    uint64_t parent_id;
    uint64_t parent_epoch;
    /* The one under way, of which there is one at a time. */
    uint64_t writing;    /* its epoch; 0: none */
    GQueue requests;     /* of ControlRequest: wait for it */
    struct Target *full; /* its sink, while SYNCING */
    uint64_t full_id;
    char *full_label;      /* said in its HELLO; NULL: none */
    DurableCut *full_cut;  /* once it has been cut */
    GQueue waiting;        /* of ControlRequest: wait for the next one */
    bool final;            /* a last one is wanted as soon as possible */
    uint64_t final_number; /* its epoch, once it has been cut */
    bool final_done;
} Persist;

typedef struct PersistConfig {
    const char *dir; /* NULL: no store */
    int64_t every_ns;
    CkptStorePolicy keep;
    uint64_t merge_rate; /* bytes per second */
} PersistConfig;

/* Open the store. TRUE without one if config->dir is NULL. */
gboolean persist_open(struct Coordinator *c, const PersistConfig *config, GError **error);
/* FALSE: the store's disk hangs. */
bool persist_close(struct Coordinator *c);

/*
 * Members are about to run. parent_id, parent_epoch: the checkpoint that the next one builds on; 0:
 * none. "What it has" of an overlay is what the home may not have.
 */
gboolean persist_begin(struct Coordinator *c, uint64_t parent_id, uint64_t parent_epoch,
                       PersistOrigin origin, GError **error);

void persist_tick(struct Coordinator *c, int64_t now);
/* When persist_tick or a cut is due next. */
int64_t persist_deadline(const struct Coordinator *c, int64_t now);
/* Is a durable cut due, and possible? */
bool persist_cut_due(const struct Coordinator *c, int64_t now);
/* Are harvested pages to be staged, and is it time to harvest, for a durable cut? */
bool persist_stages(const struct Coordinator *c);
bool persist_harvests(const struct Coordinator *c, int64_t now);

/* A frozen epoch: gather it, or make it durable. */
void persist_take(struct Coordinator *c, Epoch *epoch);

/* INBOX_DURABLE_*, and what the sink of a full checkpoint says. */
void persist_done(struct Coordinator *c, uint64_t id);
void persist_failed(struct Coordinator *c, const GError *why);
void persist_full_up(struct Coordinator *c);
void persist_full_finished(struct Coordinator *c);
void persist_full_closed(struct Coordinator *c, const char *why);

/* A member is in epochs no more: what is gathered does not fit the next checkpoint. */
void persist_members_changed(struct Coordinator *c);

/* A guest with disks has powered itself off: its last writes are nowhere but here. Make them durable
 * as soon as possible. */
void persist_soon(struct Coordinator *c);

/* The end is near: make a last checkpoint of the disks. FALSE: there is nothing to save. */
bool persist_final(struct Coordinator *c);
bool persist_final_over(const struct Coordinator *c);

/* A client wants a checkpoint kept, or does not any more. */
void persist_pin(struct Coordinator *c, struct ControlRequest *request);
/* A client wants one now. */
void persist_request(struct Coordinator *c, struct ControlRequest *request);

#endif
