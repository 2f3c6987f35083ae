/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes starting inputs for the fuzz targets of the checkpoint format into a directory. */
#include "writer.h"

#include <glib/gstdio.h>

static void
save(const char *dir, const char *target, const char *name, const GByteArray *bytes)
{
    g_autofree char *folder = g_build_filename(dir, target, NULL);
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GError) error = NULL;

    g_mkdir_with_parents(folder, 0755);
    if (!g_file_set_contents(path, (const char *)bytes->data, bytes->len, &error))
        g_error("%s", error->message);
}

/* The stream as fuzz-stream reads it: type, length in 2 bytes, payload. */
static GByteArray *
as_stream_input(const Writer *writer)
{
    GByteArray *out = g_byte_array_new();

    for (guint i = 0; i < writer->starts->len; i++) {
        const uint8_t *at = writer->out->data + g_array_index(writer->starts, size_t, i);
        RecordHeader header;
        uint8_t head[3];

        if (!record_header_decode(at, &header, NULL))
            g_error("the writer does not write records");
        head[0] = (uint8_t)header.type;
        head[1] = (uint8_t)header.length;
        head[2] = (uint8_t)(header.length >> 8);
        g_byte_array_append(out, head, sizeof head);
        g_byte_array_append(out, at + RECORD_HEADER_BYTES, header.length);
    }
    return out;
}

/* Two epochs as a file has them, or a stream; disks: of the first member, the last one of them partly used. */
static void
make_seeds(const char *dir, const char *name, uint32_t disks, uint32_t version)
{
    g_autoptr(GByteArray) stream = NULL, first = g_byte_array_new(), pages = g_byte_array_new();
    Writer writer;
    size_t at;

    writer_init(&writer, 2, 16);
    writer.version = version;
    for (uint32_t i = 0; i < disks; i++)
        writer_add_disk(&writer, 0, (uint64_t)3 * PAGE_BYTES + i * SECTOR_BYTES);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 4, 1);
    g_byte_array_append(first, writer.out->data, writer.out->len);
    writer_epoch(&writer, 2, 1, 2, 2, 0);
    stream = as_stream_input(&writer);
    if (version == STREAM_VERSION) {
        save(dir, "fuzz-stream", name, stream);
    } else {
        save(dir, "fuzz-import", name, first);
        save(dir, "fuzz-image", name, writer.out);
    }
    at = g_array_index(writer.starts, size_t, 2 + disks) + RECORD_HEADER_BYTES;
    g_byte_array_append(pages, writer.out->data + at,
                        (guint)(g_array_index(writer.starts, size_t, 3 + disks) - at));
    save(dir, "fuzz-pages", name, pages);
    writer_clear(&writer);
}

/* A stream with deltas and duplicates, and the last of its records with deltas. */
static void
make_delta_seeds(const char *dir)
{
    g_autoptr(GByteArray) stream = NULL, pages = g_byte_array_new();
    uint8_t page[PAGE_BYTES] = {1};
    PageRef refs[2] = {{3, page}, {4, page}};
    Writer writer;
    size_t at;

    writer_init(&writer, 2, 16);
    writer_remember(&writer);
    writer_hello(&writer);
    for (uint64_t epoch = 1; epoch <= 3; epoch++) {
        page[100]++;
        writer_begin(&writer, epoch, epoch - 1);
        writer_pages(&writer, 0, refs, epoch == 2 ? 1 : 2);
        writer_pages(&writer, 1, refs, 2);
        writer_state(&writer);
        writer_end(&writer);
    }
    stream = as_stream_input(&writer);
    save(dir, "fuzz-stream", "seed-deltas", stream);
    at = g_array_index(writer.starts, size_t, writer.starts->len - 3);
    g_byte_array_append(pages, writer.out->data + at + RECORD_HEADER_BYTES,
                        (guint)(g_array_index(writer.starts, size_t, writer.starts->len - 2) - at -
                                RECORD_HEADER_BYTES));
    save(dir, "fuzz-pages", "seed-deltas", pages);
    writer_clear(&writer);
}

/* A file with a journal. */
static void
make_journal_seed(const char *dir)
{
    static const District__StreamJournalKind kinds[] = {
        DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN,
        DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA,
        DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH};
    uint8_t data[SECTOR_BYTES] = {1};
    Writer writer;

    writer_init(&writer, 1, 16);
    writer.version = FILE_VERSION_JOURNALS;
    writer_hello(&writer);
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;
        record.seq = i + 1;
        record.kind = kinds[i];
        record.member = (char *)(i < 2 ? "db" : "");
        record.size = i == 0 ? JOURNAL_BYTES_MIN : 0;
        record.data = (ProtobufCBinaryData){i == 1 ? sizeof data : 0, data};
        writer_message(&writer, RECORD_JOURNAL, 0, &record.base);
    }
    writer_epoch(&writer, 1, 0, 0, 4, 1);
    save(dir, "fuzz-import", "seed-journal", writer.out);
    writer_clear(&writer);
}

int
main(int argc, char **argv)
{
    const char *dir = argc == 2 ? argv[1] : NULL;

    if (dir == NULL)
        g_error("usage: make-seeds DIRECTORY");
    make_seeds(dir, "seed", 0, FILE_VERSION);
    make_seeds(dir, "seed-disks", 2, FILE_VERSION);
    make_seeds(dir, "seed", 0, STREAM_VERSION);
    make_seeds(dir, "seed-disks", 2, STREAM_VERSION);
    make_delta_seeds(dir);
    make_journal_seed(dir);
    return 0;
}
