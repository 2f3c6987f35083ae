/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Durable checkpoints of a district: its store (ckpt/store.h), which district-ckpt writes while the
 * district runs, and which is only read here.
 */
#include "control/daemon.h"
#include "ckpt/store.h"
#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define CHECKPOINT_MS 600000

/* Open to read; NULL without error: there is no store yet. */
static CkptStore *
open_store(const District *d, GError **error)
{
    g_autofree char *dir = district_store_dir(d);
    struct stat st;

    /* One that cannot be reached may well be there. */
    if (stat(dir, &st) != 0 && errno == ENOENT)
        return NULL;
    GError *why = NULL;
    CkptStore *store = ckpt_store_open(dir, d->name, CKPT_STORE_READ, &why);
    /* District-ckpt has made the directory and not the catalog. */
    if (store == NULL && g_error_matches(why, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND))
        g_clear_error(&why);
    if (why != NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", d->name, why->message);
    g_clear_error(&why);
    return store;
}

static JsonObject *
entry_to_json(const CkptStoreEntry *entry)
{
    static const struct {
        unsigned flag;
        const char *key;
    } flags[] = {
        {CKPT_STORE_HEAD, "head"},           {CKPT_STORE_ROOT, "root"},
        {CKPT_STORE_MERGED, "merged"},       {CKPT_STORE_PINNED, "pinned"},
        {CKPT_STORE_ABANDONED, "abandoned"}, {CKPT_STORE_IS_FULL, "full"},
    };
    JsonObject *object = json_object_new();

    json_object_set_int_member(object, "id", (gint64)entry->id);
    json_object_set_int_member(object, "parent", (gint64)entry->parent);
    json_object_set_int_member(object, "epoch", (gint64)entry->epoch);
    json_object_set_int_member(object, "incarnation", (gint64)entry->incarnation);
    json_object_set_int_member(object, "time", entry->realtime_ns / NS_PER_S);
    json_object_set_int_member(object, "bytes", (gint64)entry->bytes);
    json_object_set_int_member(object, "ram_pages", (gint64)entry->ram_pages);
    json_object_set_int_member(object, "disk_blocks", (gint64)entry->disk_blocks);
    json_object_set_string_member(object, "label", entry->label != NULL ? entry->label : "");
    for (gsize i = 0; i < G_N_ELEMENTS(flags); i++)
        json_object_set_boolean_member(object, flags[i].key, (entry->flags & flags[i].flag) != 0);
    return object;
}

JsonArray *
checkpoint_list(District *d, GError **error)
{
    GError *why = NULL;
    g_autoptr(CkptStore) store = open_store(d, &why);
    g_autoptr(GPtrArray) entries = store != NULL ? ckpt_store_list(store, &why) : NULL;
    JsonArray *list;

    if (why != NULL) {
        g_propagate_error(error, why);
        return NULL;
    }
    list = json_array_new();
    for (guint i = 0; entries != NULL && i < entries->len; i++)
        json_array_add_object_element(list, entry_to_json(entries->pdata[i]));
    return list;
}

uint64_t
checkpoint_find(District *d, const char *what, GError **error)
{
    GError *why = NULL;
    g_autoptr(CkptStore) store = open_store(d, &why);
    uint64_t id = 0;

    if (store != NULL && ckpt_store_find(store, what != NULL ? what : "latest", &id, &why))
        return id;
    if (why != NULL && why->domain == CONTROL_ERROR) {
        g_propagate_error(error, why);
        return 0;
    }
    if (why != NULL && !g_error_matches(why, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", d->name, why->message);
        g_error_free(why);
        return 0;
    }
    g_clear_error(&why);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                what != NULL
                    ? "%s: no checkpoint %.64s: see district log %s"
                    : "%s: no checkpoint%s to go on from: see district log %s, or use start",
                d->name, what != NULL ? what : "", d->name);
    return 0;
}

/* ---- Taking one ---- */

static void
on_saved(Job *job, ProtobufCMessage *message, int *fds, guint n_fds)
{
    const District__CkptMessage *m = (const District__CkptMessage *)message;
    District *d = job->district;

    json_object_set_int_member(job->result, "id", (gint64)m->reply->checkpoint_id);
    json_object_set_int_member(job->result, "epoch", (gint64)m->reply->epoch);
    json_object_set_int_member(job->result, "bytes", (gint64)m->reply->bytes);
    json_object_set_string_member(job->result, "label", job->label != NULL ? job->label : "");
    daemon_event(d->daemon, "checkpoint", d->name, "%" G_GUINT64_FORMAT " saved",
                 m->reply->checkpoint_id);
    job_next(job);
}

static void
step_save(Job *job)
{
    District *d = job->district;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPersistRequest persist = DISTRICT__CKPT_PERSIST_REQUEST__INIT;

    if (d->state != STATE_RUNNING || d->ckpt == NULL) {
        job_fail_new(job, CONTROL_ERROR_STATE, "%s: it is %s: only a running district has a cut",
                     d->name, district_state_name(d->state));
        return;
    }
    if (job->label != NULL)
        persist.label = job->label;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PERSIST;
    request.persist = &persist;
    job_call(job, d->ckpt, &request.base, NULL, 0, CHECKPOINT_MS, on_saved);
}

static const JobStep checkpoint_steps[] = {step_save, NULL};

void
operation_checkpoint(District *d, const char *label, JobDone done, gpointer data)
{
    if (label != NULL && label[0] != '\0' && !ckpt_store_label_good(label)) {
        g_autoptr(GError) error =
            g_error_new(CONTROL_ERROR, CONTROL_ERROR_INVALID,
                        "%s: \"%.64s\" is no label: give 1 to 64 printable characters, neither a "
                        "number nor \"latest\"",
                        d->name, label);
        done(NULL, error, data);
        return;
    }
    Job *job = job_new(d, "checkpoint", checkpoint_steps, done, data);
    if (job == NULL)
        return;
    job->label = g_strdup(label);
    job_next(job);
}
