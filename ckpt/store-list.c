/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the store has: the list, finding a checkpoint, head, labels and pins. */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void
ckpt_store_entry_free(CkptStoreEntry *entry)
{
    if (entry == NULL)
        return;
    g_free(entry->label);
    g_free(entry);
}

/* ---- List ---- */

static unsigned
entry_flags(const Catalog *catalog, const CatalogRow *row)
{
    bool root = row->id == catalog->root;

    return (root ? CKPT_STORE_ROOT : 0) | (root && catalog->merged ? CKPT_STORE_MERGED : 0) |
           (row->id == catalog->head ? CKPT_STORE_HEAD : 0) |
           (catalog_is_ancestor(catalog, row->id, catalog->head) ? 0 : CKPT_STORE_ABANDONED) |
           (catalog_pinned(catalog, row->id) ? CKPT_STORE_PINNED : 0) |
           (row->full ? CKPT_STORE_IS_FULL : 0);
}

static CkptStoreEntry *
entry_new(const Catalog *catalog, const CatalogRow *row, unsigned depth)
{
    CkptStoreEntry *entry = g_new0(CkptStoreEntry, 1);

    *entry = (CkptStoreEntry){
        .id = row->id,
        .parent = row->parent,
        .depth = depth,
        .epoch = row->epoch,
        .incarnation = row->incarnation,
        .realtime_ns = row->realtime_ns,
        .bytes = row->bytes,
        .ram_pages = row->ram_pages,
        .disk_blocks = row->disk_blocks,
        .flags = entry_flags(catalog, row),
        .label = g_strdup(row->label),
    };
    return entry;
}

/* One that has been listed, and how many rows of the catalog have been looked at for its children.
 */
typedef struct Listed {
    uint64_t id;
    guint next;
} Listed;

/* Depth first, without recursion: a chain may be long. */
static void
list_tree(const Catalog *catalog, GPtrArray *entries)
{
    g_autoptr(GArray) path = g_array_new(FALSE, FALSE, sizeof(Listed));
    Listed top = {.id = 0};

    g_array_append_val(path, top);
    while (path->len > 0) {
        Listed *at = &g_array_index(path, Listed, path->len - 1);
        const CatalogRow *row = NULL;

        while (at->next < catalog->rows->len) {
            row = &g_array_index(catalog->rows, CatalogRow, at->next++);
            if (row->parent == at->id)
                break;
            row = NULL;
        }
        if (row == NULL) {
            g_array_set_size(path, path->len - 1);
            continue;
        }
        g_ptr_array_add(entries, entry_new(catalog, row, path->len - 1));
        top.id = row->id;
        g_array_append_val(path, top);
    }
}

GPtrArray *
ckpt_store_list(CkptStore *store, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);
    GPtrArray *entries;

    if (catalog == NULL)
        return NULL;
    entries = g_ptr_array_new_with_free_func((GDestroyNotify)ckpt_store_entry_free);
    list_tree(catalog, entries);
    return entries;
}

/* ---- Finding ---- */

static bool
is_number(const char *text)
{
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

bool
ckpt_store_label_good(const char *label)
{
    glong chars = 0;

    if (label == NULL || *label == '\0' || is_number(label) || strcmp(label, "latest") == 0 ||
        !g_utf8_validate(label, -1, NULL))
        return false;
    for (const char *p = label; *p != '\0'; p = g_utf8_next_char(p), chars++) {
        if (!g_unichar_isprint(g_utf8_get_char(p)))
            return false;
    }
    return chars <= STORE_LABEL_CHARS_MAX;
}

static uint64_t
find_label(const Catalog *catalog, const char *label)
{
    for (guint i = catalog->rows->len; i-- > 0;) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);
        if (g_strcmp0(row->label, label) == 0)
            return row->id;
    }
    return 0;
}

gboolean
ckpt_store_find(CkptStore *store, const char *what, uint64_t *id, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    if (catalog == NULL || !store_check_emptied(store, catalog, error))
        return FALSE;
    if (strcmp(what, "latest") == 0)
        *id = catalog->head;
    else if (is_number(what))
        *id = g_ascii_strtoull(what, NULL, 10);
    else
        *id = find_label(catalog, what);
    return catalog_find(catalog, *id) != NULL ||
           store_fail(store, CKPT_STORE_ERROR_NOT_FOUND, error,
                      "it has no checkpoint %s: see the list of those it has", what);
}

gboolean
ckpt_store_head(CkptStore *store, uint64_t *id, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    if (catalog == NULL)
        return FALSE;
    *id = catalog->head;
    return TRUE;
}

gboolean
ckpt_store_root(CkptStore *store, uint64_t *id, gboolean *merged, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    if (catalog == NULL)
        return FALSE;
    *id = catalog->root;
    *merged = catalog->merged;
    return TRUE;
}

/* ---- Usage ---- */

/* Bytes on the disk of the files in directory fd (closed here). */
static uint64_t
dir_bytes(int fd, uint64_t *checkpoints)
{
    const uint64_t stat_block = 512; /* stat(2) */
    DIR *dir = fdopendir(fd);
    uint64_t sum = 0;
    struct dirent *entry;

    if (dir == NULL) {
        close(fd);
        return 0;
    }
    while ((entry = readdir(dir)) != NULL) {
        struct stat st;
        uint32_t generation;
        uint64_t id;

        if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
            continue;
        sum += (uint64_t)st.st_blocks * stat_block;
        if (storefile_parse_name(entry->d_name, &id, &generation))
            *checkpoints += (uint64_t)st.st_blocks * stat_block;
    }
    closedir(dir);
    return sum;
}

gboolean
ckpt_store_usage(CkptStore *store, CkptStoreUsage *usage, GError **error)
{
    int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t none = 0;

    if (fd < 0)
        return store_fail_errno(store, NULL, "reading the directory", errno, error);
    *usage = (CkptStoreUsage){0};
    usage->total = dir_bytes(fd, &usage->checkpoints);
    fd = openat(store->dir_fd, STORE_BASE_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        usage->base = dir_bytes(fd, &none);
    usage->total += usage->base;
    return TRUE;
}

/* ---- Head, labels and pins ---- */

gboolean
ckpt_store_is_held(CkptStore *store, gboolean *held, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);

    *held = catalog != NULL && catalog->pins->len > 0;
    return catalog != NULL;
}

static void
pin_free(gpointer data)
{
    CkptStorePin *pin = data;

    g_free(pin->owner);
    g_free(pin);
}

GPtrArray *
ckpt_store_pins(CkptStore *store, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);
    GPtrArray *pins;

    if (catalog == NULL)
        return NULL;
    pins = g_ptr_array_new_with_free_func(pin_free);
    for (guint i = 0; i < catalog->pins->len; i++) {
        const CatalogPin *row = &g_array_index(catalog->pins, CatalogPin, i);
        CkptStorePin *pin = g_new0(CkptStorePin, 1);

        *pin = (CkptStorePin){.id = row->id, .owner = g_strdup(row->owner)};
        g_ptr_array_add(pins, pin);
    }
    return pins;
}

typedef struct Change {
    uint64_t id;
    const char *text;
    bool on;
} Change;

static gboolean
change_head(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const Change *change = opaque;

    catalog->head = change->id;
    return catalog_get(store, catalog, change->id, error) != NULL;
}

gboolean
ckpt_store_set_head(CkptStore *store, uint64_t id, GError **error)
{
    Change change = {.id = id};

    return catalog_change(store, true, change_head, &change, error);
}

static gboolean
change_label(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const Change *change = opaque;
    CatalogRow *row = catalog_get(store, catalog, change->id, error);

    if (row == NULL)
        return FALSE;
    g_free(row->label);
    row->label = g_strdup(change->text);
    return catalog_put(store, row, error);
}

gboolean
ckpt_store_label(CkptStore *store, uint64_t id, const char *label, GError **error)
{
    Change change = {.id = id, .text = label};

    if (label != NULL && !ckpt_store_label_good(label))
        return store_fail(store, CKPT_STORE_ERROR_REFUSED, error,
                          "a label has 1 to %d printable characters and is neither a number nor "
                          "\"latest\"",
                          STORE_LABEL_CHARS_MAX);
    return catalog_change(store, true, change_label, &change, error);
}

static gboolean
change_pin(CkptStore *store, Catalog *catalog, void *opaque, GError **error)
{
    const Change *change = opaque;

    if (!change->on)
        return catalog_drop_pin(store, change->id, change->text, error);
    return catalog_get(store, catalog, change->id, error) != NULL &&
           catalog_put_pin(store, change->id, change->text, error);
}

static gboolean
set_pin(CkptStore *store, uint64_t id, const char *owner, bool on, GError **error)
{
    Change change = {.id = id, .text = owner, .on = on};

    if (!layout_name_good(owner))
        return store_fail(store, CKPT_STORE_ERROR_REFUSED, error, "a pin's owner must be a name");
    return catalog_change(store, true, change_pin, &change, error);
}

gboolean
ckpt_store_pin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    if (!set_pin(store, id, owner, true, error))
        return FALSE;
    /* A slice that has not seen the pin is waited for; then the merge begins anew, when it may. */
    g_mutex_lock(&store->work);
    g_clear_pointer(&store->merge, merge_job_free);
    g_mutex_unlock(&store->work);
    return TRUE;
}

gboolean
ckpt_store_unpin(CkptStore *store, uint64_t id, const char *owner, GError **error)
{
    return set_pin(store, id, owner, false, error);
}
