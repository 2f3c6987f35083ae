/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store: checkpoints read page by page, and the indexes of their files. (That a lazy load comes to
 * the same as a whole one is asserted in all tests of the store: rig_assert_loads.) */
#include "store-rig.h"

#include "ckpt/store-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECKPOINTS 4
#define FLIPS 40

/* ---- What is read of checkpoint files ---- */

static uint64_t bytes_read;

static void
note_read(int fd, ssize_t n)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    if (n > 0 && path != NULL && g_str_has_suffix(path, ".dcp"))
        bytes_read += (uint64_t)n;
}

ssize_t
read(int fd, void *buf, size_t len)
{
    ssize_t n = syscall(SYS_read, fd, buf, len);

    note_read(fd, n);
    return n;
}

ssize_t
pread(int fd, void *buf, size_t len, off_t offset)
{
    ssize_t n = syscall(SYS_pread64, fd, buf, len, offset);

    note_read(fd, n);
    return n;
}

/* ---- Room that cannot be taken ---- */

static bool no_room;

int
fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (!no_room)
        return (int)syscall(SYS_fallocate, fd, mode, offset, len);
    errno = ENOSPC;
    return -1;
}

/* Checkpoints over merged base images, all files with an index. */
static void
rig_init_indexed(Rig *rig)
{
    gboolean done = FALSE;

    rig_init(rig);
    for (int i = 0; i < CHECKPOINTS; i++)
        rig_commit(rig, false, NULL);
    rig_prune(rig, &(CkptStorePolicy){.keep_last = 3});
    rig_merge(rig);
    while (!done) {
        g_autoptr(GError) error = NULL;
        ckpt_store_index_some(rig->store, PAGE_BYTES, &done, &error);
        g_assert_no_error(error);
    }
}

static guint
count_files(const Rig *rig, const char *suffix)
{
    g_autoptr(GPtrArray) files = rig_files(rig);
    guint n = 0;

    for (guint i = 0; i < files->len; i++)
        n += g_str_has_suffix(files->pdata[i], suffix);
    return n;
}

static void
test_indexes(void)
{
    Rig rig;

    rig_init_indexed(&rig);
    g_assert_cmpuint(count_files(&rig, ".idx"), ==, rig_count(&rig));
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 1});
    g_assert_cmpuint(rig_count(&rig), ==, 1);
    g_assert_cmpuint(count_files(&rig, ".idx"), <=, 1);
    rig_assert_all(&rig);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

static void
test_stray_indexes(void)
{
    g_autofree char *stray = NULL, *passing = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    stray = g_build_filename(rig.path, STORE_INDEX_DIR, "checkpoint-99-0.idx", NULL);
    passing = g_build_filename(rig.path, STORE_INDEX_DIR, "checkpoint-3-0.idx.new", NULL);
    g_assert_true(g_file_set_contents(stray, "x", 1, NULL));
    g_assert_true(g_file_set_contents(passing, "x", 1, NULL));
    rig_reopen(&rig);
    g_assert_false(g_file_test(stray, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(passing, G_FILE_TEST_EXISTS));
    g_assert_cmpuint(count_files(&rig, ".idx"), ==, rig_count(&rig));
    rig_clear(&rig);
}

/* An index is only a hint: with that of another file, or a damaged one, nothing wrong is loaded. */
static void
test_foreign_index(void)
{
    Rig rig;

    rig_init_indexed(&rig);
    g_autofree char *a = g_build_filename(rig.path, STORE_INDEX_DIR, "checkpoint-3-0.idx", NULL);
    g_autofree char *b = g_build_filename(rig.path, STORE_INDEX_DIR, "checkpoint-4-0.idx", NULL);
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(b, &data, &len, NULL));
    g_assert_true(g_file_set_contents(a, data, (gssize)len, NULL));
    rig_assert_all(&rig);
    g_assert_true(g_file_set_contents(a, data, (gssize)len / 2, NULL));
    rig_assert_all(&rig);
    g_assert_true(g_file_set_contents(a, "", 0, NULL));
    rig_assert_all(&rig);
    rig_clear(&rig);
}

/* Flips a bit and back; what is loaded in between is right, or refused with the name of the file. */
static guint
flip(Rig *rig, const char *file, size_t at)
{
    g_autofree char *path = g_build_filename(rig->path, file, NULL);
    g_autofree char *data = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = NULL;
    uint64_t head = 0;
    gsize len;

    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    data[at % len] ^= (char)(1 << at % 8);
    g_assert_true(
        g_file_set_contents_full(path, data, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    g_assert_true(ckpt_store_head(rig->store, &head, NULL));
    image = rig_load_lazy(rig, head, &error);
    if (image != NULL)
        g_assert_true(rig_image_is(rig, image, head));
    else
        g_assert_true(strstr(error->message, file) != NULL ||
                      g_str_has_suffix(file, ".sums")); /* said of the image */
    data[at % len] ^= (char)(1 << at % 8);
    g_assert_true(
        g_file_set_contents_full(path, data, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    return image == NULL;
}

static void
test_flips(void)
{
    g_autoptr(GPtrArray) files = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    files = rig_files(&rig);
    for (guint i = 0; i < files->len; i++) {
        const char *file = files->pdata[i];
        guint refused = 0;

        if (!g_str_has_prefix(file, "checkpoint-") && !g_str_has_prefix(file, "base/") &&
            !g_str_has_prefix(file, STORE_INDEX_DIR "/"))
            continue;
        for (int n = 0; n < FLIPS; n++)
            refused += flip(&rig, file, (size_t)g_test_rand_int_range(0, G_MAXINT32));
        /* An index that is damaged is made again. */
        if (g_str_has_prefix(file, STORE_INDEX_DIR "/"))
            g_assert_cmpuint(refused, ==, 0);
        else if (g_str_has_prefix(file, "base/"))
            g_assert_cmpuint(refused, >, 0);
    }
    rig_assert_all(&rig);
    rig_clear(&rig);
}

static void
test_present(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;
    gboolean done = FALSE;
    Rig rig;

    rig_init_indexed(&rig);
    image = ckpt_store_load_lazy(rig.store, CHECKPOINTS, rig.dir, STORE_LAZY_DISKS, &ram, &error);
    g_assert_no_error(error);
    g_assert_nonnull(image);
    for (uint32_t i = 0; i < storeram_members(ram); i++)
        storeram_have(ram, i, 0, storeram_pages(ram, i));
    for (uint32_t i = 0; i < storeram_disks(ram); i++)
        storeram_skip_disk(ram, STORERAM_DISK(i));
    /* Nothing is left that this could be called with. */
    g_assert_true(storeram_fetch(ram, 0, 0, NULL, NULL, &error));
    g_assert_true(storeram_next(ram, NULL, NULL, &done, &error) && done);
    rig_clear(&rig);
}

/* ---- Disks ---- */

/* So many bytes are read of the files before the members can run. */
static uint64_t
bytes_before_running(Rig *rig, uint64_t id, StoreLazy lazy)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;

    bytes_read = 0;
    image = ckpt_store_load_lazy(rig->store, id, rig->dir, lazy, &ram, &error);
    g_assert_no_error(error);
    g_assert_nonnull(image);
    return bytes_read;
}

/* What is read first is the head of each file and the state of the last: with many files that have
 * blocks it is not more for the blocks. */
static void
test_bytes_read(void)
{
    gboolean done = FALSE;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 40; i++)
        rig_commit(&rig, false, NULL);
    while (!done)
        g_assert_true(ckpt_store_index_some(rig.store, UINT64_MAX, &done, NULL));
    uint64_t few = bytes_before_running(&rig, 2, STORE_LAZY_DISKS);
    uint64_t many = bytes_before_running(&rig, 40, STORE_LAZY_DISKS);
    uint64_t now = bytes_before_running(&rig, 40, STORE_LAZY_RAM);
    g_test_message("2 files: %" G_GUINT64_FORMAT " bytes; 40 files: %" G_GUINT64_FORMAT
                   " bytes, with blocks of disks %" G_GUINT64_FORMAT,
                   few, many, now);
    g_assert_cmpuint(many - few, <=, 38 * 512);
    g_assert_cmpuint(now, >, 2 * many);
    rig_clear(&rig);
}

/* Nobody waits for room once the guests run: without it all is there before. */
static void
test_no_room(void)
{
    g_autoptr(GError) error = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    no_room = true;
    g_autoptr(Image) image = rig_load_lazy(&rig, CHECKPOINTS, &error);
    no_room = false;
    g_assert_no_error(error);
    for (uint32_t i = 0; i < image->n_disks; i++)
        g_assert_null(image->disks[i].lazy);
    g_assert_true(rig_image_is(&rig, image, CHECKPOINTS));
    rig_clear(&rig);
}

static gboolean
put_to_place(const StoreRam *ram, LazyDisk *to, int data_fd, uint32_t disk, const DecodedPage *page)
{
    static const uint8_t zeroes[PAGE_BYTES];
    uint64_t place = storeram_place(ram, disk, page->index);

    if (place == UINT64_MAX || lazydisk_has(to, place, 1))
        return FALSE;
    g_assert_cmpint(pwrite(data_fd, page->data != NULL ? page->data : zeroes, PAGE_BYTES,
                           (off_t)(place * PAGE_BYTES)),
                    ==, PAGE_BYTES);
    lazydisk_put(to, place);
    return TRUE;
}

typedef struct Adopted {
    StoreRam *ram;
    const Image *image; /* of the one that was killed */
    guint from_files;
} Adopted;

static gboolean
put_adopted(void *opaque, uint32_t disk, const DecodedPage *pages, uint32_t count, GError **error)
{
    Adopted *a = opaque;
    const ImageDisk *to = &a->image->disks[disk - STORERAM_DISK(0)];

    for (uint32_t i = 0; i < count; i++)
        a->from_files += put_to_place(a->ram, to->lazy, to->data_fd, disk, &pages[i]);
    return TRUE;
}

/* What is not in a file any more is at home. Returns how much that was. */
static guint
read_homes(const Rig *rig, const Adopted *a)
{
    guint n = 0;

    for (uint32_t k = 0; k < a->image->n_disks; k++) {
        const ImageDisk *to = &a->image->disks[k];
        for (uint64_t place = 0; to->lazy != NULL && place < lazydisk_places(to->lazy); place++) {
            uint8_t data[PAGE_BYTES] = {0};
            DecodedPage page = {lazydisk_block(to->lazy, place), data};
            if (lazydisk_has(to->lazy, place, 1))
                continue;
            g_assert_true(storeram_at_home(a->ram, STORERAM_DISK(k), page.index));
            g_assert_cmpint(pread(rig->homes[RIG_MEMBERS + k], data, PAGE_BYTES,
                                  (off_t)(page.index * PAGE_BYTES)),
                            >, 0);
            n += put_to_place(a->ram, to->lazy, to->data_fd, STORERAM_DISK(k), &page);
        }
    }
    return n;
}

/* Blocks that are the same in both checkpoints: no guest has written them in between. */
static void
assert_unchanged_right(const Rig *rig, const Image *image, uint64_t old, uint64_t new)
{
    g_autoptr(RigState) before = rig_model(rig, old), after = rig_model(rig, new);

    for (uint32_t k = 0; k < image->n_disks; k++) {
        const LazyDisk *lazy = image->disks[k].lazy;
        for (uint64_t place = 0; lazy != NULL && place < lazydisk_places(lazy); place++) {
            uint64_t at = lazydisk_block(lazy, place) * PAGE_BYTES;
            uint8_t data[PAGE_BYTES];
            if (memcmp(before->of[RIG_MEMBERS + k] + at, after->of[RIG_MEMBERS + k] + at,
                       PAGE_BYTES) != 0)
                continue;
            g_assert_cmpint(
                pread(image->disks[k].data_fd, data, sizeof data, (off_t)(place * PAGE_BYTES)), ==,
                sizeof data);
            g_assert_cmpmem(data, sizeof data, before->of[RIG_MEMBERS + k] + at, PAGE_BYTES);
        }
    }
}

/* district-ckpt is killed, and its successor finds other checkpoints, some of which were merged. */
static void
test_adopted(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) first = NULL, second = NULL;
    g_autoptr(Image) image = NULL, none = NULL;
    gboolean done = FALSE;
    Rig rig;

    rig_init_indexed(&rig);
    image = ckpt_store_load_lazy(rig.store, CHECKPOINTS, rig.dir, STORE_LAZY_DISKS, &first, &error);
    g_assert_no_error(error);
    Adopted a = {first, image, 0};
    g_assert_true(storeram_fetch(first, STORERAM_DISK(0), lazydisk_block(image->disks[0].lazy, 0),
                                 put_adopted, &a, &error));
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, i == 1, NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 3});
    none =
        ckpt_store_load_lazy(rig.store, CHECKPOINTS + 3, NULL, STORE_LAZY_ADOPT, &second, &error);
    g_assert_no_error(error);
    g_assert_nonnull(none);
    a = (Adopted){second, image, 0};
    for (uint32_t i = 0; i < storeram_members(second); i++)
        storeram_have(second, i, 0, storeram_pages(second, i));
    for (uint32_t k = 0; k < image->n_disks; k++) {
        if (image->disks[k].lazy == NULL)
            continue;
        storeram_adopt_disk(second, STORERAM_DISK(k), image->disks[k].lazy, &error);
        g_assert_no_error(error);
    }
    while (!done)
        g_assert_true(storeram_next(second, put_adopted, &a, &done, &error));
    g_assert_cmpuint(a.from_files, >, 0);
    g_assert_cmpuint(read_homes(&rig, &a), >, 0);
    assert_unchanged_right(&rig, image, CHECKPOINTS, CHECKPOINTS + 3);
    rig_clear(&rig);
}

/* Of a disk that is smaller, or with a block at two places. */
static void
test_adopted_foreign(void)
{
    static const uint64_t far[] = {0, 1000}, twice[] = {3, 4, 3};
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    image = ckpt_store_load_lazy(rig.store, CHECKPOINTS, NULL, STORE_LAZY_ADOPT, &ram, &error);
    g_assert_no_error(error);
    g_assert_nonnull(image);
    g_autoptr(LazyDisk) beyond = lazydisk_new(far, G_N_ELEMENTS(far), &error);
    g_autoptr(LazyDisk) double_place = lazydisk_new(twice, G_N_ELEMENTS(twice), &error);
    g_assert_false(storeram_adopt_disk(ram, STORERAM_DISK(0), beyond, &error));
    g_assert_nonnull(strstr(error->message, "block 1000"));
    g_clear_error(&error);
    g_assert_false(storeram_adopt_disk(ram, STORERAM_DISK(0), double_place, &error));
    g_assert_nonnull(strstr(error->message, "place 2 has block 3"));
    rig_clear(&rig);
}

static CkptStore *
reader_open(const Rig *rig)
{
    g_autoptr(GError) error = NULL;
    CkptStore *reader = ckpt_store_open(rig->path, NULL, CKPT_STORE_READ, &error);

    g_assert_no_error(error);
    return reader;
}

static void
test_reader_unpinned(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    g_autoptr(CkptStore) reader = reader_open(&rig);
    g_assert_null(
        ckpt_store_load_lazy(reader, CHECKPOINTS, rig.dir, STORE_LAZY_DISKS, &ram, &error));
    g_assert_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED);
    g_assert_nonnull(strstr(error->message, "not pinned"));
    rig_clear(&rig);
}

/* The writer goes on: what is read later is as it was. */
static void
test_reader_pinned(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;
    Rig rig;

    rig_init_indexed(&rig);
    g_assert_true(ckpt_store_pin(rig.store, 3, "peek", &error));
    g_autoptr(CkptStore) reader = reader_open(&rig);
    image = ckpt_store_load_lazy(reader, 3, rig.dir, STORE_LAZY_DISKS, &ram, &error);
    g_assert_no_error(error);
    for (int i = 0; i < 3; i++) {
        rig_commit(&rig, i == 1, NULL);
        rig_prune(&rig, &(CkptStorePolicy){.keep_last = 1});
    }
    g_assert_cmpuint(rig_count(&rig), ==, 2); /* the others have been folded */
    g_assert_true(rig_has(&rig, 3));
    rig_read_lazy(ram, image, &error);
    g_assert_no_error(error);
    g_assert_true(rig_image_is(&rig, image, 3));
    g_clear_pointer(&ram, storeram_free); /* before its store */
    rig_clear(&rig);
}

/* What a reader finds without an index it reads whole, and leaves no index behind. */
static void
test_reader_writes_nothing(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_pin(rig.store, 1, "peek", &error));
    g_autoptr(CkptStore) reader = reader_open(&rig);
    image = ckpt_store_load_lazy(reader, 1, rig.dir, STORE_LAZY_DISKS, &ram, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(count_files(&rig, ".idx"), ==, 0);
    rig_read_lazy(ram, image, &error);
    g_assert_no_error(error);
    g_assert_true(rig_image_is(&rig, image, 1));
    g_clear_pointer(&ram, storeram_free);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    rig_in_memory = true;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store-lazy/every file gets an index which goes with it", test_indexes);
    g_test_add_func("/store-lazy/indexes of nothing are removed at open", test_stray_indexes);
    g_test_add_func("/store-lazy/an index that is not the file's does no harm", test_foreign_index);
    g_test_add_func("/store-lazy/a flipped bit is named or changes nothing", test_flips);
    g_test_add_func("/store-lazy/pages that are there are not read", test_present);
    g_test_add_func("/store-lazy/what is read before members run does not grow with the disks",
                    test_bytes_read);
    g_test_add_func("/store-lazy/disks for which there is no room are read at once", test_no_room);
    g_test_add_func("/store-lazy/a successor goes on with the disks", test_adopted);
    g_test_add_func("/store-lazy/what a successor finds must be of the disk", test_adopted_foreign);
    g_test_add_func("/store-lazy/a reader may read later only what is pinned",
                    test_reader_unpinned);
    g_test_add_func("/store-lazy/what is pinned is read later as it was", test_reader_pinned);
    g_test_add_func("/store-lazy/a reader writes no index", test_reader_writes_nothing);
    return g_test_run();
}
