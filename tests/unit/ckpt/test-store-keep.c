/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store: merging, retention, folding, and damage. */
#include "store-rig.h"

#include "ckpt/store-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static const CkptStorePolicy keep_nothing = {0};

/* ---- Merging ---- */

static void
test_merge(void)
{
    g_autoptr(GError) error = NULL;
    gboolean merged, done;
    uint64_t root;
    Rig rig;

    rig_init(&rig);
    g_assert_true(ckpt_store_merge_some(rig.store, 1, rig_find_home, &rig, &done, &error) && done);
    for (int i = 0; i < 4; i++)
        rig_commit(&rig, false, NULL);
    rig_merge(&rig);
    g_assert_true(ckpt_store_root(rig.store, &root, &merged, &error));
    g_assert_true(root == 1 && merged);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 4);
    rig_assert_clean(&rig);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 4);
    rig_clear(&rig);
}

/* What the home has durably is not in the overlay any more. */
static void
test_merged_blocks(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) before = NULL, after = NULL;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    before = ckpt_store_load(rig.store, 1, rig.dir, &error);
    rig_merge(&rig);
    after = ckpt_store_load(rig.store, 1, rig.dir, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(before->disks[0].entries, >, 0);
    g_assert_cmpuint(after->disks[0].entries, ==, 0);
    g_assert_true(rig_image_is(&rig, before, 1));
    g_assert_true(rig_image_is(&rig, after, 1));
    rig_clear(&rig);
}

static void
test_merge_interrupted(void)
{
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 5; i++)
        rig_commit(&rig, false, NULL);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 6; i++) {
            uint64_t budget = (uint64_t)g_test_rand_int_range(1, 60) * PAGE_BYTES;
            g_autoptr(GError) error = NULL;
            gboolean done;

            ckpt_store_merge_some(rig.store, budget, rig_find_home, &rig, &done, &error);
            g_assert_no_error(error);
            rig_assert_all(&rig);
            if (g_test_rand_bit())
                rig_reopen(&rig);
            rig_assert_all(&rig);
            rig_assert_clean(&rig);
        }
        /* On to the next root: one that is not full. */
        rig_prune(&rig, &(CkptStorePolicy){.keep_last = 4u - (unsigned)round});
        rig_assert_all(&rig);
    }
    g_assert_cmpuint(rig_count(&rig), ==, 1);
    rig_clear(&rig);
}

static void
test_home_fails(void)
{
    Rig rig;
    bool merged = false;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    for (int calls = 0; !merged; calls++) {
        g_autoptr(GError) error = NULL;
        gboolean done = FALSE;

        rig.home_calls_left = calls;
        while (error == NULL && !done)
            ckpt_store_merge_some(rig.store, PAGE_BYTES, rig_find_home, &rig, &done, &error);
        merged = done;
        if (error != NULL) {
            g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_IO);
            g_assert_nonnull(strstr(error->message, "of member "));
        }
        rig_assert_all(&rig);
    }
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

static void
test_no_home(void)
{
    g_autoptr(GError) error = NULL;
    gboolean done;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig.no_homes = true;
    g_assert_false(
        ckpt_store_merge_some(rig.store, UINT64_MAX, rig_find_home, &rig, &done, &error));
    g_assert_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "disk 0 of member db"));
    rig.no_homes = false;
    rig_merge(&rig);
    rig_clear(&rig);
}

/* Neither the homes nor the base images change, and what is not kept goes nevertheless. */
static void
test_pin_holds(void)
{
    const CkptStorePolicy keep_one = {.keep_last = 1};
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) pins = NULL;
    gboolean done = FALSE, held = TRUE;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 7; i++)
        rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_merge_some(rig.store, 1, rig_find_home, &rig, &done, &error) && !done);
    g_assert_true(ckpt_store_is_held(rig.store, &held, &error) && !held);
    g_assert_true(ckpt_store_pin(rig.store, 4, "clone-peek", &error));
    rig_reopen(&rig);
    pins = ckpt_store_pins(rig.store, &error);
    g_assert_cmpuint(pins->len, ==, 1);
    g_assert_cmpuint(((CkptStorePin *)pins->pdata[0])->id, ==, 4);
    g_assert_cmpstr(((CkptStorePin *)pins->pdata[0])->owner, ==, "clone-peek");
    rig.home_calls_left = 0;
    g_assert_true(
        ckpt_store_merge_some(rig.store, UINT64_MAX, rig_find_home, &rig, &done, &error) && !done);
    rig_prune(&rig, &keep_one);
    /* The root, what is pinned, and the head. */
    g_assert_cmpuint(rig_assert_all(&rig), ==, 3);
    g_assert_true(rig_has(&rig, 1) && rig_has(&rig, 4) && rig_has(&rig, 7));
    rig.home_calls_left = -1;
    g_assert_true(ckpt_store_unpin(rig.store, 4, "clone-peek", &error));
    rig_prune(&rig, &keep_one);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 1);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

static void
test_full_root_merged(void)
{
    const CkptStorePolicy keep_one = {.keep_last = 1};
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    rig_prune(&rig, &keep_one);
    rig_merge(&rig);
    /* The RAM starts from nothing again, the disks do not. */
    rig_commit(&rig, true, NULL);
    rig_commit(&rig, false, NULL);
    rig_assert_all(&rig);
    rig_prune(&rig, &keep_one);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 1);
    rig_commit(&rig, false, NULL);
    rig_merge(&rig);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 2);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* ---- Retention ---- */

#define HOUR (INT64_C(3600) * 1000000000)

typedef struct PolicyRow {
    uint64_t id, parent;
    int64_t hour;
    const char *label;
} PolicyRow;

static Catalog *
catalog_of(const PolicyRow *rows, guint n, uint64_t head, bool merged)
{
    Catalog *catalog = g_new0(Catalog, 1);

    catalog->rows = g_array_new(FALSE, TRUE, sizeof(CatalogRow));
    g_array_set_clear_func(catalog->rows, (GDestroyNotify)catalog_row_clear);
    catalog->gone = g_array_new(FALSE, TRUE, sizeof(CatalogGone));
    catalog->pins = g_array_new(FALSE, TRUE, sizeof(CatalogPin));
    catalog->head = head;
    catalog->root = rows[0].id;
    catalog->merged = merged;
    for (guint i = 0; i < n; i++) {
        CatalogRow row = {
            .id = rows[i].id,
            .parent = rows[i].parent,
            .realtime_ns = rows[i].hour * HOUR + (int64_t)i,
            .label = g_strdup(rows[i].label),
        };
        g_array_append_val(catalog->rows, row);
    }
    return catalog;
}

/* Days 0, 0, 0, 1, 1, 1, 3, 3, 3; two in the last hour. */
static const PolicyRow nine[] = {
    {1, 0, 1, NULL}, {2, 1, 2, NULL},  {3, 2, 20, "a"},  {4, 3, 25, NULL}, {5, 4, 30, NULL},
    {6, 5, 40, "b"}, {7, 6, 80, NULL}, {8, 7, 81, NULL}, {9, 8, 81, NULL},
};

static void
test_policy_table(void)
{
    static const struct {
        CkptStorePolicy policy;
        uint64_t head, pinned;
        const char *kept;
    } cases[] = {
        {{0, 0, 0, false, false}, 9, 0, "9"},    {{0, 0, 0, false, false}, 4, 0, "4"},
        {{3, 0, 0, false, false}, 9, 0, "789"},  {{100, 0, 0, false, false}, 9, 0, "123456789"},
        {{1, 0, 0, true, false}, 9, 0, "369"},   {{0, 0, 0, false, false}, 9, 2, "29"},
        {{0, 1, 0, false, false}, 9, 0, "9"},    {{0, 2, 0, false, false}, 9, 0, "79"},
        {{0, 4, 0, false, false}, 9, 0, "5679"}, {{0, 0, 1, false, false}, 9, 0, "9"},
        {{0, 0, 2, false, false}, 9, 0, "69"},   {{0, 0, 3, false, false}, 9, 0, "369"},
        {{0, 0, 9, false, false}, 9, 0, "369"},  {{2, 3, 3, true, false}, 9, 1, "136789"},
    };

    for (guint c = 0; c < G_N_ELEMENTS(cases); c++) {
        g_autoptr(Catalog) catalog = catalog_of(nine, G_N_ELEMENTS(nine), cases[c].head, true);
        g_autoptr(GString) kept = g_string_new(NULL);
        bool keep[G_N_ELEMENTS(nine)];
        CatalogPin pin = {.id = cases[c].pinned};

        if (pin.id != 0)
            g_array_append_val(catalog->pins, pin);
        policy_select(catalog, &cases[c].policy, keep);
        for (guint i = 0; i < G_N_ELEMENTS(nine); i++) {
            if (keep[i])
                g_string_append_printf(kept, "%d", (int)nine[i].id);
        }
        g_assert_cmpstr(kept->str, ==, cases[c].kept);
    }
}

static void
test_next_table(void)
{
    /* 1 - 2 - 3 - 6, and 4 - 5 on 2. */
    static const PolicyRow tree[] = {
        {1, 0, 1, NULL}, {2, 1, 2, NULL}, {3, 2, 3, NULL},
        {4, 2, 4, NULL}, {5, 4, 5, NULL}, {6, 3, 6, NULL},
    };
    static const struct {
        const char *keep; /* as digits */
        bool merged;
        PruneAction action;
        uint64_t id;
    } cases[] = {
        {"123456", true, PRUNE_NOTHING, 0},
        {"12346", true, PRUNE_DELETE, 5},
        {"2346", true, PRUNE_DELETE, 5},
        {"23456", true, PRUNE_ROOT, 1},
        {"23456", false, PRUNE_WAIT, 1},
        {"12356", true, PRUNE_FOLD, 4},
        {"13456", true, PRUNE_NOTHING, 0}, /* two children */
        {"1356", true, PRUNE_FOLD, 4},
        {"356", false, PRUNE_FOLD, 4}, /* 2 branches, so 4 will not be the root by itself */
    };

    for (guint c = 0; c < G_N_ELEMENTS(cases); c++) {
        g_autoptr(Catalog) catalog = catalog_of(tree, G_N_ELEMENTS(tree), 6, cases[c].merged);
        bool keep[G_N_ELEMENTS(tree)];
        uint64_t id = 0;

        for (guint i = 0; i < G_N_ELEMENTS(tree); i++)
            keep[i] = strchr(cases[c].keep, (int)('0' + tree[i].id)) != NULL;
        g_assert_cmpint(policy_next(catalog, &keep_nothing, keep, &id), ==, cases[c].action);
        if (cases[c].action != PRUNE_NOTHING)
            g_assert_cmpuint(id, ==, cases[c].id);
    }
}

/* A chain of which only the end is kept goes by merging alone. */
static void
test_no_useless_folds(void)
{
    static const CkptStorePolicy root_stays = {.root_stays = true};
    g_autoptr(Catalog) catalog = catalog_of(nine, G_N_ELEMENTS(nine), 9, false);
    bool keep[G_N_ELEMENTS(nine)] = {[8] = true};
    uint64_t id = 0;

    g_assert_cmpint(policy_next(catalog, &keep_nothing, keep, &id), ==, PRUNE_WAIT);
    g_assert_cmpint(policy_next(catalog, &root_stays, keep, &id), ==, PRUNE_FOLD);
    keep[0] = true;
    g_assert_cmpint(policy_next(catalog, &keep_nothing, keep, &id), ==, PRUNE_FOLD);
}

/* ---- Pruning ---- */

static void
test_chain_pruned(void)
{
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 12; i++)
        rig_commit(&rig, i == 6, NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 5});
    g_assert_cmpuint(rig_assert_all(&rig), ==, 5);
    rig_assert_clean(&rig);
    rig_reopen(&rig);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 5);
    for (int i = 0; i < 20; i++) {
        rig_commit(&rig, false, NULL);
        rig_prune(&rig, &(CkptStorePolicy){.keep_last = 3});
        g_assert_cmpuint(rig_count(&rig), ==, 3);
    }
    rig_assert_all(&rig);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

static void
test_folded(void)
{
    g_autoptr(GPtrArray) entries = NULL;
    g_autoptr(GError) error = NULL;
    Rig rig;

    rig_init(&rig);
    for (int i = 1; i <= 12; i++)
        rig_commit(&rig, i == 5, i == 1 || i % 4 == 0 ? "keep" : NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_labelled = true});
    entries = ckpt_store_list(rig.store, &error);
    g_assert_cmpuint(entries->len, ==, 4); /* 1, 4, 8, 12 */
    g_assert_cmpuint(rig_assert_all(&rig), ==, 4);
    rig_assert_clean(&rig);
    /* Another label does not need the file; and the chain goes on as it did. */
    g_assert_true(ckpt_store_label(rig.store, 8, NULL, &error));
    rig_commit(&rig, false, NULL);
    rig_reopen(&rig);
    rig_prune(&rig, &(CkptStorePolicy){.keep_labelled = true});
    g_assert_cmpuint(rig_assert_all(&rig), ==, 4); /* 1, 4, 12, 13 */
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* Grow a tree at random, and prune it at random: what is kept stays what it is. */
static void
test_branches(void)
{
    static const char *const owners[] = {"c1", "c2"};
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    for (int round = 0; round < 12; round++) {
        g_autoptr(GError) error = NULL;
        CkptStorePolicy policy = {.keep_last = (unsigned)g_test_rand_int_range(1, 6),
                                  .keep_labelled = true};
        g_autoptr(GPtrArray) entries = NULL;
        const CkptStoreEntry *any;

        for (int i = 0; i < 4; i++)
            rig_commit(&rig, g_test_rand_int_range(0, 6) == 0,
                       i == 2 && round % 3 == 0 ? "l" : NULL);
        entries = ckpt_store_list(rig.store, &error);
        any = g_ptr_array_index(entries, (guint)g_test_rand_int_range(0, (gint32)entries->len));
        ckpt_store_set_head(rig.store, any->id, &error);
        any = g_ptr_array_index(entries, (guint)g_test_rand_int_range(0, (gint32)entries->len));
        ckpt_store_pin(rig.store, any->id, owners[round % 2], &error);
        g_assert_no_error(error);
        rig_prune(&rig, &policy);
        g_assert_true(rig_has(&rig, any->id));
        rig_assert_all(&rig);
        rig_assert_clean(&rig);
        if (round % 2 == 0)
            rig_reopen(&rig);
        ckpt_store_unpin(rig.store, any->id, owners[round % 2], &error);
        g_assert_no_error(error);
    }
    rig_prune(&rig, &keep_nothing);
    rig_assert_all(&rig);
    rig_clear(&rig);
}

static void
test_fold_interrupted(void)
{
    const CkptStorePolicy labelled = {.keep_labelled = true};
    Rig rig;

    rig_init(&rig);
    for (int i = 1; i <= 6; i++)
        rig_commit(&rig, false, i == 1 ? "keep" : NULL);
    for (int i = 0; i < 200 && rig_count(&rig) > 2; i++) {
        g_autoptr(GError) error = NULL;
        CkptStorePruned pruned;
        uint64_t budget = (uint64_t)g_test_rand_int_range(1, 40000);

        ckpt_store_prune(rig.store, &labelled, budget, &pruned, &error);
        g_assert_no_error(error);
        rig_assert_all(&rig);
        if (g_test_rand_int_range(0, 3) == 0)
            rig_reopen(&rig);
        rig_assert_clean(&rig);
    }
    rig_prune(&rig, &labelled);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 2);
    rig_clear(&rig);
}

/* What is being folded gets a label, or becomes the head: it stays. */
static void
test_fold_not_wanted(void)
{
    const CkptStorePolicy labelled = {.keep_labelled = true};
    g_autoptr(GError) error = NULL;
    CkptStorePruned pruned;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, "keep");
    rig_commit(&rig, false, NULL);
    rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_prune(rig.store, &labelled, 1, &pruned, &error));
    g_assert_false(pruned.done);
    g_assert_true(ckpt_store_label(rig.store, 2, "too", &error));
    rig_prune(&rig, &labelled);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 3);

    g_assert_true(ckpt_store_label(rig.store, 2, NULL, &error));
    g_assert_true(ckpt_store_prune(rig.store, &labelled, 1, &pruned, &error));
    g_assert_true(ckpt_store_set_head(rig.store, 2, &error));
    rig_prune(&rig, &labelled);
    g_assert_true(rig_has(&rig, 2));
    rig_assert_all(&rig);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* ---- Damage ---- */

typedef struct Named {
    const char *file;
    bool found;
} Named;

static void
note_name(void *opaque, const char *object, const char *text)
{
    Named *named = opaque;
    /* Sums belong to an image, the log to its catalog. */
    g_autofree char *stem = g_strndup(named->file, strcspn(named->file, "."));

    g_assert_true(*text != '\0');
    named->found = named->found || g_str_has_prefix(object, stem);
}

static void
put_file(const char *path, const char *data, gsize len)
{
    g_assert_true(
        g_file_set_contents_full(path, data, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

/* The store, opened by a reader, with one bit flipped in file: nothing wrong comes out of it.
 * Returns whether the check has named the file. */
static bool
flipped(Rig *rig, const char *file, size_t at)
{
    g_autofree char *path = g_build_filename(rig->path, file, NULL);
    g_autofree char *data = NULL;
    g_autoptr(GError) error = NULL;
    Named named = {.file = file};
    gsize len;

    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    data[at % len] ^= (char)(1 << at % 8);
    put_file(path, data, len);
    rig->store = ckpt_store_open(rig->path, NULL, CKPT_STORE_READ, &error);
    if (rig->store == NULL) {
        named.found = strstr(error->message, "catalog.db") != NULL;
    } else {
        g_autoptr(GPtrArray) entries = ckpt_store_list(rig->store, NULL);

        for (guint i = 0; entries != NULL && i < entries->len; i++) {
            const CkptStoreEntry *e = g_ptr_array_index(entries, i);
            g_autoptr(Image) image = ckpt_store_load(rig->store, e->id, rig->dir, NULL);

            g_assert_true(image == NULL || rig_image_is(rig, image, e->id));
        }
        ckpt_store_check(rig->store, note_name, &named, NULL);
    }
    g_clear_pointer(&rig->store, ckpt_store_close);
    data[at % len] ^= (char)(1 << at % 8);
    put_file(path, data, len);
    return named.found;
}

static void
test_bit_flips(void)
{
    g_autoptr(GPtrArray) files = NULL;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 4; i++)
        rig_commit(&rig, false, i == 2 ? "label" : NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 3});
    rig_merge(&rig);
    g_clear_pointer(&rig.store, ckpt_store_close);
    files = rig_files(&rig);
    for (guint i = 0; i < files->len; i++) {
        const char *file = g_ptr_array_index(files, i);
        bool catalog = g_str_has_prefix(file, "catalog.db");

        for (int n = 0; n < (catalog ? 150 : 25) && strcmp(file, "lock") != 0; n++) {
            size_t at = (size_t)g_test_rand_int_range(0, G_MAXINT32);

            /* Much of a database is free space: what matters there is that nothing wrong loads. */
            if (!flipped(&rig, file, at) && !catalog)
                g_error("%s: a flipped bit at %zu has not been named", file, at);
        }
    }
    rig_open(&rig, CKPT_STORE_WRITE);
    g_assert_cmpuint(rig_assert_all(&rig), ==, 3);
    rig_assert_clean(&rig);
    rig_clear(&rig);
}

/* A root that is merged in part: pages that are not the root's are under their sums. */
static void
test_bit_flips_in_merge(void)
{
    static const char *const files[] = {"base/ram-db.img", "base/ram-web.img", "base/ram-db.sums",
                                        "base/ram-web.sums"};
    g_autoptr(GError) error = NULL;
    unsigned named = 0;
    gboolean done;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 4; i++)
        rig_commit(&rig, false, NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 3});
    ckpt_store_merge_some(rig.store, 5 * PAGE_BYTES, rig_find_home, &rig, &done, &error);
    g_assert_no_error(error);
    g_assert_false(done);
    g_clear_pointer(&rig.store, ckpt_store_close);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        for (int n = 0; n < 30; n++)
            named += flipped(&rig, files[i], (size_t)g_test_rand_int_range(0, G_MAXINT32));
    }
    g_assert_cmpuint(named, >, 60);
    rig_clear(&rig);
}

/* Every value in the catalog counts: changed by hand, each is noticed. */
static void
test_catalog_values(void)
{
    static const char *const changes[] = {
        "UPDATE checkpoint SET parent = 1 WHERE id = 3",
        "UPDATE checkpoint SET epoch = epoch + 1 WHERE id = 2",
        "UPDATE checkpoint SET label = 'x' WHERE id = 2",
        "UPDATE checkpoint SET generation = 1 WHERE id = 2",
        "UPDATE checkpoint SET realtime_ns = 5 WHERE id = 2",
        "DELETE FROM checkpoint WHERE id = 2",
        "UPDATE state SET head = 1",
        "UPDATE state SET root = 2",
        "UPDATE state SET merged = 1",
        "DELETE FROM state",
        "UPDATE pin SET owner = 'other'",
        "UPDATE pin SET id = 2",
        /* Files that are in use. */
        "INSERT INTO gone (id, generation) VALUES (2, 0)",
        "INSERT INTO gone (id, generation) VALUES (3, 0)",
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL, *data = NULL;
    gsize len;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_pin(rig.store, 1, "clone", &error));
    g_clear_pointer(&rig.store, ckpt_store_close);
    path = g_build_filename(rig.path, "catalog.db", NULL);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
        sqlite3 *db = NULL;

        put_file(path, data, len);
        g_assert_cmpint(sqlite3_open(path, &db), ==, SQLITE_OK);
        g_assert_cmpint(sqlite3_exec(db, changes[i], NULL, NULL, NULL), ==, SQLITE_OK);
        sqlite3_close(db);
        g_assert_null(ckpt_store_open(rig.path, "shop", CKPT_STORE_WRITE, &error));
        g_assert_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_DAMAGED);
        g_assert_nonnull(strstr(error->message, "catalog.db"));
        g_clear_error(&error);
    }
    rig_clear(&rig);
}

static void
test_base_missing(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    rig_prune(&rig, &(CkptStorePolicy){.keep_last = 2});
    path = g_build_filename(rig.path, "base", "ram-web.img", NULL);
    g_assert_cmpint(truncate(path, 8192), ==, 0);
    g_assert_null(ckpt_store_load(rig.store, 3, rig.dir, &error));
    g_assert_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_DAMAGED);
    g_assert_nonnull(strstr(error->message, "base/ram-web.img"));
    g_clear_error(&error);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_null(ckpt_store_load(rig.store, 3, rig.dir, &error));
    g_assert_nonnull(strstr(error->message, "base/ram-web.img"));
    g_assert_cmpint(ckpt_store_check(rig.store, NULL, NULL, NULL), ==, 1);
    rig_clear(&rig);
}

static void
test_no_overlay_dir(void)
{
    g_autoptr(GError) error = NULL;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    g_assert_null(ckpt_store_load(rig.store, 1, "/nonexistent", &error));
    g_assert_nonnull(strstr(error->message, "/nonexistent"));
    g_clear_error(&error);
    g_assert_null(ckpt_store_load(rig.store, 1, NULL, &error));
    g_assert_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL);
    rig_in_memory = true;
    g_test_add_func("/store/a merged root loads the same", test_merge);
    g_test_add_func("/store/what the home has is not in the overlay", test_merged_blocks);
    g_test_add_func("/store/a merge may end anywhere", test_merge_interrupted);
    g_test_add_func("/store/a home that fails stops a merge and nothing else", test_home_fails);
    g_test_add_func("/store/a disk without a home is named", test_no_home);
    g_test_add_func("/store/while something is pinned nothing is merged", test_pin_holds);
    g_test_add_func("/store/a full root replaces the RAM, not the disks", test_full_root_merged);
    g_test_add_func("/store/what a policy keeps", test_policy_table);
    g_test_add_func("/store/what is removed next, and how", test_next_table);
    g_test_add_func("/store/what merging removes is not folded", test_no_useless_folds);
    g_test_add_func("/store/a chain is pruned from its root", test_chain_pruned);
    g_test_add_func("/store/what is between is folded", test_folded);
    g_test_add_func("/store/branches are pruned and the rest stays", test_branches);
    g_test_add_func("/store/a fold may end anywhere", test_fold_interrupted);
    g_test_add_func("/store/a fold that is not wanted any more is dropped", test_fold_not_wanted);
    g_test_add_func("/store/a flipped bit anywhere is named and never loaded", test_bit_flips);
    g_test_add_func("/store/the same while the root is being merged", test_bit_flips_in_merge);
    g_test_add_func("/store/every value of the catalog is guarded", test_catalog_values);
    g_test_add_func("/store/a base image that is missing or short is named", test_base_missing);
    g_test_add_func("/store/overlays need a place", test_no_overlay_dir);
    return g_test_run();
}
