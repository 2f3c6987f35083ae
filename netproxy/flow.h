/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flow table: TCP connections that cross the boundary, followed from the segments that pass.
 *
 * It need not be exact. Both ends are told apart as inside (a member) and far (outside); of each is
 * kept what a reset needs: its link-layer address, the end of what it has sent, and what it has
 * acknowledged. A connection whose SYN was not seen is picked up in the middle.
 *
 * The table is bounded. Each port may have an equal share of it, so that a member which opens, or
 * is sent, too many connections loses its own oldest ones: closed before half open before open. A
 * connection that has fallen out is reset at a rollback only when one of its ends next speaks.
 */
#ifndef DISTRICT_NETPROXY_FLOW_H
#define DISTRICT_NETPROXY_FLOW_H

#include "netproxy/packet.h"

#define FLOWS_MAX 65536
/* How long a dead flow is kept after its last segment: longer than a Linux peer retransmits. */
#define FLOW_DEAD_NS (1200 * NS_PER_S)

typedef enum {
    FLOW_OPENING, /* a SYN has passed, the handshake is not complete */
    FLOW_OPEN,
    FLOW_CLOSED, /* FINs of both ends or a RST that counts have passed */
    FLOW_DEAD,   /* of a life that was rolled back: nothing of it passes any more */
} FlowState;
#define FLOW_STATES 4

/* How far an end of a dead flow has been reset; reset.h. */
typedef enum {
    FLOW_RESET_NONE,
    FLOW_RESET_PROBING,    /* no answer yet */
    FLOW_RESET_CONFIRMING, /* it answered and was sent its exact RST; seeing that it took it */
    FLOW_RESET_DONE,
} FlowReset;

typedef enum { FLOW_INSIDE, FLOW_FAR } FlowSide;

typedef struct FlowKey {
    IpAddress inside;
    IpAddress far;
    guint16 inside_port;
    guint16 far_port;
} FlowKey;

/* One end, as its own segments show it. Sequence numbers are modulo 2^32, RFC 9293 §3.4. */
typedef struct FlowEnd {
    guint8 mac[MAC_BYTES]; /* zero: not known */
    gboolean seen;         /* it has sent something: snd_max and window are valid */
    gboolean acked;        /* it has sent an ACK: last_ack is valid */
    gboolean fin;
    guint32 snd_max;  /* one past the last sequence number it has sent */
    guint32 last_ack; /* the highest acknowledgement it has sent: at most its RCV.NXT */
    guint16 window;   /* as last sent, unscaled */
    gint8 wscale;     /* of its SYN; TCP_WSCALE_NONE */
} FlowEnd;

typedef struct Flow {
    FlowKey key; /* all bytes of it are set: hashed as memory */
    FlowState state;
    guint port; /* index of the member's port */
    FlowEnd end[2];
    gint64 touched_ns; /* CLOCK_MONOTONIC of the last segment */
    /* as it was when its member was cut for epoch; valid during that cut only */
    struct {
        guint64 epoch;
        FlowState state;
        FlowEnd end[2];
    } at_cut;
    GList lru; /* in its port's list of its state; newest first */
    /* owned by reset.c */
    FlowReset reset[2];
    guint reset_tries[2];
    gint64 reset_due_ns[2];
    GList reset_link[2];
} Flow;

typedef struct FlowTable FlowTable;
/* Called before a flow is freed. */
typedef void (*FlowGoneFunc)(void *opaque, Flow *flow);

FlowTable *flow_table_new(guint n_ports, FlowGoneFunc gone, void *opaque);
void flow_table_free(FlowTable *table);

/* Key of a segment that side has sent. */
void flow_key_init(FlowKey *key, const Packet *packet, FlowSide sender);

Flow *flow_table_find(FlowTable *table, const FlowKey *key);
/* A new flow in state OPENING; key must not be in the table. May drop an older flow of port. */
Flow *flow_table_add(FlowTable *table, const FlowKey *key, guint port, gint64 now_ns);
void flow_table_remove(FlowTable *table, Flow *flow);
void flow_table_set_state(FlowTable *table, Flow *flow, FlowState state);

/* Take in a segment that sender has sent; flow is not DEAD, or the segment is a SYN without ACK. */
void flow_table_update(FlowTable *table, Flow *flow, const Packet *packet, FlowSide sender,
                       gint64 now_ns);

/* Drop what has been idle too long for its state. */
void flow_table_expire(FlowTable *table, gint64 now_ns);

guint flow_table_count(const FlowTable *table);
/* Flows that are not dead. */
guint flow_table_count_live(const FlowTable *table);
/* func must not change the table. */
void flow_table_foreach(FlowTable *table, GFunc func, gpointer user_data);

#endif
