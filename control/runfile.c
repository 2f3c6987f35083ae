/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* run.json: the processes of a district that are running now. */
#include "control/runfile.h"
#include "control/error.h"
#include "control/json.h"
#include "control/store.h"

#include <stdio.h>
#include <string.h>

void
run_process_free(RunProcess *process)
{
    if (process == NULL)
        return;
    g_free(process->kind);
    g_free(process->member);
    g_free(process);
}

/* Fields of stat from the third on (state); NULL if it is not such a text. */
static char **
stat_fields(const char *stat)
{
    const char *end = strrchr(stat, ')');
    if (end == NULL || end[1] != ' ')
        return NULL;
    char **fields = g_strsplit(end + 2, " ", 0);
    if (g_strv_length(fields) >= 20)
        return fields;
    g_strfreev(fields);
    return NULL;
}

gboolean
process_start_time_parse(const char *stat, uint64_t *ticks)
{
    g_auto(GStrv) fields = stat_fields(stat);
    guint64 value = 0;

    /* Field 22, counted from field 3. A zombie has ended. */
    if (fields == NULL || fields[0][0] == 'Z' || fields[0][0] == 'X' ||
        !g_ascii_string_to_unsigned(fields[19], 10, 0, G_MAXUINT64, &value, NULL))
        return FALSE;
    *ticks = value;
    return TRUE;
}

gboolean
process_start_time(pid_t pid, uint64_t *ticks)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *stat = NULL;

    return pid > 0 && g_file_get_contents(path, &stat, NULL, NULL) &&
           process_start_time_parse(stat, ticks);
}

gboolean
run_process_alive(const RunProcess *process)
{
    uint64_t ticks = 0;

    return process_start_time(process->pid, &ticks) && ticks == process->start_time;
}

gboolean
run_processes_any_alive(const GPtrArray *processes)
{
    for (guint i = 0; i < processes->len; i++) {
        if (run_process_alive(processes->pdata[i]))
            return TRUE;
    }
    return FALSE;
}

static char *
boot_id(void)
{
    char *text = NULL;

    if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, NULL, NULL))
        return g_strdup("");
    return g_strchomp(text);
}

gboolean
runfile_save(const char *path, GPtrArray *processes, GError **error)
{
    g_autoptr(JsonObject) object = json_object_new();
    g_autofree char *boot = boot_id();
    JsonArray *array = json_array_new();

    for (guint i = 0; i < processes->len; i++) {
        const RunProcess *p = processes->pdata[i];
        JsonObject *item = json_object_new();
        json_object_set_string_member(item, "kind", p->kind);
        if (p->member != NULL)
            json_object_set_string_member(item, "member", p->member);
        json_object_set_int_member(item, "pid", p->pid);
        json_object_set_int_member(item, "start_time", (gint64)p->start_time);
        json_array_add_object_element(array, item);
    }
    json_object_set_string_member(object, "boot_id", boot);
    json_object_set_array_member(object, "processes", array);
    g_autofree char *text = json_to_text(object);
    /* Not synced: what it tells of does not outlive the machine either. */
    return store_write_file(path, text, -1, FALSE, error);
}

static RunProcess *
run_process_from_json(JsonNode *node)
{
    JsonObject *item = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    const char *kind = json_get_string(item, "kind", NULL);
    gint64 pid = json_get_int(item, "pid", 0);

    if (kind == NULL || pid <= 1 || pid > G_MAXINT32)
        return NULL;
    RunProcess *process = g_new0(RunProcess, 1);
    process->kind = g_strdup(kind);
    process->member = g_strdup(json_get_string(item, "member", NULL));
    process->pid = (pid_t)pid;
    process->start_time = (uint64_t)json_get_int(item, "start_time", 0);
    return process;
}

static gboolean
runfile_read(JsonObject *object, GPtrArray *processes)
{
    g_autofree char *boot = boot_id();
    JsonArray *array = json_get_array(object, "processes");

    if (array == NULL)
        return FALSE;
    if (strcmp(json_get_string(object, "boot_id", ""), boot) != 0)
        return TRUE;
    for (guint i = 0; i < json_array_get_length(array); i++) {
        RunProcess *process = run_process_from_json(json_array_get_element(array, i));
        if (process == NULL)
            return FALSE;
        g_ptr_array_add(processes, process);
    }
    return TRUE;
}

GPtrArray *
runfile_load(const char *path, GError **error)
{
    g_autoptr(GPtrArray) processes =
        g_ptr_array_new_with_free_func((GDestroyNotify)run_process_free);
    g_autofree char *text = NULL;
    gsize len = 0;

    if (!g_file_get_contents(path, &text, &len, NULL))
        return g_steal_pointer(&processes);
    g_autoptr(JsonObject) object = json_parse_object(text, len, NULL);
    if (object != NULL && runfile_read(object, processes))
        return g_steal_pointer(&processes);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: damaged: end the district's processes by hand and remove the file", path);
    return NULL;
}
