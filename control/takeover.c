/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operation: the standby becomes home; by failover (decided by a person, by a silent home, or by a
 * home whose members failed) or as the target of a migration.
 *
 * The order makes it safe to be killed between any two steps. Our processes are up and waiting before
 * anything is asked of others: a host that cannot run the district does not end it elsewhere. The
 * new incarnation is on disk before anyone is told of it. The home, if it can be reached, ends its
 * members before ours run. Then district-standby is asked for the image, and keeps it until the
 * members run. A home that has handed over must be told at once that we are at it, or it would take
 * back: so a planned take-over is ACTIVATING from its first step. The role on disk changes last; an
 * adopting districtd finds out from district-ckpt whether the members already run.
 *
 * Right before they run district-ckpt marks the image as spent: from then on the engines hold the
 * only copy of the district. So a district-ckpt that ends after that is started again, and goes on
 * with the members that it finds loaded; before that, everything is ended and the image is kept.
 */
#include "control/daemon.h"
#include "common/clock.h"
#include "common/fdmsg.h"
#include "common/memfd.h"
#include "ckpt.pb-c.h"
#include "standby.pb-c.h"

#include <fcntl.h>
#include <string.h>

#define ASK_HOME_MS 10000
#define CKPT_READY_MS 45000
#define ACTIVATE_MS 30000
#define DISKS_MS 5000
/* What district-ckpt allows itself: 30 s to load, 5 s each for the switch, the members to resume and
 * the announcement, 2 s for engines of members that stay off; and as much again on a busy host. */
#define START_IMAGE_MS 90000
#define CKPT_TIMEOUT_MS 30000

static void undo_takeover(Job *job);

static gboolean
check_can_take_over(const District *d, GError **error)
{
    if (d->record.role != ROLE_STANDBY)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: this host is not its standby",
                    d->name);
    else if (d->standby == NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: district-standby does not run: look into standby.log", d->name);
    else if (!d->has_commit)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                    "%s: nothing has been committed here yet: wait for the first full copy",
                    d->name);
    else
        return TRUE;
    return FALSE;
}

static void
step_check(Job *job)
{
    g_autoptr(GError) error = NULL;

    if (!check_can_take_over(job->district, &error)) {
        job_fail(job, error);
        return;
    }
    job->undo = undo_takeover; /* from here on there is something to undo */
    if (job->planned)
        district_set_state(job->district, STATE_ACTIVATING, NULL);
    job_next(job);
}

/* What an attempt before this one has left is on its way out, and not to be taken for warm. */
static void
step_wait_gone(Job *job)
{
    District *d = job->district;

    if (d->ending || (d->record.copy != 0 && processes_count(d) > 0))
        processes_end(d, TRUE, job);
    else
        job_next(job);
}

/* ---- The disks of the copy ---- */

static const District__StandbyDisk *
find_disk(const District__StandbyDisksReply *reply, const char *member, guint k)
{
    for (size_t i = 0; i < reply->n_disks; i++) {
        if (reply->disks[i]->index == k && strcmp(reply->disks[i]->member, member) == 0)
            return reply->disks[i];
    }
    return NULL;
}

/* Are all disks of member in the copy, where its engine will look for them? */
static gboolean
check_member_disks(Job *job, const DefinitionMember *m, const District__StandbyDisksReply *reply,
                   guint *n)
{
    guint k = 0;

    for (guint i = 0; i < m->disks->len; i++) {
        gboolean moved = FALSE;
        g_autofree char *home = district_disk_home(job->district, m, i, &moved);
        if (!moved)
            continue;
        const District__StandbyDisk *disk = find_disk(reply, m->name, k);
        if (disk == NULL || strcmp(disk->file, home) != 0) {
            job_fail_new(job, CONTROL_ERROR_FAILED, "%s: member %s: disk %u is not in the copy: %s",
                         job->district->name, m->name, i,
                         disk == NULL ? "it was made of another definition" : disk->file);
            return FALSE;
        }
        k++;
    }
    *n += k;
    return TRUE;
}

static void
on_disks(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    District *d = job->district;
    const District__StandbyDisksReply *reply =
        ((const District__StandbyMessage *)message)->reply->disks;
    g_autoptr(GError) error = NULL;
    guint n = 0;

    if (reply == NULL) {
        job_fail_new(job, CONTROL_ERROR_FAILED,
                     "%s: district-standby does not say what disks it has", d->name);
        return;
    }
    for (guint i = 0; i < d->definition->members->len; i++) {
        if (!check_member_disks(job, d->definition->members->pdata[i], reply, &n))
            return;
    }
    if (n != reply->n_disks) {
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: the copy has %zu disks, its definition %u",
                     d->name, reply->n_disks, n);
        return;
    }
    job->disks_epoch = reply->epoch;
    job->journals = journals_identity(d, &error);
    if (error != NULL)
        job_fail(job, error);
    else
        job_next(job);
}

/* Engines are started on files that a full copy may still replace: which copy are they of? */
static void
step_ask_disks(Job *job)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyDisksRequest disks = DISTRICT__STANDBY_DISKS_REQUEST__INIT;

    if (job->district->record.copy == 0) {
        job_next(job);
        return;
    }
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_DISKS;
    request.disks = &disks;
    job_call(job, job->district->standby, &request.base, NULL, 0, DISKS_MS, on_disks);
}

/* ---- The home ---- */

static void
step_new_incarnation(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    if (job->incarnation == 0)
        job->incarnation = MAX(district_next_incarnation(d), d->record.home_incarnation + 1);
    if (!district_save_incarnation(d, job->incarnation, &error)) {
        job_fail(job, error);
        return;
    }
    district_set_state(d, STATE_ACTIVATING, NULL);
    job_next(job);
}

static void ask_home(Job *job);

static void
on_home_ended(JsonObject *answer, const GError *error, gpointer data)
{
    Job *job = data;

    /* A home that was set up anew has nothing of it to end. */
    if (error == NULL || error->code == CONTROL_ERROR_NOT_FOUND || job->finished ||
        job->district->daemon->closing)
        job_next(job);
    else if (error->code == CONTROL_ERROR_UNREACHABLE)
        ask_home(job); /* there may be another path */
    else
        job_fail(job, error); /* a newer home speaks, or one that cannot say what runs there */
    job_unref(job);
}

/* One that cannot be reached, or lives and does not answer in time, is what a failover is for. */
static void
ask_home(Job *job)
{
    District *d = job->district;
    Peer *peer = g_hash_table_lookup(d->daemon->peers, d->record.peer);
    int64_t left_ms = (job->deadline_ns - clock_monotonic_ns()) / NS_PER_MS;

    if (peer == NULL || !peer_reachable(peer) || left_ms <= 0) {
        job_next(job);
        return;
    }
    JsonObject *arguments = exchange_arguments(d);
    json_object_set_int_member(arguments, "incarnation", (gint64)job->incarnation);
    peer_request(peer, "take-over", arguments, (int)left_ms, on_home_ended, job_ref(job));
}

/* Whoever decided: a home that was silent then may have been heard since. */
static void
step_end_home(Job *job)
{
    if (job->planned) {
        job_next(job);
        return;
    }
    job->deadline_ns = clock_monotonic_ns() + ASK_HOME_MS * NS_PER_MS;
    ask_home(job);
}

static void
step_wait_ready(Job *job)
{
    job_wait_ckpt_state(job, "waiting", CKPT_READY_MS);
}

/*
 * Are crossing connections to be reset? Not if nothing left the boundary that was not committed:
 * after a hand-over, or with output commit unless the home may have had to do without it.
 */
static gboolean
must_reset_crossing(const Job *job)
{
    const District *d = job->district;

    if (job->planned)
        return FALSE;
    if (!d->record.output_commit)
        return TRUE;
    return exposure_must_reset(&d->exposure, d->stream_heard_ns, clock_monotonic_ns(),
                               d->definition->detach_after_ms);
}

/* ---- With the image at district-ckpt ---- */

/* If district-ckpt was lost its exit goes on from here: takeover_recover. */
static void
on_started(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Job *job = data;
    District *d = job->district;

    if (error == NULL || job->finished || d->daemon->closing)
        job_next(job);
    else if (!ckpt_lost(d, error))
        job_fail(job, error);
    job_unref(job);
}

static void
call_ckpt(Job *job, District__CkptRequest *request, const int *fds, guint n_fds, int timeout_ms,
          RpcReply reply)
{
    rpc_call(job->district->ckpt, &request->base, fds, n_fds, timeout_ms, reply, job_ref(job));
}

/* How many members of a district-ckpt are in this state? */
static guint
members_in(const District__CkptStatusReply *s, const char *state)
{
    guint n = 0;

    for (size_t i = 0; i < s->n_members; i++)
        n += strcmp(s->members[i]->state, state) == 0 ? 1 : 0;
    return n;
}

static void
go_on_from(Job *job, const District__CkptStatusReply *s)
{
    District *d = job->district;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;
    guint awaiting = members_in(s, "awaiting restore");

    if (strcmp(s->state, "running") == 0) {
        job_next(job);
    } else if (strcmp(s->state, "waiting") == 0 && awaiting == 0) {
        start.incarnation = job->incarnation;
        request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
        request.start = &start;
        call_ckpt(job, &request, NULL, 0, CKPT_TIMEOUT_MS, on_started);
    } else if (strcmp(s->state, "waiting") == 0 && members_in(s, "paused") == 0) {
        /* Only kept warm: nothing was activated, and the next step will find that. */
        district_set_state(d, STATE_STANDBY, NULL);
        job_next(job);
    } else {
        job_fail_new(job, CONTROL_ERROR_FAILED,
                     "%s: district-ckpt is \"%.40s\" after a take-over that was interrupted: look "
                     "into ckpt.log",
                     d->name, s->state);
    }
}

static void
on_found(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Job *job = data;

    if (error != NULL || job->finished) {
        on_started(message, fds, n_fds, error, data);
        return;
    }
    const District__CkptStatusReply *s = ((const District__CkptMessage *)message)->reply->status;
    if (s != NULL)
        go_on_from(job, s);
    else
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: district-ckpt does not say how it is",
                     job->district->name);
    job_unref(job);
}

static void
step_look(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    call_ckpt(job, &request, NULL, 0, CKPT_TIMEOUT_MS, on_found);
}

static void
on_activated(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__StandbyMessage *m = (const District__StandbyMessage *)message;
    const District__StandbyActivateReply *reply = m->reply->activate;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartImageRequest start = DISTRICT__CKPT_START_IMAGE_REQUEST__INIT;
    guint n_disks = reply != NULL ? (guint)reply->n_disk_files : 0;

    if (n_disks > 0 && reply->disks_epoch != job->disks_epoch) {
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: a new copy of the disks has come in just now: try again",
                     job->district->name);
        return;
    }
    if (journals_identity(job->district, NULL) != job->journals) {
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: a new copy of the journals has come in just now: try again",
                     job->district->name);
        return;
    }
    /* The engines have the disks' files open already. */
    n_fds = n_fds > n_disks ? n_fds - n_disks : 0;
    /* A member whose guest had powered itself off is not in it. */
    if (reply == NULL || n_fds < 2 || n_fds > job->district->definition->members->len + 1) {
        job_fail_new(job, CONTROL_ERROR_FAILED,
                     "%s: district-standby gave an image of %u descriptors for %u members",
                     job->district->name, n_fds, job->district->definition->members->len);
        return;
    }
    start.state_len = reply->state_len;
    start.incarnation = job->incarnation;
    job->resets = job->resets || must_reset_crossing(job);
    start.reset_crossing = job->resets;
    start.journal_current = job->planned;
    json_object_set_int_member(job->result, "epoch", (gint64)reply->epoch);
    json_object_set_boolean_member(job->result, "connections_reset", start.reset_crossing);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START_IMAGE;
    request.start_image = &start;
    job->fd = fcntl(fds[1], F_DUPFD_CLOEXEC, 3); /* to see when it is spent */
    job->id = 1;                                 /* from here on members may hold the image */
    call_ckpt(job, &request, fds, n_fds, START_IMAGE_MS, on_started);
}

static void
step_activate(Job *job)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyActivateRequest activate = DISTRICT__STANDBY_ACTIVATE_REQUEST__INIT;

    /* Once more when the image is here: until then time goes on counting. */
    job->resets = must_reset_crossing(job);
    activate.incarnation = job->incarnation;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ACTIVATE;
    request.activate = &activate;
    job_call(job, job->district->standby, &request.base, NULL, 0, ACTIVATE_MS, on_activated);
}

static void
step_become_home(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;
    double ms = (double)(clock_monotonic_ns() - job->started_ns) / 1e6;

    if (d->state != STATE_ACTIVATING) {
        job_next(job); /* found to be warm only */
        return;
    }
    d->record.role = ROLE_HOME;
    if (d->record.copy != 0)
        d->record.lineage = d->record.copy;
    d->record.copy = 0;
    d->record.home_stopped = FALSE;
    d->record.home_incarnation = 0;
    /* After a planned move the way back is kept open; after a failure that is a person's decision.
     */
    d->record.protect = job->planned;
    if (!district_save_record(d, &error))
        g_warning("%s", error->message); /* it runs: an adopting districtd finds that out as well */
    processes_end_standby(d);
    district_set_state(d, STATE_RUNNING, NULL);
    json_object_set_int_member(job->result, "incarnation", (gint64)job->incarnation);
    json_object_set_double_member(job->result, "decided_to_running_ms", ms);
    daemon_event(d->daemon, "took-over", d->name,
                 "incarnation %" G_GUINT64_FORMAT
                 " runs %.1f ms after the decision; connections across the boundary %s",
                 job->incarnation, ms, job->resets ? "are reset" : "go on");
    job_next(job);
}

static void
undo_takeover(Job *job)
{
    District *d = job->district;

    if (d->state != STATE_ACTIVATING && d->state != STATE_STANDBY)
        return;
    /* district-standby keeps the image until it is ended, and refuses it once members have run. */
    if (d->state == STATE_ACTIVATING)
        processes_end(d, TRUE, NULL);
    district_cannot_take_over(d, job->error->message);
}

static const JobStep takeover_steps[] = {
    step_check,           step_wait_gone, step_ask_disks, step_start_processes, step_wait_ready,
    step_new_incarnation, step_end_home,  step_activate,  step_become_home,     NULL};

void
operation_takeover(District *d, uint64_t incarnation, gboolean planned, JobDone done, gpointer data)
{
    Job *job = job_new(d, planned ? "activation" : "failover", takeover_steps, done, data);
    if (job == NULL)
        return;
    job->incarnation = incarnation;
    job->planned = planned;
    job_next(job);
}

gboolean
takeover_is_under_way(const District *d)
{
    return d->job != NULL && d->job->steps == takeover_steps;
}

/* ---- Interrupted take-overs ---- */

gboolean
takeover_has_image(const District *d)
{
    return d->state == STATE_ACTIVATING && d->job != NULL && d->job->undo == undo_takeover &&
           d->job->id != 0;
}

gboolean
takeover_recover(District *d, GError **error)
{
    Job *job = d->job;

    g_clear_pointer(&d->ckpt, rpc_free);
    /* The descriptor is missing if a districtd before us passed the image on. */
    if (job->fd >= 0 && !memfd_is_spent(job->fd)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: district-ckpt ended before the members ran; the standby keeps the image: "
                    "look into ckpt.log",
                    d->name);
        return FALSE;
    }
    if (!processes_start_one(d, "ckpt", error))
        return FALSE;
    step_look(job);
    return TRUE;
}

static const JobStep resume_steps[] = {step_look, step_become_home, NULL};

gboolean
takeover_is_unclear(const District *d)
{
    return d->state == STATE_ACTIVATING && d->job != NULL && d->job->steps == resume_steps;
}

void
takeover_resume(District *d)
{
    Job *job = job_new(d, "take-over", resume_steps, operation_done_log, NULL);
    if (job == NULL)
        return;
    job->incarnation = d->incarnation;
    job->id = 1;
    job->undo = undo_takeover;
    job_next(job);
}
