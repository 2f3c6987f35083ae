/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operation: migrate, a failover without a failure.
 *
 * Protect by the target (if it does not already), wait until it is in sync, hand over: the last cut
 * leaves the members paused here and is committed there. Then this incarnation is ended on disk,
 * and only then is the target told to run the next one. If it refuses, the members go on here under
 * yet a newer number. If its answer is lost, the members stay paused until the target can be asked
 * (STATE_HANDED_OVER): never do both run, never is the answer guessed.
 */
#include "control/protect.h"
#include "control/daemon.h"
#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <string.h>

#define SYNC_MS 600000
#define SYNC_POLL_MS 50
#define HAND_OVER_MS 30000
#define ACTIVATE_MS 60000
#define TAKE_BACK_MS 30000

static void
step_check(Job *job)
{
    District *d = job->district;

    if (d->state != STATE_RUNNING)
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is %s: only a running district can move",
                     d->name, district_state_name(d->state));
    else if (strcmp(job->host, d->daemon->config->host_name) == 0)
        job_fail_new(job, CONTROL_ERROR_INVALID, "%s: it is on host %s already", d->name,
                     job->host);
    else if (d->record.protect && g_strcmp0(d->record.peer, job->host) != 0)
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: host %s protects it: migrate there, or district unprotect %s first",
                     d->name, d->record.peer, d->name);
    else
        job_next(job);
}

/* The three steps of protect, unless it is protected by the target already. */
static void
unless_protected(Job *job, JobStep step)
{
    if (job->planned)
        job_next(job);
    else
        step(job);
}

static void
step_prepare(Job *job)
{
    District *d = job->district;
    const char *protection = json_get_string(d->ckpt_status, "protection", "off");

    job->planned = d->record.protect && strcmp(protection, "off") != 0;
    unless_protected(job, protect_step_prepare);
}

static void
step_record(Job *job)
{
    unless_protected(job, protect_step_record);
}

static void
step_protect(Job *job)
{
    unless_protected(job, protect_step_ckpt);
}

static gboolean ask_protection(gpointer data);

static void
on_protection(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptStatusReply *s = ((const District__CkptMessage *)message)->reply->status;

    if (s != NULL && strcmp(s->protection, "protected") == 0)
        job_next(job);
    else if (clock_monotonic_ns() > job->deadline_ns)
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: host %s does not get in sync: %s",
                     job->district->name, job->host, s != NULL ? s->protection_error : "?");
    else
        job->poll = g_timeout_add(SYNC_POLL_MS, ask_protection, job);
}

static gboolean
ask_protection(gpointer data)
{
    Job *job = data;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    job->poll = 0;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, HAND_OVER_MS, on_protection);
    return G_SOURCE_REMOVE;
}

static void
step_wait_sync(Job *job)
{
    job->deadline_ns = clock_monotonic_ns() + SYNC_MS * NS_PER_MS;
    ask_protection(job);
}

static void
on_handed_over(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptHandOverReply *r =
        ((const District__CkptMessage *)message)->reply->hand_over;

    if (r != NULL) {
        json_object_set_int_member(job->result, "epoch", (gint64)r->epoch);
        json_object_set_int_member(job->result, "paused_ns", (gint64)r->paused_ns);
    }
    job_next(job);
}

static void
step_hand_over(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptHandOverRequest hand_over = DISTRICT__CKPT_HAND_OVER_REQUEST__INIT;

    job->id = 1; /* from here on members may be paused */
    job->started_ns = clock_monotonic_ns();
    request.op_case = DISTRICT__CKPT_REQUEST__OP_HAND_OVER;
    request.hand_over = &hand_over;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, HAND_OVER_MS, on_handed_over);
}

static void
step_end_incarnation(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    d->record.ended_incarnation = d->incarnation;
    g_free(d->record.handing_to);
    d->record.handing_to = g_strdup(job->host);
    if (!district_save_record(d, &error)) {
        d->record.ended_incarnation = 0;
        job_fail(job, error);
        return;
    }
    d->taking_back = FALSE;
    district_set_state(d, STATE_HANDED_OVER, NULL);
    job_next(job);
}

/* ---- The way back ---- */

static void
step_back_ckpt(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    if (d->ckpt == NULL && !processes_start_one(d, "ckpt", &error))
        job_fail(job, error);
    else
        job_next(job);
}

static void
on_back_state(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptStatusReply *s = ((const District__CkptMessage *)message)->reply->status;

    job->label = g_strdup(s != NULL ? s->state : "");
    job_next(job);
}

static void
step_back_look(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, TAKE_BACK_MS, on_back_state);
}

gboolean
migrate_own_again(District *d, gboolean new_life, GError **error)
{
    /* By an attempt before this one, whose district-ckpt was lost. */
    gboolean numbered = d->record.ended_incarnation == 0 && d->state == STATE_HANDED_OVER;
    /* Above the number that the target was given. */
    uint64_t number = MAX(district_next_incarnation(d), d->record.ended_incarnation + 2);

    if (new_life && !numbered && !district_save_incarnation(d, number, error))
        return FALSE;
    d->record.ended_incarnation = 0;
    g_clear_pointer(&d->record.handing_to, g_free);
    return district_save_record(d, error);
}

static void
step_back_number(Job *job)
{
    District *d = job->district;
    g_autoptr(GError) error = NULL;

    /* A hand-over that changed nothing, and of which the target was not told, needs no new life. */
    gboolean untouched = strcmp(job->label, "running") == 0 && d->state == STATE_RUNNING;
    if (migrate_own_again(d, !untouched, &error))
        job_next(job);
    else
        job_fail(job, error);
}

static void
step_back_run(Job *job)
{
    District *d = job->district;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptTakeBackRequest back = DISTRICT__CKPT_TAKE_BACK_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;

    if (strcmp(job->label, "running") == 0) {
        job_next(job);
        return;
    }
    if (strcmp(job->label, "waiting") == 0) {
        /* A new district-ckpt knows of no hand-over, only of paused members. */
        start.incarnation = d->incarnation;
        request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
        request.start = &start;
    } else {
        back.incarnation = d->incarnation;
        request.op_case = DISTRICT__CKPT_REQUEST__OP_TAKE_BACK;
        request.take_back = &back;
    }
    job_call(job, d->ckpt, &request.base, NULL, 0, TAKE_BACK_MS, NULL);
}

static void
step_back_running(Job *job)
{
    District *d = job->district;

    d->taking_back = FALSE;
    district_set_state(d, STATE_RUNNING, NULL);
    daemon_event(d->daemon, "taken-back", d->name, "goes on here as incarnation %" G_GUINT64_FORMAT,
                 d->incarnation);
    job_next(job);
}

static void
undo_back(Job *job)
{
    District *d = job->district;

    if (!d->ending && !d->unit_failed && !ckpt_lost(d, job->error))
        district_fail(d, job->error->message);
}

static const JobStep back_steps[] = {step_back_ckpt, step_back_look,    step_back_number,
                                     step_back_run,  step_back_running, NULL};

static void
take_back(District *d)
{
    Job *job = job_new(d, "take-back", back_steps, operation_done_log, NULL);
    d->taking_back = d->state == STATE_HANDED_OVER;
    if (job == NULL)
        return;
    job->undo = undo_back;
    job_next(job);
}

/* ---- The way forth ---- */

static void
step_moved(Job *job)
{
    District *d = job->district;
    g_autofree char *reason = g_strdup_printf("moved to %s", job->host);
    g_autoptr(GError) error = NULL;

    d->record.role = ROLE_NONE;
    d->record.protect = FALSE;
    d->record.superseded_incarnation = d->record.ended_incarnation + 1;
    g_free(d->record.superseded_by);
    d->record.superseded_by = g_strdup(job->host);
    d->record.ended_incarnation = 0;
    g_clear_pointer(&d->record.handing_to, g_free);
    if (!district_save_record(d, &error))
        g_warning("%s", error->message);
    district_set_state(d, STATE_SUPERSEDED, reason);
    job_next(job);
}

static void
step_end_members(Job *job)
{
    processes_end(job->district, FALSE, job);
}

static void
take_answer(Job *job, JsonObject *answer, const GError *error)
{
    if (error == NULL) {
        json_object_set_double_member(
            job->result, "decided_to_running_ms",
            json_object_get_double_member_with_default(answer, "decided_to_running_ms", 0));
        json_object_set_double_member(job->result, "handed_over_ms",
                                      (double)(clock_monotonic_ns() - job->started_ns) / 1e6);
        job_next(job);
    } else if (error->code == CONTROL_ERROR_UNREACHABLE) {
        job_fail_new(job, CONTROL_ERROR_UNREACHABLE,
                     "%s: host %s has not said whether it runs there; the members stay paused here "
                     "until it has: connect the hosts",
                     job->district->name, job->host);
    } else {
        job->planned = FALSE;
        job_fail(job, error);
    }
}

static void
on_target(JsonObject *answer, const GError *error, gpointer data)
{
    Job *job = data;

    /* The district of one that has ended may be gone. */
    if (!job->finished)
        take_answer(job, answer, error);
    job_unref(job);
}

static void
step_activate(Job *job)
{
    District *d = job->district;
    Peer *peer = g_hash_table_lookup(d->daemon->peers, job->host);
    JsonObject *arguments = exchange_arguments(d);

    json_object_set_int_member(arguments, "incarnation", (gint64)d->incarnation + 1);
    job->planned = TRUE; /* unresolved, until the target has answered */
    if (peer != NULL) {
        peer_request(peer, "activate", arguments, ACTIVATE_MS, on_target, job_ref(job));
        return;
    }
    json_object_unref(arguments);
    job->planned = FALSE;
    job_fail_new(job, CONTROL_ERROR_NOT_FOUND, "host %s: not known any more", job->host);
}

static void
undo_migrate(Job *job)
{
    District *d = job->district;

    if (job->id == 0 || d->ending || d->unit_failed)
        return; /* the members never stopped running, or are gone */
    /* Handed over or not, district-ckpt may have paused them; the target was told nothing. If it was
     * lost, so was the hand-over: they go on as after any other loss of it. */
    gboolean refused = d->state == STATE_HANDED_OVER && !job->planned;
    if (refused || (d->state == STATE_RUNNING && !ckpt_lost(d, job->error)))
        take_back(d);
}

static const JobStep migrate_steps[] = {step_check,
                                        step_prepare,
                                        step_record,
                                        step_protect,
                                        step_wait_sync,
                                        step_hand_over,
                                        step_end_incarnation,
                                        step_activate,
                                        step_moved,
                                        step_end_members,
                                        NULL};

void
operation_migrate(District *d, const char *host, JobDone done, gpointer data)
{
    Job *job = job_new(d, "migrate", migrate_steps, done, data);
    if (job == NULL)
        return;
    job->host = g_strdup(host);
    job->pacing = d->record.pacing;
    job->output_commit = d->record.protect ? d->record.output_commit : d->definition->output_commit;
    job->undo = undo_migrate;
    job_next(job);
}

static const JobStep moved_steps[] = {step_moved, step_end_members, NULL};

void
migrate_resolve(District *d, const Claim *target)
{
    if (d->job != NULL)
        return; /* still waiting for the answer itself */
    switch (incarnation_judge_handover(d->record.ended_incarnation, target)) {
    case HANDOVER_WAIT:
        return;
    case HANDOVER_RETURN:
        take_back(d);
        return;
    case HANDOVER_GIVEN:
        break;
    }
    Job *job = job_new(d, "migrate", moved_steps, operation_done_log, NULL);
    if (job == NULL)
        return;
    job->host = g_strdup(d->record.handing_to);
    job_next(job);
}

#define ASK_MS 2000

typedef struct Question {
    Daemon *daemon;
    char *district;
} Question;

static void
on_target_claim(JsonObject *answer, const GError *error, gpointer data)
{
    Question *question = data;
    District *d = g_hash_table_lookup(question->daemon->districts, question->district);
    Claim claim = {0};

    /* A target that does not know the district will not run it either. Nothing else that is refused says
     * so: it may run there, with a districtd that could not load it. */
    if (d != NULL && d->state == STATE_HANDED_OVER &&
        (error == NULL ? claim_from_json(answer, &claim) : error->code == CONTROL_ERROR_NOT_FOUND))
        migrate_resolve(d, &claim);
    g_free(question->district);
    g_free(question);
}

static void
ask_target(District *d)
{
    Peer *peer = g_hash_table_lookup(d->daemon->peers, d->record.handing_to);
    if (peer == NULL || !peer_reachable(peer))
        return;
    Question *question = g_new0(Question, 1);
    JsonObject *arguments = exchange_arguments(d);
    question->daemon = d->daemon;
    question->district = g_strdup(d->name);
    peer_request(peer, "who-runs", arguments, ASK_MS, on_target_claim, question);
}

void
migrate_go_on(District *d)
{
    if (d->state != STATE_HANDED_OVER || d->job != NULL || d->ending)
        return;
    if (d->taking_back)
        take_back(d);
    else if (d->record.handing_to != NULL)
        ask_target(d);
}
