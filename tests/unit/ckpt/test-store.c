/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store: commits, the tree, labels, and what a crash leaves between file and catalog. */
#include "store-rig.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const CkptStorePolicy keep_nothing = {0};

static void
assert_error(GError **error, CkptStoreError code, const char *has)
{
    g_assert_error(*error, CKPT_STORE_ERROR, (gint)code);
    g_assert_nonnull(strstr((*error)->message, has));
    g_clear_error(error);
}

static CkptStoreEntry *
entry(GPtrArray *entries, guint i)
{
    g_assert_cmpuint(i, <, entries->len);
    return g_ptr_array_index(entries, i);
}

static mode_t
mode_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_mode & 07777;
}

/* ---- Commits ---- */

static void
test_reopen(void)
{
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 6; i++)
        rig_commit(&rig, i == 3, NULL);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 6);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 6);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

static void
test_private(void)
{
    Rig rig;
    g_autoptr(GPtrArray) files = NULL;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_merge(&rig);
    files = rig_files(&rig);
    g_assert_cmpuint(files->len, >=, 7);
    for (guint i = 0; i < files->len; i++) {
        g_autofree char *path = g_build_filename(rig.path, g_ptr_array_index(files, i), NULL);
        g_assert_cmpuint(mode_of(path), ==, 0600);
    }
    g_assert_cmpuint(mode_of(rig.path), ==, 0700);
    /* A directory that others can look into is closed to them. */
    g_clear_pointer(&rig.store, ckpt_store_close);
    g_assert_cmpint(chmod(rig.path, 0755), ==, 0);
    rig_reopen(&rig);
    g_assert_cmpuint(mode_of(rig.path), ==, 0700);
    rig_clear(&rig);
}

static void
test_refused_commits(void)
{
    g_autoptr(GError) error = NULL;
    CkptStoreCommit commit;
    uint64_t first, id;
    Rig rig;

    rig_init(&rig);
    /* The first must be full. */
    id = rig_write(&rig, 0, false, NULL);
    g_assert_false(rig_has(&rig, id));
    commit = rig_commit_of(&rig, id, 0, false, NULL);
    g_assert_false(ckpt_store_commit(rig.store, id, &commit, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    g_assert_true(ckpt_store_discard(rig.store, id, &error));
    first = rig_commit(&rig, true, NULL);

    /* On what is not the head, or never was. */
    rig_commit(&rig, false, NULL);
    id = rig_write(&rig, first, false, NULL);
    commit = rig_commit_of(&rig, id, first, false, NULL);
    g_assert_false(ckpt_store_commit(rig.store, id, &commit, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "not the head");

    /* What the file says must be what the caller says. */
    id = rig_write(&rig, 3, false, "a");
    commit = rig_commit_of(&rig, id, 3, false, "b");
    g_assert_false(ckpt_store_commit(rig.store, id, &commit, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "says otherwise");
    commit = rig_commit_of(&rig, id + 1, 3, false, "a");
    g_assert_false(ckpt_store_commit(rig.store, id + 1, &commit, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, "not been prepared");
    rig_clear(&rig);
}

static void
test_old_incarnation(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t id;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig.incarnation = 5;
    rig_commit(&rig, false, NULL);
    rig.incarnation = 4;
    g_assert_false(rig_try_commit(&rig, false, NULL, &id, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "incarnation 5");
    rig_clear(&rig);
}

static void
test_discard(void)
{
    g_autoptr(GError) error = NULL;
    CkptStoreCommit commit;
    uint64_t a, b;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    a = rig_write(&rig, 1, false, NULL);
    g_assert_true(ckpt_store_discard(rig.store, a, &error));
    /* One that has been refused a place as well. */
    b = rig_write(&rig, a, false, NULL);
    commit = rig_commit_of(&rig, b, a, false, NULL);
    g_assert_false(ckpt_store_commit(rig.store, b, &commit, NULL));
    g_assert_true(ckpt_store_discard(rig.store, b, &error));
    g_assert_no_error(error);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_count(&rig), ==, 1);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* ---- Who may open it ---- */

static void
test_second_writer(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *pid = g_strdup_printf("process %d ", (int)getpid());
    Rig rig;

    rig_init(&rig);
    g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_WRITE, &error));
    assert_error(&error, CKPT_STORE_ERROR_BUSY, pid);
    rig_reopen(&rig);
    rig_clear(&rig);
}

static void
test_foreign(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *catalog = NULL;
    Rig rig;
    int fd;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    g_clear_pointer(&rig.store, ckpt_store_close);
    g_assert_null(ckpt_store_open(rig.path, "other", CKPT_STORE_WRITE, &error));
    assert_error(&error, CKPT_STORE_ERROR_FOREIGN, "shop");

    /* user_version, big-endian at 60 (the database's file format, section 1.3). */
    catalog = g_build_filename(rig.path, "catalog.db", NULL);
    fd = open(catalog, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, "\0\0\0\7", 4, 60), ==, 4);
    close(fd);
    g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_WRITE, &error));
    assert_error(&error, CKPT_STORE_ERROR_FOREIGN, "version 7");
    rig_clear(&rig);
}

static void
test_nothing_there(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *none = NULL, *catalog = NULL;
    Rig rig;

    rig_init(&rig);
    none = g_build_filename(rig.dir, "none", NULL);
    g_assert_null(ckpt_store_open(none, "shop", CKPT_STORE_WRITE, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, "none");
    g_assert_null(ckpt_store_open(rig.dir, NULL, CKPT_STORE_READ, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, rig.dir);

    /* Checkpoints without their catalog are not a new store. */
    rig_commit(&rig, true, NULL);
    g_clear_pointer(&rig.store, ckpt_store_close);
    catalog = g_build_filename(rig.path, "catalog.db", NULL);
    g_assert_cmpint(unlink(catalog), ==, 0);
    g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_CREATE, &error));
    assert_error(&error, CKPT_STORE_ERROR_DAMAGED, "catalog.db");
    /* A reader does not take it for one either: that has made an empty one; there is none. */
    for (int i = 0; i < 2; i++) {
        g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_READ, &error));
        assert_error(&error, CKPT_STORE_ERROR_DAMAGED, "catalog.db");
        unlink(catalog);
    }
    /* Nor one whose catalog cannot be opened. */
    g_assert_cmpint(symlink("loop", catalog), ==, 0);
    g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_READ, &error));
    assert_error(&error, CKPT_STORE_ERROR_IO, "catalog.db");
    rig_clear(&rig);
}

static void
test_reader_changes_nothing(void)
{
    g_autoptr(GError) error = NULL;
    CkptStorePruned pruned;
    gboolean done;
    uint64_t id;
    int fd;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    g_clear_pointer(&rig.store, ckpt_store_close);
    rig_open(&rig, CKPT_STORE_READ);
    g_assert_false(ckpt_store_prepare(rig.store, &id, &fd, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "reading only");
    g_assert_false(ckpt_store_label(rig.store, 1, "x", &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "reading only");
    g_assert_false(ckpt_store_prune(rig.store, &keep_nothing, 1, &pruned, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "reading only");
    g_assert_false(ckpt_store_merge_some(rig.store, 1, rig_find_home, &rig, &done, &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "reading only");
    rig_assert_all(&rig);
    rig_clear(&rig);
}

static gpointer
read_on(gpointer data)
{
    Rig *rig = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(rig->path, NULL, CKPT_STORE_READ, &error);

    g_assert_no_error(error);
    for (int i = 0; i < 60; i++) {
        g_autoptr(GPtrArray) entries = ckpt_store_list(store, &error);
        g_autoptr(Image) image = NULL;
        gint64 faults;
        uint64_t head = 0;

        g_assert_no_error(error);
        g_assert_cmpuint(entries->len, >, 0);
        g_assert_true(ckpt_store_find(store, "latest", &head, &error));
        image = ckpt_store_load(store, head, rig->dir, &error);
        /* It may have gone, but is never anything else. */
        if (image == NULL)
            g_clear_error(&error);
        else
            g_assert_cmpuint(image->cut->epoch, ==, head * 10);
        faults = ckpt_store_check(store, NULL, NULL, &error);
        g_assert_true(faults == 0 ||
                      g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_BUSY));
        g_clear_error(&error);
    }
    return NULL;
}

static void
test_reader_beside_writer(void)
{
    const CkptStorePolicy keep_two = {.keep_last = 2};
    GThread *reader;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    reader = g_thread_new("reader", read_on, &rig);
    for (int i = 0; i < 60; i++) {
        rig_commit(&rig, false, NULL);
        rig_prune(&rig, &keep_two);
    }
    g_thread_join(reader);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

#define POLITE_CHECKS 30

typedef struct PoliteRig {
    Rig rig;
    int checks; /* atomic */
} PoliteRig;

static gpointer
check_on(gpointer data)
{
    PoliteRig *polite = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(polite->rig.path, NULL, CKPT_STORE_READ, &error);

    g_assert_no_error(error);
    for (int i = 0; i < POLITE_CHECKS; i++) {
        g_assert_cmpint(ckpt_store_check(store, NULL, NULL, &error), ==, 0);
        g_assert_no_error(error);
        g_atomic_int_inc(&polite->checks);
    }
    return NULL;
}

static void
test_polite_writer(void)
{
    const CkptStorePolicy keep_two = {.keep_last = 2};
    PoliteRig polite = {.checks = 0};
    GThread *reader;
    bool seen = false;

    rig_init(&polite.rig);
    rig_commit(&polite.rig, true, NULL);
    g_assert_false(ckpt_store_is_read(polite.rig.store));
    reader = g_thread_new("reader", check_on, &polite);
    for (int commits = 0; g_atomic_int_get(&polite.checks) < POLITE_CHECKS;) {
        /* Not so many that the checks get longer and longer. */
        if (commits <= 2 * g_atomic_int_get(&polite.checks)) {
            rig_commit(&polite.rig, false, NULL);
            commits++;
        }
        if (ckpt_store_is_read(polite.rig.store))
            seen = true;
        else
            rig_prune(&polite.rig, &keep_two);
    }
    g_thread_join(reader);
    g_assert_true(seen);
    g_assert_false(ckpt_store_is_read(polite.rig.store));
    rig_clear(&polite.rig);
}

/* ---- The tree ---- */

static void
test_tree(void)
{
    static const struct {
        uint64_t id, parent;
        unsigned depth, flags;
    } expected[] = {
        {1, 0, 0, CKPT_STORE_ROOT | CKPT_STORE_IS_FULL},
        {2, 1, 1, 0},
        {3, 2, 2, CKPT_STORE_ABANDONED},
        {4, 3, 3, CKPT_STORE_ABANDONED | CKPT_STORE_PINNED},
        {5, 2, 2, 0},
        {6, 5, 3, CKPT_STORE_HEAD},
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) entries = NULL;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 4; i++)
        rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_set_head(rig.store, 2, &error));
    rig_commit(&rig, false, NULL);
    rig_commit(&rig, false, "after");
    g_assert_true(ckpt_store_pin(rig.store, 4, "clone-1", &error));
    rig_reopen(&rig);
    entries = ckpt_store_list(rig.store, &error);
    g_assert_cmpuint(entries->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < entries->len; i++) {
        const CkptStoreEntry *e = entry(entries, i);

        g_assert_cmpuint(e->id, ==, expected[i].id);
        g_assert_cmpuint(e->parent, ==, expected[i].parent);
        g_assert_cmpuint(e->depth, ==, expected[i].depth);
        g_assert_cmpuint(e->flags, ==, expected[i].flags);
        g_assert_cmpuint(e->epoch, ==, e->id * 10);
        g_assert_cmpint(e->realtime_ns, ==, (gint64)e->id * 1000);
        g_assert_cmpuint(e->bytes, >, 0);
    }
    g_assert_cmpstr(entry(entries, 5)->label, ==, "after");
    rig_assert_all(&rig);
    rig_clear(&rig);
}

static void
test_head_goes_back(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t head;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    /* Back and forth, as if gone back to between three moments. */
    for (int i = 0; i < 5; i++) {
        g_assert_true(ckpt_store_set_head(rig.store, 1 + (uint64_t)i % 3, &error));
        rig_reopen(&rig);
        g_assert_true(ckpt_store_head(rig.store, &head, &error));
        g_assert_cmpuint(head, ==, 1 + (uint64_t)i % 3);
        rig_commit(&rig, false, NULL);
        rig_assert_all(&rig);
    }
    g_assert_false(ckpt_store_set_head(rig.store, 99, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, "99");
    rig_clear(&rig);
}

static void
test_find(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t id;
    Rig rig;

    rig_init(&rig);
    g_assert_false(ckpt_store_find(rig.store, "latest", &id, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, "latest");
    rig_commit(&rig, false, "monday");
    rig_commit(&rig, false, "before upgrade");
    rig_commit(&rig, false, "monday");
    g_assert_true(ckpt_store_find(rig.store, "latest", &id, &error) && id == 3);
    g_assert_true(ckpt_store_find(rig.store, "2", &id, &error) && id == 2);
    g_assert_true(ckpt_store_find(rig.store, "before upgrade", &id, &error) && id == 2);
    g_assert_true(ckpt_store_find(rig.store, "monday", &id, &error) && id == 3);
    g_assert_true(ckpt_store_label(rig.store, 3, NULL, &error));
    g_assert_true(ckpt_store_label(rig.store, 2, "tuesday", &error));
    rig_reopen(&rig);
    g_assert_true(ckpt_store_find(rig.store, "monday", &id, &error) && id == 1);
    g_assert_true(ckpt_store_find(rig.store, "tuesday", &id, &error) && id == 2);
    g_assert_false(ckpt_store_find(rig.store, "friday", &id, &error));
    assert_error(&error, CKPT_STORE_ERROR_NOT_FOUND, "friday");
    g_assert_false(ckpt_store_label(rig.store, 1, "17", &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "label");
    g_assert_false(ckpt_store_label(rig.store, 1, "a\nb", &error));
    assert_error(&error, CKPT_STORE_ERROR_REFUSED, "label");
    rig_clear(&rig);
}

static void
test_usage(void)
{
    g_autoptr(GError) error = NULL;
    CkptStoreUsage usage;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_merge(&rig);
    g_assert_true(ckpt_store_usage(rig.store, &usage, &error));
    g_assert_cmpuint(usage.checkpoints, >, 0);
    g_assert_cmpuint(usage.base, >, 0);
    g_assert_cmpuint(usage.total, >, usage.checkpoints + usage.base);
    rig_clear(&rig);
}

/* ---- What a crash leaves ---- */

/* The catalog as it is now, to come back later. */
static void
save_catalog(const Rig *rig, const char *to)
{
    static const char *const names[] = {"catalog.db", "catalog.db-wal"};

    g_assert_cmpint(g_mkdir_with_parents(to, 0700), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *a = g_build_filename(rig->path, names[i], NULL);
        g_autofree char *b = g_build_filename(to, names[i], NULL);
        g_autofree char *data = NULL;
        gsize len;

        if (g_file_get_contents(a, &data, &len, NULL))
            g_assert_true(g_file_set_contents(b, data, (gssize)len, NULL));
    }
}

static void
bring_back_catalog(Rig *rig, const char *from)
{
    g_autofree char *wal = g_build_filename(rig->path, "catalog.db-wal", NULL);

    g_clear_pointer(&rig->store, ckpt_store_close);
    g_unlink(wal);
    rig_copy_tree(from, rig->path);
}

static void
test_lost_rows(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *saved = NULL;
    uint64_t head, id;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    saved = g_build_filename(rig.dir, "saved", NULL);
    save_catalog(&rig, saved);
    rig_commit(&rig, false, "kept in the file");
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    bring_back_catalog(&rig, saved);
    rig_open(&rig, CKPT_STORE_READ);
    g_assert_cmpuint(rig_count(&rig), ==, 2);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 5);
    g_assert_true(ckpt_store_head(rig.store, &head, &error) && head == 5);
    g_assert_true(ckpt_store_find(rig.store, "kept in the file", &id, &error) && id == 3);
    rig_assert_clean(&rig);
    g_assert_cmpuint(rig_commit(&rig, false, NULL), ==, 6);
    rig_clear(&rig);
}

/* Leave checkpoint 3 with its first len bytes only, as if the store had crashed. */
static void
crash_with(Rig *rig, const GByteArray *whole, size_t len)
{
    g_autofree char *path = g_build_filename(rig->path, "checkpoint-3-0.dcp", NULL);

    g_clear_pointer(&rig->store, ckpt_store_close);
    g_assert_true(g_file_set_contents_full(path, (const char *)whole->data, (gssize)len,
                                           G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    rig_open(rig, CKPT_STORE_WRITE);
}

static void
test_torn(void)
{
    g_autoptr(GByteArray) whole = NULL;
    g_autoptr(GArray) starts = NULL;
    g_autoptr(GArray) lengths = g_array_new(FALSE, FALSE, sizeof(size_t));
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    rig.plan[3] = (RigPlan){2, true, false};
    whole = rig_file(&rig, 3, 2, false, NULL, &starts);
    g_array_append_vals(lengths, starts->data, starts->len);
    for (int i = 0; i < 40; i++) {
        size_t len = (size_t)g_test_rand_int_range(0, (gint32)whole->len);
        g_array_append_val(lengths, len);
    }
    for (guint i = 0; i < lengths->len; i++) {
        g_autofree char *path = NULL;

        crash_with(&rig, whole, g_array_index(lengths, size_t, i));
        g_assert_cmpuint(rig_count(&rig), ==, 2);
        path = g_build_filename(rig.path, "checkpoint-3-0.dcp", NULL);
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    }
    rig_assert_all(&rig);
    crash_with(&rig, whole, whole->len);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 3);
    rig_clear(&rig);
}

static void
test_not_adopted(void)
{
    g_autoptr(GByteArray) other = NULL;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    /* Another's number. */
    other = rig_file(&rig, 4, 2, false, NULL, NULL);
    crash_with(&rig, other, other->len);
    g_assert_cmpuint(rig_count(&rig), ==, 2);
    g_byte_array_unref(other);
    /* A parent that is not there, of one that could not be discarded, and another was committed. */
    rig_commit(&rig, true, NULL);
    g_assert_cmpuint(rig_commit(&rig, true, NULL), ==, 5);
    other = rig_file(&rig, 3, 7, true, NULL, NULL);
    crash_with(&rig, other, other->len);
    g_assert_cmpuint(rig_count(&rig), ==, 4);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* Nothing can be opened with it, or is removed because of it, until the good one is back. */
static void
forgets(Rig *rig, const char *old, const char *new, guint checkpoints)
{
    g_autoptr(GPtrArray) before = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t id;

    save_catalog(rig, new);
    bring_back_catalog(rig, old);
    before = rig_files(rig);
    for (int i = 0; i < 2; i++) {
        g_assert_null(ckpt_store_open(rig->path, "shop", CKPT_STORE_WRITE, &error));
        assert_error(&error, CKPT_STORE_ERROR_DAMAGED, "catalog.db");
    }
    rig_open(rig, CKPT_STORE_READ);
    g_assert_cmpint(ckpt_store_check(rig->store, NULL, NULL, NULL), >, 0);
    if (rig_count(rig) == 0) {
        g_assert_false(ckpt_store_find(rig->store, "latest", &id, &error));
        assert_error(&error, CKPT_STORE_ERROR_DAMAGED, "catalog.db");
    }
    g_clear_pointer(&rig->store, ckpt_store_close);
    for (guint i = 0; i < before->len; i++) {
        g_autofree char *path = g_build_filename(rig->path, before->pdata[i], NULL);
        g_assert_true(strstr(path, "catalog") || g_file_test(path, G_FILE_TEST_EXISTS));
    }
    bring_back_catalog(rig, new);
    rig_open(rig, CKPT_STORE_WRITE);
    g_assert_cmpuint(rig_assert_all(rig), ==, checkpoints);
}

/* As when a bit has flipped in SQLite's log: what was before it is there. */
static void
test_forgotten(void)
{
    const CkptStorePolicy two = {.keep_last = 2},
                          labelled = {.keep_last = 1, .keep_labelled = true};
    g_autofree char *empty = NULL, *old = NULL, *new = NULL;
    Rig rig;

    rig_init(&rig);
    empty = g_build_filename(rig.dir, "empty", NULL);
    old = g_build_filename(rig.dir, "old", NULL);
    new = g_build_filename(rig.dir, "new", NULL);
    save_catalog(&rig, empty);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    save_catalog(&rig, old);
    rig_commit(&rig, false, "keep");
    rig_commit(&rig, false, NULL);
    rig_prune(&rig, &two);
    forgets(&rig, old, new, 2);
    forgets(&rig, empty, new, 2);
    /* A file that was written anew in place of another. */
    rig_commit(&rig, false, NULL);
    save_catalog(&rig, old);
    rig_prune(&rig, &labelled);
    forgets(&rig, old, new, 2);
    rig_clear(&rig);
}

static void
test_leftovers(void)
{
    static const char *const names[] = {"checkpoint-2-1.dcp", "checkpoint-9-4.dcp",
                                        "checkpoint-5-0.dcp"};
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(rig.path, names[i], NULL);
        g_assert_true(g_file_set_contents(path, "half a file", -1, NULL));
    }
    rig_reopen(&rig);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(rig.path, names[i], NULL);
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    }
    g_assert_cmpuint(rig_assert_all(&rig), ==, 2);
    /* A number that has been seen is not given out again. */
    g_assert_cmpuint(rig_commit(&rig, false, NULL), ==, 10);
    rig_clear(&rig);
}

static void
test_missing_file(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    path = rig_path_of(&rig, 2);
    g_assert_cmpint(unlink(path), ==, 0);
    rig_reopen(&rig);
    rig_assert_loads(&rig, 1);
    g_assert_null(ckpt_store_load(rig.store, 3, rig.dir, &error));
    g_assert_nonnull(strstr(error->message, "checkpoint-2-0.dcp"));
    g_assert_cmpint(ckpt_store_check(rig.store, NULL, NULL, NULL), ==, 1);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL);
    rig_in_memory = true;
    g_test_add_func("/store/checkpoints are there after it is opened again", test_reopen);
    g_test_add_func("/store/only its owner can look into it", test_private);
    g_test_add_func("/store/a commit that does not fit is refused", test_refused_commits);
    g_test_add_func("/store/a commit of an incarnation that is over is refused",
                    test_old_incarnation);
    g_test_add_func("/store/what is discarded does not come back", test_discard);
    g_test_add_func("/store/a second writer is refused by the first one's process",
                    test_second_writer);
    g_test_add_func("/store/another district's and another version are refused by name",
                    test_foreign);
    g_test_add_func("/store/where there is none, none is opened", test_nothing_there);
    g_test_add_func("/store/a reader changes nothing", test_reader_changes_nothing);
    g_test_add_func("/store/readers see a good store while the writer works",
                    test_reader_beside_writer);
    g_test_add_func("/store/a writer that leaves a store alone while it is read holds up no check",
                    test_polite_writer);
    g_test_add_func("/store/the list is the tree", test_tree);
    g_test_add_func("/store/the head goes back and forth", test_head_goes_back);
    g_test_add_func("/store/checkpoints are found by number and label", test_find);
    g_test_add_func("/store/its size is known", test_usage);
    g_test_add_func("/store/checkpoints without entry are taken in again", test_lost_rows);
    g_test_add_func("/store/a file torn at any length is removed", test_torn);
    g_test_add_func("/store/a whole file that has no place here is removed", test_not_adopted);
    g_test_add_func("/store/a catalog that has lost what was written to it costs no checkpoint",
                    test_forgotten);
    g_test_add_func("/store/what work in progress has left is removed", test_leftovers);
    g_test_add_func("/store/a missing file is named", test_missing_file);
    return g_test_run();
}
