/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of the user API (docs/protocol.md, "User API"): one JSON object per line. */
#ifndef DISTRICT_CONTROL_APIPARSE_H
#define DISTRICT_CONTROL_APIPARSE_H

#include <glib.h>
#include <json-glib/json-glib.h>

/* Longest request, bytes with the newline. Answers may be longer: see api.c. */
#define API_LINE_MAX (1024 * 1024)

typedef struct ApiCall {
    char *execute;         /* name of the verb, [a-z-]+ */
    JsonObject *arguments; /* never NULL */
    JsonNode *id;          /* echoed; NULL if there was none */
} ApiCall;

/*
 * Parse one line without its newline. NULL with CONTROL_ERROR_INVALID set on anything but
 * {"execute": NAME, "arguments": {...}, "id": ANY} with the last two optional.
 */
ApiCall *api_call_parse(const char *line, gsize len, GError **error);
void api_call_free(ApiCall *call);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ApiCall, api_call_free)

#endif
