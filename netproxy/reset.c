/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Resetting crossing connections after a rollback, at both ends and at once.
 *
 * Theory of operation
 *
 * A RST is obeyed only if its sequence number is exactly the receiver's RCV.NXT (RFC 5961 §3.2).
 * The flow table knows that number as of the cut; the end outside may have gone on since. So each
 * end of a dead flow is sent, in the other end's name,
 *
 *  1. a RST at the best numbers known: enough for a connection that was quiet; with ACK, so that an
 *     end in SYN-SENT obeys it too (RFC 9293 §3.10.7.3);
 *  2. a probe: one byte below RCV.NXT, like a keepalive. It is not acceptable, so any stack must
 *     answer it with an ACK of its RCV.NXT (RFC 9293 §3.10.7.4). The answer to that is the RST.
 *
 * Both are repeated until the end has answered: each 100 ms for 2 s, then each second until a
 * minute has passed, for an end whose link-layer address must be found out first. An end that
 * answered with an ACK is probed on at the same pace, in case the RST was lost on its way; once the
 * connection is gone it answers with a RST of its own, and that is the end of it.
 *
 * Dead flows stay in the table. Nothing of them passes: whatever segment comes of one, from either
 * end and however late, is answered with the RST that RFC 9293 §3.10.7.1 prescribes for a
 * connection that does not exist. That is also what answers the answers to the probes. A SYN opens
 * the pair of addresses for a new connection, unless it is the dead one's own, sent again: the other
 * end may have answered it in the life that is undone, and would not do so anew. A connection that
 * the table does not know cannot be reset before it speaks; then it is answered in the same way
 * (boundary.c).
 */
#include "netproxy/switch-priv.h"

#include "common/clock.h"

#include <string.h>

#define RESET_FAST_NS (100 * NS_PER_MS)
#define RESET_FAST_TRIES 20
#define RESET_SLOW_NS NS_PER_S
#define RESET_TRIES_MAX (RESET_FAST_TRIES + 58)
/* Ends tried in one round of the event loop. */
#define RESET_BURST 256

static void
reset_post(Switch *sw, Port *to, const Packet *packet)
{
    guint8 out[PACKET_MADE_BYTES_MAX];
    gboolean rst = (packet->flags & TCP_RST) != 0;
    gsize len = packet_make_tcp(packet, rst ? 0 : 1, out);
    g_autoptr(Frame) frame = frame_new(out, len, FRAME_COLOUR_NONE);

    switch_enqueue(sw, to, frame);
    sw->resets_sent += rst;
}

/* RFC 9293 §3.10.7.1. Not a RST, nor what was sent to a group: that is nobody to answer for. */
void
reset_refuse(Switch *sw, Port *from, const Packet *packet)
{
    gboolean ack = (packet->flags & TCP_ACK) != 0;
    Packet answer = {.src = packet->dst,
                     .dst = packet->src,
                     .src_port = packet->dst_port,
                     .dst_port = packet->src_port,
                     .seq = ack ? packet->ack : 0,
                     .ack = ack ? 0 : packet->seq + packet->seq_len,
                     .flags = ack ? TCP_RST : TCP_RST | TCP_ACK};

    if ((packet->flags & TCP_RST) || mac_is_group(packet->dst_mac))
        return;
    memcpy(answer.src_mac, packet->dst_mac, MAC_BYTES);
    memcpy(answer.dst_mac, packet->src_mac, MAC_BYTES);
    reset_post(sw, from, &answer);
}

/* Send a segment to end side of flow, in the name of the other end. */
static void
reset_send(Switch *sw, const Flow *flow, FlowSide side, guint8 flags, guint32 seq, guint32 ack)
{
    const FlowKey *key = &flow->key;
    gboolean to_far = side == FLOW_FAR;
    Packet packet = {.src = to_far ? key->inside : key->far,
                     .dst = to_far ? key->far : key->inside,
                     .src_port = to_far ? key->inside_port : key->far_port,
                     .dst_port = to_far ? key->far_port : key->inside_port,
                     .seq = seq,
                     .ack = ack,
                     .flags = flags,
                     .window = flow->end[!side].window};

    memcpy(packet.src_mac, flow->end[!side].mac, MAC_BYTES);
    memcpy(packet.dst_mac, flow->end[side].mac, MAC_BYTES);
    reset_post(sw, to_far ? switch_outside(sw) : &sw->ports[flow->port], &packet);
}

/* What side's RCV.NXT and SND.NXT were when last heard of, as far as known. */
static guint32
reset_rcv_nxt(const Flow *flow, FlowSide side)
{
    return flow->end[side].acked ? flow->end[side].last_ack : flow->end[!side].snd_max;
}

static guint32
reset_snd_nxt(const Flow *flow, FlowSide side)
{
    return flow->end[side].seen ? flow->end[side].snd_max : flow->end[!side].last_ack;
}

static void
reset_try(Switch *sw, const Flow *flow, FlowSide side)
{
    guint32 rcv_nxt = reset_rcv_nxt(flow, side);
    guint32 snd_nxt = reset_snd_nxt(flow, side);
    const FlowEnd *other = &flow->end[!side];

    if (flow->reset[side] == FLOW_RESET_PROBING) {
        reset_send(sw, flow, side, TCP_RST | TCP_ACK, rcv_nxt, snd_nxt);
        if (other->seen && other->snd_max != rcv_nxt)
            reset_send(sw, flow, side, TCP_RST | TCP_ACK, other->snd_max, snd_nxt);
    }
    reset_send(sw, flow, side, TCP_ACK, rcv_nxt - 1, snd_nxt);
}

/* --- Schedule --- */

static gboolean
reset_is_waiting(const Flow *flow, FlowSide side)
{
    return flow->reset[side] == FLOW_RESET_PROBING || flow->reset[side] == FLOW_RESET_CONFIRMING;
}

static gboolean
reset_is_slow(const Flow *flow, FlowSide side)
{
    return flow->reset_tries[side] > RESET_FAST_TRIES;
}

static GQueue *
reset_queue(Switch *sw, const Flow *flow, FlowSide side)
{
    return reset_is_slow(flow, side) ? &sw->reset_slow[side] : &sw->reset_fast[side];
}

/* reset_due_ns 0: not in a queue. */
static void
reset_unschedule(Switch *sw, Flow *flow, FlowSide side)
{
    if (flow->reset_due_ns[side] == 0)
        return;
    g_queue_unlink(reset_queue(sw, flow, side), &flow->reset_link[side]);
    flow->reset_due_ns[side] = 0;
}

/* Queues are in order of time because each has one interval; what is due at once goes first. */
static void
reset_schedule(Switch *sw, Flow *flow, FlowSide side, gint64 delay_ns)
{
    flow->reset_due_ns[side] = sw->now_ns + delay_ns;
    if (delay_ns == 0)
        g_queue_push_head_link(reset_queue(sw, flow, side), &flow->reset_link[side]);
    else
        g_queue_push_tail_link(reset_queue(sw, flow, side), &flow->reset_link[side]);
}

/* side is in state; its tries start again. */
static void
reset_set(Switch *sw, Flow *flow, FlowSide side, FlowReset state)
{
    reset_unschedule(sw, flow, side);
    flow->reset[side] = state;
    flow->reset_tries[side] = 0;
    if (reset_is_waiting(flow, side) && sw->resets_started)
        reset_schedule(sw, flow, side, state == FLOW_RESET_PROBING ? 0 : RESET_FAST_NS);
}

static void
reset_next(Switch *sw, Flow *flow, FlowSide side)
{
    reset_unschedule(sw, flow, side);
    if (flow->reset_tries[side] >= RESET_TRIES_MAX) {
        flow->reset[side] = FLOW_RESET_DONE;
        return;
    }
    reset_try(sw, flow, side);
    flow->reset_tries[side]++;
    reset_schedule(sw, flow, side, reset_is_slow(flow, side) ? RESET_SLOW_NS : RESET_FAST_NS);
}

static void
reset_run(Switch *sw, GQueue *queue, FlowSide side)
{
    for (guint i = 0; i < RESET_BURST && queue->head; i++) {
        Flow *flow = queue->head->data;
        if (flow->reset_due_ns[side] > sw->now_ns)
            return;
        reset_next(sw, flow, side);
    }
}

void
reset_tick(Switch *sw)
{
    for (guint side = 0; side < 2; side++) {
        reset_run(sw, &sw->reset_fast[side], side);
        reset_run(sw, &sw->reset_slow[side], side);
    }
}

static gint64
reset_queue_deadline(const GQueue *queue, FlowSide side)
{
    const Flow *flow = queue->head ? queue->head->data : NULL;

    return flow ? flow->reset_due_ns[side] : G_MAXINT64;
}

gint64
reset_deadline(const Switch *sw)
{
    gint64 deadline = G_MAXINT64;

    for (guint side = 0; side < 2; side++) {
        deadline = MIN(deadline, reset_queue_deadline(&sw->reset_fast[side], side));
        deadline = MIN(deadline, reset_queue_deadline(&sw->reset_slow[side], side));
    }
    return deadline;
}

/* --- Dead flows --- */

static void
reset_collect(gpointer data, gpointer user_data)
{
    g_ptr_array_add(user_data, data);
}

static GPtrArray *
reset_flows(Switch *sw)
{
    GPtrArray *flows = g_ptr_array_new();

    flow_table_foreach(sw->flows, reset_collect, flows);
    return flows;
}

void
reset_kill(Switch *sw, Flow *flow)
{
    flow_table_set_state(sw->flows, flow, FLOW_DEAD);
    reset_set(sw, flow, FLOW_INSIDE, FLOW_RESET_PROBING);
    reset_set(sw, flow, FLOW_FAR, FLOW_RESET_PROBING);
}

void
reset_kill_all(Switch *sw)
{
    g_autoptr(GPtrArray) flows = reset_flows(sw);

    for (guint i = 0; i < flows->len; i++)
        reset_kill(sw, flows->pdata[i]);
}

void
reset_start(Switch *sw)
{
    g_autoptr(GPtrArray) flows = reset_flows(sw);

    sw->resets_started = TRUE;
    for (guint i = 0; i < flows->len; i++) {
        for (guint side = 0; side < 2; side++) {
            Flow *flow = flows->pdata[i];
            if (reset_is_waiting(flow, side) && flow->reset_due_ns[side] == 0)
                reset_schedule(sw, flow, side, 0);
        }
    }
    reset_tick(sw);
}

void
reset_port_connected(Switch *sw, guint port)
{
    g_autoptr(GPtrArray) flows = reset_flows(sw);

    for (guint i = 0; i < flows->len; i++) {
        Flow *flow = flows->pdata[i];
        FlowSide side = port == sw->n_members ? FLOW_FAR : FLOW_INSIDE;
        /* Also if it has answered: the RST may have been lost with the old connection. */
        if ((side == FLOW_FAR || flow->port == port) && reset_is_waiting(flow, side))
            reset_set(sw, flow, side, FLOW_RESET_PROBING);
    }
}

void
reset_forget(Switch *sw, Flow *flow)
{
    reset_set(sw, flow, FLOW_INSIDE, FLOW_RESET_NONE);
    reset_set(sw, flow, FLOW_FAR, FLOW_RESET_NONE);
}

/* It opens a connection, and not the one that is dead. */
static gboolean
reset_is_new(const Flow *flow, const Packet *packet, FlowSide side)
{
    gboolean known = flow->end[side].seen || flow->end[!side].acked;

    return packet_opens(packet) &&
           !(known && packet->seq + packet->seq_len == reset_snd_nxt(flow, side));
}

gboolean
reset_answer(Switch *sw, Port *from, Flow *flow, const Packet *packet)
{
    FlowSide side = port_side(sw, from);

    if (reset_is_new(flow, packet, side)) {
        reset_forget(sw, flow);
        return TRUE;
    }
    reset_refuse(sw, from, packet);
    if (!port_has_flow(sw, from, flow))
        return FALSE;
    flow->touched_ns = sw->now_ns;
    /* On another host a gateway may have another address. */
    memcpy(flow->end[side].mac, packet->src_mac, MAC_BYTES);
    if (packet->flags & TCP_RST)
        reset_set(sw, flow, side, FLOW_RESET_DONE);
    else if ((packet->flags & TCP_ACK) && flow->reset[side] == FLOW_RESET_PROBING)
        reset_set(sw, flow, side, FLOW_RESET_CONFIRMING);
    return FALSE;
}

static void
reset_count(gpointer data, gpointer user_data)
{
    const Flow *flow = data;
    guint64 *pending = user_data;

    *pending += flow->reset[FLOW_INSIDE] == FLOW_RESET_PROBING ||
                flow->reset[FLOW_FAR] == FLOW_RESET_PROBING;
}

guint64
reset_pending(const Switch *sw)
{
    guint64 pending = 0;

    flow_table_foreach(sw->flows, reset_count, &pending);
    return pending;
}
