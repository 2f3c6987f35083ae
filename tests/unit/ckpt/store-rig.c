/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store, homes, and a model of what every checkpoint must be. */
#include "store-rig.h"

#include "ckpt/layout.h"
#include "common/diskindex.h"
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct RigImage {
    const char *member;
    int disk; /* -1: RAM */
    uint64_t bytes;
} RigImage;

bool rig_in_memory;

static const RigImage images[RIG_IMAGES] = {
    {"db", -1, 64 * 4096}, {"web", -1, 40 * 4096}, {"db", 0, 41 * 4096 + 3 * 512},
    {"db", 1, 512},        {"web", 0, 20 * 4096},
};

static uint64_t
padded(int image)
{
    return disk_blocks(images[image].bytes) * PAGE_BYTES;
}

/* ---- What a checkpoint writes ---- */

static uint64_t
mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x7fb5d329728ea185u;
    x ^= x >> 27;
    x *= 0x81dadef4bc2dd44du;
    return x ^ x >> 33;
}

/* The bytes of a page as checkpoint id leaves them; of a disk's last block, zeros at its end. */
static void
fill_page(uint8_t *page, uint64_t id, int image, uint64_t index)
{
    uint64_t seed = mix(id * 1000003 + (uint64_t)image * 1009 + index);
    uint64_t at = index * PAGE_BYTES;
    size_t len = (size_t)MIN(PAGE_BYTES, images[image].bytes - at);

    memset(page, 0, PAGE_BYTES);
    if (seed % 5 == 0)
        return; /* zeros */
    for (size_t i = 0; i < len; i += sizeof seed) {
        uint64_t word = seed + (i >> 6);
        memcpy(page + i, &word, sizeof word);
    }
}

static bool
writes_page(uint64_t id, bool full, int image, uint64_t index)
{
    uint64_t r = mix(id * 77 + (uint64_t)image * 31 + index * 7919 + 5);

    return r % 100 < (full && images[image].disk < 0 ? 80 : 12);
}

static RigState *
state_new(void)
{
    RigState *state = g_new0(RigState, 1);

    for (int i = 0; i < RIG_IMAGES; i++)
        state->of[i] = g_malloc0(padded(i));
    return state;
}

void
rig_state_free(RigState *state)
{
    if (state == NULL)
        return;
    for (int i = 0; i < RIG_IMAGES; i++)
        g_free(state->of[i]);
    g_free(state);
}

RigState *
rig_model(const Rig *rig, uint64_t id)
{
    RigState *state;

    g_assert_cmpuint(id, <, RIG_IDS_MAX);
    g_assert_true(id == 0 || rig->plan[id].known);
    state = id == 0 ? state_new() : rig_model(rig, rig->plan[id].parent);
    for (int i = 0; i < RIG_IMAGES; i++) {
        if (id != 0 && rig->plan[id].full && images[i].disk < 0)
            memset(state->of[i], 0, padded(i));
        for (uint64_t k = 0; k < padded(i) / PAGE_BYTES; k++) {
            if (id == 0 ? images[i].disk >= 0 : writes_page(id, rig->plan[id].full, i, k))
                fill_page(state->of[i] + k * PAGE_BYTES, id, i, k);
        }
    }
    return state;
}

/* ---- Homes ---- */

static int
home_image(const Rig *rig, const CkptStoreHome *home)
{
    return (int)(home - rig->home_ops);
}

typedef struct RigHome {
    Rig *rig;
    int image;
} RigHome;

static gboolean
home_call(RigHome *home, GError **error)
{
    Rig *rig = home->rig;

    if (rig->home_calls_left == 0) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_IO, "the home is out of order");
        return FALSE;
    }
    if (rig->home_calls_left > 0)
        rig->home_calls_left--;
    return TRUE;
}

static gboolean
home_write(void *opaque, uint64_t offset, const void *data, size_t len, GError **error)
{
    RigHome *home = opaque;

    g_assert_cmpuint(offset + len, <=, images[home->image].bytes);
    g_assert_cmpuint(len % SECTOR_BYTES, ==, 0);
    if (!home_call(home, error))
        return FALSE;
    if (pwrite(home->rig->homes[home->image], data, len, (off_t)offset) == (gssize)len)
        return TRUE;
    g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "pwrite: %s",
                g_strerror(errno));
    return FALSE;
}

static gboolean
home_zero(void *opaque, uint64_t offset, uint64_t len, GError **error)
{
    g_autofree uint8_t *zeroes = g_malloc0(len);

    return home_write(opaque, offset, zeroes, len, error);
}

static gboolean
home_flush(void *opaque, GError **error)
{
    RigHome *home = opaque;

    if (!home_call(home, error))
        return FALSE;
    if (fdatasync(home->rig->homes[home->image]) == 0)
        return TRUE;
    g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "fdatasync: %s",
                g_strerror(errno));
    return FALSE;
}

const CkptStoreHome *
rig_find_home(void *opaque, const char *member, uint32_t disk, uint64_t bytes)
{
    Rig *rig = opaque;

    for (int i = RIG_MEMBERS; i < RIG_IMAGES && !rig->no_homes; i++) {
        if (strcmp(images[i].member, member) == 0 && images[i].disk == (int)disk) {
            g_assert_cmpuint(images[i].bytes, ==, bytes);
            g_assert_cmpint(home_image(rig, &rig->home_ops[i]), ==, i);
            return &rig->home_ops[i];
        }
    }
    return NULL;
}

static void
open_homes(Rig *rig, bool create)
{
    g_autoptr(RigState) start = rig_model(rig, 0);

    for (int i = 0; i < RIG_IMAGES; i++) {
        g_autofree char *path = g_strdup_printf("%s/home-%d", rig->dir, i);
        RigHome *home = g_new0(RigHome, 1);

        *home = (RigHome){rig, i};
        rig->home_ops[i] = (CkptStoreHome){home_write, home_zero, home_flush, home};
        rig->homes[i] = -1;
        if (images[i].disk < 0)
            continue;
        rig->homes[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        g_assert_cmpint(rig->homes[i], >=, 0);
        if (!create)
            continue;
        g_assert_cmpint(pwrite(rig->homes[i], start->of[i], images[i].bytes, 0), ==,
                        (gssize)images[i].bytes);
        g_assert_cmpint(fsync(rig->homes[i]), ==, 0);
    }
}

/* ---- The rig ---- */

void
rig_open(Rig *rig, CkptStoreMode mode)
{
    g_autoptr(GError) error = NULL;

    rig->store = ckpt_store_open(rig->path, "shop", mode, &error);
    g_assert_no_error(error);
}

void
rig_reopen(Rig *rig)
{
    g_clear_pointer(&rig->store, ckpt_store_close);
    rig_open(rig, CKPT_STORE_WRITE);
}

void
rig_init_at(Rig *rig, const char *dir)
{
    *rig = (Rig){.incarnation = 3, .home_calls_left = -1};
    rig->dir = g_strdup(dir);
    rig->path = g_build_filename(rig->dir, "store", NULL);
    open_homes(rig, false);
}

static void
sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fsync(fd), ==, 0);
    close(fd);
}

void
rig_init(Rig *rig)
{
    *rig = (Rig){.incarnation = 3, .home_calls_left = -1};
    rig->dir = g_build_filename(rig_in_memory && g_access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                                                 : g_get_tmp_dir(),
                                "store-XXXXXX", NULL);
    g_assert_nonnull(g_mkdtemp(rig->dir));
    rig->path = g_build_filename(rig->dir, "store", NULL);
    open_homes(rig, true);
    sync_dir(rig->dir);
    rig_open(rig, CKPT_STORE_CREATE);
}

void
rig_leave(Rig *rig)
{
    g_clear_pointer(&rig->store, ckpt_store_close);
    for (int i = 0; i < RIG_IMAGES; i++) {
        g_free(rig->home_ops[i].opaque);
        if (rig->homes[i] >= 0)
            close(rig->homes[i]);
    }
    g_free(rig->path);
    g_free(rig->dir);
}

void
rig_clear(Rig *rig)
{
    g_clear_pointer(&rig->store, ckpt_store_close);
    rig_remove_tree(rig->dir);
    rig_leave(rig);
}

/* ---- Files ---- */

static void
write_begin(Writer *w, uint64_t id, uint64_t parent, bool full)
{
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    District__StreamMember members[RIG_MEMBERS], *list[RIG_MEMBERS];
    District__StreamDisk disks[RIG_IMAGES], *disk_list[RIG_IMAGES];
    int n = 0;

    for (int m = 0; m < RIG_MEMBERS; m++) {
        members[m] = (District__StreamMember)DISTRICT__STREAM_MEMBER__INIT;
        members[m].name = (char *)images[m].member;
        members[m].ram_size = images[m].bytes;
        members[m].disks = &disk_list[n];
        for (int i = RIG_MEMBERS; i < RIG_IMAGES; i++) {
            if (strcmp(images[i].member, images[m].member) != 0)
                continue;
            disks[n] = (District__StreamDisk)DISTRICT__STREAM_DISK__INIT;
            disks[n].size = images[i].bytes;
            disk_list[n] = &disks[n];
            n++;
            members[m].n_disks++;
        }
        list[m] = &members[m];
    }
    begin.epoch = id * 10;
    begin.full = full;
    begin.base_epoch = full ? 0 : parent * 10;
    begin.n_members = RIG_MEMBERS;
    begin.members = list;
    epoch_tally_start(&w->tally);
    w->tallying = true;
    w->epoch = begin.epoch;
    writer_message(w, RECORD_EPOCH_BEGIN, begin.epoch, &begin.base);
}

static void
write_state(Writer *w, uint64_t id)
{
    District__CutState cut = DISTRICT__CUT_STATE__INIT;
    District__CutMember members[RIG_MEMBERS], *list[RIG_MEMBERS];
    District__StreamDisk disks[RIG_IMAGES], *disk_list[RIG_IMAGES];
    g_autofree uint8_t *packed = NULL;
    g_autoptr(GByteArray) compressed = NULL;
    size_t len;
    int n = 0;

    for (int m = 0; m < RIG_MEMBERS; m++) {
        members[m] = (District__CutMember)DISTRICT__CUT_MEMBER__INIT;
        members[m].name = (char *)images[m].member;
        members[m].ram_size = images[m].bytes;
        members[m].disks = &disk_list[n];
        for (int i = RIG_MEMBERS; i < RIG_IMAGES; i++) {
            if (strcmp(images[i].member, images[m].member) != 0)
                continue;
            disks[n] = (District__StreamDisk)DISTRICT__STREAM_DISK__INIT;
            disks[n].size = images[i].bytes;
            disk_list[n] = &disks[n];
            n++;
            members[m].n_disks++;
        }
        members[m].engine = (char *)"kvm";
        /* It runs: one without is off. */
        members[m].state.data = (uint8_t *)"state";
        members[m].state.len = strlen("state");
        list[m] = &members[m];
    }
    cut.version = CUT_STATE_VERSION;
    cut.district = (char *)"shop";
    cut.epoch = w->epoch;
    cut.incarnation = w->incarnation;
    cut.n_members = RIG_MEMBERS;
    cut.members = list;
    cut.realtime_ns = (int64_t)id * 1000;
    cut.definition = (char *)RIG_DEFINITION;
    len = protobuf_c_message_get_packed_size(&cut.base);
    packed = g_malloc(len);
    protobuf_c_message_pack(&cut.base, packed);
    compressed = state_compress(packed, len);
    writer_record(w, RECORD_STATE, w->epoch, compressed->data, compressed->len, 0);
}

static void
write_pages(Writer *w, uint64_t id, bool full, int image)
{
    const uint32_t per_record = 7;
    g_autofree uint8_t *data = g_malloc(per_record * PAGE_BYTES);
    PageRef refs[7];
    uint32_t n = 0;

    for (uint64_t k = 0; k < padded(image) / PAGE_BYTES; k++) {
        if (!writes_page(id, full, image, k))
            continue;
        fill_page(data + n * PAGE_BYTES, id, image, k);
        refs[n] = (PageRef){k, data + n * PAGE_BYTES};
        if (++n == per_record) {
            writer_pages(w, (uint32_t)image, refs, n);
            n = 0;
        }
    }
    if (n > 0)
        writer_pages(w, (uint32_t)image, refs, n);
}

/* A page with something else first: of two in a file the later one holds. */
static void
write_twice(Writer *w, uint64_t id, bool full)
{
    for (int image = 0; image < RIG_IMAGES; image++) {
        for (uint64_t k = 0; k + 1 < padded(image) / PAGE_BYTES; k++) {
            if (writes_page(id, full, image, k)) {
                writer_page(w, (uint32_t)image, k, 0xee);
                break;
            }
        }
    }
}

GByteArray *
rig_file(Rig *rig, uint64_t id, uint64_t parent, bool full, const char *label, GArray **starts)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    GByteArray *bytes;
    Writer w;

    writer_init(&w, RIG_MEMBERS, 1);
    w.incarnation = rig->incarnation;
    hello.version = FILE_VERSION;
    hello.district = (char *)"shop";
    hello.incarnation = rig->incarnation;
    hello.checkpoint_id = id;
    hello.parent_id = parent;
    if (label != NULL)
        hello.label = (char *)label;
    writer_message(&w, RECORD_HELLO, 0, &hello.base);
    write_begin(&w, id, parent, full);
    write_twice(&w, id, full);
    for (int i = 0; i < RIG_IMAGES; i++)
        write_pages(&w, id, full, i);
    write_state(&w, id);
    writer_end(&w);
    bytes = g_byte_array_ref(w.out);
    if (starts != NULL)
        *starts = g_array_ref(w.starts);
    writer_clear(&w);
    return bytes;
}

CkptStoreCommit
rig_commit_of(const Rig *rig, uint64_t id, uint64_t parent, bool full, const char *label)
{
    return (CkptStoreCommit){
        .parent_id = parent,
        .full = full,
        .epoch = id * 10,
        .incarnation = rig->incarnation,
        .realtime_ns = (int64_t)id * 1000,
        .label = label,
    };
}

static gboolean
try_write(Rig *rig, uint64_t parent, bool full, const char *label, uint64_t *id, GError **error)
{
    g_autoptr(GByteArray) bytes = NULL;
    int fd;

    if (!ckpt_store_prepare(rig->store, id, &fd, error))
        return FALSE;
    g_assert_cmpuint(*id, <, RIG_IDS_MAX);
    rig->plan[*id] = (RigPlan){parent, true, full};
    bytes = rig_file(rig, *id, parent, full, label, NULL);
    if (write(fd, bytes->data, bytes->len) != (gssize)bytes->len || fdatasync(fd) != 0) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOSPC, "writing: %s", g_strerror(errno));
        close(fd);
        if (!ckpt_store_discard(rig->store, *id, NULL))
            g_test_message("not discarded");
        return FALSE;
    }
    close(fd);
    return TRUE;
}

uint64_t
rig_write(Rig *rig, uint64_t parent, bool full, const char *label)
{
    g_autoptr(GError) error = NULL;
    uint64_t id = 0;

    try_write(rig, parent, full, label, &id, &error);
    g_assert_no_error(error);
    return id;
}

gboolean
rig_try_commit(Rig *rig, bool full, const char *label, uint64_t *id, GError **error)
{
    CkptStoreCommit commit;
    uint64_t head;

    if (!ckpt_store_head(rig->store, &head, error) ||
        !try_write(rig, head, full || head == 0, label, id, error))
        return FALSE;
    commit = rig_commit_of(rig, *id, head, full || head == 0, label);
    return ckpt_store_commit(rig->store, *id, &commit, error);
}

uint64_t
rig_commit(Rig *rig, bool full, const char *label)
{
    g_autoptr(GError) error = NULL;
    uint64_t id = 0;

    rig_try_commit(rig, full, label, &id, &error);
    g_assert_no_error(error);
    return id;
}

/* ---- Comparing ---- */

static bool
page_is(const uint8_t *found, const uint8_t *wanted, int image, uint64_t page, uint64_t id)
{
    if (memcmp(found, wanted, PAGE_BYTES) == 0)
        return true;
    g_test_message("checkpoint %" G_GUINT64_FORMAT ": page %" G_GUINT64_FORMAT
                   " of image %d differs",
                   id, page, image);
    return false;
}

static bool
ram_is(const Image *image, int member, const RigState *state, uint64_t id)
{
    uint8_t page[PAGE_BYTES];

    for (uint64_t k = 0; k < padded(member) / PAGE_BYTES; k++) {
        g_assert_cmpint(pread(image->ram_fds[member], page, PAGE_BYTES, (off_t)(k * PAGE_BYTES)),
                        ==, PAGE_BYTES);
        if (!page_is(page, state->of[member] + k * PAGE_BYTES, member, k, id))
            return false;
    }
    return true;
}

/* Lay the overlay over disk; no block may come twice. */
static void
apply_overlay(const ImageDisk *overlay, uint8_t *disk, int image)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    for (uint64_t n = 0; n < overlay->entries; n++) {
        DiskIndexEntry entry;
        uint8_t *to;

        g_assert_cmpint(pread(overlay->index_fd, &entry, sizeof entry, (off_t)(n * sizeof entry)),
                        ==, sizeof entry);
        g_assert_cmpuint(entry.block, <, padded(image) / PAGE_BYTES);
        g_assert_true(g_hash_table_add(seen, GSIZE_TO_POINTER(entry.block)));
        to = disk + entry.block * PAGE_BYTES;
        if (entry.offset == DISK_INDEX_ZERO) {
            memset(to, 0, PAGE_BYTES);
            continue;
        }
        g_assert_cmpuint(entry.offset % PAGE_BYTES, ==, 0);
        g_assert_cmpint(pread(overlay->data_fd, to, PAGE_BYTES, (off_t)entry.offset), ==,
                        PAGE_BYTES);
    }
}

static bool
disk_is(Rig *rig, const ImageDisk *overlay, int image, const RigState *state, uint64_t id)
{
    g_autofree uint8_t *disk = g_malloc0(padded(image));

    g_assert_cmpint(pread(rig->homes[image], disk, images[image].bytes, 0), ==,
                    (gssize)images[image].bytes);
    apply_overlay(overlay, disk, image);
    for (uint64_t k = 0; k < padded(image) / PAGE_BYTES; k++) {
        if (!page_is(disk + k * PAGE_BYTES, state->of[image] + k * PAGE_BYTES, image, k, id))
            return false;
    }
    return true;
}

bool
rig_image_is(Rig *rig, const Image *image, uint64_t id)
{
    g_autoptr(RigState) state = rig_model(rig, id);

    g_assert_cmpuint(image->n_members, ==, RIG_MEMBERS);
    g_assert_cmpuint(image->n_disks, ==, RIG_IMAGES - RIG_MEMBERS);
    if (image->cut->epoch != id * 10)
        return false;
    for (int i = 0; i < RIG_IMAGES; i++) {
        if (images[i].disk < 0 ? !ram_is(image, i, state, id)
                               : !disk_is(rig, &image->disks[i - RIG_MEMBERS], i, state, id))
            return false;
    }
    return true;
}

typedef struct LazyPut {
    const StoreRam *ram;
    const Image *image;
} LazyPut;

/* Each block once, to its place, which nothing was in before. */
static void
put_blocks(const LazyPut *put, uint32_t disk, const DecodedPage *pages, uint32_t count)
{
    const ImageDisk *to = &put->image->disks[disk - STORERAM_DISK(0)];

    for (uint32_t i = 0; i < count; i++) {
        uint64_t place = storeram_place(put->ram, disk, pages[i].index);
        g_assert_cmpuint(place, <, lazydisk_places(to->lazy));
        g_assert_cmpuint(lazydisk_block(to->lazy, place), ==, pages[i].index);
        g_assert_false(lazydisk_has(to->lazy, place, 1));
        if (pages[i].data)
            g_assert_cmpint(
                pwrite(to->data_fd, pages[i].data, PAGE_BYTES, (off_t)(place * PAGE_BYTES)), ==,
                PAGE_BYTES);
        lazydisk_put(to->lazy, place);
    }
}

static gboolean
put_pages(void *opaque, uint32_t member, const DecodedPage *pages, uint32_t count, GError **error)
{
    static const uint8_t zeroes[PAGE_BYTES];
    const LazyPut *put = opaque;
    const Image *image = put->image;

    if (member >= STORERAM_DISK(0)) {
        put_blocks(put, member, pages, count);
        return TRUE;
    }

    for (uint32_t i = 0; i < count; i++) {
        off_t at = (off_t)(pages[i].index * PAGE_BYTES);
        uint8_t there;
        /* Each page comes once. */
        g_assert_cmpint(lseek(image->ram_fds[member], at, SEEK_DATA), !=, at);
        g_assert_cmpint(
            pwrite(image->ram_fds[member], pages[i].data ? pages[i].data : zeroes, PAGE_BYTES, at),
            ==, PAGE_BYTES);
        g_assert_cmpint(pread(image->ram_fds[member], &there, 1, at), ==, 1);
    }
    return TRUE;
}

/* One block that is waited for, at random. */
static gboolean
fetch_block(LazyPut *put, GError **error)
{
    uint32_t i = (uint32_t)g_test_rand_int_range(0, (gint)put->image->n_disks);
    const LazyDisk *lazy = put->image->disks[i].lazy;
    uint64_t place;

    if (!lazy)
        return TRUE;
    place = (uint64_t)g_test_rand_int_range(0, (gint32)lazydisk_places(lazy));
    return storeram_fetch((StoreRam *)put->ram, STORERAM_DISK(i), lazydisk_block(lazy, place),
                          put_pages, put, error) &&
           lazydisk_has(lazy, place, 1);
}

gboolean
rig_read_lazy(StoreRam *ram, Image *image, GError **error)
{
    LazyPut put = {ram, image};
    gboolean done = FALSE;

    while (!done) {
        uint32_t member = (uint32_t)g_test_rand_int_range(0, (gint)image->n_members);
        uint64_t page = (uint64_t)g_test_rand_int_range(0, (gint32)storeram_pages(ram, member));

        if (!storeram_fetch(ram, member, page, put_pages, &put, error) ||
            !fetch_block(&put, error) || !storeram_next(ram, put_pages, &put, &done, error))
            return FALSE;
    }
    for (uint32_t i = 0; i < image->n_disks; i++) {
        if (image->disks[i].lazy)
            g_assert_true(lazydisk_has(image->disks[i].lazy, 0, UINT32_MAX));
    }
    return TRUE;
}

Image *
rig_load_lazy(Rig *rig, uint64_t id, GError **error)
{
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image =
        ckpt_store_load_lazy(rig->store, id, rig->dir, STORE_LAZY_DISKS, &ram, error);

    return image && rig_read_lazy(ram, image, error) ? g_steal_pointer(&image) : NULL;
}

void
rig_assert_loads(Rig *rig, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = ckpt_store_load(rig->store, id, rig->dir, &error);
    g_autoptr(Image) lazy = NULL;

    g_assert_no_error(error);
    g_assert_true(rig_image_is(rig, image, id));
    lazy = rig_load_lazy(rig, id, &error);
    if (g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED))
        return; /* a reader */
    g_assert_no_error(error);
    g_assert_true(rig_image_is(rig, lazy, id));
}

guint
rig_assert_all(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) entries = ckpt_store_list(rig->store, &error);

    g_assert_no_error(error);
    for (guint i = 0; i < entries->len; i++)
        rig_assert_loads(rig, ((CkptStoreEntry *)g_ptr_array_index(entries, i))->id);
    return entries->len;
}

static void
say(void *opaque, const char *object, const char *text)
{
    g_test_message("%s: %s", object, text);
}

void
rig_assert_clean(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    gint64 faults = ckpt_store_check(rig->store, say, NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpint(faults, ==, 0);
}

bool
rig_has(Rig *rig, uint64_t id)
{
    g_autofree char *what = g_strdup_printf("%" G_GUINT64_FORMAT, id);
    uint64_t found;

    return ckpt_store_find(rig->store, what, &found, NULL);
}

guint
rig_count(Rig *rig)
{
    g_autoptr(GPtrArray) entries = ckpt_store_list(rig->store, NULL);

    return entries->len;
}

/* ---- Work ---- */

void
rig_merge(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    gboolean done = FALSE;

    for (int i = 0; i < 10000 && !done; i++) {
        ckpt_store_merge_some(rig->store, 20 * PAGE_BYTES, rig_find_home, rig, &done, &error);
        g_assert_no_error(error);
    }
    g_assert_true(done);
}

void
rig_prune(Rig *rig, const CkptStorePolicy *policy)
{
    g_autoptr(GError) error = NULL;
    CkptStorePruned pruned = {0};
    gboolean held = FALSE;

    g_assert_true(ckpt_store_is_held(rig->store, &held, &error));
    for (int i = 0; i < 10000 && (!pruned.done || (pruned.needs_merge && !held)); i++) {
        ckpt_store_prune(rig->store, policy, 30000, &pruned, &error);
        g_assert_no_error(error);
        if (pruned.needs_merge && !held)
            rig_merge(rig);
    }
    g_assert_true(pruned.done);
}

static void
add_files(GPtrArray *files, const char *dir, const char *below)
{
    g_autofree char *path = g_build_filename(dir, below, NULL);
    g_autoptr(GDir) d = g_dir_open(path, 0, NULL);
    const char *name;

    g_assert_nonnull(d);
    while ((name = g_dir_read_name(d)) != NULL) {
        g_autofree char *rel =
            *below != '\0' ? g_build_filename(below, name, NULL) : g_strdup(name);
        g_autofree char *full = g_build_filename(dir, rel, NULL);

        if (g_file_test(full, G_FILE_TEST_IS_DIR))
            add_files(files, dir, rel);
        else
            g_ptr_array_add(files, g_steal_pointer(&rel));
    }
}

GPtrArray *
rig_files(const Rig *rig)
{
    GPtrArray *files = g_ptr_array_new_with_free_func(g_free);

    add_files(files, rig->path, "");
    return files;
}

char *
rig_path_of(const Rig *rig, uint64_t id)
{
    g_autofree char *prefix = g_strdup_printf("checkpoint-%" G_GUINT64_FORMAT "-", id);
    g_autoptr(GPtrArray) files = rig_files(rig);

    for (guint i = 0; i < files->len; i++) {
        if (g_str_has_prefix(g_ptr_array_index(files, i), prefix))
            return g_build_filename(rig->path, g_ptr_array_index(files, i), NULL);
    }
    g_assert_not_reached();
}

void
rig_copy_tree(const char *from, const char *to)
{
    g_autoptr(GDir) d = g_dir_open(from, 0, NULL);
    const char *name;

    g_assert_nonnull(d);
    g_assert_cmpint(g_mkdir_with_parents(to, 0700), ==, 0);
    while ((name = g_dir_read_name(d)) != NULL) {
        g_autofree char *a = g_build_filename(from, name, NULL);
        g_autofree char *b = g_build_filename(to, name, NULL);
        g_autofree char *data = NULL;
        gsize len;

        if (g_file_test(a, G_FILE_TEST_IS_DIR)) {
            rig_copy_tree(a, b);
            continue;
        }
        /* What has gone since it was listed does not matter. */
        if (g_file_get_contents(a, &data, &len, NULL))
            g_assert_true(g_file_set_contents_full(b, data, (gssize)len, G_FILE_SET_CONTENTS_NONE,
                                                   0600, NULL));
    }
}

void
rig_remove_tree(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while (d != NULL && (name = g_dir_read_name(d)) != NULL) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        if (g_file_test(path, G_FILE_TEST_IS_DIR) && !g_file_test(path, G_FILE_TEST_IS_SYMLINK))
            rig_remove_tree(path);
        else
            g_unlink(path);
    }
    g_rmdir(dir);
}
