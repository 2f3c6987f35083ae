/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The coordinator of one district: the thread that cuts epochs, sends them to their sinks, and
 * answers the control client. coordinator.c has the theory of operation.
 */
#ifndef DISTRICT_CKPT_COORDINATOR_H
#define DISTRICT_CKPT_COORDINATOR_H

#include "ckpt/control-server.h"
#include "ckpt/inbox.h"
#include "ckpt/persist.h"

#include <glib.h>
#include <stdbool.h>

/* Of a district that runs a checkpoint of another one, and saves none. */
typedef struct CloneConfig {
    const char *of;          /* the other one; NULL: this is no clone */
    const char *store;       /* the other one's, only read */
    const char *overlay_dir; /* for the overlays of its disks */
    uint64_t id; /* of the checkpoint; 0: StartStore says so, and nobody else needs it */
} CloneConfig;

typedef struct CoordinatorConfig {
    const char *district;
    const char *host;       /* this host's name, for HELLO */
    const char *pki_dir;    /* NULL: Protect is refused */
    const char *definition; /* text of the .district file */
    const char *net_path;   /* NULL: the district has no network */
    uint64_t incarnation;
    PersistConfig persist; /* without a directory at a clone */
    CloneConfig clone;
    uint64_t disk_sync_rate;  /* bytes per second; 0: no limit */
    uint64_t delta_cache;     /* bytes of pages that deltas are made against; 0: no deltas */
    uint64_t load_rate;       /* bytes per second of RAM that nobody waits for; 0: no limit */
    const char *numbers_path; /* where taken epoch numbers are noted */
    char **member_names;      /* NULL-terminated; in parallel with: */
    char **member_paths;
    char **journal_paths; /* of members that are off, NULL elsewhere; n_members long */
} CoordinatorConfig;

typedef struct Coordinator Coordinator;

/* Connect to members and district-net (retrying for connect_ms). Strings are copied. */
Coordinator *coordinator_new(const CoordinatorConfig *config, Inbox *inbox, int connect_ms,
                             GError **error);

/* Run until Quit; on its own thread. loop is told to quit at the end. */
void coordinator_start(Coordinator *coordinator, ControlServer *control, GMainLoop *loop);
/* Wait for its end and free it. False: a sink is still busy with a dead connection; leave at once.
 */
bool coordinator_join(Coordinator *coordinator);

#endif
