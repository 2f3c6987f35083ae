/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A saved network comes back: whole, once, where it belongs. */
#include "common/clock.h"
#include "netproxy/packet.h"
#include "netstate.pb-c.h"
#include "wire.h"

#include <string.h>

#define OUT 2

/* The state of a cut that caught frames 7 and 8 on their way to b, with a flow from a to outside.
 */
static guint8 *
saved_state(gsize *len)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    guint8 out[PACKET_MADE_BYTES_MAX];
    guint8 *state = NULL;

    wire_send_number(wire, 1, WIRE_BROADCAST, 1);
    wire_send_number(wire, OUT, WIRE_BROADCAST, 1);
    wire_pump(wire);
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 100, 200));
    wire_pump(wire);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_ACK, 200, 100));
    wire_pump(wire);
    g_assert_true(switch_cut_begin(wire->sw, 4, NULL));
    g_assert_true(switch_cut_member(wire->sw, 4, "b", NULL));
    wire_send_number(wire, 0, 1, 7);
    wire_send_number(wire, 0, 1, 8);
    g_assert_true(switch_cut_member(wire->sw, 4, "a", NULL));
    /* After a was cut its flow goes on; the state must not know. */
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 5000, 6000));
    wire_pump(wire);
    g_assert_true(switch_cut_end(wire->sw, 4, &state, len, NULL));
    return state;
}

static void
test_frames_first(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_true(switch_restore(wire->sw, state, len, FALSE, 2, NULL));
    wire_connect(wire, 0, 0);
    wire_send_number(wire, 0, 1, 9);
    wire_connect(wire, 1, 0);
    wire_pump(wire);
    for (guint32 i = 7; i <= 9; i++)
        g_assert_cmpuint(wire_receive_number(wire, 1), ==, i);
    g_assert_false(switch_cut_begin(wire->sw, 4, NULL));
}

/* Restored members connect one after the other; the first one's frames wait for the others. */
static void
test_frames_wait(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_true(switch_restore(wire->sw, state, len, FALSE, 2, NULL));
    wire_connect(wire, 0, 0);
    wire_send_number(wire, 0, 1, 9);
    wire_send_number(wire, 0, WIRE_BROADCAST, 10);
    wire_pump(wire);
    wire_connect(wire, 1, 0);
    wire_pump(wire);
    for (guint32 i = 7; i <= 10; i++)
        g_assert_cmpuint(wire_receive_number(wire, 1), ==, i);
}

/* Not delivered before the next cut either: they belong to that one as well. */
static void
test_frames_again(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_true(switch_restore(wire->sw, state, len, FALSE, 2, NULL));
    g_autofree guint8 *next = wire_cut(wire, 5, &len);
    District__NetState *unpacked = district__net_state__unpack(NULL, len, next);
    g_assert_cmpuint(unpacked->ports[1]->n_frames, ==, 2);
    district__net_state__free_unpacked(unpacked, NULL);
}

/* How many frames to b the next cut finds in flight. */
static gsize
count_in_flight(Wire *wire, guint64 epoch)
{
    gsize len;
    g_autofree guint8 *packed = wire_cut(wire, epoch, &len);
    District__NetState *state = district__net_state__unpack(NULL, len, packed);
    gsize n = state->ports[1]->n_frames;

    district__net_state__free_unpacked(state, NULL);
    return n;
}

static void
test_member_off(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_true(switch_restore(wire->sw, state, len, FALSE, 2, NULL));
    wire_connect(wire, 0, 0);
    switch_tick(wire->sw, wire->now_ns);
    switch_announce(wire->sw);
    wire_send_number(wire, 0, WIRE_BROADCAST, 9);
    wire_pump(wire);
    wire_wait(wire, 4 * NS_PER_S);
    g_assert_cmpuint(count_in_flight(wire, 5), ==, 3);
    wire_wait(wire, 2 * NS_PER_S);
    wire_send_number(wire, 0, WIRE_BROADCAST, 10);
    wire_pump(wire);
    g_assert_cmpuint(count_in_flight(wire, 6), ==, 0);
    /* It may come all the same. */
    wire_connect(wire, 1, 0);
    wire_send_number(wire, 0, WIRE_BROADCAST, 11);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 11);
}

static void
test_flow_at_cut(void)
{
    gsize len;
    g_autofree guint8 *state = saved_state(&len);
    District__NetState *unpacked = district__net_state__unpack(NULL, len, state);

    g_assert_cmpuint(unpacked->n_flows, ==, 1);
    g_assert_cmpuint(unpacked->flows[0]->inside->snd_max, ==, 100);
    g_assert_cmpuint(unpacked->flows[0]->inside->last_ack, ==, 200);
    district__net_state__free_unpacked(unpacked, NULL);
}

/* A connection crosses the boundary although a member has taken its far end's address since. */
static void
test_flow_of_taken_address(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    guint8 frame[128];
    gsize len;

    wire_send(wire, 0, frame, wire_make_tcp(frame, 2, 0, TCP_SYN, 99, 0));
    wire_pump(wire);
    wire_send(wire, 2, frame, wire_make_tcp(frame, 0, 2, TCP_SYN | TCP_ACK, 199, 100));
    wire_pump(wire);
    wire_send(wire, 0, frame, wire_make_tcp(frame, 2, 0, TCP_ACK, 100, 200));
    wire_pump(wire);
    wire_wait(wire, 301 * NS_PER_S);
    wire_send(wire, 1, frame, wire_make(frame, 0, 2, 5, 60));
    wire_pump(wire);
    g_autofree guint8 *state = wire_cut(wire, 3, &len);
    District__NetState *unpacked = district__net_state__unpack(NULL, len, state);
    g_assert_cmpuint(unpacked->n_flows, ==, 1);
    district__net_state__free_unpacked(unpacked, NULL);
}

static void
test_refused(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    g_autoptr(Wire) other = wire_new(1, FALSE);
    g_autoptr(GError) error = NULL;
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_false(switch_restore(other->sw, state, len, FALSE, 2, &error));
    g_assert_nonnull(strstr(error->message, "member b"));
    g_assert_false(switch_restore(wire->sw, state, len, FALSE, 0, NULL)); /* an older life */
    g_assert_false(switch_restore(wire->sw, state, len - 1, FALSE, 2, NULL));
    g_assert_true(switch_restore(wire->sw, state, len, FALSE, 2, NULL));
    g_assert_false(switch_restore(wire->sw, state, len, FALSE, 2, NULL)); /* twice */
}

static void
test_second_port(void)
{
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    g_autoptr(GError) error = NULL;
    gsize len;
    g_autofree guint8 *state = saved_state(&len);
    District__NetState *unpacked = district__net_state__unpack(NULL, len, state);
    District__NetStatePort **ports = unpacked->ports;
    District__NetStatePort *three[] = {ports[0], ports[1], ports[0]};

    unpacked->ports = three;
    unpacked->n_ports = G_N_ELEMENTS(three);
    g_autofree guint8 *packed = g_malloc(district__net_state__get_packed_size(unpacked));
    gsize packed_len = district__net_state__pack(unpacked, packed);
    unpacked->ports = ports;
    unpacked->n_ports = 2;
    district__net_state__free_unpacked(unpacked, NULL);
    g_assert_false(switch_restore(wire->sw, packed, packed_len, FALSE, 2, &error));
    g_assert_nonnull(strstr(error->message, "member a"));
}

/* Whatever byte is damaged: refused or loaded, but nothing worse (run this with sanitizers). */
static void
test_damaged(void)
{
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    for (gsize at = 0; at < len; at++) {
        for (guint bit = 0; bit < 8; bit++) {
            g_autoptr(Wire) wire = wire_new(2, FALSE);
            state[at] ^= (guint8)(1u << bit);
            switch_restore(wire->sw, state, len, TRUE, 2, NULL);
            switch_announce(wire->sw);
            wire_wait(wire, NS_PER_S);
            state[at] ^= (guint8)(1u << bit);
        }
    }
}

/* All segments that have come to port: how many have all of flags. */
static guint
count_segments(Wire *wire, guint port, guint8 flags)
{
    const guint8 *frame;
    gsize len;
    guint n = 0;

    wire_pump(wire);
    for (frame = wire_receive(wire, port, &len); frame; frame = wire_receive(wire, port, &len)) {
        Packet packet;
        packet_parse(frame, len, &packet);
        n += packet.kind == PACKET_TCP && (packet.flags & flags) == flags;
    }
    return n;
}

/* A restored district whose crossing flow is dead. */
static Wire *
wire_reset(void)
{
    Wire *wire = wire_new(2, FALSE);
    gsize len;
    g_autofree guint8 *state = saved_state(&len);

    g_assert_true(switch_restore(wire->sw, state, len, TRUE, 2, NULL));
    for (guint i = 0; i <= OUT; i++)
        wire_connect(wire, i, 0);
    switch_tick(wire->sw, wire->now_ns);
    switch_announce(wire->sw);
    return wire;
}

static void
test_exact_answer(void)
{
    g_autoptr(Wire) wire = wire_reset();
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len;
    Packet packet;

    g_assert_cmpuint(count_segments(wire, 0, TCP_RST), >=, 1);
    g_assert_cmpuint(count_segments(wire, OUT, TCP_RST), >=, 1);
    /* The outside has gone on to 777: its answer says so, and is not passed on. */
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_ACK, 900, 777));
    wire_pump(wire);
    const guint8 *frame = wire_receive(wire, OUT, &len);
    g_assert_nonnull(frame);
    packet_parse(frame, len, &packet);
    g_assert_cmpuint(packet.flags, ==, TCP_RST);
    g_assert_cmpuint(packet.seq, ==, 777);
    g_assert_cmpuint(count_segments(wire, 0, 0), ==, 0);
}

/* A connection made after the checkpoint, in the life that a rollback undoes. */
static void
test_previous(void)
{
    g_autoptr(Wire) undone = wire_new(2, TRUE);
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len, flows_len;

    wire_send_number(undone, OUT, WIRE_BROADCAST, 1);
    wire_pump(undone);
    g_autofree guint8 *state = wire_cut(undone, 1, &len);
    wire_send(undone, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 100, 200));
    wire_pump(undone);
    g_autofree guint8 *flows = switch_save_flows(undone->sw, &flows_len);

    g_assert_true(switch_restore(wire->sw, state, len, TRUE, 2, NULL));
    g_assert_false(switch_reset_flows(wire->sw, flows, flows_len - 1, NULL));
    g_assert_true(switch_reset_flows(wire->sw, flows, flows_len, NULL));
    for (guint i = 0; i <= OUT; i++)
        wire_connect(wire, i, 0);
    switch_tick(wire->sw, wire->now_ns);
    switch_announce(wire->sw);
    g_assert_cmpuint(count_segments(wire, OUT, TCP_RST), >=, 1);
    g_assert_cmpuint(count_segments(wire, 0, TCP_RST), >=, 1);
}

/* A restored district that is told to reset, and knows no connection, but who is where. */
static Wire *
wire_without_flows(void)
{
    g_autoptr(Wire) before = wire_new(2, TRUE);
    Wire *wire = wire_new(2, FALSE);
    gsize len;

    wire_send_number(before, 0, WIRE_BROADCAST, 1);
    wire_send_number(before, 1, WIRE_BROADCAST, 1);
    wire_pump(before);
    g_autofree guint8 *state = wire_cut(before, 1, &len);
    switch_tick(wire->sw, wire->now_ns);
    g_assert_true(switch_restore(wire->sw, state, len, TRUE, 2, NULL));
    for (guint i = 0; i <= OUT; i++)
        wire_connect(wire, i, 0);
    switch_announce(wire->sw);
    return wire;
}

/* The far end's address is not one that floods. */
static void
hear_outside(Wire *wire)
{
    wire_send_number(wire, OUT, WIRE_BROADCAST, 1);
    for (guint i = 0; i <= OUT; i++)
        count_segments(wire, i, 0);
}

/* The gateway of this host is not that of the lost one. */
static void
test_other_gateway(void)
{
    g_autoptr(Wire) wire = wire_reset();
    guint8 out[PACKET_MADE_BYTES_MAX];
    const guint8 *frame;
    guint n = 0;
    gsize len;

    count_segments(wire, OUT, 0);
    len = wire_make_tcp(out, 0, OUT, TCP_ACK, 900, 777);
    out[MAC_BYTES + 5] = 99;
    wire_send(wire, OUT, out, len);
    wire_pump(wire);
    wire_wait(wire, 100 * NS_PER_MS);
    for (frame = wire_receive(wire, OUT, &len); frame; frame = wire_receive(wire, OUT, &len)) {
        Packet packet;
        packet_parse(frame, len, &packet);
        if (packet.kind != PACKET_TCP)
            continue;
        g_assert_cmpmem(packet.dst_mac, MAC_BYTES, out + MAC_BYTES, MAC_BYTES);
        n++;
    }
    g_assert_cmpuint(n, ==, 2); /* the RST, and the next probe */
}

/* Send from b a segment of a's flow to the outside. */
static void
send_as_a(Wire *wire, guint8 flags)
{
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len = wire_make_tcp(out, OUT, 0, flags, 7000, 8000);

    out[MAC_BYTES + 5] = 1; /* b's own address */
    wire_send(wire, 1, out, len);
    wire_pump(wire);
}

static void
test_other_member(void)
{
    g_autoptr(Wire) before = wire_new(2, TRUE);
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len;

    wire_send_number(before, OUT, WIRE_BROADCAST, 1);
    wire_pump(before);
    wire_send(before, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 100, 200));
    wire_pump(before);
    send_as_a(before, TCP_ACK);
    g_autofree guint8 *packed = wire_cut(before, 1, &len);
    District__NetState *state = district__net_state__unpack(NULL, len, packed);
    g_assert_cmpuint(state->n_flows, ==, 1);
    g_assert_cmpstr(state->flows[0]->member, ==, "a");
    g_assert_cmpuint(state->flows[0]->inside->snd_max, ==, 100);
    g_assert_cmpmem(state->flows[0]->inside->mac.data, MAC_BYTES, out + MAC_BYTES, MAC_BYTES);
    district__net_state__free_unpacked(state, NULL);
}

/* It is answered, and a is reset all the same. */
static void
test_other_member_dead(void)
{
    g_autoptr(Wire) wire = wire_reset();

    hear_outside(wire);
    send_as_a(wire, TCP_ACK);
    g_assert_cmpuint(count_segments(wire, 1, TCP_RST), ==, 1);
    g_assert_cmpuint(count_segments(wire, 0, 0), ==, 0);
    send_as_a(wire, TCP_RST);
    g_assert_cmpuint(count_segments(wire, 1, 0), ==, 0);
    g_assert_cmpuint(count_segments(wire, OUT, 0), ==, 0);
    wire_wait(wire, 100 * NS_PER_MS);
    g_assert_cmpuint(count_segments(wire, 0, TCP_RST), >=, 1);
}

/* A segment from one port to another is answered with a RST and not passed on. */
static void
check_refused(Wire *wire, guint from, guint to)
{
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len;
    Packet packet;

    wire_send(wire, from, out, wire_make_tcp(out, to, from, TCP_ACK, 100, 200));
    wire_pump(wire);
    g_assert_null(wire_receive(wire, to, &len));
    const guint8 *frame = wire_receive(wire, from, &len);
    g_assert_nonnull(frame);
    packet_parse(frame, len, &packet);
    g_assert_cmpint(packet.kind, ==, PACKET_TCP);
    g_assert_cmpuint(packet.flags, ==, TCP_RST);
    g_assert_cmpuint(packet.seq, ==, 200);
    g_assert_null(wire_receive(wire, from, &len));
}

static void
test_unknown_refused(void)
{
    g_autoptr(Wire) wire = wire_without_flows();
    guint8 out[PACKET_MADE_BYTES_MAX];

    hear_outside(wire);
    check_refused(wire, 0, OUT);
    check_refused(wire, OUT, 0);
    /* It is the other end that says that there is no connection. */
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_RST, 100, 0));
    g_assert_cmpuint(count_segments(wire, OUT, TCP_RST), ==, 1);
    g_assert_cmpuint(count_segments(wire, 0, 0), ==, 0);
}

static void
test_unknown_opens(void)
{
    g_autoptr(Wire) wire = wire_without_flows();
    guint8 out[PACKET_MADE_BYTES_MAX];

    hear_outside(wire);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_SYN, 99, 0));
    g_assert_cmpuint(count_segments(wire, 0, TCP_SYN), ==, 1);
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_SYN | TCP_ACK, 199, 100));
    g_assert_cmpuint(count_segments(wire, OUT, TCP_SYN | TCP_ACK), ==, 1);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_ACK, 100, 200));
    g_assert_cmpuint(count_segments(wire, 0, TCP_ACK), ==, 1);
}

/* It may be for a member that has not been heard: it gets it, and nobody is told anything. */
static void
test_unknown_floods(void)
{
    g_autoptr(Wire) wire = wire_without_flows();
    guint8 out[PACKET_MADE_BYTES_MAX];

    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 100, 200));
    g_assert_cmpuint(count_segments(wire, OUT, 0), ==, 0);
    g_assert_cmpuint(count_segments(wire, 0, 0), ==, 0);
    g_assert_cmpuint(count_segments(wire, 1, TCP_ACK), ==, 1);
}

static void
test_unknown_later(void)
{
    g_autoptr(Wire) wire = wire_without_flows();
    guint8 out[PACKET_MADE_BYTES_MAX];

    wire_wait(wire, 1201 * NS_PER_S);
    hear_outside(wire);
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_ACK, 100, 200));
    g_assert_cmpuint(count_segments(wire, OUT, TCP_ACK), ==, 1);
}

static void
test_gives_up(void)
{
    g_autoptr(Wire) wire = wire_reset();
    guint tries = 0;

    for (guint i = 0; i < 1200; i++) {
        wire_wait(wire, 100 * NS_PER_MS);
        guint n = count_segments(wire, OUT, TCP_RST);
        tries += n;
        if (i > 700)
            g_assert_cmpuint(n, ==, 0);
    }
    g_assert_cmpuint(tries, >=, 70);
    g_assert_cmpint(switch_deadline(wire->sw) - wire->now_ns, >, NS_PER_S);
}

static void
test_revived(void)
{
    g_autoptr(Wire) wire = wire_reset();
    guint8 out[PACKET_MADE_BYTES_MAX];

    count_segments(wire, 0, 0);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_ACK, 900, 777));
    g_assert_cmpuint(count_segments(wire, 0, 0), ==, 0);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_SYN, 5000, 0));
    g_assert_cmpuint(count_segments(wire, 0, TCP_SYN), ==, 1);
    wire_send(wire, OUT, out, wire_make_tcp(out, 0, OUT, TCP_ACK, 5001, 1));
    g_assert_cmpuint(count_segments(wire, 0, TCP_ACK), ==, 1);
}

/* What its end outside has answered in the life that is undone it will not answer again. */
static void
test_same_syn(void)
{
    g_autoptr(Wire) before = wire_new(2, TRUE);
    g_autoptr(Wire) wire = wire_new(2, FALSE);
    guint8 out[PACKET_MADE_BYTES_MAX];
    gsize len;
    Packet packet;

    wire_send(before, 0, out, wire_make_tcp(out, OUT, 0, TCP_SYN, 99, 0));
    wire_pump(before);
    g_autofree guint8 *state = wire_cut(before, 1, &len);
    g_assert_true(switch_restore(wire->sw, state, len, TRUE, 2, NULL));
    for (guint i = 0; i <= OUT; i++)
        wire_connect(wire, i, 0);
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_SYN, 99, 0));
    wire_pump(wire);
    const guint8 *frame = wire_receive(wire, 0, &len);
    g_assert_nonnull(frame);
    packet_parse(frame, len, &packet);
    g_assert_cmpuint(packet.flags, ==, (TCP_RST | TCP_ACK));
    g_assert_cmpuint(packet.ack, ==, 100);
    g_assert_cmpuint(count_segments(wire, OUT, 0), ==, 0);
    wire_send(wire, 0, out, wire_make_tcp(out, OUT, 0, TCP_SYN, 5000, 0));
    g_assert_cmpuint(count_segments(wire, OUT, TCP_SYN), ==, 1);
}

static void
test_announced(void)
{
    static const guint8 arp[28] = {0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 0, 10, 0, 0, 1};
    g_autoptr(Wire) first = wire_new(2, TRUE);
    g_autoptr(Wire) second = wire_new(2, TRUE);
    guint8 frame[60];
    guint seen = 0;
    gsize len;

    wire_make(frame, WIRE_BROADCAST, 0, 0, sizeof(frame));
    frame[12] = 0x08;
    frame[13] = 0x06;
    memcpy(frame + 14, arp, sizeof(arp));
    wire_send(first, 0, frame, sizeof(frame));
    wire_pump(first);
    g_autofree guint8 *state = wire_cut(first, 1, &len);
    g_assert_true(switch_restore(second->sw, state, len, TRUE, 2, NULL));
    switch_tick(second->sw, second->now_ns);
    switch_announce(second->sw);
    for (guint i = 0; i < 30; i++) {
        wire_pump(second);
        for (const guint8 *got = wire_receive(second, OUT, &len); got;
             got = wire_receive(second, OUT, &len)) {
            Packet packet;
            packet_parse(got, len, &packet);
            g_assert_cmpint(packet.kind, ==, PACKET_NEIGHBOUR);
            g_assert_cmpuint(packet.src.bytes[0], ==, 10);
            seen++;
        }
        wire_wait(second, 100 * NS_PER_MS);
    }
    g_assert_cmpuint(seen, ==, 4);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restore/frames in flight are delivered first", test_frames_first);
    g_test_add_func("/restore/frames to a member that is not back yet wait for it",
                    test_frames_wait);
    g_test_add_func("/restore/frames not delivered yet belong to the next cut too",
                    test_frames_again);
    g_test_add_func("/restore/frames to a member that is off do not wait", test_member_off);
    g_test_add_func("/restore/a flow is saved as it was when its member was cut", test_flow_at_cut);
    g_test_add_func("/restore/a flow is saved whoever has its far end's address by now",
                    test_flow_of_taken_address);
    g_test_add_func("/restore/a foreign, older, torn or second state is refused", test_refused);
    g_test_add_func("/restore/a second port of a member is refused", test_second_port);
    g_test_add_func("/restore/a damaged state does no harm", test_damaged);
    g_test_add_func("/restore/the answer of a dead flow's end names the RST it gets",
                    test_exact_answer);
    g_test_add_func("/restore/a dead flow's end is answered where it speaks from",
                    test_other_gateway);
    g_test_add_func("/restore/a flow is not changed by another member", test_other_member);
    g_test_add_func("/restore/the reset of a dead flow is not ended by another member",
                    test_other_member_dead);
    g_test_add_func("/restore/connections made since the checkpoint are reset too", test_previous);
    g_test_add_func("/restore/a connection that is not known is reset when an end speaks",
                    test_unknown_refused);
    g_test_add_func("/restore/a connection that is opened after the restore goes on",
                    test_unknown_opens);
    g_test_add_func("/restore/a segment that may be for a member is kept from the outside only",
                    test_unknown_floods);
    g_test_add_func("/restore/connections not known are picked up again 20 minutes later",
                    test_unknown_later);
    g_test_add_func("/restore/an end that never answers is given up after a minute", test_gives_up);
    g_test_add_func("/restore/a SYN opens a dead flow's addresses again", test_revived);
    g_test_add_func("/restore/the SYN of a dead flow, sent again, does not open it", test_same_syn);
    g_test_add_func("/restore/members are announced four times", test_announced);
    return g_test_run();
}
