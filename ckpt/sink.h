/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sink: where epochs go, record by record - the standby's stream or a checkpoint file.
 *
 * Theory of operation. The coordinator queues items (EPOCH_BEGIN, batches of pages, STATE,
 * EPOCH_END) in the order of the format. Batches and STATE are encoded by the worker threads of an
 * EncodePool, in any order; the sink's own thread takes the items in the order in which they were
 * queued, waits for each to be encoded, and gives it sequence number, header and place in the
 * epoch's tally. So encoding is parallel and emission is ordered. Where the bytes go is the
 * transport's business (stream-out.h, file-out.h).
 *
 * Page hashes are the sink's: they say what this sink's reader has. All batches with the same page
 * are encoded by the same worker, in order (EncodePool shards by page), so a hash always tells of
 * the batch queued before. So does the cache of pages that deltas are made against, one per shard, and
 * without a lock. Only a stream has deltas, and duplicates (dedup.h): what is in a file must be readable
 * page by page. Each epoch is a scope of duplicates, and so is each pass of a full sync, as far
 * as pages come in ascending order.
 *
 * Blocks of disks go the same way without hashes, so any worker takes any batch. Workers read them
 * from the overlay's data file (common/diskindex.h) themselves, and not further ahead of the
 * emission than SINK_DISK_AHEAD_MAX batches: a slow reader costs memory for those only.
 *
 * A sink that has failed posts INBOX_SINK_CLOSED once and discards what is queued. Nobody waits for
 * a sink: sink_release lets its thread end on its own.
 */
#ifndef DISTRICT_CKPT_SINK_H
#define DISTRICT_CKPT_SINK_H

#include "ckpt/encode.h"
#include "ckpt/epoch.h"
#include "ckpt/inbox.h"
#include "common/diskindex.h"
#include "stream.pb-c.h"

typedef struct Sink Sink;
typedef struct SinkItem SinkItem;
typedef struct EncodePool EncodePool;

/* Of so many epochs, the last ones written, it is known how long they took. */
#define SINK_TIMES_KEPT 4
/* Of a member that is off: EPOCH_BEGIN does not list it. */
#define WIRE_INDEX_NONE UINT32_MAX

/* Where records go. All but interrupt are called on the sink's thread; all waits are bounded. */
typedef struct SinkTransport {
    /* Make it ready for the first record. */
    gboolean (*open)(void *opaque, GError **error);
    /* HELLO has been written: wait for the peer's. *held: the epoch the peer holds, 0 for none. */
    gboolean (*greet)(void *opaque, Sink *sink, uint64_t *held, GError **error);
    gboolean (*write)(void *opaque, const void *data, size_t len, GError **error);
    /* Everything is written: make it safe. bye: written as the last record if set. */
    gboolean (*finish)(void *opaque, GError **error);
    /* What the link has taken so far, bytes that the peer has acknowledged, and how long it had any to
     * send. NULL: what write takes counts. False: not known. */
    bool (*link)(void *opaque, uint64_t *bytes, int64_t *busy_ns);
    /* Make a blocked call fail soon; any thread. */
    void (*interrupt)(void *opaque);
    void (*free)(void *opaque);
    bool is_stream; /* heartbeats when idle, BYE at the end, level and threads follow the link */
} SinkTransport;

typedef struct SinkConfig {
    uint64_t id; /* for INBOX_* messages */
    const SinkTransport *transport;
    void *opaque; /* of the transport; owned by the sink from here on */
    Inbox *inbox;
    EncodePool *pool;
    const District__StreamHello *hello; /* copied */
    const uint64_t *n_pages_of;         /* RAM pages of each member; copied */
    const uint32_t *wire_index;         /* member -> index in EPOCH_BEGIN's list, or none; copied */
    uint32_t n_members;
    uint64_t cache_bytes; /* of a stream, for deltas; 0: none */
    int heartbeat_ms;     /* of a stream, when there is nothing else to send; 0: 100 */
} SinkConfig;

Sink *sink_new(const SinkConfig *config);
/*
 * Let go; the thread ends by itself. flush: after what is queued has been written (bounded by the
 * transport's own time limits), else at once.
 */
void sink_release(Sink *sink, bool flush);

uint64_t sink_id(const Sink *sink);

/* The first error wins and closes the sink; takes ownership of error. Any thread. */
void sink_fail(Sink *sink, GError *error);

/* ---- Queueing; coordinator only ---- */
void sink_begin(Sink *sink, const District__StreamEpochBegin *begin);
/* All pages of a frozen epoch, save of members that are off. full: the epoch starts from nothing. */
void sink_epoch_pages(Sink *sink, Epoch *epoch, uint64_t number, bool full);
/* A batch for a full sync: count pages of member, copied here. */
void sink_sync_pages(Sink *sink, uint64_t number, uint32_t member, const uint64_t *pages,
                     uint32_t count, const uint8_t *ram);
/*
 * Blocks of a disk, image wire_image of the epoch begun last, as of a cut: count entries of its
 * index (copied; any number), in their order, whose data is in data_fd (duplicated). The data must
 * stay as it is until done(opaque), which is called once, on any thread: nothing of it is read after
 * that, whatever becomes of the sink. What cannot be read fails the sink.
 */
void sink_disk_blocks(Sink *sink, uint64_t number, uint32_t wire_image, int data_fd,
                      const DiskIndexEntry *entries, uint32_t count, GDestroyNotify done,
                      gpointer opaque);
/* A batch for a full sync: count blocks of a disk, whose data (one after the other) is copied. */
void sink_sync_disk(Sink *sink, uint64_t number, uint32_t wire_image, const uint64_t *blocks,
                    uint32_t count, const uint8_t *data);
/* The packed CutState (taken over; compressed by a worker), then EPOCH_END. */
void sink_state_end(Sink *sink, uint64_t number, GByteArray *packed_state);
/* A JOURNAL record (copied): it goes out next, whatever else is queued. Streams only. */
void sink_journal(Sink *sink, const District__StreamJournal *record);
/* Finish after what is queued: INBOX_SINK_FINISHED follows. */
void sink_finish(Sink *sink);

/* Sync batches queued and not yet written. Each one written wakes the coordinator. */
unsigned sink_sync_outstanding(Sink *sink);

typedef struct SinkStats {
    EncodeStats pages;
    uint64_t bytes;     /* written, headers included */
    int level;          /* of zstd, now */
    unsigned threads;   /* that encode at once at most, now */
    int64_t emitted_ns; /* when the last item that was queued had been written */
} SinkStats;
SinkStats sink_stats(Sink *sink);

/* What it took to get an epoch out. */
typedef struct SinkEpochTimes {
    uint64_t number;   /* of the epoch */
    int64_t encode_ns; /* of all workers together */
    int64_t send_ns;   /* in writing its records: waiting for the link included */
} SinkEpochTimes;
/* FALSE: it has not been written yet, or SINK_TIMES_KEPT others have since. */
bool sink_epoch_times(Sink *sink, uint64_t number, SinkEpochTimes *times);

/* ---- For the EncodePool ---- */
void sink_item_encode(SinkItem *item, Encoder *encoder);

#endif
