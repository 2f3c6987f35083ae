/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading packets. */
#include "netproxy/packet.h"

#include <string.h>

#define ETHER_BYTES 14
#define ETHER_IPV4 0x0800
#define ETHER_ARP 0x0806
#define ETHER_IPV6 0x86dd

#define IPV4_BYTES_MIN 20
#define IPV4_FRAGMENT_MASK 0x3fff /* more-fragments flag and offset */
#define IPV6_BYTES 40
#define IPV6_EXTENSIONS_MAX 8

#define PROTO_HOP_BY_HOP 0
#define PROTO_TCP 6
#define PROTO_ROUTING 43
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION 60

#define TCP_BYTES_MIN 20
#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_WSCALE 3

#define ICMPV6_SOLICITATION 135
#define ICMPV6_ADVERTISEMENT 136
#define ICMPV6_NEIGHBOUR_BYTES 24

/* What is left of a frame; every take checks that it is there. */
typedef struct Bytes {
    const guint8 *at;
    gsize len;
} Bytes;

static guint16
get16(const guint8 *p)
{
    return (guint16)(p[0] << 8 | p[1]);
}

static guint32
get32(const guint8 *p)
{
    return (guint32)get16(p) << 16 | get16(p + 2);
}

/* Take n bytes off the front; NULL if there are not so many. */
static const guint8 *
bytes_take(Bytes *bytes, gsize n)
{
    const guint8 *p = bytes->at;

    if (bytes->len < n)
        return NULL;
    bytes->at += n;
    bytes->len -= n;
    return p;
}

static void
ip_address_set(IpAddress *ip, guint8 family, const guint8 *bytes)
{
    *ip = (IpAddress){.family = family};
    memcpy(ip->bytes, bytes, ip_address_bytes(family));
}

gboolean
ip_address_equal(const IpAddress *a, const IpAddress *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, ip_address_bytes(a->family)) == 0;
}

gboolean
ip_address_is_host(const IpAddress *ip)
{
    static const guint8 zero[16];

    if (ip->family == 4)
        return ip->bytes[0] != 0 && ip->bytes[0] < 224 && ip->bytes[0] != 127;
    return ip->family == 6 && ip->bytes[0] != 0xff && memcmp(ip->bytes, zero, 15) != 0;
}

/* The window scale option of a SYN. Options that do not add up end the search. */
static gint8
tcp_options_wscale(const guint8 *options, gsize len)
{
    for (gsize i = 0; i < len;) {
        if (options[i] == TCP_OPTION_END)
            break;
        if (options[i] == TCP_OPTION_NOP) {
            i++;
            continue;
        }
        if (len - i < 2 || options[i + 1] < 2 || options[i + 1] > len - i)
            break;
        if (options[i] == TCP_OPTION_WSCALE && options[i + 1] == 3)
            return (gint8)MIN(options[i + 2], TCP_WSCALE_MAX);
        i += options[i + 1];
    }
    return TCP_WSCALE_NONE;
}

static void
packet_parse_tcp(Bytes rest, Packet *packet)
{
    gsize total = rest.len;
    const guint8 *h = bytes_take(&rest, TCP_BYTES_MIN);

    if (!h)
        return;
    gsize header = (gsize)(h[12] >> 4) * 4;
    if (header < TCP_BYTES_MIN || header > total)
        return;
    packet->kind = PACKET_TCP;
    packet->src_port = get16(h);
    packet->dst_port = get16(h + 2);
    packet->seq = get32(h + 4);
    packet->ack = get32(h + 8);
    packet->flags = h[13];
    packet->window = get16(h + 14);
    packet->seq_len =
        (guint32)(total - header) + !!(packet->flags & TCP_SYN) + !!(packet->flags & TCP_FIN);
    if (packet->flags & TCP_SYN)
        packet->wscale = tcp_options_wscale(h + TCP_BYTES_MIN, header - TCP_BYTES_MIN);
}

static void
packet_parse_ipv4(Bytes rest, Packet *packet)
{
    gsize available = rest.len;
    const guint8 *h = bytes_take(&rest, IPV4_BYTES_MIN);

    if (!h || h[0] >> 4 != 4)
        return;
    gsize header = (gsize)(h[0] & 15) * 4;
    gsize total = get16(h + 2);
    if (header < IPV4_BYTES_MIN || total < header || total > available)
        return;
    ip_address_set(&packet->src, 4, h + 12);
    ip_address_set(&packet->dst, 4, h + 16);
    packet->kind = PACKET_IP;
    if (get16(h + 6) & IPV4_FRAGMENT_MASK)
        return;
    if (h[9] == PROTO_TCP)
        packet_parse_tcp((Bytes){h + header, total - header}, packet);
}

/* RFC 4861 §4.3, §4.4: a solicitation speaks for its source, an advertisement for its target. */
static void
packet_parse_icmpv6(Bytes rest, Packet *packet)
{
    const guint8 *h = bytes_take(&rest, ICMPV6_NEIGHBOUR_BYTES);

    if (!h || (h[0] != ICMPV6_SOLICITATION && h[0] != ICMPV6_ADVERTISEMENT) || h[1] != 0)
        return;
    packet->kind = PACKET_NEIGHBOUR;
    if (h[0] == ICMPV6_ADVERTISEMENT)
        ip_address_set(&packet->src, 6, h + 8);
}

static void
packet_parse_ipv6(Bytes rest, Packet *packet)
{
    const guint8 *h = bytes_take(&rest, IPV6_BYTES);

    if (!h || h[0] >> 4 != 6 || get16(h + 4) > rest.len)
        return;
    rest.len = get16(h + 4);
    ip_address_set(&packet->src, 6, h + 8);
    ip_address_set(&packet->dst, 6, h + 24);
    packet->kind = PACKET_IP;

    guint8 next = h[6];
    for (guint i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
        if (next != PROTO_HOP_BY_HOP && next != PROTO_ROUTING && next != PROTO_DESTINATION)
            break;
        if (rest.len < 8)
            return;
        next = rest.at[0];
        if (!bytes_take(&rest, ((gsize)rest.at[1] + 1) * 8))
            return;
    }
    if (next == PROTO_TCP)
        packet_parse_tcp(rest, packet);
    else if (next == PROTO_ICMPV6)
        packet_parse_icmpv6(rest, packet);
}

/* RFC 826, Ethernet and IPv4 only. A probe (RFC 5227 §1.1) has sender 0.0.0.0 and claims nothing.
 */
static void
packet_parse_arp(Bytes rest, Packet *packet)
{
    static const guint8 ethernet_ipv4[] = {0, 1, 8, 0, 6, 4};
    const guint8 *h = bytes_take(&rest, 28);

    if (!h || memcmp(h, ethernet_ipv4, sizeof(ethernet_ipv4)) != 0)
        return;
    packet->kind = PACKET_NEIGHBOUR;
    /* A sender that speaks for another's hardware address is not believed. */
    if (memcmp(h + 8, packet->src_mac, MAC_BYTES) == 0)
        ip_address_set(&packet->src, 4, h + 14);
}

void
packet_parse(const guint8 *data, gsize len, Packet *packet)
{
    Bytes rest = {data, len};
    const guint8 *h = bytes_take(&rest, ETHER_BYTES);

    *packet = (Packet){.kind = PACKET_OTHER, .wscale = TCP_WSCALE_NONE};
    if (!h)
        return;
    memcpy(packet->dst_mac, h, MAC_BYTES);
    memcpy(packet->src_mac, h + MAC_BYTES, MAC_BYTES);
    switch (get16(h + 12)) {
    case ETHER_IPV4:
        packet_parse_ipv4(rest, packet);
        break;
    case ETHER_IPV6:
        packet_parse_ipv6(rest, packet);
        break;
    case ETHER_ARP:
        packet_parse_arp(rest, packet);
        break;
    default:
        break;
    }
}
