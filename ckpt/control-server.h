/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Control server (common/proto/ckpt.proto): one client, districtd, which may die and come back. It
 * runs on the GLib main loop; requests go to the coordinator's inbox, replies and events come back
 * from the coordinator thread.
 */
#ifndef DISTRICT_CKPT_CONTROL_SERVER_H
#define DISTRICT_CKPT_CONTROL_SERVER_H

#include "ckpt.pb-c.h"
#include "ckpt/inbox.h"

typedef struct ControlServer ControlServer;

typedef struct ControlRequest {
    ControlServer *server;
    uint64_t client; /* which connection it came from */
    District__CkptRequest *message;
    int *fds; /* owned; an entry taken over is set to -1 */
    guint n_fds;
} ControlRequest;

/* Listen on path. Requests are posted to inbox as INBOX_CONTROL. NULL with error set. */
ControlServer *control_server_new(const char *path, Inbox *inbox, GError **error);

/*
 * Send reply (its id is filled in) and free request. Any thread. A client that has gone meanwhile
 * gets nothing.
 */
void control_request_reply(ControlRequest *request, District__CkptReply *reply);
/* The same with an error (formatted), or for success without content. */
void control_request_error(ControlRequest *request, const char *format, ...) G_GNUC_PRINTF(2, 3);
void control_request_ok(ControlRequest *request);

/* Send an event to the client there is now, if any. Any thread. */
void control_server_event(ControlServer *server, const District__CkptEvent *event);

/* Send what is queued, close, free. On the main loop's thread, when nobody uses it any more. */
void control_server_free(ControlServer *server);

#endif
