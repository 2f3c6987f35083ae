/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking a store: every byte of every file, and that all of it belongs together. Homes of disks
 * have no checksums and are not looked at.
 *
 * A reader of the store checks while its writer works. What it finds wrong counts only if the
 * catalog still says afterwards that it should be right.
 */
#include "ckpt/store-internal.h"

#include "common/pagebits.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK_ATTEMPTS 8

typedef struct Check {
    CkptStore *store;
    CkptStoreReport report;
    void *opaque;
    gint64 faults;
    GArray *files; /* of uint64_t: checkpoints with a first file, listed before catalog was read */
    Catalog *catalog;
    /* Of the root's file: */
    GArray *images; /* of StoreImage; NULL: not known */
    uint32_t n_members;
    uint64_t **covers; /* per member: the pages that it has */
} Check;

static void
fault(Check *check, const char *object, const char *text)
{
    check->faults++;
    if (check->report != NULL)
        check->report(check->opaque, object, text);
}

/* ---- Checkpoint files ---- */

static gboolean
root_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Check *check = opaque;

    check->images = storefile_images(begin);
    check->n_members = (uint32_t)begin->n_members;
    check->covers = g_new0(uint64_t *, check->n_members);
    for (uint32_t i = 0; i < check->n_members; i++) {
        uint64_t bytes = pagebits_bytes(page_count(begin->members[i]->ram_size));

        check->covers[i] = storefile_map(bytes, error);
        if (check->covers[i] == NULL)
            return FALSE;
    }
    return TRUE;
}

static gboolean
root_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Check *check = opaque;

    for (uint32_t i = 0; image < check->n_members && i < count; i++)
        pagebits_set(check->covers[image], pages[i].index);
    return TRUE;
}

static const StoreVisitor root_visitor = {.begin = root_begin, .pages = root_pages};

static void
forget_root(Check *check)
{
    for (uint32_t i = 0; check->covers != NULL && i < check->n_members; i++) {
        uint64_t bytes = g_array_index(check->images, StoreImage, i).bytes;
        storefile_unmap(check->covers[i], pagebits_bytes(page_count(bytes)));
    }
    g_clear_pointer(&check->covers, g_free);
    g_clear_pointer(&check->images, g_array_unref);
}

static void
check_mode(Check *check, const char *name, const StoreReader *reader)
{
    struct stat st;

    if (fstat(storefile_fd(reader), &st) == 0 && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        fault(check, name, "others may read it: chmod 0600");
}

static gboolean
check_link(CkptStore *store, const Catalog *catalog, const CatalogRow *row, GError **error)
{
    const CatalogRow *parent = row->parent != 0 ? catalog_find(catalog, row->parent) : NULL;

    return parent == NULL || row->full ||
           (row->base_epoch == parent->epoch && row->layout == parent->layout) ||
           store_fail(store, CKPT_STORE_ERROR_DAMAGED, error,
                      "it builds on epoch %" G_GUINT64_FORMAT
                      " or on other members, but its parent %" G_GUINT64_FORMAT
                      " is epoch %" G_GUINT64_FORMAT,
                      row->base_epoch, parent->id, parent->epoch);
}

/* Does the catalog still name this file? */
static bool
still_named(CkptStore *store, const CatalogRow *row)
{
    g_autoptr(Catalog) now = catalog_read(store, NULL);
    const CatalogRow *found = now != NULL ? catalog_find(now, row->id) : NULL;

    return now == NULL ||
           (found != NULL && found->generation == row->generation && found->parent == row->parent);
}

static void
check_file(Check *check, const CatalogRow *row)
{
    CkptStore *store = check->store;
    bool root = row->id == check->catalog->root;
    g_autofree char *name = storefile_name(row->id, row->generation);
    g_autoptr(GError) why = NULL;
    g_autoptr(StoreReader) reader =
        storefile_open(store, row, true, root ? &root_visitor : NULL, check, &why);

    if (reader != NULL)
        check_mode(check, name, reader);
    if (reader != NULL && check_link(store, check->catalog, row, &why) &&
        storefile_read(reader, &why))
        return;
    if (root)
        forget_root(check); /* base images cannot be judged without all of its file */
    if (store_is_writer(store) || still_named(store, row))
        fault(check, name, why->message);
}

/* ---- Base images ---- */

typedef struct BaseCheck {
    Check *check;
    uint32_t member;
    uint64_t bad;
    uint64_t first_bad;
} BaseCheck;

static gboolean
check_base_page(void *opaque, uint64_t page, const uint8_t *data, bool good, GError **error)
{
    BaseCheck *to = opaque;

    if (good || (!to->check->catalog->merged && pagebits_test(to->check->covers[to->member], page)))
        return TRUE;
    if (to->bad++ == 0)
        to->first_bad = page;
    return TRUE;
}

static gboolean
check_base(Check *check, uint32_t member, GError **error)
{
    const StoreImage *image = &g_array_index(check->images, StoreImage, member);
    g_autoptr(BaseImage) base =
        base_open(check->store, image->member, image->bytes, BASE_READ, error);
    BaseCheck to = {.check = check, .member = member};

    if (base == NULL || !base_read(base, check_base_page, &to, error))
        return FALSE;
    return to.bad == 0 || store_fail(check->store, CKPT_STORE_ERROR_DAMAGED, error,
                                     "%s: damaged: %" G_GUINT64_FORMAT
                                     " pages are not what was written, the first "
                                     "is page %" G_GUINT64_FORMAT,
                                     base_name(base), to.bad, to.first_bad);
}

static void
check_bases(Check *check)
{
    const CatalogRow *root = catalog_find(check->catalog, check->catalog->root);

    /* A full root that is not merged does not need them. */
    if (check->images == NULL || (root->full && !check->catalog->merged))
        return;
    for (uint32_t i = 0; i < check->n_members; i++) {
        g_autofree char *name = g_strdup_printf(STORE_BASE_DIR "/ram-%s.img",
                                                g_array_index(check->images, StoreImage, i).member);
        g_autoptr(GError) why = NULL;

        if (!check_base(check, i, &why))
            fault(check, name, why->message);
    }
}

/* ---- All ---- */

static bool
in_limbo(const CkptStore *store, uint64_t id, uint32_t generation)
{
    for (guint i = 0; i < store->limbo->len; i++) {
        const CatalogGone *g = &g_array_index(store->limbo, CatalogGone, i);
        if (g->id == id && g->generation == generation)
            return true;
    }
    return false;
}

/* A writer has brought directory and catalog together when it opened the store. */
static gboolean
check_stray(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    Check *check = opaque;
    const CatalogRow *row = catalog_find(check->catalog, id);
    bool prepared;

    g_mutex_lock(&store->lock);
    prepared = g_hash_table_contains(store->prepared, &id);
    g_mutex_unlock(&store->lock);
    if (!prepared && !in_limbo(store, id, generation) && row == NULL &&
        id < check->catalog->next_id) {
        g_autofree char *name = storefile_name(id, generation);
        fault(check, name,
              "the catalog does not know this file: it will be looked at when the "
              "store is opened again");
    }
    return TRUE;
}

static gboolean
note_file(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    if (generation == 0)
        g_array_append_val((GArray *)opaque, id);
    return TRUE;
}

/* A writer had these files before the catalog was read, so of those that are not in it at most one
 * is being written, on top of what is in it. */
static void
check_unknown(Check *check)
{
    for (guint i = 0; i < check->files->len; i++) {
        CatalogRow wanted = {.id = g_array_index(check->files, uint64_t, i)};
        g_autoptr(StoreReader) reader = NULL;

        if (catalog_find(check->catalog, wanted.id) == NULL)
            reader = storefile_open(check->store, &wanted, false, NULL, NULL, NULL);
        if (reader == NULL || !storefile_read(reader, NULL) ||
            !store_has_forgotten(check->store, check->catalog, storefile_row(reader)))
            continue;
        fault(check, CATALOG_FILE,
              "damaged: it has lost what was written to it, and does not know of checkpoints that "
              "are there: bring back an intact copy of the store");
        return;
    }
}

static gboolean
check_all(Check *check, GError **error)
{
    check_unknown(check);
    for (guint i = 0; i < check->catalog->rows->len; i++)
        check_file(check, &g_array_index(check->catalog->rows, CatalogRow, i));
    if (check->catalog->root != 0)
        check_bases(check);
    return !store_is_writer(check->store) ||
           store_foreach_file(check->store, check_stray, check, error);
}

static bool
is_damage(const GError *error)
{
    return g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_DAMAGED);
}

/* The catalog: what SQLite finds, and what it means. FALSE: nothing else can be checked. */
static gboolean
check_catalog(Check *check, GError **error)
{
    g_autofree char *text = catalog_integrity(check->store);
    g_autoptr(GError) why = NULL;

    if (text != NULL)
        fault(check, "catalog.db", text);
    g_clear_pointer(&check->catalog, catalog_free);
    g_array_set_size(check->files, 0);
    if (!store_foreach_file(check->store, note_file, check->files, error))
        return FALSE;
    check->catalog = catalog_read(check->store, &why);
    if (check->catalog != NULL)
        return TRUE;
    if (is_damage(why))
        fault(check, "catalog.db", why->message);
    else
        g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

/* Reports kept until it is known that they hold. */
typedef struct Held {
    char *object;
    char *text;
} Held;

static void
held_clear(gpointer data)
{
    Held *held = data;

    g_free(held->object);
    g_free(held->text);
}

static void
hold(void *opaque, const char *object, const char *text)
{
    Held held = {g_strdup(object), g_strdup(text)};

    g_array_append_val((GArray *)opaque, held);
}

/* *again: the root has changed, and base images may have been read in between. */
static gboolean
check_attempt(Check *check, bool *again, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(Catalog) after = NULL;

    if (check_catalog(check, &why) && check_all(check, &why)) {
        after = store_is_writer(check->store) ? NULL : catalog_read(check->store, NULL);
        *again = after != NULL &&
                 (after->root != check->catalog->root || after->merged != check->catalog->merged);
    }
    forget_root(check);
    if (why == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

gint64
ckpt_store_check(CkptStore *store, CkptStoreReport report, void *opaque, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);
    g_autoptr(GArray) reports = g_array_new(FALSE, FALSE, sizeof(Held));
    g_autoptr(GArray) files = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    Check check = {.store = store, .report = hold, .opaque = reports, .files = files};
    bool again = true;
    gboolean good = TRUE;
    int hold_fd = ckpt_store_hold(store);

    g_array_set_clear_func(reports, held_clear);
    for (int i = 0; good && again && i < CHECK_ATTEMPTS; i++) {
        again = false;
        check.faults = 0;
        g_array_set_size(reports, 0);
        good = check_attempt(&check, &again, error);
        if (good && again)
            g_usleep(STORE_READ_AGAIN_US);
    }
    g_clear_pointer(&check.catalog, catalog_free);
    if (hold_fd >= 0)
        close(hold_fd);
    if (!good)
        return -1;
    if (again) {
        store_fail(store, CKPT_STORE_ERROR_BUSY, error,
                   "it is changing too fast to be checked: try again");
        return -1;
    }
    for (guint i = 0; report != NULL && i < reports->len; i++) {
        const Held *held = &g_array_index(reports, Held, i);
        report(opaque, held->object, held->text);
    }
    return check.faults;
}
