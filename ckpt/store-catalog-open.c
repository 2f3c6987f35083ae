/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening the store's catalog, and making a new one: with its schema in one synced transaction, so
 * that it is there as a whole or not at all. A catalog without a schema is new only where there are
 * no checkpoints: without it nobody knows what the base images hold.
 */
#include "ckpt/store-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CATALOG_VERSION 1
#define CATALOG_APPLICATION 0x44535452 /* "DSTR" */
#define CATALOG_BUSY_MS 5000

static const char schema[] =
    "CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), district TEXT NOT NULL,"
    " head INTEGER NOT NULL, root INTEGER NOT NULL, merged INTEGER NOT NULL,"
    " next_id INTEGER NOT NULL, changes INTEGER NOT NULL, sum INTEGER NOT NULL);"
    "CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL,"
    " generation INTEGER NOT NULL, is_full INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " base_epoch INTEGER NOT NULL, incarnation INTEGER NOT NULL, realtime_ns INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, ram_pages INTEGER NOT NULL, disk_blocks INTEGER NOT NULL,"
    " layout INTEGER NOT NULL, label TEXT, sum INTEGER NOT NULL);"
    "CREATE TABLE gone (id INTEGER NOT NULL, generation INTEGER NOT NULL,"
    " PRIMARY KEY (id, generation)) WITHOUT ROWID;"
    "CREATE TABLE pin (id INTEGER NOT NULL, owner TEXT NOT NULL, sum INTEGER NOT NULL,"
    " PRIMARY KEY (id, owner)) WITHOUT ROWID;"
    "PRAGMA application_id = 1146311762;"
    "PRAGMA user_version = 1;";
G_STATIC_ASSERT(CATALOG_APPLICATION == 1146311762);

static gboolean
found_file(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    *(bool *)opaque = true;
    return TRUE;
}

/* A store without a catalog is a new one, and then has nothing else. */
static gboolean
catalog_check_no_files(CkptStore *store, GError **error)
{
    bool files = false;

    return store_foreach_file(store, found_file, &files, error) &&
           (!files ||
            catalog_damaged(store, error, "it is missing or empty, but there are checkpoints"));
}

/* For a reader. */
static gboolean
catalog_nothing(CkptStore *store, GError **error)
{
    return catalog_check_no_files(store, error) &&
           store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error, "there is nothing in it");
}

/* A new catalog: all of it or nothing is there. */
static gboolean
catalog_create(CkptStore *store, GError **error)
{
    Catalog catalog = {.district = store->district, .next_id = 1};

    if (!catalog_check_no_files(store, error))
        return FALSE;
    if (catalog_exec(store, "PRAGMA synchronous = FULL; BEGIN IMMEDIATE;", error) &&
        catalog_exec(store, schema, error) && catalog_put_state(store, &catalog, error) &&
        catalog_exec(store, "COMMIT", error))
        return store_sync_dir(store, store->dir_fd, error);
    sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return FALSE;
}

static gboolean
catalog_check_version(CkptStore *store, GError **error)
{
    uint64_t application, version;

    /* So that an error is told as what it is. */
    if (!catalog_exec(store, "SELECT count(*) FROM sqlite_schema", error))
        return FALSE;
    application = catalog_value(store, "PRAGMA application_id");
    version = catalog_value(store, "PRAGMA user_version");
    if (application == 0 && version == 0 &&
        catalog_value(store, "SELECT count(*) FROM sqlite_schema") == 0)
        return store_is_writer(store) ? catalog_create(store, error)
                                      : catalog_nothing(store, error);
    if (application == CATALOG_APPLICATION && version == CATALOG_VERSION)
        return TRUE;
    return store_fail(store, CKPT_STORE_ERROR_FOREIGN, error,
                      CATALOG_FILE
                      ": of version %" G_GUINT64_FORMAT " (application %" G_GUINT64_FORMAT
                      "), this program reads version %d: use the release that wrote it",
                      version, application, CATALOG_VERSION);
}

static gboolean
catalog_check_district(CkptStore *store, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    if (catalog == NULL)
        return FALSE;
    if (store->district == NULL)
        store->district = g_strdup(catalog->district);
    return strcmp(store->district, catalog->district) == 0 ||
           store_fail(store, CKPT_STORE_ERROR_FOREIGN, error, "it is of district %s, not of %s",
                      catalog->district, store->district);
}

/* SQLite gives its other files the mode of this one. A writer makes it. */
static gboolean
catalog_check_file(CkptStore *store, GError **error)
{
    int flags = store_is_writer(store) ? O_RDWR | O_CREAT : O_RDONLY;
    int fd = openat(store->dir_fd, CATALOG_FILE, flags | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return errno == ENOENT ? catalog_nothing(store, error)
                               : store_fail_errno(store, CATALOG_FILE, "open", errno, error);
    close(fd);
    return TRUE;
}

gboolean
catalog_open(CkptStore *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->path, CATALOG_FILE, NULL);
    bool writer = store_is_writer(store);
    int rc;

    if (!catalog_check_file(store, error))
        return FALSE;
    rc = sqlite3_open_v2(path, &store->db,
                         (writer ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY) |
                             SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                         NULL);
    if (rc != SQLITE_OK)
        return catalog_fail(store, rc, error);
    sqlite3_busy_timeout(store->db, CATALOG_BUSY_MS);
    if (!catalog_exec(store, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;", error) ||
        (writer && !catalog_exec(store, "PRAGMA journal_mode = WAL;", error)))
        return FALSE;
    return catalog_check_version(store, error) && catalog_check_district(store, error);
}

void
catalog_close(CkptStore *store)
{
    sqlite3_close(store->db);
    store->db = NULL;
}
