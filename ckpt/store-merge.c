/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging: writing the root's pages to the base images and homes, where they belong in the end
 * (KeyKOS called it migration).
 *
 * Theory of operation. The root's file is read record by record, each verified before its pages are
 * written. Whatever part of this has been done, the root's file over base images and homes still
 * gives the root, so it may end anywhere and begin again with the first record. Only when all is
 * written and synced does the catalog say so; then the root's file is not needed any more, and the
 * root's child can take its place.
 *
 * A full root replaces the RAM, so its base images begin as zeros.
 *
 * While there are pins nothing is merged: base images and homes may be open elsewhere, and a reader of
 * an image format (qcow2, say) does not notice that what it knows of the image is stale.
 */
#include "ckpt/store-internal.h"

#include <string.h>

struct MergeJob {
    CkptStore *store;
    uint64_t id;
    StoreReader *reader;
    uint32_t n_members;
    GArray *images;   /* of StoreImage */
    GPtrArray *bases; /* of BaseImage, one per member */
    GPtrArray *homes; /* of const CkptStoreHome, one per disk; NULL: nothing has gone there */
    CkptStoreFindHome find;
    void *opaque;
    uint64_t written; /* bytes */
};

void
merge_job_free(MergeJob *job)
{
    if (job == NULL)
        return;
    storefile_close(job->reader);
    g_clear_pointer(&job->images, g_array_unref);
    g_clear_pointer(&job->bases, g_ptr_array_unref);
    g_clear_pointer(&job->homes, g_ptr_array_unref);
    g_free(job);
}

/* ---- Where pages go ---- */

static const CkptStoreHome *
find_home(MergeJob *job, const StoreImage *image)
{
    return job->find != NULL
               ? job->find(job->opaque, image->member, (uint32_t)image->disk, image->bytes)
               : NULL;
}

static gboolean
merge_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    MergeJob *job = opaque;

    job->n_members = (uint32_t)begin->n_members;
    job->images = storefile_images(begin);
    job->bases = g_ptr_array_new_with_free_func((GDestroyNotify)base_close);
    job->homes = g_ptr_array_new();
    g_ptr_array_set_size(job->homes, (gint)(job->images->len - job->n_members));
    for (guint i = 0; i < job->images->len; i++) {
        const StoreImage *image = &g_array_index(job->images, StoreImage, i);

        if (image->disk >= 0)
            continue;
        BaseImage *base = base_open(job->store, image->member, image->bytes,
                                    begin->full ? BASE_NEW : BASE_WRITE, error);
        if (base == NULL)
            return FALSE;
        g_ptr_array_add(job->bases, base);
    }
    return TRUE;
}

/* Only of a disk that has blocks here: one that has none need not have a home either. */
static const CkptStoreHome *
merge_home(MergeJob *job, uint32_t image, GError **error)
{
    const StoreImage *what = &g_array_index(job->images, StoreImage, image);
    gpointer *home = &g_ptr_array_index(job->homes, image - job->n_members);

    if (*home == NULL)
        *home = (gpointer)find_home(job, what);
    if (*home == NULL)
        store_fail(job->store, CKPT_STORE_ERROR_NOT_FOUND, error,
                   "there is no home for disk %d of member %s of %" G_GUINT64_FORMAT
                   " bytes: define it as it was",
                   what->disk, what->member, what->bytes);
    return *home;
}

typedef struct HomeRun {
    const CkptStoreHome *home;
    uint64_t bytes; /* of the disk */
} HomeRun;

/* The last block of a disk may be only partly there. */
static gboolean
merge_home_run(void *opaque, uint64_t first, uint32_t count, const uint8_t *data, GError **error)
{
    const HomeRun *to = opaque;
    uint64_t at = first << PAGE_SHIFT_4K;
    uint64_t len = MIN((uint64_t)count << PAGE_SHIFT_4K, to->bytes - at);

    return data != NULL ? to->home->write(to->home->opaque, at, data, len, error)
                        : to->home->zero(to->home->opaque, at, len, error);
}

static gboolean
merge_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    MergeJob *job = opaque;
    HomeRun to;

    job->written += (uint64_t)count * PAGE_BYTES;
    if (image < job->n_members)
        return base_write(g_ptr_array_index(job->bases, image), pages, count, error);
    to.home = merge_home(job, image, error);
    if (to.home == NULL)
        return FALSE;
    to.bytes = g_array_index(job->images, StoreImage, image).bytes;
    if (storefile_runs(pages, count, merge_home_run, &to, error))
        return TRUE;
    g_prefix_error(
        error, "home of disk %d of member %s: ", g_array_index(job->images, StoreImage, image).disk,
        g_array_index(job->images, StoreImage, image).member);
    return FALSE;
}

static const StoreVisitor merge_visitor = {.begin = merge_begin, .pages = merge_pages};

/* ---- The job ---- */

static MergeJob *
merge_job_new(CkptStore *store, const CatalogRow *root, GError **error)
{
    MergeJob *job = g_new0(MergeJob, 1);

    job->store = store;
    job->id = root->id;
    job->reader = storefile_open(store, root, true, &merge_visitor, job, error);
    if (job->reader == NULL)
        g_clear_pointer(&job, merge_job_free);
    return job;
}

/* A home that has been opened again may have lost what was written to it and not flushed. */
static bool
homes_same(MergeJob *job)
{
    if (job->homes == NULL)
        return true;
    for (guint i = 0; i < job->homes->len; i++) {
        const StoreImage *image = &g_array_index(job->images, StoreImage, job->n_members + i);
        const CkptStoreHome *home = g_ptr_array_index(job->homes, i);
        if (home != NULL && find_home(job, image) != home)
            return false;
    }
    return true;
}

static gboolean
change_merged(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    if (catalog->root == *(const uint64_t *)opaque)
        catalog->merged = true;
    return TRUE;
}

/* All is written: make it durable, then say so. */
static gboolean
merge_finish(MergeJob *job, GError **error)
{
    for (guint i = 0; i < job->bases->len; i++) {
        if (!base_sync(g_ptr_array_index(job->bases, i), error))
            return FALSE;
    }
    for (guint i = 0; i < job->homes->len; i++) {
        const CkptStoreHome *home = g_ptr_array_index(job->homes, i);
        const StoreImage *image = &g_array_index(job->images, StoreImage, job->n_members + i);

        if (home != NULL && !home->flush(home->opaque, error)) {
            g_prefix_error(error, "home of disk %d of member %s: ", image->disk, image->member);
            return FALSE;
        }
    }
    return base_remove_others(job->store, job->images, error) &&
           store_sync_dir(job->store, job->store->base_fd, error) &&
           catalog_change(job->store, true, change_merged, &job->id, error);
}

static gboolean
merge_some(CkptStore *store, uint64_t budget, gboolean *done, GError **error)
{
    MergeJob *job = store->merge;
    uint64_t start = job->written;
    gboolean more = TRUE;

    while (more && job->written - start < budget) {
        if (!storefile_step(job->reader, &more, error))
            return FALSE;
    }
    if (more)
        return TRUE;
    *done = merge_finish(job, error);
    return *done;
}

gboolean
ckpt_store_merge_some(CkptStore *store, uint64_t budget, CkptStoreFindHome find, void *opaque,
                      gboolean *done, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);
    g_autoptr(Catalog) catalog = NULL;
    gboolean good = TRUE;

    *done = FALSE;
    if (!store_check_writer(store, error))
        return FALSE;
    catalog = catalog_read(store, error);
    if (catalog == NULL)
        return FALSE;
    *done = catalog->root == 0 || catalog->merged;
    if (!*done && catalog->pins->len > 0)
        return TRUE;
    if (!*done && store->merge != NULL) {
        store->merge->find = find;
        store->merge->opaque = opaque;
        if (store->merge->id != catalog->root || !homes_same(store->merge))
            g_clear_pointer(&store->merge, merge_job_free);
    }
    if (!*done && store->merge == NULL) {
        store->merge = merge_job_new(store, catalog_find(catalog, catalog->root), error);
        if (store->merge == NULL)
            return FALSE;
        store->merge->find = find;
        store->merge->opaque = opaque;
    }
    if (!*done)
        good = merge_some(store, budget, done, error);
    if (!good || *done)
        g_clear_pointer(&store->merge, merge_job_free);
    return good;
}
