/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs that look: list, show, log, top, events, doctor. */
#include "control/cli/cli.h"
#include "control/doctor.h"
#include "control/units.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char *
format_time(double seconds)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local((gint64)seconds);

    return g_date_time_format(time, "%Y-%m-%d %H:%M:%S");
}

static JsonObject *
element(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static guint
length(JsonArray *array)
{
    return array != NULL ? json_array_get_length(array) : 0;
}

/* ---- list, top ---- */

/* Why it is as it is, for the list. */
static char *
list_reason(JsonObject *d)
{
    const char *of = json_get_string(d, "clone_of", NULL),
               *reason = json_get_string(d, "reason", "");

    if (of == NULL)
        return g_strdup(reason);
    return g_strdup_printf("clone of %s at %" G_GINT64_FORMAT "%s%s", of,
                           json_get_int(d, "clone_checkpoint", 0), *reason != '\0' ? ": " : "",
                           reason);
}

static char *
list_row(JsonObject *d)
{
    g_autofree char *reason = list_reason(d);
    g_autofree char *lag = units_format_ns((uint64_t)json_get_int(d, "lag_ns", 0));
    g_autofree char *pause = units_format_ns((uint64_t)json_get_int(d, "pause_p50_ns", 0));
    gboolean cuts = json_object_has_member(d, "lag_ns");

    return g_strdup_printf(
        "%s\t%s\t%s\t%" G_GINT64_FORMAT "\t%" G_GINT64_FORMAT "\t%s\t%s\t%s\t%s\t%s",
        json_get_string(d, "name", "?"), json_get_string(d, "state", "?"),
        json_get_string(d, "role", "?"), json_get_int(d, "incarnation", 0),
        json_get_int(d, "epoch", 0), json_get_string(d, "protection", "off"),
        json_get_string(d, "peer", "-"), cuts ? lag : "-", cuts ? pause : "-", reason);
}

static void
print_list(JsonObject *result)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    JsonArray *districts = json_get_array(result, "districts");

    g_ptr_array_add(rows, g_strdup("NAME\tSTATE\tROLE\tINCARNATION\tEPOCH\tPROTECTION\tPEER\tLAG\t"
                                   "PAUSE\tREASON"));
    for (guint i = 0; i < length(districts); i++)
        g_ptr_array_add(rows, list_row(element(districts, i)));
    cli_print_table(rows);
}

gboolean
cli_list(Cli *cli, int argc, char **argv, GError **error)
{
    if (!cli_parse(&argc, &argv, "", NULL, 0, NULL, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "list", NULL, error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        print_list(result);
    return cli_print_json(cli, result);
}

static void
top_add_recent(Client *client, JsonObject *result)
{
    JsonArray *districts = json_get_array(result, "districts");

    for (guint i = 0; i < length(districts); i++)
        cli_add_recent(client, element(districts, i));
}

static void
print_top(JsonObject *result)
{
    JsonArray *districts = json_get_array(result, "districts");
    gboolean heads = TRUE;

    print_list(result);
    for (guint i = 0; i < length(districts); i++) {
        if (cli_print_recent(element(districts, i), heads))
            heads = FALSE;
    }
    fflush(stdout);
}

gboolean
cli_top(Cli *cli, int argc, char **argv, GError **error)
{
    gboolean once = FALSE;
    const GOptionEntry options[] = {
        {"once", 0, 0, G_OPTION_ARG_NONE, &once, "Print one view and end", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "[--once]", options, 0, NULL, error))
        return FALSE;
    Client *client = cli_connect(cli, error);
    if (client == NULL)
        return FALSE;
    gboolean live = !once && isatty(STDOUT_FILENO);
    gboolean good = TRUE;
    do {
        g_autoptr(JsonObject) result = cli_call(client, "list", NULL, error);
        good = result != NULL;
        if (good)
            top_add_recent(client, result);
        if (live && good)
            fputs("\033[H\033[J", stdout);
        if (good && !cli->json)
            print_top(result);
        if (good)
            cli_print_json(cli, result);
        if (good && !once)
            sleep(1);
    } while (good && !once);
    cli_disconnect(client);
    return good;
}

/* ---- show ---- */

static void
add_line(GPtrArray *rows, const char *key, const char *value)
{
    if (value != NULL && value[0] != '\0')
        g_ptr_array_add(rows, g_strdup_printf("%s\t%s", key, value));
}

static void
add_number(GPtrArray *rows, const char *key, JsonObject *object, const char *member)
{
    if (object != NULL && json_object_has_member(object, member))
        g_ptr_array_add(
            rows, g_strdup_printf("%s\t%" G_GINT64_FORMAT, key, json_get_int(object, member, 0)));
}

static void
add_percentiles(GPtrArray *rows, const char *key, JsonObject *object, const char *member)
{
    JsonObject *p = json_get_object(object, member);

    if (json_get_int(p, "count", 0) == 0)
        return;
    g_autofree char *p50 = units_format_ns((uint64_t)json_get_int(p, "p50", 0));
    g_autofree char *p99 = units_format_ns((uint64_t)json_get_int(p, "p99", 0));
    g_autofree char *max = units_format_ns((uint64_t)json_get_int(p, "max", 0));
    g_ptr_array_add(rows, g_strdup_printf("%s\t%s median, %s p99, %s max", key, p50, p99, max));
}

static void
add_residue(GPtrArray *rows, JsonObject *c)
{
    JsonObject *p = json_get_object(c, "residue_pages");

    if (json_get_int(p, "count", 0) == 0)
        return;
    g_ptr_array_add(rows,
                    g_strdup_printf("Residue\t%" G_GINT64_FORMAT " pages median, %" G_GINT64_FORMAT
                                    " p99, %" G_GINT64_FORMAT " max",
                                    json_get_int(p, "p50", 0), json_get_int(p, "p99", 0),
                                    json_get_int(p, "max", 0)));
}

/* All that cuts and epochs take. */
static void
add_times(GPtrArray *rows, JsonObject *c)
{
    add_percentiles(rows, "Pause", c, "pause_ns");
    cli_add_phases(rows, c);
    add_residue(rows, c);
    add_percentiles(rows, "Skew", c, "skew_ns");
    add_percentiles(rows, "Precut", c, "precut_ns");
    add_percentiles(rows, "Encode", c, "encode_ns");
    add_percentiles(rows, "Send", c, "send_ns");
    add_percentiles(rows, "Commit", c, "commit_ns");
    add_percentiles(rows, "Interval", c, "interval_ns");
}

/* Guests whose I/O cannot go on. */
static void
add_waiting(GPtrArray *rows, JsonArray *members)
{
    for (guint i = 0; i < length(members); i++)
        add_line(rows, json_get_string(element(members, i), "name", "?"),
                 json_get_string(element(members, i), "waiting", ""));
}

/* What became of the pages that went through the encoders of streams. */
static void
add_page_kinds(GPtrArray *rows, JsonObject *c)
{
    gint64 deltas = json_get_int(c, "delta_pages", 0);
    gint64 duplicates = json_get_int(c, "duplicate_pages", 0);
    gint64 zero = json_get_int(c, "zero_pages", 0), raw = json_get_int(c, "raw_pages", 0);
    gint64 unchanged = json_get_int(c, "unchanged_pages", 0);
    g_autofree char *text = g_strdup_printf("%" PRId64 " raw, %" PRId64 " deltas, %" PRId64
                                            " duplicates, %" PRId64 " zero, %" PRId64 " unchanged",
                                            raw, deltas, duplicates, zero, unchanged);

    if (deltas + duplicates + zero + raw + unchanged > 0)
        add_line(rows, "Pages sent", text);
}

/* How what goes to the standby is encoded. */
static void
add_encoder(GPtrArray *rows, JsonObject *c)
{
    gint64 threads = json_get_int(c, "encode_threads", 0);
    g_autofree char *text =
        g_strdup_printf("zstd level %" PRId64 ", %" PRId64 " thread%s",
                        json_get_int(c, "zstd_level", 0), threads, threads == 1 ? "" : "s");

    if (threads > 0)
        add_line(rows, "Encoder", text);
}

static void
add_checkpointing(GPtrArray *rows, JsonObject *c)
{
    if (c == NULL)
        return;
    g_autofree char *lag = units_format_ns((uint64_t)json_get_int(c, "lag_ns", 0));
    add_number(rows, "Epoch", c, "epoch");
    add_number(rows, "Committed", c, "committed_epoch");
    add_line(rows, "Protection", json_get_string(c, "protection", "off"));
    add_line(rows, "Not protected", json_get_string(c, "protection_error", ""));
    if (json_get_int(c, "committed_epoch", 0) > 0)
        add_line(rows, "Lag", lag);
    add_times(rows, c);
    add_number(rows, "Dirty pages", c, "dirty_pages");
    add_number(rows, "Wire bytes", c, "wire_bytes");
    add_page_kinds(rows, c);
    add_encoder(rows, c);
    if (json_get_int(c, "durable_id", 0) > 0) {
        g_autofree char *age = units_format_ns((uint64_t)json_get_int(c, "durable_age_ns", 0));
        add_number(rows, "Durable", c, "durable_id");
        add_line(rows, "Durable age", age);
    }
    add_line(rows, "Store", json_get_string(c, "durable_error", ""));
    gint64 memory = json_get_int(c, "load_total_pages", 0);
    g_autofree char *read = g_strdup_printf("%.0f %% read from the store",
                                            100.0 * (double)json_get_int(c, "load_done_pages", 0) /
                                                (double)MAX(memory, 1));
    add_line(rows, "Memory", memory > 0 ? read : "");
    add_waiting(rows, json_get_array(c, "members"));
}

/* How often it is cut, of what was asked for, and what guests lose by it. */
static void
add_pace(GPtrArray *rows, JsonObject *d)
{
    JsonObject *c = json_get_object(d, "checkpointing");
    gint64 asked_us = json_get_int(d, "interval_us", 0);
    gint64 now_ns = json_get_int(c, "interval_now_ns", 0);

    if (now_ns == 0)
        return;
    g_autofree char *now = units_format_ns((uint64_t)now_ns);
    g_autofree char *asked = units_format_ns((uint64_t)asked_us * 1000);
    g_autofree char *lag = units_format_ns((uint64_t)json_get_int(d, "max_lag_us", 0) * 1000);
    g_autofree char *limits =
        g_strdup_printf("auto: at most %" G_GINT64_FORMAT " %% slowdown, %s lag",
                        json_get_int(d, "max_slowdown_percent", 0), lag);
    g_ptr_array_add(rows, g_strdup_printf("Cut every\t%s (%s%s)", now, asked_us ? asked : limits,
                                          asked_us ? " asked" : ""));
    g_ptr_array_add(rows, g_strdup_printf("Slowdown\t%.1f %%, if a write fault costs 2 us",
                                          (double)json_get_int(c, "slowdown_ppm", 0) / 1e4));
}

static void
add_standby(GPtrArray *rows, JsonObject *s)
{
    if (s == NULL)
        return;
    add_number(rows, "Committed", s, "committed_epoch");
    add_line(rows, "Stream", json_get_bool(s, "connected", FALSE) ? "connected" : "none");
    add_line(rows, "Stream ended", json_get_string(s, "error", ""));
    add_number(rows, "Received bytes", s, "received_bytes");
    add_number(rows, "RAM bytes", s, "ram_bytes");
}

static void
add_members(GPtrArray *rows, JsonArray *members)
{
    for (guint i = 0; i < length(members); i++) {
        JsonObject *m = element(members, i);
        g_autofree char *memory = units_format_size((uint64_t)json_get_int(m, "memory", 0));
        g_autofree char *pid = g_strdup_printf("pid %" G_GINT64_FORMAT, json_get_int(m, "pid", 0));
        const char *state = json_get_bool(m, "off", FALSE)     ? "powered off"
                            : json_object_has_member(m, "pid") ? pid
                                                               : "not running";
        g_ptr_array_add(rows, g_strdup_printf("Member %s\t%s, %" G_GINT64_FORMAT " CPU, %s, %s",
                                              json_get_string(m, "name", "?"), memory,
                                              json_get_int(m, "cpus", 0),
                                              json_get_string(m, "mac", "?"), state));
    }
}

/* What it is a clone of, and which clones it has. */
static void
add_clone(GPtrArray *rows, JsonObject *d)
{
    const char *of = json_get_string(d, "clone_of", NULL);
    JsonArray *clones = json_get_array(d, "clones");

    if (of != NULL)
        g_ptr_array_add(rows, g_strdup_printf("Clone of\t%s at checkpoint %" G_GINT64_FORMAT, of,
                                              json_get_int(d, "clone_checkpoint", 0)));
    for (guint i = 0; i < length(clones); i++)
        add_line(rows, "Clone", json_array_get_string_element(clones, i));
}

static void
add_outside(GPtrArray *rows, JsonObject *d)
{
    const char *bridge = json_get_string(d, "bridge", NULL);

    if (bridge != NULL)
        g_ptr_array_add(rows, g_strdup_printf("Outside\t%s, bridge %s",
                                              json_get_string(d, "tap", "?"), bridge));
}

gboolean
cli_show(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;

    if (!cli_parse(&argc, &argv, "NAME", NULL, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) d = cli_once(cli, "show", cli_name(name), error);
    if (d == NULL)
        return FALSE;
    if (cli->json)
        return cli_print_json(cli, d);
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    add_line(rows, "District", json_get_string(d, "name", "?"));
    add_line(rows, "State", json_get_string(d, "state", "?"));
    add_line(rows, "Reason", json_get_string(d, "reason", ""));
    add_line(rows, "Operation", json_get_string(d, "operation", ""));
    add_clone(rows, d);
    add_line(rows, "Role", json_get_string(d, "role", "?"));
    add_line(rows, "Peer", json_get_string(d, "peer", ""));
    add_line(rows, "Standby", json_get_string(d, "standby_reason", ""));
    add_number(rows, "Incarnation", d, "incarnation");
    add_checkpointing(rows, json_get_object(d, "checkpointing"));
    add_pace(rows, d);
    add_standby(rows, json_get_object(d, "standby"));
    add_outside(rows, d);
    add_members(rows, json_get_array(d, "members"));
    cli_print_table(rows);
    return TRUE;
}

/* ---- log ---- */

static const char *
checkpoint_state(JsonObject *c)
{
    return json_get_bool(c, "head", FALSE)        ? "head"
           : json_get_bool(c, "abandoned", FALSE) ? "abandoned"
                                                  : "-";
}

gboolean
cli_log(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;

    if (!cli_parse(&argc, &argv, "NAME", NULL, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "log", cli_name(name), error);
    if (result == NULL)
        return FALSE;
    if (cli->json)
        return cli_print_json(cli, result);
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    JsonArray *checkpoints = json_get_array(result, "checkpoints");
    g_ptr_array_add(rows, g_strdup("ID\tPARENT\tTIME\tINCARNATION\tEPOCH\tBYTES\tSTATE\tLABEL"));
    for (guint i = 0; i < length(checkpoints); i++) {
        JsonObject *c = element(checkpoints, i);
        g_autofree char *time = format_time((double)json_get_int(c, "time", 0));
        g_ptr_array_add(rows,
                        g_strdup_printf("%" G_GINT64_FORMAT "\t%" G_GINT64_FORMAT
                                        "\t%s\t%" G_GINT64_FORMAT "\t%" G_GINT64_FORMAT
                                        "\t%" G_GINT64_FORMAT "\t%s\t%s",
                                        json_get_int(c, "id", 0), json_get_int(c, "parent", 0),
                                        time, json_get_int(c, "incarnation", 0),
                                        json_get_int(c, "epoch", 0), json_get_int(c, "bytes", 0),
                                        checkpoint_state(c), json_get_string(c, "label", "")));
    }
    cli_print_table(rows);
    return TRUE;
}

/* ---- store check ---- */

static gboolean
store_check(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;

    if (!cli_parse(&argc, &argv, "NAME", NULL, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "store-check", cli_name(name), error);
    if (result == NULL)
        return FALSE;
    gint64 n_faults = json_get_int(result, "n_faults", 0);
    JsonArray *faults = json_get_array(result, "faults");
    cli_print_json(cli, result);
    for (guint i = 0; !cli->json && i < length(faults); i++)
        printf("%s: %s\n", json_get_string(element(faults, i), "object", "?"),
               json_get_string(element(faults, i), "text", "?"));
    if (n_faults == 0) {
        if (!cli->json)
            printf("%s: %" G_GINT64_FORMAT " checkpoints, every byte as it was written\n", name,
                   json_get_int(result, "checkpoints", 0));
        return TRUE;
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                "%s: faults in its store: %" G_GINT64_FORMAT
                ", the first in %s: go back to a checkpoint that is whole: district log %s",
                name, n_faults, json_get_string(element(faults, 0), "object", "?"), name);
    return FALSE;
}

gboolean
cli_store(Cli *cli, int argc, char **argv, GError **error)
{
    static char verb[] = "store check";

    if (argc > 1 && strcmp(argv[1], "check") == 0) {
        argv[1] = verb; /* for what is said of its options */
        return store_check(cli, argc - 1, argv + 1, error);
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "usage: district store check NAME");
    return FALSE;
}

/* ---- events ---- */

static void
print_event(const Cli *cli, JsonObject *event)
{
    g_autofree char *time =
        format_time(json_object_get_double_member_with_default(event, "time", 0));

    if (!cli->json)
        printf("%s  %s  %s: %s\n", time, json_get_string(event, "subject", "?"),
               json_get_string(event, "event", "?"), json_get_string(event, "text", ""));
    fflush(stdout);
    cli_print_json(cli, event);
}

static gboolean
follow_events(Cli *cli, Client *client, GError **error)
{
    for (;;) {
        g_autoptr(JsonObject) event = cli_next_event(client, error);
        if (event == NULL)
            return FALSE;
        print_event(cli, event);
    }
}

gboolean
cli_events(Cli *cli, int argc, char **argv, GError **error)
{
    gboolean follow = FALSE;
    const GOptionEntry options[] = {
        {"follow", 'f', 0, G_OPTION_ARG_NONE, &follow, "Go on with what happens", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "[--follow]", options, 0, NULL, error))
        return FALSE;
    Client *client = cli_connect(cli, error);
    if (client == NULL)
        return FALSE;
    g_autoptr(JsonObject) past = cli_call(client, "events", NULL, error);
    JsonArray *events = json_get_array(past, "events");
    for (guint i = 0; i < length(events); i++)
        print_event(cli, element(events, i));
    gboolean good = past != NULL;
    if (good && follow) {
        g_autoptr(JsonObject) result = cli_call(client, "subscribe", NULL, error);
        good = result != NULL && follow_events(cli, client, error);
    }
    cli_disconnect(client);
    return good;
}

/* ---- doctor ---- */

static JsonObject *
doctor_check_json(const DoctorCheck *check, const char *verdict)
{
    JsonObject *item = json_object_new();

    json_object_set_string_member(item, "check", check->name);
    json_object_set_string_member(item, "verdict", verdict);
    json_object_set_string_member(item, "found", check->found != NULL ? check->found : "");
    if (check->remedy != NULL)
        json_object_set_string_member(item, "remedy", check->remedy);
    return item;
}

gboolean
cli_doctor(Cli *cli, int argc, char **argv, GError **error)
{
    static const char *const verdicts[] = {
        [DOCTOR_OK] = "ok", [DOCTOR_WARN] = "warning", [DOCTOR_FAIL] = "FAIL"};
    guint failed = 0;

    if (!cli_parse(&argc, &argv, "", NULL, 0, NULL, error))
        return FALSE;
    g_autoptr(GPtrArray) checks = doctor_run();
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(JsonObject) result = json_object_new();
    JsonArray *items = json_array_new();
    for (guint i = 0; i < checks->len; i++) {
        const DoctorCheck *check = checks->pdata[i];
        failed += check->verdict == DOCTOR_FAIL;
        json_array_add_object_element(items, doctor_check_json(check, verdicts[check->verdict]));
        g_ptr_array_add(rows,
                        g_strdup_printf("%s\t%s\t%s%s%s", verdicts[check->verdict], check->name,
                                        check->found ? check->found : "", check->remedy ? ": " : "",
                                        check->remedy ? check->remedy : ""));
    }
    json_object_set_array_member(result, "checks", items);
    if (!cli->json)
        cli_print_table(rows);
    cli_print_json(cli, result);
    if (failed > 0)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "this machine: %u check%s failed: follow the remedies above", failed,
                    failed == 1 ? "" : "s");
    return failed == 0;
}
