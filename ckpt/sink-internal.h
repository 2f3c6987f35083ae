/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside sink*.c: what the queueing side and the sink's thread share. */
#ifndef DISTRICT_CKPT_SINK_INTERNAL_H
#define DISTRICT_CKPT_SINK_INTERNAL_H

#include "ckpt/level.h"
#include "ckpt/sink.h"

/* Batches of blocks, 1 MiB each, that are read ahead of the emission. */
#define SINK_DISK_AHEAD_MAX 32

/* Where a call's blocks are read from; shared by its batches. */
typedef struct DiskSource DiskSource;

/* One record to be. Coordinator, then worker, then the sink's thread own it. */
struct SinkItem {
    Sink *sink;
    RecordType type; /* RECORD_BYE stands for the finish */
    uint64_t number; /* epoch */
    bool ready;      /* encoded; under the sink's lock */
    bool sync;       /* counts in sync_outstanding */
    bool full;
    bool disk;
    uint32_t image;     /* as EPOCH_BEGIN counts them */
    PageHashes *hashes; /* of a member's RAM; NULL for a disk */
    EncodeMemory memory;
    uint32_t pages;    /* in the record */
    int64_t encode_ns; /* that the worker took */
    uint32_t n_refs;
    PageRef *refs;      /* what to encode */
    uint8_t *copy;      /* owned pages behind refs; or they are in: */
    Epoch *epoch;       /* reference */
    DiskSource *source; /* reference; with it refs and copy come to be in the worker */
    DiskIndexEntry *entries;
    GByteArray *record; /* RECORD_HEADER_BYTES of room, then the payload */
};

struct Sink {
    uint64_t id;
    const SinkTransport *transport;
    void *opaque;
    Inbox *inbox;
    EncodePool *pool;
    uint32_t n_members;
    int heartbeat_ms;
    uint32_t *wire_index;
    PageHashes **hashes;   /* workers, by shard */
    PageCache **caches;    /* likewise, one per shard; NULL: a file, which has no deltas */
    Dedup *dedup;          /* NULL like caches */
    gint level;            /* atomic */
    gint threads;          /* atomic: what the sink wishes of the pool */
    gint sync_outstanding; /* atomic */
    GThread *thread;
    GByteArray *hello;

    /* The coordinator's: when pages are sent, for dedup; and the last page queued of a full sync. */
    DedupTime now;
    DedupPage sync_at;

    /* The coordinator's too: disks of the epoch begun last; the first one is image n_ram. */
    uint32_t n_ram, n_disks;
    char **disk_names; /* NULL-terminated */
    uint64_t *disk_bytes;

    GMutex lock; /* guards what follows, and items' ready */
    GCond cond;  /* the sink's thread waits on it */
    GQueue items;
    GQueue urgent;        /* of SinkItem, ready: before all of items */
    GQueue disks_waiting; /* of them, batches that no worker has been given yet */
    unsigned disks_ahead; /* batches given to workers and not yet emitted */
    unsigned next_worker;
    bool failed;
    bool released;
    bool flush; /* with released: write what is queued first */
    SinkStats stats;
    SinkEpochTimes written[SINK_TIMES_KEPT]; /* a ring */
    unsigned n_written;
    int64_t encode_ns; /* of all batches so far */

    /* The sink's thread only. */
    uint64_t sequence;
    EpochTally tally;
    bool tally_open;
    SinkEpochTimes times; /* of the epoch being written */
    int64_t write_ns;     /* that writing has taken so far */
    Level zstd;
    LevelSample looked; /* all that had been done when it was last looked at */
    int64_t looked_ns;
};

SinkItem *sink_item_new(Sink *sink, RecordType type, uint64_t number);
/* Queue a batch; from here on it belongs to its worker, then to the sink's thread. */
void sink_queue_batch(Sink *sink, SinkItem *item, unsigned shard);
/* The same of pages of RAM, which are encoded with what the sink remembers. */
void sink_queue_pages(Sink *sink, SinkItem *item, unsigned shard);

/* ---- sink-disk.c ---- */
/* Note the disks of an epoch. */
void sink_disk_begin(Sink *sink, const District__StreamEpochBegin *begin);
void sink_disk_clear(Sink *sink);
/* Read what the item's entries name; FALSE: the sink has failed. On a worker. */
gboolean sink_disk_read(SinkItem *item);
void disk_source_unref(DiskSource *source);
/* A batch of blocks has left the queue: the next one may be read. */
void sink_disk_left(Sink *sink);

/* What is queued is still to be written; once FALSE it stays so. Any thread. */
bool sink_usable(Sink *sink);
/* Pack message behind room for a record header. */
GByteArray *sink_record_pack(const ProtobufCMessage *message);

gpointer sink_thread_run(gpointer sink);

#endif
