/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A district out of a file that export made. A district-ckpt of its own reads the file that the client
 * has opened, and makes store and disks in a directory that nobody sees; that gets the district's name
 * when all is there and on the disk. It is a new district: another UUID, its own homes, and an
 * incarnation of its own from the file's on.
 */
#include "control/daemon.h"
#include "control/units.h"

#include <string.h>
#include <unistd.h>

typedef struct Import {
    Daemon *daemon;
    char *as; /* or NULL */
    char *file;
    gboolean isolated;
    char *made; /* the directory */
    JobDone done;
    gpointer data;
    GError *error; /* why it failed, or NULL */
    /* What district-ckpt says */
    char *name;
    char *district; /* in the file */
    char *definition;
    uint64_t epoch;
    uint64_t incarnation;
    GHashTable *memory;   /* member -> bytes, text */
    GHashTable *disks;    /* member -> how many, text */
    GHashTable *journals; /* member -> bytes, text */
} Import;

static void
import_free(Import *import)
{
    g_hash_table_unref(import->memory);
    g_hash_table_unref(import->disks);
    g_hash_table_unref(import->journals);
    g_clear_error(&import->error);
    g_free(import->as);
    g_free(import->file);
    g_free(import->made);
    g_free(import->name);
    g_free(import->district);
    g_free(import->definition);
    g_free(import);
}

/* StoreRemoved */
static void
import_failed(gpointer data)
{
    Import *import = data;

    import->done(NULL, import->error, import->data);
    import_free(import);
}

static void
import_end(Import *import, JsonObject *result, const GError *error)
{
    if (error != NULL && import->made != NULL) {
        import->error = g_error_copy(error);
        store_remove_later(g_steal_pointer(&import->made), import_failed, import);
        return;
    }
    import->done(result, error, import->data);
    import_free(import);
}

static gboolean G_GNUC_PRINTF(4, 5)
    import_fail(const Import *import, ControlError code, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);

    g_set_error(error, CONTROL_ERROR, (gint)code, "%s: %s", import->file, text);
    return FALSE;
}

/* ---- What district-ckpt --import prints ---- */

static gboolean
take_line(Import *import, char *const *words)
{
    guint n = g_strv_length((char **)words);

    if (n == 2 && strcmp(words[0], "district") == 0)
        import->district = g_strdup(words[1]);
    else if (n == 2 && strcmp(words[0], "name") == 0)
        import->name = g_strdup(words[1]);
    else if (n == 2 && strcmp(words[0], "epoch") == 0)
        import->epoch = g_ascii_strtoull(words[1], NULL, 10);
    else if (n == 2 && strcmp(words[0], "incarnation") == 0)
        import->incarnation = g_ascii_strtoull(words[1], NULL, 10);
    else if (n == 3 && strcmp(words[0], "member") == 0)
        g_hash_table_replace(import->memory, g_strdup(words[1]), g_strdup(words[2]));
    else if (n == 3 && strcmp(words[0], "disks") == 0)
        g_hash_table_replace(import->disks, g_strdup(words[1]), g_strdup(words[2]));
    else if (n == 3 && strcmp(words[0], "journal") == 0)
        g_hash_table_replace(import->journals, g_strdup(words[1]), g_strdup(words[2]));
    else
        return FALSE;
    return TRUE;
}

/* Lines of a word and its values; after "definition" the text to the end. */
static gboolean
take_answer(Import *import, const char *out, GError **error)
{
    while (*out != '\0' && import->definition == NULL) {
        const char *end = strchrnul(out, '\n');
        g_autofree char *line = g_strndup(out, (gsize)(end - out));
        g_auto(GStrv) words = g_strsplit(line, " ", -1);

        out = *end != '\0' ? end + 1 : end;
        if (strcmp(line, "definition") == 0)
            import->definition = g_strdup(out);
        else if (!take_line(import, words))
            return import_fail(import, CONTROL_ERROR_FAILED, error,
                               "district-ckpt says \"%.60s\": use the same release", line);
    }
    return (import->definition != NULL && import->name != NULL && import->district != NULL) ||
           import_fail(import, CONTROL_ERROR_FAILED, error,
                       "district-ckpt has not come to an end: use the same release");
}

/* ---- The district ---- */

static guint
written_disks(const DefinitionMember *member)
{
    guint n = 0;

    for (guint i = 0; i < member->disks->len; i++)
        n += ((const DefinitionDisk *)member->disks->pdata[i])->read_only ? 0 : 1;
    return n;
}

/* A member that the checkpoint has must be one of the definition that came along. */
static gboolean
check_member(const Import *import, const Definition *definition, const char *name, GError **error)
{
    const char *memory = g_hash_table_lookup(import->memory, name);
    const char *disks = g_hash_table_lookup(import->disks, name);
    int index = definition_find_member(definition, name);

    if (index >= 0 && disks != NULL) {
        const DefinitionMember *m = definition->members->pdata[index];
        if (m->memory == g_ascii_strtoull(memory, NULL, 10) &&
            written_disks(m) == g_ascii_strtoull(disks, NULL, 10))
            return TRUE;
    }
    return import_fail(import, CONTROL_ERROR_INVALID, error,
                       "damaged: member %.60s is not as its definition has it: use an intact copy",
                       name);
}

/* The journals that came along are those that the definition has, of members that were off too. */
static gboolean
check_journals(const Import *import, const Definition *definition, GError **error)
{
    guint n = 0;

    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *m = definition->members->pdata[i];
        const char *bytes = g_hash_table_lookup(import->journals, m->name);
        n += bytes != NULL ? 1 : 0;
        if (m->journal != (bytes != NULL ? g_ascii_strtoull(bytes, NULL, 10) : 0))
            return import_fail(import, CONTROL_ERROR_INVALID, error,
                               "damaged: the journal of member %s is not as its definition has it: "
                               "use an intact copy",
                               m->name);
    }
    return n == g_hash_table_size(import->journals) ||
           import_fail(import, CONTROL_ERROR_INVALID, error,
                       "damaged: a journal in it is of no member: use an intact copy");
}

static gboolean
check_all(const Import *import, const Definition *definition, GError **error)
{
    GHashTableIter iter;
    gpointer name = NULL;

    if (import->incarnation > INCARNATION_MAX)
        return import_fail(import, CONTROL_ERROR_INVALID, error,
                           "damaged: of an incarnation that cannot be: use an intact copy");
    g_hash_table_iter_init(&iter, import->memory);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!check_member(import, definition, name, error))
            return FALSE;
    }
    return check_journals(import, definition, error);
}

/* now: what is there in place of value; NULL: it stays. */
static void
add_path(JsonArray *paths, const DefinitionMember *member, const char *key, const char *value,
         const char *now)
{
    JsonObject *item = json_object_new();

    json_object_set_string_member(item, "member", member->name);
    json_object_set_string_member(item, "key", key);
    json_object_set_string_member(item, "value", value);
    if (now != NULL)
        json_object_set_string_member(item, "now", now);
    json_array_add_object_element(paths, item);
}

/* What the definition in the file would have had written to. */
static JsonArray *
replaced_paths(const Definition *old, const Definition *now)
{
    JsonArray *paths = json_array_new();

    for (guint i = 0; i < old->members->len; i++) {
        const DefinitionMember *was = old->members->pdata[i], *is = now->members->pdata[i];
        if (g_strcmp0(was->console, is->console) != 0)
            add_path(paths, was, "Console", was->console, is->console);
        if (g_strcmp0(was->debugcon, is->debugcon) != 0)
            add_path(paths, was, "Debugcon", was->debugcon, is->debugcon);
    }
    return paths;
}

/* What guests are given to read of this host. */
static JsonArray *
read_paths(const Definition *definition)
{
    JsonArray *paths = json_array_new();

    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *m = definition->members->pdata[i];
        add_path(paths, m, "Kernel", m->kernel, NULL);
        if (m->initrd != NULL)
            add_path(paths, m, "Initrd", m->initrd, NULL);
        for (guint k = 0; k < m->disks->len; k++) {
            const DefinitionDisk *disk = m->disks->pdata[k];
            if (disk->read_only)
                add_path(paths, m, "Disk", disk->path, NULL);
        }
    }
    return paths;
}

/* The definition that came along, under the new name; result gets the paths of this host in it. */
static Definition *
make_definition(const Import *import, JsonObject *result, GError **error)
{
    g_autoptr(Definition) old =
        definition_parse(import->definition, strlen(import->definition), import->file, error);
    g_autofree char *logs = g_build_filename(import->daemon->config->log_dir, import->name, NULL);
    g_autofree char *text = NULL;
    Definition *definition = NULL;

    if (old == NULL || !check_all(import, old, error))
        return NULL;
    text = definition_import_text(old, import->name, import->isolated, logs, error);
    if (text != NULL)
        definition = definition_parse(text, strlen(text), import->file, error);
    if (definition != NULL) {
        json_object_set_array_member(result, "replaced", replaced_paths(old, definition));
        json_object_set_array_member(result, "reads", read_paths(definition));
    }
    return definition;
}

static gboolean
check_name(const Import *import, const char *name, GError **error)
{
    if (!units_check_name(name, error))
        return FALSE;
    return !(g_hash_table_contains(import->daemon->districts, name) ||
             store_exists(import->daemon->config->state_dir, name)) ||
           import_fail(import, CONTROL_ERROR_EXISTS, error,
                       "there is a district %s here already: import it --as another one", name);
}

static gboolean
make_district(const Import *import, District *d, GError **error)
{
    const char *state_dir = import->daemon->config->state_dir;

    d->record.role = ROLE_HOME;
    d->record.uuid = g_uuid_string_random();
    d->record.pacing = d->definition->pacing;
    d->record.output_commit = d->definition->output_commit;
    d->record.lineage = 1;
    d->record.resume = TRUE;
    d->incarnation = import->incarnation;
    return check_name(import, d->name, error) && district_check_sockets(d, error) &&
           store_create_finish(state_dir, import->made, d->name, d->definition->text, &d->record,
                               d->incarnation, error);
}

static gboolean
add_district(Import *import, JsonObject *result, GError **error)
{
    Definition *definition = make_definition(import, result, error);
    District *d;

    if (definition == NULL)
        return FALSE;
    d = district_new(import->daemon, definition);
    if (!make_district(import, d, error)) {
        district_free(d);
        return FALSE;
    }
    g_hash_table_insert(import->daemon->districts, d->name, d);
    daemon_event(import->daemon, "imported", d->name, "%s, epoch %" G_GUINT64_FORMAT " of %s",
                 import->file, import->epoch, import->district);
    return TRUE;
}

static void
on_imported(const char *out, const GError *why, gpointer data)
{
    Import *import = data;
    g_autoptr(GError) error = why != NULL ? g_error_copy(why) : NULL;
    g_autoptr(JsonObject) result = json_object_new();

    if (out == NULL || !take_answer(import, out, &error) || !add_district(import, result, &error)) {
        import_end(import, NULL, error);
        return;
    }
    json_object_set_string_member(result, "name", import->name);
    json_object_set_string_member(result, "district", import->district);
    json_object_set_int_member(result, "epoch", (gint64)import->epoch);
    json_object_set_int_member(result, "incarnation", (gint64)import->incarnation);
    import_end(import, result, NULL);
}

static void
import_spawn(Import *import, const int fds[2])
{
    g_autofree char *store = g_build_filename(import->made, "lineage-1", "store", NULL);
    g_autofree char *disks = g_build_filename(import->made, "lineage-1", "disks", NULL);
    g_autofree char *beside = g_path_get_dirname(import->made);
    const char *options[] = {"--import", "--store",  store,  "--disk-dir",
                             disks,      "--beside", beside, import->as != NULL ? "--as" : NULL,
                             import->as, NULL};

    store_query_files(import->daemon, import->file, options, fds, 2, on_imported, import);
}

void
operation_import(Daemon *daemon, const char *as, const char *file, gboolean isolated,
                 const int fds[2], JobDone done, gpointer data)
{
    Import *import = g_new0(Import, 1);
    g_autoptr(GError) error = NULL;

    import->daemon = daemon;
    import->as = g_strdup(as);
    import->file = g_strdup(file);
    import->isolated = isolated;
    import->done = done;
    import->data = data;
    import->memory = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    import->disks = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    import->journals = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (as == NULL || check_name(import, as, &error))
        import->made = store_import_begin(daemon->config->state_dir, &error);
    if (import->made != NULL) {
        import_spawn(import, fds);
        return;
    }
    close(fds[0]);
    close(fds[1]);
    import_end(import, NULL, error);
}
