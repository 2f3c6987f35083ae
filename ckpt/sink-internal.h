/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside sink*.c: what the queueing side and the sink's thread share. */
#ifndef DISTRICT_CKPT_SINK_INTERNAL_H
#define DISTRICT_CKPT_SINK_INTERNAL_H

#include "ckpt/sink.h"

/* One record to be. Coordinator, then worker, then the sink's thread own it. */
struct SinkItem {
    Sink *sink;
    RecordType type; /* RECORD_BYE stands for the finish */
    uint64_t number; /* epoch */
    bool ready;      /* encoded; under the sink's lock */
    bool sync;       /* counts in sync_outstanding */
    bool full;
    uint32_t member;
    uint32_t pages; /* in the record */
    uint32_t n_refs;
    PageRef *refs;      /* what to encode */
    uint8_t *copy;      /* owned pages behind refs; or they are in: */
    Epoch *epoch;       /* reference */
    GByteArray *record; /* RECORD_HEADER_BYTES of room, then the payload */
};

struct Sink {
    uint64_t id;
    const SinkTransport *transport;
    void *opaque;
    Inbox *inbox;
    EncodePool *pool;
    uint32_t n_members;
    uint32_t *wire_index;
    PageHashes **hashes;   /* workers, by shard */
    gint level;            /* atomic */
    gint sync_outstanding; /* atomic */
    GThread *thread;
    GByteArray *hello;

    GMutex lock; /* guards what follows, and items' ready */
    GCond cond;  /* the sink's thread waits on it */
    GQueue items;
    bool failed;
    bool released;
    bool flush; /* with released: write what is queued first */
    SinkStats stats;

    /* The sink's thread only. */
    uint64_t sequence;
    EpochTally tally;
    bool tally_open;
    int64_t encode_wait_ns; /* since the level was last looked at */
    int64_t write_ns;
    int64_t level_looked_ns;
};

/* Pack message behind room for a record header. */
GByteArray *sink_record_pack(const ProtobufCMessage *message);

gpointer sink_thread_run(gpointer sink);

#endif
