/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One control connection between two hosts' districtd: JSON lines over mutual TLS, with heartbeats
 * both ways every HOSTLINK_BEAT_MS.
 *
 * Each link has a thread of its own that does all I/O, so neither a slow handshake nor a dead peer
 * ever holds up the main loop, and a busy main loop does not look like a dead host. Everything here
 * is called on the main thread, and callbacks come on it.
 */
#ifndef DISTRICT_CONTROL_HOSTLINK_H
#define DISTRICT_CONTROL_HOSTLINK_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdint.h>

#define HOSTLINK_BEAT_MS 200
/* A link that has been silent for this long is closed (and dialled again by the side that dials).
 */
#define HOSTLINK_SILENCE_MS 2000
#define HOSTLINK_HANDSHAKE_MS 5000

typedef struct HostLink HostLink;

typedef struct HostLinkOps {
    /* The handshake is done; peer is the name in the certificate. May close the link. */
    void (*up)(HostLink *link, const char *peer, gpointer data);
    void (*message)(HostLink *link, JsonObject *message, gpointer data);
    /* The connection ended. A dialling link tries again by itself; an accepted one is over. */
    void (*down)(HostLink *link, const char *why, gpointer data);
} HostLinkOps;

/* Keep a connection to peer at address:port. The certificates are read anew at each attempt. */
HostLink *hostlink_dial(const char *pki_dir, const char *peer, const char *address, uint16_t port,
                        const HostLinkOps *ops, gpointer data);

/* Serve an accepted connection whose preamble has been consumed (fd ownership passes). */
HostLink *hostlink_accept(const char *pki_dir, int fd, const HostLinkOps *ops, gpointer data);

/* From now on ops and data are these (in the up callback of an accepted link). */
void hostlink_set_ops(HostLink *link, const HostLinkOps *ops, gpointer data);

/* Queue one message. Dropped if the link is down. */
void hostlink_send(HostLink *link, JsonObject *message);

gboolean hostlink_is_up(HostLink *link);

/* CLOCK_MONOTONIC time at which the peer was last heard; 0 never. */
int64_t hostlink_heard_ns(HostLink *link);

/* Address of the peer of an accepted link as text; owned by the link; NULL for a dialling one. */
const char *hostlink_remote_address(HostLink *link);

/* End the link: no callback comes after this. The thread ends soon, by itself. */
void hostlink_close(HostLink *link);

#endif
