/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing journals into an exported file: BEGIN and DATA of each, then PUBLISH. */
#include "ckpt/export-journal.h"

#include "ckpt/format.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Read at once; a record of it is left out if it is all zeros. */
#define CHUNK_BYTES ((size_t)64 * 1024)
static_assert(CHUNK_BYTES <= JOURNAL_DATA_MAX, "a record of it");

typedef struct Writer {
    RecordOut *out;
    const ExportJournal *journal;
    int fd;
    uint64_t bytes;
    uint64_t seq; /* of the last record */
} Writer;

static gboolean
writer_fail(const Writer *writer, const char *doing, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err),
                "the journal of member %s: %s: %s", writer->journal->member, doing,
                g_strerror(err));
    return FALSE;
}

static gboolean
writer_record(Writer *writer, District__StreamJournalKind kind, District__StreamJournal *record,
              GError **error)
{
    record->kind = kind;
    record->seq = ++writer->seq;
    return record_out_journal(writer->out, record, error);
}

static gboolean
writer_open(Writer *writer, GError **error)
{
    struct stat st;

    writer->fd = open(writer->journal->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (writer->fd < 0 || fstat(writer->fd, &st) != 0)
        return writer_fail(writer, "opening its copy", errno, error);
    writer->bytes = (uint64_t)st.st_size;
    if (!S_ISREG(st.st_mode) || writer->bytes < JOURNAL_BYTES_MIN ||
        writer->bytes > JOURNAL_BYTES_MAX || writer->bytes % PAGE_BYTES != 0)
        return writer_fail(writer, "its copy has not the size of a journal", EINVAL, error);
    return TRUE;
}

static gboolean
writer_read(const Writer *writer, uint64_t offset, uint8_t *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(writer->fd, data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return writer_fail(writer, "reading its copy", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
writer_data(Writer *writer, uint64_t offset, uint8_t *data, size_t len, GError **error)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    if (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0)
        return TRUE;
    record.member = (char *)writer->journal->member;
    record.offset = offset;
    record.data.data = data;
    record.data.len = len;
    return writer_record(writer, DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA, &record,
                         error);
}

static gboolean
writer_journal(Writer *writer, Progress *progress, GError **error)
{
    District__StreamJournal begin = DISTRICT__STREAM_JOURNAL__INIT;
    g_autofree uint8_t *data = g_malloc(CHUNK_BYTES);

    if (!writer_open(writer, error))
        return FALSE;
    begin.member = (char *)writer->journal->member;
    begin.size = writer->bytes;
    if (!writer_record(writer, DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN, &begin, error))
        return FALSE;
    for (uint64_t at = 0; at < writer->bytes; at += CHUNK_BYTES) {
        size_t len = MIN(CHUNK_BYTES, writer->bytes - at);
        if (!writer_read(writer, at, data, len, error) ||
            !writer_data(writer, at, data, len, error))
            return FALSE;
        progress_add(progress, len);
    }
    return TRUE;
}

gboolean
export_journals(RecordOut *out, const ExportJournal *journals, uint32_t n, Progress *progress,
                GError **error)
{
    District__StreamJournal publish = DISTRICT__STREAM_JOURNAL__INIT;
    Writer writer = {.out = out, .fd = -1};
    gboolean good = TRUE;

    for (uint32_t i = 0; i < n && good; i++) {
        writer.journal = &journals[i];
        good = writer_journal(&writer, progress, error);
        if (writer.fd >= 0)
            close(writer.fd);
        writer.fd = -1;
    }
    return good && writer_record(&writer, DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH,
                                 &publish, error);
}
