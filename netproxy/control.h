/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control server: common/proto/net.proto, request by request. */
#ifndef DISTRICT_NETPROXY_CONTROL_H
#define DISTRICT_NETPROXY_CONTROL_H

#include "netproxy/switch.h"

/* Most clients at a time; a further one is turned away. */
#define CONTROL_CLIENTS_MAX 16
/* Most descriptors with one request. */
#define CONTROL_FDS_MAX 1

/* Which client began the cut under way: if that one goes, so does the cut. */
typedef struct Control {
    Switch *sw;
    int cutter;             /* client number, -1: none */
    gint64 urgent_until_ns; /* CLOCK_MONOTONIC; 0: it is not (common/urgent.h) */
    GBytes *undone;         /* the life before, by its switch_save_flows(); NULL: not known */
} Control;

/*
 * Carry out request of client (its number) with the descriptors that came along (they stay the
 * caller's) and fill reply. *reply_fd: a descriptor to send with it, the caller's to close, or -1.
 * Free the reply's contents with control_reply_clear().
 */
void control_handle(Control *control, int client, const District__NetRequest *request,
                    const int *fds, guint n_fds, District__NetReply *reply, int *reply_fd);
void control_reply_clear(District__NetReply *reply);

/*
 * Call in each round of the event loop: in a cut, members stand still until this thread has answered,
 * so it is urgent. Not for long, as it also forwards what other members send.
 */
void control_tick(Control *control, gint64 now_ns);

/* client has gone. */
void control_client_gone(Control *control, int client);

#endif
