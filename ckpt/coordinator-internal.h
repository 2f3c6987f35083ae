/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside the coordinator: its state, and what its files do for each other. Coordinator thread only.
 */
#ifndef DISTRICT_CKPT_COORDINATOR_INTERNAL_H
#define DISTRICT_CKPT_COORDINATOR_INTERNAL_H

#include "ckpt/coordinator.h"
#include "ckpt/disks.h"
#include "ckpt/encode-pool.h"
#include "ckpt/epoch.h"
#include "ckpt/image.h"
#include "ckpt/journals-copy.h"
#include "ckpt/journals.h"
#include "ckpt/loader.h"
#include "ckpt/member.h"
#include "ckpt/netctl.h"
#include "ckpt/pace.h"
#include "ckpt/pagecopy.h"
#include "ckpt/persist.h"
#include "ckpt/stats.h"
#include "ckpt/target.h"
#include "common/clock.h"
#include "common/tls.h"

/* Epochs cut and not yet acknowledged by the standby. */
#define EPOCHS_IN_FLIGHT_MAX 2
/* Staged pages (of all members) above which guests are throttled if no cut is possible: 256 MiB. */
#define STAGING_SOFT_PAGES (UINT64_C(256) << (20 - PAGE_SHIFT_4K))
#define HAND_OVER_TIMEOUT_NS (10 * NS_PER_S)
#define INTERVAL_MIN_US 1000
#define INTERVAL_MAX_US 60000000
#define INTERVAL_DEFAULT_US 25000

/* The life of the district here. coordinator.c has the allowed moves. */
typedef enum {
    RUN_WAITING, /* members booted or awaiting restore, none runs */
    RUN_RUNNING,
    RUN_THROTTLED,    /* running, but held for a slice: the sinks cannot keep up */
    RUN_HANDING_OVER, /* the last cut is due, or made and not yet acknowledged */
    RUN_HANDED_OVER,  /* members paused for good, unless taken back */
    RUN_FAILED,       /* members paused, or lost */
    RUN_STATES,
} RunState;

/* protect.c has the allowed moves. */
typedef enum {
    PROTECT_OFF,
    PROTECT_CONNECTING,
    PROTECT_SYNCING,
    PROTECT_PROTECTED,
    PROTECT_DETACHED, /* connecting too, but output is no longer held */
    PROTECT_STATES,
} ProtectState;

/* What district-net was told about holding output. */
typedef enum {
    NET_TOLD_FREE,    /* nothing is held */
    NET_TOLD_HOLD,    /* it holds output for us */
    NET_TOLD_UNKNOWN, /* nothing by us yet; a predecessor may have told it something */
} NetTold;

typedef struct Protection {
    ProtectState state;
    char *error; /* why not, if not */
    char *peer_name;
    char *address;
    uint16_t port;
    int64_t interval_ns; /* as asked for; 0: auto */
    Pace pace;           /* whichever: it also says what guests lose */
    int64_t acked_ns;    /* when an epoch was acknowledged last */
    bool output_commit;
    int64_t detach_after_ns;
    int failover_after_ms; /* 0: not known */
    bool detach_said;      /* DETACHED has been sent since it was last protected */
    NetTold net_told;
    int64_t lost_ns;   /* since when there has been no working stream; 0: there is one */
    int64_t retry_ns;  /* when to connect next */
    int64_t resend_ns; /* when to ask engines again for what overlays have */
    int64_t backoff_ns;
} Protection;

typedef struct HandOver {
    ControlRequest *request;
    uint64_t number; /* the last epoch, 0: not cut yet */
    int64_t stopped_ns;
    int64_t deadline_ns;
} HandOver;

typedef struct CoordinatorStats {
    Measure measures[MEASURES];
    uint64_t dirty_pages;
    SinkStats closed_sinks; /* sums of sinks that have gone */
} CoordinatorStats;

struct Coordinator {
    char *district;
    char *host;
    char *definition;
    char *pki_dir;
    uint64_t incarnation;
    char *clone_of; /* NULL: no clone, and neither of these */
    char *clone_store;
    char *clone_overlays;
    uint64_t clone_id;       /* the checkpoint that it runs; 0: not known */
    CkptStore *clone_reader; /* open while the loader reads from it, or NULL */

    Inbox *inbox;
    ControlServer *control;
    GMainLoop *loop;
    GThread *thread;
    EncodePool *pool;
    NetCtl *net;
    uint32_t n_members;
    Member **members; /* one that is off stays in the list, without connection */
    uint64_t *n_pages_of;

    RunState run;
    char *run_error;
    bool quit;
    ControlRequest *quit_request; /* waits for a last checkpoint of the disks */
    int64_t quit_deadline_ns;
    bool settled;          /* at the end: no sink's thread is left */
    uint64_t last_number;  /* epoch and cut numbers: one counter, never reused; numbers.c */
    uint64_t noted_number; /* numbers up to here are noted as taken */
    char *numbers_path;
    int64_t next_describe_ns;
    uint64_t last_cut; /* number of the last cut made */
    uint64_t last_sink_id;

    PageCopier *copier; /* from guest RAM to staging */
    StagingPool *stagings;
    Staging *staging;    /* being filled */
    bool staging_active; /* harvested pages go to staging */
    Target *stream;      /* NULL: none */
    Target *file;
    Persist *persist;   /* NULL: no store */
    Loader *loader;     /* NULL: the members' RAM is all there */
    uint64_t load_rate; /* bytes per second, 0: no limit */
    CutDisk *disks;     /* those with an overlay; set when members begin to run */
    uint32_t n_disks;
    uint64_t disk_sync_rate;  /* bytes per second */
    uint64_t delta_cache;     /* bytes */
    int64_t next_disks_ns;    /* when to look whether engines can be told something of them */
    uint64_t stream_base;     /* last epoch number queued on the stream */
    uint64_t committed;       /* last epoch acknowledged */
    int64_t committed_cut_ns; /* when it was cut */
    GQueue in_flight;         /* of Epoch, oldest first */

    Journals journals;
    JournalsCopy journals_copy;
    Protection protect;
    HandOver hand_over;
    int64_t harvest_ns; /* between harvests, as wished: harvest_interval_ns has the bounds */
    int64_t next_harvest_ns;
    uint64_t
        harvested_again; /* pages that this epoch had staged already when they were harvested */
    int64_t next_cut_ns;
    int64_t cut_retry_ns; /* no cut before that: the last one failed */
    int64_t last_cut_ns;
    uint64_t cut_pages;  /* found dirty by the last cut and the harvests just before it */
    bool cut_few;        /* these were few: cut.c */
    int64_t pause_ns;    /* of the member that stood still for longest: running median */
    uint64_t *faults_of; /* of each member: pages it was found to have written since the last cut */
    uint64_t epoch_pages;  /* that the last cut's epoch has */
    int64_t rest_until_ns; /* 0: no rest; rest.c */
    unsigned rest_pass;    /* cuts before another rest is tried */
    unsigned rest_futile;  /* how many, the last time */
    int64_t throttle_ns;   /* throttled: until; running: not before */
    int64_t net_retry_ns;
    CoordinatorStats *stats;
};

/* ---- coordinator.c ---- */
const char *run_state_name(RunState state);
/* Move to state; a move that is not allowed is a bug and is logged and refused. */
bool coordinator_move(Coordinator *c, RunState state);
void coordinator_event(Coordinator *c, District__CkptEventKind kind, const char *member,
                       const char *text, uint64_t epoch);
bool coordinator_runs(const Coordinator *c);
/* Add a sample, taken now; below 0 counts as 0. */
void coordinator_measure(Coordinator *c, MeasureKind kind, int64_t value, int64_t now);
/* HELLO of a stream or file from here; the strings are the coordinator's. */
/* stream: to a standby, else of a checkpoint file. */
void coordinator_hello(const Coordinator *c, bool stream, District__StreamHello *hello);
/* Are harvested pages to be staged? */
bool coordinator_stages(const Coordinator *c);
/* A target has gone: forget what is staged, unless someone else wants it. */
void coordinator_unstage(Coordinator *c);

/* ---- numbers.c ---- */
/* Go on behind what was noted at path (kept; need not exist). */
void numbers_open(Coordinator *c, const char *path);
/* A number never given out before. */
uint64_t numbers_next(Coordinator *c);
/* Numbers up to this one are taken. */
void numbers_skip_to(Coordinator *c, uint64_t number);

/* ---- members.c: all members at once ---- */
bool member_is_on(const Member *member);
/* End the engines of the members that an image does not have (off[i]): off they were, off they stay.
 */
void members_leave_off(Coordinator *c, const bool *off);
/* RESUME all that are paused. FALSE: a member was in trouble, which has been dealt with. */
bool members_resume(Coordinator *c);
/* PAUSE all that run, without saving state. FALSE: trouble with a member, dealt with; those that
 * could be are paused. */
bool members_pause(Coordinator *c);
/* PAUSE all for good: they must not run on even if this process dies. */
void members_hold(Coordinator *c);
/* Press all power buttons. names (room for all) gets the members whose guests listen; how many. */
uint32_t members_power_button(Coordinator *c, char **names);
void members_quit(Coordinator *c);
/* An error on member's socket: power-off, or the end of the district. Takes error. */
void members_trouble(Coordinator *c, Member *member, GError *error);
/* Deal with errors[i] of member i where set, when no reply is outstanding any more. TRUE: none. */
bool members_settle(Coordinator *c, GError **errors);
/* The district has failed: pause what still runs. */
void members_fail_district(Coordinator *c, const char *why);
void members_check_idle(Coordinator *c);
/* Ask each for its state now and then, or a power-off would look like a crash. */
void members_describe_tick(Coordinator *c, int64_t now);
/* How many are on. */
uint32_t members_on(const Coordinator *c);
/* A member is part of epochs while it is on; one with disks also after that. */
bool member_is_listed(const Member *member);
/* How many are listed; wire_index, if not NULL: of each the index in EPOCH_BEGIN's list, or
 * WIRE_INDEX_NONE. */
uint32_t members_listed(const Coordinator *c, uint32_t *wire_index);

/* ---- lazy.c ---- */
/* A clone's: the store that its memory is in, open to read, the coordinator's. NULL with error set. */
CkptStore *lazy_clone_store(Coordinator *c, GError **error);
/* Can all members run before their RAM is there? */
bool lazy_possible(const Coordinator *c);
/* And before the data of their disks is? */
StoreLazy lazy_disks(const Coordinator *c);
/* Give the members that image has its empty RAM, and begin to fill it and overlays in from ram (taken). After a
 * failure they cannot be restored. */
gboolean lazy_begin(Coordinator *c, StoreRam *ram, const Image *image, const uint32_t *index_of,
                    GError **error);
/* Go on with what a predecessor has begun, if it has. */
gboolean lazy_adopt(Coordinator *c, GError **error);
bool lazy_under_way(const Coordinator *c);
/* Why RAM cannot be filled in, or NULL. */
const char *lazy_failure(const Coordinator *c);
/* Wait for the reply of a member that may wait for its RAM. FALSE: it will not come. */
gboolean lazy_wait_reply(Coordinator *c, const Member *member, GError **error);
/* All is there. */
void lazy_loaded(Coordinator *c);
/* It will never be: the end of the district. */
void lazy_failed(Coordinator *c, const char *why);

/* ---- harvest.c ---- */
/* HARVEST on all members, then copy what they found. FALSE: trouble, dealt with. */
bool harvest_all(Coordinator *c, uint64_t *pages);
/* Take the dirty bits of member, which is on, to where they belong; pages taken. */
uint64_t harvest_take(Coordinator *c, uint32_t member);
int64_t harvest_interval_ns(const Coordinator *c);
/* Has this epoch cost its guests enough faults? Then its cut is the next harvest. */
bool harvest_spent(const Coordinator *c);

/* ---- cut.c ---- */
/* Cut all members; the epoch is frozen and goes to its sinks. FALSE: no cut was made. */
bool cut_make(Coordinator *c, bool leave_paused);
/* Make a cut if one is due and possible. */
void cut_tick(Coordinator *c, int64_t now);
bool cut_possible(const Coordinator *c);
/* Between cuts for the standby, as wished; and as it is to be after the pauses of late. */
int64_t cut_interval_ns(const Coordinator *c);
int64_t cut_interval_now_ns(const Coordinator *c);
/* Connect to a restarted district-net, if it is time to, and tell it what to do. */
void cut_reach_net(Coordinator *c, int64_t now);

/* ---- rest.c: no cuts while guests do nothing ---- */
/* Shall the engines watch their guests from the cut on that is about to be made? */
bool rest_wanted(Coordinator *c, int64_t now);
/* They do. */
void rest_begin(Coordinator *c);
/* Neither cuts nor harvests now. */
bool rest_holds(const Coordinator *c, int64_t now);
/* The engine of a member says that its guest stirs. */
void rest_stir(Coordinator *c);

/* ---- freeze.c: a cut becomes epochs on sinks ---- */
/* A packed StreamEpochBegin for the members that are on. */
GByteArray *freeze_pack_begin(Coordinator *c, uint64_t number, bool full, uint64_t base);
/* Queue it on target's sink. */
void freeze_begin(Coordinator *c, Target *target, uint64_t number, bool full, uint64_t base);
/* The packed CutState of epoch under its number on one sink; NULL with error set if too large. */
GByteArray *freeze_pack_state(const Coordinator *c, const Epoch *epoch, uint64_t number,
                              GError **error);
/* Queue what epoch has for target, whose EPOCH_BEGIN is queued: pages, the ranges of the disks
 * (NULL: of no disk), STATE and EPOCH_END. */
void freeze_queue(Coordinator *c, Target *target, Epoch *epoch, uint64_t number, bool full,
                  const DurableRange *ranges);
/* Freeze the current staging into epoch and queue it on all sinks that take part. Takes epoch. */
void freeze_epoch(Coordinator *c, Epoch *epoch);

/* ---- protect.c ---- */
void protect_request(Coordinator *c, ControlRequest *request);
void protect_unprotect(Coordinator *c);
void protect_tick(Coordinator *c, int64_t now);
void protect_up(Coordinator *c, uint64_t held);
void protect_ack(Coordinator *c, uint64_t number);
void protect_closed(Coordinator *c, const GError *error);
/* Start the stream over: the set of members has changed. */
void protect_restart(Coordinator *c, const char *why);
/* Tell district-net what it should do now, if that differs from what it was told. */
bool protect_tell_net(Coordinator *c, bool hold);
const char *protect_state_name(ProtectState state);
/* End the stream. bye: a wanted end. */
void protect_drop_stream(Coordinator *c, bool bye);

/* ---- checkpoint.c: checkpoint files ---- */
void checkpoint_request(Coordinator *c, ControlRequest *request);
void checkpoint_up(Coordinator *c);
void checkpoint_finished(Coordinator *c, uint64_t bytes);
void checkpoint_fail(Coordinator *c, const char *why);

/* ---- life.c: start, restore, hand-over ---- */
/* Not in an image: its guest had powered itself off. */
#define IMAGE_WITHOUT UINT32_MAX
/* Index of a member in cut, of which perhaps only the disks are there; or IMAGE_WITHOUT. */
uint32_t life_index(const District__CutState *cut, const char *name);
/* Index of each member in cut, or IMAGE_WITHOUT; all in it must be members. */
gboolean life_match(Coordinator *c, const District__CutState *cut, uint32_t *index_of,
                    GError **error);
void life_start(Coordinator *c, ControlRequest *request);
void life_start_image(Coordinator *c, ControlRequest *request);
void life_start_file(Coordinator *c, ControlRequest *request);
/* Could the members here load that image? */
void life_check(Coordinator *c, ControlRequest *request);
void life_start_store(Coordinator *c, ControlRequest *request);
void life_hand_over(Coordinator *c, ControlRequest *request);
void life_hand_over_tick(Coordinator *c, int64_t now);
void life_hand_over_acked(Coordinator *c, uint64_t number);
/* Answer the hand-over with an error; fail: and let the members run on. */
void life_hand_over_refuse(Coordinator *c, const char *why);
void life_hand_over_fail(Coordinator *c, const char *why);
void life_take_back(Coordinator *c, ControlRequest *request);
/* Press the power button of all members. */
void life_power_button(Coordinator *c, ControlRequest *request);
/* Members were running when we came: go on. */
void life_adopt(Coordinator *c);

/* ---- status.c ---- */
void status_request(Coordinator *c, ControlRequest *request);
void status_add_sink(Coordinator *c, const SinkStats *sink);

#endif
