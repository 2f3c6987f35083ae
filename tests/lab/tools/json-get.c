/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* json-get PATH: read JSON from standard input and print the value at PATH (a.b.0.c) as text. */
#include <json-glib/json-glib.h>
#include <stdio.h>

static JsonNode *
step(JsonNode *node, const char *key)
{
    guint64 index;

    if (JSON_NODE_HOLDS_OBJECT(node))
        return json_object_get_member(json_node_get_object(node), key);
    if (JSON_NODE_HOLDS_ARRAY(node) &&
        g_ascii_string_to_unsigned(key, 10, 0, G_MAXUINT, &index, NULL) &&
        index < json_array_get_length(json_node_get_array(node)))
        return json_array_get_element(json_node_get_array(node), (guint)index);
    return NULL;
}

static void
print_value(JsonNode *node)
{
    if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING) {
        puts(json_node_get_string(node));
    } else {
        g_autofree char *text = json_to_string(node, FALSE);
        puts(text);
    }
}

int
main(int argc, char **argv)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    char part[4096];

    if (argc != 2) {
        fprintf(stderr, "usage: json-get PATH <JSON\n");
        return 2;
    }
    for (size_t n; (n = fread(part, 1, sizeof(part), stdin)) > 0;)
        g_string_append_len(text, part, (gssize)n);
    if (!json_parser_load_from_data(parser, text->str, (gssize)text->len, &error)) {
        fprintf(stderr, "json-get: %s\n", error->message);
        return 1;
    }
    g_auto(GStrv) keys = g_strsplit(argv[1], ".", -1);
    JsonNode *node = json_parser_get_root(parser);
    for (char **key = keys; node && *key; key++)
        node = step(node, *key);
    if (!node)
        return 1;
    print_value(node);
    return 0;
}
