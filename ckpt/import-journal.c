/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journals that an import brings. */
#include "ckpt/import-journal.h"

#include "ckpt/format.h"
#include "ckpt/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct Item {
    char *member;
    char *path;
    uint64_t bytes;
    int fd;
} Item;

struct ImportJournals {
    char *dir;
    GArray *items; /* of Item */
    bool complete;
};

static void
item_clear(gpointer data)
{
    Item *item = data;

    g_free(item->member);
    g_free(item->path);
    if (item->fd >= 0)
        close(item->fd);
}

ImportJournals *
import_journals_new(const char *dir)
{
    ImportJournals *journals = g_new0(ImportJournals, 1);

    journals->dir = g_strdup(dir);
    journals->items = g_array_new(FALSE, FALSE, sizeof(Item));
    g_array_set_clear_func(journals->items, item_clear);
    return journals;
}

void
import_journals_free(ImportJournals *journals)
{
    if (journals == NULL)
        return;
    g_array_unref(journals->items);
    g_free(journals->dir);
    g_free(journals);
}

static gboolean
item_fail(const Item *item, const char *doing, GError **error)
{
    int err = errno;

    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "%s: %s: %s%s", item->path,
                doing, g_strerror(err),
                err == ENOSPC || err == EDQUOT ? ": free some space there and try again" : "");
    return FALSE;
}

static Item *
find_item(const ImportJournals *journals, const char *member)
{
    for (guint i = 0; i < journals->items->len; i++) {
        Item *item = &g_array_index(journals->items, Item, i);
        if (strcmp(item->member, member) == 0)
            return item;
    }
    return NULL;
}

/* All of its room is taken, once the file is known to be good: its guest must not find later that there
 * is none. */
static gboolean
item_complete(const Item *item, GError **error)
{
    if (fallocate(item->fd, 0, 0, (off_t)item->bytes) != 0 && errno != EOPNOTSUPP)
        return item_fail(item, "taking the room for the journal", error);
    return fsync(item->fd) == 0 || item_fail(item, "syncing it", error);
}

static gboolean
take_begin(ImportJournals *journals, const District__StreamJournal *record, GError **error)
{
    g_autofree char *file = g_strdup_printf("journal-%s.img", record->member);
    Item item = {.bytes = record->size};

    if (find_item(journals, record->member) != NULL)
        return format_damaged(error, "JOURNAL record: the journal of member %s begins twice",
                              record->member);
    if (journals->items->len == MEMBERS_MAX)
        return format_damaged(error, "JOURNAL record: more journals than members can be");
    item.member = g_strdup(record->member);
    item.path = g_build_filename(journals->dir, file, NULL);
    item.fd = open(item.path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    g_array_append_val(journals->items, item);
    return (item.fd >= 0 && ftruncate(item.fd, (off_t)item.bytes) == 0) ||
           item_fail(&item, "making it", error);
}

static gboolean
take_data(const ImportJournals *journals, const District__StreamJournal *record, GError **error)
{
    const Item *item = find_item(journals, record->member);

    if (item == NULL || record->offset > item->bytes ||
        record->data.len > item->bytes - record->offset)
        return format_damaged(error, "JOURNAL record: data beyond the journal of member %s",
                              record->member);
    for (size_t done = 0; done < record->data.len;) {
        ssize_t n = pwrite(item->fd, record->data.data + done, record->data.len - done,
                           (off_t)(record->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return item_fail(item, "writing it", error);
        done += (size_t)n;
    }
    return TRUE;
}

gboolean
import_journals_take(ImportJournals *journals, const District__StreamJournal *record,
                     GError **error)
{
    if (journals->complete)
        return format_damaged(error, "JOURNAL record after the journals were complete");
    switch (record->kind) {
    case DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN:
        return take_begin(journals, record, error);
    case DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA:
        return take_data(journals, record, error);
    default:
        journals->complete = journals->items->len > 0;
        return journals->complete ||
               format_damaged(error, "JOURNAL record: all of no journals is complete");
    }
}

bool
import_journals_complete(const ImportJournals *journals)
{
    return journals->complete;
}

gboolean
import_journals_sync(const ImportJournals *journals, GError **error)
{
    for (guint i = 0; i < journals->items->len; i++) {
        if (!item_complete(&g_array_index(journals->items, Item, i), error))
            return FALSE;
    }
    return TRUE;
}

guint
import_journals_count(const ImportJournals *journals)
{
    return journals->items->len;
}

const char *
import_journals_member(const ImportJournals *journals, guint i, uint64_t *bytes)
{
    const Item *item = &g_array_index(journals->items, Item, i);

    *bytes = item->bytes;
    return item->member;
}
