/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Server of the member protocol (common/proto/member.proto, docs/protocol.md): how district-ckpt
 * harvests, pauses, saves and restores this guest. Runs on the main thread.
 */
#ifndef DISTRICT_VMM_MEMBER_SERVER_H
#define DISTRICT_VMM_MEMBER_SERVER_H

#include "vmm/disks.h"
#include "vmm/machine_priv.h"

typedef struct MemberServer MemberServer;

/* What a guest reset hands from one life of the process to the next; fds -1: not there. */
typedef struct MemberHandover {
    int ram;
    int bitmap;
    int state;
    int listen;
    int client;
    int stir;
    /* A PAUSE that met the reset, to be answered when the guest has been booted anew. */
    bool pause_waits;
    bool pause_save;
    bool pause_hold;
    uint64_t pause_id;
} MemberHandover;
#define MEMBER_HANDOVER_NONE                                                                       \
    ((MemberHandover){.ram = -1, .bitmap = -1, .state = -1, .listen = -1, .client = -1, .stir = -1})

typedef struct MemberServerHooks {
    void (*quit)(void *opaque);               /* QUIT was asked for and answered */
    void (*shutdown_seen)(void *opaque);      /* the guest is off, and the client has gone */
    const char *(*serial_path)(void *opaque); /* pty of the console or NULL */
    void *opaque;
} MemberServerHooks;

/* Listen at path, or go on with what is in inherited. disks stay the caller's. */
MemberServer *member_server_new(Machine *m, const Disks *disks, const char *path,
                                const MemberHandover *inherited, const MemberServerHooks *hooks,
                                GError **error);

bool member_server_has_client(const MemberServer *server);

/* What to hand over; the fds stay the server's. */
MemberHandover member_server_handover(const MemberServer *server);

/* Answer what a reset has left unanswered: the machine runs, or has waited too long for it. */
void member_server_go_on(MemberServer *server);

/* Remove the socket file. ended: the guest is off, or is wanted no more; for who was not there to see
 * the exit status, PATH.ended tells that. */
void member_server_close(MemberServer *server, bool ended);

#endif
