/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Forwarding: who gets which frame, and who is harmed by whom. */
#include "common/clock.h"
#include "netproxy/packet.h"
#include "wire.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
test_learns(void)
{
    g_autoptr(Wire) wire = wire_new(3, TRUE);

    wire_send_number(wire, 0, 1, 1); /* b has not been heard: floods */
    wire_pump(wire);
    for (guint port = 1; port < 4; port++)
        g_assert_cmpuint(wire_receive_number(wire, port), ==, 1);
    g_assert_cmpuint(wire_receive_number(wire, 0), ==, 0);
    wire_send_number(wire, 1, 0, 2);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 0), ==, 2);
    wire_send_number(wire, 0, 1, 3);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 3);
    g_assert_cmpuint(wire_receive_number(wire, 2), ==, 0);
    g_assert_cmpuint(wire_receive_number(wire, 3), ==, 0);
}

static void
test_broadcast(void)
{
    g_autoptr(Wire) wire = wire_new(3, TRUE);

    wire_send_number(wire, 0, WIRE_BROADCAST, 9);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 0), ==, 0);
    for (guint port = 1; port < 4; port++)
        g_assert_cmpuint(wire_receive_number(wire, port), ==, 9);
}

/* Member a says something; then from claims to be a; then c sends to a. Who gets it? */
static void
check_owner(guint from)
{
    g_autoptr(Wire) wire = wire_new(3, TRUE);
    guint8 frame[60];

    wire_send_number(wire, 0, WIRE_BROADCAST, 1);
    wire_pump(wire);
    wire_send(wire, from, frame, wire_make(frame, 2, 0, 2, sizeof(frame)));
    wire_pump(wire);
    wire_send_number(wire, 2, 0, 3);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 0), >=, 2);
    while (wire_receive_number(wire, from) != 0)
        g_assert_cmpuint(wire_port_stats(wire, from).tx_frames, ==, 1); /* the broadcast */
}

static void
test_owner(void)
{
    check_owner(1);
    check_owner(3);
}

/* b reads nothing while a sends it more than fits; c is not affected. */
static void
test_slow(void)
{
    g_autoptr(Wire) wire = wire_new(3, TRUE);
    g_autofree guint8 *frame = g_malloc(1500);

    wire_send_number(wire, 1, WIRE_BROADCAST, 1);
    wire_send_number(wire, 2, WIRE_BROADCAST, 1);
    wire_pump(wire);
    while (wire_receive_number(wire, 2))
        ;
    for (guint i = 1; i <= 6000; i++) {
        wire_send(wire, 0, frame, wire_make(frame, 1, 0, i, 1500));
        wire_send(wire, 0, frame, wire_make(frame, 2, 0, i, 100));
        switch_readable(wire->sw, 0);
        switch_flush(wire->sw);
        g_assert_cmpuint(wire_receive_number(wire, 2), ==, i);
    }
    g_assert_cmpuint(wire_port_stats(wire, 1).dropped, >, 1000);
    g_assert_cmpuint(wire_port_stats(wire, 2).dropped, ==, 0);
    /* It gets the oldest ones, in order (c's broadcast first). */
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 1);
    for (guint i = 1; i <= 1000; i++) {
        g_assert_cmpuint(wire_receive_number(wire, 1), ==, i);
        wire_pump(wire);
    }
}

static void
test_newcomer(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    int old = dup(wire->fds[1]);
    char c;

    wire_connect(wire, 1, 0);
    wire_send_number(wire, 0, WIRE_BROADCAST, 5);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 5);
    g_assert_cmpint(recv(old, &c, 1, 0), ==, 0);
    close(old);
}

static void
check_bad_length(guint32 announced)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    guint32 prefix = GUINT32_TO_BE(announced);

    g_assert_cmpint(send(wire->fds[0], &prefix, sizeof(prefix), 0), ==, sizeof(prefix));
    wire_pump(wire);
    g_assert_false(wire_port_stats(wire, 0).connected);
    g_assert_true(wire_port_stats(wire, 1).connected);
}

static void
test_bad_length(void)
{
    check_bad_length(0);
    check_bad_length(FRAME_BYTES_MIN - 1);
    check_bad_length(FRAME_BYTES_MAX + 1);
    check_bad_length(G_MAXUINT32);
}

static void
test_largest(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    g_autofree guint8 *frame = g_malloc(FRAME_BYTES_MAX);
    gsize len = 0;

    wire_send(wire, 0, frame, wire_make(frame, WIRE_BROADCAST, 0, 6, FRAME_BYTES_MAX));
    wire_pump(wire);
    g_assert_nonnull(wire_receive(wire, 1, &len));
    g_assert_cmpuint(len, ==, FRAME_BYTES_MAX);
}

static guint64
crossing_flows(Wire *wire)
{
    District__NetStatsReply stats;

    switch_stats(wire->sw, &stats);
    guint64 n = stats.crossing_flows;
    switch_stats_clear(&stats);
    return n;
}

/* The outside knocks at many ports of a, which says nothing, and then something at one of them. */
static void
test_strangers(void)
{
    g_autoptr(Wire) wire = wire_new(1, TRUE);
    guint8 frame[PACKET_MADE_BYTES_MAX];

    wire_send_number(wire, 0, WIRE_BROADCAST, 1);
    wire_pump(wire);
    for (guint i = 0; i < 1000; i++) {
        gsize len = wire_make_tcp(frame, 0, 1, i % 2 ? TCP_ACK : TCP_SYN, 100, 200);
        frame[14 + 20] = (guint8)(i >> 8); /* the port it comes from */
        frame[14 + 21] = (guint8)i;
        wire_send(wire, 1, frame, len);
        wire_pump(wire);
    }
    g_assert_cmpuint(crossing_flows(wire), ==, 0);
    wire_send(wire, 0, frame, wire_make_tcp(frame, 1, 0, TCP_ACK, 200, 100));
    wire_pump(wire);
    g_assert_cmpuint(crossing_flows(wire), ==, 1);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/switch/addresses are learned", test_learns);
    g_test_add_func("/switch/a broadcast goes to all but its sender", test_broadcast);
    g_test_add_func("/switch/nobody takes over a member's address", test_owner);
    g_test_add_func("/switch/a member that does not read harms only itself", test_slow);
    g_test_add_func("/switch/a new connection takes the place of the old one", test_newcomer);
    g_test_add_func("/switch/an impossible length ends the connection", test_bad_length);
    g_test_add_func("/switch/the largest frame passes", test_largest);
    g_test_add_func("/switch/a connection is known of when a member speaks", test_strangers);
    return g_test_run();
}
