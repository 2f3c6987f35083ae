/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A district-vmm process and a client of its member socket, for tests. */
#ifndef DISTRICT_TESTS_VM_MEMBER_RIG_H
#define DISTRICT_TESTS_VM_MEMBER_RIG_H

#include "member.pb-c.h"

#include <glib.h>
#include <stdint.h>

#define RIG_RAM_TEXT "32M"
#define RIG_RAM (32ULL << 20)
#define RIG_DISKS_MAX 8

typedef struct Rig {
    GPid pid;
    char *directory;
    char *socket;
    char *debugcon;
    int client;
    int bitmap_fd;
    int state_fd;
    int ram_fd;
    uint64_t *bitmap;
    uint8_t *state;
    int lazy_fd; /* userfaultfd of its RAM, -1: it has not been passed */
    uint64_t lazy_address;
    uint64_t next_id;
    /* Disks as of HELLO; for those with an overlay, in order, its files and the last cut. */
    guint n_disks;
    char *home[RIG_DISKS_MAX];
    uint64_t disk_size[RIG_DISKS_MAX];
    guint n_disk_fds;
    int disk_fds[2 * RIG_DISKS_MAX];
    guint n_cuts;
    uint64_t cut[RIG_DISKS_MAX], index_end[RIG_DISKS_MAX];
} Rig;

/* Start program with --member-socket, --debugcon and extra options (NULL-terminated). */
Rig *rig_start(const char *program, const char *const *extra);
/* Connect and say HELLO. */
void rig_connect(Rig *rig);
void rig_disconnect(Rig *rig);
/* One request and its reply; fails the test if there is none. Free with free_unpacked. */
District__MemberReply *rig_call(Rig *rig, District__MemberRequest *request, const int *fds,
                                guint n_fds);
/* Calls that must work. */
void rig_resume(Rig *rig);
uint64_t rig_pause(Rig *rig, gboolean save); /* length of the state */
uint64_t rig_pause_held(Rig *rig, gboolean save, gboolean hold);
District__MemberState rig_state(Rig *rig);
/* Restore on ram_fd with the state that is at the start of the state memfd. */
void rig_restore_disks(Rig *rig, int ram_fd, uint64_t state_len, const int *disk_fds,
                       guint n_disk_fds, const uint64_t *entries);
/* One note, for all disks with an overlay of which there are n; the error, "" if there is none. */
char *rig_disks(Rig *rig, guint n, uint64_t released_below, uint64_t home_below, gboolean resend);
/* Wait for the end of the process; its exit status. */
int rig_wait_exit(Rig *rig);
char *rig_debugcon(Rig *rig);
/* Bytes of debug console output so far. */
gsize rig_output(Rig *rig);
void rig_free(Rig *rig);

#endif
