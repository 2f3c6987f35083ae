/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Server of the member protocol (common/proto/member.proto, docs/protocol.md): how district-ckpt
 * harvests, pauses, saves and restores this guest. Runs on the main thread.
 */
#ifndef DISTRICT_VMM_MEMBER_SERVER_H
#define DISTRICT_VMM_MEMBER_SERVER_H

#include "vmm/machine_priv.h"

typedef struct MemberServer MemberServer;

/* What a guest reset hands from one life of the process to the next; -1: not there. */
typedef struct MemberFds {
    int ram;
    int bitmap;
    int state;
    int listen;
    int client;
} MemberFds;
#define MEMBER_FDS_NONE ((MemberFds){-1, -1, -1, -1, -1})

typedef struct MemberServerHooks {
    void (*quit)(void *opaque);          /* QUIT was asked for and answered */
    void (*shutdown_seen)(void *opaque); /* the client knows that the guest is gone, or has gone */
    const char *(*serial_path)(void *opaque); /* pty of the console or NULL */
    void *opaque;
} MemberServerHooks;

/* Listen at path, or go on with what is in inherited. */
MemberServer *
member_server_new(Machine *m, const char *path, const MemberFds *inherited,
                  const MemberServerHooks *hooks, GError **error);

bool
member_server_has_client(const MemberServer *server);

/* The fds to hand over; they stay the server's. */
MemberFds
member_server_fds(const MemberServer *server);

/* Remove the socket file. */
void
member_server_close(MemberServer *server);

#endif
