/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint as one file. A district-ckpt of its own reads the store and the homes and writes to the
 * descriptor that the client has opened: what the client may write, and where, is the client's
 * business, and what it has of the file is no file before all is well.
 *
 * A home that is raw is read as it is. Any other is read through the qemu-nbd of the engine that has
 * it open, of which the district's own district-ckpt knows; if none has, through one of our own.
 *
 * Journals, which are in no checkpoint, are copied first, in an operation on the district.
 */
#include "control/daemon.h"
#include "ckpt.pb-c.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define STATUS_MS 5000

typedef struct Export {
    Daemon *daemon;
    char *name; /* of the district, which may go meanwhile */
    char *file; /* for messages */
    char *store;
    char *id;
    GHashTable *homes; /* "MEMBER/K" -> as ckpt/export-image.h takes it */
    GQueue ask;        /* members whose engines may have homes open */
    JournalCopies *journals;
    int fds[2];
    JobDone done;
    gpointer data;
} Export;

static void
export_end(Export *export, JsonObject *result, const GError *error)
{
    export->done(result, error, export->data);
    for (guint i = 0; i < G_N_ELEMENTS(export->fds); i++) {
        if (export->fds[i] >= 0)
            close(export->fds[i]);
    }
    g_hash_table_unref(export->homes);
    g_queue_clear_full(&export->ask, g_free);
    journal_copies_unref(export->journals);
    g_free(export->name);
    g_free(export->file);
    g_free(export->store);
    g_free(export->id);
    g_free(export);
}

/* ---- The answer ---- */

/* What district-ckpt --export prints: "KEY NUMBER" lines. */
static JsonObject *
parse_lines(const Export *export, const char *out, GError **error)
{
    static const char *const keys[] = {"checkpoint", "epoch",       "incarnation", "bytes",
                                       "ram_pages",  "disk_blocks", NULL};
    g_autoptr(JsonObject) result = json_object_new();
    g_auto(GStrv) lines = g_strsplit(out, "\n", -1);

    for (char **line = lines; *line != NULL && **line != '\0'; line++) {
        g_auto(GStrv) words = g_strsplit(*line, " ", 2);
        if (g_strv_contains(keys, words[0]) && words[1] != NULL)
            json_object_set_int_member(result, words[0], g_ascii_strtoll(words[1], NULL, 10));
    }
    for (const char *const *key = keys; *key != NULL; key++) {
        if (json_object_has_member(result, *key))
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: district-ckpt says nothing of \"%s\": use the same release", export->name,
                    *key);
        return NULL;
    }
    return g_steal_pointer(&result);
}

static void
on_exported(const char *out, const GError *why, gpointer data)
{
    Export *export = data;
    g_autoptr(GError) error = why != NULL ? g_error_copy(why) : NULL;
    g_autoptr(JsonObject) result = out != NULL ? parse_lines(export, out, &error) : NULL;

    if (result != NULL)
        daemon_event(export->daemon, "exported", export->name,
                     "checkpoint %s to %s, %" G_GINT64_FORMAT " bytes", export->id, export->file,
                     json_get_int(result, "bytes", 0));
    export_end(export, result, error);
}

/* ---- The question ---- */

static void
export_spawn(Export *export)
{
    g_autoptr(GPtrArray) options = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *subject = g_strdup_printf("%s: export to %s", export->name, export->file);
    const char *const fixed[] = {"--store",      export->store,
                                 "--export",     export->id,
                                 "--host",       export->daemon->config->host_name,
                                 "--socket-dir", export->daemon->config->runtime_dir};
    GHashTableIter iter;
    gpointer disk = NULL, home = NULL;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(options, g_strdup(fixed[i]));
    g_hash_table_iter_init(&iter, export->homes);
    while (g_hash_table_iter_next(&iter, &disk, &home))
        g_ptr_array_add(options, g_strdup_printf("--home=%s=%s", (char *)disk, (char *)home));
    g_array_append_vals(fds, export->fds, G_N_ELEMENTS(export->fds));
    export->fds[0] = export->fds[1] = -1;
    for (guint i = 0; i < journal_copies_count(export->journals); i++) {
        int fd = fcntl(journal_copies_fd(export->journals, i), F_DUPFD_CLOEXEC, 3);
        g_array_append_val(fds, fd);
        g_ptr_array_add(options, g_strdup_printf("--journal=%s=/proc/self/fd/%u",
                                                 journal_copies_member(export->journals, i),
                                                 STORE_QUERY_FD + i));
    }
    g_ptr_array_add(options, NULL);
    store_query_files(export->daemon, subject, (const char *const *)options->pdata,
                      (const int *)(const void *)fds->data, fds->len, on_exported, export);
}

/* The homes of the disks that are in checkpoints, as the definition and the lineage say. */
static void
add_homes(Export *export, const District *d, const DefinitionMember *m)
{
    gboolean ask = FALSE;
    guint number = 0;

    for (guint k = 0; k < m->disks->len; k++) {
        const DefinitionDisk *disk = m->disks->pdata[k];
        gboolean moved = FALSE;
        g_autofree char *path = district_disk_home(d, m, k, &moved);
        if (disk->read_only)
            continue;
        gboolean raw = moved || strcmp(disk->format, "raw") == 0;
        char *home = raw ? g_strconcat("raw:", path, NULL)
                         : g_strdup_printf("image:%s:%s", disk->format, path);
        g_hash_table_replace(export->homes, g_strdup_printf("%s/%u", m->name, number++), home);
        ask = ask || !raw;
    }
    if (ask)
        g_queue_push_tail(&export->ask, g_strdup(m->name));
}

/* The homes of a member that its engine has open are where that says. */
static void
take_homes(Export *export, const char *member, const District__CkptStatusReply *status)
{
    for (size_t i = 0; status != NULL && i < status->n_disks; i++) {
        char *key = g_strdup_printf("%s/%u", member, status->disks[i]->number);
        if (g_hash_table_contains(export->homes, key))
            g_hash_table_replace(export->homes, key, g_strdup(status->disks[i]->home));
        else
            g_free(key);
    }
}

static void ask_engines(Export *export);

static void
on_status(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    const District__CkptMessage *m = (const District__CkptMessage *)message;
    Export *export = data;
    g_autofree char *member = g_queue_pop_head(&export->ask);

    if (error != NULL) {
        export_end(export, NULL, error);
        return;
    }
    take_homes(export, member, m->reply->status);
    ask_engines(export);
}

/* One member after the other: their homes might not all fit one answer. */
static void
ask_engines(Export *export)
{
    const District *d = g_hash_table_lookup(export->daemon->districts, export->name);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    if (g_queue_is_empty(&export->ask) || d == NULL || d->ckpt == NULL) {
        export_spawn(export);
        return;
    }
    status.disks_of = g_queue_peek_head(&export->ask);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    rpc_call(d->ckpt, &request.base, NULL, 0, STATUS_MS, on_status, export);
}

/* ---- Journals ---- */

static const JobStep copy_steps[] = {step_copy_journals, NULL};

/* JobDone */
static void
on_copied(JsonObject *result, const GError *error, gpointer data)
{
    if (error != NULL)
        export_end(data, NULL, error);
    else
        ask_engines(data);
}

static void
copy_journals(Export *export, District *d)
{
    g_autoptr(GError) error = NULL;
    Job *job;

    export->journals = journal_copies_new(d, d->definition, NULL, &error);
    if (export->journals == NULL) {
        export_end(export, NULL, error);
        return;
    }
    if (journal_copies_count(export->journals) == 0) {
        ask_engines(export);
        return;
    }
    job = job_new(d, "export", copy_steps, on_copied, export);
    if (job == NULL)
        return;
    job->copies = journal_copies_ref(export->journals);
    job_next(job);
}

/* As checkpoint_find, with another remedy. */
static uint64_t
find_checkpoint(District *d, const char *at, GError **error)
{
    uint64_t id = checkpoint_find(d, at != NULL ? at : "latest", error);

    if (id == 0 && at == NULL && g_error_matches(*error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND)) {
        g_clear_error(error);
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                    "%s: it has no durable checkpoint: make one by district checkpoint %s", d->name,
                    d->name);
    }
    return id;
}

void
operation_export(District *d, const char *at, const char *file, const int fds[2], JobDone done,
                 gpointer data)
{
    Export *export = g_new0(Export, 1);
    g_autoptr(GError) error = NULL;
    uint64_t id = find_checkpoint(d, at, &error);

    *export = (Export){.daemon = d->daemon, .fds = {fds[0], fds[1]}, .done = done, .data = data};
    export->name = g_strdup(d->name);
    export->file = g_strdup(file);
    export->store = district_store_dir(d);
    export->id = g_strdup_printf("%" G_GUINT64_FORMAT, id);
    export->homes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (id == 0) {
        export_end(export, NULL, error);
        return;
    }
    for (guint i = 0; i < d->definition->members->len; i++)
        add_homes(export, d, d->definition->members->pdata[i]);
    copy_journals(export, d);
}
