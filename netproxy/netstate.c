/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The network's part of a checkpoint: frames in flight, flows, addresses (netstate.proto).
 *
 * Saving points into the switch's own memory and packs that. Loading checks everything before it
 * changes anything: a state is loaded whole or refused.
 */
#include "common/clock.h"
#include "common/pbmsg.h"
#include "netproxy/switch-priv.h"
#include "netstate.pb-c.h"

#include <string.h>

#define NETSTATE_VERSION 1
/* What district-ckpt takes of a cut. */
#define NETSTATE_BYTES_MAX (32 * 1024 * 1024)
/* Memory that unpacking may take beside the bytes: a flow takes about ten times what it has. */
#define NETSTATE_STRUCTS_BASE (64 * 1024)
#define NETSTATE_STRUCTS_FACTOR 16

/* --- Saving --- */

/* Messages being built; all that they point to is freed with the arena. */
typedef struct Arena {
    GPtrArray *chunks;
} Arena;

static gpointer
arena_alloc(Arena *arena, gsize n, gsize size)
{
    gpointer p = g_malloc0_n(MAX(n, 1), size);

    g_ptr_array_add(arena->chunks, p);
    return p;
}

#define arena_new(arena, type, n) ((type *)arena_alloc(arena, n, sizeof(type)))

static ProtobufCBinaryData
netstate_bytes(gconstpointer data, gsize len)
{
    return (ProtobufCBinaryData){len, (uint8_t *)data};
}

static void
netstate_save_frames(Arena *arena, const Port *port, District__NetStatePort *out)
{
    out->frames = arena_new(arena, ProtobufCBinaryData, port->recorded.frames.length);
    for (GList *l = port->recorded.frames.head; l; l = l->next) {
        const Frame *frame = l->data;
        out->frames[out->n_frames++] = netstate_bytes(frame_data(frame), frame->len);
    }
}

static void
netstate_save_neighbours(Arena *arena, const Port *port, District__NetStatePort *out)
{
    guint n = port->neighbours->len;
    District__NetStateNeighbour *all = arena_new(arena, District__NetStateNeighbour, n);

    out->neighbours = arena_new(arena, District__NetStateNeighbour *, n);
    out->n_neighbours = n;
    for (guint i = 0; i < n; i++) {
        const Neighbour *from = &g_array_index(port->neighbours, Neighbour, i);
        district__net_state_neighbour__init(&all[i]);
        all[i].mac = netstate_bytes(from->mac, MAC_BYTES);
        all[i].ip = netstate_bytes(from->ip.bytes, ip_address_bytes(from->ip.family));
        out->neighbours[i] = &all[i];
    }
}

typedef struct MacSaving {
    Arena *arena;
    District__NetStatePort **ports;
} MacSaving;

static void
netstate_save_mac(void *opaque, const guint8 mac[MAC_BYTES], guint port)
{
    MacSaving *saving = opaque;
    District__NetStatePort *out = saving->ports[port];

    if (!out->macs)
        out->macs = arena_new(saving->arena, ProtobufCBinaryData, MAC_MEMBER_MAX);
    if (out->n_macs < MAC_MEMBER_MAX)
        out->macs[out->n_macs++] = netstate_bytes(mac, MAC_BYTES);
}

static void
netstate_save_ports(Arena *arena, Switch *sw, District__NetState *state)
{
    District__NetStatePort *all = arena_new(arena, District__NetStatePort, sw->n_members);

    state->ports = arena_new(arena, District__NetStatePort *, sw->n_members);
    state->n_ports = sw->n_members;
    for (guint i = 0; i < sw->n_members; i++) {
        district__net_state_port__init(&all[i]);
        all[i].name = sw->ports[i].name;
        netstate_save_frames(arena, &sw->ports[i], &all[i]);
        netstate_save_neighbours(arena, &sw->ports[i], &all[i]);
        state->ports[i] = &all[i];
    }
    MacSaving saving = {arena, state->ports};
    mac_table_foreach_member(sw->macs, netstate_save_mac, &saving);
}

static District__NetStateFlowEnd *
netstate_save_end(Arena *arena, const FlowEnd *end, const IpAddress *ip, guint16 port)
{
    District__NetStateFlowEnd *out = arena_new(arena, District__NetStateFlowEnd, 1);

    district__net_state_flow_end__init(out);
    out->ip = netstate_bytes(ip->bytes, ip_address_bytes(ip->family));
    out->port = port;
    out->mac = netstate_bytes(end->mac, MAC_BYTES);
    out->seen = end->seen;
    out->acked = end->acked;
    out->fin = end->fin;
    out->snd_max = end->snd_max;
    out->last_ack = end->last_ack;
    out->window = end->window;
    out->wscale = (guint32)(end->wscale + 1);
    return out;
}

typedef struct FlowSaving {
    Arena *arena;
    const Switch *sw;
    District__NetState *state;
} FlowSaving;

static void
netstate_save_flow(gpointer data, gpointer user_data)
{
    const Flow *flow = data;
    FlowSaving *saving = user_data;
    Arena *arena = saving->arena;
    gboolean at_cut = flow->at_cut.epoch != 0 && flow->at_cut.epoch == saving->state->epoch;
    const FlowEnd *end = at_cut ? flow->at_cut.end : flow->end;

    FlowState now = at_cut ? flow->at_cut.state : flow->state;

    /* A SYN was flooded, and its destination turned out to be a member: nothing that crosses. */
    if (now == FLOW_OPENING && !end[FLOW_FAR].seen &&
        mac_table_find(saving->sw->macs, end[FLOW_FAR].mac) < saving->sw->n_members)
        return;
    District__NetStateFlow *out = arena_new(arena, District__NetStateFlow, 1);
    district__net_state_flow__init(out);
    out->member = saving->sw->ports[flow->port].name;
    out->state = (District__NetStateFlowState)now;
    out->inside =
        netstate_save_end(arena, &end[FLOW_INSIDE], &flow->key.inside, flow->key.inside_port);
    out->far = netstate_save_end(arena, &end[FLOW_FAR], &flow->key.far, flow->key.far_port);
    saving->state->flows[saving->state->n_flows++] = out;
}

/* epoch 0: as things are now, at no cut. */
guint8 *
netstate_save(Switch *sw, guint64 epoch, gsize *len)
{
    g_autoptr(GPtrArray) chunks = g_ptr_array_new_with_free_func(g_free);
    Arena arena = {chunks};
    District__NetState state = DISTRICT__NET_STATE__INIT;
    FlowSaving saving = {&arena, sw, &state};

    state.version = NETSTATE_VERSION;
    state.epoch = epoch;
    state.incarnation = sw->incarnation;
    netstate_save_ports(&arena, sw, &state);
    state.flows = arena_new(&arena, District__NetStateFlow *, flow_table_count(sw->flows));
    flow_table_foreach(sw->flows, netstate_save_flow, &saving);

    *len = district__net_state__get_packed_size(&state);
    guint8 *out = g_malloc(*len);
    district__net_state__pack(&state, out);
    return out;
}

/* --- Checking --- */

static gboolean
netstate_fail(GError **error, const char *what, const char *name)
{
    g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_STATE,
                "network state damaged: %s of member %s: use another checkpoint", what, name);
    return FALSE;
}

static gboolean
netstate_is_ip(const ProtobufCBinaryData *ip)
{
    return ip->len == 4 || ip->len == 16;
}

static gboolean
netstate_check_port(const District__NetStatePort *port, GError **error)
{
    for (gsize i = 0; i < port->n_frames; i++) {
        if (port->frames[i].len < FRAME_BYTES_MIN || port->frames[i].len > FRAME_BYTES_MAX)
            return netstate_fail(error, "a frame", port->name);
    }
    for (gsize i = 0; i < port->n_neighbours; i++) {
        if (port->neighbours[i]->mac.len != MAC_BYTES || !netstate_is_ip(&port->neighbours[i]->ip))
            return netstate_fail(error, "an address", port->name);
    }
    for (gsize i = 0; i < port->n_macs; i++) {
        if (port->macs[i].len != MAC_BYTES)
            return netstate_fail(error, "a MAC address", port->name);
    }
    if (port->n_neighbours > PORT_NEIGHBOURS_MAX || port->n_macs > MAC_MEMBER_MAX)
        return netstate_fail(error, "the number of addresses", port->name);
    return TRUE;
}

static gboolean
netstate_check_end(const District__NetStateFlowEnd *end)
{
    return end && netstate_is_ip(&end->ip) && end->mac.len == MAC_BYTES &&
           end->port <= G_MAXUINT16 && end->window <= G_MAXUINT16 &&
           end->wscale <= TCP_WSCALE_MAX + 1;
}

static gboolean
netstate_check_flow(const District__NetStateFlow *flow, GError **error)
{
    if (!netstate_check_end(flow->inside) || !netstate_check_end(flow->far) ||
        flow->inside->ip.len != flow->far->ip.len || (guint)flow->state >= FLOW_STATES)
        return netstate_fail(error, "a flow", flow->member);
    return TRUE;
}

static gboolean
netstate_check(Switch *sw, const District__NetState *state, GError **error)
{
    if (state->version != NETSTATE_VERSION) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_STATE,
                    "network state has version %u, this district-net reads %d: use the one that "
                    "wrote it",
                    state->version, NETSTATE_VERSION);
        return FALSE;
    }
    if (state->epoch >= FRAME_COLOUR_NONE - 1 || state->n_flows > FLOWS_MAX)
        return netstate_fail(error, "the epoch or the number of flows", "any");
    for (gsize i = 0; i < state->n_ports; i++) {
        if (!switch_member(sw, state->ports[i]->name, error) ||
            !netstate_check_port(state->ports[i], error))
            return FALSE;
        if (i >= sw->n_members)
            return netstate_fail(error, "a second port", state->ports[i]->name);
    }
    for (gsize i = 0; i < state->n_flows; i++) {
        if (!switch_member(sw, state->flows[i]->member, error) ||
            !netstate_check_flow(state->flows[i], error))
            return FALSE;
    }
    return TRUE;
}

/* --- Loading --- */

static IpAddress
netstate_load_ip(const ProtobufCBinaryData *from)
{
    IpAddress ip = {.family = from->len == 4 ? 4 : 6};

    memcpy(ip.bytes, from->data, from->len);
    return ip;
}

static void
netstate_load_port(Switch *sw, const District__NetStatePort *from, guint64 epoch)
{
    Port *port = switch_member(sw, from->name, NULL);

    for (gsize i = 0; i < from->n_frames; i++) {
        /* Sent before the cut of epoch: the next cut records it again if it is still here. */
        g_autoptr(Frame) frame = frame_new(from->frames[i].data, from->frames[i].len, epoch);
        if (!frame_queue_push(&port->queue, frame))
            port->dropped++;
    }
    for (gsize i = 0; i < from->n_neighbours; i++) {
        Neighbour neighbour = {.ip = netstate_load_ip(&from->neighbours[i]->ip)};
        memcpy(neighbour.mac, from->neighbours[i]->mac.data, MAC_BYTES);
        g_array_append_val(port->neighbours, neighbour);
    }
    for (gsize i = 0; i < from->n_macs; i++)
        mac_table_learn(sw->macs, from->macs[i].data, (guint)(port - sw->ports), sw->now_ns);
}

static void
netstate_load_end(FlowEnd *end, const District__NetStateFlowEnd *from)
{
    memcpy(end->mac, from->mac.data, MAC_BYTES);
    end->seen = from->seen;
    end->acked = from->acked;
    end->fin = from->fin;
    end->snd_max = from->snd_max;
    end->last_ack = from->last_ack;
    end->window = (guint16)from->window;
    end->wscale = (gint8)((gint)from->wscale - 1);
}

static void
netstate_load_flow(Switch *sw, const District__NetStateFlow *from)
{
    const Port *port = switch_member(sw, from->member, NULL);
    FlowKey key;

    memset(&key, 0, sizeof(key));
    key.inside = netstate_load_ip(&from->inside->ip);
    key.far = netstate_load_ip(&from->far->ip);
    key.inside_port = (guint16)from->inside->port;
    key.far_port = (guint16)from->far->port;
    if (flow_table_find(sw->flows, &key))
        return;
    Flow *flow = flow_table_add(sw->flows, &key, (guint)(port - sw->ports), sw->now_ns);
    netstate_load_end(&flow->end[FLOW_INSIDE], from->inside);
    netstate_load_end(&flow->end[FLOW_FAR], from->far);
    if (from->state == DISTRICT__NET_STATE_FLOW_STATE__NET_STATE_FLOW_DEAD)
        reset_kill(sw, flow);
    else
        flow_table_set_state(sw->flows, flow, (FlowState)from->state);
}

static void
netstate_load(Switch *sw, const District__NetState *state)
{
    for (guint i = 0; i < sw->n_members; i++) {
        sw->ports[i].colour = state->epoch;
        sw->ports[i].awaited = sw->ports[i].link == NULL;
    }
    sw->epoch_begun = sw->epoch_ended = sw->epoch_committed = state->epoch;
    mac_table_forget_far(sw->macs);
    for (gsize i = 0; i < state->n_ports; i++)
        netstate_load_port(sw, state->ports[i], state->epoch);
    for (gsize i = 0; i < state->n_flows; i++)
        netstate_load_flow(sw, state->flows[i]);
}

static gboolean
netstate_check_legal(const Switch *sw, guint64 incarnation, GError **error)
{
    if (sw->restored || sw->heard || sw->epoch_begun) {
        g_set_error(
            error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
            "a state can be restored once, before members send: start another district-net");
        return FALSE;
    }
    if (incarnation < sw->incarnation) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                    "incarnation %" G_GUINT64_FORMAT " is older than %" G_GUINT64_FORMAT
                    ", which this district-net serves",
                    incarnation, sw->incarnation);
        return FALSE;
    }
    return TRUE;
}

/* Unpack and check; NULL with error set. Free with district__net_state__free_unpacked(). */
static District__NetState *
netstate_unpack(Switch *sw, const guint8 *data, gsize len, GError **error)
{
    size_t budget = len + NETSTATE_STRUCTS_BASE + len * NETSTATE_STRUCTS_FACTOR;
    District__NetState *state = NULL;

    if (len <= NETSTATE_BYTES_MAX)
        state =
            (District__NetState *)pbmsg_unpack(&district__net_state__descriptor, data, len, budget);

    if (!state) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_STATE,
                    "network state of %zu bytes damaged: use another checkpoint", len);
        return NULL;
    }
    if (!netstate_check(sw, state, error)) {
        district__net_state__free_unpacked(state, NULL);
        return NULL;
    }
    return state;
}

gboolean
switch_restore(Switch *sw, const guint8 *data, gsize len, gboolean reset_crossing,
               guint64 incarnation, GError **error)
{
    if (!netstate_check_legal(sw, incarnation, error))
        return FALSE;
    District__NetState *state = netstate_unpack(sw, data, len, error);
    if (!state)
        return FALSE;
    netstate_load(sw, state);
    sw->restored = TRUE;
    sw->incarnation = incarnation;
    if (reset_crossing) {
        reset_kill_all(sw);
        sw->undone_until_ns = sw->now_ns + FLOW_DEAD_NS;
    }
    district__net_state__free_unpacked(state, NULL);
    return TRUE;
}

gboolean
switch_reset_flows(Switch *sw, const guint8 *data, gsize len, GError **error)
{
    District__NetState *undone = netstate_unpack(sw, data, len, error);

    if (!undone)
        return FALSE;
    /* A flow of both is known already, as the restored member knows it. */
    for (gsize i = 0; i < undone->n_flows; i++)
        netstate_load_flow(sw, undone->flows[i]);
    reset_kill_all(sw);
    district__net_state__free_unpacked(undone, NULL);
    return TRUE;
}

guint8 *
switch_save_flows(Switch *sw, gsize *len)
{
    return netstate_save(sw, 0, len);
}
