/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a checkpoint: base images, then the files from the root to it, oldest first.
 *
 * Theory of operation. RAM goes into fresh memfds, from the last file of the chain that is full on,
 * or else from the base images. Disk blocks go into an overlay for each disk (store-disk.c). What
 * a disk has in the root's file is left out if the root is merged: the home has it.
 *
 * A base image may hold some of the pages of a root that is not merged yet, torn by a crash. So a
 * page that does not fit its sum is under suspicion until the root's file has replaced it.
 *
 * A lazy load goes by the indexes of the files (store-index.c): of RAM, and of blocks of disks, it only
 * learns where they are (store-ram.c), and gives the blocks places in the overlays whose room is
 * taken: where that cannot be had, they are read at once. Only the state of the cut is read in any case.
 *
 * A writer at work may move the root on while a reader of the store loads. Base images would then
 * be ahead of the chain; so afterwards the catalog is looked at again, and all of it is done again
 * if the root is another. A lazy load reads base images after that as well, and so a reader makes one
 * only of a checkpoint that is pinned: nothing is written to base images then, and the files are open.
 */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"
#include "common/pagebits.h"

#include <unistd.h>

#define LOAD_ATTEMPTS 8
/* How often memory is looked at. */
#define LOAD_CHECK_PAGES 8192

typedef struct Load {
    CkptStore *store;
    const char *overlay_dir;
    const Catalog *catalog;
    const CatalogRow *row; /* whose file is read */
    bool take_ram;         /* of this file */
    bool take_disks;
    bool last;
    RamSet *ram;
    GArray *images;      /* of this file, StoreImage */
    GPtrArray *disks;    /* of StoreDisk, all that have been seen */
    GPtrArray *disks_of; /* of this file, in order; not owned */
    uint64_t **suspects; /* per member: pages of the base image that do not fit their sums */
    uint64_t n_suspects;
    uint64_t since_check;
    District__CutState *cut;
    bool lazy;
    StoreLazy what;
    StoreRam *source;      /* lazy */
    GByteArray *begin;     /* lazy: EPOCH_BEGIN of this file, packed */
    uint64_t *image_pages; /* lazy: of this file's images */
} Load;

/* ---- Base images ---- */

typedef struct BaseLoad {
    Load *load;
    uint32_t member;
    const char *name;
} BaseLoad;

static gboolean
base_damaged(const Load *load, const char *name, uint64_t page, GError **error)
{
    return store_fail(load->store, CKPT_STORE_ERROR_DAMAGED, error,
                      "%s: damaged: page %" G_GUINT64_FORMAT
                      " is not what was written: bring back an intact copy of the store",
                      name, page);
}

static gboolean
check_room(Load *load, uint32_t count, GError **error)
{
    load->since_check += count;
    if (load->since_check < LOAD_CHECK_PAGES)
        return TRUE;
    load->since_check = 0;
    return ram_set_check_room(load->ram, error);
}

static gboolean
load_base_page(void *opaque, uint64_t page, const uint8_t *data, bool good, GError **error)
{
    const BaseLoad *to = opaque;
    Load *load = to->load;

    if (!check_room(load, 1, error))
        return FALSE;
    if (good) {
        ram_set_put(load->ram, to->member, page, data);
        return TRUE;
    }
    if (load->catalog->merged)
        return base_damaged(load, to->name, page, error);
    pagebits_set(load->suspects[to->member], page);
    load->n_suspects++;
    return TRUE;
}

static gboolean
load_base(Load *load, GError **error)
{
    load->suspects = g_new0(uint64_t *, load->ram->n);
    for (uint32_t i = 0; i < load->ram->n; i++) {
        const StoreImage *image = &g_array_index(load->images, StoreImage, i);
        g_autoptr(BaseImage) base =
            base_open(load->store, image->member, image->bytes, BASE_READ, error);
        BaseLoad to = {.load = load, .member = i};

        if (base == NULL)
            return FALSE;
        to.name = base_name(base);
        load->suspects[i] = storefile_map(pagebits_bytes(page_count(image->bytes)), error);
        if (load->suspects[i] == NULL || !base_read(base, load_base_page, &to, error))
            return FALSE;
    }
    return TRUE;
}

static void
clear_suspect(Load *load, uint32_t member, uint64_t page)
{
    const unsigned word_bits = 64;

    if (!pagebits_test(load->suspects[member], page))
        return;
    load->suspects[member][page / word_bits] &= ~((uint64_t)1 << (page % word_bits));
    load->n_suspects--;
}

/* The root's file has been read: what is still under suspicion is damaged. */
static gboolean
check_suspects(const Load *load, GError **error)
{
    for (uint32_t i = 0; load->n_suspects > 0 && i < load->ram->n; i++) {
        for (uint64_t page = 0; page < page_count(load->ram->sizes[i]); page++) {
            g_autofree char *name = NULL;

            if (!pagebits_test(load->suspects[i], page))
                continue;
            name = g_strdup_printf(STORE_BASE_DIR "/ram-%s.img",
                                   g_array_index(load->images, StoreImage, i).member);
            return base_damaged(load, name, page, error);
        }
    }
    return TRUE;
}

/* ---- Disks ---- */

static StoreDisk *
find_disk(Load *load, const StoreImage *what, GError **error)
{
    StoreDisk *disk;

    for (guint i = 0; i < load->disks->len; i++) {
        disk = g_ptr_array_index(load->disks, i);
        if (storefile_image_equal(storedisk_image(disk), what))
            return disk;
    }
    if (load->overlay_dir == NULL && load->what != STORE_LAZY_ADOPT) {
        store_fail(load->store, CKPT_STORE_ERROR_REFUSED, error,
                   "member %s has disks: they need a directory for their overlays", what->member);
        return NULL;
    }
    disk = storedisk_new(load->store, what, load->overlay_dir, error);
    if (disk == NULL)
        return NULL;
    g_ptr_array_add(load->disks, disk);
    return !load->lazy || storeram_see_disk(load->source, what->bytes, error) ? disk : NULL;
}

/* ---- A file of the chain ---- */

static gboolean
load_ram_begin(Load *load, const District__StreamEpochBegin *begin, GError **error)
{
    g_autofree uint64_t *sizes = NULL;

    if (!begin->full && load->ram != NULL)
        return TRUE; /* the same members: load_chain has seen to it */
    if (load->lazy && !storeram_set_members(load->source, load->store, begin, error))
        return FALSE;
    sizes = g_new(uint64_t, begin->n_members);
    for (size_t i = 0; i < begin->n_members; i++)
        sizes[i] = begin->members[i]->ram_size;
    load->ram = ram_set_new(sizes, (uint32_t)begin->n_members, error);
    return load->ram != NULL && (begin->full || load->lazy || load_base(load, error));
}

/* A lazy load comes back to these. */
static void
load_note_begin(Load *load, const District__StreamEpochBegin *begin)
{
    g_byte_array_set_size(load->begin, (guint)district__stream_epoch_begin__get_packed_size(begin));
    district__stream_epoch_begin__pack(begin, load->begin->data);
    g_free(load->image_pages);
    load->image_pages = layout_image_pages(begin);
}

static gboolean
load_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Load *load = opaque;

    if (load->lazy)
        load_note_begin(load, begin);
    g_clear_pointer(&load->images, g_array_unref);
    load->images = storefile_images(begin);
    g_ptr_array_set_size(load->disks_of, 0);
    for (guint i = (guint)begin->n_members; i < load->images->len; i++) {
        StoreDisk *disk = find_disk(load, &g_array_index(load->images, StoreImage, i), error);
        if (disk == NULL)
            return FALSE;
        g_ptr_array_add(load->disks_of, disk);
    }
    return !load->take_ram || load_ram_begin(load, begin, error);
}

static gboolean
load_ram_pages(Load *load, uint32_t member, const DecodedPage *pages, uint32_t count,
               GError **error)
{
    if (!check_room(load, count, error))
        return FALSE;
    for (uint32_t i = 0; i < count; i++) {
        ram_set_put(load->ram, member, pages[i].index, pages[i].data);
        if (load->n_suspects > 0)
            clear_suspect(load, member, pages[i].index);
    }
    return TRUE;
}

static gboolean
load_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Load *load = opaque;
    uint32_t n_members = load->images->len - load->disks_of->len;

    if (image < n_members)
        return !load->take_ram || load_ram_pages(load, image, pages, count, error);
    if (!load->take_disks)
        return TRUE;
    return storedisk_put(g_ptr_array_index(load->disks_of, image - n_members), pages, count, error);
}

static gboolean
load_state(void *opaque, const uint8_t *packed, size_t len, GError **error)
{
    Load *load = opaque;

    if (!load->last)
        return TRUE;
    load->cut = (District__CutState *)layout_unpack(&district__cut_state__descriptor, packed, len,
                                                    "STATE record", error);
    return load->cut != NULL;
}

/* ---- A file of the chain, by its index ---- */

static gboolean
lazy_disk(Load *load, int fd, const StoreIndexRecord *record, GByteArray *payload, Decoder *decoder,
          GError **error)
{
    const DecodeInput input = {.n_pages_of = load->image_pages, .n_images = load->images->len};
    const DecodedPage *pages;
    uint32_t image, count;

    if (!storeram_read_record(fd, record->offset, RECORD_PAGES, payload, error))
        return FALSE;
    pages = decoder_pages(decoder, payload->data, payload->len, &input, &image, &count, error);
    return pages != NULL && load_pages(load, image, pages, count, error);
}

static gboolean
lazy_disks(Load *load, int fd, const StoreIndex *index, GByteArray *payload, GError **error)
{
    uint32_t n_members = load->images->len - load->disks_of->len;
    Decoder *decoder = decoder_new();
    gboolean good = TRUE;

    for (guint i = 0; good && i < index->records->len; i++) {
        const StoreIndexRecord *record = &g_array_index(index->records, StoreIndexRecord, i);
        if (record->image >= n_members)
            good = lazy_disk(load, fd, record, payload, decoder, error);
    }
    decoder_free(decoder);
    return good;
}

static gboolean
lazy_check_cut(const Load *load, GError **error)
{
    District__StreamEpochBegin *begin =
        district__stream_epoch_begin__unpack(NULL, load->begin->len, load->begin->data);
    gboolean good = begin != NULL && layout_check_cut(load->cut, error) &&
                    layout_check_match(begin, load->cut, error);

    if (begin != NULL)
        district__stream_epoch_begin__free_unpacked(begin, NULL);
    return good;
}

static gboolean
lazy_state(Load *load, int fd, uint64_t offset, GByteArray *payload, GError **error)
{
    g_autoptr(GByteArray) packed = NULL;

    if (!storeram_read_record(fd, offset, RECORD_STATE, payload, error))
        return FALSE;
    packed = state_decompress(payload->data, payload->len, error);
    return packed != NULL && load_state(load, packed->data, packed->len, error) &&
           lazy_check_cut(load, error);
}

/* What is taken of this file later: of each image as storeram_add wants it. Caller frees. */
static int *
lazy_wanted(const Load *load)
{
    guint n_members = load->images->len - load->disks_of->len, seen;
    int *wanted = g_new(int, MAX(load->images->len, 1));

    for (guint i = 0; i < load->images->len; i++)
        wanted[i] = i < n_members && load->take_ram ? STORERAM_IS_RAM : STORERAM_NOT_WANTED;
    for (guint i = n_members; i < load->images->len; i++) {
        if (load->take_disks && load->what != STORE_LAZY_RAM &&
            g_ptr_array_find(load->disks, g_ptr_array_index(load->disks_of, i - n_members), &seen))
            wanted[i] = (int)seen;
    }
    return wanted;
}

/* Its head has been read. */
static gboolean
lazy_rest(Load *load, const char *name, int fd, const StoreIndex *index, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autofree int *wanted = lazy_wanted(load);
    bool disks_now = load->take_disks && load->what == STORE_LAZY_RAM;

    if (!storeram_add(load->source, name, fd, index, load->image_pages, load->images->len, wanted,
                      error))
        return FALSE;
    if ((!disks_now || lazy_disks(load, fd, index, payload, error)) &&
        (!load->last || lazy_state(load, fd, index->state_at, payload, error)))
        return TRUE;
    g_prefix_error(error, "store %s/%s: ", load->store->path, name);
    return FALSE;
}

static gboolean
load_file_lazy(Load *load, GError **error)
{
    static const StoreVisitor visitor = {.begin = load_begin};
    g_autoptr(StoreIndex) index = storeindex_get(load->store, load->row, error);
    g_autoptr(StoreReader) reader =
        index != NULL ? storefile_open(load->store, load->row, true, &visitor, load, error) : NULL;
    g_autofree char *name = storefile_name(load->row->id, load->row->generation);
    gboolean more = TRUE;

    if (reader == NULL)
        return FALSE;
    while (more && !storefile_begun(reader)) {
        if (!storefile_step(reader, &more, error))
            return FALSE;
    }
    return lazy_rest(load, name, storefile_fd(reader), index, error);
}

static const StoreVisitor load_visitor = {
    .begin = load_begin, .pages = load_pages, .state = load_state};

/* ---- All of it ---- */

/* Does row say that it builds on parent as it is? */
static gboolean
check_link(const CkptStore *store, const CatalogRow *parent, const CatalogRow *row, GError **error)
{
    if (parent == NULL || row->full ||
        (row->base_epoch == parent->epoch && row->layout == parent->layout))
        return TRUE;
    return store_fail(store, CKPT_STORE_ERROR_DAMAGED, error,
                      "checkpoint %" G_GUINT64_FORMAT
                      " does not build on its parent %" G_GUINT64_FORMAT,
                      row->id, parent->id);
}

static gboolean
load_file(Load *load, GError **error)
{
    g_autoptr(StoreReader) reader = NULL;

    if (load->lazy)
        return load_file_lazy(load, error);
    reader = storefile_open(load->store, load->row, true, &load_visitor, load, error);

    return reader != NULL && storefile_read(reader, error);
}

/* Place in the chain of the last file that is full; 0 if none is (or the first). */
static guint
ram_start(const Catalog *catalog, const GArray *chain)
{
    guint start = 0;

    for (guint i = 0; i < chain->len; i++) {
        if (catalog_find(catalog, g_array_index(chain, uint64_t, i))->full)
            start = i;
    }
    return start;
}

static gboolean
load_chain(Load *load, uint64_t id, GError **error)
{
    g_autoptr(GArray) chain = catalog_chain(load->store, load->catalog, id, error);
    guint start;

    if (chain == NULL)
        return FALSE;
    start = ram_start(load->catalog, chain);
    for (guint i = 0; i < chain->len; i++) {
        const CatalogRow *parent = load->row;

        load->row = catalog_find(load->catalog, g_array_index(chain, uint64_t, i));
        load->take_ram = i >= start;
        load->take_disks = i > 0 || !load->catalog->merged;
        load->last = i == chain->len - 1;
        if (!check_link(load->store, parent, load->row, error) || !load_file(load, error) ||
            (i == 0 && load->take_ram && !check_suspects(load, error)))
            return FALSE;
    }
    return load->source == NULL || storeram_check_room(load->source, error);
}

/* ---- Disks that are read later ---- */

static gboolean
put_block(void *opaque, uint32_t disk, const DecodedPage *pages, uint32_t count, GError **error)
{
    const Load *load = opaque;

    return storedisk_put(g_ptr_array_index(load->disks_of, disk - STORERAM_DISK(0)), pages, count,
                         error);
}

/* There is no room that could be taken, or the file system takes none: as far as it goes, now. */
static gboolean
read_disks_now(Load *load, GError **error)
{
    for (uint32_t i = 0; i < load->disks_of->len; i++) {
        const GArray *blocks = storeram_blocks(load->source, STORERAM_DISK(i));
        for (guint k = 0; k < blocks->len; k++) {
            if (!storeram_fetch(load->source, STORERAM_DISK(i), g_array_index(blocks, uint64_t, k),
                                put_block, load, error))
                return FALSE;
        }
    }
    return TRUE;
}

/* *later: they are read later. */
static gboolean
lay_out_disks(Load *load, bool *later, GError **error)
{
    bool room = true;

    *later = false;
    for (guint i = 0, seen; load->lazy && i < load->disks_of->len; i++) {
        StoreDisk *disk = g_ptr_array_index(load->disks_of, i);
        if (!g_ptr_array_find(load->disks, disk, &seen))
            continue;
        storeram_use_disk(load->source, seen);
        if (load->what != STORE_LAZY_DISKS)
            continue;
        storedisk_give_places(disk, storeram_blocks(load->source, STORERAM_DISK(i)));
        room = room && storedisk_take_room(disk);
    }
    *later = load->lazy && load->what == STORE_LAZY_DISKS && room;
    return *later || !load->lazy || load->what != STORE_LAZY_DISKS || read_disks_now(load, error);
}

static gboolean
share_disk(const Load *load, uint32_t i, ImageDisk *disk, GError **error)
{
    const GArray *blocks = storeram_blocks(load->source, STORERAM_DISK(i));

    if (blocks->len > 0)
        disk->lazy = lazydisk_new((const uint64_t *)(const void *)blocks->data, blocks->len, error);
    return blocks->len == 0 || disk->lazy != NULL;
}

static Image *
image_from_load(Load *load, GError **error)
{
    bool later;

    g_autoptr(Image) image = g_new0(Image, 1);

    if (load->ram == NULL || load->cut == NULL) {
        store_fail(load->store, CKPT_STORE_ERROR_DAMAGED, error, "a chain without a checkpoint");
        return NULL;
    }
    if (!lay_out_disks(load, &later, error))
        return NULL;
    for (guint i = 0; i < load->disks_of->len; i++) {
        if (load->what != STORE_LAZY_ADOPT &&
            !storedisk_finish(g_ptr_array_index(load->disks_of, i), error))
            return NULL;
    }
    image->cut = g_steal_pointer(&load->cut);
    image->n_members = load->ram->n;
    image->ram_fds = g_memdup2(load->ram->fds, load->ram->n * sizeof *load->ram->fds);
    for (uint32_t i = 0; i < load->ram->n; i++)
        load->ram->fds[i] = -1;
    image->n_disks = load->disks_of->len;
    image->disks = g_new0(ImageDisk, image->n_disks);
    for (uint32_t i = 0; i < image->n_disks; i++)
        image->disks[i] = storedisk_take(g_ptr_array_index(load->disks_of, i));
    for (uint32_t i = 0; later && i < image->n_disks; i++) {
        if (!share_disk(load, i, &image->disks[i], error))
            return NULL;
    }
    return g_steal_pointer(&image);
}

static void
load_clear(Load *load)
{
    for (uint32_t i = 0; load->suspects != NULL && i < load->ram->n; i++)
        storefile_unmap(load->suspects[i], pagebits_bytes(page_count(load->ram->sizes[i])));
    g_free(load->suspects);
    g_clear_pointer(&load->ram, ram_set_free);
    g_clear_pointer(&load->images, g_array_unref);
    g_ptr_array_unref(load->disks_of);
    g_ptr_array_unref(load->disks);
    storeram_free(load->source);
    g_byte_array_unref(load->begin);
    g_free(load->image_pages);
    if (load->cut != NULL)
        district__cut_state__free_unpacked(load->cut, NULL);
}

/* lazy NULL: RAM and all. */
static Image *
load_once(CkptStore *store, const Catalog *catalog, uint64_t id, const char *overlay_dir,
          StoreLazy what, StoreRam **lazy, GError **error)
{
    Load load = {
        .store = store,
        .overlay_dir = overlay_dir,
        .catalog = catalog,
        .disks = g_ptr_array_new_with_free_func((GDestroyNotify)storedisk_free),
        .disks_of = g_ptr_array_new(),
        .lazy = lazy != NULL,
        .what = what,
        .source = lazy != NULL ? storeram_new(store) : NULL,
        .begin = g_byte_array_new(),
    };
    Image *image = load_chain(&load, id, error) ? image_from_load(&load, error) : NULL;

    if (image != NULL && lazy != NULL)
        *lazy = g_steal_pointer(&load.source);
    load_clear(&load);
    return image;
}

/* One attempt. *again: the store has changed underneath, whatever came of it. lazy: as load_once. */
static Image *
load_attempt(CkptStore *store, uint64_t id, const char *overlay_dir, StoreLazy what,
             StoreRam **lazy, bool *again, GError **error)
{
    g_autoptr(Catalog) before = catalog_read(store, error);
    g_autoptr(Catalog) after = NULL;
    g_autoptr(Image) image = NULL;

    *again = false;
    if (before == NULL || catalog_get(store, before, id, error) == NULL)
        return NULL;
    image = load_once(store, before, id, overlay_dir, what, lazy, error);
    if (store_is_writer(store))
        return g_steal_pointer(&image);
    after = catalog_read(store, NULL);
    if (after != NULL)
        *again = image != NULL ? before->root != after->root : before->changes != after->changes;
    return g_steal_pointer(&image);
}

static Image *
load_attempts(CkptStore *store, uint64_t id, const char *overlay_dir, StoreLazy what,
              StoreRam **lazy, GError **error)
{
    for (int i = 0; i < LOAD_ATTEMPTS; i++) {
        g_autoptr(Image) image = NULL;
        GError *why = NULL;
        bool again = false;

        image = load_attempt(store, id, overlay_dir, what, lazy, &again, &why);
        if (!again || (image == NULL && i == LOAD_ATTEMPTS - 1)) {
            if (image == NULL)
                g_propagate_error(error, why);
            return g_steal_pointer(&image);
        }
        g_clear_error(&why);
        if (lazy != NULL)
            g_clear_pointer(lazy, storeram_free);
        g_usleep(STORE_READ_AGAIN_US);
    }
    store_fail(store, CKPT_STORE_ERROR_BUSY, error,
               "it is changing too fast to be read: try again");
    return NULL;
}

Image *
ckpt_store_load(CkptStore *store, uint64_t id, const char *overlay_dir, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);
    int hold_fd = ckpt_store_hold(store);
    Image *image = load_attempts(store, id, overlay_dir, STORE_LAZY_RAM, NULL, error);

    if (hold_fd >= 0)
        close(hold_fd);
    return image;
}

static gboolean
check_pinned(CkptStore *store, uint64_t id, GError **error)
{
    g_autoptr(GPtrArray) pins = ckpt_store_pins(store, error);

    for (guint i = 0; pins != NULL && i < pins->len; i++) {
        if (((const CkptStorePin *)pins->pdata[i])->id == id)
            return TRUE;
    }
    return pins != NULL &&
           store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                      "checkpoint %" G_GUINT64_FORMAT " is not pinned, and may change while it is "
                      "read: make the clone anew",
                      id);
}

Image *
ckpt_store_load_lazy(CkptStore *store, uint64_t id, const char *overlay_dir, StoreLazy lazy,
                     StoreRam **ram, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);

    *ram = NULL;
    return store_is_writer(store) || check_pinned(store, id, error)
               ? load_attempts(store, id, overlay_dir, lazy, ram, error)
               : NULL;
}
