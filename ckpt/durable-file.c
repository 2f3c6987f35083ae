/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A durable checkpoint as a file: HELLO, EPOCH_BEGIN, the gathered pages, the blocks of the disks,
 * STATE, EPOCH_END, all on the writer's thread.
 */
#include "ckpt/durable-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

typedef struct FileWriter {
    Durable *durable;
    const WriteJob *job;
    int fd;
    uint64_t sequence;
    EpochTally tally;
    CheckpointFileInfo *info;
    GByteArray *record; /* room for a header, then a payload */
} FileWriter;

static gboolean
file_error(FileWriter *w, int code, GError **error)
{
    g_autofree char *path = ckpt_store_new_path(w->durable->store, w->info->id);

    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(code), "%s: %s%s", path,
                g_strerror(code),
                code == ENOSPC || code == EDQUOT ? ": free some space there" : "");
    return FALSE;
}

static gboolean
write_all(FileWriter *w, const uint8_t *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(w->fd, data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return file_error(w, n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    w->info->bytes += len;
    return TRUE;
}

static void
record_start(FileWriter *w)
{
    g_byte_array_set_size(w->record, RECORD_HEADER_BYTES);
}

/* Seal and write the record. */
static gboolean
record_put(FileWriter *w, RecordType type, uint64_t epoch, uint32_t pages, GError **error)
{
    uint32_t length = w->record->len - RECORD_HEADER_BYTES;

    if (length > RECORD_LENGTH_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "a checkpoint's record of %u bytes is above the limit of %u", length,
                    RECORD_LENGTH_MAX);
        return FALSE;
    }
    RecordHeader header = {
        .type = (uint16_t)type, .length = length, .sequence = w->sequence, .epoch = epoch};
    header.checksum = record_header_encode(w->record->data, type, w->sequence++, epoch,
                                           w->record->data + RECORD_HEADER_BYTES, length);
    if (type == RECORD_EPOCH_BEGIN || type == RECORD_PAGES || type == RECORD_STATE)
        epoch_tally_add(&w->tally, &header, pages);
    return write_all(w, w->record->data, w->record->len, error);
}

static gboolean
record_put_message(FileWriter *w, RecordType type, uint64_t epoch, const ProtobufCMessage *message,
                   GError **error)
{
    size_t len = protobuf_c_message_get_packed_size(message);

    g_byte_array_set_size(w->record, (guint)(RECORD_HEADER_BYTES + len));
    protobuf_c_message_pack(message, w->record->data + RECORD_HEADER_BYTES);
    return record_put(w, type, epoch, 0, error);
}

static gboolean
put_hello(FileWriter *w, GError **error)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    const DurableCut *cut = w->job->cut;

    hello.version = FILE_VERSION;
    hello.software = (char *)"district-ckpt " DISTRICT_VERSION;
    hello.district = w->durable->district;
    hello.incarnation = cut->incarnation;
    hello.host = w->durable->host;
    hello.checkpoint_id = w->info->id;
    hello.parent_id = cut->parent_id;
    hello.label = cut->label != NULL ? cut->label : (char *)"";
    return record_put_message(w, RECORD_HELLO, 0, &hello.base, error);
}

/* Encode a batch, and write it if anything of it is left. */
static gboolean
put_batch(FileWriter *w, uint32_t image, const PageRef *refs, uint32_t n, PageHashes *hashes,
          uint64_t *count, GError **error)
{
    EncodeStats stats = {0};

    if (__atomic_load_n(&w->durable->stop, __ATOMIC_RELAXED)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INTR, "district-ckpt is ending");
        return FALSE;
    }
    record_start(w);
    uint32_t pages =
        encoder_pages(w->durable->encoder, image, refs, n, hashes, false, w->record, &stats);
    *count += pages;
    return pages == 0 || record_put(w, RECORD_PAGES, w->job->cut->number, pages, error);
}

static gboolean
put_member(FileWriter *w, uint32_t member, GError **error)
{
    PageRef refs[PAGES_PER_RECORD_MAX];
    uint64_t count = staging_member_pages(w->job->pages, member);
    uint32_t image = w->job->cut->wire_index[member];

    for (uint64_t slot = 0; slot < count && image != UINT32_MAX;) {
        uint32_t n = 0;
        while (n < PAGES_PER_RECORD_MAX && slot < count)
            refs[n++] = staging_page(w->job->pages, member, slot++);
        if (!put_batch(w, image, refs, n, w->durable->hashes[member], &w->info->ram_pages, error))
            return FALSE;
    }
    return TRUE;
}

/* Blocks of a disk: data is room for PAGES_PER_RECORD_MAX of them. */
static gboolean
put_disk(FileWriter *w, uint32_t i, uint8_t *data, GError **error)
{
    const MemberDisk *disk = &w->durable->disks[i].disk;
    const DurableRange *range = &w->job->cut->ranges[i];
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(DiskIndexEntry));
    PageRef refs[PAGES_PER_RECORD_MAX];

    if (!member_disk_read(disk, range->from, range->to, entries, error))
        return FALSE;
    for (guint at = 0; at < entries->len;) {
        uint32_t n = 0;
        for (; n < PAGES_PER_RECORD_MAX && at < entries->len; n++, at++) {
            const DiskIndexEntry *entry = &g_array_index(entries, DiskIndexEntry, at);
            uint8_t *to = data + n * PAGE_BYTES;
            if (!member_disk_block(disk, entry, to, error))
                return FALSE;
            refs[n] = (PageRef){.index = entry->block, .data = to};
        }
        if (!put_batch(w, range->image, refs, n, NULL, &w->info->disk_blocks, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
put_state(FileWriter *w, GError **error)
{
    g_autoptr(GByteArray) frame = state_compress(w->job->cut->state->data, w->job->cut->state->len);

    record_start(w);
    g_byte_array_append(w->record, frame->data, frame->len);
    return record_put(w, RECORD_STATE, w->job->cut->number, 0, error);
}

static gboolean
put_end(FileWriter *w, GError **error)
{
    District__StreamEpochEnd end = DISTRICT__STREAM_EPOCH_END__INIT;

    end.epoch = w->job->cut->number;
    end.pages_records = w->tally.pages_records;
    end.pages = w->tally.pages;
    end.payload_bytes = w->tally.payload_bytes;
    end.checksum = epoch_tally_checksum(&w->tally);
    return record_put_message(w, RECORD_EPOCH_END, end.epoch, &end.base, error);
}

static gboolean
put_all(FileWriter *w, GError **error)
{
    const DurableCut *cut = w->job->cut;
    g_autofree uint8_t *data = g_malloc(PAGES_PER_RECORD_MAX * PAGE_BYTES);

    if (!put_hello(w, error))
        return FALSE;
    record_start(w);
    g_byte_array_append(w->record, cut->begin->data, cut->begin->len);
    if (!record_put(w, RECORD_EPOCH_BEGIN, cut->number, 0, error))
        return FALSE;
    for (uint32_t m = 0; m < w->durable->n_members; m++) {
        if (!put_member(w, m, error))
            return FALSE;
    }
    for (uint32_t i = 0; i < w->durable->n_disks; i++) {
        if (!put_disk(w, i, data, error))
            return FALSE;
    }
    return put_state(w, error) && put_end(w, error);
}

gboolean
durable_file_write(Durable *durable, const WriteJob *job, int fd, CheckpointFileInfo *info,
                   GError **error)
{
    FileWriter w = {
        .durable = durable, .job = job, .fd = fd, .info = info, .record = g_byte_array_new()};
    gboolean good;

    epoch_tally_start(&w.tally);
    good = put_all(&w, error);
    if (good && fdatasync(fd) != 0)
        good = file_error(&w, errno, error);
    epoch_tally_clear(&w.tally);
    g_byte_array_unref(w.record);
    return good;
}
