/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The virtual switch of one district.
 *
 * Theory of operation
 *
 * A frame is read from its sender's descriptor, tagged with the sender's colour, and put in the
 * queue of each port it is for; after a round of events the queues are written out. Nothing ever
 * waits: a queue that is full drops, with a count, so a member that does not read harms only
 * itself. What is queued for a connection that ends is dropped too: its member may be off, and then
 * every cut from now on would find these frames in flight.
 *
 *  - switch.c    ports, learning, forwarding, queues
 *  - cut.c       colours: which frames may be delivered during a cut, which belong to it
 *  - boundary.c  what crosses to and from the outside: the flow table, held output
 *  - reset.c     resetting the crossing connections of a life that was rolled back
 *  - announce.c  telling the outside where the members are now
 *  - netstate.c  the state of a cut, saved and loaded
 *
 * A unicast frame goes to the port where its destination was learned and floods if it was not;
 * group addresses flood; nothing goes back to the port it came from. No spanning tree: a member
 * that joins two ports of the district to a loop stops its own district.
 */
#include "netproxy/switch-priv.h"

#include "common/clock.h"

#include <string.h>

G_DEFINE_QUARK(switch - error - quark, switch_error)

/* A stopped member's socket holds a few hundred KiB at most: beyond this it is not stopped. */
#define DRAIN_READS_MAX 256

static void
port_init(Port *port, const char *name)
{
    port->name = g_strdup(name);
    frame_queue_init(&port->queue, PORT_QUEUE_BYTES, PORT_QUEUE_FRAMES);
    frame_queue_init(&port->recorded, CUT_RECORDED_BYTES_MAX, G_MAXUINT);
    /* Bounded together by HOLD_BYTES_MAX, through back-pressure and not by dropping. */
    frame_queue_init(&port->hold, G_MAXSIZE, G_MAXUINT);
    port->neighbours = g_array_new(FALSE, FALSE, sizeof(Neighbour));
}

static void
port_clear(Port *port)
{
    if (port->link)
        link_free(port->link);
    frame_queue_clear(&port->queue);
    frame_queue_clear(&port->recorded);
    frame_queue_clear(&port->hold);
    g_array_unref(port->neighbours);
    g_free(port->name);
}

Switch *
switch_new(const char *const *names, guint64 incarnation, SwitchWatchFunc watch, void *opaque)
{
    Switch *sw = g_new0(Switch, 1);

    sw->n_members = g_strv_length((char **)names);
    sw->ports = g_new0(Port, sw->n_members + 1);
    for (guint i = 0; i < sw->n_members; i++)
        port_init(&sw->ports[i], names[i]);
    port_init(switch_outside(sw), "outside");
    sw->incarnation = incarnation;
    sw->watch = watch;
    sw->opaque = opaque;
    sw->macs = mac_table_new(sw->n_members);
    sw->flows = flow_table_new(sw->n_members, boundary_flow_gone, sw);
    sw->announce_ns = G_MAXINT64;
    sw->await_ns = G_MAXINT64;
    sw->now_ns = clock_monotonic_ns();
    return sw;
}

void
switch_free(Switch *sw)
{
    for (guint i = 0; i <= sw->n_members; i++)
        port_clear(&sw->ports[i]);
    g_free(sw->ports);
    flow_table_free(sw->flows);
    mac_table_free(sw->macs);
    g_free(sw);
}

guint
switch_outside_port(const Switch *sw)
{
    return sw->n_members;
}

Port *
switch_member(Switch *sw, const char *name, GError **error)
{
    for (guint i = 0; i < sw->n_members; i++) {
        if (g_strcmp0(sw->ports[i].name, name) == 0)
            return &sw->ports[i];
    }
    g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                "member %s: no such port: start district-net with --port %s=SOCKET", name, name);
    return NULL;
}

void
switch_watch(Switch *sw, Port *port)
{
    gboolean input = !(sw->throttled && port_is_member(sw, port));

    if (sw->watch && port->link)
        sw->watch(sw->opaque, (guint)(port - sw->ports), link_fd(port->link), input, port->blocked);
}

static void
switch_detach(Switch *sw, Port *port)
{
    if (!port->link)
        return;
    if (sw->watch)
        sw->watch(sw->opaque, (guint)(port - sw->ports), link_fd(port->link), FALSE, FALSE);
    g_clear_pointer(&port->link, link_free);
    port->blocked = FALSE;
}

/* Nobody is at port, and nobody is about to come. */
static void
switch_vacate(Switch *sw, Port *port)
{
    switch_detach(sw, port);
    port->awaited = FALSE;
    port->dropped += port->queue.frames.length;
    frame_queue_clear(&port->queue);
}

/* Members run, so an engine that has not connected by now is of a member that is off. */
static void
switch_end_awaiting(Switch *sw)
{
    sw->await_ns = G_MAXINT64;
    for (guint i = 0; i < sw->n_members; i++) {
        if (sw->ports[i].awaited)
            switch_vacate(sw, &sw->ports[i]);
    }
}

void
switch_attach(Switch *sw, guint index, LinkKind kind, int fd)
{
    Port *port = &sw->ports[index];

    if (port->link)
        g_message("port %s: a new connection takes the place of the old one", port->name);
    switch_detach(sw, port);
    port->link = link_new(kind, fd);
    port->awaited = FALSE;
    switch_watch(sw, port);
    if (sw->resets_started)
        reset_port_connected(sw, index);
}

/*
 * Restored members connect one after the other, and the first one sends at once: what it sends to
 * the others is not lost for that.
 */
static gboolean
switch_is_there(const Port *port)
{
    return port->link || port->awaited;
}

void
switch_enqueue(Switch *sw, Port *port, Frame *frame)
{
    if (!switch_is_there(port) || !frame_queue_push(&port->queue, frame)) {
        port->dropped++;
        return;
    }
    cut_note_queued(sw, port, frame);
}

/* --- Forwarding --- */

/* A frame, and what is known of it. */
typedef struct Incoming {
    Port *from;
    Frame *frame;
    Packet packet;
    guint to; /* port of its destination; MAC_PORT_NONE: flood */
} Incoming;

static void
switch_send_to(Switch *sw, const Incoming *in, Port *to)
{
    if (to == in->from)
        return;
    if (port_is_member(sw, to))
        switch_enqueue(sw, to, in->frame);
    else
        boundary_send(sw, in->from, in->frame, &in->packet, in->to == sw->n_members);
}

static void
switch_forward(Switch *sw, const Incoming *in)
{
    if (in->to != MAC_PORT_NONE) {
        switch_send_to(sw, in, &sw->ports[in->to]);
        return;
    }
    for (guint i = 0; i <= sw->n_members; i++) {
        /* Nobody is there: not worth a count of what was dropped. */
        if (switch_is_there(&sw->ports[i]))
            switch_send_to(sw, in, &sw->ports[i]);
    }
}

typedef struct Reading {
    Switch *sw;
    Port *port;
} Reading;

static void
switch_receive(void *opaque, const guint8 *data, gsize len)
{
    const Reading *reading = opaque;
    Switch *sw = reading->sw;
    Port *port = reading->port;
    gboolean member = port_is_member(sw, port);
    g_autoptr(Frame) frame = frame_new(data, len, member ? port->colour : FRAME_COLOUR_NONE);
    Incoming in = {.from = port, .frame = frame, .to = MAC_PORT_NONE};

    port->rx_frames++;
    packet_parse(data, len, &in.packet);
    mac_table_learn(sw->macs, in.packet.src_mac, (guint)(port - sw->ports), sw->now_ns);
    if (member) {
        sw->heard = TRUE;
        announce_learn(port, &in.packet);
    } else if (!boundary_receive(sw, &in.packet)) {
        return;
    }
    if (!mac_is_group(in.packet.dst_mac))
        in.to = mac_table_find(sw->macs, in.packet.dst_mac);
    switch_forward(sw, &in);
}

/* --- Input and output --- */

static LinkResult
switch_read(Switch *sw, Port *port)
{
    g_autoptr(GError) error = NULL;
    Reading reading = {sw, port};
    LinkResult result = link_read(port->link, switch_receive, &reading, &error);

    if (result == LINK_LOST) {
        g_message("port %s: connection ended: %s", port->name, error->message);
        switch_vacate(sw, port);
    }
    return result;
}

void
switch_readable(Switch *sw, guint index)
{
    Port *port = &sw->ports[index];

    if (port->link && !(sw->throttled && port_is_member(sw, port)))
        switch_read(sw, port);
}

gboolean
switch_drain(Switch *sw, Port *port, GError **error)
{
    for (guint i = 0; port->link && i < DRAIN_READS_MAX; i++) {
        if (switch_read(sw, port) != LINK_MORE)
            return TRUE;
    }
    if (!port->link)
        return TRUE;
    g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                "member %s goes on sending: pause it before it is cut", port->name);
    return FALSE;
}

void
switch_writable(Switch *sw, guint index)
{
    Port *port = &sw->ports[index];

    if (port->link && port->blocked) {
        port->blocked = FALSE;
        switch_watch(sw, port);
    }
}

static void
switch_flush_port(Switch *sw, Port *port)
{
    switch (link_write(port->link, &port->queue, &port->tx_frames, &port->dropped)) {
    case LINK_BLOCKED:
        port->blocked = TRUE;
        switch_watch(sw, port);
        break;
    case LINK_LOST:
        g_message("port %s: connection ended while sending", port->name);
        switch_vacate(sw, port);
        break;
    default:
        break;
    }
}

void
switch_flush(Switch *sw)
{
    if (sw->release_pending)
        boundary_release_all(sw);
    for (guint i = 0; i <= sw->n_members; i++) {
        Port *port = &sw->ports[i];
        if (port->link && !port->blocked && frame_queue_peek(&port->queue) &&
            cut_may_deliver(sw, port))
            switch_flush_port(sw, port);
    }
}

/* --- Time --- */

#define EXPIRE_INTERVAL_NS (10 * NS_PER_S)

void
switch_tick(Switch *sw, gint64 now_ns)
{
    sw->now_ns = now_ns;
    if (sw->cut.epoch && now_ns >= sw->cut.deadline_ns)
        cut_abandon(sw, "it was not completed in time");
    if (now_ns >= sw->expire_ns) {
        flow_table_expire(sw->flows, now_ns);
        sw->expire_ns = now_ns + EXPIRE_INTERVAL_NS;
    }
    if (now_ns >= sw->await_ns)
        switch_end_awaiting(sw);
    if (now_ns >= sw->announce_ns)
        announce_tick(sw);
    if (now_ns >= reset_deadline(sw))
        reset_tick(sw);
}

gint64
switch_deadline(const Switch *sw)
{
    gint64 deadline = MIN(MIN(sw->announce_ns, sw->await_ns), reset_deadline(sw));

    if (sw->release_pending && !sw->ports[sw->n_members].blocked)
        return sw->now_ns;
    if (flow_table_count(sw->flows) > 0)
        deadline = MIN(deadline, sw->expire_ns);
    return sw->cut.epoch ? MIN(deadline, sw->cut.deadline_ns) : deadline;
}

/* --- Statistics --- */

static District__NetPortStats *
port_stats(const Port *port)
{
    District__NetPortStats *stats = g_new(District__NetPortStats, 1);

    district__net_port_stats__init(stats);
    stats->name = port->name;
    stats->connected = port->link != NULL;
    stats->rx_frames = port->rx_frames;
    stats->tx_frames = port->tx_frames;
    stats->dropped = port->dropped;
    return stats;
}

void
switch_stats(const Switch *sw, District__NetStatsReply *stats)
{
    district__net_stats_reply__init(stats);
    stats->n_ports = sw->n_members + 1;
    stats->ports = g_new(District__NetPortStats *, stats->n_ports);
    for (gsize i = 0; i < stats->n_ports; i++)
        stats->ports[i] = port_stats(&sw->ports[i]);
    stats->crossing_flows = flow_table_count_live(sw->flows);
    stats->held_frames = sw->hold_frames;
    stats->held_bytes = sw->hold_bytes;
    stats->resets_sent = sw->resets_sent;
    stats->resets_pending = reset_pending(sw);
    stats->incarnation = sw->incarnation;
}

void
switch_stats_clear(District__NetStatsReply *stats)
{
    for (gsize i = 0; i < stats->n_ports; i++)
        g_free(stats->ports[i]);
    g_clear_pointer(&stats->ports, g_free);
    stats->n_ports = 0;
}
