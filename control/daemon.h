/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state of districtd: districts, hosts, and what is going on. All of it belongs to the main
 * thread. Who may call what:
 *
 *   districtd.c   main: configuration, loop
 *   daemon.c      set-up, listener routing, look-ups
 *   api.c verbs.c the user API            peer.c exchange.c   the other hosts
 *   job.c         operations of several steps, built of steps in
 *                 start.c verify.c stop.c protect.c takeover.c migrate.c checkpoint.c clone.c
 *                 remove.c
 *   storequery.c  jobs on a store by a process of its own: storecheck.c export.c import.c
 *   district.c    a district's state      process.c fate.c adopt.c  its processes
 *   journal.c     files of journals       journalcopy.c  copies of them
 */
#ifndef DISTRICT_CONTROL_DAEMON_H
#define DISTRICT_CONTROL_DAEMON_H

#include "control/child.h"
#include "control/config.h"
#include "control/definition.h"
#include "control/error.h"
#include "control/exposure.h"
#include "control/hosts.h"
#include "control/incarnation.h"
#include "control/json.h"
#include "control/listener.h"
#include "control/rpc.h"
#include "control/store.h"

typedef struct Daemon Daemon;
typedef struct District District;
typedef struct Job Job;
typedef struct Peer Peer;
typedef struct ApiServer ApiServer;

/* Result (may be NULL) or error of an operation. Called once. */
typedef void (*JobDone)(JsonObject *result, const GError *error, gpointer data);

struct Daemon {
    Config *config;
    GHashTable *districts; /* name -> District */
    GPtrArray *hosts;      /* of Host */
    GHashTable *peers;     /* name -> Peer; one for each of hosts */
    Listener *listener;
    ApiServer *api;
    guint ticker;
    int64_t ticked_ns;  /* the ticker's last turn; CLOCK_MONOTONIC */
    int64_t stalled_ns; /* end of the last time that we stood still ourselves; 0: never */
    guint joins;        /* join exchanges under way */
    gboolean closing;   /* districtd ends; the districts go on */
};

/* ---- daemon.c ---- */
/* Load all state, take over what still runs, listen. NULL with error set. */
Daemon *daemon_new(Config *config, GError **error);
/* Leave everything running. */
void daemon_free(Daemon *daemon);
/* NULL with CONTROL_ERROR_NOT_FOUND if there is none of that name. */
District *daemon_find_district(Daemon *daemon, const char *name, GError **error);
Host *daemon_find_host(Daemon *daemon, const char *name, GError **error);
/* Remember a host (name new or known) durably and connect to it. */
gboolean daemon_put_host(Daemon *daemon, Host *host, GError **error);
gboolean daemon_remove_host(Daemon *daemon, const char *name, GError **error);
/* Tell the log and all who listen. subject: district or host name. */
void G_GNUC_PRINTF(4, 5)
    daemon_event(Daemon *daemon, const char *kind, const char *subject, const char *format, ...);

/* ---- districts (district.c) ---- */

typedef enum {
    STATE_STOPPED, /* home, no process runs */
    STATE_STARTING,
    STATE_RUNNING,
    STATE_STOPPING,
    STATE_FAILED,      /* home, ended without being asked to */
    STATE_HANDED_OVER, /* home no more, members paused until the target says that it runs */
    STATE_STANDBY,     /* another host is home, a copy is kept here */
    STATE_ACTIVATING,  /* standby becoming home */
    STATE_SUPERSEDED,  /* a newer incarnation lives elsewhere */
    STATE_COUNT
} DistrictState;

/* Processes that died lately, to tell an accident from a loop. */
/* How often it is looked for pins without a clone. */
#define PINS_LOOK_S 600
#define STORM_DEATHS 5
#define STORM_SECONDS 10
typedef struct Storm {
    int64_t death_ns[STORM_DEATHS];
    guint next;
} Storm;

struct District {
    Daemon *daemon;
    char *name;
    Definition *definition;
    Record record;        /* as on disk */
    uint64_t incarnation; /* as on disk */
    uint64_t seen;        /* highest incarnation any peer has told of */
    DistrictState state;
    char *reason;        /* why it is in that state, or NULL */
    GPtrArray *children; /* of Child */
    Rpc *ckpt;           /* while a district-ckpt runs */
    Rpc *standby;        /* while a district-standby runs */
    Job *job;            /* the operation under way, or NULL */
    Job *gone_job;       /* waits until children (but district-standby) are gone */
    guint kill_timer;
    guint kill_stage;
    gboolean ending; /* members, switch and coordinator are being ended */
    gboolean standby_ending;
    Storm net_storm, ckpt_storm, standby_storm;
    JsonObject *ckpt_status; /* last known, or NULL */
    gboolean ckpt_rests;     /* it had nothing to do then */
    unsigned rest_polls;
    JsonObject *standby_status; /* last known, or NULL */
    char *standby_reason;       /* what our standby says is wrong with it, or NULL */
    GHashTable *members_off;    /* names of members whose guest powered itself off */
    gboolean unit_failed;       /* a member was lost; the others are being ended */
    int64_t failover_ask_ns;    /* the standby is not asked to take over before; CLOCK_MONOTONIC */
    int64_t failover_wait_ns;   /* from a refusal to the next time */
    char *namesake;             /* host that was last seen to have another district of this name */
    gboolean autostart_due;     /* the host has booted, and it is not started yet */
    int64_t autostart_ns;       /* not to be tried before */
    int64_t pins_ns;            /* when to look for pins without a clone; CLOCK_MONOTONIC */
    gboolean taking_back;       /* handed over, but the target does not run it: to run on here */
    /* standby only */
    gboolean has_commit;
    gboolean stream_up;
    int64_t stream_lost_ns;  /* CLOCK_MONOTONIC; 0: never up since we watch */
    int64_t stream_heard_ns; /* the home, as far as was looked; CLOCK_MONOTONIC, 0: never */
    Exposure exposure;
    int *hold_fds; /* of the last STANDBY_EVENT_HOLD */
    guint n_hold_fds;
};

District *district_new(Daemon *daemon, Definition *definition);
void district_free(District *district);
const char *district_state_name(DistrictState state);
/* Change state, telling everyone. reason may be NULL. */
void district_set_state(District *district, DistrictState state, const char *reason);
/* Members run here, or may. */
gboolean district_is_active(const District *district);
gboolean district_save_record(District *district, GError **error);
/* Write down number as given out, durably, before anything runs under it. */
gboolean district_save_incarnation(District *district, uint64_t number, GError **error);
uint64_t district_next_incarnation(const District *district);
Claim district_claim(const District *district);
/* Files of district: below the runtime, log and state directories; caller frees. */
char *district_run_path(const District *district, const char *file);
char *district_log_path(const District *district, const char *file);
char *district_member_path(const District *district, const char *member, const char *suffix);
/* The store: of a clone, the original's, which is only read. */
char *district_store_dir(const District *district);
/* Where overlays of its disks are made. */
char *district_overlay_dir(const District *district);
/* Where the homes of disks are that came from another host, a standby's copy too; NULL: none did. */
char *district_disk_dir(const District *district);
/* Path of the home of disk i of member on this host. *moved: it came from another host and is raw,
 * else the definition has the path and format. Caller frees. */
char *district_disk_home(const District *district, const DefinitionMember *member, guint i,
                         gboolean *moved);
/* Socket paths are short (unix(7)): find out before the first start. FALSE with error set. */
gboolean district_check_sockets(const District *district, GError **error);
/* Is there another district on the same bridge whose members have the same addresses, and that is
 * active? FALSE with error set. */
gboolean district_check_bridge(const District *district, GError **error);
/* Path of the journal of member on this host; it has one. Caller frees. */
char *district_journal_path(const District *district, const DefinitionMember *member);
/* Make its directories, durably, if it came from another host. */
gboolean district_make_lineage(const District *district, GError **error);
/* Remove all of a lineage that is not the one in use, as store_remove_later does. */
void district_remove_lineage(const District *district, unsigned lineage, StoreRemoved done,
                             gpointer data);
/* The number for one that has no directory here yet. */
unsigned district_new_lineage(const District *district);
/* The one in use; all that are there (of unsigned, the caller's); where checkpoints of one are. */
unsigned district_lineage(const District *district);
GArray *district_lineages(const District *district);
char *district_lineage_store(const District *district, unsigned lineage);
gboolean district_is_clone(const District *district);
/* Names of its clones, sorted; of const char, the caller's. */
GPtrArray *district_clones(const District *district);
/* All about it, for people and programs. */
JsonObject *district_describe(District *district);
JsonObject *district_summary(District *district);
/* Ask the processes for their status now and then; results go to *_status. */
void district_poll_status(District *district);

/* ---- journal.c ---- */
/* Are all journals there? A district that has never run here gets them, empty. */
gboolean journals_prepare(const District *district, GError **error);
/* A number that changes when one of the files is replaced by another; 0: there are none, or error is
 * set. */
uint64_t journals_identity(const District *district, GError **error);

/* Is the journal of member at path, with its size? */
gboolean journal_check(const char *path, const DefinitionMember *member, GError **error);
/* A new one, all zeros: in directory dir, with its name and all its room; or without either. The
 * caller's descriptor, -1 with error set. */
int journal_make_in(const char *dir, const DefinitionMember *member, GError **error);
int journal_make_nameless(const char *dir, const DefinitionMember *member, GError **error);

/* ---- journalcopy.c ---- */
typedef struct JournalCopies JournalCopies;
/* Files for copies of the journals that the members of definition have, which are those of district,
 * or of its checkpoints: made in dir, or nameless if it is NULL. There may be none. */
JournalCopies *journal_copies_new(const District *district, const Definition *definition,
                                  const char *dir, GError **error);
JournalCopies *journal_copies_ref(JournalCopies *copies);
void journal_copies_unref(JournalCopies *copies); /* NULL is fine */
guint journal_copies_count(const JournalCopies *copies);
const char *journal_copies_member(const JournalCopies *copies, guint i);
int journal_copies_fd(const JournalCopies *copies, guint i); /* stays theirs */
/* Fill job->copies: all is durable then. */
void step_copy_journals(Job *job);

/* ---- processes (process.c, fate.c, adopt.c) ---- */
/* Start what is not there of district-net, one district-vmm per member, and district-ckpt. */
gboolean processes_start(District *district, gboolean incoming, GError **error);
gboolean processes_start_standby(District *district, GError **error);
gboolean processes_start_one(District *district, const char *kind, GError **error);
Child *processes_find(const District *district, const char *kind, const char *member);
/* Has the engine of member left word that it ended because its guest is off, or was told to? */
gboolean process_member_ended(const District *district, const char *member);
/* Number of processes other than district-standby. */
guint processes_count(const District *district);
/* End them: gently (members quit, then SIGTERM, then SIGKILL) or at once. job, if not NULL, goes on
 * to its next step when all are gone. district-standby is not concerned. */
void processes_end(District *district, gboolean at_once, Job *job);
void processes_end_standby(District *district);
gboolean processes_save(District *district, GError **error);
/* All engines have ended: their links lead to ptys that others may be given. */
void processes_unlink_consoles(const District *district);
void process_exited(Child *child, int status, gpointer data); /* fate.c: what then */
/* The guest of member has powered itself off. The last one to do so stops the district. */
void district_member_off(District *district, const char *member);
/* Now and then: the same if another operation was under way then. */
void district_stop_if_off(District *district);
/* A unit: one member lost ends all. Members are ended, then state FAILED, then perhaps failover. */
void district_fail(District *district, const char *why);
/* Every HOSTLINK_BEAT_MS: does the standby have to be asked to take over from a home that failed? */
void district_ask_for_failover(District *district);
/* Start district-ckpt again beside running members, which go on. */
void ckpt_restart(District *district);
/* Members run here, or are paused and are to run on, and district-ckpt is there: see to it. */
void ckpt_resume(District *district);
/* Did a request to district-ckpt fail with error because that has ended, or hangs? Then it is being
 * started again, members are as it left them, and there is nothing to be undone. */
gboolean ckpt_lost(District *district, const GError *error);
/* Stay the standby; this host and the home say why it would not be able to take over. */
void district_cannot_take_over(District *district, const char *why);
/* A newer life is elsewhere: end ours at once. */
void district_supersede(District *district, const char *host, uint64_t incarnation);
/* After districtd was restarted: find out what is true and go on from there. */
void district_adopt(District *district);
/* A hand-over asked for by a districtd that was killed may complete after its successor looked. */
void district_reconcile(District *district, const char *ckpt_state, const char *why);
/* autostart.c: all districts are adopted; is this the first districtd since the host booted? */
void autostart_begin(Daemon *daemon);
/* Now and then: start it if that is due. */
void autostart_tick(District *district);
void district_ckpt_event(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                         gpointer data);
void district_standby_event(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                            gpointer data);
/* Every HOSTLINK_BEAT_MS: does a standby with AutoFailover= have to promote itself? */
void district_watch_home(District *district);

/* ---- operations (job.c and one file each) ---- */
typedef void (*JobStep)(Job *job);
typedef void (*JobMessage)(Job *job, ProtobufCMessage *message, int *fds, guint n_fds);
typedef void (*JobAnswer)(Job *job, JsonObject *answer);

struct Job {
    gatomicrefcount refs;
    District *district;
    const char *verb;
    const JobStep *steps; /* ends with NULL */
    JobStep undo;         /* called when it has failed, with error set; may be NULL */
    guint next;
    gboolean finished;
    JobDone done;
    gpointer data;
    JsonObject *result;
    GError *error;
    /* Parameters and notes of the operations */
    char *host;
    char *path;
    char *label;
    uint64_t incarnation;
    uint64_t id;
    Pacing pacing;
    uint64_t timeout_us;
    int64_t started_ns;
    gboolean force;
    gboolean output_commit;
    gboolean planned;             /* take-over: the home has handed over */
    uint64_t disks_epoch;         /* take-over: the full epoch that the disks' files came with */
    uint64_t journals;            /* take-over: journals_identity when the engines were started */
    gboolean resets;              /* take-over: crossing connections are to be reset */
    struct JournalCopies *copies; /* owned, or NULL */
    Definition *definition;       /* clone: its own; owned, or NULL */
    char *made;                   /* clone: directory that is to be it, or NULL */
    int fd;                       /* owned, -1 */
    guint poll;
    int64_t deadline_ns;
};

/* A new operation on district; fails at once (done is called) if another one is under way. Returns
 * NULL then. Fill in the parameters and call job_next. */
Job *job_new(District *district, const char *verb, const JobStep *steps, JobDone done,
             gpointer data);
void job_next(Job *job);
void job_fail(Job *job, const GError *error);
void G_GNUC_PRINTF(3, 4) job_fail_new(Job *job, ControlError code, const char *format, ...);
/* Request to a process or peer; then is called with the answer, or the next step if it is NULL. A
 * failure fails the job. */
void job_call(Job *job, Rpc *rpc, ProtobufCMessage *request, const int *fds, guint n_fds,
              int timeout_ms, JobMessage then);
void job_ask(Job *job, const char *host, const char *method, JsonObject *arguments, int timeout_ms,
             JobAnswer then);
Job *job_ref(Job *job);
void job_unref(Job *job);

void operation_start(District *district, gboolean force, JobDone done, gpointer data);
void operation_restart(District *district, const char *from, gboolean force, JobDone done,
                       gpointer data);
/* End the members without asking their guests; force: kill, also an operation that hangs. */
void operation_stop(District *district, gboolean force, JobDone done, gpointer data);
/* Press their power buttons, wait up to timeout_us for them to power off (0: neither), save what is on
 * the disks, then stop. */
void operation_shut_down(District *district, uint64_t timeout_us, JobDone done, gpointer data);
/* End what runs of it here and remove it; the district is gone when done is called, unless its
 * checkpoints are to be kept and it has some: then it is left with no role. */
void operation_remove(District *district, gboolean checkpoints_too, JobDone done, gpointer data);
/* out: what it printed, or NULL with error set. */
typedef void (*StoreQueryDone)(const char *out, const GError *error, gpointer data);
/* storequery.c: have a district-ckpt of its own look at the district's store, with an option (and
 * its value, or NULL). done is called exactly once. */
void store_query(const District *district, const char *option, const char *value,
                 StoreQueryDone done, gpointer data);
/* The same in a directory, with any options (ends with NULL), for limit_s seconds at most. */
void store_query_in(const District *district, const char *dir, const char *const *options,
                    unsigned limit_s, StoreQueryDone done, gpointer data);
/* Run checkpoint at of original as a clone called name: make it, start it. */
void operation_clone(District *original, const char *at, const char *name, JobDone done,
                     gpointer data);
/* A clone of original has gone: release what was kept for it, now if that can be, else later. done
 * gets neither a result nor an error. */
void clone_release(District *original, JobDone done, gpointer data);
/* Now and then: the same for clones that nobody remembers. */
void clone_tick(District *original);
/* Of a clone's start: nobody but its original's engines has the homes of its disks open to write. */
void clone_step_homes(Job *job);
/* The same with any options. subject: what errors begin with. fds: descriptors that are taken over. The
 * process has the first one, a file's, as --file-fd, the second, of a pipe for progress, as
 * --progress-fd, and others from STORE_QUERY_FD on. */
#define STORE_QUERY_FD 5
void store_query_files(const Daemon *daemon, const char *subject, const char *const *options,
                       const int *fds, guint n_fds, StoreQueryDone done, gpointer data);
/* storecheck.c: result has "checkpoints", "n_faults" and "faults" (object, text). Runs beside any
 * other operation. */
void operation_check_store(District *district, JobDone done, gpointer data);
/* export.c: write checkpoint at (as checkpoint_find takes it) to fds[0], and tell of progress to the
 * pipe fds[1] (ckpt/progress.h); both are taken over. file: for messages. result: "checkpoint",
 * "epoch", "incarnation", "bytes", "ram_pages", "disk_blocks". Runs beside any other operation. */
void operation_export(District *district, const char *at, const char *file, const int fds[2],
                      JobDone done, gpointer data);
/* import.c: make a district of the file fds[0]. as: its name; NULL: as in the file. isolated: without
 * a way out. result: "name", "district" (in the file), "epoch", "incarnation". */
void operation_import(Daemon *daemon, const char *as, const char *file, gboolean isolated,
                      const int fds[2], JobDone done, gpointer data);
void operation_checkpoint(District *district, const char *label, JobDone done, gpointer data);
/* All durable checkpoints; NULL with error set: they cannot be read. */
JsonArray *checkpoint_list(District *district, GError **error);
/* Number of the checkpoint that what (a number, a label or "latest"; NULL: the latest) stands for; 0
 * with error set. */
uint64_t checkpoint_find(District *district, const char *what, GError **error);
void operation_protect(District *district, const char *host, const Pacing *pacing,
                       gboolean output_commit, JobDone done, gpointer data);
void operation_unprotect(District *district, gboolean force, JobDone done, gpointer data);
/* Bring the protection that is wanted about (again), in the background. */
void protect_resume(District *district);
/* On the standby: take over. incarnation 0: the next one. planned: the home has handed over. */
void operation_takeover(District *district, uint64_t incarnation, gboolean planned, JobDone done,
                        gpointer data);
/* Is it about to be run here, though its state need not say so yet? */
gboolean takeover_is_under_way(const District *district);
/* Has the image been passed to members here, which may hold the only copy of the district? */
gboolean takeover_has_image(const District *district);
/* Processes of a take-over were found, and it is being looked whether the members run. */
gboolean takeover_is_unclear(const District *district);
/* district-ckpt ended then: go on with what it has left. FALSE: the standby still has the image. */
gboolean takeover_recover(District *district, GError **error);
/* A districtd before us may have passed the image on: find out, and go on. */
void takeover_resume(District *district);
void operation_migrate(District *district, const char *host, JobDone done, gpointer data);
/* What became of a hand-over whose answer was lost. */
/* Now and then: take back what is to be taken back, or ask the target of an unresolved hand-over. */
void migrate_go_on(District *district);
void migrate_resolve(District *district, const Claim *target);
/* The target of a hand-over does not run it: write down that this is the home again, for a new life that
 * is above what the target was given, if it is to have one. */
gboolean migrate_own_again(District *district, gboolean new_life, GError **error);
void operation_done_log(JsonObject *result, const GError *error, gpointer data);
/* start.c: steps shared by operations that bring members up. */
void step_start_processes(Job *job);
void step_wait_ckpt(Job *job);
/* verify.c: of restart, before anything is ended. */
void step_verify_store(Job *job);
void job_wait_ckpt_state(Job *job, const char *state, int timeout_ms);

/* ---- other hosts (peer.c, exchange.c) ---- */
typedef void (*PeerReply)(JsonObject *answer, const GError *error, gpointer data);

Peer *peer_new(Daemon *daemon, const Host *host);
void peer_free(Peer *peer);
/* A verified control connection from a known host has been accepted. */
void daemon_accept_control(Daemon *daemon, int fd);
const char *peer_name(const Peer *peer);
/* Heard within the last second. */
gboolean peer_reachable(const Peer *peer);
/* When it was last heard by any path; CLOCK_MONOTONIC, 0 never. */
int64_t peer_heard_ns(const Peer *peer);
guint peer_links_up(const Peer *peer);
/* reply is called exactly once, never from inside this call. Takes arguments over. */
void peer_request(Peer *peer, const char *method, JsonObject *arguments, int timeout_ms,
                  PeerReply reply, gpointer data);
/* One-way. Takes arguments over. */
void peer_note(Peer *peer, const char *method, JsonObject *arguments);
/* A claim as "who-runs" answers it; FALSE if it is none. */
gboolean claim_from_json(JsonObject *item, Claim *claim);
/* What every request about a district begins with: its name and its UUID. */
JsonObject *exchange_arguments(const District *district);
/* exchange.c: what a peer says or asks. id 0: a note, nothing is answered. */
void exchange_handle(Peer *peer, const char *method, JsonObject *arguments, gint64 id);
void exchange_peer_up(Peer *peer, const char *remote_address);
void peer_answer(Daemon *daemon, const char *host, gint64 id, JsonObject *result,
                 const GError *error);
Daemon *peer_daemon(const Peer *peer);
/* Tell all peers what we have. */
void exchange_announce(Daemon *daemon);

/* ---- user API (api.c, verbs.c) ---- */
typedef struct ApiRequest ApiRequest;

ApiServer *api_server_new(Daemon *daemon, GError **error);
void api_server_free(ApiServer *server);
void api_server_event(ApiServer *server, JsonObject *event);
/* Answer; takes result over (NULL: an empty object). request is gone afterwards. */
void api_reply(ApiRequest *request, JsonObject *result);
void api_fail(ApiRequest *request, const GError *error);
/* As JobDone, with the request as data. */
void api_job_done(JsonObject *result, const GError *error, gpointer data);
Daemon *api_request_daemon(const ApiRequest *request);
/* Descriptor i (from 0) that came with it, the caller's from then on; -1: there is none. */
int api_request_take_fd(ApiRequest *request, guint i);
void api_subscribe(ApiRequest *request);
JsonArray *api_server_recent(ApiServer *server);
/* verbs.c */
void verb_execute(ApiRequest *request, const char *execute, JsonObject *arguments);

#endif
