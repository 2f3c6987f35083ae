/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-standby's main object: what state it is in, its streams, and the requests of districtd.
 *
 *   EMPTY --first commit, adopt--> HOLDING --activate--> HANDING --> HANDED
 *                                     ^---- could not ----'            |
 *                                     '---- a newer incarnation -------'
 */
#ifndef DISTRICT_STANDBY_STANDBY_H
#define DISTRICT_STANDBY_STANDBY_H

#include "common/tls.h"

typedef enum {
    STANDBY_EMPTY,   /* nothing is committed */
    STANDBY_HOLDING, /* something can be failed over to */
    STANDBY_HANDING, /* activation is under way */
    STANDBY_HANDED,  /* activated: older incarnations are turned away; can be activated again until
                        its members have run */
    STANDBY_N_PHASES,
} StandbyPhase;

typedef struct Standby Standby;

/* Serve district name on control socket path, as host. disk_dir: where disks go, NULL: nowhere. loop
 * is quit on request. NULL with error set. identity outlives the standby. */
Standby *standby_new(const char *name, const char *host, const char *control_path,
                     const char *disk_dir, TlsIdentity *identity, GMainLoop *loop, GError **error);
void standby_free(Standby *standby);

#endif
