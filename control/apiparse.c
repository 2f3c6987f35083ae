/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of the user API: parsing of one line. */
#include "control/apiparse.h"
#include "control/error.h"
#include "control/json.h"

#include <string.h>

#define EXECUTE_BYTES_MAX 40

static gboolean
api_check_execute(const char *execute)
{
    size_t len = execute != NULL ? strlen(execute) : 0;

    return len > 0 && len <= EXECUTE_BYTES_MAX &&
           strspn(execute, "abcdefghijklmnopqrstuvwxyz-") == len;
}

static gboolean
api_check_members(JsonObject *object, GError **error)
{
    static const char *const known[] = {"execute", "arguments", "id", NULL};
    g_autoptr(GList) names = json_object_get_members(object);

    for (GList *i = names; i != NULL; i = i->next) {
        if (g_strv_contains(known, i->data))
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "a request has execute, arguments and id: \"%.40s\" is none of them",
                    (const char *)i->data);
        return FALSE;
    }
    return TRUE;
}

ApiCall *
api_call_parse(const char *line, gsize len, GError **error)
{
    g_autoptr(JsonObject) object = json_parse_object(line, len, error);

    if (object == NULL || !api_check_members(object, error))
        return NULL;
    const char *execute = json_get_string(object, "execute", NULL);
    if (!api_check_execute(execute)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "\"execute\" must be the name of a verb, as \"list\"");
        return NULL;
    }
    JsonObject *arguments = json_get_object(object, "arguments");
    if (arguments == NULL && json_object_has_member(object, "arguments")) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "\"arguments\" must be an object");
        return NULL;
    }
    ApiCall *call = g_new0(ApiCall, 1);
    call->execute = g_strdup(execute);
    call->arguments = arguments != NULL ? json_object_ref(arguments) : json_object_new();
    if (json_object_has_member(object, "id"))
        call->id = json_object_dup_member(object, "id");
    return call;
}

void
api_call_free(ApiCall *call)
{
    if (call == NULL)
        return;
    g_free(call->execute);
    json_object_unref(call->arguments);
    if (call->id != NULL)
        json_node_unref(call->id);
    g_free(call);
}
