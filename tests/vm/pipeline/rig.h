/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rig of real processes for tests: what districtd does for one district, by hand and step by
 * step. district-vmm with the tiny guest, district-ckpt, district-net if wanted, district-standby,
 * and the TCP port between the hosts. All calls have a time limit and fail the test with a message
 * when it passes. Every process dies with the test (PDEATHSIG) and is ended by rig_free, by pid.
 */
#ifndef DISTRICT_TESTS_VM_PIPELINE_RIG_H
#define DISTRICT_TESTS_VM_PIPELINE_RIG_H

#include "ckpt.pb-c.h"
#include "member.pb-c.h"
#include "standby.pb-c.h"

#include <glib.h>

#define RIG_LIMIT_MS 20000
#define RIG_FDS_MAX 16

/* One process of ours. */
typedef struct Proc {
    char *name;
    GPid pid; /* 0: not running */
} Proc;

/* Start argv (NULL-terminated); output goes to DIR/NAME.log. */
void proc_start(Proc *proc, const char *dir, const char *name, const char *const *argv);
/* kill -9 and reap. */
void proc_kill(Proc *proc);
/* Wait for a process that is ending by itself; its exit status, or -signal. */
int proc_wait(Proc *proc, int limit_ms);

/* A tiny guest under district-vmm. */
typedef struct Vmm {
    Proc proc;
    char *socket;   /* member protocol */
    char *debugcon; /* what the guest reports */
} Vmm;

/* generation distinguishes engines of the same member. incoming: wait for RESTORE. */
void vmm_start(Vmm *vmm, const char *dir, const char *member, unsigned generation,
               gboolean incoming, const char *guest_options, const char *vmm_options);
void vmm_stop(Vmm *vmm);
/* What the guest has reported so far (caller frees). */
char *vmm_report(const Vmm *vmm);
/* Wait until the guest has reported `lines` "chain" lines. */
void vmm_wait_lines(const Vmm *vmm, guint lines);

/* A direct client of the member protocol, for tests without district-ckpt. */
typedef struct Member {
    int fd;
    int bitmap_fd, state_fd, ram_fd; /* ram_fd -1 while awaiting restore */
    uint64_t ram_size;
    uint64_t next_id;
} Member;

void member_open(Member *member, const char *socket);
void member_close(Member *member);
void member_resume(Member *member);
/* Returns the length of the state blob. */
uint64_t member_pause(Member *member);
void member_harvest(Member *member);
/* Restore from copies: ram_fd is passed on, state is written to the state memfd. */
void member_restore(Member *member, int ram_fd, const void *state, uint64_t len);

/* A control connection to district-ckpt or district-standby. */
typedef struct Control {
    const char *who;
    const ProtobufCMessageDescriptor *type;
    int fd;
    GQueue *events; /* of ProtobufCMessage, unread */
    int held[RIG_FDS_MAX];
    guint n_held; /* fds of the last HOLD event */
} Control;

typedef struct Rig {
    char *dir;
    char *pki;
    Proc ckpt, net, standby;
    char *net_control; /* NULL: a district without network */
    Control ckpt_ctl, standby_ctl;
    int listen_fd;
    uint16_t port;
    GThread *acceptor;
    gint stopping;
    GMutex standby_lock; /* guards standby_ctl.fd against the acceptor */
} Rig;

Rig *rig_new(void);
void rig_free(Rig *rig);

/*
 * Start district-net with a port per member (NAME=SOCKET, NULL-terminated) and wait until it takes
 * requests. A district-ckpt started from now on uses it. The sockets' paths stay the same.
 */
void rig_net_start(Rig *rig, const char *const *ports, uint64_t incarnation);
void rig_net_stop(Rig *rig);

/* Start district-ckpt for members (NAME=SOCKET, NULL-terminated) and connect. */
void rig_ckpt_start(Rig *rig, const char *const *members, uint64_t incarnation);
void rig_ckpt_stop(Rig *rig);
/* Start district-standby; adopt: hand it the descriptors its predecessor held. */
void rig_standby_start(Rig *rig, gboolean adopt);
void rig_standby_stop(Rig *rig);

/* Requests. Each fails the test if the answer is an error, unless error is wanted. */
void rig_ckpt_cold_start(Rig *rig, uint64_t incarnation);
void rig_protect(Rig *rig, uint64_t interval_us);
void rig_wait_protected(Rig *rig);
/* FALSE if the event does not arrive within limit_ms. */
gboolean rig_wait_ckpt_event(Rig *rig, District__CkptEventKind kind, int limit_ms);
gboolean rig_wait_standby_event(Rig *rig, District__StandbyEventKind kind, int limit_ms);

/* What a standby hands over at activation. */
typedef struct RigImage {
    int fds[RIG_FDS_MAX]; /* CutState, then RAM */
    guint n_fds;
    uint64_t state_len;
    uint64_t epoch;
} RigImage;

/* FALSE if the standby refuses (nothing committed). */
gboolean rig_activate(Rig *rig, uint64_t incarnation, RigImage *image);
void rig_image_clear(RigImage *image);
/* Ask the waiting members of the running district-ckpt whether they could; the error, or NULL. */
char *rig_check_image(Rig *rig, const RigImage *image);
/* Load into the waiting members of the running district-ckpt and run. */
void rig_start_image(Rig *rig, const RigImage *image, uint64_t incarnation);
/* A durable checkpoint to path; returns its epoch. */
uint64_t rig_checkpoint(Rig *rig, const char *path);
void rig_start_file(Rig *rig, const char *path, uint64_t incarnation);
/* Caller frees with district__ckpt_message__free_unpacked. */
District__CkptMessage *rig_status(Rig *rig);
District__StandbyMessage *rig_standby_status(Rig *rig);

/* For less than limit_ms. */
void rig_sleep_at_random(int limit_ms);
/* Fails the test with the logs' last lines. */
void rig_fail(const char *dir, const char *format, ...) G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;

#endif
