/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Held output: what leaves the boundary, and when. */
#include "netproxy/packet.h"
#include "wire.h"

#include <string.h>
#include <unistd.h>

#define OUT 2 /* the outside of a district of two */

/* Two members; the outside is known at its address. */
static Wire *
wire_hold(gboolean output_commit, gboolean protected)
{
    Wire *wire = wire_new(2, TRUE);

    wire_send_number(wire, OUT, WIRE_BROADCAST, 1);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 0), ==, 1);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 1);
    switch_set_mode(wire->sw, output_commit, protected);
    return wire;
}

static void
cut_and_commit(Wire *wire, guint64 epoch)
{
    gsize len;

    g_free(wire_cut(wire, epoch, &len));
    g_assert_true(switch_commit(wire->sw, epoch, NULL));
    wire_pump(wire);
}

static guint32
next_out(Wire *wire)
{
    wire_pump(wire);
    return wire_receive_number(wire, OUT);
}

static void
test_unprotected(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, FALSE);

    wire_send_number(wire, 0, OUT, 5);
    g_assert_cmpuint(next_out(wire), ==, 5);
}

static void
test_commit(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    gsize len;

    wire_send_number(wire, 0, OUT, 5);
    wire_send_number(wire, 0, OUT, 6);
    g_assert_cmpuint(next_out(wire), ==, 0);
    g_free(wire_cut(wire, 1, &len));
    wire_send_number(wire, 0, OUT, 7); /* of epoch 2 */
    g_assert_cmpuint(next_out(wire), ==, 0);
    g_assert_true(switch_commit(wire->sw, 1, NULL));
    g_assert_cmpuint(next_out(wire), ==, 5);
    g_assert_cmpuint(next_out(wire), ==, 6);
    g_assert_cmpuint(next_out(wire), ==, 0);
    cut_and_commit(wire, 2);
    g_assert_cmpuint(next_out(wire), ==, 7);
}

/* During cut 1, a has been cut and b has not: a's output is of epoch 2, b's still of 1. */
static void
test_epochs_by_member(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    guint8 *state = NULL;
    gsize len;

    g_assert_true(switch_cut_begin(wire->sw, 1, NULL));
    g_assert_true(switch_cut_member(wire->sw, 1, "a", NULL));
    wire_send_number(wire, 0, OUT, 5);
    wire_pump(wire);
    wire_send_number(wire, 1, OUT, 6);
    g_assert_true(switch_cut_member(wire->sw, 1, "b", NULL));
    g_assert_true(switch_cut_end(wire->sw, 1, &state, &len, NULL));
    g_free(state);
    g_assert_true(switch_commit(wire->sw, 1, NULL));
    g_assert_cmpuint(next_out(wire), ==, 6);
    g_assert_cmpuint(next_out(wire), ==, 0);
    cut_and_commit(wire, 2);
    g_assert_cmpuint(next_out(wire), ==, 5);
}

static void
test_aborted(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);

    wire_send_number(wire, 0, OUT, 5);
    wire_pump(wire);
    g_assert_true(switch_cut_begin(wire->sw, 1, NULL));
    g_assert_true(switch_cut_member(wire->sw, 1, "a", NULL));
    wire_send_number(wire, 0, OUT, 6);
    g_assert_true(switch_cut_abort(wire->sw, 1, NULL));
    wire_send_number(wire, 0, OUT, 7);
    g_assert_cmpuint(next_out(wire), ==, 0);
    g_assert_false(switch_commit(wire->sw, 1, NULL));
    g_assert_cmpuint(next_out(wire), ==, 0);
    cut_and_commit(wire, 2);
    for (guint32 i = 5; i <= 7; i++)
        g_assert_cmpuint(next_out(wire), ==, i);
}

static void
test_uncut_commit(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    g_autoptr(GError) error = NULL;

    wire_send_number(wire, 0, OUT, 5);
    wire_pump(wire);
    g_assert_false(switch_commit(wire->sw, 1, &error));
    g_assert_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED);
    g_assert_cmpuint(next_out(wire), ==, 0);
}

/* A switch that took the place of one that died: what that one had cut says nothing of frames here.
 */
static void
test_commit_of_another(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    gsize len;

    wire_send_number(wire, 0, OUT, 5);
    g_assert_cmpuint(next_out(wire), ==, 0);
    g_free(wire_cut(wire, 7, &len));
    g_assert_false(switch_commit(wire->sw, 6, NULL));
    g_assert_cmpuint(next_out(wire), ==, 0);
    g_assert_true(switch_commit(wire->sw, 7, NULL));
    g_assert_cmpuint(next_out(wire), ==, 5);
}

static void
test_unprotect_releases(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);

    wire_send_number(wire, 0, OUT, 5);
    g_assert_cmpuint(next_out(wire), ==, 0);
    switch_set_mode(wire->sw, TRUE, FALSE);
    g_assert_cmpuint(next_out(wire), ==, 5);
}

/* Flags of the next segment at the outside; 0xff: none. */
static guint8
next_flags(Wire *wire)
{
    gsize len;
    Packet packet;

    wire_pump(wire);
    const guint8 *frame = wire_receive(wire, OUT, &len);
    if (!frame)
        return 0xff;
    packet_parse(frame, len, &packet);
    g_assert_cmpint(packet.kind, ==, PACKET_TCP);
    return packet.flags;
}

static void
send_segment(Wire *wire, guint8 flags)
{
    guint8 out[PACKET_MADE_BYTES_MAX];

    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, flags, 1, 1));
}

static void
test_syn_only(void)
{
    g_autoptr(Wire) wire = wire_hold(FALSE, TRUE);

    send_segment(wire, TCP_SYN);
    send_segment(wire, TCP_SYN | TCP_ACK);
    send_segment(wire, TCP_ACK);
    g_assert_cmpuint(next_flags(wire), ==, TCP_ACK);
    g_assert_cmpuint(next_flags(wire), ==, 0xff);
    cut_and_commit(wire, 1);
    g_assert_cmpuint(next_flags(wire), ==, TCP_SYN);
    g_assert_cmpuint(next_flags(wire), ==, (TCP_SYN | TCP_ACK));
    g_assert_cmpuint(next_flags(wire), ==, 0xff);
}

static void
test_inside_not_held(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);

    wire_send_number(wire, 0, WIRE_BROADCAST, 5);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 5);
    g_assert_cmpuint(wire_receive_number(wire, OUT), ==, 0);
}

static guint64
held_bytes(Wire *wire)
{
    District__NetStatsReply stats;

    switch_stats(wire->sw, &stats);
    guint64 bytes = stats.held_bytes;
    switch_stats_clear(&stats);
    return bytes;
}

/* More output than may be held: the member is not read from, and not one frame is lost. */
static void
test_backpressure(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    g_autofree guint8 *frame = g_malloc(60000);
    guint64 rx, held;
    guint32 sent = 0;

    do {
        rx = wire_port_stats(wire, 0).rx_frames;
        wire_send(wire, 0, frame, wire_make(frame, OUT, 0, ++sent, 60000));
        wire_pump(wire);
    } while (wire_port_stats(wire, 0).rx_frames > rx);
    held = held_bytes(wire);
    g_assert_cmpuint(held, >=, 64 * 1024 * 1024);
    g_assert_cmpuint(held, <, 65 * 1024 * 1024);
    cut_and_commit(wire, 1);
    /* The last frame was read while cutting: it is of epoch 1 like the others. */
    for (guint32 i = 1; i <= sent; i++)
        g_assert_cmpuint(next_out(wire), ==, i);
    g_assert_cmpuint(held_bytes(wire), ==, 0);
    g_assert_cmpuint(wire_port_stats(wire, OUT).dropped, ==, 0);
    wire_send_number(wire, 0, WIRE_BROADCAST, 5);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 5);
}

/* Released output waits for room at an outside that reads nothing, and then is gone. */
static void
test_outside_gone(void)
{
    g_autoptr(Wire) wire = wire_hold(TRUE, TRUE);
    g_autofree guint8 *frame = g_malloc(60000);

    for (guint32 i = 1; i <= 8 * 1024 * 1024 / 60000; i++) {
        wire_send(wire, 0, frame, wire_make(frame, OUT, 0, i, 60000));
        wire_pump(wire);
    }
    cut_and_commit(wire, 1);
    g_assert_cmpuint(held_bytes(wire), >, 0);
    close(wire->fds[OUT]);
    wire->fds[OUT] = -1;
    wire_pump(wire);
    g_assert_cmpuint(held_bytes(wire), ==, 0);
    wire_wait(wire, 1);
    g_assert_cmpint(switch_deadline(wire->sw), >, wire->now_ns);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hold/nothing without protection", test_unprotected);
    g_test_add_func("/hold/output leaves in order when its epoch has committed", test_commit);
    g_test_add_func("/hold/each member's output is of its own epoch", test_epochs_by_member);
    g_test_add_func("/hold/output of an aborted cut leaves with the next, in order", test_aborted);
    g_test_add_func("/hold/an epoch that was not cut cannot be committed", test_uncut_commit);
    g_test_add_func("/hold/an epoch that another switch cut releases nothing here",
                    test_commit_of_another);
    g_test_add_func("/hold/all goes when protection ends", test_unprotect_releases);
    g_test_add_func("/hold/without output commit only SYNs wait", test_syn_only);
    g_test_add_func("/hold/frames between members are not held", test_inside_not_held);
    g_test_add_func("/hold/too much output stops the sender and loses nothing", test_backpressure);
    g_test_add_func("/hold/an outside that ends with its queue full holds nobody up",
                    test_outside_gone);
    return g_test_run();
}
