/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Removing checkpoints that are not kept. What goes is decided in store-policy.c, and again inside
 * the transaction that takes it out: labels, pins and the head may change at any time. The order of
 * steps is in store.c.
 */
#include "ckpt/store-internal.h"

typedef struct Step {
    const CkptStorePolicy *policy;
    PruneAction action;
    uint64_t id;
    bool taken;
} Step;

static PruneAction
decide(const Catalog *catalog, const CkptStorePolicy *policy, uint64_t *id)
{
    g_autofree bool *keep = g_new0(bool, catalog->rows->len + 1);

    policy_select(catalog, policy, keep);
    return policy_next(catalog, policy, keep, id);
}

static gboolean
take_out(CkptStore *store, const CatalogRow *row, GError **error)
{
    return catalog_drop(store, row->id, error) &&
           catalog_put_gone(store, row->id, row->generation, error);
}

/* The root's only child takes its place. */
static gboolean
advance_root(CkptStore *store, Catalog *catalog, const CatalogRow *root, GError **error)
{
    for (guint i = 0; i < catalog->rows->len; i++) {
        CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);

        if (row->parent != root->id)
            continue;
        row->parent = 0;
        catalog->root = row->id;
        catalog->merged = false;
        return catalog_put(store, row, error) && take_out(store, root, error);
    }
    return store_fail(store, CKPT_STORE_ERROR_DAMAGED, error, "the root has no child");
}

static gboolean
change_step(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    Step *step = opaque;
    uint64_t id = 0;
    PruneAction action = decide(catalog, step->policy, &id);
    const CatalogRow *row = catalog_find(catalog, id);

    if (action != step->action || id != step->id || row == NULL)
        return TRUE; /* things have changed: look again */
    step->taken = true;
    return action == PRUNE_ROOT ? advance_root(store, catalog, row, error)
                                : take_out(store, row, error);
}

static gboolean
remove_one(CkptStore *store, Step *step, CkptStorePruned *pruned, GError **error)
{
    if (!catalog_change(store, true, change_step, step, error))
        return FALSE;
    pruned->checkpoints += step->taken;
    return store_remove_gone(store, error);
}

static gboolean
fold_on(CkptStore *store, const CkptStorePolicy *policy, uint64_t budget, CkptStorePruned *pruned,
        GError **error)
{
    gboolean done = FALSE, swapped = FALSE;
    gboolean good = fold_some(store->fold, budget, &pruned->bytes, &done, error) &&
                    (!done || fold_swap(store->fold, policy, &swapped, error));

    if (!good || done)
        g_clear_pointer(&store->fold, fold_free);
    pruned->checkpoints += swapped != FALSE;
    return good && (!swapped || store_remove_gone(store, error));
}

/* One thing. pruned->done: there was none. */
static gboolean
prune_step(CkptStore *store, const CkptStorePolicy *policy, uint64_t budget,
           CkptStorePruned *pruned, GError **error)
{
    g_autoptr(Catalog) catalog = NULL;
    Step step = {.policy = policy};

    if (store->fold != NULL)
        return fold_on(store, policy, budget, pruned, error);
    catalog = catalog_read(store, error);
    if (catalog == NULL)
        return FALSE;
    step.action = decide(catalog, policy, &step.id);
    switch (step.action) {
    case PRUNE_NOTHING:
    case PRUNE_WAIT:
        pruned->done = true;
        pruned->needs_merge = step.action == PRUNE_WAIT;
        return TRUE;
    case PRUNE_DELETE:
    case PRUNE_ROOT:
        return remove_one(store, &step, pruned, error);
    case PRUNE_FOLD:
        store->fold = fold_begin(store, catalog, step.id, error);
        return store->fold != NULL;
    }
    return TRUE;
}

gboolean
ckpt_store_prune(CkptStore *store, const CkptStorePolicy *policy, uint64_t budget,
                 CkptStorePruned *pruned, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);

    *pruned = (CkptStorePruned){0};
    if (!store_check_writer(store, error) || !store_clear_limbo(store, error) ||
        !store_remove_gone(store, error))
        return FALSE;
    while (!pruned->done && pruned->bytes < budget) {
        if (!prune_step(store, policy, budget - pruned->bytes, pruned, error))
            return FALSE;
    }
    return TRUE;
}
