/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A switch with a test at the other end of every port. */
#ifndef DISTRICT_TESTS_NETPROXY_WIRE_H
#define DISTRICT_TESTS_NETPROXY_WIRE_H

#include "netproxy/switch.h"

#define WIRE_PORTS_MAX 8

/* Reads frames from a stream, keeping what is not complete. */
typedef struct WireReader {
    int fd;
    gsize len;
    guint8 buf[512 * 1024];
} WireReader;

typedef struct Wire {
    Switch *sw;
    guint n_ports; /* with the outside, the last one */
    gint64 now_ns;
    int fds[WIRE_PORTS_MAX]; /* the test's ends */
    WireReader *readers[WIRE_PORTS_MAX];
} Wire;

/* A switch with members "a", "b", ... and an outside; all connected unless asked otherwise. */
Wire *wire_new(guint n_members, gboolean connect);
void wire_free(Wire *wire);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Wire, wire_free)

/* Connect (again) port with small socket buffers if snd_bytes is not 0. */
void wire_connect(Wire *wire, guint port, int snd_bytes);

/* Let the switch read everything that was sent, and send everything it may. */
void wire_pump(Wire *wire);
/* Let time pass. */
void wire_wait(Wire *wire, gint64 ns);

/* Make a test frame: destination and source MAC from port numbers (255: broadcast), type, number.
 */
#define WIRE_BROADCAST 255
gsize wire_make(guint8 *out, guint to, guint from, guint32 number, gsize len);
/* The number in a test frame. */
guint32 wire_number(const guint8 *frame);

/* Send one frame from port; fails the test if the socket does not take it. */
void wire_send(Wire *wire, guint port, const guint8 *frame, gsize len);
/* Send a test frame of 60 bytes. */
void wire_send_number(Wire *wire, guint port, guint to, guint32 number);

/* The next whole frame that has arrived at the test's end of port, or NULL. Valid until the next.
 */
const guint8 *wire_receive(Wire *wire, guint port, gsize *len);
/* The number of the next frame at port, or 0 if there is none. */
guint32 wire_receive_number(Wire *wire, guint port);

/* A TCP segment between two ports, 10.0.0.PORT + 1, MACs as above. */
gsize wire_make_tcp(guint8 *out, guint to, guint from, guint8 flags, guint32 seq, guint32 ack);

/* A whole cut of epoch: all members, in order. The state is the caller's to free. */
guint8 *wire_cut(Wire *wire, guint64 epoch, gsize *len);

/* Counters of port. */
District__NetPortStats wire_port_stats(Wire *wire, guint port);

#endif
