/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON that came from somewhere else: strict parsing and typed look-ups. */
#include "control/json.h"
#include "control/error.h"

#include <string.h>

static gboolean
json_refuse(GError **error, const char *why)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "not acceptable as JSON: %s", why);
    return FALSE;
}

typedef struct Scan {
    guint depth;
    gboolean in_string;
    gboolean ended; /* the outermost object or array has been closed */
} Scan;

/* One character outside of strings. Returns why it is refused, or NULL. */
static const char *
scan_character(Scan *scan, char c)
{
    if (scan->ended && strchr(" \t\r\n", c) == NULL)
        return "something follows the object";
    if (c == '"')
        scan->in_string = TRUE;
    else if (c == '[' || c == '{')
        return ++scan->depth > JSON_DEPTH_MAX ? "nested too deeply" : NULL;
    else if (c == ']' || c == '}')
        scan->ended = scan->depth > 0 && --scan->depth == 0;
    else if (!g_ascii_isalnum(c) && strchr(" \t\r\n:,+-.", c) == NULL)
        return "unexpected character";
    return NULL;
}

/*
 * What json-glib does not check by itself: depth (it recurses), a second value after the first, and
 * its extensions (comments, single quotes), which would let a text look different to this scan than
 * to the parser.
 */
static gboolean
json_scan(const char *text, gsize len, GError **error)
{
    Scan scan = {0};

    for (gsize i = 0; i < len; i++) {
        if (!scan.in_string) {
            const char *why = scan_character(&scan, text[i]);
            if (why != NULL)
                return json_refuse(error, why);
        } else if (text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            scan.in_string = FALSE;
        }
    }
    return scan.in_string ? json_refuse(error, "unfinished string") : TRUE;
}

JsonObject *
json_parse_object(const char *text, gsize len, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) why = NULL;

    if (len > G_MAXINT || memchr(text, '\0', len) != NULL ||
        !g_utf8_validate(text, (gssize)len, NULL)) {
        json_refuse(error, "not UTF-8 text");
        return NULL;
    }
    if (!json_scan(text, len, error))
        return NULL;
    if (!json_parser_load_from_data(parser, text, (gssize)len, &why)) {
        json_refuse(error, why->message);
        return NULL;
    }
    JsonNode *root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        json_refuse(error, "an object { } is expected");
        return NULL;
    }
    return json_object_ref(json_node_get_object(root));
}

static char *
json_generate(JsonObject *object, gboolean pretty)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autoptr(JsonGenerator) generator = json_generator_new();

    json_generator_set_root(generator, node);
    json_generator_set_pretty(generator, pretty);
    g_autofree char *text = json_generator_to_data(generator, NULL);
    return g_strconcat(text, "\n", NULL);
}

char *
json_to_line(JsonObject *object)
{
    return json_generate(object, FALSE);
}

char *
json_to_text(JsonObject *object)
{
    return json_generate(object, TRUE);
}

static JsonNode *
json_get(JsonObject *object, const char *key, GType type)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, key) : NULL;

    if (node == NULL || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != type)
        return NULL;
    return node;
}

const char *
json_get_string(JsonObject *object, const char *key, const char *fallback)
{
    JsonNode *node = json_get(object, key, G_TYPE_STRING);

    return node != NULL ? json_node_get_string(node) : fallback;
}

gint64
json_get_int(JsonObject *object, const char *key, gint64 fallback)
{
    JsonNode *node = json_get(object, key, G_TYPE_INT64);

    return node != NULL ? json_node_get_int(node) : fallback;
}

gboolean
json_get_bool(JsonObject *object, const char *key, gboolean fallback)
{
    JsonNode *node = json_get(object, key, G_TYPE_BOOLEAN);

    return node != NULL ? json_node_get_boolean(node) : fallback;
}

JsonObject *
json_get_object(JsonObject *object, const char *key)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, key) : NULL;

    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

JsonArray *
json_get_array(JsonObject *object, const char *key)
{
    JsonNode *node = object != NULL ? json_object_get_member(object, key) : NULL;

    return node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
}
