/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling the outside where the members are now.
 *
 * Which addresses a member has is learned from what it claims itself: ARP and neighbour discovery.
 * Only for a member that has never been heard to do either, the source of its IP packets is taken:
 * a member that routes sends packets from addresses that are not its own.
 */
#include "netproxy/switch-priv.h"

#include "common/clock.h"

#include <string.h>

/* After activation, ms. Repeated because a port of a real switch may take a while to forward. */
static const gint64 announce_at_ms[] = {0, 100, 500, 1500};

/* Engines connect as soon as their guests run, or within their own 100 ms. */
#define AWAIT_NS (5 * NS_PER_S)

/* Index of the entry for mac and ip; ip NULL: for mac and family. neighbours->len if there is none.
 */
static guint
announce_find(const GArray *neighbours, const guint8 *mac, const IpAddress *ip, guint8 family)
{
    guint i = 0;

    for (; i < neighbours->len; i++) {
        const Neighbour *known = &g_array_index(neighbours, Neighbour, i);
        if (ip ? ip_address_equal(&known->ip, ip)
               : known->ip.family == family && memcmp(known->mac, mac, MAC_BYTES) == 0)
            break;
    }
    return i;
}

void
announce_learn(Port *port, const Packet *packet)
{
    GArray *neighbours = port->neighbours;
    gboolean claims = packet->kind == PACKET_NEIGHBOUR;
    Neighbour neighbour = {.ip = packet->src};

    if (packet->kind == PACKET_OTHER || mac_is_group(packet->src_mac) ||
        !ip_address_is_host(&packet->src))
        return;
    guint i = announce_find(neighbours, packet->src_mac, claims ? &packet->src : NULL,
                            packet->src.family);
    if (i < neighbours->len && !claims)
        return;
    memcpy(neighbour.mac, packet->src_mac, MAC_BYTES);
    if (i < neighbours->len)
        g_array_index(neighbours, Neighbour, i) = neighbour;
    else
        g_array_append_val(neighbours, neighbour);
    if (neighbours->len > PORT_NEIGHBOURS_MAX)
        g_array_remove_index(neighbours, 0);
}

static void
announce_port(Switch *sw, const Port *port)
{
    for (guint i = 0; i < port->neighbours->len; i++) {
        const Neighbour *neighbour = &g_array_index(port->neighbours, Neighbour, i);
        guint8 out[PACKET_MADE_BYTES_MAX];
        gsize len = packet_make_announcement(neighbour->mac, &neighbour->ip, out);
        g_autoptr(Frame) frame = frame_new(out, len, FRAME_COLOUR_NONE);
        switch_enqueue(sw, switch_outside(sw), frame);
    }
}

void
announce_tick(Switch *sw)
{
    for (guint i = 0; i < sw->n_members; i++)
        announce_port(sw, &sw->ports[i]);
    guint step = ++sw->announce_step;
    if (step < G_N_ELEMENTS(announce_at_ms))
        sw->announce_ns += (announce_at_ms[step] - announce_at_ms[step - 1]) * NS_PER_MS;
    else
        sw->announce_ns = G_MAXINT64;
}

void
switch_announce(Switch *sw)
{
    sw->announce_step = 0;
    sw->announce_ns = sw->now_ns;
    sw->await_ns = sw->now_ns + AWAIT_NS;
    announce_tick(sw);
    reset_start(sw);
}
