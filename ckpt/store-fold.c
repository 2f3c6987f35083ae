/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Folding a checkpoint into its only child: a new file for the child with what the parent's had and
 * the child's had not. The child stays what it is; the parent goes.
 *
 * Theory of operation. The child's file is read first: all its pages go into the new file, and
 * which they are is noted. Then the parent's: its pages go in unless the child has them. Then the
 * child's STATE and the end. If the child's epoch is full, nothing of the parent's RAM is needed;
 * if the parent's is, the result is full. The new file is read once more and compared with what its
 * row in the catalog will say, because the old ones go when it is swapped in.
 */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"
#include "common/pagebits.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define FOLD_ZSTD_LEVEL 3

typedef enum { FOLD_CHILD, FOLD_PARENT, FOLD_VERIFY, FOLD_DONE } FoldPhase;

struct FoldJob {
    CkptStore *store;
    FoldPhase phase;
    CatalogRow parent;
    CatalogRow child;
    CatalogRow result; /* the child's row, once swapped */
    StoreReader *reader;
    uint32_t n_members; /* of the child */
    GArray *images;     /* of the child, StoreImage */
    uint64_t **had;     /* bitmap of the child's pages, per image */
    int *place;         /* image of the parent -> image of the child; -1: not wanted */
    GByteArray *state;  /* the child's, compressed */
    char *name;
    int fd;
    uint64_t offset;
    uint64_t sequence;
    EpochTally tally;
    bool tallying;
    Encoder *encoder;
    bool swap_tried;
    bool swapped;
};

static uint64_t
bitmap_bytes(const FoldJob *job, guint image)
{
    return pagebits_bytes(disk_blocks(g_array_index(job->images, StoreImage, image).bytes));
}

/* A swap that has failed may come to light after a crash, until the catalog is settled: then the
 * file has to be there. */
static void
remove_result(FoldJob *job)
{
    CatalogGone gone = {.id = job->result.id, .generation = job->result.generation};

    if (job->name == NULL || job->swapped)
        return;
    if (job->swap_tried)
        g_array_append_val(job->store->limbo, gone);
    else if (unlinkat(job->store->dir_fd, job->name, 0) != 0)
        g_debug("%s/%s: %s", job->store->path, job->name, g_strerror(errno));
}

void
fold_free(FoldJob *job)
{
    if (job == NULL)
        return;
    remove_result(job);
    storefile_close(job->reader);
    for (guint i = 0; job->had != NULL && i < job->images->len; i++)
        storefile_unmap(job->had[i], bitmap_bytes(job, i));
    g_free(job->had);
    g_free(job->place);
    g_clear_pointer(&job->images, g_array_unref);
    g_clear_pointer(&job->state, g_byte_array_unref);
    if (job->tallying)
        epoch_tally_clear(&job->tally);
    encoder_free(job->encoder);
    if (job->fd >= 0)
        close(job->fd);
    catalog_row_clear(&job->parent);
    catalog_row_clear(&job->child);
    catalog_row_clear(&job->result);
    g_free(job->name);
    g_free(job);
}

/* ---- Writing ---- */

static gboolean
fold_record(FoldJob *job, RecordType type, const void *payload, uint32_t length, uint32_t pages,
            GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header = {.type = (uint16_t)type, .length = length};
    uint64_t epoch = type == RECORD_HELLO ? 0 : job->child.epoch;
    int err;

    header.checksum = record_header_encode(raw, type, job->sequence++, epoch, payload, length);
    if (type == RECORD_EPOCH_BEGIN || type == RECORD_PAGES || type == RECORD_STATE)
        epoch_tally_add(&job->tally, &header, pages);
    err = store_write_all(job->fd, raw, sizeof raw, job->offset);
    if (err == 0)
        err = store_write_all(job->fd, payload, length, job->offset + sizeof raw);
    job->offset += sizeof raw + length;
    return err == 0 || store_fail_errno(job->store, job->name, "writing it", err, error);
}

static gboolean
fold_message(FoldJob *job, RecordType type, const ProtobufCMessage *message, GError **error)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    g_autofree uint8_t *packed = g_malloc(len + 1);

    protobuf_c_message_pack(message, packed);
    return fold_record(job, type, packed, (uint32_t)len, 0, error);
}

static gboolean
fold_write_start(FoldJob *job, const District__StreamEpochBegin *of_child, GError **error)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    District__StreamEpochBegin begin = *of_child;

    hello.version = FILE_VERSION;
    hello.software = (char *)"district " DISTRICT_VERSION;
    hello.district = job->store->district;
    hello.incarnation = job->child.incarnation;
    hello.checkpoint_id = job->child.id;
    hello.parent_id = job->result.parent;
    if (job->child.label != NULL)
        hello.label = job->child.label;
    begin.full = job->result.full;
    begin.base_epoch = job->result.base_epoch;
    epoch_tally_start(&job->tally);
    job->tallying = true;
    return fold_message(job, RECORD_HELLO, &hello.base, error) &&
           fold_message(job, RECORD_EPOCH_BEGIN, &begin.base, error);
}

static gboolean
fold_write_pages(FoldJob *job, uint32_t image, const PageRef *pages, uint32_t count, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    EncodeStats stats = {0};
    uint32_t n = encoder_pages(job->encoder, image, pages, count, NULL, false, payload, &stats);

    *(image < job->n_members ? &job->result.ram_pages : &job->result.disk_blocks) += n;
    return n == 0 || fold_record(job, RECORD_PAGES, payload->data, payload->len, n, error);
}

static gboolean
fold_write_end(FoldJob *job, GError **error)
{
    District__StreamEpochEnd end = DISTRICT__STREAM_EPOCH_END__INIT;

    if (!fold_record(job, RECORD_STATE, job->state->data, job->state->len, 0, error))
        return FALSE;
    end.epoch = job->child.epoch;
    end.pages_records = job->tally.pages_records;
    end.pages = job->tally.pages;
    end.payload_bytes = job->tally.payload_bytes;
    end.checksum = epoch_tally_checksum(&job->tally);
    if (!fold_message(job, RECORD_EPOCH_END, &end.base, error))
        return FALSE;
    job->result.bytes = job->offset;
    if (fdatasync(job->fd) != 0)
        return store_fail_errno(job->store, job->name, "fdatasync", errno, error);
    return store_sync_dir(job->store, job->store->dir_fd, error);
}

/* ---- Reading ---- */

static gboolean
child_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    FoldJob *job = opaque;

    job->n_members = (uint32_t)begin->n_members;
    job->images = storefile_images(begin);
    job->had = g_new0(uint64_t *, job->images->len);
    for (guint i = 0; i < job->images->len; i++) {
        job->had[i] = storefile_map(bitmap_bytes(job, i), error);
        if (job->had[i] == NULL)
            return FALSE;
    }
    return fold_write_start(job, begin, error);
}

static gboolean
child_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    static const uint8_t zeroes[PAGE_BYTES];
    FoldJob *job = opaque;
    PageRef refs[PAGES_PER_RECORD_MAX];

    for (uint32_t i = 0; i < count; i++) {
        pagebits_set(job->had[image], pages[i].index);
        refs[i] = (PageRef){pages[i].index, pages[i].data != NULL ? pages[i].data : zeroes};
    }
    return fold_write_pages(job, image, refs, count, error);
}

static gboolean
child_state(void *opaque, const uint8_t *packed, size_t len, GError **error)
{
    FoldJob *job = opaque;

    job->state = state_compress(packed, len);
    return TRUE;
}

static gboolean
parent_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    FoldJob *job = opaque;
    g_autoptr(GArray) images = storefile_images(begin);

    job->place = g_new(int, images->len);
    for (guint i = 0; i < images->len; i++) {
        const StoreImage *image = &g_array_index(images, StoreImage, i);

        job->place[i] = -1;
        for (guint k = 0; k < job->images->len; k++) {
            if (storefile_image_equal(image, &g_array_index(job->images, StoreImage, k)) &&
                !(image->disk < 0 && job->child.full))
                job->place[i] = (int)k;
        }
    }
    return TRUE;
}

static gboolean
parent_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    static const uint8_t zeroes[PAGE_BYTES];
    FoldJob *job = opaque;
    PageRef refs[PAGES_PER_RECORD_MAX];
    int place = job->place[image];
    uint32_t n = 0;

    if (place < 0)
        return TRUE;
    for (uint32_t i = 0; i < count; i++) {
        if (!pagebits_test(job->had[place], pages[i].index))
            refs[n++] = (PageRef){pages[i].index, pages[i].data != NULL ? pages[i].data : zeroes};
    }
    return n == 0 || fold_write_pages(job, (uint32_t)place, refs, n, error);
}

static const StoreVisitor child_visitor = {
    .begin = child_begin, .pages = child_pages, .state = child_state};
static const StoreVisitor parent_visitor = {.begin = parent_begin, .pages = parent_pages};

/* ---- The job ---- */

static gboolean
highest_generation(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    CatalogRow *row = opaque;

    if (id == row->id)
        row->generation = MAX(row->generation, generation);
    return TRUE;
}

static const CatalogRow *
only_child(const Catalog *catalog, uint64_t parent)
{
    const CatalogRow *child = NULL;

    for (guint i = 0; i < catalog->rows->len; i++) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);

        if (row->parent != parent)
            continue;
        if (child != NULL)
            return NULL;
        child = row;
    }
    return child;
}

static gboolean
fold_create(FoldJob *job, GError **error)
{
    CkptStore *store = job->store;
    g_autofree char *name = NULL;

    if (!store_foreach_file(store, highest_generation, &job->result, error))
        return FALSE;
    job->result.generation++;
    name = storefile_name(job->result.id, job->result.generation);
    job->fd = openat(store->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (job->fd < 0)
        return store_fail_errno(store, name, "creating it", errno, error);
    job->name = g_steal_pointer(&name);
    job->reader = storefile_open(store, &job->child, true, &child_visitor, job, error);
    return job->reader != NULL;
}

FoldJob *
fold_begin(CkptStore *store, const Catalog *catalog, uint64_t parent, GError **error)
{
    const CatalogRow *from = catalog_get(store, catalog, parent, error);
    const CatalogRow *child = only_child(catalog, parent);
    FoldJob *job;

    if (from == NULL)
        return NULL;
    if (child == NULL) {
        store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                   "checkpoint %" G_GUINT64_FORMAT " has not exactly one child", parent);
        return NULL;
    }
    job = g_new0(FoldJob, 1);
    job->store = store;
    job->fd = -1;
    job->parent = catalog_row_copy(from);
    job->child = catalog_row_copy(child);
    job->result = catalog_row_copy(child);
    job->result.parent = from->parent;
    job->result.full = child->full || from->full;
    job->result.base_epoch = job->result.full ? 0 : from->base_epoch;
    job->result.ram_pages = job->result.disk_blocks = 0;
    job->encoder = encoder_new(FOLD_ZSTD_LEVEL);
    if (!fold_create(job, error))
        g_clear_pointer(&job, fold_free);
    return job;
}

/* A file has been read to its end: go on to the next. */
static gboolean
fold_next(FoldJob *job, GError **error)
{
    g_clear_pointer(&job->reader, storefile_close);
    job->phase++;
    if (job->phase == FOLD_PARENT)
        job->reader = storefile_open(job->store, &job->parent, true, &parent_visitor, job, error);
    else if (job->phase == FOLD_VERIFY && fold_write_end(job, error))
        job->reader = storefile_open(job->store, &job->result, true, NULL, NULL, error);
    return job->phase == FOLD_DONE || job->reader != NULL;
}

gboolean
fold_some(FoldJob *job, uint64_t budget, uint64_t *spent, gboolean *done, GError **error)
{
    uint64_t before = *spent;

    while (job->phase != FOLD_DONE && *spent - before < budget) {
        uint64_t read = storefile_bytes(job->reader), written = job->offset;
        gboolean more = TRUE;

        if (!storefile_step(job->reader, &more, error))
            return FALSE;
        *spent += storefile_bytes(job->reader) - read + job->offset - written;
        if (!more && !fold_next(job, error))
            return FALSE;
    }
    *done = job->phase == FOLD_DONE;
    return TRUE;
}

/* ---- The swap ---- */

typedef struct Swap {
    FoldJob *job;
    const CkptStorePolicy *policy;
    gboolean swapped;
} Swap;

/* Is the parent still to go, and are both as they were read? */
static bool
swap_wanted(const Catalog *catalog, const Swap *swap)
{
    const FoldJob *job = swap->job;
    const CatalogRow *parent = catalog_find(catalog, job->parent.id);
    const CatalogRow *child = only_child(catalog, job->parent.id);
    g_autofree bool *keep = g_new0(bool, catalog->rows->len + 1);

    if (parent == NULL || parent->id == catalog->root || parent->parent != job->parent.parent ||
        parent->generation != job->parent.generation || child == NULL ||
        child->id != job->child.id || child->generation != job->child.generation)
        return false;
    policy_select(catalog, swap->policy, keep);
    return !keep[parent - (const CatalogRow *)(void *)catalog->rows->data];
}

static gboolean
change_swap(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    Swap *swap = opaque;
    FoldJob *job = swap->job;

    if (!swap_wanted(catalog, swap))
        return TRUE;
    /* It may have got another label in the meantime. */
    g_free(job->result.label);
    job->result.label = g_strdup(catalog_find(catalog, job->child.id)->label);
    swap->swapped = TRUE;
    return catalog_put(store, &job->result, error) && catalog_drop(store, job->parent.id, error) &&
           catalog_put_gone(store, job->parent.id, job->parent.generation, error) &&
           catalog_put_gone(store, job->child.id, job->child.generation, error);
}

gboolean
fold_swap(FoldJob *job, const CkptStorePolicy *policy, gboolean *swapped, GError **error)
{
    Swap swap = {.job = job, .policy = policy};

    job->swap_tried = true;
    if (!catalog_change(job->store, true, change_swap, &swap, error))
        return FALSE;
    job->swapped = swap.swapped;
    *swapped = swap.swapped;
    return TRUE;
}
