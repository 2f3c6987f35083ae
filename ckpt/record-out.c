/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing one checkpoint of one full epoch as records. */
#include "ckpt/record-out.h"

#include <errno.h>
#include <unistd.h>

#define ZSTD_LEVEL 3

struct RecordOut {
    int fd;
    char *name;
    uint64_t sequence;
    uint64_t epoch; /* 0: none is open yet */
    uint64_t bytes;
    EpochTally tally;
    Encoder *encoder;
    GByteArray *record; /* room for a header, then a payload */
};

RecordOut *
record_out_new(int fd, const char *name)
{
    RecordOut *out = g_new0(RecordOut, 1);

    out->fd = fd;
    out->name = g_strdup(name);
    out->encoder = encoder_new(ZSTD_LEVEL);
    out->record = g_byte_array_new();
    return out;
}

void
record_out_free(RecordOut *out)
{
    if (out == NULL)
        return;
    if (out->epoch != 0)
        epoch_tally_clear(&out->tally);
    encoder_free(out->encoder);
    g_byte_array_unref(out->record);
    g_free(out->name);
    g_free(out);
}

uint64_t
record_out_bytes(const RecordOut *out)
{
    return out->bytes;
}

static gboolean
out_fail(const RecordOut *out, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "%s: %s%s", out->name,
                g_strerror(err),
                err == ENOSPC || err == EDQUOT ? ": free some space there and try again" : "");
    return FALSE;
}

static gboolean
out_write(RecordOut *out, const uint8_t *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(out->fd, data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return out_fail(out, n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    out->bytes += len;
    return TRUE;
}

/* Make the record empty, but for room for the header. */
static void
out_start(RecordOut *out)
{
    g_byte_array_set_size(out->record, RECORD_HEADER_BYTES);
}

/* Seal and write it. pages: in it. */
static gboolean
out_put(RecordOut *out, RecordType type, uint32_t pages, GError **error)
{
    uint8_t *raw = out->record->data;
    uint32_t length = out->record->len - RECORD_HEADER_BYTES;
    uint64_t epoch = type == RECORD_HELLO ? 0 : out->epoch;
    RecordHeader header = {.type = (uint16_t)type, .length = length, .sequence = out->sequence};

    header.checksum =
        record_header_encode(raw, type, out->sequence++, epoch, raw + RECORD_HEADER_BYTES, length);
    /* The limits are the reader's: what is above them could not be read again. */
    if (!record_header_decode(raw, &header, error)) {
        g_prefix_error(error, "%s: it cannot be written: ", out->name);
        return FALSE;
    }
    if (type == RECORD_EPOCH_BEGIN || type == RECORD_PAGES || type == RECORD_STATE)
        epoch_tally_add(&out->tally, &header, pages);
    return out_write(out, raw, out->record->len, error);
}

static gboolean
out_message(RecordOut *out, RecordType type, const ProtobufCMessage *message, GError **error)
{
    size_t len = protobuf_c_message_get_packed_size(message);

    g_byte_array_set_size(out->record, (guint)(RECORD_HEADER_BYTES + len));
    protobuf_c_message_pack(message, out->record->data + RECORD_HEADER_BYTES);
    return out_put(out, type, 0, error);
}

gboolean
record_out_hello(RecordOut *out, const District__StreamHello *hello, GError **error)
{
    return out_message(out, RECORD_HELLO, &hello->base, error);
}

gboolean
record_out_journal(RecordOut *out, const District__StreamJournal *record, GError **error)
{
    return out_message(out, RECORD_JOURNAL, &record->base, error);
}

gboolean
record_out_begin(RecordOut *out, const District__StreamEpochBegin *begin, GError **error)
{
    out->epoch = begin->epoch;
    epoch_tally_start(&out->tally);
    return out_message(out, RECORD_EPOCH_BEGIN, &begin->base, error);
}

gboolean
record_out_pages(RecordOut *out, uint32_t image, const PageRef *pages, uint32_t count,
                 bool skip_zeros, uint64_t *written, GError **error)
{
    EncodeStats stats = {0};

    out_start(out);
    uint32_t n =
        encoder_pages(out->encoder, image, pages, count, NULL, skip_zeros, out->record, &stats);
    if (written != NULL)
        *written += n;
    return n == 0 || out_put(out, RECORD_PAGES, n, error);
}

static gboolean
out_state(RecordOut *out, const District__CutState *cut, GError **error)
{
    size_t len = protobuf_c_message_get_packed_size(&cut->base);
    g_autofree uint8_t *packed = NULL;
    g_autoptr(GByteArray) frame = NULL;

    if (len > CUT_STATE_BYTES_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "%s: the state of the cut has %zu bytes, the limit is %u", out->name, len,
                    CUT_STATE_BYTES_MAX);
        return FALSE;
    }
    packed = g_malloc(len + 1);
    protobuf_c_message_pack(&cut->base, packed);
    frame = state_compress(packed, len);
    out_start(out);
    g_byte_array_append(out->record, frame->data, frame->len);
    return out_put(out, RECORD_STATE, 0, error);
}

gboolean
record_out_end(RecordOut *out, const District__CutState *cut, GError **error)
{
    District__StreamEpochEnd end = DISTRICT__STREAM_EPOCH_END__INIT;

    if (!out_state(out, cut, error))
        return FALSE;
    end.epoch = out->epoch;
    end.pages_records = out->tally.pages_records;
    end.pages = out->tally.pages;
    end.payload_bytes = out->tally.payload_bytes;
    end.checksum = epoch_tally_checksum(&out->tally);
    return out_message(out, RECORD_EPOCH_END, &end.base, error);
}

gboolean
record_out_sync(RecordOut *out, GError **error)
{
    /* EINVAL, EROFS: a pipe or such, which there is nothing to sync of (fsync(2)). */
    return fsync(out->fd) == 0 || errno == EINVAL || errno == EROFS || out_fail(out, errno, error);
}
