/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes starting inputs for the fuzz targets of the checkpoint format into a directory. */
#include "writer.h"

#include <glib/gstdio.h>

static void
save(const char *dir, const char *target, const GByteArray *bytes)
{
    g_autofree char *folder = g_build_filename(dir, target, NULL);
    g_autofree char *path = g_build_filename(folder, "seed", NULL);
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

int
main(int argc, char **argv)
{
    g_autoptr(GByteArray) stream = NULL, pages = g_byte_array_new();
    const char *dir = argc == 2 ? argv[1] : NULL;
    Writer writer;
    size_t at;

    if (dir == NULL)
        g_error("usage: make-seeds DIRECTORY");
    writer_init(&writer, 2, 16);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 3, 1);
    writer_epoch(&writer, 2, 1, 2, 2, 0);
    save(dir, "fuzz-image", writer.out);
    stream = as_stream_input(&writer);
    save(dir, "fuzz-stream", stream);
    at = g_array_index(writer.starts, size_t, 2) + RECORD_HEADER_BYTES;
    g_byte_array_append(pages, writer.out->data + at,
                        (guint)(g_array_index(writer.starts, size_t, 3) - at));
    save(dir, "fuzz-pages", pages);
    writer_clear(&writer);
    return 0;
}
