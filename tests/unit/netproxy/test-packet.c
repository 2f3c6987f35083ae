/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading packets, hostile ones in particular, and making them. */
#include "netproxy/packet.h"

#include <glib.h>
#include <string.h>

static Packet
tcp_packet(guint8 family)
{
    Packet packet = {.src = {.family = family, .bytes = {10, [3] = 1}},
                     .dst = {.family = family, .bytes = {10, [3] = 2}},
                     .src_mac = {2, 0, 0, 0, 0, 1},
                     .dst_mac = {2, 0, 0, 0, 0, 2},
                     .src_port = 1000,
                     .dst_port = 80,
                     .seq = 0xfffffff0,
                     .ack = 77,
                     .window = 512,
                     .flags = TCP_ACK};
    return packet;
}

static void
check_round_trip(guint8 family)
{
    Packet packet = tcp_packet(family), read;
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len = packet_make_tcp(&packet, 1, out);

    packet_parse(out, len, &read);
    g_assert_cmpint(read.kind, ==, PACKET_TCP);
    g_assert_true(ip_address_equal(&read.src, &packet.src));
    g_assert_true(ip_address_equal(&read.dst, &packet.dst));
    g_assert_cmpmem(read.src_mac, MAC_BYTES, packet.src_mac, MAC_BYTES);
    g_assert_cmpuint(read.src_port, ==, 1000);
    g_assert_cmpuint(read.dst_port, ==, 80);
    g_assert_cmpuint(read.seq, ==, 0xfffffff0);
    g_assert_cmpuint(read.ack, ==, 77);
    g_assert_cmpuint(read.seq_len, ==, 1);
    g_assert_cmpuint(read.window, ==, 512);
}

static void
test_round_trip(void)
{
    check_round_trip(4);
    check_round_trip(6);
}

/* Every prefix of a segment, with each byte of its headers set to every value in turn. */
static void
check_hostile(guint8 family)
{
    Packet packet = tcp_packet(family), read;
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len = packet_make_tcp(&packet, 1, out);

    for (gsize cut = 14; cut <= len; cut++) {
        /* Exactly as long as it says, so that a sanitizer sees one byte too many. */
        g_autofree guint8 *copy = g_memdup2(out, cut);
        for (gsize at = 0; at < cut; at++) {
            for (guint value = 0; value < 256; value++) {
                copy[at] = (guint8)value;
                packet_parse(copy, cut, &read);
                g_assert_cmpuint(read.seq_len, <=, cut + 2);
            }
            copy[at] = out[at];
        }
    }
}

static void
test_hostile(void)
{
    check_hostile(4);
    check_hostile(6);
}

static void
test_fragment(void)
{
    Packet packet = tcp_packet(4), read;
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len = packet_make_tcp(&packet, 1, out);

    out[20] |= 0x20; /* more fragments */
    packet_parse(out, len, &read);
    g_assert_cmpint(read.kind, ==, PACKET_IP);
}

/* A SYN with options, given as bytes (a multiple of 4). */
static gint8
wscale_of(const guint8 *options, gsize n)
{
    Packet packet = tcp_packet(4), read;
    guint8 out[PACKET_MADE_BYTES_MAX];

    packet.flags = TCP_SYN;
    gsize len = packet_make_tcp(&packet, 0, out);
    g_autofree guint8 *frame = g_malloc(len + n);
    memcpy(frame, out, len);
    memcpy(frame + len, options, n);
    frame[17] = (guint8)(frame[17] + n);
    frame[14 + 20 + 12] = (guint8)((5 + n / 4) << 4);
    packet_parse(frame, len + n, &read);
    g_assert_cmpint(read.kind, ==, PACKET_TCP);
    g_assert_cmpuint(read.seq_len, ==, 1);
    return read.wscale;
}

static void
test_wscale(void)
{
    g_assert_cmpint(wscale_of((const guint8[]){2, 4, 5, 180, 1, 3, 3, 7}, 8), ==, 7);
    g_assert_cmpint(wscale_of((const guint8[]){1, 3, 3, 200}, 4), ==, TCP_WSCALE_MAX);
    g_assert_cmpint(wscale_of((const guint8[]){0, 3, 3, 7}, 4), ==, TCP_WSCALE_NONE);
    /* lengths that lie: zero, one, past the end, and none at all */
    g_assert_cmpint(wscale_of((const guint8[]){2, 0, 3, 3}, 4), ==, TCP_WSCALE_NONE);
    g_assert_cmpint(wscale_of((const guint8[]){2, 1, 3, 3}, 4), ==, TCP_WSCALE_NONE);
    g_assert_cmpint(wscale_of((const guint8[]){3, 3, 7, 3}, 4), ==, 7);
    g_assert_cmpint(wscale_of((const guint8[]){1, 1, 3, 3}, 4), ==, TCP_WSCALE_NONE);
    g_assert_cmpint(wscale_of((const guint8[]){1, 1, 1, 3}, 4), ==, TCP_WSCALE_NONE);
}

static void
test_announcements(void)
{
    const guint8 mac[MAC_BYTES] = {2, 0, 0, 0, 0, 1};
    const guint8 broadcast[MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    IpAddress v4 = {.family = 4, .bytes = {10, 0, 0, 1}};
    IpAddress v6 = {.family = 6, .bytes = {0xfd, [15] = 1}};
    guint8 out[PACKET_MADE_BYTES_MAX];
    Packet read;

    packet_parse(out, packet_make_announcement(mac, &v4, out), &read);
    g_assert_cmpint(read.kind, ==, PACKET_NEIGHBOUR);
    g_assert_true(ip_address_equal(&read.src, &v4));
    g_assert_cmpmem(read.dst_mac, MAC_BYTES, broadcast, MAC_BYTES);
    g_assert_cmpmem(out + 38, 4, v4.bytes, 4); /* target is sender: an announcement */
    packet_parse(out, packet_make_announcement(mac, &v6, out), &read);
    g_assert_cmpint(read.kind, ==, PACKET_NEIGHBOUR);
    g_assert_true(ip_address_equal(&read.src, &v6));
}

/* An IPv6 segment behind a hop-by-hop header, and one behind more headers than are followed. */
static void
test_extensions(void)
{
    for (guint n = 1; n < 20; n++) {
        Packet packet = tcp_packet(6), read;
        guint8 tcp[PACKET_MADE_BYTES_MAX];
        gsize len = packet_make_tcp(&packet, 0, tcp);
        g_autofree guint8 *frame = g_malloc0(len + n * 8);
        memcpy(frame, tcp, 54);
        frame[20] = 60;
        frame[19] = (guint8)(20 + n * 8);
        for (guint i = 0; i < n; i++)
            frame[54 + i * 8] = i + 1 == n ? 6 : 60;
        memcpy(frame + 54 + n * 8, tcp + 54, len - 54);
        packet_parse(frame, len + n * 8, &read);
        g_assert_cmpint(read.kind, ==, n <= 8 ? PACKET_TCP : PACKET_IP);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/packet/what is made is read back", test_round_trip);
    g_test_add_func("/packet/no length in a packet is believed", test_hostile);
    g_test_add_func("/packet/a fragment is not taken for a segment", test_fragment);
    g_test_add_func("/packet/the window scale is found, and lying options end the search",
                    test_wscale);
    g_test_add_func("/packet/announcements say what they should", test_announcements);
    g_test_add_func("/packet/IPv6 extension headers are followed, up to eight", test_extensions);
    return g_test_run();
}
