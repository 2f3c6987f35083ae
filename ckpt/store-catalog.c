/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store's catalog: an SQLite database in WAL mode.
 *
 * Theory of operation. There are at most a few thousand checkpoints, so whoever wants to know
 * something reads all of the catalog as it is at one moment (catalog_read), and every change starts
 * from such a reading inside its own transaction (catalog_change): nothing is kept in memory that
 * could differ from what is stored.
 *
 * "synchronous" is NORMAL, with which a commit is atomic but may be lost with power, and FULL for
 * the transactions that must not be.
 *
 * SQLite does not notice a flipped bit in a value, so every row has a checksum of its own; and the
 * shape of the tree is checked at every reading: parents have lower numbers and are there, the root
 * alone has none.
 */
#include "ckpt/store-internal.h"

#include <xxhash.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CATALOG_FILE "catalog.db"
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

/* ---- SQLite ---- */

static gboolean
catalog_fail(const CkptStore *store, int rc, GError **error)
{
    const char *text = store->db != NULL ? sqlite3_errmsg(store->db) : sqlite3_errstr(rc);

    switch (rc & 0xff) {
    case SQLITE_FULL:
        return store_fail(store, CKPT_STORE_ERROR_FULL, error,
                          CATALOG_FILE ": %s; free some space and try again", text);
    case SQLITE_CANTOPEN:
        return store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error, CATALOG_FILE ": %s", text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_SCHEMA:
        return store_fail(store, CKPT_STORE_ERROR_DAMAGED, error,
                          CATALOG_FILE ": damaged: %s: bring back an intact copy of the store",
                          text);
    default:
        return store_fail(store, CKPT_STORE_ERROR_IO, error, CATALOG_FILE ": %s (SQLite error %d)",
                          text, rc);
    }
}

static gboolean
catalog_damaged(const CkptStore *store, GError **error, const char *what)
{
    return store_fail(store, CKPT_STORE_ERROR_DAMAGED, error,
                      CATALOG_FILE ": damaged: %s: bring back an intact copy of the store", what);
}

/* Statements without parameters or results. */
static gboolean
catalog_exec(CkptStore *store, const char *sql, GError **error)
{
    int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK || catalog_fail(store, rc, error);
}

static sqlite3_stmt *
catalog_prepare(CkptStore *store, const char *sql, GError **error)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

    if (rc != SQLITE_OK)
        catalog_fail(store, rc, error);
    return statement;
}

/* One statement without results. types: 'i' for a uint64_t, 's' for a string or NULL. */
static gboolean
catalog_run(CkptStore *store, GError **error, const char *sql, const char *types, ...)
{
    sqlite3_stmt *statement = catalog_prepare(store, sql, error);
    va_list args;
    int rc;

    if (statement == NULL)
        return FALSE;
    va_start(args, types);
    for (int i = 0; types[i] != '\0'; i++) {
        if (types[i] == 'i')
            sqlite3_bind_int64(statement, i + 1, (sqlite3_int64)va_arg(args, uint64_t));
        else
            sqlite3_bind_text(statement, i + 1, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
    }
    va_end(args);
    rc = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return rc == SQLITE_DONE || catalog_fail(store, rc, error);
}

static uint64_t
column(sqlite3_stmt *statement, int i)
{
    return (uint64_t)sqlite3_column_int64(statement, i);
}

static char *
column_text(sqlite3_stmt *statement, int i)
{
    return g_strdup((const char *)sqlite3_column_text(statement, i));
}

/* For each row of a SELECT. */
typedef bool (*CatalogTake)(sqlite3_stmt *statement, Catalog *catalog);

static gboolean
catalog_select(CkptStore *store, Catalog *catalog, const char *sql, CatalogTake take,
               const char *damage, GError **error)
{
    sqlite3_stmt *statement = catalog_prepare(store, sql, error);
    bool good = true;
    int rc;

    if (statement == NULL)
        return FALSE;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW && good)
        good = take(statement, catalog);
    sqlite3_finalize(statement);
    if (!good)
        return catalog_damaged(store, error, damage);
    return rc == SQLITE_DONE || catalog_fail(store, rc, error);
}

static uint64_t
pragma_value(CkptStore *store, const char *sql)
{
    sqlite3_stmt *statement = catalog_prepare(store, sql, NULL);
    uint64_t value = statement != NULL && sqlite3_step(statement) == SQLITE_ROW
                         ? column(statement, 0)
                         : UINT64_MAX;

    sqlite3_finalize(statement);
    return value;
}

/* ---- Rows ---- */

CatalogRow
catalog_row_copy(const CatalogRow *row)
{
    CatalogRow copy = *row;

    copy.label = g_strdup(row->label);
    return copy;
}

void
catalog_row_clear(CatalogRow *row)
{
    g_clear_pointer(&row->label, g_free);
}

static void
pin_clear(gpointer data)
{
    g_free(((CatalogPin *)data)->owner);
}

static uint64_t
sum_of(char *text)
{
    uint64_t sum = XXH3_64bits(text, strlen(text));

    g_free(text);
    return sum;
}

static uint64_t
row_sum(const CatalogRow *r)
{
#define U "%" G_GUINT64_FORMAT " "
    return sum_of(g_strdup_printf(U U U U U U U "%" G_GINT64_FORMAT " " U U U U "%d%s", r->id,
                                  r->parent, (uint64_t)r->generation, (uint64_t)r->full, r->epoch,
                                  r->base_epoch, r->incarnation, r->realtime_ns, r->bytes,
                                  r->ram_pages, r->disk_blocks, r->layout, r->label != NULL,
                                  r->label != NULL ? r->label : ""));
}

static uint64_t
state_sum(const Catalog *c)
{
    return sum_of(g_strdup_printf(U U "%d " U U "%s", c->head, c->root, c->merged, c->next_id,
                                  c->changes, c->district));
}

static uint64_t
pin_sum(uint64_t id, const char *owner)
{
    return sum_of(g_strdup_printf(U "%s", id, owner));
#undef U
}

static bool
take_state(sqlite3_stmt *s, Catalog *catalog)
{
    if (catalog->district != NULL)
        return false;
    catalog->district = column_text(s, 0);
    catalog->head = column(s, 1);
    catalog->root = column(s, 2);
    catalog->merged = column(s, 3) != 0;
    catalog->next_id = column(s, 4);
    catalog->changes = column(s, 5);
    return catalog->district != NULL && column(s, 6) == state_sum(catalog);
}

static bool
take_row(sqlite3_stmt *s, Catalog *catalog)
{
    CatalogRow row = {
        .id = column(s, 0),
        .parent = column(s, 1),
        .generation = (uint32_t)column(s, 2),
        .full = column(s, 3) != 0,
        .epoch = column(s, 4),
        .base_epoch = column(s, 5),
        .incarnation = column(s, 6),
        .realtime_ns = sqlite3_column_int64(s, 7),
        .bytes = column(s, 8),
        .ram_pages = column(s, 9),
        .disk_blocks = column(s, 10),
        .layout = column(s, 11),
        .label = column_text(s, 12),
    };
    uint64_t last = catalog->rows->len > 0
                        ? g_array_index(catalog->rows, CatalogRow, catalog->rows->len - 1).id
                        : 0;
    bool placed = row.id == catalog->root
                      ? row.parent == 0
                      : row.parent < row.id && catalog_find(catalog, row.parent);

    g_array_append_val(catalog->rows, row);
    return column(s, 13) == row_sum(&row) && row.id > last && placed;
}

static bool
take_gone(sqlite3_stmt *s, Catalog *catalog)
{
    CatalogGone gone = {.id = column(s, 0), .generation = (uint32_t)column(s, 1)};

    g_array_append_val(catalog->gone, gone);
    return true;
}

static bool
take_pin(sqlite3_stmt *s, Catalog *catalog)
{
    CatalogPin pin = {.id = column(s, 0), .owner = column_text(s, 1)};

    g_array_append_val(catalog->pins, pin);
    return pin.owner != NULL && column(s, 2) == pin_sum(pin.id, pin.owner);
}

/* ---- Reading ---- */

void
catalog_free(Catalog *catalog)
{
    if (catalog == NULL)
        return;
    g_array_unref(catalog->rows);
    g_array_unref(catalog->gone);
    g_array_unref(catalog->pins);
    g_free(catalog->district);
    g_free(catalog);
}

static gboolean
catalog_fill(CkptStore *store, Catalog *catalog, GError **error)
{
    if (!catalog_select(store, catalog,
                        "SELECT district, head, root, merged, next_id, changes, sum FROM state",
                        take_state, "the entry of the whole store is wrong", error) ||
        !catalog_select(store, catalog,
                        "SELECT id, parent, generation, is_full, epoch, base_epoch, incarnation,"
                        " realtime_ns, bytes, ram_pages, disk_blocks, layout, label, sum"
                        " FROM checkpoint ORDER BY id",
                        take_row, "the entry of a checkpoint is wrong", error) ||
        !catalog_select(store, catalog, "SELECT id, generation FROM gone", take_gone,
                        "the list of old files is wrong", error) ||
        !catalog_select(store, catalog, "SELECT id, owner, sum FROM pin", take_pin,
                        "the entry of a pin is wrong", error))
        return FALSE;
    if (catalog->district == NULL || (catalog->head == 0) != (catalog->rows->len == 0) ||
        (catalog->head != 0 &&
         (!catalog_find(catalog, catalog->head) || !catalog_find(catalog, catalog->root))))
        return catalog_damaged(store, error, "entries are missing");
    return TRUE;
}

static Catalog *
catalog_new(CkptStore *store, GError **error)
{
    g_autoptr(Catalog) catalog = g_new0(Catalog, 1);

    catalog->rows = g_array_new(FALSE, TRUE, sizeof(CatalogRow));
    g_array_set_clear_func(catalog->rows, (GDestroyNotify)catalog_row_clear);
    catalog->gone = g_array_new(FALSE, TRUE, sizeof(CatalogGone));
    catalog->pins = g_array_new(FALSE, TRUE, sizeof(CatalogPin));
    g_array_set_clear_func(catalog->pins, pin_clear);
    if (!catalog_fill(store, catalog, error))
        return NULL;
    return g_steal_pointer(&catalog);
}

Catalog *
catalog_read(CkptStore *store, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);
    Catalog *catalog;

    if (!catalog_exec(store, "BEGIN", error))
        return NULL;
    catalog = catalog_new(store, error);
    sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return catalog;
}

/* ---- Changing ---- */

static gboolean
put_state(CkptStore *store, Catalog *catalog, GError **error)
{
    catalog->changes++;
    return catalog_run(store, error,
                       "REPLACE INTO state (one, district, head, root, merged, next_id, changes,"
                       " sum) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                       "siiiiii", catalog->district, catalog->head, catalog->root,
                       (uint64_t)catalog->merged, catalog->next_id, catalog->changes,
                       state_sum(catalog));
}

static gboolean
change_inside(CkptStore *store, CatalogChange change, void *opaque, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_new(store, error);

    return catalog != NULL && change(store, catalog, opaque, error) &&
           put_state(store, catalog, error) && catalog_exec(store, "COMMIT", error);
}

gboolean
catalog_change(CkptStore *store, bool durable, CatalogChange change, void *opaque, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);
    gboolean good;

    if (!store_check_writer(store, error) ||
        !catalog_exec(store, durable ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL",
                      error) ||
        !catalog_exec(store, "BEGIN IMMEDIATE", error))
        return FALSE;
    good = change_inside(store, change, opaque, error);
    if (!good)
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return good;
}

static gboolean
change_nothing(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    return TRUE;
}

gboolean
catalog_settle(CkptStore *store, GError **error)
{
    return catalog_change(store, true, change_nothing, NULL, error);
}

gboolean
catalog_put(CkptStore *store, const CatalogRow *r, GError **error)
{
    return catalog_run(store, error,
                       "REPLACE INTO checkpoint (id, parent, generation, is_full, epoch,"
                       " base_epoch, incarnation, realtime_ns, bytes, ram_pages, disk_blocks,"
                       " layout, label, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                       "iiiiiiiiiiiisi", r->id, r->parent, (uint64_t)r->generation,
                       (uint64_t)r->full, r->epoch, r->base_epoch, r->incarnation,
                       (uint64_t)r->realtime_ns, r->bytes, r->ram_pages, r->disk_blocks, r->layout,
                       r->label, row_sum(r));
}

gboolean
catalog_drop(CkptStore *store, uint64_t id, GError **error)
{
    return catalog_run(store, error, "DELETE FROM checkpoint WHERE id = ?", "i", id);
}

gboolean
catalog_put_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error)
{
    return catalog_run(store, error, "REPLACE INTO gone (id, generation) VALUES (?, ?)", "ii", id,
                       (uint64_t)generation);
}

gboolean
catalog_drop_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error)
{
    return catalog_run(store, error, "DELETE FROM gone WHERE id = ? AND generation = ?", "ii", id,
                       (uint64_t)generation);
}

gboolean
catalog_put_pin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    return catalog_run(store, error, "REPLACE INTO pin (id, owner, sum) VALUES (?, ?, ?)", "isi",
                       id, owner, pin_sum(id, owner));
}

gboolean
catalog_drop_pin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    return catalog_run(store, error, "DELETE FROM pin WHERE id = ? AND owner = ?", "is", id, owner);
}

/* ---- Opening ---- */

static gboolean
found_file(CkptStore *store, uint64_t id, uint32_t generation, void *opaque, GError **error)
{
    *(bool *)opaque = true;
    return TRUE;
}

/* A new catalog: all of it or nothing is there. */
static gboolean
catalog_create(CkptStore *store, GError **error)
{
    Catalog catalog = {.district = store->district, .next_id = 1};
    bool files = false;

    if (!store_foreach_file(store, found_file, &files, error))
        return FALSE;
    if (files)
        return catalog_damaged(store, error, "it is empty, but there are checkpoints");
    if (catalog_exec(store, "PRAGMA synchronous = FULL; BEGIN IMMEDIATE;", error) &&
        catalog_exec(store, schema, error) && put_state(store, &catalog, error) &&
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
    application = pragma_value(store, "PRAGMA application_id");
    version = pragma_value(store, "PRAGMA user_version");
    if (application == 0 && version == 0 &&
        pragma_value(store, "SELECT count(*) FROM sqlite_schema") == 0)
        return store_is_writer(store)
                   ? catalog_create(store, error)
                   : store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error, "there is nothing in it");
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

/* SQLite gives its other files the mode of this one. */
static gboolean
catalog_make_file(CkptStore *store, GError **error)
{
    int fd = openat(store->dir_fd, CATALOG_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return store_fail_errno(store, CATALOG_FILE, "open", errno, error);
    close(fd);
    return TRUE;
}

gboolean
catalog_open(CkptStore *store, GError **error)
{
    g_autofree char *path = g_build_filename(store->path, CATALOG_FILE, NULL);
    bool writer = store_is_writer(store);
    int rc;

    if (writer && !catalog_make_file(store, error))
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

char *
catalog_integrity(CkptStore *store)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);
    g_autoptr(GError) error = NULL;
    sqlite3_stmt *statement = catalog_prepare(store, "PRAGMA integrity_check(1)", &error);
    char *text = NULL;
    int rc;

    if (statement == NULL)
        return g_strdup(error->message);
    rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        text = column_text(statement, 0);
    else
        text = g_strdup(sqlite3_errmsg(store->db));
    sqlite3_finalize(statement);
    if (rc == SQLITE_ROW && g_strcmp0(text, "ok") == 0)
        g_clear_pointer(&text, g_free);
    return text;
}
