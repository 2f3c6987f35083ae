/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One checkpoint file of the store: its name, and reading it with every byte verified, record by
 * record, so that long work on it can stop in between.
 */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"
#include "ckpt/record-file.h"

#include <xxhash.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct StoreReader {
    CkptStore *store;
    char *name;
    int fd;
    RecordFile *file;
    Receiver *receiver;
    const StoreVisitor *visitor;
    void *opaque;
    CatalogRow expected;
    bool known; /* all of expected, not only the id */
    CatalogRow found;
    uint32_t n_members;
    bool begun;
    bool ended;
};

/* ---- Names ---- */

char *
storefile_name(uint64_t id, uint32_t generation)
{
    return g_strdup_printf("checkpoint-%" G_GUINT64_FORMAT "-%u.dcp", id, generation);
}

bool
storefile_parse_name(const char *name, uint64_t *id, uint32_t *generation)
{
    g_autofree char *again = NULL;
    const char *prefix = "checkpoint-";
    char *end;

    if (!g_str_has_prefix(name, prefix))
        return false;
    *id = g_ascii_strtoull(name + strlen(prefix), &end, 10);
    if (*id == 0 || *id > EPOCH_NUMBER_MAX || *end != '-')
        return false;
    *generation = (uint32_t)g_ascii_strtoull(end + 1, NULL, 10);
    again = storefile_name(*id, *generation);
    return strcmp(name, again) == 0;
}

/* ---- Images ---- */

static void
store_image_clear(gpointer data)
{
    g_free(((StoreImage *)data)->member);
}

GArray *
storefile_images(const District__StreamEpochBegin *begin)
{
    GArray *images = g_array_new(FALSE, TRUE, sizeof(StoreImage));

    g_array_set_clear_func(images, store_image_clear);
    for (size_t i = 0; i < begin->n_members; i++) {
        StoreImage ram = {g_strdup(begin->members[i]->name), -1, begin->members[i]->ram_size};
        g_array_append_val(images, ram);
    }
    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];
        for (size_t k = 0; k < m->n_disks; k++) {
            StoreImage disk = {g_strdup(m->name), (int)k, m->disks[k]->size};
            g_array_append_val(images, disk);
        }
    }
    return images;
}

bool
storefile_image_equal(const StoreImage *a, const StoreImage *b)
{
    return a->disk == b->disk && a->bytes == b->bytes && strcmp(a->member, b->member) == 0;
}

uint64_t
storefile_layout_sum(const District__StreamEpochBegin *begin)
{
    g_autoptr(GArray) images = storefile_images(begin);
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < images->len; i++) {
        const StoreImage *image = &g_array_index(images, StoreImage, i);
        g_string_append_printf(text, "%s %d %" G_GUINT64_FORMAT "\n", image->member, image->disk,
                               image->bytes);
    }
    return XXH3_64bits(text->str, text->len);
}

static bool
run_goes_on(const DecodedPage *pages, uint32_t i)
{
    const DecodedPage *a = &pages[i - 1], *b = &pages[i];

    return b->index == a->index + 1 &&
           (a->data == NULL ? b->data == NULL : b->data == a->data + PAGE_BYTES);
}

gboolean
storefile_runs(const DecodedPage *pages, uint32_t count, StoreRun func, void *opaque,
               GError **error)
{
    for (uint32_t start = 0, i = 1; i <= count; i++) {
        if (i < count && run_goes_on(pages, i))
            continue;
        if (!func(opaque, pages[start].index, i - start, pages[start].data, error))
            return FALSE;
        start = i;
    }
    return TRUE;
}

int
store_write_all(int fd, const void *data, size_t len, uint64_t offset)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        done += (size_t)n;
    }
    return 0;
}

void *
storefile_map(uint64_t bytes, GError **error)
{
    void *map = mmap(NULL, MAX(bytes, 1), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map != MAP_FAILED)
        return map;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                "not enough memory for a map of %" G_GUINT64_FORMAT " bytes: %s", bytes,
                g_strerror(errno));
    return NULL;
}

void
storefile_unmap(void *map, uint64_t bytes)
{
    if (map != NULL)
        munmap(map, MAX(bytes, 1));
}

/* ---- What the file says of itself ---- */

static gboolean
reader_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    StoreReader *reader = opaque;
    const CatalogRow *e = &reader->expected;

    if (strcmp(hello->district, reader->store->district) != 0) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN, "it is of district %s, not of %s",
                    hello->district, reader->store->district);
        return FALSE;
    }
    if (hello->checkpoint_id != e->id)
        return format_damaged(error,
                              "it is checkpoint %" G_GUINT64_FORMAT ", not %" G_GUINT64_FORMAT,
                              hello->checkpoint_id, e->id);
    /* What the root once built on has gone. */
    if (reader->known &&
        ((e->parent != 0 && hello->parent_id != e->parent) || hello->incarnation != e->incarnation))
        return format_damaged(
            error,
            "it builds on checkpoint %" G_GUINT64_FORMAT " in incarnation %" G_GUINT64_FORMAT
            ", in the catalog on %" G_GUINT64_FORMAT " in incarnation %" G_GUINT64_FORMAT,
            hello->parent_id, hello->incarnation, e->parent, e->incarnation);
    reader->found.parent = hello->parent_id;
    reader->found.incarnation = hello->incarnation;
    if (ckpt_store_label_good(hello->label))
        reader->found.label = g_strdup(hello->label);
    return TRUE;
}

static gboolean
reader_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    StoreReader *reader = opaque;
    CatalogRow *found = &reader->found;
    const CatalogRow *e = &reader->expected;

    if (reader->begun)
        return format_damaged(error, "it has more than one epoch");
    found->epoch = begin->epoch;
    found->full = begin->full;
    found->base_epoch = begin->full ? 0 : begin->base_epoch;
    found->layout = storefile_layout_sum(begin);
    if (reader->known && (found->epoch != e->epoch || found->full != e->full ||
                          found->base_epoch != e->base_epoch || found->layout != e->layout))
        return format_damaged(error,
                              "it is epoch %" G_GUINT64_FORMAT " on epoch %" G_GUINT64_FORMAT
                              ", in the catalog epoch %" G_GUINT64_FORMAT
                              " on epoch %" G_GUINT64_FORMAT ", or of other members",
                              found->epoch, found->base_epoch, e->epoch, e->base_epoch);
    reader->begun = true;
    reader->n_members = (uint32_t)begin->n_members;
    return reader->visitor->begin == NULL || reader->visitor->begin(reader->opaque, begin, error);
}

static gboolean
reader_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    StoreReader *reader = opaque;

    *(image < reader->n_members ? &reader->found.ram_pages : &reader->found.disk_blocks) += count;
    return reader->visitor->pages == NULL ||
           reader->visitor->pages(reader->opaque, image, pages, count, error);
}

static gboolean
reader_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
             GError **error)
{
    StoreReader *reader = opaque;

    reader->found.realtime_ns = state->realtime_ns;
    return reader->visitor->state == NULL ||
           reader->visitor->state(reader->opaque, packed, len, error);
}

static gboolean
reader_end(void *opaque, uint64_t epoch, GError **error)
{
    StoreReader *reader = opaque;

    reader->ended = true;
    return TRUE;
}

static const ReceiverOps reader_ops = {
    .hello = reader_hello,
    .begin = reader_begin,
    .pages = reader_pages,
    .state = reader_state,
    .end = reader_end,
};

/* ---- Reading ---- */

StoreReader *
storefile_open(CkptStore *store, const CatalogRow *row, bool known, const StoreVisitor *visitor,
               void *opaque, GError **error)
{
    static const StoreVisitor nobody;
    g_autoptr(StoreReader) reader = g_new0(StoreReader, 1);

    reader->store = store;
    reader->name = storefile_name(row->id, row->generation);
    reader->visitor = visitor != NULL ? visitor : &nobody;
    reader->opaque = opaque;
    reader->expected = catalog_row_copy(row);
    reader->known = known;
    reader->found.id = row->id;
    reader->found.generation = row->generation;
    reader->receiver = receiver_new(&reader_ops, reader);
    reader->fd = openat(store->dir_fd, reader->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (reader->fd < 0) {
        store_fail_errno(store, reader->name, "opening it", errno, error);
        return NULL;
    }
    reader->file = record_file_new(reader->fd);
    return g_steal_pointer(&reader);
}

void
storefile_close(StoreReader *reader)
{
    if (reader == NULL)
        return;
    record_file_free(reader->file);
    receiver_free(reader->receiver);
    if (reader->fd >= 0)
        close(reader->fd);
    catalog_row_clear(&reader->expected);
    catalog_row_clear(&reader->found);
    g_free(reader->name);
    g_free(reader);
}

static gboolean
reader_check_end(StoreReader *reader, GError **error)
{
    const CatalogRow *e = &reader->expected;

    reader->found.bytes = record_file_bytes(reader->file);
    if (!reader->ended) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED,
                    "truncated: there is no whole epoch in it");
        return FALSE;
    }
    if (reader->known &&
        (reader->found.bytes != e->bytes || reader->found.realtime_ns != e->realtime_ns))
        return format_damaged(error,
                              "it has %" G_GUINT64_FORMAT
                              " bytes, in the catalog %" G_GUINT64_FORMAT ", or is of another time",
                              reader->found.bytes, e->bytes);
    return TRUE;
}

gboolean
storefile_step(StoreReader *reader, gboolean *more, GError **error)
{
    if (record_file_feed(reader->file, reader->receiver, more, error) &&
        (*more || reader_check_end(reader, error)))
        return TRUE;
    g_prefix_error(error, "store %s/%s: ", reader->store->path, reader->name);
    return FALSE;
}

gboolean
storefile_read(StoreReader *reader, GError **error)
{
    gboolean more = TRUE;

    while (more) {
        if (!storefile_step(reader, &more, error))
            return FALSE;
    }
    return TRUE;
}

uint64_t
storefile_bytes(const StoreReader *reader)
{
    return record_file_bytes(reader->file);
}

const CatalogRow *
storefile_row(const StoreReader *reader)
{
    return &reader->found;
}

bool
storefile_begun(const StoreReader *reader)
{
    return reader->begun;
}

int
storefile_fd(const StoreReader *reader)
{
    return reader->fd;
}
