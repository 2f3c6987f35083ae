/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a checkpoint says of itself, without its pages: that is all in its own file. */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"

#include <unistd.h>

#define ATTEMPTS 8

static gboolean
take_state(void *opaque, const uint8_t *packed, size_t len, GError **error)
{
    District__CutState **cut = opaque;

    *cut = (District__CutState *)layout_unpack(&district__cut_state__descriptor, packed, len,
                                               "STATE record", error);
    return *cut != NULL;
}

static District__CutState *
state_once(CkptStore *store, uint64_t id, GError **error)
{
    static const StoreVisitor visitor = {.state = take_state};
    g_autoptr(Catalog) catalog = catalog_read(store, error);
    const CatalogRow *row = catalog != NULL ? catalog_get(store, catalog, id, error) : NULL;
    District__CutState *cut = NULL;

    if (row == NULL)
        return NULL;
    g_autoptr(StoreReader) reader = storefile_open(store, row, true, &visitor, &cut, error);
    bool whole = reader != NULL && storefile_read(reader, error);
    if (whole && cut == NULL)
        store_fail(store, CKPT_STORE_ERROR_DAMAGED, error, "a file without a checkpoint");
    if (whole)
        return cut;
    if (cut != NULL)
        district__cut_state__free_unpacked(cut, NULL);
    return NULL;
}

District__CutState *
ckpt_store_state(CkptStore *store, uint64_t id, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);
    int hold_fd = ckpt_store_hold(store);
    District__CutState *cut = NULL;

    for (int i = 0; i < ATTEMPTS && cut == NULL; i++) {
        GError *why = NULL;

        cut = state_once(store, id, &why);
        if (cut != NULL)
            break;
        /* A file that a fold has just replaced is found under its next name. */
        if (i == ATTEMPTS - 1 ||
            !g_error_matches(why, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND)) {
            g_propagate_error(error, why);
            break;
        }
        g_clear_error(&why);
        g_usleep(STORE_READ_AGAIN_US);
    }
    if (hold_fd >= 0)
        close(hold_fd);
    return cut;
}
