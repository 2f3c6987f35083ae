/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the switch share: its state. Each part of it names the file that changes it. */
#ifndef DISTRICT_NETPROXY_SWITCH_PRIV_H
#define DISTRICT_NETPROXY_SWITCH_PRIV_H

#include "netproxy/flow.h"
#include "netproxy/mactable.h"
#include "netproxy/switch.h"

/* A port's queue: about 10 ms of a 3 Gbit/s stream. A member that is slower loses frames. */
#define PORT_QUEUE_BYTES (4 * 1024 * 1024)
#define PORT_QUEUE_FRAMES 8192
/* Held output of the district; beyond it the members are not read from. */
#define HOLD_BYTES_MAX (64 * 1024 * 1024)
/* Frames that a cut may record. With FLOWS_MAX flows the state stays below the 32 MiB that
 * district-ckpt takes. */
#define CUT_RECORDED_BYTES_MAX (8 * 1024 * 1024)
/* Addresses remembered for each member, to announce it elsewhere. */
#define PORT_NEIGHBOURS_MAX 32

/* An address of a member. */
typedef struct Neighbour {
    guint8 mac[MAC_BYTES];
    IpAddress ip;
} Neighbour;

typedef struct Port {
    char *name;
    Link *link;       /* NULL: not connected */
    gboolean awaited; /* restored, and its engine has not connected yet: frames wait for it */
    gboolean blocked; /* its descriptor takes no more for now */
    FrameQueue queue; /* to be sent to it */
    guint64 rx_frames;
    guint64 tx_frames;
    guint64 dropped;
    /* cut.c: members only */
    guint64 colour;      /* number of the last cut it has undergone */
    FrameQueue recorded; /* frames to it that the cut under way caught in flight */
    /* boundary.c: members only */
    FrameQueue hold; /* its frames to the outside whose epoch has not been committed */
    /* announce.c: members only, oldest first */
    GArray *neighbours; /* of Neighbour */
} Port;

/* The cut under way. */
typedef struct Cut {
    guint64 epoch; /* 0: none */
    gint64 deadline_ns;
} Cut;

struct Switch {
    Port *ports; /* members, then the outside */
    guint n_members;
    guint64 incarnation;
    gint64 now_ns;
    SwitchWatchFunc watch;
    void *opaque;
    MacTable *macs;
    gboolean heard; /* a member has sent something */
    gboolean restored;
    gint64 await_ns; /* when frames wait no longer for members not connected; G_MAXINT64: not set */
    /* cut.c */
    Cut cut;
    guint64 epoch_begun; /* the highest epoch that a cut was begun for */
    guint64 epoch_first; /* the first epoch whose cut was completed here; 0: none yet */
    guint64 epoch_ended; /* the highest epoch whose cut was completed */
    gsize recorded_bytes;
    /* boundary.c */
    gboolean output_commit;
    gboolean protected;
    guint64 epoch_committed;
    gsize hold_bytes;
    guint hold_frames;
    gboolean release_pending; /* released frames wait for room in the outside's queue */
    gboolean throttled;       /* members are not read from: too much output is held */
    FlowTable *flows;
    gint64 expire_ns;       /* when to look for idle flows next */
    gint64 undone_until_ns; /* until then, what is of no known flow is of a life that is undone */
    /* announce.c */
    guint announce_step;
    gint64 announce_ns; /* G_MAXINT64: nothing to announce */
    /* reset.c */
    GQueue reset_fast[2]; /* flows by side, soonest first: tried every 100 ms */
    GQueue reset_slow[2]; /* those that have not answered for 2 s: every second */
    guint64 resets_sent;
    gboolean resets_started;
};

/* switch.c */
Port *switch_member(Switch *sw, const char *name, GError **error);
/* Put a frame in port's queue, or drop it if that is full. */
void switch_enqueue(Switch *sw, Port *port, Frame *frame);
void switch_watch(Switch *sw, Port *port);
/* Read all that is in port's socket now. FALSE: it does not end. */
gboolean switch_drain(Switch *sw, Port *port, GError **error);

static inline Port *
switch_outside(Switch *sw)
{
    return &sw->ports[sw->n_members];
}

static inline gboolean
port_is_member(const Switch *sw, const Port *port)
{
    return port != &sw->ports[sw->n_members];
}

/* The side of the boundary that port is on. */
static inline FlowSide
port_side(const Switch *sw, const Port *port)
{
    return port_is_member(sw, port) ? FLOW_INSIDE : FLOW_FAR;
}

/* What comes in at port can be of an end of flow: of its member, not of another one. */
static inline gboolean
port_has_flow(const Switch *sw, const Port *port, const Flow *flow)
{
    return !port_is_member(sw, port) || port == &sw->ports[flow->port];
}

/* cut.c */
/* Frames may be sent to port now. */
gboolean cut_may_deliver(const Switch *sw, const Port *port);
/* frame was put in port's queue: record it if the cut under way has caught it in flight. */
void cut_note_queued(Switch *sw, Port *port, Frame *frame);
void cut_abandon(Switch *sw, const char *why);

/* boundary.c */
/* A member's frame for the outside. to_far: its destination is known to be there. */
void boundary_send(Switch *sw, Port *port, Frame *frame, const Packet *packet, gboolean to_far);
/* A frame from the outside; FALSE: it was of a connection that must not go on. */
gboolean boundary_receive(Switch *sw, const Packet *packet);
/* Send the held frames that may go. */
void boundary_release_all(Switch *sw);
void boundary_flow_gone(void *opaque, Flow *flow);

/* reset.c */
/* Declare a flow, or all, dead; the ends are reset once reset_start() has been called. */
void reset_kill(Switch *sw, Flow *flow);
void reset_kill_all(Switch *sw);
void reset_start(Switch *sw);
/* Answer a segment that has come in at from with a RST: there is no such connection. */
void reset_refuse(Switch *sw, Port *from, const Packet *packet);
/* A segment of a dead flow has come in at from. TRUE: it opens a new connection, let it pass. */
gboolean reset_answer(Switch *sw, Port *from, Flow *flow, const Packet *packet);
/* Whoever is at port could not be reached until now: try again at once. */
void reset_port_connected(Switch *sw, guint port);
void reset_forget(Switch *sw, Flow *flow);
void reset_tick(Switch *sw);
gint64 reset_deadline(const Switch *sw);
guint64 reset_pending(const Switch *sw);

/* announce.c */
/* Learn member addresses from what it sends. */
void announce_learn(Port *port, const Packet *packet);
void announce_tick(Switch *sw);

/* netstate.c */
guint8 *netstate_save(Switch *sw, guint64 epoch, gsize *len);

#endif
