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
#include <string.h>
#include <sys/statvfs.h>

/* What SQLite takes at once for the memory that its users share. */
#define SHARED_BYTES 32768

/* ---- SQLite ---- */

/* SQLite says so only where it writes its files, not where it cannot make or enlarge them. */
static bool
catalog_is_full(const CkptStore *store, int rc)
{
    int err = store->db != NULL ? sqlite3_system_errno(store->db) : 0;
    struct statvfs fs;

    return rc == SQLITE_FULL || (rc == SQLITE_IOERR && (err == ENOSPC || err == EDQUOT)) ||
           ((rc == SQLITE_IOERR || rc == SQLITE_CANTOPEN) && fstatvfs(store->dir_fd, &fs) == 0 &&
            fs.f_bavail * fs.f_frsize < SHARED_BYTES);
}

gboolean
catalog_fail(const CkptStore *store, int rc, GError **error)
{
    const char *text = store->db != NULL ? sqlite3_errmsg(store->db) : sqlite3_errstr(rc);

    if (catalog_is_full(store, rc & 0xff))
        return store_fail_errno(store, CATALOG_FILE, text, ENOSPC, error);
    switch (rc & 0xff) {
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

gboolean
catalog_damaged(const CkptStore *store, GError **error, const char *what)
{
    return store_fail(store, CKPT_STORE_ERROR_DAMAGED, error,
                      CATALOG_FILE ": damaged: %s: bring back an intact copy of the store", what);
}

gboolean
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

/* One statement without results. Its parameters are n numbers, and then text unless that is NULL. */
static gboolean
catalog_run(CkptStore *store, const char *sql, const uint64_t *numbers, int n, const char *text,
            GError **error)
{
    sqlite3_stmt *statement = catalog_prepare(store, sql, error);
    int rc;

    if (statement == NULL)
        return FALSE;
    for (int i = 0; i < n; i++)
        sqlite3_bind_int64(statement, i + 1, (sqlite3_int64)numbers[i]);
    if (text != NULL)
        sqlite3_bind_text(statement, n + 1, text, -1, SQLITE_TRANSIENT);
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

uint64_t
catalog_value(CkptStore *store, const char *sql)
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

/* It has no checksum: what it names is removed, so that must be no file that is in use. */
static bool
take_gone(sqlite3_stmt *s, Catalog *catalog)
{
    CatalogGone gone = {.id = column(s, 0), .generation = (uint32_t)column(s, 1)};
    const CatalogRow *row = catalog_find(catalog, gone.id);

    g_array_append_val(catalog->gone, gone);
    return row == NULL || row->generation != gone.generation;
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

gboolean
catalog_put_state(CkptStore *store, Catalog *catalog, GError **error)
{
    catalog->changes++;
    const uint64_t numbers[] = {catalog->head,    catalog->root,    catalog->merged,
                                catalog->next_id, catalog->changes, state_sum(catalog)};

    return catalog_run(store,
                       "REPLACE INTO state (one, head, root, merged, next_id, changes, sum,"
                       " district) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                       numbers, G_N_ELEMENTS(numbers), catalog->district, error);
}

static gboolean
change_inside(CkptStore *store, CatalogChange change, void *opaque, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_new(store, error);

    return catalog != NULL && change(store, catalog, opaque, error) &&
           catalog_put_state(store, catalog, error) && catalog_exec(store, "COMMIT", error);
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
    const uint64_t numbers[] = {r->id,     r->parent,     r->generation,  r->full,
                                r->epoch,  r->base_epoch, r->incarnation, (uint64_t)r->realtime_ns,
                                r->bytes,  r->ram_pages,  r->disk_blocks, r->layout,
                                row_sum(r)};

    return catalog_run(store,
                       "REPLACE INTO checkpoint (id, parent, generation, is_full, epoch,"
                       " base_epoch, incarnation, realtime_ns, bytes, ram_pages, disk_blocks,"
                       " layout, sum, label) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                       numbers, G_N_ELEMENTS(numbers), r->label, error);
}

gboolean
catalog_drop(CkptStore *store, uint64_t id, GError **error)
{
    return catalog_run(store, "DELETE FROM checkpoint WHERE id = ?", &id, 1, NULL, error);
}

gboolean
catalog_put_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error)
{
    const uint64_t numbers[] = {id, generation};

    return catalog_run(store, "REPLACE INTO gone (id, generation) VALUES (?, ?)", numbers,
                       G_N_ELEMENTS(numbers), NULL, error);
}

gboolean
catalog_drop_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error)
{
    const uint64_t numbers[] = {id, generation};

    return catalog_run(store, "DELETE FROM gone WHERE id = ? AND generation = ?", numbers,
                       G_N_ELEMENTS(numbers), NULL, error);
}

gboolean
catalog_put_pin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    const uint64_t numbers[] = {id, pin_sum(id, owner)};

    return catalog_run(store, "REPLACE INTO pin (id, sum, owner) VALUES (?, ?, ?)", numbers,
                       G_N_ELEMENTS(numbers), owner, error);
}

gboolean
catalog_drop_pin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    return catalog_run(store, "DELETE FROM pin WHERE id = ? AND owner = ?", &id, 1, owner, error);
}

/* ---- Checking ---- */

char *
catalog_integrity(CkptStore *store)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);
    sqlite3_stmt *statement = catalog_prepare(store, "PRAGMA integrity_check(1)", NULL);
    char *text = NULL;
    int rc;

    if (statement == NULL)
        return g_strdup(sqlite3_errmsg(store->db));
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
