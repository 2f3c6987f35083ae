/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoint files: taking one, and which there are. A checkpoint is ID.dckpt with ID.json beside
 * it, which tells what it is; IDs count up from 1. A file whose writing did not end is ID.part and
 * is not a checkpoint.
 */
#include "control/daemon.h"
#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKPOINT_MS 600000
#define LABEL_BYTES_MAX 200

static char *
checkpoint_path(District *d, uint64_t id, const char *suffix)
{
    g_autofree char *dir = district_checkpoint_dir(d);

    return g_strdup_printf("%s/%" G_GUINT64_FORMAT "%s", dir, id, suffix);
}

/* IDs of all complete checkpoints, ascending. */
static GArray *
checkpoint_ids(District *d)
{
    g_autofree char *path = district_checkpoint_dir(d);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    GArray *ids = g_array_new(FALSE, FALSE, sizeof(guint64));
    const char *name = NULL;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        char *end = NULL;
        guint64 id = g_ascii_strtoull(name, &end, 10);
        if (id == 0 || end == name || strcmp(end, ".dckpt") != 0)
            continue;
        guint at = 0;
        while (at < ids->len && g_array_index(ids, guint64, at) < id)
            at++;
        g_array_insert_val(ids, at, id);
    }
    return ids;
}

static JsonObject *
checkpoint_read(District *d, uint64_t id)
{
    g_autofree char *path = checkpoint_path(d, id, ".json");
    g_autofree char *text = NULL;
    gsize len = 0;
    JsonObject *object = NULL;

    if (g_file_get_contents(path, &text, &len, NULL))
        object = json_parse_object(text, len, NULL);
    if (object == NULL)
        object = json_object_new();
    json_object_set_int_member(object, "id", (gint64)id);
    return object;
}

JsonArray *
checkpoint_list(District *d)
{
    g_autoptr(GArray) ids = checkpoint_ids(d);
    JsonArray *list = json_array_new();

    for (guint i = 0; i < ids->len; i++)
        json_array_add_object_element(list, checkpoint_read(d, g_array_index(ids, guint64, i)));
    return list;
}

char *
checkpoint_find(District *d, const char *id, GError **error)
{
    g_autoptr(GArray) ids = checkpoint_ids(d);
    guint64 wanted = 0;

    if (id != NULL && !g_ascii_string_to_unsigned(id, 10, 1, G_MAXUINT64, &wanted, error))
        return NULL;
    for (guint i = ids->len; i > 0; i--) {
        guint64 have = g_array_index(ids, guint64, i - 1);
        if (id == NULL || have == wanted)
            return checkpoint_path(d, have, ".dckpt");
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                id != NULL
                    ? "%s: no checkpoint %s: see district log %s"
                    : "%s: no checkpoint%s to restart from: see district log %s, or use start",
                d->name, id != NULL ? id : "", d->name);
    return NULL;
}

/* ---- Taking one ---- */

static void
step_open(Job *job)
{
    District *d = job->district;
    g_autoptr(GArray) ids = checkpoint_ids(d);

    if (d->state != STATE_RUNNING) {
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is %s: only a running district has a cut",
                     d->name, district_state_name(d->state));
        return;
    }
    job->id = ids->len > 0 ? g_array_index(ids, guint64, ids->len - 1) + 1 : 1;
    job->path = checkpoint_path(d, job->id, ".part");
    job->fd = open(job->path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (job->fd < 0)
        job_fail_new(job, CONTROL_ERROR_FAILED, "%s: cannot create: %s", job->path,
                     g_strerror(errno));
    else
        job_next(job);
}

static void
on_saved(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptMessage *m = (const District__CkptMessage *)message;

    json_object_set_int_member(job->result, "epoch", (gint64)m->reply->epoch);
    json_object_set_int_member(job->result, "bytes", (gint64)m->reply->bytes);
    job_next(job);
}

static void
step_save(Job *job)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckpointRequest checkpoint = DISTRICT__CKPT_CHECKPOINT_REQUEST__INIT;

    checkpoint.path = job->path;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECKPOINT;
    request.checkpoint = &checkpoint;
    job_call(job, job->district->ckpt, &request.base, &job->fd, 1, CHECKPOINT_MS, on_saved);
}

/* The description first: a checkpoint that is there has one. */
static void
step_publish(Job *job)
{
    District *d = job->district;
    g_autofree char *meta = checkpoint_path(d, job->id, ".json");
    g_autofree char *path = checkpoint_path(d, job->id, ".dckpt");
    g_autoptr(GError) error = NULL;

    json_object_set_int_member(job->result, "id", (gint64)job->id);
    json_object_set_int_member(job->result, "incarnation", (gint64)d->incarnation);
    json_object_set_int_member(job->result, "time", g_get_real_time() / G_USEC_PER_SEC);
    json_object_set_string_member(job->result, "label", job->label != NULL ? job->label : "");
    g_autofree char *text = json_to_text(job->result);
    if (!store_write_file(meta, text, -1, TRUE, &error) || !store_rename(job->path, path, &error)) {
        job_fail(job, error);
        return;
    }
    daemon_event(d->daemon, "checkpoint", d->name, "%" G_GUINT64_FORMAT " saved", job->id);
    job_next(job);
}

static void
undo_checkpoint(Job *job)
{
    if (job->path == NULL)
        return;
    /* A description alone is nothing; the next checkpoint of that number writes its own. */
    g_unlink(job->path);
}

static const JobStep checkpoint_steps[] = {step_open, step_save, step_publish, NULL};

void
operation_checkpoint(District *d, const char *label, JobDone done, gpointer data)
{
    if (label != NULL && strlen(label) > LABEL_BYTES_MAX) {
        g_autoptr(GError) error = g_error_new(CONTROL_ERROR, CONTROL_ERROR_INVALID,
                                              "%s: the label is longer than %d bytes: shorten it",
                                              d->name, LABEL_BYTES_MAX);
        done(NULL, error, data);
        return;
    }
    Job *job = job_new(d, "checkpoint", checkpoint_steps, done, data);
    if (job == NULL)
        return;
    job->label = g_strdup(label);
    job->undo = undo_checkpoint;
    job_next(job);
}
