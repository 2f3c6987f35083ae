/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Client of a child's control socket (ckpt.proto, standby.proto) on the main loop: requests with
 * replies in any order, and events. It connects by itself as soon as the socket is there and again
 * after the server was restarted; requests made before wait for the connection, each with its time
 * limit. Main thread only; never blocks.
 */
#ifndef DISTRICT_CONTROL_RPC_H
#define DISTRICT_CONTROL_RPC_H

#include <glib.h>
#include <protobuf-c/protobuf-c.h>

typedef struct Rpc Rpc;

typedef struct RpcProtocol {
    const ProtobufCMessageDescriptor *message; /* what the server sends */
    /* TRUE if message is a reply: its id and error text. FALSE: it is an event. */
    gboolean (*is_reply)(const ProtobufCMessage *message, guint64 *id, const char **error);
    /* Set the id of a request. */
    void (*set_id)(ProtobufCMessage *request, guint64 id);
} RpcProtocol;

extern const RpcProtocol rpc_ckpt_protocol;
extern const RpcProtocol rpc_standby_protocol;

/*
 * The reply, or NULL and error. Descriptors that the callee sets to -1 are its own from then on;
 * the others are closed. The message is freed afterwards.
 */
typedef void (*RpcReply)(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                         gpointer data);
typedef RpcReply RpcEvent;

/* name: for messages ("shop: district-ckpt"). event may get events at any time until rpc_free. */
Rpc *rpc_new(const RpcProtocol *protocol, const char *path, const char *name, RpcEvent event,
             gpointer data);

/* reply may be NULL. It is called exactly once, never from inside this call. */
void rpc_call(Rpc *rpc, ProtobufCMessage *request, const int *fds, guint n_fds, int timeout_ms,
              RpcReply reply, gpointer data);

/* Outstanding requests are answered with an error before this returns. */
void rpc_free(Rpc *rpc);

#endif
