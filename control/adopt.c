/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * After districtd was killed or restarted: its processes went on without it. run.json says which
 * they are, the record on disk what this host is to the district, and district-ckpt what it is
 * doing.
 *
 *   home     all members and district-ckpt there: what district-ckpt says decides; one of
 *            district-net and district-ckpt missing: started again; a member missing: failed as
 *            a unit, unless it left word that its guest is off. A member that run.json does not
 *            list had powered itself off before. A stop, or the end of a unit that failed, that was
 *            under way is brought to its end
 *   standby  district-standby there: connected to; else started again. Members that run already,
 *            or are loaded with the image, mean that a take-over was not brought to its end
 *   none     nothing may run
 */
#include "control/daemon.h"
#include "ckpt.pb-c.h"

#include <string.h>

#define CKPT_TIMEOUT_MS 30000

typedef struct Found {
    guint members; /* that live */
    guint listed;  /* in run.json */
    gboolean net;
    gboolean ckpt;
    gboolean standby;
} Found;

/* Which members does run.json not list? An engine is struck off it when its guest goes. */
static void
note_members_off(District *d, GPtrArray *processes)
{
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        gboolean listed = FALSE;
        for (guint k = 0; k < processes->len; k++) {
            const RunProcess *p = processes->pdata[k];
            listed |= strcmp(p->kind, "vmm") == 0 && g_strcmp0(p->member, m->name) == 0;
        }
        if (!listed)
            g_hash_table_add(d->members_off, g_strdup(m->name));
    }
}

static gboolean
is_gone(const District *d, const DefinitionMember *m)
{
    return processes_find(d, "vmm", m->name) == NULL &&
           !g_hash_table_contains(d->members_off, m->name);
}

/* Those that ended while districtd was away: off, if they left word. FALSE: one was lost. */
static gboolean
note_ended(District *d)
{
    const GPtrArray *members = d->definition->members;

    for (guint i = 0; i < members->len; i++) {
        const DefinitionMember *m = members->pdata[i];
        if (is_gone(d, m) && !process_member_ended(d, m->name))
            return FALSE;
    }
    /* Only now: with the last one to be off the district is stopped. */
    for (guint i = 0; i < members->len; i++) {
        const DefinitionMember *m = members->pdata[i];
        if (is_gone(d, m))
            district_member_off(d, m->name);
    }
    return TRUE;
}

static Found
adopt_processes(District *d)
{
    g_autofree char *path = district_run_path(d, "run.json");
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) processes = runfile_load(path, &error);
    Found found = {0};

    if (processes == NULL)
        g_warning("%s", error->message);
    for (guint i = 0; processes != NULL && i < processes->len; i++) {
        const RunProcess *p = processes->pdata[i];
        Child *child = child_adopt(p, process_exited, d);
        gboolean member = strcmp(p->kind, "vmm") == 0;
        found.listed += member ? 1 : 0;
        if (child == NULL)
            continue;
        g_ptr_array_add(d->children, child);
        found.members += member ? 1 : 0;
        found.net |= strcmp(p->kind, "net") == 0;
        found.ckpt |= strcmp(p->kind, "ckpt") == 0;
        found.standby |= strcmp(p->kind, "standby") == 0;
    }
    if (found.listed > 0)
        note_members_off(d, processes);
    return found;
}

static void
connect_ckpt(District *d)
{
    g_autofree char *path = district_run_path(d, "ckpt.sock");
    g_autofree char *name = g_strconcat(d->name, ": district-ckpt", NULL);

    d->ckpt = rpc_new(&rpc_ckpt_protocol, path, name, district_ckpt_event, d);
}

/* ---- Going on from what district-ckpt says ---- */

static void
adopted_handed_over(District *d)
{
    /* Not written down as ended: then the target was never told to run. */
    if (d->record.ended_incarnation == 0) {
        Claim nobody = {0};
        d->record.ended_incarnation = d->incarnation;
        district_set_state(d, STATE_HANDED_OVER, "interrupted hand-over");
        migrate_resolve(d, &nobody);
        return;
    }
    district_set_state(d, STATE_HANDED_OVER, "waits for word from the target");
}

void
district_reconcile(District *d, const char *ckpt_state, const char *why)
{
    if (d->state != STATE_RUNNING || d->job != NULL || d->ending || d->unit_failed)
        return;
    if (strcmp(ckpt_state, "handed-over") == 0)
        adopted_handed_over(d);
    else if (strcmp(ckpt_state, "failed") == 0)
        district_fail(
            d, why[0] != '\0' ? why : "district-ckpt says that it has failed: look into ckpt.log");
}

static void
on_adopted_state(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    District *d = job->district;
    const District__CkptStatusReply *s = ((const District__CkptMessage *)message)->reply->status;
    const char *state = s != NULL ? s->state : "";
    gboolean running = strcmp(state, "running") == 0;

    job_next(job); /* ends it: what follows may be an operation of its own */
    if (running) {
        district_set_state(d, STATE_RUNNING, NULL);
    } else if (strcmp(state, "handed-over") == 0 || d->state == STATE_HANDED_OVER) {
        adopted_handed_over(d);
    } else {
        /* A start that was interrupted, or a recovery. */
        ckpt_resume(d);
    }
}

static void
step_ask_state(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    job_call(job, job->district->ckpt, &request.base, NULL, 0, CKPT_TIMEOUT_MS, on_adopted_state);
}

static void
undo_adopt(Job *job)
{
    District *d = job->district;

    if (!d->ending && !d->unit_failed && !ckpt_lost(d, job->error))
        district_fail(d, job->error->message);
}

static const JobStep adopt_steps[] = {step_ask_state, NULL};

static void
ask_ckpt(District *d)
{
    connect_ckpt(d);
    Job *job = job_new(d, "adoption", adopt_steps, operation_done_log, NULL);
    if (job == NULL)
        return;
    job->undo = undo_adopt;
    job_next(job);
}

/* ---- By role ---- */

static void
finish_stop(District *d, const Found *found)
{
    if (found->ckpt)
        connect_ckpt(d);
    operation_stop(d, FALSE, operation_done_log, NULL);
}

static void
adopt_home(District *d, const Found *found)
{
    gboolean handed_over = d->record.ended_incarnation != 0 && !d->record.stopped;

    if (found->listed == 0 && !d->record.failover_wanted) {
        processes_end(d, TRUE, NULL);
        d->state = STATE_STOPPED;
        return;
    }
    /* So that a process which ends from now on is treated as one of a running district. */
    d->state = handed_over ? STATE_HANDED_OVER : STATE_RUNNING;
    if (d->record.stopped) {
        finish_stop(d, found);
        return;
    }
    if (d->record.failover_wanted || !note_ended(d)) {
        district_fail(d, "members ended while districtd was away");
        return;
    }
    if (d->job != NULL)
        return; /* all are off: it is being stopped */
    if (!found->net) {
        g_autoptr(GError) error = NULL;
        if (!processes_start_one(d, "net", &error))
            g_warning("%s", error->message);
    }
    if (found->ckpt)
        ask_ckpt(d);
    else if (d->state == STATE_RUNNING)
        ckpt_restart(d);
}

/* What of district-net and district-ckpt is missing, beside members. */
static gboolean
start_missing(District *d, const Found *found, GError **error)
{
    if (!found->net && !processes_start_one(d, "net", error))
        return FALSE;
    if (!found->ckpt)
        return processes_start_one(d, "ckpt", error);
    connect_ckpt(d);
    return TRUE;
}

static void
adopt_standby(District *d, const Found *found)
{
    g_autoptr(GError) error = NULL;

    /* They may run already: until that is known, nobody is told that they do not. */
    gboolean complete = found->members > 0 && note_ended(d);
    d->state = complete ? STATE_ACTIVATING : STATE_STANDBY;
    if (complete && start_missing(d, found, &error)) {
        takeover_resume(d);
    } else {
        d->state = STATE_STANDBY;
        processes_end(d, TRUE, NULL);
    }
    if (error != NULL)
        g_warning("%s", error->message);
    g_clear_error(&error);
    if (!processes_start_standby(d, &error))
        g_warning("%s", error->message);
}

void
district_adopt(District *d)
{
    Found found = adopt_processes(d);

    switch (d->record.role) {
    case ROLE_HOME:
        adopt_home(d, &found);
        break;
    case ROLE_STANDBY:
        adopt_standby(d, &found);
        break;
    case ROLE_NONE:
        d->state = d->record.superseded_by != NULL ? STATE_SUPERSEDED : STATE_STOPPED;
        if (d->record.superseded_by != NULL)
            d->reason = g_strdup_printf("superseded by %s (incarnation %" G_GUINT64_FORMAT ")",
                                        d->record.superseded_by, d->record.superseded_incarnation);
        processes_end(d, TRUE, NULL);
        processes_end_standby(d);
        break;
    }
}
