/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of one epoch that are the same. */
#include "ckpt/dedup.h"

#include <glib.h>

/* As many pages as there are in 128 MiB; 1.5 MiB of memory. */
#define DEDUP_ENTRIES ((size_t)1 << 15)
/* Entries share locks: two workers rarely want the same one. */
#define DEDUP_LOCKS 64

typedef struct Entry {
    uint64_t hash[2];
    DedupTime time; /* scope 0: nothing */
    DedupPage page;
} Entry;

struct Dedup {
    GMutex locks[DEDUP_LOCKS];
    Entry entries[DEDUP_ENTRIES];
};

Dedup *
dedup_new(void)
{
    Dedup *dedup = g_new0(Dedup, 1);

    for (size_t i = 0; i < DEDUP_LOCKS; i++)
        g_mutex_init(&dedup->locks[i]);
    return dedup;
}

void
dedup_free(Dedup *dedup)
{
    if (dedup == NULL)
        return;
    for (size_t i = 0; i < DEDUP_LOCKS; i++)
        g_mutex_clear(&dedup->locks[i]);
    g_free(dedup);
}

bool
dedup_find_or_note(Dedup *dedup, const uint64_t hash[2], DedupTime now, DedupPage page,
                   DedupPage *found)
{
    size_t at = hash[0] % DEDUP_ENTRIES;
    Entry *entry = &dedup->entries[at];
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker =
        g_mutex_locker_new(&dedup->locks[at % DEDUP_LOCKS]);

    if (entry->time.scope == now.scope && entry->hash[0] == hash[0] && entry->hash[1] == hash[1] &&
        entry->time.order < now.order) {
        *found = entry->page;
        return true;
    }
    *entry = (Entry){{hash[0], hash[1]}, now, page};
    return false;
}
