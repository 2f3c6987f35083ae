/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making packets: TCP segments for resets, announcements for a district that has moved. */
#include "netproxy/packet.h"

#include <string.h>

#define ETHER_BYTES 14
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define TCP_BYTES 20
#define ADVERTISEMENT_BYTES 32

static guint8 *
put16(guint8 *p, guint16 v)
{
    p[0] = (guint8)(v >> 8);
    p[1] = (guint8)v;
    return p + 2;
}

static guint8 *
put32(guint8 *p, guint32 v)
{
    return put16(put16(p, (guint16)(v >> 16)), (guint16)v);
}

static guint8 *
put_bytes(guint8 *p, const void *bytes, gsize n)
{
    memcpy(p, bytes, n);
    return p + n;
}

/* Internet checksum (RFC 1071), in steps: sum pieces of even length, the last one of any. */
static guint32
checksum_add(guint32 sum, const guint8 *p, gsize len)
{
    for (; len > 1; p += 2, len -= 2)
        sum += (guint32)(p[0] << 8 | p[1]);
    return len ? sum + (guint32)(p[0] << 8) : sum;
}

static guint16
checksum_finish(guint32 sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (guint16)~sum;
}

/* Checksum of an upper-layer packet with its pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). */
static guint16
checksum_upper(const IpAddress *src, const IpAddress *dst, guint8 proto, const guint8 *p, gsize len)
{
    gsize n = ip_address_bytes(src->family);
    guint32 sum = checksum_add(checksum_add(0, src->bytes, n), dst->bytes, n);

    return checksum_finish(checksum_add(sum + proto + (guint32)len, p, len));
}

static guint8 *
make_ether(guint8 *p, const guint8 *dst, const guint8 *src, guint16 type)
{
    return put16(put_bytes(put_bytes(p, dst, MAC_BYTES), src, MAC_BYTES), type);
}

/* An Ethernet and IP header for payload_len bytes of proto. */
static guint8 *
make_ip(guint8 *p, const Packet *packet, guint8 proto, guint8 hops, gsize payload_len)
{
    p = make_ether(p, packet->dst_mac, packet->src_mac, packet->src.family == 4 ? 0x0800 : 0x86dd);
    guint8 *ip = p;
    if (packet->src.family == 4) {
        p = put16(p, 0x4500);
        p = put16(p, (guint16)(IPV4_BYTES + payload_len));
        p = put32(p, 0x4000); /* identification 0, don't fragment */
        *p++ = hops;
        *p++ = proto;
        p = put16(p, 0);
    } else {
        p = put32(p, 0x60000000);
        p = put16(p, (guint16)payload_len);
        *p++ = proto;
        *p++ = hops;
    }
    p = put_bytes(p, packet->src.bytes, ip_address_bytes(packet->src.family));
    p = put_bytes(p, packet->dst.bytes, ip_address_bytes(packet->src.family));
    if (packet->src.family == 4)
        put16(ip + 10, checksum_finish(checksum_add(0, ip, IPV4_BYTES)));
    return p;
}

gsize
packet_make_tcp(const Packet *packet, gsize payload_len, guint8 out[PACKET_MADE_BYTES_MAX])
{
    gsize len = TCP_BYTES + payload_len;
    guint8 *tcp = make_ip(out, packet, 6, 64, len);
    guint8 *p = tcp;

    p = put16(p, packet->src_port);
    p = put16(p, packet->dst_port);
    p = put32(p, packet->seq);
    p = put32(p, packet->ack);
    *p++ = (TCP_BYTES / 4) << 4;
    *p++ = packet->flags;
    p = put16(p, packet->window);
    p = put32(p, 0);
    memset(p, 0, payload_len);
    put16(tcp + 16, checksum_upper(&packet->src, &packet->dst, 6, tcp, len));
    return (gsize)(tcp - out) + len;
}

static gsize
make_arp(const guint8 *mac, const IpAddress *ip, guint8 *out)
{
    static const guint8 broadcast[MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const guint8 request[] = {0, 1, 8, 0, 6, 4, 0, 1};
    guint8 *p = make_ether(out, broadcast, mac, 0x0806);

    p = put_bytes(p, request, sizeof(request));
    p = put_bytes(p, mac, MAC_BYTES);
    p = put_bytes(p, ip->bytes, 4);
    memset(p, 0, MAC_BYTES);
    p = put_bytes(p + MAC_BYTES, ip->bytes, 4);
    return (gsize)(p - out);
}

static gsize
make_advertisement(const guint8 *mac, const IpAddress *ip, guint8 *out)
{
    static const guint8 all_nodes_mac[MAC_BYTES] = {0x33, 0x33, 0, 0, 0, 1};
    Packet packet = {.src = *ip, .dst = {.family = 6, .bytes = {0xff, 0x02, [15] = 1}}};

    memcpy(packet.src_mac, mac, MAC_BYTES);
    memcpy(packet.dst_mac, all_nodes_mac, MAC_BYTES);
    guint8 *icmp = make_ip(out, &packet, 58, 255, ADVERTISEMENT_BYTES);
    guint8 *p = put16(icmp, 136 << 8);
    p = put16(p, 0);
    p = put32(p, 0x20000000); /* override */
    p = put_bytes(p, ip->bytes, 16);
    p = put16(p, 0x0201); /* target link-layer address, 8 bytes */
    put_bytes(p, mac, MAC_BYTES);
    put16(icmp + 2, checksum_upper(&packet.src, &packet.dst, 58, icmp, ADVERTISEMENT_BYTES));
    return (gsize)(icmp - out) + ADVERTISEMENT_BYTES;
}

gsize
packet_make_announcement(const guint8 mac[MAC_BYTES], const IpAddress *ip,
                         guint8 out[PACKET_MADE_BYTES_MAX])
{
    return ip->family == 4 ? make_arp(mac, ip, out) : make_advertisement(mac, ip, out);
}
