/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which port a MAC address lives at, learned from source addresses (IEEE 802.1D §7.8).
 *
 * An address is its owner's, a member's as well as one outside: others can take it over only once
 * the owner has been silent for 300 s (addresses that move, as VRRP's, announce themselves for
 * longer than that). A guest that claims somebody else's address, the gateway's say, therefore gets
 * nothing, unless it speaks up before the owner ever has.
 */
#ifndef DISTRICT_NETPROXY_MACTABLE_H
#define DISTRICT_NETPROXY_MACTABLE_H

#include "netproxy/packet.h"

/* Addresses one member may have; further ones are flooded to. */
#define MAC_MEMBER_MAX 64
/* Addresses known outside; the table of those starts afresh when it is full. */
#define MAC_OUTSIDE_MAX 4096
#define MAC_PORT_NONE G_MAXUINT

typedef struct MacTable MacTable;
typedef void (*MacFunc)(void *opaque, const guint8 mac[MAC_BYTES], guint port);

/* outside: index of the outside port; members have the ones below it. */
MacTable *mac_table_new(guint outside);
void mac_table_free(MacTable *table);
/* A frame from mac has come in at port. */
void mac_table_learn(MacTable *table, const guint8 mac[MAC_BYTES], guint port, gint64 now_ns);
/* Forget who was heard outside: those may have been the members, while they ran elsewhere. */
void mac_table_forget_far(MacTable *table);
/* The port of mac, or MAC_PORT_NONE. */
guint mac_table_find(const MacTable *table, const guint8 mac[MAC_BYTES]);
/* For each address of a member. */
void mac_table_foreach_member(const MacTable *table, MacFunc func, void *opaque);

#endif
