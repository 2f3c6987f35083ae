/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a file of records, one at a time, into a Receiver. */
#include "ckpt/record-file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct RecordFile {
    int fd;
    uint64_t records; /* read so far */
    uint64_t bytes;
    GByteArray *payload;
};

RecordFile *
record_file_new(int fd)
{
    RecordFile *file = g_new0(RecordFile, 1);

    file->fd = fd;
    file->payload = g_byte_array_new();
    return file;
}

void
record_file_free(RecordFile *file)
{
    if (file == NULL)
        return;
    g_byte_array_unref(file->payload);
    g_free(file);
}

uint64_t
record_file_bytes(const RecordFile *file)
{
    return file->bytes;
}

/* Read up to len bytes; fewer only at the end of the file. -1 with error set. */
static gssize
read_upto(int fd, uint8_t *buf, size_t len, GError **error)
{
    size_t done = 0;

    while (done < len) {
        ssize_t got = read(fd, buf + done, len - done);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int saved = errno;
            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(saved), "cannot be read: %s",
                        g_strerror(saved));
            return -1;
        }
        done += (size_t)got;
    }
    return (gssize)done;
}

static gboolean
truncated(GError **error, uint64_t records)
{
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED,
                "truncated: it ends in the middle of an epoch, after %" G_GUINT64_FORMAT
                " whole records: use an intact copy",
                records);
    return FALSE;
}

static gboolean
decode_header(const uint8_t raw[RECORD_HEADER_BYTES], uint64_t records, RecordHeader *header,
              GError **error)
{
    GError *why = NULL;

    if (record_header_decode(raw, header, &why))
        return TRUE;
    /* It began as one of ours: what does not look like a record further on is damage. */
    if (records > 0 && g_error_matches(why, FORMAT_ERROR, FORMAT_ERROR_FOREIGN)) {
        g_clear_error(&why);
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged: no record starts after record %" G_GUINT64_FORMAT, records - 1);
        return FALSE;
    }
    g_propagate_error(error, why);
    return FALSE;
}

/* Read the next record into raw and file->payload. *more FALSE: the file ends here. */
static gboolean
read_record(RecordFile *file, uint8_t raw[RECORD_HEADER_BYTES], gboolean *more, GError **error)
{
    RecordHeader header;
    gssize got = read_upto(file->fd, raw, RECORD_HEADER_BYTES, error);

    if (got < 0)
        return FALSE;
    *more = got > 0;
    if (got == 0)
        return TRUE;
    if (got < RECORD_HEADER_BYTES)
        return truncated(error, file->records);
    if (!decode_header(raw, file->records, &header, error))
        return FALSE;
    g_byte_array_set_size(file->payload, header.length);
    got = read_upto(file->fd, file->payload->data, header.length, error);
    if (got < 0)
        return FALSE;
    return (uint32_t)got == header.length || truncated(error, file->records);
}

gboolean
record_file_feed(RecordFile *file, Receiver *receiver, gboolean *more, GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    bool in_epoch = receiver_in_epoch(receiver);

    if (!read_record(file, raw, more, error))
        return FALSE;
    if (!*more)
        return !in_epoch || truncated(error, file->records);
    if (!receiver_record(receiver, raw, file->payload->data, error))
        return FALSE;
    /* On a stream a BYE drops the open epoch; of a file its pages have been taken already. */
    if (in_epoch && receiver_over(receiver))
        return truncated(error, file->records);
    file->records++;
    file->bytes += RECORD_HEADER_BYTES + file->payload->len;
    return TRUE;
}
