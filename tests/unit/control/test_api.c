/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of the user API: what is taken, and that nothing else is. */
#include "control/apiparse.h"
#include "control/error.h"
#include "control/json.h"

#include <string.h>

static void
test_call(void)
{
    static const char line[] =
        "{\"execute\":\"show\",\"arguments\":{\"name\":\"shop\"},\"id\":[1]}";
    g_autoptr(GError) error = NULL;
    g_autoptr(ApiCall) call = api_call_parse(line, strlen(line), &error);

    g_assert_no_error(error);
    g_assert_cmpstr(call->execute, ==, "show");
    g_assert_cmpstr(json_get_string(call->arguments, "name", ""), ==, "shop");
    g_assert_nonnull(call->id);
}

static void
test_minimal(void)
{
    static const char line[] = "{\"execute\":\"list\"}";
    g_autoptr(ApiCall) call = api_call_parse(line, strlen(line), NULL);

    g_assert_nonnull(call);
    g_assert_cmpuint(json_object_get_size(call->arguments), ==, 0);
    g_assert_null(call->id);
}

static void
test_refused(gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(api_call_parse(data, strlen(data), &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
}

static void
test_deep(void)
{
    g_autofree char *deep = g_strnfill(200000, '[');
    g_autofree char *line = g_strconcat("{\"execute\":\"list\",\"id\":", deep, NULL);

    test_refused(line);
}

static void
test_nul(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(api_call_parse("{\"execute\":\"list\"}\0", 19, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
}

static void
test_types(void)
{
    static const char text[] = "{\"a\":1,\"b\":\"x\",\"c\":true,\"d\":null,\"e\":{},\"f\":[]}";
    g_autoptr(JsonObject) object = json_parse_object(text, strlen(text), NULL);

    g_assert_cmpint(json_get_int(object, "b", 7), ==, 7);
    g_assert_cmpstr(json_get_string(object, "a", "y"), ==, "y");
    g_assert_cmpstr(json_get_string(object, "d", "y"), ==, "y");
    g_assert_true(json_get_bool(object, "a", TRUE));
    g_assert_null(json_get_object(object, "f"));
    g_assert_null(json_get_array(object, "e"));
    g_assert_null(json_get_object(object, "absent"));
    g_assert_cmpint(json_get_int(NULL, "a", 3), ==, 3);
}

int
main(int argc, char **argv)
{
    static const char *const refused[] = {
        "",
        "list",
        "[]",
        "null",
        "{",
        "{}",
        "{\"execute\":1}",
        "{\"execute\":\"\"}",
        "{\"execute\":\"LIST\"}",
        "{\"execute\":\"a-name-that-is-longer-than-any-verb-could-be\"}",
        "{\"execute\":\"list\",\"arguments\":[]}",
        "{\"execute\":\"list\",\"other\":1}",
        "{\"execute\":\"list\"} {\"execute\":\"list\"}",
        "{\"execute\":\"list\"/* */}",
        "{'execute':'list'}",
        "{\"execute\":\"list\xff\"}",
        "{\"execute\":\"list",
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/api/a call has a verb, arguments and an id", test_call);
    g_test_add_func("/api/arguments and id may be left out", test_minimal);
    for (gsize i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autofree char *path = g_strdup_printf("/api/a malformed call is refused %zu", i);
        g_test_add_data_func(path, refused[i], test_refused);
    }
    g_test_add_func("/api/deep nesting is refused before it is parsed", test_deep);
    g_test_add_func("/api/a zero byte is refused", test_nul);
    g_test_add_func("/api/a member of another type is as good as absent", test_types);
    return g_test_run();
}
