/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Learned MAC addresses. */
#include "netproxy/mactable.h"

#include "common/clock.h"

#include <string.h>

#define MAC_AGE_NS (300 * NS_PER_S)

typedef struct MacEntry {
    guint port;
    gint64 seen_ns;
} MacEntry;

struct MacTable {
    GHashTable *members; /* address as gint64 -> MacEntry */
    GHashTable *far;     /* likewise */
    guint outside;
    guint *counts; /* addresses of each member */
};

static gint64
mac_key(const guint8 mac[MAC_BYTES])
{
    gint64 key = 0;

    memcpy(&key, mac, MAC_BYTES);
    return key;
}

static GHashTable *
mac_hash_new(void)
{
    return g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
}

MacTable *
mac_table_new(guint outside)
{
    MacTable *table = g_new0(MacTable, 1);

    table->members = mac_hash_new();
    table->far = mac_hash_new();
    table->outside = outside;
    table->counts = g_new0(guint, outside);
    return table;
}

void
mac_table_free(MacTable *table)
{
    g_hash_table_destroy(table->members);
    g_hash_table_destroy(table->far);
    g_free(table->counts);
    g_free(table);
}

static void
mac_insert(GHashTable *hash, gint64 key, guint port, gint64 now_ns)
{
    MacEntry *entry = g_new(MacEntry, 1);

    *entry = (MacEntry){port, now_ns};
    g_hash_table_insert(hash, g_memdup2(&key, sizeof(key)), entry);
}

static gboolean
mac_is_fresh(const MacEntry *entry, gint64 now_ns)
{
    return entry && now_ns - entry->seen_ns < MAC_AGE_NS;
}

static void
mac_learn_member(MacTable *table, gint64 key, guint port, gint64 now_ns)
{
    MacEntry *entry = g_hash_table_lookup(table->members, &key);

    if (entry && entry->port == port) {
        entry->seen_ns = now_ns;
        return;
    }
    if (mac_is_fresh(entry, now_ns) ||
        mac_is_fresh(g_hash_table_lookup(table->far, &key), now_ns) ||
        table->counts[port] >= MAC_MEMBER_MAX)
        return;
    if (entry)
        table->counts[entry->port]--;
    table->counts[port]++;
    g_hash_table_remove(table->far, &key);
    mac_insert(table->members, key, port, now_ns);
}

static void
mac_learn_far(MacTable *table, gint64 key, gint64 now_ns)
{
    MacEntry *entry = g_hash_table_lookup(table->far, &key);
    const MacEntry *member = g_hash_table_lookup(table->members, &key);

    if (entry) {
        entry->seen_ns = now_ns;
        return;
    }
    if (mac_is_fresh(member, now_ns))
        return;
    if (member) {
        table->counts[member->port]--;
        g_hash_table_remove(table->members, &key);
    }
    if (g_hash_table_size(table->far) >= MAC_OUTSIDE_MAX)
        g_hash_table_remove_all(table->far);
    mac_insert(table->far, key, table->outside, now_ns);
}

void
mac_table_forget_far(MacTable *table)
{
    g_hash_table_remove_all(table->far);
}

void
mac_table_learn(MacTable *table, const guint8 mac[MAC_BYTES], guint port, gint64 now_ns)
{
    if (mac_is_group(mac))
        return;
    if (port == table->outside)
        mac_learn_far(table, mac_key(mac), now_ns);
    else
        mac_learn_member(table, mac_key(mac), port, now_ns);
}

guint
mac_table_find(const MacTable *table, const guint8 mac[MAC_BYTES])
{
    gint64 key = mac_key(mac);
    MacEntry *entry = g_hash_table_lookup(table->members, &key);

    if (!entry)
        entry = g_hash_table_lookup(table->far, &key);
    return entry ? entry->port : MAC_PORT_NONE;
}

void
mac_table_foreach_member(const MacTable *table, MacFunc func, void *opaque)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, table->members);
    while (g_hash_table_iter_next(&iter, &key, &value))
        func(opaque, key, ((MacEntry *)value)->port);
}
