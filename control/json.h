/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON that came from somewhere else: strict parsing and typed look-ups that never fail loudly. */
#ifndef DISTRICT_CONTROL_JSON_H
#define DISTRICT_CONTROL_JSON_H

#include <glib.h>
#include <json-glib/json-glib.h>

/* Deepest nesting accepted; json-glib parses recursively. */
#define JSON_DEPTH_MAX 32

/*
 * Parse text (len bytes, need not be terminated) as one JSON object in UTF-8 (RFC 8259; json-glib's
 * extensions are refused). NULL with a CONTROL_ERROR_INVALID set.
 */
JsonObject *json_parse_object(const char *text, gsize len, GError **error);

/* object on one line, with "\n"; caller frees. */
char *json_to_line(JsonObject *object);

/* The same on several lines, for files and people. */
char *json_to_text(JsonObject *object);

/* Members by type. A member that is absent or of another type gives the fallback. */
const char *json_get_string(JsonObject *object, const char *key, const char *fallback);
gint64 json_get_int(JsonObject *object, const char *key, gint64 fallback);
gboolean json_get_bool(JsonObject *object, const char *key, gboolean fallback);
JsonObject *json_get_object(JsonObject *object, const char *key);
JsonArray *json_get_array(JsonObject *object, const char *key);

#endif
