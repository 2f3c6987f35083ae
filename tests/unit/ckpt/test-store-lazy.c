/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store: checkpoints read page by page, and the indexes of their files. (That a lazy load comes to
 * the same as a whole one is asserted in all tests of the store: rig_assert_loads.) */
#include "store-rig.h"

#include "ckpt/store-internal.h"

#include <glib/gstdio.h>
#include <string.h>

#define CHECKPOINTS 4
#define FLIPS 40

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
    image = ckpt_store_load_lazy(rig.store, CHECKPOINTS, rig.dir, &ram, &error);
    g_assert_no_error(error);
    g_assert_nonnull(image);
    for (uint32_t i = 0; i < storeram_members(ram); i++)
        storeram_have(ram, i, 0, storeram_pages(ram, i));
    /* Nothing is left that this could be called with. */
    g_assert_true(storeram_fetch(ram, 0, 0, NULL, NULL, &error));
    g_assert_true(storeram_next(ram, NULL, NULL, &done, &error) && done);
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
    g_assert_null(ckpt_store_load_lazy(reader, CHECKPOINTS, rig.dir, &ram, &error));
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
    image = ckpt_store_load_lazy(reader, 3, rig.dir, &ram, &error);
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
    image = ckpt_store_load_lazy(reader, 1, rig.dir, &ram, &error);
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
    g_test_add_func("/store-lazy/a reader may read later only what is pinned",
                    test_reader_unpinned);
    g_test_add_func("/store-lazy/what is pinned is read later as it was", test_reader_pinned);
    g_test_add_func("/store-lazy/a reader writes no index", test_reader_writes_nothing);
    return g_test_run();
}
