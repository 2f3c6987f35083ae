/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bringing directory and catalog together when a writer opens the store (the order of steps is in
 * store.c), and removing files.
 */
#include "ckpt/store-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- The directory ---- */

gboolean
store_foreach_file(CkptStore *store, StoreFileFunc func, void *opaque, GError **error)
{
    int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    gboolean good = TRUE;
    struct dirent *entry;

    if (dir == NULL) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        return store_fail_errno(store, NULL, "reading the directory", saved, error);
    }
    while (good && (errno = 0, entry = readdir(dir)) != NULL) {
        uint32_t generation;
        uint64_t id;

        if (storefile_parse_name(entry->d_name, &id, &generation))
            good = func(store, id, generation, opaque, error);
    }
    if (good && errno != 0)
        good = store_fail_errno(store, NULL, "reading the directory", errno, error);
    closedir(dir);
    return good;
}

static gboolean
remove_file(CkptStore *store, uint64_t id, uint32_t generation, GError **error)
{
    g_autofree char *name = storefile_name(id, generation);

    storeindex_remove(store, id, generation);
    return unlinkat(store->dir_fd, name, 0) == 0 || errno == ENOENT ||
           store_fail_errno(store, name, "unlink", errno, error);
}

gboolean
store_clear_limbo(CkptStore *store, GError **error)
{
    if (store->limbo->len == 0)
        return TRUE;
    if (!catalog_settle(store, error))
        return FALSE;
    for (guint i = 0; i < store->limbo->len; i++) {
        const CatalogGone *g = &g_array_index(store->limbo, CatalogGone, i);
        if (!remove_file(store, g->id, g->generation, error))
            return FALSE;
    }
    g_array_set_size(store->limbo, 0);
    return TRUE;
}

static gboolean
change_forget(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const GArray *gone = opaque;

    for (guint i = 0; i < gone->len; i++) {
        const CatalogGone *g = &g_array_index(gone, CatalogGone, i);
        if (!catalog_drop_gone(store, g->id, g->generation, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
store_remove_gone(CkptStore *store, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    if (catalog == NULL)
        return FALSE;
    if (catalog->gone->len == 0)
        return TRUE;
    for (guint i = 0; i < catalog->gone->len; i++) {
        const CatalogGone *g = &g_array_index(catalog->gone, CatalogGone, i);
        if (!remove_file(store, g->id, g->generation, error))
            return FALSE;
    }
    return store_sync_dir(store, store->dir_fd, error) &&
           catalog_change(store, false, change_forget, catalog->gone, error);
}

/* ---- Recovery ---- */

typedef struct Recovery {
    Catalog *catalog;
    GArray *unknown; /* of uint64_t: files, not written anew, of checkpoints not in the catalog */
    uint64_t highest;
} Recovery;

/* Is error about the file's content, not about reading it? */
static bool
is_content(const GError *error)
{
    return error->domain == FORMAT_ERROR ||
           g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED) ||
           g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND);
}

/*
 * One flipped bit in SQLite's log takes all that follows with it, and leaves a catalog as it was
 * once. Files that it cannot have forgotten otherwise are not removed then: an intact copy of it
 * may be had.
 */
static gboolean
fail_forgotten(const CkptStore *store, uint64_t id, GError **error)
{
    g_autofree char *what = g_strdup_printf(
        "it has lost what was written to it, checkpoint %" G_GUINT64_FORMAT " among it", id);

    return catalog_damaged(store, error, what);
}

static bool
has_file(const CkptStore *store, const CatalogRow *row)
{
    g_autofree char *name = storefile_name(row->id, row->generation);

    return faccessat(store->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A file under a number that the catalog does not have is left over from a fold, unless the catalog
 * should know it: it is whole, and replaces one that has gone, or is newer than all. */
static gboolean
check_leftover(CkptStore *store, const Catalog *catalog, const CatalogRow *row, uint64_t id,
               uint32_t generation, GError **error)
{
    CatalogRow wanted = {.id = id, .generation = generation};
    g_autoptr(StoreReader) reader = NULL;
    g_autoptr(GError) why = NULL;

    if (row != NULL ? has_file(store, row) : id < catalog->next_id)
        return TRUE;
    reader = storefile_open(store, &wanted, false, NULL, NULL, &why);
    if (reader != NULL && storefile_read(reader, &why))
        return fail_forgotten(store, id, error);
    if (is_content(why))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static gboolean
recover_sort(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    Recovery *recovery = opaque;
    const CatalogRow *row = catalog_find(recovery->catalog, id);

    recovery->highest = MAX(recovery->highest, id);
    if (row != NULL && row->generation == generation)
        return TRUE;
    if (row == NULL && generation == 0) {
        g_array_append_val(recovery->unknown, id);
        return TRUE;
    }
    if (!check_leftover(store, recovery->catalog, row, id, generation, error))
        return FALSE;
    g_message("store %s: removing what is left of rewriting checkpoint %" G_GUINT64_FORMAT,
              store->path, id);
    return remove_file(store, id, generation, error);
}

/* What it builds on was the head when it was written, and so cannot have gone before it. */
bool
store_has_forgotten(const CkptStore *store, const Catalog *catalog, const CatalogRow *row)
{
    const CatalogRow *parent = catalog_find(catalog, row->parent);

    if (row->id < catalog->next_id)
        return false;
    return row->parent != 0 ? parent == NULL || !has_file(store, parent) : catalog->rows->len > 0;
}

/* Of the file's head only: what it builds on. */
static gboolean
check_first(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    CatalogRow wanted = {.id = id, .generation = generation};
    g_autoptr(StoreReader) reader = storefile_open(store, &wanted, false, NULL, NULL, NULL);
    gboolean more = reader != NULL;

    while (more && !storefile_begun(reader)) {
        if (!storefile_step(reader, &more, NULL))
            return TRUE;
    }
    return !more || storefile_row(reader)->parent == 0 || fail_forgotten(store, id, error);
}

gboolean
store_check_emptied(CkptStore *store, const Catalog *catalog, GError **error)
{
    return catalog->rows->len > 0 || store_foreach_file(store, check_first, NULL, error);
}

static gboolean
change_adopt(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const CatalogRow *row = opaque;

    if (store_has_forgotten(store, catalog, row))
        return fail_forgotten(store, row->id, error);
    if (!store_check_place(store, catalog, row, error) || !catalog_put(store, row, error))
        return FALSE;
    if (row->parent == catalog->head)
        catalog->head = row->id;
    if (catalog->root == 0)
        catalog->root = row->id;
    catalog->next_id = MAX(catalog->next_id, row->id + 1);
    return TRUE;
}

/* Whole, and has its place in the catalog: then it has been committed. It is made durable before
 * the catalog says that it is. */
static gboolean
adopt(CkptStore *store, uint64_t id, GError **error)
{
    CatalogRow wanted = {.id = id};
    g_autoptr(StoreReader) reader = storefile_open(store, &wanted, false, NULL, NULL, error);

    if (reader == NULL || !storefile_read(reader, error))
        return FALSE;
    if (fdatasync(storefile_fd(reader)) != 0)
        return store_fail_errno(store, NULL, "fdatasync", errno, error);
    return catalog_change(store, true, change_adopt, (void *)storefile_row(reader), error);
}

static gboolean
adopt_or_remove(CkptStore *store, uint64_t id, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (adopt(store, id, &why)) {
        g_message("store %s: checkpoint %" G_GUINT64_FORMAT " had been written, but its entry lost",
                  store->path, id);
        return TRUE;
    }
    if (!is_content(why)) {
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    g_message("%s: never committed: removing it", why->message);
    return remove_file(store, id, 0, error);
}

static gint
compare_ids(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

gboolean
store_recover(CkptStore *store, GError **error)
{
    g_autoptr(GArray) unknown = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(Catalog) catalog = NULL;
    Recovery recovery = {.unknown = unknown};

    /* What is seen in the catalog, and the names of its files, may not be durable yet. */
    if (!catalog_settle(store, error) || !store_sync_dir(store, store->dir_fd, error) ||
        !store_remove_gone(store, error))
        return FALSE;
    catalog = recovery.catalog = catalog_read(store, error);
    if (catalog == NULL || !store_foreach_file(store, recover_sort, &recovery, error))
        return FALSE;
    g_array_sort(unknown, compare_ids);
    for (guint i = 0; i < unknown->len; i++) {
        if (!adopt_or_remove(store, g_array_index(unknown, uint64_t, i), error))
            return FALSE;
    }
    store->next_id = MAX(catalog->next_id, recovery.highest + 1);
    storeindex_sweep(store, catalog);
    return store_sync_dir(store, store->dir_fd, error);
}
