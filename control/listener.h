/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one TCP port of a host: reads the preamble of each connection (common/tls.h) within a time
 * limit and hands the connection on by kind. Main thread only.
 */
#ifndef DISTRICT_CONTROL_LISTENER_H
#define DISTRICT_CONTROL_LISTENER_H

#include <glib.h>
#include <stdint.h>

/* Most connections whose preamble has not been read yet; more wait in the kernel. */
#define LISTENER_HALF_OPEN_MAX 64
#define LISTENER_PREAMBLE_MS 3000

typedef struct Listener Listener;

/* A connection of kind ("control", "stream", "join", or unknown) has come; fd ownership passes. */
typedef void (*ListenerRoute)(int fd, const char *kind, const char *district, const char *from,
                              gpointer data);

Listener *listener_new(const char *address, uint16_t port, ListenerRoute route, gpointer data,
                       GError **error);
void listener_free(Listener *listener);

#endif
