/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What districtd keeps on disk about districts. */
#include "control/store.h"
#include "control/error.h"
#include "control/json.h"
#include "control/units.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_VERSION 2
/* With a clone's fields: a release that does not know them must not run it as something else. */
#define RECORD_VERSION_CLONE 3
#define PREFIX_NEW ".new-"
#define PREFIX_DESTROYED ".destroyed-"
#define PREFIX_IMPORT ".import-"

static gboolean
store_error(GError **error, const char *what, const char *path)
{
    int code = errno;

    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: cannot %s: %s%s", path, what,
                g_strerror(code),
                code == ENOSPC || code == EDQUOT ? ": free some space there and try again" : "");
    return FALSE;
}

static gboolean
sync_dir(const char *dir, GError **error)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gboolean good = fd >= 0 && fsync(fd) == 0;

    if (!good)
        store_error(error, "sync", dir);
    if (fd >= 0)
        close(fd);
    return good;
}

gboolean
store_add_dir(const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);

    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return store_error(error, "create", path);
    return sync_dir(parent, error);
}

static gboolean
write_all(int fd, const char *data, gsize len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FALSE;
        data += n;
        len -= (gsize)n;
    }
    return TRUE;
}

gboolean
store_write_file(const char *path, const char *data, gssize len, gboolean durable, GError **error)
{
    g_autofree char *temporary = g_strconcat(path, ".tmp", NULL);
    g_autofree char *dir = g_path_get_dirname(path);
    gsize bytes = len < 0 ? strlen(data) : (gsize)len;

    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return store_error(error, "write", temporary);
    gboolean good = write_all(fd, data, bytes) && (!durable || fsync(fd) == 0);
    if (!good)
        store_error(error, "write", temporary);
    if (close(fd) != 0 && good)
        good = store_error(error, "write", temporary);
    if (good && rename(temporary, path) != 0)
        good = store_error(error, "replace", path);
    if (!good)
        unlink(temporary);
    return good && (!durable || sync_dir(dir, error));
}

gboolean
store_rename(const char *from, const char *to, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(to);

    return rename(from, to) == 0 ? sync_dir(dir, error) : store_error(error, "replace", to);
}

void
record_clear(Record *record)
{
    g_free(record->uuid);
    g_free(record->peer);
    g_free(record->superseded_by);
    g_free(record->handing_to);
    g_free(record->clone_of);
    *record = (Record){0};
}

const char *
role_name(Role role)
{
    static const char *const names[] = {
        [ROLE_NONE] = "none", [ROLE_HOME] = "home", [ROLE_STANDBY] = "standby"};

    return names[role];
}

char *
store_district_dir(const char *state_dir, const char *name)
{
    return g_build_filename(state_dir, "districts", name, NULL);
}

static char *
store_path(const char *state_dir, const char *name, const char *file)
{
    return g_build_filename(state_dir, "districts", name, file, NULL);
}

/* Where a district is while it is being made or removed. No name of a district has a dot. */
static char *
store_passing_dir(const char *state_dir, const char *prefix, const char *name)
{
    g_autofree char *file = g_strconcat(prefix, name, NULL);

    return g_build_filename(state_dir, "districts", file, NULL);
}

static char *
definition_path(const char *state_dir, const char *name)
{
    g_autofree char *file = g_strconcat(name, ".district", NULL);

    return store_path(state_dir, name, file);
}

static void
set_string(JsonObject *object, const char *key, const char *value)
{
    if (value != NULL)
        json_object_set_string_member(object, key, value);
}

static char *
record_to_text(const Record *record)
{
    g_autoptr(JsonObject) object = json_object_new();

    json_object_set_int_member(object, "version",
                               record->clone_of != NULL ? RECORD_VERSION_CLONE : RECORD_VERSION);
    json_object_set_string_member(object, "role", role_name(record->role));
    json_object_set_boolean_member(object, "protect", record->protect);
    json_object_set_boolean_member(object, "output_commit", record->output_commit);
    json_object_set_boolean_member(object, "stopped", record->stopped);
    json_object_set_boolean_member(object, "failover_wanted", record->failover_wanted);
    json_object_set_boolean_member(object, "resume", record->resume);
    json_object_set_boolean_member(object, "home_stopped", record->home_stopped);
    json_object_set_int_member(object, "lineage", record->lineage);
    json_object_set_int_member(object, "copy", record->copy);
    pacing_to_json(&record->pacing, object);
    json_object_set_int_member(object, "home_incarnation", (gint64)record->home_incarnation);
    json_object_set_int_member(object, "superseded_incarnation",
                               (gint64)record->superseded_incarnation);
    json_object_set_int_member(object, "ended_incarnation", (gint64)record->ended_incarnation);
    set_string(object, "uuid", record->uuid);
    set_string(object, "peer", record->peer);
    set_string(object, "superseded_by", record->superseded_by);
    set_string(object, "handing_to", record->handing_to);
    set_string(object, "clone_of", record->clone_of);
    if (record->clone_of != NULL)
        json_object_set_int_member(object, "clone_id", (gint64)record->clone_id);
    return json_to_text(object);
}

static char *
incarnation_to_text(uint64_t incarnation)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT "\n", incarnation);
}

/* Depth-first; a symbolic link is removed, never followed. */
gboolean
store_remove_tree(const char *path, GError **error)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return errno == ENOENT ? TRUE : store_error(error, "remove", path);
    if (S_ISDIR(st.st_mode)) {
        g_autoptr(GDir) dir = g_dir_open(path, 0, error);
        const char *entry = NULL;
        while (dir != NULL && (entry = g_dir_read_name(dir)) != NULL) {
            g_autofree char *child = g_build_filename(path, entry, NULL);
            if (!store_remove_tree(child, error))
                return FALSE;
        }
    }
    return remove(path) == 0 ? TRUE : store_error(error, "remove", path);
}

static gboolean
write_new(const char *dir, const char *name, const char *definition, const Record *record,
          uint64_t incarnation, GError **error)
{
    g_autofree char *file = g_strconcat(name, ".district", NULL);
    g_autofree char *definition_file = g_build_filename(dir, file, NULL);
    g_autofree char *record_file = g_build_filename(dir, "state.json", NULL);
    g_autofree char *incarnation_file = g_build_filename(dir, "incarnation", NULL);
    g_autofree char *record_text = record_to_text(record);
    g_autofree char *number = incarnation_to_text(incarnation);

    return store_write_file(definition_file, definition, -1, TRUE, error) &&
           store_write_file(incarnation_file, number, -1, TRUE, error) &&
           store_write_file(record_file, record_text, -1, TRUE, error);
}

/* What has been made gets its name. Refused if there is a directory of that name with anything in it.
 */
static gboolean
publish(const char *state_dir, const char *made, const char *name, GError **error)
{
    g_autofree char *dir = store_district_dir(state_dir, name);
    g_autofree char *parent = g_path_get_dirname(dir);

    if (rename(made, dir) == 0)
        return sync_dir(parent, error);
    if (errno != ENOTEMPTY && errno != EEXIST)
        return store_error(error, "create", dir);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS,
                "%s: it is here, but was not loaded: look into districtd's log, or district "
                "destroy --force %s",
                dir, name);
    return FALSE;
}

gboolean
store_create(const char *state_dir, const char *name, const char *definition, const Record *record,
             uint64_t incarnation, GError **error)
{
    g_autofree char *made = store_passing_dir(state_dir, PREFIX_NEW, name);
    g_autofree char *checkpoints = g_build_filename(made, "checkpoints", NULL);

    if (!store_remove_tree(made, error))
        return FALSE;
    if (g_mkdir_with_parents(checkpoints, 0700) != 0)
        return store_error(error, "create", checkpoints);
    if (!write_new(made, name, definition, record, incarnation, error))
        return FALSE;
    if (publish(state_dir, made, name, error))
        return TRUE;
    store_remove_tree(made, NULL);
    return FALSE;
}

/* A directory that nobody sees. NULL with error set. */
static char *
passing_begin(const char *state_dir, const char *prefix, GError **error)
{
    g_autofree char *made = store_passing_dir(state_dir, prefix, "XXXXXX");
    g_autofree char *parent = g_path_get_dirname(made);

    if (g_mkdir_with_parents(parent, 0700) == 0 && g_mkdtemp(made) != NULL)
        return g_steal_pointer(&made);
    store_error(error, "create", made);
    return NULL;
}

char *
store_create_begin(const char *state_dir, GError **error)
{
    return passing_begin(state_dir, PREFIX_NEW, error);
}

char *
store_import_begin(const char *state_dir, GError **error)
{
    g_autofree char *made = passing_begin(state_dir, PREFIX_IMPORT, error);

    if (made == NULL)
        return NULL;
    g_autofree char *lineage = g_build_filename(made, "lineage-1", NULL);
    g_autofree char *disks = g_build_filename(lineage, "disks", NULL);
    if (store_add_dir(lineage, error) && store_add_dir(disks, error))
        return g_steal_pointer(&made);
    store_remove_tree(made, NULL);
    return NULL;
}

gboolean
store_create_finish(const char *state_dir, const char *made, const char *name,
                    const char *definition, const Record *record, uint64_t incarnation,
                    GError **error)
{
    return write_new(made, name, definition, record, incarnation, error) &&
           publish(state_dir, made, name, error);
}

gboolean
store_exists(const char *state_dir, const char *name)
{
    g_autofree char *dir = store_district_dir(state_dir, name);

    return g_file_test(dir, G_FILE_TEST_IS_DIR);
}

/* A name for what is being removed that nothing else has: that takes time, and may fail. */
static char *
doomed_dir(const char *state_dir, const char *name)
{
    for (unsigned n = 0;; n++) {
        g_autofree char *file = g_strdup_printf("%s-%u", name, n);
        g_autofree char *dir = store_passing_dir(state_dir, PREFIX_DESTROYED, file);
        if (!g_file_test(dir, G_FILE_TEST_EXISTS))
            return g_steal_pointer(&dir);
    }
}

char *
store_destroy(const char *state_dir, const char *name, GError **error)
{
    g_autofree char *dir = store_district_dir(state_dir, name);
    g_autofree char *parent = g_path_get_dirname(dir);
    g_autofree char *doomed = doomed_dir(state_dir, name);

    /* Not there: an attempt before this one got as far as that, and was not synced. */
    if (rename(dir, doomed) != 0 && errno != ENOENT) {
        store_error(error, "remove", dir);
        return NULL;
    }
    return sync_dir(parent, error) ? g_steal_pointer(&doomed) : NULL;
}

typedef struct Removed {
    StoreRemoved done;
    gpointer data;
} Removed;

static void
remove_thread(GTask *task, gpointer source, gpointer path, GCancellable *cancellable)
{
    GError *error = NULL;

    if (store_remove_tree(path, &error))
        g_task_return_boolean(task, TRUE);
    else
        g_task_return_error(task, error);
}

static void
on_removed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Removed *removed = data;
    g_autoptr(GError) error = NULL;

    if (!g_task_propagate_boolean(G_TASK(result), &error))
        g_warning("something is left of what was removed: %s", error->message);
    removed->done(removed->data);
}

void
store_remove_later(char *path, StoreRemoved done, gpointer data)
{
    Removed *removed = g_new(Removed, 1);

    *removed = (Removed){done, data};
    g_autoptr(GTask) task = g_task_new(NULL, NULL, on_removed, removed);
    g_task_set_task_data(task, path, g_free);
    g_task_run_in_thread(task, remove_thread);
}

char **
store_list(const char *state_dir)
{
    g_autofree char *root = g_build_filename(state_dir, "districts", NULL);
    g_autoptr(GDir) dir = g_dir_open(root, 0, NULL);
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    const char *name = NULL;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = store_district_dir(state_dir, name);
        g_autoptr(GError) error = NULL;
        gboolean passing = g_str_has_prefix(name, PREFIX_NEW) ||
                           g_str_has_prefix(name, PREFIX_IMPORT) ||
                           g_str_has_prefix(name, PREFIX_DESTROYED);
        if (passing && !store_remove_tree(path, &error))
            g_warning("%s", error->message);
        else if (!passing && g_file_test(path, G_FILE_TEST_IS_DIR))
            g_strv_builder_add(names, name);
    }
    return g_strv_builder_end(names);
}

gboolean
store_save_definition(const char *state_dir, const char *name, const char *text, GError **error)
{
    g_autofree char *path = definition_path(state_dir, name);

    return store_write_file(path, text, -1, TRUE, error);
}

char *
store_load_definition(const char *state_dir, const char *name, gsize *len, GError **error)
{
    g_autofree char *path = definition_path(state_dir, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, len, error) ? text : NULL;
}

gboolean
store_save_record(const char *state_dir, const char *name, const Record *record, GError **error)
{
    g_autofree char *path = store_path(state_dir, name, "state.json");
    g_autofree char *text = record_to_text(record);

    return store_write_file(path, text, -1, TRUE, error);
}

static gboolean
record_from_json(JsonObject *object, Record *record)
{
    const char *role = json_get_string(object, "role", "");
    const char *clone_of = json_get_string(object, "clone_of", NULL);

    if (json_get_int(object, "version", 0) !=
            (clone_of != NULL ? RECORD_VERSION_CLONE : RECORD_VERSION) ||
        (clone_of != NULL && !units_check_name(clone_of, NULL)) ||
        !g_uuid_string_is_valid(json_get_string(object, "uuid", "")))
        return FALSE;
    for (record->role = ROLE_NONE; strcmp(role, role_name(record->role)) != 0; record->role++) {
        if (record->role == ROLE_STANDBY)
            return FALSE;
    }
    record->protect = json_get_bool(object, "protect", FALSE);
    record->output_commit = json_get_bool(object, "output_commit", TRUE);
    record->stopped = json_get_bool(object, "stopped", FALSE);
    record->failover_wanted = json_get_bool(object, "failover_wanted", FALSE);
    record->resume = json_get_bool(object, "resume", FALSE);
    record->home_stopped = json_get_bool(object, "home_stopped", FALSE);
    record->lineage = (unsigned)json_get_int(object, "lineage", 0);
    record->copy = (unsigned)json_get_int(object, "copy", 0);
    /* A district is not given up for a time out of range: it has the defaults. */
    pacing_init(&record->pacing);
    pacing_from_json(object, "", &record->pacing, NULL);
    record->home_incarnation = (uint64_t)json_get_int(object, "home_incarnation", 0);
    record->superseded_incarnation = (uint64_t)json_get_int(object, "superseded_incarnation", 0);
    record->ended_incarnation = (uint64_t)json_get_int(object, "ended_incarnation", 0);
    record->uuid = g_strdup(json_get_string(object, "uuid", NULL));
    record->peer = g_strdup(json_get_string(object, "peer", NULL));
    record->superseded_by = g_strdup(json_get_string(object, "superseded_by", NULL));
    record->handing_to = g_strdup(json_get_string(object, "handing_to", NULL));
    record->clone_of = g_strdup(clone_of);
    record->clone_id = (uint64_t)json_get_int(object, "clone_id", 0);
    return TRUE;
}

gboolean
store_load_record(const char *state_dir, const char *name, Record *record, GError **error)
{
    g_autofree char *path = store_path(state_dir, name, "state.json");
    g_autofree char *text = NULL;
    gsize len = 0;

    *record = (Record){0};
    if (!g_file_get_contents(path, &text, &len, error))
        return FALSE;
    g_autoptr(JsonObject) object = json_parse_object(text, len, NULL);
    if (object != NULL && record_from_json(object, record))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: damaged or of another version: restore it from a backup, or district destroy "
                "--force %s",
                path, name);
    return FALSE;
}

gboolean
store_save_incarnation(const char *state_dir, const char *name, uint64_t incarnation,
                       GError **error)
{
    g_autofree char *path = store_path(state_dir, name, "incarnation");
    g_autofree char *text = incarnation_to_text(incarnation);

    return store_write_file(path, text, -1, TRUE, error);
}

gboolean
store_load_incarnation(const char *state_dir, const char *name, uint64_t *incarnation,
                       GError **error)
{
    g_autofree char *path = store_path(state_dir, name, "incarnation");
    g_autofree char *text = NULL;
    guint64 value = 0;

    if (!g_file_get_contents(path, &text, NULL, error))
        return FALSE;
    g_strchomp(text);
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, &value, NULL)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: damaged: write there a number above every incarnation %s ever had", path,
                    name);
        return FALSE;
    }
    *incarnation = value;
    return TRUE;
}
