/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sinks: blocks of disks.
 *
 * Theory of operation. The entries and the data behind them were written by an engine, so neither is
 * trusted: an entry outside the disk, or data that is not there, fails the sink. A batch is queued
 * in its place at once, but given to a worker only when fewer than SINK_DISK_AHEAD_MAX batches are
 * between the workers and the emission. As batches are given out in the order of the queue, the one
 * that the sink's thread waits for has always been given out.
 */
#include "ckpt/sink-internal.h"

#include "ckpt/encode-pool.h"
#include "ckpt/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct DiskSource {
    gatomicrefcount refs;
    int fd;
    char *name;     /* of the disk */
    uint64_t bytes; /* of the disk */
    GDestroyNotify done;
    gpointer opaque;
};

/* ---- The disks of an epoch ---- */

void
sink_disk_clear(Sink *sink)
{
    g_clear_pointer(&sink->disk_names, g_strfreev);
    g_clear_pointer(&sink->disk_bytes, g_free);
    sink->n_disks = 0;
}

void
sink_disk_begin(Sink *sink, const District__StreamEpochBegin *begin)
{
    uint32_t n_images = layout_image_count(begin);
    g_autofree uint64_t *bytes = NULL;

    sink_disk_clear(sink);
    sink->n_ram = (uint32_t)begin->n_members;
    sink->n_disks = n_images - sink->n_ram;
    if (sink->n_disks == 0)
        return;
    bytes = layout_image_bytes(begin);
    sink->disk_bytes = g_memdup2(bytes + sink->n_ram, sink->n_disks * sizeof *bytes);
    sink->disk_names = g_new0(char *, sink->n_disks + 1);
    for (uint32_t i = 0; i < sink->n_disks; i++)
        sink->disk_names[i] = layout_image_name(begin, sink->n_ram + i);
}

/* The number of the disk, -1 if that image is none: the caller is wrong. */
static gint64
sink_disk_of(const Sink *sink, uint32_t image)
{
    g_return_val_if_fail(image >= sink->n_ram && image - sink->n_ram < sink->n_disks, -1);
    return image - sink->n_ram;
}

/* ---- Sources ---- */

static DiskSource *
disk_source_new(const char *name, uint64_t bytes, int data_fd, GDestroyNotify done, gpointer opaque)
{
    DiskSource *source = g_new0(DiskSource, 1);

    g_atomic_ref_count_init(&source->refs);
    source->fd = fcntl(data_fd, F_DUPFD_CLOEXEC, 0);
    source->name = g_strdup(name);
    source->bytes = bytes;
    source->done = done;
    source->opaque = opaque;
    return source;
}

static DiskSource *
disk_source_ref(DiskSource *source)
{
    g_atomic_ref_count_inc(&source->refs);
    return source;
}

void
disk_source_unref(DiskSource *source)
{
    if (!g_atomic_ref_count_dec(&source->refs))
        return;
    if (source->fd >= 0)
        close(source->fd);
    if (source->done)
        source->done(source->opaque);
    g_free(source->name);
    g_free(source);
}

/* ---- Reading; on a worker ---- */

static gboolean G_GNUC_PRINTF(3, 4)
    unreadable(const DiskSource *source, GError **error, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list args;

    va_start(args, format);
    why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_IO, "%s: its overlay cannot be read: %s",
                source->name, why);
    return FALSE;
}

static gboolean
disk_check_entries(const SinkItem *item, GError **error)
{
    uint64_t blocks = disk_blocks(item->source->bytes);

    for (uint32_t i = 0; i < item->n_refs; i++) {
        const DiskIndexEntry *entry = &item->entries[i];

        if (entry->block >= blocks)
            return unreadable(item->source, error,
                              "an entry names block %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT,
                              entry->block, blocks);
        if (entry->offset != DISK_INDEX_ZERO &&
            (entry->offset % PAGE_BYTES != 0 || entry->offset > INT64_MAX - PAGE_BYTES))
            return unreadable(item->source, error,
                              "the entry of block %" G_GUINT64_FORMAT
                              " names the impossible offset %" G_GUINT64_FORMAT,
                              entry->block, entry->offset);
    }
    return TRUE;
}

static gboolean
disk_read_run(const DiskSource *source, uint8_t *to, size_t len, uint64_t offset, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(source->fd, to + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return unreadable(source, error, "at byte %" G_GUINT64_FORMAT ": %s", offset + done,
                              n < 0 ? g_strerror(errno) : "it ends there");
        done += (size_t)n;
    }
    return TRUE;
}

/* The zeros behind the disk's end are the sink's to write: whatever the engine left there. */
static void
clear_filling(uint8_t *block, uint64_t index, uint64_t disk_bytes)
{
    size_t used = disk_bytes % PAGE_BYTES;

    if (used != 0 && index == disk_blocks(disk_bytes) - 1)
        memset(block + used, 0, PAGE_BYTES - used);
}

/* Entries whose data lies one behind the other are read at once. */
static gboolean
disk_read_entries(SinkItem *item, GError **error)
{
    static const uint8_t zeros[PAGE_BYTES];
    uint32_t run;

    for (uint32_t i = 0; i < item->n_refs; i += run) {
        const DiskIndexEntry *entry = &item->entries[i];
        uint8_t *to = item->copy + i * PAGE_BYTES;

        run = 1;
        item->refs[i] = (PageRef){.index = entry->block, .data = zeros};
        if (entry->offset == DISK_INDEX_ZERO)
            continue;
        while (i + run < item->n_refs && entry[run].offset == entry->offset + run * PAGE_BYTES)
            run++;
        if (!disk_read_run(item->source, to, run * PAGE_BYTES, entry->offset, error))
            return FALSE;
        for (uint32_t k = 0; k < run; k++, to += PAGE_BYTES) {
            clear_filling(to, entry[k].block, item->source->bytes);
            item->refs[i + k] = (PageRef){.index = entry[k].block, .data = to};
        }
    }
    return TRUE;
}

gboolean
sink_disk_read(SinkItem *item)
{
    GError *error = NULL;

    item->refs = g_new(PageRef, item->n_refs);
    item->copy = g_malloc(item->n_refs * PAGE_BYTES);
    if (disk_check_entries(item, &error) && disk_read_entries(item, &error))
        return TRUE;
    sink_fail(item->sink, error);
    return FALSE;
}

/* ---- Queueing ---- */

/* Give waiting batches to workers, as far as there is room. With the lock. */
static void
sink_disk_give_out(Sink *sink)
{
    SinkItem *item;

    while (sink->disks_ahead < SINK_DISK_AHEAD_MAX &&
           (item = g_queue_pop_head(&sink->disks_waiting)) != NULL) {
        sink->disks_ahead++;
        encode_pool_push(sink->pool, sink->next_worker++ % encode_pool_shards(sink->pool), item);
    }
}

void
sink_disk_left(Sink *sink)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    sink->disks_ahead--;
    sink_disk_give_out(sink);
}

static void
sink_disk_queue(Sink *sink, SinkItem *item)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sink->lock);

    g_queue_push_tail(&sink->items, item);
    g_queue_push_tail(&sink->disks_waiting, item);
    sink_disk_give_out(sink);
    g_cond_signal(&sink->cond);
}

static SinkItem *
sink_disk_batch(Sink *sink, uint64_t number, uint32_t image, uint32_t count)
{
    SinkItem *item = sink_item_new(sink, RECORD_PAGES, number);

    item->disk = true;
    item->image = image;
    item->n_refs = count;
    return item;
}

void
sink_disk_blocks(Sink *sink, uint64_t number, uint32_t wire_image, int data_fd,
                 const DiskIndexEntry *entries, uint32_t count, GDestroyNotify done,
                 gpointer opaque)
{
    gint64 disk = sink_disk_of(sink, wire_image);
    DiskSource *source;

    if (disk < 0)
        count = 0;
    source = disk_source_new(disk < 0 ? "" : sink->disk_names[disk],
                             disk < 0 ? 0 : sink->disk_bytes[disk], data_fd, done, opaque);
    if (source->fd < 0) {
        GError *error = NULL;
        unreadable(source, &error, "%s", g_strerror(errno));
        sink_fail(sink, error);
        count = 0;
    }
    for (uint32_t at = 0; at < count; at += PAGES_PER_RECORD_MAX) {
        uint32_t n = MIN(count - at, PAGES_PER_RECORD_MAX);
        SinkItem *item = sink_disk_batch(sink, number, wire_image, n);

        item->source = disk_source_ref(source);
        item->entries = g_memdup2(entries + at, n * sizeof *entries);
        sink_disk_queue(sink, item);
    }
    disk_source_unref(source);
}

void
sink_sync_disk(Sink *sink, uint64_t number, uint32_t wire_image, const uint64_t *blocks,
               uint32_t count, const uint8_t *data)
{
    gint64 disk = sink_disk_of(sink, wire_image);
    SinkItem *item;

    g_return_if_fail(disk >= 0 && count > 0 && count <= PAGES_PER_RECORD_MAX);
    item = sink_disk_batch(sink, number, wire_image, count);
    item->sync = true;
    item->refs = g_new(PageRef, count);
    item->copy = g_memdup2(data, count * PAGE_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *block = item->copy + i * PAGE_BYTES;

        clear_filling(block, blocks[i], sink->disk_bytes[disk]);
        item->refs[i] = (PageRef){.index = blocks[i], .data = block};
    }
    g_atomic_int_inc(&sink->sync_outstanding);
    sink_queue_batch(sink, item, encode_pool_shard_of(sink->pool, blocks[0]));
}
