/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flow table: following connections, staying bounded. */
#include "common/clock.h"
#include "netproxy/flow.h"

#include <glib.h>

static Packet
segment(FlowSide sender, guint16 inside_port, guint8 flags, guint32 seq, guint32 ack, guint32 data)
{
    IpAddress inside = {.family = 4, .bytes = {10, 0, 0, 1}};
    IpAddress far = {.family = 4, .bytes = {192, 0, 2, 1}};
    gboolean out = sender == FLOW_INSIDE;
    Packet packet = {.kind = PACKET_TCP,
                     .src = out ? inside : far,
                     .dst = out ? far : inside,
                     .src_port = out ? inside_port : 80,
                     .dst_port = out ? 80 : inside_port,
                     .flags = flags,
                     .seq = seq,
                     .ack = ack,
                     .wscale = TCP_WSCALE_NONE,
                     .seq_len = data + !!(flags & TCP_SYN) + !!(flags & TCP_FIN)};
    return packet;
}

/* Take in a segment, adding its flow if it is new. */
static Flow *
pass(FlowTable *table, FlowSide sender, Packet packet)
{
    FlowKey key;

    flow_key_init(&key, &packet, sender);
    Flow *flow = flow_table_find(table, &key);
    if (!flow)
        flow = flow_table_add(table, &key, 0, 0);
    flow_table_update(table, flow, &packet, sender, 0);
    return flow;
}

static void
test_life(void)
{
    FlowTable *table = flow_table_new(1, NULL, NULL);
    Flow *flow = pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_SYN, 99, 0, 0));

    g_assert_cmpint(flow->state, ==, FLOW_OPENING);
    g_assert_cmpuint(flow->end[FLOW_INSIDE].snd_max, ==, 100);
    pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_SYN | TCP_ACK, 0xffffffff, 100, 0));
    g_assert_cmpint(flow->state, ==, FLOW_OPENING);
    g_assert_cmpuint(flow->end[FLOW_FAR].snd_max, ==, 0);
    pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_ACK, 100, 0, 50));
    g_assert_cmpint(flow->state, ==, FLOW_OPEN);
    g_assert_cmpuint(flow->end[FLOW_INSIDE].snd_max, ==, 150);
    g_assert_cmpuint(flow->end[FLOW_INSIDE].last_ack, ==, 0);
    /* An old segment again takes nothing back. */
    pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_ACK, 100, 0xffffff00, 10));
    g_assert_cmpuint(flow->end[FLOW_INSIDE].snd_max, ==, 150);
    g_assert_cmpuint(flow->end[FLOW_INSIDE].last_ack, ==, 0);
    pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_ACK | TCP_FIN, 150, 0, 0));
    g_assert_cmpint(flow->state, ==, FLOW_OPEN);
    pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_ACK | TCP_FIN, 0, 151, 0));
    g_assert_cmpint(flow->state, ==, FLOW_CLOSED);
    /* The same ports again: everything afresh. */
    pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_SYN, 5000, 0, 0));
    g_assert_cmpint(flow->state, ==, FLOW_OPENING);
    g_assert_cmpuint(flow->end[FLOW_INSIDE].snd_max, ==, 5001);
    g_assert_false(flow->end[FLOW_FAR].seen);
    g_assert_cmpuint(flow_table_count(table), ==, 1);
    flow_table_free(table);
}

static void
test_midway(void)
{
    FlowTable *table = flow_table_new(1, NULL, NULL);
    Flow *flow = pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_ACK, 1000, 2000, 10));

    g_assert_cmpint(flow->state, ==, FLOW_OPEN);
    g_assert_cmpuint(flow->end[FLOW_FAR].snd_max, ==, 1010);
    g_assert_cmpuint(flow->end[FLOW_FAR].last_ack, ==, 2000);
    flow_table_free(table);
}

static void
test_reset(void)
{
    FlowTable *table = flow_table_new(1, NULL, NULL);
    Flow *flow = pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_ACK, 1000, 2000, 10));

    pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_RST, 77777, 0, 0));
    g_assert_cmpint(flow->state, ==, FLOW_CLOSED);
    g_assert_cmpuint(flow->end[FLOW_FAR].snd_max, ==, 1010);
    flow_table_free(table);
}

/* The member has acknowledged 1010 of what the far end has sent, which is up to 1030. */
static void
test_forged_reset(void)
{
    static const struct {
        guint32 seq;
        FlowState state;
    } resets[] = {{1009, FLOW_OPEN},
                  {1031, FLOW_OPEN},
                  {0x80000000, FLOW_OPEN},
                  {1030, FLOW_CLOSED},
                  {1010, FLOW_CLOSED}};

    for (gsize i = 0; i < G_N_ELEMENTS(resets); i++) {
        FlowTable *table = flow_table_new(1, NULL, NULL);
        pass(table, FLOW_INSIDE, segment(FLOW_INSIDE, 1, TCP_ACK, 2000, 1010, 0));
        Flow *flow = pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_ACK, 1010, 2000, 20));
        pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_RST, resets[i].seq, 0, 0));
        g_assert_cmpint(flow->state, ==, resets[i].state);
        flow_table_free(table);
    }
}

static void
test_share(void)
{
    FlowTable *table = flow_table_new(16, NULL, NULL);
    guint share = FLOWS_MAX / 16;
    FlowKey first_open, other_port, key;
    Packet packet = segment(FLOW_FAR, 1, TCP_ACK, 1, 1, 0);

    flow_key_init(&first_open, &packet, FLOW_FAR);
    pass(table, FLOW_FAR, packet);
    packet = segment(FLOW_FAR, 2, TCP_ACK, 1, 1, 0);
    flow_key_init(&other_port, &packet, FLOW_FAR);
    flow_table_add(table, &other_port, 1, 0);
    /* A flood of SYNs at port 0. */
    for (guint i = 0; i < 3 * share; i++) {
        packet = segment(FLOW_FAR, (guint16)(10 + i % 60000), TCP_SYN, 1, 0, 0);
        packet.src.bytes[3] = (guint8)(2 + i / 60000);
        pass(table, FLOW_FAR, packet);
    }
    flow_key_init(&key, &packet, FLOW_FAR);
    g_assert_cmpuint(flow_table_count(table), ==, share + 1);
    g_assert_nonnull(flow_table_find(table, &key));
    g_assert_nonnull(flow_table_find(table, &first_open));
    g_assert_nonnull(flow_table_find(table, &other_port));
    flow_table_free(table);
}

static void
test_expire(void)
{
    FlowTable *table = flow_table_new(1, NULL, NULL);

    pass(table, FLOW_FAR, segment(FLOW_FAR, 1, TCP_ACK, 1, 1, 0));
    pass(table, FLOW_FAR, segment(FLOW_FAR, 2, TCP_SYN, 1, 0, 0));
    pass(table, FLOW_FAR, segment(FLOW_FAR, 3, TCP_ACK, 1, 1, 0));
    pass(table, FLOW_FAR, segment(FLOW_FAR, 3, TCP_RST, 1, 1, 0));
    flow_table_expire(table, 59 * NS_PER_S);
    g_assert_cmpuint(flow_table_count(table), ==, 3);
    flow_table_expire(table, 61 * NS_PER_S);
    g_assert_cmpuint(flow_table_count(table), ==, 2);
    flow_table_expire(table, 86400 * NS_PER_S);
    g_assert_cmpuint(flow_table_count(table), ==, 1);
    flow_table_free(table);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/flow/a connection is followed from SYN to FIN and opened again", test_life);
    g_test_add_func("/flow/a connection is picked up midway", test_midway);
    g_test_add_func("/flow/a RST closes, and its numbers are not believed", test_reset);
    g_test_add_func("/flow/a RST that its receiver does not obey closes nothing",
                    test_forged_reset);
    g_test_add_func("/flow/a flood at one member costs it its own half-open flows only",
                    test_share);
    g_test_add_func("/flow/idle flows go, open ones stay", test_expire);
    return g_test_run();
}
