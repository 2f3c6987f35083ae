/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations that bring members up on their home: start, and restart from a checkpoint file. A
 * restart ends what runs only when nothing is known that would stand in the way of what is to come.
 * A clone has but one checkpoint: it goes on from that, whichever of the two is asked for.
 */
#include "control/daemon.h"
#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define ASK_TIMEOUT_MS 2000
#define CKPT_READY_MS 45000
#define CKPT_START_MS 30000
#define CKPT_LOAD_MS 600000
#define CKPT_POLL_MS 10

/* ---- Waiting for district-ckpt ---- */

static gboolean ask_ckpt_state(gpointer data);

static void
on_ckpt_state(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptMessage *m = (const District__CkptMessage *)message;
    const char *state = m->reply->status != NULL ? m->reply->status->state : "";

    if (job->label == NULL || strcmp(state, job->label) == 0) {
        job_next(job);
        return;
    }
    if (clock_monotonic_ns() > job->deadline_ns) {
        job_fail_new(
            job, CONTROL_ERROR_FAILED,
            "%s: district-ckpt is \"%.40s\" and does not become \"%s\": look into ckpt.log",
            job->district->name, state, job->label);
        return;
    }
    job->poll = g_timeout_add(CKPT_POLL_MS, ask_ckpt_state, job);
}

static gboolean
ask_ckpt_state(gpointer data)
{
    Job *job = data;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    job->poll = 0;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_READY_MS, on_ckpt_state);
    return G_SOURCE_REMOVE;
}

/* Go on when district-ckpt answers and, if state is not NULL, is in that state. */
void
job_wait_ckpt_state(Job *job, const char *state, int timeout_ms)
{
    g_free(job->label);
    job->label = g_strdup(state);
    job->deadline_ns = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
    ask_ckpt_state(job);
}

/* ---- Steps ---- */

static const char *
why_not_startable(const District *d)
{
    if (d->record.role == ROLE_STANDBY)
        return "its home is another host: start it there, or take over with district failover";
    if (d->state == STATE_HANDED_OVER)
        return "it was handed over and the target has not answered yet: connect the hosts";
    return NULL;
}

/* Of what came from elsewhere this host need not have what is in the checkpoint. */
static unsigned
files_less(const Job *job)
{
    if (job->district->record.lineage == 0)
        return 0;
    return DEFINITION_DISKS_MOVED | (job->id != 0 ? DEFINITION_NO_BOOT : 0);
}

static void
check_startable(Job *job, const char *why)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    if (why != NULL)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: %s", d->name, why);
    else if (d->record.role == ROLE_NONE && !job->force)
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: %s: run it there, or start --force to give that life up", d->name,
                     d->reason != NULL ? d->reason : "its home is another host");
    else if (!definition_check_files(d->definition, files_less(job), &error) ||
             !district_check_bridge(d, &error) || !journals_prepare(d, &error))
        job_fail(job, error);
    else
        job_next(job);
}

static void
step_check(Job *job)
{
    const District *d = job->district;
    const char *why = why_not_startable(d);

    if (why == NULL && (processes_count(d) > 0 || district_is_active(d)))
        why = "it runs already";
    check_startable(job, why);
}

/* The same for one that may run now. */
static void
step_check_restart(Job *job)
{
    const District *d = job->district;
    const char *why = why_not_startable(d);

    if (why == NULL && d->state != STATE_RUNNING &&
        (processes_count(d) > 0 || district_is_active(d)))
        why = "it is being started or ended: wait, or stop it first";
    check_startable(job, why);
}

static void
take_peer_claim(Job *job, JsonObject *answer, const GError *error)
{
    District *d = job->district;
    Claim own = district_claim(d);
    Claim claim = {0};

    if (error == NULL && !claim_from_json(answer, &claim) && !job->force)
        job_fail_new(job, CONTROL_ERROR_FAILED,
                     "%s: host %s does not say what it has of it: update that host, or start "
                     "--force if it is surely not running there",
                     d->name, d->record.peer);
    else if (error != NULL && error->code != CONTROL_ERROR_NOT_FOUND && !job->force)
        job_fail_new(job, CONTROL_ERROR_UNREACHABLE,
                     "%s: host %s may have taken over and cannot be asked (%s): connect it, or "
                     "start --force if it is surely not running there",
                     d->name, d->record.peer, error->message);
    else if (error == NULL && claim.active)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: host %s runs it, or is about to", d->name,
                     d->record.peer);
    else if (error == NULL && claim.home && claim.incarnation > own.incarnation)
        district_supersede(d, d->record.peer, claim.incarnation);
    else {
        if (error == NULL)
            d->seen = MAX(d->seen, claim.incarnation);
        job_next(job);
    }
}

static void
on_peer_claim(JsonObject *answer, const GError *error, gpointer data)
{
    Job *job = data;

    /* The district of one that has ended may be gone. */
    if (!job->finished)
        take_peer_claim(job, answer, error);
    job_unref(job);
}

/* Has the standby become home since? Nothing starts before that is known. */
static void
step_ask_peer(Job *job)
{
    District *d = job->district;
    Peer *peer = d->record.peer ? g_hash_table_lookup(d->daemon->peers, d->record.peer) : NULL;

    if (peer == NULL) {
        job_next(job);
        return;
    }
    JsonObject *arguments = exchange_arguments(d);
    peer_request(peer, "who-runs", arguments, ASK_TIMEOUT_MS, on_peer_claim, job_ref(job));
}

static void
step_new_incarnation(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;
    uint64_t number = district_next_incarnation(d);
    const Record before = d->record;

    /* Above the number that the target of a hand-over was given. */
    if (d->record.ended_incarnation != 0)
        number = MAX(number, d->record.ended_incarnation + 2);
    if (!district_save_incarnation(d, number, &error)) {
        job_fail(job, error);
        return;
    }
    d->record.role = ROLE_HOME;
    d->record.stopped = FALSE;
    d->record.failover_wanted = FALSE;
    d->record.ended_incarnation = 0;
    d->record.handing_to = NULL;
    d->record.superseded_incarnation = 0;
    d->record.superseded_by = NULL;
    if (!district_save_record(d, &error)) {
        d->record = before; /* its home is not here: claimed to be, it would end elsewhere */
        job_fail(job, error);
        return;
    }
    g_free(before.handing_to);
    g_free(before.superseded_by);
    job_next(job);
}

void
step_start_processes(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;
    gboolean standby = d->record.role == ROLE_STANDBY;
    gboolean incoming = job->id != 0 || standby;

    if (!standby)
        district_set_state(d, STATE_STARTING, NULL);
    if (processes_start(d, incoming, &error))
        job_next(job);
    else
        job_fail(job, error);
}

void
step_wait_ckpt(Job *job)
{
    job_wait_ckpt_state(job, NULL, CKPT_READY_MS);
}

static void
step_ckpt_start(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;

    start.incarnation = job->district->incarnation;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
    request.start = &start;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_START_MS, NULL);
}

static void
step_ckpt_start_store(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartStoreRequest start = DISTRICT__CKPT_START_STORE_REQUEST__INIT;
    g_autofree char *from = g_strdup_printf("%" G_GUINT64_FORMAT, job->id);

    start.from = from;
    start.incarnation = job->district->incarnation;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START_STORE;
    request.start_store = &start;
    json_object_set_int_member(job->result, "checkpoint", (gint64)job->id);
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_LOAD_MS, NULL);
}

/* From now on a start boots it, as any other. */
static void
district_resumed(District *d)
{
    g_autoptr(GError) error = NULL;

    if (!d->record.resume)
        return;
    d->record.resume = FALSE;
    if (!district_save_record(d, &error))
        g_warning("%s: after a restart of districtd its next start will not boot it: %s", d->name,
                  error->message);
}

static void
step_running(Job *job)
{
    District *d = job->district;

    district_set_state(d, STATE_RUNNING, NULL);
    district_resumed(d);
    json_object_set_int_member(job->result, "incarnation", (gint64)d->incarnation);
    json_object_set_double_member(job->result, "started_ms",
                                  (double)(clock_monotonic_ns() - job->started_ns) / 1e6);
    job_next(job);
}

static void
undo_start(Job *job)
{
    District *d = job->district;

    if (d->state != STATE_STARTING)
        return;
    processes_end(d, TRUE, NULL);
    district_set_state(d, STATE_FAILED, job->error->message);
}

static const JobStep start_steps[] = {
    step_check,     step_ask_peer,   step_new_incarnation, step_start_processes,
    step_wait_ckpt, step_ckpt_start, step_running,         NULL};

static void
step_end_running(Job *job)
{
    District *d = job->district;

    if (processes_count(d) == 0) {
        job_next(job);
        return;
    }
    if (d->state != STATE_RUNNING) {
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is %s: wait, or stop it first", d->name,
                     district_state_name(d->state));
        return;
    }
    district_set_state(d, STATE_STOPPING, "restart");
    processes_end(d, FALSE, job);
}

static void
step_stopped(Job *job)
{
    if (job->district->state == STATE_STOPPING)
        district_set_state(job->district, STATE_STOPPED, NULL);
    job_next(job);
}

/* The peer is asked again when all have ended: it may have taken over meanwhile. */
static const JobStep restart_steps[] = {step_check_restart,
                                        step_verify_store,
                                        step_ask_peer,
                                        step_end_running,
                                        step_stopped,
                                        step_check,
                                        step_ask_peer,
                                        step_new_incarnation,
                                        step_start_processes,
                                        step_wait_ckpt,
                                        step_ckpt_start_store,
                                        step_running,
                                        NULL};

static const JobStep clone_start_steps[] = {
    step_check,     clone_step_homes,      step_new_incarnation, step_start_processes,
    step_wait_ckpt, step_ckpt_start_store, step_running,         NULL};
static const JobStep clone_restart_steps[] = {step_check_restart,
                                              step_end_running,
                                              step_stopped,
                                              step_check,
                                              clone_step_homes,
                                              step_new_incarnation,
                                              step_start_processes,
                                              step_wait_ckpt,
                                              step_ckpt_start_store,
                                              step_running,
                                              NULL};

void
operation_start(District *d, gboolean force, JobDone done, gpointer data)
{
    gboolean clone = district_is_clone(d);

    if (d->record.resume) {
        operation_restart(d, NULL, force, done, data);
        return;
    }
    Job *job = job_new(d, "start", clone ? clone_start_steps : start_steps, done, data);
    if (job == NULL)
        return;
    job->id = clone ? d->record.clone_id : 0;
    job->force = force;
    job->undo = undo_start;
    job_next(job);
}

void
operation_restart(District *d, const char *from, gboolean force, JobDone done, gpointer data)
{
    g_autoptr(GError) error = NULL;
    gboolean clone = district_is_clone(d);
    uint64_t id = clone ? d->record.clone_id : checkpoint_find(d, from, &error);

    if (id == 0) {
        done(NULL, error, data);
        return;
    }
    Job *job = job_new(d, "restart", clone ? clone_restart_steps : restart_steps, done, data);
    if (job == NULL)
        return;
    job->id = id;
    job->force = force;
    job->undo = undo_start;
    job_next(job);
}
