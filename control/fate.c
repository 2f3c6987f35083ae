/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of a district when something happens to its processes.
 *
 *   district-ckpt    started again; the members go on; protection starts over with a full copy
 *   district-net     started again on the same sockets; the members connect again
 *   district-standby started again with the descriptors its predecessor held
 *   district-vmm     the district has failed as a unit: the other members are ended. If its standby
 * is to take over by itself it is asked to, after all members here have ended, until it does
 *
 * More than STORM_DEATHS deaths within STORM_SECONDS are a loop: then the district fails.
 */
#include "control/daemon.h"
#include "control/tap.h"
#include "common/clock.h"
#include "common/fdmsg.h"
#include "ckpt.pb-c.h"
#include "standby.pb-c.h"

#include <signal.h>
#include <string.h>

#define HOME_FAILED_TIMEOUT_MS 60000
#define ASK_AGAIN_NS NS_PER_S
#define ASK_AGAIN_MAX_NS (60 * NS_PER_S)
#define CKPT_TIMEOUT_MS 30000

/* TRUE if this death is one too many. */
static gboolean
storm_note_death(Storm *storm)
{
    int64_t now = clock_monotonic_ns();
    int64_t oldest = storm->death_ns[storm->next];

    storm->death_ns[storm->next] = now;
    storm->next = (storm->next + 1) % STORM_DEATHS;
    return oldest != 0 && now - oldest < STORM_SECONDS * NS_PER_S;
}

/* ---- Failover by a home that failed ---- */

typedef struct Question {
    Daemon *daemon;
    char *district;
} Question;

/* One that takes over ends our role by its claims. Who refuses may not do so for ever: it may be busy,
 * or just have been started. */
static void
on_home_failed(JsonObject *answer, const GError *error, gpointer data)
{
    Question *question = data;
    District *d = g_hash_table_lookup(question->daemon->districts, question->district);

    if (error != NULL)
        g_warning("%s: the standby does not take over: %s: it is asked again", question->district,
                  error->message);
    if (d != NULL) {
        d->failover_ask_ns = clock_monotonic_ns() + d->failover_wait_ns;
        d->failover_wait_ns = MIN(2 * d->failover_wait_ns, ASK_AGAIN_MAX_NS);
    }
    g_free(question->district);
    g_free(question);
}

void
district_ask_for_failover(District *d)
{
    Peer *peer = d->record.peer ? g_hash_table_lookup(d->daemon->peers, d->record.peer) : NULL;

    if (d->state != STATE_FAILED || !d->record.failover_wanted || !d->record.protect ||
        !d->definition->auto_failover || d->job != NULL || peer == NULL || !peer_reachable(peer) ||
        clock_monotonic_ns() < d->failover_ask_ns)
        return;
    Question *question = g_new0(Question, 1);
    JsonObject *arguments = exchange_arguments(d);
    question->daemon = d->daemon;
    question->district = g_strdup(d->name);
    d->failover_ask_ns = G_MAXINT64; /* until it has answered */
    json_object_set_string_member(arguments, "reason", d->reason != NULL ? d->reason : "failed");
    peer_request(peer, "home-failed", arguments, HOME_FAILED_TIMEOUT_MS, on_home_failed, question);
}

/* On disk: the standby may be out of reach now, and districtd be killed before it can be asked. */
static void
want_failover(District *d)
{
    g_autoptr(GError) error = NULL;

    if (d->record.role != ROLE_HOME || !d->record.protect || !d->definition->auto_failover)
        return;
    d->failover_ask_ns = 0;
    d->failover_wait_ns = ASK_AGAIN_NS;
    d->record.failover_wanted = TRUE;
    if (!district_save_record(d, &error))
        g_warning("%s: a districtd after this one will not ask the standby to take over: %s",
                  d->name, error->message);
}

/* ---- All processes have ended ---- */

static void
all_gone(District *d)
{
    Job *job = g_steal_pointer(&d->gone_job);
    gboolean failed = d->unit_failed;

    d->ending = FALSE;
    d->unit_failed = FALSE;
    if (d->kill_timer != 0)
        g_source_remove(d->kill_timer);
    d->kill_timer = 0;
    g_clear_pointer(&d->ckpt, rpc_free);
    if (d->ckpt_status != NULL)
        json_object_unref(d->ckpt_status);
    d->ckpt_status = NULL;
    processes_unlink_consoles(d);
    if (d->definition->bridge != NULL) {
        g_autofree char *tap = tap_name(d->name);
        tap_remove(tap);
    }
    if (failed && d->state != STATE_SUPERSEDED) {
        g_autofree char *reason = g_strdup(d->reason);
        district_set_state(d, STATE_FAILED, reason);
        district_ask_for_failover(d);
    }
    if (job != NULL)
        job_next(job);
}

/* The switch goes last: it has no socket on which it could be told. */
static void
one_less(District *d)
{
    Child *net = processes_find(d, "net", NULL);

    if (processes_count(d) == 0)
        all_gone(d);
    else if (processes_count(d) == 1 && net != NULL)
        child_signal(net, SIGTERM);
}

void
district_fail(District *d, const char *why)
{
    g_autofree char *reason = g_strdup(why);

    if (d->unit_failed || d->ending)
        return;
    /* First: a job that is undone must not bring back what is about to be ended. */
    d->unit_failed = TRUE;
    if (d->job != NULL)
        job_fail_new(d->job, CONTROL_ERROR_FAILED, "%s: %s", d->name, reason);
    g_free(d->reason);
    d->reason = g_steal_pointer(&reason);
    daemon_event(d->daemon, "failed", d->name, "%s", d->reason);
    processes_end(d, TRUE, NULL);
    want_failover(d);
    if (processes_count(d) == 0)
        all_gone(d);
}

void
district_cannot_take_over(District *d, const char *why)
{
    g_autofree char *reason = g_strdup_printf("cannot take over: %s", why);

    district_set_state(d, STATE_STANDBY, reason);
    daemon_event(d->daemon, "standby-unfit", d->name, "%s", reason);
}

void
district_supersede(District *d, const char *host, uint64_t incarnation)
{
    g_autofree char *reason =
        g_strdup_printf("superseded by %s (incarnation %" G_GUINT64_FORMAT ")", host, incarnation);
    g_autoptr(GError) error = NULL;

    /* First of all nothing of ours runs on. */
    processes_end(d, TRUE, NULL);
    if (d->job != NULL)
        job_fail_new(d->job, CONTROL_ERROR_STATE, "%s: %s", d->name, reason);
    g_free(d->record.superseded_by);
    d->record.superseded_by = g_strdup(host);
    d->record.superseded_incarnation = incarnation;
    d->record.role = ROLE_NONE;
    d->record.protect = FALSE;
    d->record.failover_wanted = FALSE;
    d->record.ended_incarnation = 0;
    g_clear_pointer(&d->record.handing_to, g_free);
    d->seen = MAX(d->seen, incarnation);
    if (!district_save_record(d, &error))
        g_warning("%s", error->message);
    district_set_state(d, STATE_SUPERSEDED, reason);
}

/* ---- One process has ended ---- */

static gboolean
has_engines(const District *d)
{
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        if (processes_find(d, "vmm", m->name) != NULL)
            return TRUE;
    }
    return FALSE;
}

/* It goes on by itself with members that run; it waits with members that are all paused. */
static void
on_resumed_state(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptStatusReply *s = ((const District__CkptMessage *)message)->reply->status;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;

    if (s != NULL && strcmp(s->state, "running") == 0) {
        job_next(job);
        return;
    }
    start.incarnation = job->district->incarnation;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
    request.start = &start;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_TIMEOUT_MS, NULL);
}

static void
step_resume(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_TIMEOUT_MS, on_resumed_state);
}

/* Protect again at once: a standby with AutoFailover= is counting. If it fails the ticker tries on.
 */
static void
resume_done(JsonObject *result, const GError *error, gpointer data)
{
    District *d = data;
    g_autofree char *host = g_strdup(d->record.peer);

    if (error != NULL)
        g_warning("%s", error->message);
    else if (d->record.protect && host != NULL)
        operation_protect(d, host, &d->record.pacing, d->record.output_commit, operation_done_log,
                          NULL);
}

static const JobStep resume_steps[] = {step_resume, NULL};

gboolean
ckpt_lost(District *d, const GError *error)
{
    Child *ckpt = processes_find(d, "ckpt", NULL);

    if (error->code != CONTROL_ERROR_UNREACHABLE)
        return FALSE;
    /* One that hangs is as good as dead. Its exit is what goes on from here. */
    if (ckpt != NULL)
        child_signal(ckpt, SIGKILL);
    return TRUE;
}

static void
undo_resume(Job *job)
{
    District *d = job->district;

    if (!d->ending && !d->unit_failed && !ckpt_lost(d, job->error))
        district_fail(d, job->error->message);
}

void
ckpt_resume(District *d)
{
    if (!has_engines(d))
        return; /* all are off: the ticker stops it */
    Job *job = job_new(d, "recovery", resume_steps, resume_done, d);
    if (job == NULL)
        return;
    job->undo = undo_resume;
    job_next(job);
}

void
ckpt_restart(District *d)
{
    g_autoptr(GError) error = NULL;

    if (d->job != NULL)
        job_fail_new(d->job, CONTROL_ERROR_FAILED, "%s: district-ckpt ended: look into ckpt.log",
                     d->name);
    if (d->ending || d->unit_failed)
        return;
    if (processes_start_one(d, "ckpt", &error))
        ckpt_resume(d);
    else
        district_fail(d, error->message);
}

static void
ckpt_exited(District *d, int status)
{
    g_clear_pointer(&d->ckpt, rpc_free);
    if (d->state == STATE_HANDED_OVER && !d->taking_back)
        return; /* started again if the district is taken back */
    if (storm_note_death(&d->ckpt_storm)) {
        district_fail(d, "district-ckpt ends again and again: look into ckpt.log");
        return;
    }
    daemon_event(d->daemon, "restarted", d->name, "district-ckpt ended (status %d)", status);
    if (d->state != STATE_HANDED_OVER) /* else the ticker takes it back, once more */
        ckpt_restart(d);
}

static void
net_exited(District *d, int status)
{
    g_autoptr(GError) error = NULL;

    if (storm_note_death(&d->net_storm)) {
        district_fail(d, "district-net ends again and again: look into net.log");
        return;
    }
    daemon_event(d->daemon, "restarted", d->name, "district-net ended (status %d)", status);
    if (!processes_start_one(d, "net", &error))
        district_fail(d, error->message);
}

static void
standby_exited(District *d, int status)
{
    g_autoptr(GError) error = NULL;

    g_clear_pointer(&d->standby, rpc_free);
    /* Its stream ended with it: if the home does not come back, silence counts from here. */
    if (d->stream_up && d->stream_lost_ns == 0)
        d->stream_lost_ns = clock_monotonic_ns();
    d->stream_up = FALSE;
    exposure_silent(&d->exposure, d->stream_heard_ns);
    if (d->standby_ending || d->record.role != ROLE_STANDBY)
        return;
    if (storm_note_death(&d->standby_storm)) {
        district_set_state(d, STATE_STANDBY,
                           "district-standby ends again and again: look into standby.log");
        return;
    }
    daemon_event(d->daemon, "restarted", d->name, "district-standby ended (status %d)", status);
    if (d->n_hold_fds == 0)
        d->has_commit = FALSE;
    if (!processes_start_standby(d, &error))
        g_warning("%s", error->message);
}

void
district_member_off(District *d, const char *member)
{
    g_hash_table_add(d->members_off, g_strdup(member));
    daemon_event(d->daemon, "member-off", d->name, "member %s powered itself off", member);
    if (d->job == NULL && !has_engines(d))
        operation_stop(d, FALSE, operation_done_log, NULL);
}

void
district_stop_if_off(District *d)
{
    if (d->state == STATE_RUNNING && d->job == NULL && !d->ending && !d->unit_failed &&
        !has_engines(d))
        operation_stop(d, FALSE, operation_done_log, NULL);
}

/* Of an engine that we adopted there is no exit status. */
static gboolean
ended_well(const District *d, const char *member, int status)
{
    return status == 0 || (status == CHILD_STATUS_UNKNOWN && process_member_ended(d, member));
}

static void
member_exited(District *d, const char *member, int status)
{
    g_autofree char *why = NULL;

    if (ended_well(d, member, status) || g_hash_table_contains(d->members_off, member)) {
        district_member_off(d, member);
        return;
    }
    why = g_strdup_printf("member %s was lost (district-vmm ended, status %d): look into %s.log",
                          member, status, member);
    district_fail(d, why);
}

/* A take-over goes on without district-net or district-ckpt: TRUE if they are started again. */
static gboolean
restarted_in_takeover(District *d, const char *kind, int status)
{
    gboolean net = strcmp(kind, "net") == 0;
    g_autoptr(GError) error = NULL;

    if (!takeover_has_image(d) || strcmp(kind, "vmm") == 0 ||
        storm_note_death(net ? &d->net_storm : &d->ckpt_storm))
        return FALSE;
    /* Whether a lost district-net had the image's flows already, district-ckpt will find. */
    if (net ? processes_start_one(d, "net", &error) : takeover_recover(d, &error)) {
        daemon_event(d->daemon, "restarted", d->name, "district-%s ended (status %d)", kind,
                     status);
        return TRUE;
    }
    g_warning("%s", error->message);
    return FALSE;
}

static void
exited_while_busy(District *d, const RunProcess *p, int status)
{
    if (restarted_in_takeover(d, p->kind, status))
        return;
    /* A guest that powers itself off at once, or was off in the image that is being run. */
    if (d->job != NULL && strcmp(p->kind, "vmm") == 0 && ended_well(d, p->member, status)) {
        g_hash_table_add(d->members_off, g_strdup(p->member));
        daemon_event(d->daemon, "member-off", d->name, "member %s is off", p->member);
        return;
    }
    g_autofree char *why =
        g_strdup_printf("district-%s%s%s ended (status %d)%s: look into %s.log", p->kind,
                        p->member != NULL ? " of " : "", p->member != NULL ? p->member : "", status,
                        status == CHILD_STATUS_NO_EXEC ? ", it could not be executed" : "",
                        p->member != NULL ? p->member : p->kind);
    gboolean standby = d->record.role == ROLE_STANDBY;
    if (d->job != NULL) {
        job_fail_new(d->job, CONTROL_ERROR_FAILED, "%s: %s", d->name, why);
        if (!standby)
            return;
    } else if (standby) {
        district_cannot_take_over(d, why);
    }
    /* Those kept warm for a take-over are of use together only; it starts them anew. */
    processes_end(d, TRUE, NULL);
}

void
process_exited(Child *child, int status, gpointer data)
{
    District *d = data;
    guint index = 0;
    g_autoptr(GError) error = NULL;

    g_ptr_array_find(d->children, child, &index);
    g_ptr_array_steal_index(d->children, index);
    const RunProcess *p = child_process(child);
    if (strcmp(p->kind, "standby") == 0)
        standby_exited(d, status);
    else if (d->ending)
        one_less(d);
    else if (d->state != STATE_RUNNING && d->state != STATE_HANDED_OVER)
        exited_while_busy(d, p, status);
    else if (strcmp(p->kind, "ckpt") == 0)
        ckpt_exited(d, status);
    else if (strcmp(p->kind, "net") == 0)
        net_exited(d, status);
    else
        member_exited(d, p->member, status);
    /* Now only: who is not listed any more is off to a districtd after this one, and not lost. */
    if (!processes_save(d, &error))
        g_warning("%s", error->message);
    child_free(child);
}

/* ---- What the processes tell ---- */

void
district_ckpt_event(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                    gpointer data)
{
    District *d = data;
    const District__CkptEvent *event = ((District__CkptMessage *)message)->event;
    Daemon *daemon = d->daemon;

    if (event == NULL)
        return;
    d->ckpt_rests = FALSE;
    switch (event->kind) {
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED:
        daemon_event(daemon, "protected", d->name, "by %s",
                     d->record.peer != NULL ? d->record.peer : "?");
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STREAM_LOST:
        daemon_event(daemon, "stream-lost", d->name, "%s", event->text);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DETACHED:
        daemon_event(daemon, "detached", d->name, "goes on unprotected: %s", event->text);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_REFUSED:
        daemon_event(daemon, "refused", d->name, "by its standby: %s", event->text);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STORE_FAILED:
        daemon_event(daemon, "store-failed", d->name, "no durable checkpoint: %s; trying again",
                     event->text);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_WAITS:
        daemon_event(daemon, "member-waits", d->name, "member %s: %s", event->member, event->text);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_SUPERSEDED:
        district_supersede(d, d->record.peer != NULL ? d->record.peer : "?", event->incarnation);
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF:
        g_hash_table_add(d->members_off, g_strdup(event->member));
        break;
    case DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_LOST:
        if (d->state == STATE_RUNNING && !g_hash_table_contains(d->members_off, event->member)) {
            g_autofree char *why =
                g_strdup_printf("member %s was lost: %s", event->member, event->text);
            district_fail(d, why);
        }
        break;
    default:
        break;
    }
}

static void
keep_held_fds(District *d, int *fds, guint n_fds)
{
    fdmsg_close_fds(d->hold_fds, d->n_hold_fds);
    g_free(d->hold_fds);
    d->hold_fds = g_memdup2(fds, n_fds * sizeof(*fds));
    d->n_hold_fds = n_fds;
    for (guint i = 0; i < n_fds; i++)
        fds[i] = -1;
}

static void
standby_has_commit(District *d)
{
    g_autoptr(GError) error = NULL;

    d->has_commit = TRUE;
    daemon_event(d->daemon, "standby-ready", d->name, "can take over");
    /* Have everything but the RAM ready for a take-over; if that fails it is tried again then. Not
     * with disks or journals: the next copy replaces their files, which engines would have open. */
    if (d->state != STATE_STANDBY || d->job != NULL || d->ending || d->record.copy != 0)
        return;
    if (processes_start(d, TRUE, &error))
        district_set_state(d, STATE_STANDBY, NULL);
    else
        district_cannot_take_over(d, error->message);
}

/* A life sign ends a silence, but makes nothing committed: see control/exposure.h. */
static void
stream_heard(District *d, int64_t now)
{
    d->stream_up = TRUE;
    d->stream_lost_ns = 0;
    d->stream_heard_ns = now;
}

void
district_standby_event(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                       gpointer data)
{
    District *d = data;
    const District__StandbyEvent *event = ((District__StandbyMessage *)message)->event;
    int64_t now = clock_monotonic_ns();
    int64_t silence = d->definition->failover_after_ms * NS_PER_MS;

    if (event == NULL)
        return;
    switch (event->kind) {
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_CONNECTED:
        exposure_begun(&d->exposure, d->stream_heard_ns);
        stream_heard(d, now);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HEARD:
        stream_heard(d, now);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_COMMITTED_FIRST:
        exposure_synced(&d->exposure, now);
        standby_has_commit(d);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_LOST:
        if (d->state == STATE_ACTIVATING) /* it was we who ended it */
            exposure_silent(&d->exposure, d->stream_heard_ns);
        else
            exposure_lost(&d->exposure, d->stream_heard_ns, now);
        d->stream_up = FALSE;
        if (d->stream_lost_ns == 0)
            d->stream_lost_ns = now;
        daemon_event(d->daemon, "stream-lost", d->name, "%s", event->text);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_SILENT:
        exposure_silent(&d->exposure, MIN(d->stream_heard_ns, now - silence));
        if (d->stream_lost_ns == 0)
            d->stream_lost_ns = now - silence;
        daemon_event(d->daemon, "stream-silent", d->name, "%s", event->text);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HOLD:
        keep_held_fds(d, fds, n_fds);
        break;
    case DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_REFUSED:
        daemon_event(d->daemon, "refused", d->name, "%s", event->text);
        break;
    default:
        break;
    }
}

void
district_watch_home(District *d)
{
    Peer *peer = d->record.peer ? g_hash_table_lookup(d->daemon->peers, d->record.peer) : NULL;

    if (d->state != STATE_STANDBY || !d->definition->auto_failover || !d->has_commit ||
        d->record.home_stopped || d->job != NULL || peer == NULL)
        return;
    Silence silence = {d->stream_lost_ns, peer_heard_ns(peer), d->daemon->stalled_ns};
    if (!incarnation_may_promote(&silence, clock_monotonic_ns(),
                                 d->definition->failover_after_ms * NS_PER_MS))
        return;
    daemon_event(d->daemon, "failover", d->name, "host %s is silent on all paths: taking over",
                 d->record.peer);
    operation_takeover(d, 0, FALSE, operation_done_log, NULL);
}
