/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A whole district-ckpt between fake members and a fake standby, driven as districtd would. */
#ifndef DISTRICT_TESTS_CKPT_RIG_H
#define DISTRICT_TESTS_CKPT_RIG_H

#include "ckpt.pb-c.h"
#include "fake-member.h"
#include "fake-net.h"
#include "fake-standby.h"

#include <gio/gio.h>

#define RIG_MEMBERS_MAX 4

typedef struct Rig {
    char *dir;
    char *pki;
    guint n_members;
    FakeMember *members[RIG_MEMBERS_MAX];
    bool off[RIG_MEMBERS_MAX]; /* the next district-ckpt is told that it is */
    FakeStandby *standby;
    FakeNet *net;   /* NULL: a district without network */
    char **options; /* more of district-ckpt, owned; NULL: none */
    GSubprocess *process;
    int control;
    uint64_t last_id;
    GArray *events;             /* of District__CkptEventKind, in order of arrival */
    uint64_t event_incarnation; /* of the last one */
} Rig;

/* Fake members, all alike or each by its own configuration, and a fake standby. */
Rig *rig_new(guint n_members, const FakeMemberConfig *like);
Rig *rig_new_mixed(guint n_members, const FakeMemberConfig *each);
/* Give it a network, before it runs. */
void rig_add_net(Rig *rig);
/* Start district-ckpt (path in the environment, DISTRICT_CKPT) and connect to it. */
void rig_run(Rig *rig);
void rig_connect(Rig *rig);
/* Kill district-ckpt without warning. */
void rig_kill(Rig *rig);
/* Quit, and clean up. */
void rig_free(Rig *rig);

/* Wait for the reply to any request. */
District__CkptReply *rig_receive_any(Rig *rig, int timeout_ms);

/* Send a request (id is filled in) and wait for its reply; free it with free_unpacked. */
District__CkptReply *rig_call(Rig *rig, District__CkptRequest *request, const int *fds,
                              guint n_fds);
/* Send only; and wait for the reply to what was sent last. */
void rig_send(Rig *rig, District__CkptRequest *request, const int *fds, guint n_fds);
District__CkptReply *rig_receive(Rig *rig, int timeout_ms);

/* The reply must not be an error. */
void rig_start(Rig *rig);
void rig_protect(Rig *rig, unsigned interval_us, unsigned detach_after_ms);
/* The same with an interval of its own choice; 0: the default. */
void rig_protect_auto(Rig *rig, unsigned max_slowdown, unsigned max_lag_ms);
void rig_unprotect(Rig *rig);
/* A new file for a checkpoint, open for writing. */
int rig_create(const char *path);
/* A checkpoint to path; the error of the reply, NULL if none. */
char *rig_checkpoint(Rig *rig, const char *path);
District__CkptStatusReply *rig_status(Rig *rig, District__CkptReply **hold);
/* Status.protection and Status.state, newly allocated. */
char *rig_protection(Rig *rig);
char *rig_state(Rig *rig);

/* Wait, at most 20 s, for an event or for a number of good epochs. */
void rig_wait_event(Rig *rig, District__CkptEventKind kind);
void rig_wait_good(Rig *rig, unsigned epochs);
unsigned rig_count_events(Rig *rig, District__CkptEventKind kind);

#endif
