/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store: opening it, and writing checkpoints. The rest is in store-*.c.
 *
 * Theory of operation. A store is a directory (0700, files 0600) with
 *
 *   lock                        held by the one writer (fcntl(2), F_OFD_SETLK); its pid, for others.
 *                               A byte further on is held, shared, by those who load or check
 *   catalog.db                  an SQLite database: the tree of checkpoints, and what is under way
 *   checkpoint-ID-N.dcp         a checkpoint (docs/format.md); N grows when it is written anew
 *   base/ram-MEMBER.img, .sums  the base image of a member's RAM, and checksums of its pages
 *   index/checkpoint-ID-N.idx   where in the file its pages are; only a cache (store-index.c)
 *
 * and the homes of the disks, which are elsewhere. What holds at every instant, also for what is
 * left after kill -9 or a loss of power (of all that has not been synced any part may be there):
 *
 *   - A checkpoint is its ancestors' files from the root on, and its own, over the base images.
 *   - Base images and homes hold what the root's ancestors were, and possibly some of the root's
 *     own pages. So applying the root's file over them gives the root, whether that has been done
 *     before or not. (A root whose file is full does not need the base images.)
 *   - A file that the catalog names is complete and durable, and not written to any more.
 *
 * The order of steps that keeps it so:
 *
 *   prepare   create the file; sync the directory. The name is durable before it matters.
 *   commit    (the caller) write, fdatasync: THE commit. Then the catalog's row, synced, so that
 *             readers know what anyone was told of, after a loss of power too. If it is lost
 *             before, opening finds a whole file without a row and makes the row again from what
 *             the file says of itself. Whatever is not whole was never committed.
 *   discard   unlink; sync the directory. Had a commit been tried, first note in the catalog that
 *             the file is gone, because SQLite may bring a failed transaction back after a crash.
 *   merge     write the root's pages to base images and homes; sync all of them; then merged=1.
 *   remove    one synced transaction takes the row out and notes the file as gone; unlink; sync the
 *             directory; forget the note. Opening does the same for all notes. Without a note
 *             opening would take the file for a lost commit.
 *   root      the same: the transaction makes the only child of a merged root the root.
 *   fold      write the child's new file under its next N; fdatasync; sync the directory; one
 *             transaction names the new file and notes parent and old file as gone; as remove.
 *             Files whose N the catalog does not know are left over from folds that did not get so
 *             far: opening removes them. N of a fold that failed is not used again.
 *   head, labels, pins  one synced transaction.
 *
 * A synced transaction syncs all earlier ones with it (they are in one log, SQLite's WAL). What a
 * killed writer had handed to the kernel may be seen by the next one without being durable, so
 * opening first makes durable what it sees, before it removes any file because of it. A catalog
 * that must once have known a file, because that is whole and nothing else explains it, is damaged:
 * then nothing is removed (store-recover.c).
 *
 * Readers take no lock: they see one state of the catalog, and if a file has gone by the time they
 * come to it, they look again (store-load.c, store-check.c).
 */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

G_DEFINE_QUARK(ckpt - store - error - quark, ckpt_store_error)

/* ---- Errors ---- */

gboolean
store_fail(const CkptStore *store, CkptStoreError code, GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, CKPT_STORE_ERROR, (gint)code, "store %s: %s", store->path, text);
    return FALSE;
}

gboolean
store_fail_errno(const CkptStore *store, const char *object, const char *what, int err,
                 GError **error)
{
    bool full = err == ENOSPC || err == EDQUOT;
    CkptStoreError code = full            ? CKPT_STORE_ERROR_FULL
                          : err == ENOENT ? CKPT_STORE_ERROR_NOT_FOUND
                                          : CKPT_STORE_ERROR_IO;

    g_set_error(error, CKPT_STORE_ERROR, (gint)code, "store %s%s%s: %s: %s%s", store->path,
                object != NULL ? "/" : "", object != NULL ? object : "", what, g_strerror(err),
                full ? "; free some space and try again" : "");
    return FALSE;
}

gboolean
store_sync_dir(CkptStore *store, int fd, GError **error)
{
    return fsync(fd) == 0 || store_fail_errno(store, NULL, "fsync", errno, error);
}

gboolean
store_check_writer(const CkptStore *store, GError **error)
{
    return store_is_writer(store) || store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                                                "it has been opened for reading only");
}

/* ---- Opening ---- */

/* Make the directory, its name durable, if it is not there. */
static gboolean
make_dir(CkptStore *store, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(store->path);
    gboolean good;
    int fd;

    if (mkdir(store->path, 0700) != 0)
        return errno == EEXIST || store_fail_errno(store, NULL, "mkdir", errno, error);
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return store_fail_errno(store, NULL, "opening the directory above", errno, error);
    good = store_sync_dir(store, fd, error);
    close(fd);
    return good;
}

/* Nobody else may look into it: it has all that was in the guests' memory. */
static gboolean
check_mode(CkptStore *store, GError **error)
{
    struct stat st;

    if (fstat(store->dir_fd, &st) != 0)
        return store_fail_errno(store, NULL, "fstat", errno, error);
    if ((st.st_mode & (S_IRWXG | S_IRWXO)) == 0)
        return TRUE;
    return fchmod(store->dir_fd, 0700) == 0 ||
           store_fail_errno(store, NULL, "others may look into it, and fchmod", errno, error);
}

static gboolean
fail_locked(CkptStore *store, GError **error)
{
    char pid[32] = "";
    ssize_t len = pread(store->lock_fd, pid, sizeof pid - 1, 0);

    close(store->lock_fd);
    store->lock_fd = -1;
    pid[len > 0 ? len : 0] = '\0';
    return store_fail(store, CKPT_STORE_ERROR_BUSY, error,
                      "process %s writes to it already: only one can",
                      *pid != '\0' ? g_strchomp(pid) : "(unknown)");
}

/* Behind all that can be written there. */
#define LOCK_READERS_AT (INT64_C(1) << 40)

int
ckpt_store_hold(CkptStore *store)
{
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = LOCK_READERS_AT, .l_len = 1};
    int fd = -1;

    if (!store_is_writer(store))
        fd = openat(store->dir_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        fcntl(fd, F_OFD_SETLK, &lock); /* without it the writer may go on, and we begin again */
    return fd;
}

bool
ckpt_store_is_read(const CkptStore *store)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_READERS_AT, .l_len = 1};

    return store_is_writer(store) && fcntl(store->lock_fd, F_OFD_GETLK, &lock) == 0 &&
           lock.l_type != F_UNLCK;
}

static gboolean
take_lock(CkptStore *store, GError **error)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = LOCK_READERS_AT};
    g_autofree char *pid = g_strdup_printf("%d\n", (int)getpid());

    store->lock_fd = openat(store->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (store->lock_fd < 0)
        return store_fail_errno(store, "lock", "open", errno, error);
    if (fcntl(store->lock_fd, F_OFD_SETLK, &lock) != 0)
        return errno == EAGAIN || errno == EACCES
                   ? fail_locked(store, error)
                   : store_fail_errno(store, "lock", "locking it", errno, error);
    /* For messages only: a full disk must not keep the store shut. */
    if (ftruncate(store->lock_fd, 0) != 0 ||
        pwrite(store->lock_fd, pid, strlen(pid), 0) != (ssize_t)strlen(pid))
        g_debug("%s/lock: %s", store->path, g_strerror(errno));
    return TRUE;
}

static gboolean
open_base_dir(CkptStore *store, GError **error)
{
    if (store_is_writer(store) && mkdirat(store->dir_fd, STORE_BASE_DIR, 0700) == 0) {
        if (!store_sync_dir(store, store->dir_fd, error))
            return FALSE;
    }
    store->base_fd = openat(store->dir_fd, STORE_BASE_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->base_fd >= 0 || (errno == ENOENT && !store_is_writer(store)))
        return TRUE;
    return store_fail_errno(store, STORE_BASE_DIR, "open", errno, error);
}

static gboolean
store_open_all(CkptStore *store, CkptStoreMode mode, GError **error)
{
    if (mode == CKPT_STORE_CREATE && !make_dir(store, error))
        return FALSE;
    store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0)
        return store_fail_errno(store, NULL, "open", errno, error);
    if (mode != CKPT_STORE_READ && (!check_mode(store, error) || !take_lock(store, error)))
        return FALSE;
    return open_base_dir(store, error) && catalog_open(store, error) &&
           (mode == CKPT_STORE_READ || store_recover(store, error));
}

CkptStore *
ckpt_store_open(const char *path, const char *district, CkptStoreMode mode, GError **error)
{
    g_autoptr(CkptStore) store = g_new0(CkptStore, 1);

    store->path = g_strdup(path);
    store->district = g_strdup(district);
    store->dir_fd = store->base_fd = store->lock_fd = -1;
    store->next_id = 1;
    store->prepared = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    store->limbo = g_array_new(FALSE, FALSE, sizeof(CatalogGone));
    g_mutex_init(&store->lock);
    g_mutex_init(&store->work);
    if (mode != CKPT_STORE_READ && (district == NULL || !layout_name_good(district))) {
        store_fail(store, CKPT_STORE_ERROR_REFUSED, error, "a writer must name the district");
        return NULL;
    }
    if (!store_open_all(store, mode, error))
        return NULL;
    return g_steal_pointer(&store);
}

/* Files that were prepared and not used: the next open would remove them. */
static void
remove_unused(CkptStore *store)
{
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, store->prepared);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        g_autofree char *name = storefile_name(*(uint64_t *)key, 0);
        struct stat st;

        if (fstatat(store->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size == 0 &&
            unlinkat(store->dir_fd, name, 0) != 0)
            g_debug("%s/%s: %s", store->path, name, g_strerror(errno));
    }
}

void
ckpt_store_close(CkptStore *store)
{
    if (store == NULL)
        return;
    merge_job_free(store->merge);
    fold_free(store->fold);
    index_job_free(store->index);
    remove_unused(store);
    catalog_close(store);
    for (int *fd = (int[]){store->base_fd, store->dir_fd, store->lock_fd, -2}; *fd != -2; fd++) {
        if (*fd >= 0)
            close(*fd);
    }
    g_hash_table_unref(store->prepared);
    g_array_unref(store->limbo);
    g_mutex_clear(&store->lock);
    g_mutex_clear(&store->work);
    g_free(store->district);
    g_free(store->path);
    g_free(store);
}

/* ---- Writing checkpoints ---- */

char *
ckpt_store_new_path(const CkptStore *store, uint64_t id)
{
    g_autofree char *name = storefile_name(id, 0);

    return g_build_filename(store->path, name, NULL);
}

static PreparedState
prepared_state(CkptStore *store, uint64_t id)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);

    return GPOINTER_TO_INT(g_hash_table_lookup(store->prepared, &id));
}

static void
prepared_set(CkptStore *store, uint64_t id, PreparedState state)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);

    g_hash_table_replace(store->prepared, g_memdup2(&id, sizeof id), GINT_TO_POINTER(state));
}

static void
prepared_forget(CkptStore *store, uint64_t id)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);

    g_hash_table_remove(store->prepared, &id);
}

static uint64_t
take_id(CkptStore *store)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);

    return store->next_id++;
}

gboolean
ckpt_store_prepare(CkptStore *store, uint64_t *id, int *fd, GError **error)
{
    g_autofree char *name = NULL;

    if (!store_check_writer(store, error))
        return FALSE;
    *id = take_id(store);
    name = storefile_name(*id, 0);
    *fd = openat(store->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*fd < 0)
        return store_fail_errno(store, name, "creating it", errno, error);
    if (!store_sync_dir(store, store->dir_fd, error)) {
        close(*fd);
        *fd = -1;
        unlinkat(store->dir_fd, name, 0);
        return FALSE;
    }
    prepared_set(store, *id, PREPARED_NEW);
    return TRUE;
}

gboolean
store_check_place(const CkptStore *store, const Catalog *catalog, const CatalogRow *row,
                  GError **error)
{
    const CatalogRow *parent;
    uint64_t incarnation = catalog_incarnation(catalog);

    if (row->incarnation < incarnation)
        return store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                          "checkpoint %" G_GUINT64_FORMAT " is of incarnation %" G_GUINT64_FORMAT
                          ", but incarnation %" G_GUINT64_FORMAT " has written here already",
                          row->id, row->incarnation, incarnation);
    if (row->parent == 0)
        return (catalog->rows->len == 0 && row->full) ||
               store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                          "checkpoint %" G_GUINT64_FORMAT " has no parent: only the first of a "
                          "store can have none, and must be full",
                          row->id);
    parent = catalog_get(store, catalog, row->parent, error);
    if (parent == NULL)
        return FALSE;
    if (parent->id >= row->id)
        return store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                          "checkpoint %" G_GUINT64_FORMAT
                          " cannot be the parent of %" G_GUINT64_FORMAT,
                          parent->id, row->id);
    return row->full || (row->base_epoch == parent->epoch && row->layout == parent->layout) ||
           store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                      "checkpoint %" G_GUINT64_FORMAT " builds on epoch %" G_GUINT64_FORMAT
                      " or on other members than its parent %" G_GUINT64_FORMAT
                      ", which is epoch %" G_GUINT64_FORMAT,
                      row->id, row->base_epoch, parent->id, parent->epoch);
}

static gboolean
change_commit(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const CatalogRow *row = opaque;

    if (row->parent != catalog->head)
        return store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                          "checkpoint %" G_GUINT64_FORMAT " builds on %" G_GUINT64_FORMAT
                          ", which is not the head (%" G_GUINT64_FORMAT ")",
                          row->id, row->parent, catalog->head);
    if (!store_check_place(store, catalog, row, error) || !catalog_put(store, row, error))
        return FALSE;
    catalog->head = row->id;
    if (catalog->root == 0)
        catalog->root = row->id;
    catalog->next_id = MAX(catalog->next_id, row->id + 1);
    return TRUE;
}

/* What the head of the file says; the rest of row from the caller. */
static gboolean
commit_row(CkptStore *store, uint64_t id, const CkptStoreCommit *commit, CatalogRow *row,
           GError **error)
{
    CatalogRow wanted = {.id = id};
    g_autoptr(StoreReader) reader = storefile_open(store, &wanted, false, NULL, NULL, error);
    gboolean more = TRUE;
    struct stat st;

    if (reader == NULL)
        return FALSE;
    while (more && !storefile_begun(reader)) {
        if (!storefile_step(reader, &more, error))
            return FALSE;
    }
    if (fstat(storefile_fd(reader), &st) != 0)
        return store_fail_errno(store, NULL, "fstat", errno, error);
    *row = catalog_row_copy(storefile_row(reader));
    row->bytes = (uint64_t)st.st_size;
    row->realtime_ns = commit->realtime_ns;
    row->ram_pages = commit->ram_pages;
    row->disk_blocks = commit->disk_blocks;
    if (row->parent == commit->parent_id && row->epoch == commit->epoch &&
        row->incarnation == commit->incarnation && row->full == commit->full &&
        g_strcmp0(row->label != NULL ? row->label : "",
                  commit->label != NULL ? commit->label : "") == 0)
        return TRUE;
    return store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                      "the file of checkpoint %" G_GUINT64_FORMAT
                      " says otherwise about parent, epoch, incarnation, fullness or label",
                      id);
}

gboolean
ckpt_store_commit(CkptStore *store, uint64_t id, const CkptStoreCommit *commit, GError **error)
{
    g_auto(CatalogRow) row = {0};

    if (!store_check_writer(store, error))
        return FALSE;
    if (prepared_state(store, id) == 0)
        return store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error,
                          "checkpoint %" G_GUINT64_FORMAT " has not been prepared", id);
    if (!commit_row(store, id, commit, &row, error))
        return FALSE;
    prepared_set(store, id, PREPARED_COMMIT_TRIED);
    if (!catalog_change(store, true, change_commit, &row, error))
        return FALSE;
    prepared_forget(store, id);
    return TRUE;
}

static gboolean
change_discard(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    return catalog_put_gone(store, *(const uint64_t *)opaque, 0, error);
}

gboolean
ckpt_store_discard(CkptStore *store, uint64_t id, GError **error)
{
    g_autofree char *name = storefile_name(id, 0);
    PreparedState state = prepared_state(store, id);

    if (state == 0)
        return store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error,
                          "checkpoint %" G_GUINT64_FORMAT " is not one that could be discarded",
                          id);
    if (state == PREPARED_COMMIT_TRIED && !catalog_change(store, true, change_discard, &id, error))
        return FALSE;
    if (unlinkat(store->dir_fd, name, 0) != 0 && errno != ENOENT)
        return store_fail_errno(store, name, "unlink", errno, error);
    if (!store_sync_dir(store, store->dir_fd, error))
        return FALSE;
    prepared_forget(store, id);
    return state == PREPARED_NEW || store_remove_gone(store, error);
}
