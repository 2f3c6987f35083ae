/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is all of a district's store as it was written? */
#include "control/daemon.h"

#include <string.h>

/* Faults passed on; further ones are only counted. */
#define FAULTS_MAX 1000

typedef struct StoreCheck {
    char *name;
    JobDone done;
    gpointer data;
} StoreCheck;

static JsonObject *
fault_to_json(const char *object, const char *text)
{
    JsonObject *fault = json_object_new();

    json_object_set_string_member(fault, "object", object);
    json_object_set_string_member(fault, "text", text);
    return fault;
}

/* What district-ckpt --check prints: "fault OBJECT TEXT" lines, then "checkpoints N". */
static JsonObject *
parse_lines(const StoreCheck *check, const char *out, GError **error)
{
    g_autoptr(JsonObject) result = json_object_new();
    JsonArray *faults = json_array_new();
    g_auto(GStrv) lines = g_strsplit(out, "\n", -1);
    gint64 n_faults = 0, n_checkpoints = -1;

    json_object_set_array_member(result, "faults", faults);
    for (char **line = lines; *line != NULL && **line != '\0'; line++) {
        g_auto(GStrv) words = g_strsplit(*line, " ", 3);
        guint n = g_strv_length(words);

        if (n == 3 && strcmp(words[0], "fault") == 0) {
            if (n_faults++ < FAULTS_MAX)
                json_array_add_object_element(faults, fault_to_json(words[1], words[2]));
        } else if (n == 2 && strcmp(words[0], "checkpoints") == 0) {
            n_checkpoints = g_ascii_strtoll(words[1], NULL, 10);
        } else {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                        "%s: district-ckpt says \"%.60s\": use the same release", check->name,
                        words[0]);
            return NULL;
        }
    }
    if (n_checkpoints < 0) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: district-ckpt has not come to an end: use the same release", check->name);
        return NULL;
    }
    json_object_set_int_member(result, "checkpoints", n_checkpoints);
    json_object_set_int_member(result, "n_faults", n_faults);
    return g_steal_pointer(&result);
}

static void
on_checked(const char *out, const GError *why, gpointer data)
{
    StoreCheck *check = data;
    g_autoptr(GError) error = why != NULL ? g_error_copy(why) : NULL;
    g_autoptr(JsonObject) result = out != NULL ? parse_lines(check, out, &error) : NULL;

    check->done(result, error, check->data);
    g_free(check->name);
    g_free(check);
}

void
operation_check_store(District *district, JobDone done, gpointer data)
{
    StoreCheck *check = g_new0(StoreCheck, 1);
    g_autofree char *dir = district_store_dir(district);
    g_autoptr(GError) error = NULL;

    *check = (StoreCheck){g_strdup(district->name), done, data};
    if (g_file_test(dir, G_FILE_TEST_IS_DIR)) {
        store_query(district, "--check", NULL, on_checked, check);
        return;
    }
    g_set_error(&error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                "%s: no durable checkpoint was ever made here", district->name);
    on_checked(NULL, error, check);
}
