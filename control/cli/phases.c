/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the pauses of a district go: rows for show, and a table for top. */
#include "control/cli/cli.h"

#include <stdio.h>
#include <string.h>

/* Room for a time: six characters and a space. */
#define TIME_WIDTH 7
/* Room for a name; a longer one has a line of its own. */
#define NAME_WIDTH 11
#define US_MAX 999999.5
#define US_TENTHS_BELOW 99.95

/* In their order; docs/tracing.md explains them. */
static const struct {
    const char *key;
    const char *name;
    const char *head; /* for top */
} phases[] = {
    {"kick_ns", "kick", "KICK"},    {"devices_ns", "devices", "DEVS"},
    {"save_ns", "save", "SAVE"},    {"harvest_ns", "harvest", "HARV"},
    {"reply_ns", "reply", "REPLY"}, {"residue_ns", "residue", "COPY"},
    {"state_ns", "state", "STATE"}, {"resume_ns", "resume", "RESUME"},
};

/* A percentile in us; "-" without samples. */
static void
add_time(GString *line, JsonObject *percentiles, const char *which)
{
    double us = (double)json_get_int(percentiles, which, 0) / 1e3;

    if (json_get_int(percentiles, "count", 0) == 0)
        g_string_append_printf(line, "%*s", TIME_WIDTH, "-");
    else if (us < US_TENTHS_BELOW)
        g_string_append_printf(line, "%*.1f", TIME_WIDTH, us);
    else if (us < US_MAX)
        g_string_append_printf(line, "%*.0f", TIME_WIDTH, us);
    else
        g_string_append_printf(line, "%*.1fs", TIME_WIDTH - 1, us / 1e6);
}

void
cli_add_phases(GPtrArray *rows, JsonObject *checkpointing)
{
    static const char *const which[] = {"p50", "p90", "p99", "max"};
    JsonObject *object = json_get_object(checkpointing, "phases");

    if (json_get_int(json_get_object(object, phases[0].key), "count", 0) == 0)
        return;
    g_ptr_array_add(rows, g_strdup_printf("  of it, in us\t%*s%*s%*s%*s", TIME_WIDTH, "median",
                                          TIME_WIDTH, "p90", TIME_WIDTH, "p99", TIME_WIDTH, "max"));
    for (gsize i = 0; i < G_N_ELEMENTS(phases); i++) {
        GString *line = g_string_new("    ");
        g_string_append_printf(line, "%s\t", phases[i].name);
        for (gsize k = 0; k < G_N_ELEMENTS(which); k++)
            add_time(line, json_get_object(object, phases[i].key), which[k]);
        g_ptr_array_add(rows, g_string_free(line, FALSE));
    }
}

static void
print_line(const char *name, JsonObject *recent, const char *which)
{
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_append_printf(line, "%-*s %s", NAME_WIDTH, name, which);
    add_time(line, json_get_object(recent, "pause_ns"), which);
    for (gsize i = 0; i < G_N_ELEMENTS(phases); i++)
        add_time(line, json_get_object(recent, phases[i].key), which);
    puts(line->str);
}

static void
print_heads(void)
{
    printf("\n%-15s%*s", "RECENTLY, US", TIME_WIDTH, "PAUSE");
    for (gsize i = 0; i < G_N_ELEMENTS(phases); i++)
        printf("%*s", TIME_WIDTH, phases[i].head);
    putchar('\n');
}

gboolean
cli_print_recent(JsonObject *district, gboolean heads)
{
    JsonObject *recent = json_get_object(district, "recent");

    if (json_get_int(json_get_object(recent, "pause_ns"), "count", 0) == 0)
        return FALSE;
    if (heads)
        print_heads();
    const char *name = json_get_string(district, "name", "?");
    gboolean fits = strlen(name) <= NAME_WIDTH;
    if (!fits)
        puts(name);
    print_line(fits ? name : "", recent, "p50");
    print_line("", recent, "p99");
    return TRUE;
}

void
cli_add_recent(Client *client, JsonObject *district)
{
    const char *name = json_get_string(district, "name", NULL);

    if (name == NULL || !json_object_has_member(district, "lag_ns"))
        return;
    /* One that has gone meanwhile is no error, and a lost connection is noticed soon enough. */
    g_autoptr(JsonObject) shown = cli_call(client, "show", cli_name(name), NULL);
    JsonObject *recent = json_get_object(json_get_object(shown, "checkpointing"), "recent");
    if (recent != NULL)
        json_object_set_object_member(district, "recent", json_object_ref(recent));
}
