/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which checkpoints are kept, and how to get rid of the others: decisions only.
 *
 * Theory of operation. What is not kept goes in one of three ways. A leaf is deleted. The root goes
 * when it is merged and has one child, which becomes the root. Anything else with one child is
 * folded into it. A checkpoint below which the tree branches stays until the branches have gone.
 *
 * Folding costs reading and writing two files. A checkpoint all of whose ancestors are to go too,
 * and can, will be the root itself one day and is then merged, which costs nothing extra: it waits.
 * But while there are pins nothing is merged, perhaps for long, and waiting would fill the disk. So it
 * would where a home cannot be written to.
 */
#include "ckpt/store-internal.h"

#include <stdlib.h>

#define NS_PER_HOUR (INT64_C(3600) * 1000000000)

static gint64
bucket(int64_t realtime_ns, unsigned hours)
{
    int64_t width = NS_PER_HOUR * hours;

    return realtime_ns >= 0 ? realtime_ns / width : -((-realtime_ns - 1) / width) - 1;
}

/* Newest first, by the clock; numbers decide where the clock does not. */
static int
compare_newest(const void *a, const void *b, void *opaque)
{
    const CatalogRow *rows = opaque;
    const CatalogRow *x = &rows[*(const guint *)a], *y = &rows[*(const guint *)b];

    if (x->realtime_ns != y->realtime_ns)
        return x->realtime_ns > y->realtime_ns ? -1 : 1;
    return x->id > y->id ? -1 : x->id < y->id;
}

/* The newest of each of the n newest spans of so many hours that have any. */
static void
keep_spans(const Catalog *catalog, const guint *newest, unsigned n, unsigned hours, bool *keep)
{
    const CatalogRow *rows = (const CatalogRow *)(void *)catalog->rows->data;
    gint64 last = 0;
    unsigned spans = 0;

    for (guint i = 0; i < catalog->rows->len && spans <= n; i++) {
        gint64 span = bucket(rows[newest[i]].realtime_ns, hours);

        if (i > 0 && span == last)
            continue;
        last = span;
        if (spans++ < n)
            keep[newest[i]] = true;
    }
}

void
policy_select(const Catalog *catalog, const CkptStorePolicy *policy, bool *keep)
{
    const unsigned hours_per_day = 24;
    CatalogRow *rows = (CatalogRow *)(void *)catalog->rows->data;
    guint n = catalog->rows->len;
    g_autofree guint *newest = g_new(guint, n + 1);

    for (guint i = 0; i < n; i++) {
        newest[i] = i;
        keep[i] = rows[i].id == catalog->head || n - i <= policy->keep_last ||
                  (policy->keep_labelled && rows[i].label != NULL) ||
                  catalog_pinned(catalog, rows[i].id);
    }
    if (n == 0)
        return;
    g_qsort_with_data(newest, (gint)n, sizeof *newest, compare_newest, rows);
    keep_spans(catalog, newest, policy->keep_hourly, 1, keep);
    keep_spans(catalog, newest, policy->keep_daily, hours_per_day, keep);
}

/* ---- What to do next ---- */

static guint
row_index(const Catalog *catalog, const CatalogRow *row)
{
    return (guint)(row - (const CatalogRow *)(void *)catalog->rows->data);
}

/* Will row become the root by itself, as its ancestors go one by one? */
static bool
will_be_root(const Catalog *catalog, const bool *keep, const unsigned *children,
             const CatalogRow *row)
{
    while (row->parent != 0) {
        row = catalog_find(catalog, row->parent);
        if (row == NULL || keep[row_index(catalog, row)] || children[row_index(catalog, row)] != 1)
            return false;
    }
    return true;
}

static unsigned *
count_children(const Catalog *catalog)
{
    unsigned *children = g_new0(unsigned, catalog->rows->len + 1);

    for (guint i = 0; i < catalog->rows->len; i++) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);
        const CatalogRow *parent = row->parent != 0 ? catalog_find(catalog, row->parent) : NULL;

        if (parent != NULL)
            children[row_index(catalog, parent)]++;
    }
    return children;
}

PruneAction
policy_next(const Catalog *catalog, const CkptStorePolicy *policy, const bool *keep, uint64_t *id)
{
    bool merges = catalog->pins->len == 0 && !policy->root_stays;
    g_autofree unsigned *children = count_children(catalog);
    PruneAction action = PRUNE_NOTHING;

    for (guint i = catalog->rows->len; i-- > 0;) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);
        PruneAction found = PRUNE_NOTHING;

        if (keep[i] || row->id == catalog->head || children[i] > 1)
            continue;
        if (children[i] == 0)
            found = PRUNE_DELETE;
        else if (row->id == catalog->root)
            found = catalog->merged ? PRUNE_ROOT : PRUNE_WAIT;
        else
            found = merges && will_be_root(catalog, keep, children, row) ? PRUNE_WAIT : PRUNE_FOLD;
        /* The cheap ones first: they may make others unnecessary. */
        if (action == PRUNE_NOTHING || action == PRUNE_WAIT ||
            (action == PRUNE_FOLD && (found == PRUNE_DELETE || found == PRUNE_ROOT))) {
            action = found;
            *id = row->id;
        }
        if (action == PRUNE_DELETE)
            break;
    }
    return action;
}
