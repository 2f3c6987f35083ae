/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The boundary: what passes between the members and the outside.
 *
 * Theory of operation
 *
 * Towards the members nothing is held. Towards the outside it depends on the mode:
 *
 *  - Not protected: there is no standby to fail over to, nothing is held.
 *  - Protected with output commit (external synchrony): every frame is held until the epoch in
 * which its sender sent it has committed, so the outside has never seen anything that a failover
 * undoes.
 *  - Protected without it: frames pass at once, save TCP segments with SYN, of either direction of
 *    opening, which are held like the above. A handshake cannot complete without the members' SYN
 * or SYN-ACK, so no connection is established outside that is missing from the flow table of the
 * last committed epoch, unless the table has lost it: it is bounded, and begins empty in each
 * process. So for a while after a restore that undoes what the outside has seen, a connection that
 * is not in the table is refused: its ends may have different ideas of what was sent.
 *
 * A frame is held under its sender's colour plus one: the epoch that its next cut will end. Held
 * frames are released in the order sent, member by member. Those of a life that ended are gone with
 * it; TCP sends them again if they still matter.
 *
 * Held output is bounded. At the bound the members are no longer read from, until the next commit:
 * their queues fill and their guests wait, which is the back-pressure wanted. Nothing is dropped.
 */
#include "netproxy/switch-priv.h"

#include <string.h>

void
boundary_flow_gone(void *opaque, Flow *flow)
{
    reset_forget(opaque, flow);
}

/* --- Held output --- */

static gboolean
boundary_is_syn(const Packet *packet)
{
    return packet->kind == PACKET_TCP && (packet->flags & TCP_SYN);
}

/* The frame, whose sender was at colour, must wait for its epoch's commit. */
static gboolean
boundary_must_hold(const Switch *sw, guint64 colour, const Packet *packet)
{
    if (!sw->protected || colour + 1 <= sw->epoch_committed)
        return FALSE;
    return sw->output_commit || boundary_is_syn(packet);
}

/* Stop or go on reading from the members, as the amount of held output asks for. */
static void
boundary_throttle(Switch *sw)
{
    gboolean throttled =
        sw->throttled ? sw->hold_bytes > HOLD_BYTES_MAX / 4 * 3 : sw->hold_bytes >= HOLD_BYTES_MAX;

    if (throttled == sw->throttled)
        return;
    sw->throttled = throttled;
    for (guint i = 0; i < sw->n_members; i++)
        switch_watch(sw, &sw->ports[i]);
}

static void
boundary_hold(Switch *sw, Port *port, Frame *frame)
{
    gsize before = port->hold.bytes;

    if (!frame_queue_push(&port->hold, frame)) {
        port->dropped++;
        return;
    }
    sw->hold_bytes += port->hold.bytes - before;
    sw->hold_frames++;
    boundary_throttle(sw);
}

/* The oldest held frame of port need not wait (any longer). */
static gboolean
boundary_may_release(const Switch *sw, const Port *port)
{
    const Frame *frame = frame_queue_peek(&port->hold);
    Packet packet;

    if (!frame)
        return FALSE;
    packet_parse(frame_data(frame), frame->len, &packet);
    return !boundary_must_hold(sw, frame->colour, &packet);
}

/* Send held frames of port, as many as may go and the outside's queue has room for. */
static void
boundary_release(Switch *sw, Port *port)
{
    FrameQueue *queue = &switch_outside(sw)->queue;

    while (boundary_may_release(sw, port)) {
        if (queue->bytes > PORT_QUEUE_BYTES / 2 || queue->frames.length > PORT_QUEUE_FRAMES / 2) {
            sw->release_pending = TRUE;
            return;
        }
        gsize before = port->hold.bytes;
        g_autoptr(Frame) frame = frame_queue_pop(&port->hold);
        sw->hold_bytes -= before - port->hold.bytes;
        sw->hold_frames--;
        switch_enqueue(sw, switch_outside(sw), frame);
    }
}

void
boundary_release_all(Switch *sw)
{
    sw->release_pending = FALSE;
    for (guint i = 0; i < sw->n_members; i++)
        boundary_release(sw, &sw->ports[i]);
    boundary_throttle(sw);
}

gboolean
switch_commit(Switch *sw, guint64 epoch, GError **error)
{
    /* An epoch cut before this process came says nothing of the frames held here. */
    if (epoch > sw->epoch_ended || epoch < sw->epoch_first || sw->epoch_first == 0) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                    "epoch %" G_GUINT64_FORMAT " cannot be committed: those cut here are "
                    "%" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                    epoch, sw->epoch_first, sw->epoch_ended);
        return FALSE;
    }
    sw->epoch_committed = MAX(sw->epoch_committed, epoch);
    boundary_release_all(sw);
    return TRUE;
}

void
switch_set_mode(Switch *sw, gboolean output_commit, gboolean protected)
{
    sw->output_commit = output_commit;
    sw->protected = protected;
    boundary_release_all(sw);
}

/* --- Flows --- */

/* The member of flow has been cut and the cut is not over: its state keeps the flow as it was. */
static void
boundary_keep_cut(const Switch *sw, Flow *flow)
{
    if (!sw->cut.epoch || sw->ports[flow->port].colour != sw->cut.epoch ||
        flow->at_cut.epoch == sw->cut.epoch)
        return;
    flow->at_cut.epoch = sw->cut.epoch;
    flow->at_cut.state = flow->state;
    memcpy(flow->at_cut.end, flow->end, sizeof(flow->end));
}

/* A segment of no known flow is of a connection that was opened in a life that is undone. A RST
 * can only end that. */
static gboolean
boundary_is_undone(const Switch *sw, const Packet *packet)
{
    return sw->now_ns < sw->undone_until_ns && !(packet->flags & (TCP_SYN | TCP_RST));
}

/*
 * Follow a TCP segment that has come in at from. FALSE: it is of a connection that must not go on,
 * and has been answered if it crosses, as far as known.
 *
 * A flow is only added for what crosses, and when the member speaks: before that nothing is open,
 * and strangers could fill the table with what nobody ever closes. Another member that sends in its
 * name may open a new connection, but changes nothing of this one.
 */
static gboolean
boundary_follow(Switch *sw, Port *from, const Packet *packet, gboolean crosses)
{
    FlowSide side = port_side(sw, from);
    FlowKey key;

    if (packet->kind != PACKET_TCP)
        return TRUE;
    flow_key_init(&key, packet, side);
    Flow *flow = flow_table_find(sw->flows, &key);
    if (flow && flow->state == FLOW_DEAD && !reset_answer(sw, from, flow, packet))
        return FALSE;
    if (!flow && boundary_is_undone(sw, packet)) {
        if (crosses)
            reset_refuse(sw, from, packet);
        return FALSE;
    }
    if (flow)
        boundary_keep_cut(sw, flow);
    else if (crosses && side == FLOW_INSIDE && !(packet->flags & TCP_RST))
        flow = flow_table_add(sw->flows, &key, (guint)(from - sw->ports), sw->now_ns);
    if (flow && (port_has_flow(sw, from, flow) || packet_opens(packet)))
        flow_table_update(sw->flows, flow, packet, side, sw->now_ns);
    return TRUE;
}

void
boundary_send(Switch *sw, Port *port, Frame *frame, const Packet *packet, gboolean to_far)
{
    /* A frame that floods may be for a member not heard of yet; but a SYN must be known of. */
    gboolean crosses = switch_outside(sw)->link && (to_far || boundary_is_syn(packet));

    if (!boundary_follow(sw, port, packet, crosses))
        return;
    if (!switch_outside(sw)->link)
        return;
    /* Nothing overtakes what has been released and waits for room only. */
    gboolean behind = port->hold.frames.length > 0 && (sw->output_commit || !sw->protected);
    if (behind || boundary_must_hold(sw, frame->colour, packet))
        boundary_hold(sw, port, frame);
    else
        switch_enqueue(sw, switch_outside(sw), frame);
}

gboolean
boundary_receive(Switch *sw, const Packet *packet)
{
    gboolean crosses = mac_table_find(sw->macs, packet->dst_mac) < sw->n_members;

    return boundary_follow(sw, switch_outside(sw), packet, crosses);
}
