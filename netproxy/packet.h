/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and making packets: Ethernet II, ARP (RFC 826), IPv4 (RFC 791), IPv6 (RFC 8200),
 * neighbour discovery (RFC 4861) and TCP (RFC 9293), as far as the boundary needs them. Frames are
 * hostile: every length is checked against what arrived before it is used.
 */
#ifndef DISTRICT_NETPROXY_PACKET_H
#define DISTRICT_NETPROXY_PACKET_H

#include <glib.h>

#define MAC_BYTES 6

/* An IPv4 or IPv6 address. family 4: the first four bytes, the others zero. */
typedef struct IpAddress {
    guint8 family; /* 4, 6; 0: none */
    guint8 bytes[16];
} IpAddress;

static inline gsize
ip_address_bytes(guint8 family)
{
    return family == 4 ? 4 : 16;
}

gboolean ip_address_equal(const IpAddress *a, const IpAddress *b);

typedef enum {
    PACKET_OTHER,    /* not one of these, a fragment, or damaged: forwarded unseen */
    PACKET_IP,       /* IPv4 or IPv6 with something else than TCP */
    PACKET_TCP,      /* a TCP segment: all fields below are valid */
    PACKET_NEIGHBOUR /* ARP, or a neighbour solicitation or advertisement: src says whose it is */
} PacketKind;

/* TCP flags, RFC 9293 §3.1. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

#define TCP_WSCALE_NONE (-1)
#define TCP_WSCALE_MAX 14 /* RFC 7323 §2.3 */

typedef struct Packet {
    PacketKind kind;
    guint8 dst_mac[MAC_BYTES];
    guint8 src_mac[MAC_BYTES];
    IpAddress src; /* PACKET_NEIGHBOUR: the address its sender claims; may be none */
    IpAddress dst;
    guint16 src_port;
    guint16 dst_port;
    guint32 seq;
    guint32 ack;
    guint32 seq_len; /* sequence numbers it takes: payload, SYN and FIN */
    guint16 window;  /* as in the header, unscaled */
    guint8 flags;
    gint8 wscale; /* of a SYN: window scale option, or TCP_WSCALE_NONE */
} Packet;

/* Read a frame of at least FRAME_BYTES_MIN bytes. Never fails: kind says how much was understood.
 */
void packet_parse(const guint8 *data, gsize len, Packet *packet);

static inline gboolean
mac_is_group(const guint8 *mac)
{
    return mac[0] & 1;
}

/* A SYN that asks for a connection; packet is PACKET_TCP. */
static inline gboolean
packet_opens(const Packet *packet)
{
    return (packet->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* A unicast address a host can own. */
gboolean ip_address_is_host(const IpAddress *ip);

/* Largest packet made here, bytes. */
#define PACKET_MADE_BYTES_MAX 128

/*
 * Make a TCP segment without options from packet's addresses, ports, seq, ack, flags and window,
 * with payload_len (0 or 1) bytes of payload, checksums complete. Returns its length.
 */
gsize packet_make_tcp(const Packet *packet, gsize payload_len, guint8 out[PACKET_MADE_BYTES_MAX]);

/*
 * Make the announcement that ip is at mac: an ARP announcement (RFC 5227 §2.3) or an unsolicited
 * neighbour advertisement with the override flag (RFC 4861 §7.2.6). Returns its length.
 */
gsize packet_make_announcement(const guint8 mac[MAC_BYTES], const IpAddress *ip,
                               guint8 out[PACKET_MADE_BYTES_MAX]);

#endif
