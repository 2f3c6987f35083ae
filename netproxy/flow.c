/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flow table. */
#include "netproxy/flow.h"

#include "common/clock.h"

#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

/* Idle time after which a flow is forgotten. Open ones stay until room is needed. */
static const gint64 flow_idle_ns[FLOW_STATES] = {
    [FLOW_OPENING] = 120 * NS_PER_S,
    [FLOW_OPEN] = G_MAXINT64,
    [FLOW_CLOSED] = 60 * NS_PER_S,
    [FLOW_DEAD] = FLOW_DEAD_NS,
};

/* Which flow of a port goes first when there is no room. */
static const FlowState flow_evict_order[FLOW_STATES] = {FLOW_CLOSED, FLOW_OPENING, FLOW_DEAD,
                                                        FLOW_OPEN};

typedef struct FlowPort {
    GQueue lru[FLOW_STATES];
} FlowPort;

struct FlowTable {
    GHashTable *flows; /* FlowKey in the Flow -> Flow, owned */
    guint n_ports;
    guint share; /* flows a port may have */
    FlowPort *ports;
    FlowGoneFunc gone;
    void *opaque;
};

/* Keys come from strangers: without a secret they could be chosen to collide. */
static guint
flow_key_hash(gconstpointer key)
{
    static guint64 seed;

    if (seed == 0 && getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = (guint64)g_get_real_time();
    return (guint)XXH3_64bits_withSeed(key, sizeof(FlowKey), seed);
}

static gboolean
flow_key_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(FlowKey)) == 0;
}

FlowTable *
flow_table_new(guint n_ports, FlowGoneFunc gone, void *opaque)
{
    FlowTable *table = g_new0(FlowTable, 1);

    table->flows = g_hash_table_new(flow_key_hash, flow_key_equal);
    table->n_ports = n_ports;
    table->share = FLOWS_MAX / MAX(n_ports, 1);
    table->ports = g_new0(FlowPort, n_ports);
    table->gone = gone;
    table->opaque = opaque;
    return table;
}

void
flow_table_free(FlowTable *table)
{
    for (guint i = 0; i < table->n_ports; i++) {
        for (guint state = 0; state < FLOW_STATES; state++) {
            while (table->ports[i].lru[state].head)
                flow_table_remove(table, table->ports[i].lru[state].head->data);
        }
    }
    g_hash_table_destroy(table->flows);
    g_free(table->ports);
    g_free(table);
}

void
flow_key_init(FlowKey *key, const Packet *packet, FlowSide sender)
{
    gboolean out = sender == FLOW_INSIDE;

    memset(key, 0, sizeof(*key));
    key->inside = out ? packet->src : packet->dst;
    key->far = out ? packet->dst : packet->src;
    key->inside_port = out ? packet->src_port : packet->dst_port;
    key->far_port = out ? packet->dst_port : packet->src_port;
}

Flow *
flow_table_find(FlowTable *table, const FlowKey *key)
{
    return g_hash_table_lookup(table->flows, key);
}

static GQueue *
flow_lru(FlowTable *table, const Flow *flow)
{
    return &table->ports[flow->port].lru[flow->state];
}

void
flow_table_remove(FlowTable *table, Flow *flow)
{
    if (table->gone)
        table->gone(table->opaque, flow);
    g_queue_unlink(flow_lru(table, flow), &flow->lru);
    g_hash_table_remove(table->flows, &flow->key);
    g_free(flow);
}

static guint
flow_port_count(const FlowPort *port)
{
    guint n = 0;

    for (guint state = 0; state < FLOW_STATES; state++)
        n += port->lru[state].length;
    return n;
}

static void
flow_port_make_room(FlowTable *table, FlowPort *port)
{
    if (flow_port_count(port) < table->share)
        return;
    for (guint i = 0; i < FLOW_STATES; i++) {
        GQueue *lru = &port->lru[flow_evict_order[i]];
        if (lru->tail) {
            flow_table_remove(table, lru->tail->data);
            return;
        }
    }
}

static void
flow_end_init(FlowEnd *end)
{
    *end = (FlowEnd){.wscale = TCP_WSCALE_NONE};
}

Flow *
flow_table_add(FlowTable *table, const FlowKey *key, guint port, gint64 now_ns)
{
    flow_port_make_room(table, &table->ports[port]);

    Flow *flow = g_new0(Flow, 1);
    flow->key = *key;
    flow->port = port;
    flow->touched_ns = now_ns;
    flow->lru.data = flow;
    flow_end_init(&flow->end[FLOW_INSIDE]);
    flow_end_init(&flow->end[FLOW_FAR]);
    for (guint side = 0; side < 2; side++)
        flow->reset_link[side].data = flow;
    g_hash_table_insert(table->flows, &flow->key, flow);
    g_queue_push_head_link(flow_lru(table, flow), &flow->lru);
    return flow;
}

void
flow_table_set_state(FlowTable *table, Flow *flow, FlowState state)
{
    g_queue_unlink(flow_lru(table, flow), &flow->lru);
    flow->state = state;
    g_queue_push_head_link(flow_lru(table, flow), &flow->lru);
}

/* a comes after b in sequence space, RFC 9293 §3.4. */
static gboolean
seq_after(guint32 a, guint32 b)
{
    return (gint32)(a - b) > 0;
}

static void
flow_end_update(FlowEnd *end, const Packet *packet)
{
    guint32 snd_end = packet->seq + packet->seq_len;

    memcpy(end->mac, packet->src_mac, MAC_BYTES);
    if (!end->seen || seq_after(snd_end, end->snd_max))
        end->snd_max = snd_end;
    end->seen = TRUE;
    end->window = packet->window;
    if (packet->flags & TCP_SYN)
        end->wscale = packet->wscale;
    if (packet->flags & TCP_FIN)
        end->fin = TRUE;
    if ((packet->flags & TCP_ACK) && (!end->acked || seq_after(packet->ack, end->last_ack))) {
        end->acked = TRUE;
        end->last_ack = packet->ack;
    }
}

/* A SYN that is not the retransmission of the one that made this flow: a new connection. */
static gboolean
flow_is_reopened(const Flow *flow, const Packet *packet, FlowSide sender)
{
    if (!packet_opens(packet))
        return FALSE;
    return flow->state != FLOW_OPENING || !flow->end[sender].seen ||
           flow->end[sender].snd_max != packet->seq + packet->seq_len;
}

/* A RST that its receiver may obey: it is of what the sender has sent and the receiver not yet
 * acknowledged. Anybody outside can send others (RFC 5961 §3). */
static gboolean
flow_is_aborted(const Flow *flow, const Packet *packet, FlowSide sender)
{
    const FlowEnd *from = &flow->end[sender], *to = &flow->end[!sender];

    return !from->seen || !to->acked || packet->seq - to->last_ack <= from->snd_max - to->last_ack;
}

static FlowState
flow_next_state(const Flow *flow, const Packet *packet, FlowSide sender)
{
    if (packet->flags & TCP_RST)
        return flow_is_aborted(flow, packet, sender) ? FLOW_CLOSED : flow->state;
    if (flow->end[FLOW_INSIDE].fin && flow->end[FLOW_FAR].fin)
        return FLOW_CLOSED;
    if (packet->flags & TCP_SYN)
        return flow->state == FLOW_CLOSED ? FLOW_OPENING : flow->state;
    return FLOW_OPEN;
}

void
flow_table_update(FlowTable *table, Flow *flow, const Packet *packet, FlowSide sender,
                  gint64 now_ns)
{
    if (flow_is_reopened(flow, packet, sender)) {
        flow_end_init(&flow->end[FLOW_INSIDE]);
        flow_end_init(&flow->end[FLOW_FAR]);
        flow_table_set_state(table, flow, FLOW_OPENING);
    }
    FlowEnd *other = &flow->end[!sender];
    if (!other->seen)
        memcpy(other->mac, packet->dst_mac, MAC_BYTES);
    /* The numbers of a RST are the answer to something, not the sender's own. */
    if (!(packet->flags & TCP_RST))
        flow_end_update(&flow->end[sender], packet);
    flow->touched_ns = now_ns;
    flow_table_set_state(table, flow, flow_next_state(flow, packet, sender));
}

void
flow_table_expire(FlowTable *table, gint64 now_ns)
{
    for (guint i = 0; i < table->n_ports; i++) {
        for (guint state = 0; state < FLOW_STATES; state++) {
            GQueue *lru = &table->ports[i].lru[state];
            while (lru->tail) {
                Flow *flow = lru->tail->data;
                if (now_ns - flow->touched_ns < flow_idle_ns[state])
                    break;
                flow_table_remove(table, flow);
            }
        }
    }
}

guint
flow_table_count(const FlowTable *table)
{
    return g_hash_table_size(table->flows);
}

guint
flow_table_count_live(const FlowTable *table)
{
    guint dead = 0;

    for (guint i = 0; i < table->n_ports; i++)
        dead += table->ports[i].lru[FLOW_DEAD].length;
    return flow_table_count(table) - dead;
}

void
flow_table_foreach(FlowTable *table, GFunc func, gpointer user_data)
{
    for (guint i = 0; i < table->n_ports; i++) {
        for (guint state = 0; state < FLOW_STATES; state++) {
            for (GList *l = table->ports[i].lru[state].tail; l; l = l->prev)
                func(l->data, user_data);
        }
    }
}
