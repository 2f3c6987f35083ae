/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control socket: one client, districtd. It may die and come back: a new client replaces the
 * one before. Requests are read on the main thread; messages may be sent from any.
 */
#ifndef DISTRICT_STANDBY_CONTROL_H
#define DISTRICT_STANDBY_CONTROL_H

#include "standby.pb-c.h"

#include <glib.h>

typedef struct Control Control;

typedef struct ControlOps {
    /* A client has come. */
    void (*connected)(void *opaque);
    /* A request. Descriptors left in fds are closed afterwards; set those kept to -1. */
    void (*request)(void *opaque, const District__StandbyRequest *request, int *fds, guint n_fds);
} ControlOps;

/* Listen on path. NULL with error set. */
Control *control_new(const char *path, const ControlOps *ops, void *opaque, GError **error);
void control_free(Control *control);

/* Send to the client, waiting a second at most; one that takes nothing is cut off. FALSE if there
 * is no client or it is cut off. Any thread. */
gboolean control_send(Control *control, const District__StandbyMessage *message, const int *fds,
                      guint n_fds);

/* The same for an event. text may be NULL. */
gboolean control_send_event(Control *control, District__StandbyEventKind kind, const char *text,
                            uint64_t epoch, uint64_t incarnation, const int *fds, guint n_fds);

#endif
