/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside durable*.c. */
#ifndef DISTRICT_CKPT_DURABLE_INTERNAL_H
#define DISTRICT_CKPT_DURABLE_INTERNAL_H

#include "ckpt/durable.h"
#include "ckpt/encode.h"
#include "ckpt/staging.h"

/* What the writer is asked to do. */
typedef enum {
    WRITE_GATHERED, /* encode and commit cut */
    WRITE_FILE,     /* commit the file that a sink has written for cut */
    WRITE_DISCARD,  /* give up the file that a sink has failed to write */
} WriteKind;

typedef struct WriteJob {
    WriteKind kind;
    uint64_t id;     /* of the file, if a sink had it */
    DurableCut *cut; /* owned; NULL for WRITE_DISCARD */
    Staging *pages;  /* the gathering, for WRITE_GATHERED */
} WriteJob;

/* What the gatherer is asked to do, in order. */
typedef struct GatherJob {
    Epoch *epoch;    /* copy its pages, or: */
    DurableCut *cut; /* hand the gathering to the writer as this, or neither: forget it */
} GatherJob;

struct Durable {
    char *district;
    char *host;
    CkptStore *store;
    CkptStorePolicy keep;
    uint64_t merge_rate;
    Inbox *inbox;
    uint32_t n_members;

    DurableDisk *disks; /* the names of their homes are guarded by the lock */
    uint32_t n_disks;

    GThread *gatherer;
    gint gatherer_ended; /* atomic */
    Staging *gathering;  /* the gatherer's */

    GThread *writer;
    gint writer_ended; /* atomic */
    /* The writer's. */
    Encoder *encoder;
    PageHashes **hashes; /* of each member: what the last commit left in the store */
    uint64_t *n_pages_of;
    CkptStoreHome *homes;  /* of each disk, while a merge has them open */
    gint64 merge_again_us; /* when to try after a failure */
    char *merge_told;      /* of a home out of reach; NULL: none since a merge worked */
    GHashTable *cuts_of;   /* checkpoint id -> uint64_t[n_disks], the cut of each disk */

    GMutex lock; /* guards what follows */
    GCond cond;
    bool stop; /* also read without the lock, atomically */
    GQueue gather_jobs;
    GQueue pins;       /* of ControlRequest: for the writer */
    Staging *spare;    /* empty; NULL: the writer has it */
    WriteJob *write;   /* what the writer is to do or does */
    bool write_taken;  /* by durable_take_file, until durable_file_done */
    uint64_t prepared; /* number of the prepared file, 0: none */
    int prepared_fd;
    uint64_t *home_below; /* of each disk */
    DurableStats stats;
};

void durable_post(Durable *durable, InboxKind kind, uint64_t number, GError *error);

/* durable-write.c */
gpointer durable_writer_run(gpointer data);
void write_job_free(WriteJob *job);

/* durable-file.c: one checkpoint as a file. */
typedef struct CheckpointFileInfo {
    uint64_t id;
    uint64_t ram_pages;
    uint64_t disk_blocks;
    uint64_t bytes;
} CheckpointFileInfo;
/* Write and sync. job: WRITE_GATHERED. FALSE with error set: the file is worthless. */
gboolean durable_file_write(Durable *durable, const WriteJob *job, int fd, CheckpointFileInfo *info,
                            GError **error);

/* durable-merge.c: a slice of merging and pruning. *idle: nothing is left to do. */
gboolean durable_merge_slice(Durable *durable, uint64_t budget, bool *idle, GError **error);
/* What is in the caches of a qemu-nbd goes to its image. */
gboolean durable_flush_homes(Durable *durable, GError **error);
/* At the end. */
void durable_close_homes(Durable *durable);

/* durable-pin.c: the writer. FALSE: there was nothing to do. */
bool durable_do_pin(Durable *durable);
/* At the end. */
void durable_refuse_pins(Durable *durable);

#endif
