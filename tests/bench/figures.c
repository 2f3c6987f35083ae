/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One JSON object of distributions; figures.h describes it. */
#include "tests/bench/figures.h"

#include <stdio.h>

void
figures_add(JsonObject *object, const char *name, const Histogram *histogram)
{
    Percentiles p = histogram_percentiles(histogram);
    JsonObject *values = json_object_new();

    json_object_set_int_member(values, "count", (gint64)p.count);
    json_object_set_int_member(values, "p50", (gint64)p.p50);
    json_object_set_int_member(values, "p99", (gint64)p.p99);
    json_object_set_int_member(values, "max", (gint64)p.max);
    json_object_set_object_member(object, name, values);
}

void
figures_print(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    g_autofree char *text = json_to_string(node, FALSE);
    puts(text);
}
