/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sinks: the thread that emits records in order. */
#include "ckpt/encode-pool.h"
#include "ckpt/sink-internal.h"

#include "common/clock.h"
#include "common/trace.h"

#define PACE_LOOK_NS (NS_PER_S / 4)

static void
sink_item_free(SinkItem *item)
{
    g_clear_pointer(&item->record, g_byte_array_unref);
    g_free(item->refs);
    g_free(item->copy);
    g_clear_pointer(&item->epoch, epoch_unref);
    g_free(item);
}

/*
 * The next item once it is ready, NULL when there was none for until_ns (heartbeat), or on release.
 * When the sink has failed, items are still taken, and still only when their worker is done.
 */
static SinkItem *
sink_thread_next(Sink *sink, int64_t until_us)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    for (;;) {
        SinkItem *head = g_queue_peek_head(&sink->items);
        if (!g_queue_is_empty(&sink->urgent))
            return g_queue_pop_head(&sink->urgent);
        if (head && head->ready)
            return g_queue_pop_head(&sink->items);
        if (!head && sink->released)
            return NULL;
        if (!g_cond_wait_until(&sink->cond, &sink->lock, until_us))
            return NULL;
    }
}

/* All that has been done so far. */
static LevelSample
sink_thread_done(Sink *sink)
{
    LevelSample done;

    g_mutex_lock(&sink->lock);
    done = (LevelSample){
        .plain_bytes = sink->stats.pages.plain_bytes,
        .encoded_bytes = sink->stats.pages.encoded_bytes,
        .encode_ns = sink->encode_ns,
        .link_bytes = sink->stats.bytes,
        .link_ns = sink->write_ns,
    };
    g_mutex_unlock(&sink->lock);
    if (sink->transport->link &&
        !sink->transport->link(sink->opaque, &done.link_bytes, &done.link_ns)) {
        done.link_bytes = sink->looked.link_bytes;
        done.link_ns = sink->looked.link_ns;
    }
    return done;
}

/* Follow what the link and the encoder can do (level.h). */
static void
sink_thread_adapt(Sink *sink)
{
    int64_t now = clock_monotonic_ns();
    LevelSample done, sample;

    if (now - sink->looked_ns < PACE_LOOK_NS)
        return;
    done = sink_thread_done(sink);
    sample = (LevelSample){
        .plain_bytes = done.plain_bytes - sink->looked.plain_bytes,
        .encoded_bytes = done.encoded_bytes - sink->looked.encoded_bytes,
        .encode_ns = done.encode_ns - sink->looked.encode_ns,
        .link_bytes = done.link_bytes - sink->looked.link_bytes,
        .link_ns = done.link_ns - sink->looked.link_ns,
    };
    unsigned threads = sink->zstd.threads;
    g_atomic_int_set(&sink->level, level_look(&sink->zstd, &sample, now));
    if (sink->zstd.threads != threads) {
        encode_pool_wish(sink->pool, threads, sink->zstd.threads);
        g_atomic_int_set(&sink->threads, (gint)sink->zstd.threads);
    }
    sink->looked = done;
    sink->looked_ns = now;
}

/* Number, seal and write one record. record: header room and payload. */
static gboolean
sink_thread_write(Sink *sink, RecordType type, uint64_t number, GByteArray *record, uint32_t pages,
                  GError **error)
{
    uint32_t length = record->len - RECORD_HEADER_BYTES;
    int64_t start = clock_monotonic_ns();

    if (length > RECORD_LENGTH_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "epoch %" G_GUINT64_FORMAT ": a record of %u bytes is above the limit of %u",
                    number, length, RECORD_LENGTH_MAX);
        return FALSE;
    }
    RecordHeader header = {
        .type = (uint16_t)type, .length = length, .sequence = sink->sequence, .epoch = number};
    header.checksum = record_header_encode(record->data, type, sink->sequence++, number,
                                           record->data + RECORD_HEADER_BYTES, length);
    if (type == RECORD_EPOCH_BEGIN || type == RECORD_PAGES || type == RECORD_STATE)
        epoch_tally_add(&sink->tally, &header, pages);
    if (!sink->transport->write(sink->opaque, record->data, record->len, error))
        return FALSE;
    int64_t took = clock_monotonic_ns() - start;
    sink->write_ns += took;
    sink->times.send_ns += number == sink->times.number ? took : 0;
    trace_record_sent(number, type, record->len, took);
    g_mutex_lock(&sink->lock);
    sink->stats.bytes += record->len;
    g_mutex_unlock(&sink->lock);
    return TRUE;
}

static gboolean
sink_thread_write_empty(Sink *sink, RecordType type, GError **error)
{
    g_autoptr(GByteArray) record = g_byte_array_new();

    g_byte_array_set_size(record, RECORD_HEADER_BYTES);
    return sink_thread_write(sink, type, 0, record, 0, error);
}

static void
sink_thread_tally_close(Sink *sink)
{
    if (sink->tally_open)
        epoch_tally_clear(&sink->tally);
    sink->tally_open = false;
}

/* The last record of the epoch has been written. */
static void
sink_thread_note_times(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    sink->written[sink->n_written++ % SINK_TIMES_KEPT] = sink->times;
}

static gboolean
sink_thread_write_end(Sink *sink, uint64_t number, GError **error)
{
    District__StreamEpochEnd end = DISTRICT__STREAM_EPOCH_END__INIT;

    end.epoch = number;
    end.pages_records = sink->tally.pages_records;
    end.pages = sink->tally.pages;
    end.payload_bytes = sink->tally.payload_bytes;
    end.checksum = epoch_tally_checksum(&sink->tally);
    sink_thread_tally_close(sink);
    g_autoptr(GByteArray) record = sink_record_pack(&end.base);
    if (!sink_thread_write(sink, RECORD_EPOCH_END, number, record, 0, error))
        return FALSE;
    sink_thread_note_times(sink);
    return TRUE;
}

static gboolean
sink_thread_finish(Sink *sink, GError **error)
{
    if (sink->transport->is_stream && !sink_thread_write_empty(sink, RECORD_BYE, error))
        return FALSE;
    if (!sink->transport->finish(sink->opaque, error))
        return FALSE;
    InboxMessage message = {
        .kind = INBOX_SINK_FINISHED, .sink_id = sink->id, .number = sink->stats.bytes};
    inbox_post(sink->inbox, &message);
    return TRUE;
}

static gboolean
sink_thread_emit(Sink *sink, SinkItem *item, GError **error)
{
    switch (item->type) {
    case RECORD_BYE:
        return sink_thread_finish(sink, error);
    case RECORD_EPOCH_END:
        return sink_thread_write_end(sink, item->number, error);
    case RECORD_EPOCH_BEGIN:
        sink_thread_tally_close(sink);
        epoch_tally_start(&sink->tally);
        sink->tally_open = true;
        sink->times = (SinkEpochTimes){.number = item->number};
        break;
    default:
        sink->times.encode_ns += item->encode_ns;
        if (item->record->len == RECORD_HEADER_BYTES)
            return TRUE; /* every page of the batch was left out */
        break;
    }
    return sink_thread_write(sink, item->type, item->number, item->record, item->pages, error);
}

static gboolean
sink_thread_open(Sink *sink, GError **error)
{
    uint64_t held = 0;

    if (!sink->transport->open(sink->opaque, error) ||
        !sink_thread_write(sink, RECORD_HELLO, 0, sink->hello, 0, error) ||
        !sink->transport->greet(sink->opaque, sink, &held, error))
        return FALSE;
    InboxMessage message = {.kind = INBOX_SINK_UP, .sink_id = sink->id, .number = held};
    inbox_post(sink->inbox, &message);
    return TRUE;
}

static void
sink_thread_note_emitted(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    sink->stats.emitted_ns = clock_monotonic_ns();
}

/* One item or one heartbeat. */
static void
sink_thread_step(Sink *sink)
{
    GError *error = NULL;
    int64_t until_us = g_get_monotonic_time() + sink->heartbeat_ms * G_TIME_SPAN_MILLISECOND;
    SinkItem *item = sink_thread_next(sink, until_us);

    if (sink_usable(sink)) {
        bool emitted = item && sink_thread_emit(sink, item, &error);
        /* Journals say nothing of how long an epoch has been out. */
        if (emitted && item->type != RECORD_JOURNAL)
            sink_thread_note_emitted(sink);
        else if (!item && sink->transport->is_stream)
            sink_thread_write_empty(sink, RECORD_HEARTBEAT, &error);
        if (error)
            sink_fail(sink, error);
        else if (sink->transport->is_stream)
            sink_thread_adapt(sink);
    }
    if (item && item->disk && !item->sync)
        sink_disk_left(sink);
    if (item && item->sync) {
        g_atomic_int_add(&sink->sync_outstanding, -1);
        inbox_wake(sink->inbox);
    }
    if (item)
        sink_item_free(item);
}

static void
sink_thread_free(Sink *sink)
{
    EncodePool *pool = sink->pool;
    unsigned threads = sink->zstd.threads;

    sink->transport->free(sink->opaque);
    sink_thread_tally_close(sink);
    for (uint32_t i = 0; i < sink->n_members; i++)
        page_hashes_free(sink->hashes[i]);
    g_free(sink->hashes);
    for (unsigned i = 0; sink->caches && i < encode_pool_shards(pool); i++)
        page_cache_free(sink->caches[i]);
    g_free(sink->caches);
    dedup_free(sink->dedup);
    g_free(sink->wire_index);
    sink_disk_clear(sink);
    g_byte_array_unref(sink->hello);
    g_mutex_clear(&sink->lock);
    g_cond_clear(&sink->cond);
    g_free(sink);
    encode_pool_leave(pool, threads);
}

/* Until released and drained: a worker may still be at an item. */
static bool
sink_thread_over(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    return sink->released && g_queue_is_empty(&sink->items) && g_queue_is_empty(&sink->urgent);
}

gpointer
sink_thread_run(gpointer data)
{
    Sink *sink = data;
    GError *error = NULL;

    sink->looked_ns = clock_monotonic_ns();
    if (!sink_thread_open(sink, &error))
        sink_fail(sink, error);
    while (!sink_thread_over(sink))
        sink_thread_step(sink);
    sink_thread_free(sink);
    return NULL;
}
