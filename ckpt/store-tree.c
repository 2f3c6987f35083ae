/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tree of checkpoints in a catalog that has been read. */
#include "ckpt/store-internal.h"

CatalogRow *
catalog_find(const Catalog *catalog, uint64_t id)
{
    guint low = 0, high = catalog->rows->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, middle);

        if (row->id == id)
            return row;
        if (row->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

CatalogRow *
catalog_get(const CkptStore *store, const Catalog *catalog, uint64_t id, GError **error)
{
    CatalogRow *row = catalog_find(catalog, id);

    if (row == NULL)
        store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error,
                   "it has no checkpoint %" G_GUINT64_FORMAT ": see the list of those it has", id);
    return row;
}

bool
catalog_pinned(const Catalog *catalog, uint64_t id)
{
    for (guint i = 0; i < catalog->pins->len; i++) {
        if (g_array_index(catalog->pins, CatalogPin, i).id == id)
            return true;
    }
    return false;
}

unsigned
catalog_children(const Catalog *catalog, uint64_t id)
{
    unsigned n = 0;

    for (guint i = 0; i < catalog->rows->len; i++)
        n += g_array_index(catalog->rows, CatalogRow, i).parent == id;
    return n;
}

bool
catalog_is_ancestor(const Catalog *catalog, uint64_t a, uint64_t b)
{
    while (b > a) {
        const CatalogRow *row = catalog_find(catalog, b);

        b = row != NULL ? row->parent : 0;
    }
    return a == b;
}

static gint
compare_ids(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

GArray *
catalog_chain(const CkptStore *store, const Catalog *catalog, uint64_t id, GError **error)
{
    g_autoptr(GArray) chain = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    /* Ends: a parent's number is lower than its child's (catalog_read has seen to it). */
    while (id != 0) {
        const CatalogRow *row = catalog_get(store, catalog, id, error);

        if (row == NULL)
            return NULL;
        g_array_append_val(chain, id);
        id = row->parent;
    }
    g_array_sort(chain, compare_ids);
    return g_steal_pointer(&chain);
}

uint64_t
catalog_incarnation(const Catalog *catalog)
{
    uint64_t newest = 0;

    for (guint i = 0; i < catalog->rows->len; i++)
        newest = MAX(newest, g_array_index(catalog->rows, CatalogRow, i).incarnation);
    return newest;
}
