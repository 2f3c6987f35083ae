/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A districtd without its loop and sockets, in a directory of its own: host "h1", home to the district
 * "shop" of incarnation 3, which does not run. Other hosts are real peers that cannot be reached.
 */
#ifndef DISTRICT_TESTS_CONTROL_RIG_H
#define DISTRICT_TESTS_CONTROL_RIG_H

#include "control/daemon.h"

#define RIG_UUID "0b2d3c4e-5f60-4718-8293-a4b5c6d7e8f9"
#define RIG_DEFINITION "[District]\nName=shop\n[Member db]\nKernel=/dev/null\nMemory=2M\n"

typedef struct Rig {
    char *dir; /* also where programs are looked for */
    Config config;
    Daemon daemon;
    District *district;
} Rig;

/* For g_test_add. */
void rig_set_up(Rig *rig, gconstpointer data);
void rig_tear_down(Rig *rig, gconstpointer data);
Peer *rig_add_peer(Rig *rig, const char *name);
/* What district-ckpt is for it: a script. */
void rig_fake_ckpt(Rig *rig, const char *script);

#endif
