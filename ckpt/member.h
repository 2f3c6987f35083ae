/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Client of the member protocol (common/proto/member.proto; rules in docs/protocol.md). One Member
 * is one engine; all calls come from the coordinator thread. At most one request is outstanding per
 * member: member_send_* to all, then member_collect_* from each, so that members work in parallel.
 *
 * The engine is not trusted: sizes, layouts and descriptors are checked at HELLO.
 */
#ifndef DISTRICT_CKPT_MEMBER_H
#define DISTRICT_CKPT_MEMBER_H

#include "ckpt/member-disk.h"
#include "ckpt/member-journal.h"
#include "common/page.h"
#include "member.pb-c.h"

#include <glib.h>
#include <stdbool.h>

#define MEMBER_PROTOCOL_VERSION 2
#define MEMBER_CALL_TIMEOUT_MS 5000     /* all but RESTORE */
#define MEMBER_RESTORE_TIMEOUT_MS 30000 /* loading state may have to read a lot of it */
#define MEMBER_STATE_BYTES_MAX (64u * 1024 * 1024)
#define MEMBER_REGIONS_MAX 64
#define MEMBER_VMGENID_BYTES 16

typedef enum {
    MEMBER_ERROR_LOST,    /* closed, timed out or broke the protocol: never use it again */
    MEMBER_ERROR_REFUSED, /* it answered with an error; nothing changed */
} MemberError;

#define MEMBER_ERROR (member_error_quark())
GQuark member_error_quark(void);

typedef struct Member {
    char *name;
    char *path;
    int fd; /* -1: not connected, or lost */
    char *engine;
    char *dirty_source;
    uint32_t vcpus;
    uint64_t ram_size; /* bytes */
    uint64_t n_pages;
    size_t n_regions;
    District__RamRegion *regions;
    size_t words;            /* of the dirty bitmap */
    uint64_t *bitmap;        /* shared with the engine: take words by atomic exchange */
    uint8_t *state;          /* shared with the engine, state_capacity bytes */
    uint64_t state_capacity; /* bytes */
    int ram_fd;              /* -1 until there is RAM */
    const uint8_t *ram;      /* read-only mapping, ram_size bytes */
    bool can_lazy;           /* it takes member_send_lazy */
    bool can_lazy_disks;     /* and MemberRestoreDisk.lazy */
    int lazy_fd;             /* userfaultfd while RAM is being filled in, else -1 */
    int stir_fd;             /* eventfd of member_send_resume, or -1 */
    uint64_t lazy_address;   /* of RAM in the engine, as the faults have it */
    unsigned n_disks;
    MemberDisk disks[DISKS_MAX];
    MemberJournal journal;
    District__MemberState run_state; /* as far as we know */
    char *waiting;                   /* guest I/O that cannot go on, in one line; NULL: none */
    bool refuses; /* what it was asked for, and it has been told; until it pauses again */
    uint64_t last_id;
    int64_t sent_ns; /* when the outstanding request went out */
} Member;

/* In place of a socket path: the guest has powered itself off, there is no engine. */
#define MEMBER_PATH_OFF "off"
Member *member_new(const char *name, const char *path);
void member_free(Member *member);

/* Connect (retrying for timeout_ms) and say HELLO. */
gboolean member_connect(Member *member, int timeout_ms, GError **error);
void member_disconnect(Member *member);
/* The guest is off: disconnect, and look at its dirty pages no more. */
void member_retire(Member *member);

gboolean member_send_harvest(Member *member, GError **error);
gboolean member_send_pause(Member *member, bool save_state, bool hold, GError **error);
/* watch: stir_fd, if there is one, becomes readable when the guest stirs, once; until the next PAUSE. */
gboolean member_send_resume(Member *member, bool watch, GError **error);
gboolean member_send_power_button(Member *member, GError **error);
gboolean member_send_quit(Member *member, GError **error);
/* What a restore loads. */
typedef struct MemberRestoreDisk {
    int data_fd, index_fd;
    uint64_t entries;
    const LazyDisk *lazy; /* its data comes later; NULL: it is there */
} MemberRestoreDisk;
typedef struct MemberImage {
    int ram_fd;           /* -1: only the disks; the member is freshly booted and paused */
    bool lazy;            /* the RAM has been passed by member_send_lazy */
    bool ram_known;       /* dirty pages are those written from here on only */
    bool journal_current; /* no guest has gone on from this state before */
    const uint8_t *state;
    uint64_t state_len;
    uint8_t vmgenid[MEMBER_VMGENID_BYTES];
    unsigned n_disks; /* 0: overlays begin empty; else one for each disk with an overlay */
    MemberRestoreDisk disks[DISKS_MAX];
} MemberImage;
/* The member's RAM becomes ram_fd (duplicated, mapped), its state state[0..state_len), its overlays
 * those given (duplicated). */
gboolean member_send_restore(Member *member, const MemberImage *image, GError **error);
/* Pass an empty ram_fd (duplicated, mapped), which is filled in through lazy_fd and lazy_address, set
 * by the reply. MEMBER_ERROR_REFUSED: it cannot do that. */
gboolean member_send_lazy(Member *member, int ram_fd, GError **error);
gboolean member_collect_lazy(Member *member, GError **error);
/* It has been filled in. */
gboolean member_send_lazy_done(Member *member, GError **error);
gboolean member_collect_lazy_done(Member *member, GError **error);
/* Tell of the disks with overlay, in order. */
gboolean member_send_disks(Member *member, District__MemberDiskNote *const *notes, size_t n_notes,
                           GError **error);
gboolean member_collect_disks(Member *member, GError **error);
/* The same of a member in SHUTDOWN, which tells of cuts made after that. */
gboolean member_collect_disks_off(Member *member, GError **error);

/* Whether the member could load state[0..state_len) here, were it to be restored now. */
gboolean member_send_restore_check(Member *member, const uint8_t *state, uint64_t state_len,
                                   GError **error);

/* Collect the reply to the request sent last. *pause: filled with plain values, checked. */
gboolean member_collect_harvest(Member *member, GError **error);
gboolean member_collect_pause(Member *member, District__MemberPauseReply *pause, GError **error);
gboolean member_collect_resume(Member *member, int64_t *resumed_ns, GError **error);
gboolean member_collect_restore(Member *member, GError **error);
gboolean member_collect_restore_check(Member *member, GError **error);
/* *heard: the guest listens for the button. */
gboolean member_collect_power_button(Member *member, bool *heard, GError **error);
gboolean member_collect_quit(Member *member, int timeout_ms, GError **error);

/* Ask for the run state, and what waits. */
gboolean member_describe(Member *member, District__MemberState *state, uint64_t *pauses,
                         GError **error);

/* FALSE with MEMBER_ERROR_LOST if the idle engine has gone, or spoke without being asked. */
gboolean member_check_idle(Member *member, GError **error);

#endif
