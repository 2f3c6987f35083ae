/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sinks: queueing and encoding. sink-thread.c has the emission. */
#include "ckpt/sink-internal.h"

#include "ckpt/encode-pool.h"
#include "common/clock.h"
#include "common/trace.h"

#include <string.h>

#define HEARTBEAT_DEFAULT_MS 100

/* Make room for what deltas and duplicates are made against. */
static void
sink_remember(Sink *sink, uint64_t cache_bytes)
{
    unsigned shards = encode_pool_shards(sink->pool);

    sink->caches = g_new0(PageCache *, shards);
    for (unsigned i = 0; cache_bytes > 0 && i < shards; i++)
        sink->caches[i] = page_cache_new(cache_bytes / shards);
    sink->dedup = dedup_new();
}

Sink *
sink_new(const SinkConfig *config)
{
    Sink *sink = g_new0(Sink, 1);

    g_mutex_init(&sink->lock);
    g_cond_init(&sink->cond);
    g_queue_init(&sink->items);
    g_queue_init(&sink->urgent);
    g_queue_init(&sink->disks_waiting);
    sink->id = config->id;
    sink->transport = config->transport;
    sink->opaque = config->opaque;
    sink->inbox = config->inbox;
    sink->pool = config->pool;
    sink->n_members = config->n_members;
    sink->heartbeat_ms = config->heartbeat_ms > 0 ? config->heartbeat_ms : HEARTBEAT_DEFAULT_MS;
    sink->hashes = g_new0(PageHashes *, config->n_members);
    for (uint32_t i = 0; i < config->n_members; i++)
        sink->hashes[i] = page_hashes_new(config->n_pages_of[i]);
    if (sink->transport->is_stream)
        sink_remember(sink, config->cache_bytes);
    sink->wire_index = g_memdup2(config->wire_index, config->n_members * sizeof(uint32_t));
    level_init(&sink->zstd, encode_pool_shards(sink->pool));
    sink->level = level_zstd(&sink->zstd);
    sink->threads = (gint)sink->zstd.threads;
    sink->hello = sink_record_pack(&config->hello->base);
    encode_pool_use(sink->pool);
    sink->thread = g_thread_new("sink", sink_thread_run, sink);
    return sink;
}

void
sink_release(Sink *sink, bool flush)
{
    GThread *thread = sink->thread;

    /* Interrupt under the lock: the thread frees the transport only after it has seen released. */
    g_mutex_lock(&sink->lock);
    sink->released = true;
    sink->flush = flush;
    if (!flush)
        sink->transport->interrupt(sink->opaque);
    g_cond_signal(&sink->cond);
    g_mutex_unlock(&sink->lock);
    g_thread_unref(thread);
}

uint64_t
sink_id(const Sink *sink)
{
    return sink->id;
}

void
sink_fail(Sink *sink, GError *error)
{
    g_mutex_lock(&sink->lock);
    bool first = !sink->failed;
    bool silent = sink->released;
    sink->failed = true;
    g_cond_signal(&sink->cond);
    if (first)
        sink->transport->interrupt(sink->opaque);
    g_mutex_unlock(&sink->lock);
    if (!first || silent) {
        g_error_free(error);
        return;
    }
    InboxMessage message = {.kind = INBOX_SINK_CLOSED, .sink_id = sink->id, .error = error};
    inbox_post(sink->inbox, &message);
}

bool
sink_usable(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    return !sink->failed && (!sink->released || sink->flush);
}

GByteArray *
sink_record_pack(const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    GByteArray *record = g_byte_array_sized_new((guint)(RECORD_HEADER_BYTES + len));

    g_byte_array_set_size(record, (guint)(RECORD_HEADER_BYTES + len));
    protobuf_c_message_pack(message, record->data + RECORD_HEADER_BYTES);
    return record;
}

SinkItem *
sink_item_new(Sink *sink, RecordType type, uint64_t number)
{
    SinkItem *item = g_new0(SinkItem, 1);

    item->sink = sink;
    item->type = type;
    item->number = number;
    return item;
}

static void
sink_queue(Sink *sink, SinkItem *item)
{
    g_mutex_lock(&sink->lock);
    g_queue_push_tail(&sink->items, item);
    g_cond_signal(&sink->cond);
    g_mutex_unlock(&sink->lock);
}

void
sink_begin(Sink *sink, const District__StreamEpochBegin *begin)
{
    SinkItem *item = sink_item_new(sink, RECORD_EPOCH_BEGIN, begin->epoch);

    item->record = sink_record_pack(&begin->base);
    item->ready = true;
    sink_disk_begin(sink, begin);
    sink_queue(sink, item);
}

void
sink_queue_batch(Sink *sink, SinkItem *item, unsigned shard)
{
    sink_queue(sink, item);
    encode_pool_push(sink->pool, shard, item);
}

void
sink_queue_pages(Sink *sink, SinkItem *item, unsigned shard)
{
    if (sink->caches)
        item->memory = (EncodeMemory){sink->caches[shard], sink->dedup, sink->now};
    sink->now.order++;
    sink_queue_batch(sink, item, shard);
}

static SinkItem *
sink_batch_new(Sink *sink, Epoch *epoch, uint64_t number, uint32_t member, bool full)
{
    SinkItem *item = sink_item_new(sink, RECORD_PAGES, number);

    item->epoch = epoch_ref(epoch);
    item->image = sink->wire_index[member];
    item->hashes = sink->hashes[member];
    item->full = full;
    item->refs = g_new(PageRef, PAGES_PER_RECORD_MAX);
    return item;
}

/* The pages of one member, in batches that each belong to one shard. */
static void
sink_member_pages(Sink *sink, Epoch *epoch, uint64_t number, uint32_t member, bool full)
{
    SinkItem *open[ENCODE_WORKERS_MAX] = {NULL};
    uint64_t count = staging_member_pages(epoch->staging, member);

    for (uint64_t slot = 0; slot < count; slot++) {
        PageRef ref = staging_page(epoch->staging, member, slot);
        unsigned shard = encode_pool_shard_of(sink->pool, ref.index);
        SinkItem *item = open[shard];
        if (!item)
            item = open[shard] = sink_batch_new(sink, epoch, number, member, full);
        item->refs[item->n_refs++] = ref;
        if (item->n_refs == PAGES_PER_RECORD_MAX) {
            sink_queue_pages(sink, item, shard);
            open[shard] = NULL;
        }
    }
    for (unsigned shard = 0; shard < encode_pool_shards(sink->pool); shard++) {
        if (open[shard])
            sink_queue_pages(sink, open[shard], shard);
    }
}

void
sink_epoch_pages(Sink *sink, Epoch *epoch, uint64_t number, bool full)
{
    sink->now.scope++;
    for (uint32_t member = 0; member < sink->n_members; member++) {
        if (sink->wire_index[member] != WIRE_INDEX_NONE)
            sink_member_pages(sink, epoch, number, member, full);
    }
}

/* Pages first to last, in ascending order, come next: could one of them have come in this scope? */
static void
sink_sync_scope(Sink *sink, uint32_t member, uint64_t first, uint64_t last)
{
    const DedupPage *at = &sink->sync_at;

    if (member < at->image || (member == at->image && first <= at->page) || sink->now.scope == 0)
        sink->now.scope++;
    sink->sync_at = (DedupPage){member, last};
}

void
sink_sync_pages(Sink *sink, uint64_t number, uint32_t member, const uint64_t *pages, uint32_t count,
                const uint8_t *ram)
{
    SinkItem *item = sink_item_new(sink, RECORD_PAGES, number);

    g_return_if_fail(count > 0 && count <= PAGES_PER_RECORD_MAX);
    item->image = sink->wire_index[member];
    item->hashes = sink->hashes[member];
    item->full = true;
    item->sync = true;
    item->refs = g_new(PageRef, count);
    item->copy = g_malloc(count * PAGE_BYTES);
    item->n_refs = count;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = item->copy + i * PAGE_BYTES;
        memcpy(to, ram + pages[i] * PAGE_BYTES, PAGE_BYTES);
        item->refs[i] = (PageRef){.index = pages[i], .data = to};
    }
    sink_sync_scope(sink, member, pages[0], pages[count - 1]);
    g_atomic_int_inc(&sink->sync_outstanding);
    sink_queue_pages(sink, item, encode_pool_shard_of(sink->pool, pages[0]));
}

void
sink_state_end(Sink *sink, uint64_t number, GByteArray *packed_state)
{
    SinkItem *state = sink_item_new(sink, RECORD_STATE, number);
    SinkItem *end = sink_item_new(sink, RECORD_EPOCH_END, number);

    state->record = packed_state;
    end->ready = true;
    sink_queue_batch(sink, state, 0);
    sink_queue(sink, end);
}

void
sink_journal(Sink *sink, const District__StreamJournal *record)
{
    SinkItem *item = sink_item_new(sink, RECORD_JOURNAL, 0);

    item->record = sink_record_pack(&record->base);
    item->ready = true;
    g_mutex_lock(&sink->lock);
    g_queue_push_tail(&sink->urgent, item);
    g_cond_signal(&sink->cond);
    g_mutex_unlock(&sink->lock);
}

void
sink_finish(Sink *sink)
{
    SinkItem *item = sink_item_new(sink, RECORD_BYE, 0);

    item->ready = true;
    sink_queue(sink, item);
}

/* Compress the packed state behind room for the record header. */
static void
sink_item_encode_state(SinkItem *item)
{
    GByteArray *frame = state_compress(item->record->data, item->record->len);

    g_byte_array_set_size(item->record, RECORD_HEADER_BYTES);
    g_byte_array_append(item->record, frame->data, frame->len);
    g_byte_array_unref(frame);
}

static void
sink_item_encode_pages(SinkItem *item, Encoder *encoder, EncodeStats *stats)
{
    Sink *sink = item->sink;

    item->record = g_byte_array_new();
    g_byte_array_set_size(item->record, RECORD_HEADER_BYTES);
    /* Nobody gets it: let go of the staging, and let the next stream have the worker. */
    if (!sink_usable(sink) || (item->source && !sink_disk_read(item)))
        return;
    encoder_set_level(encoder, g_atomic_int_get(&sink->level));
    item->pages = encoder_stream_pages(encoder, item->image, item->refs, item->n_refs, item->hashes,
                                       &item->memory, item->full, item->record, stats);
    if (!item->disk)
        return;
    stats->disk_blocks = stats->raw + stats->zero;
    stats->disk_zero = stats->zero;
    stats->raw = stats->zero = 0;
}

void
sink_item_encode(SinkItem *item, Encoder *encoder)
{
    Sink *sink = item->sink;
    EncodeStats stats = {0};
    int64_t start = clock_monotonic_ns();

    if (item->type == RECORD_STATE)
        sink_item_encode_state(item);
    else
        sink_item_encode_pages(item, encoder, &stats);
    item->encode_ns = clock_monotonic_ns() - start;
    trace_encode_batch(item->number, item->n_refs, item->pages, item->record->len, item->encode_ns);
    g_clear_pointer(&item->refs, g_free);
    g_clear_pointer(&item->copy, g_free);
    g_clear_pointer(&item->epoch, epoch_unref);
    g_clear_pointer(&item->entries, g_free);
    g_clear_pointer(&item->source, disk_source_unref);
    g_mutex_lock(&sink->lock);
    encode_stats_add(&sink->stats.pages, &stats);
    if (item->type == RECORD_PAGES)
        sink->encode_ns += item->encode_ns;
    item->ready = true;
    g_cond_signal(&sink->cond);
    g_mutex_unlock(&sink->lock);
}

unsigned
sink_sync_outstanding(Sink *sink)
{
    return (unsigned)g_atomic_int_get(&sink->sync_outstanding);
}

bool
sink_epoch_times(Sink *sink, uint64_t number, SinkEpochTimes *times)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    for (unsigned i = 0; i < SINK_TIMES_KEPT; i++) {
        *times = sink->written[i];
        if (times->number == number)
            return true;
    }
    return false;
}

SinkStats
sink_stats(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);
    SinkStats stats = sink->stats;

    stats.level = g_atomic_int_get(&sink->level);
    stats.threads = (unsigned)g_atomic_int_get(&sink->threads);
    return stats;
}
