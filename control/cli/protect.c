/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs: protect, unprotect, failover, migrate. */
#include "control/cli/cli.h"
#include "control/pacing.h"
#include "control/units.h"

#include <stdio.h>
#include <string.h>

#define POLL_US 100000

/* Poll until the standby holds a first commit; a bar shows the initial copy. */
static gboolean
wait_protected(Cli *cli, Client *client, const char *name, GError **error)
{
    for (;;) {
        g_autoptr(JsonObject) d = cli_call(client, "show", cli_name(name), error);
        if (d == NULL)
            return FALSE;
        JsonObject *c = json_get_object(d, "checkpointing");
        const char *protection = json_get_string(c, "protection", "");
        if (strcmp(json_get_string(d, "state", ""), "running") != 0 ||
            !json_get_bool(d, "protect", FALSE)) {
            cli_progress("", 0, 0);
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: it is %s: %s", name,
                        json_get_string(d, "state", "?"),
                        json_get_string(d, "reason", "no longer to be protected"));
            return FALSE;
        }
        if (strcmp(protection, "protected") == 0) {
            cli_progress("", 0, 0);
            return cli_print_json(cli, d);
        }
        const char *why = json_get_string(c, "protection_error", "");
        cli_progress(why[0] != '\0' ? why : protection,
                     (guint64)json_get_int(c, "sync_done_pages", 0),
                     (guint64)MAX(json_get_int(c, "sync_total_pages", 0), 1));
        g_usleep(POLL_US);
    }
}

/* What protect was given; NULL: not. */
typedef struct ProtectOptions {
    char *standby;
    char *interval;
    char *max_slowdown;
    char *max_lag;
    char *output_commit;
} ProtectOptions;

static void
protect_options_clear(ProtectOptions *o)
{
    g_free(o->standby);
    g_free(o->interval);
    g_free(o->max_slowdown);
    g_free(o->max_lag);
    g_free(o->output_commit);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ProtectOptions, protect_options_clear)

/* error says what is wrong with its value. Returns FALSE. */
static gboolean
bad_option(const char *option, GError **error)
{
    g_prefix_error(error, "protect: %s: ", option);
    return FALSE;
}

/* What is left out is the definition's. */
static gboolean
protect_pacing(const ProtectOptions *o, JsonObject *arguments, GError **error)
{
    Pacing pacing;

    if (o->interval && !pacing_parse_interval(o->interval, &pacing.interval_us, error))
        return bad_option("--interval", error);
    if (o->max_slowdown && !pacing_parse_slowdown(o->max_slowdown, &pacing.max_slowdown, error))
        return bad_option("--max-slowdown", error);
    if (o->max_lag && !pacing_parse_lag(o->max_lag, &pacing.max_lag_us, error))
        return bad_option("--max-lag", error);
    if (o->interval)
        json_object_set_int_member(arguments, "interval_us", (gint64)pacing.interval_us);
    if (o->max_slowdown)
        json_object_set_int_member(arguments, "max_slowdown_percent", pacing.max_slowdown);
    if (o->max_lag)
        json_object_set_int_member(arguments, "max_lag_us", (gint64)pacing.max_lag_us);
    return TRUE;
}

static JsonObject *
protect_arguments(const char *name, const ProtectOptions *o, GError **error)
{
    g_autoptr(JsonObject) arguments = cli_name(name);
    gboolean output_commit = FALSE;

    if (o->standby == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "protect: --standby HOST is missing: see district host list");
        return NULL;
    }
    json_object_set_string_member(arguments, "standby", o->standby);
    if (!protect_pacing(o, arguments, error))
        return NULL;
    if (o->output_commit != NULL) {
        if (!units_parse_bool(o->output_commit, &output_commit, error)) {
            bad_option("--output-commit", error);
            return NULL;
        }
        json_object_set_boolean_member(arguments, "output_commit", output_commit);
    }
    return g_steal_pointer(&arguments);
}

static gboolean
run_protect(Cli *cli, Client *client, const char *name, JsonObject *arguments, gboolean wait,
            GError **error)
{
    g_autoptr(JsonObject) result = cli_call(client, "protect", arguments, error);

    if (result == NULL || (wait && !wait_protected(cli, client, name, error)))
        return FALSE;
    if (!cli->json)
        printf("%s: %s\n", name, wait ? "protected" : "protection begins: district show NAME");
    return wait || cli_print_json(cli, result);
}

gboolean
cli_protect(Cli *cli, int argc, char **argv, GError **error)
{
    static const char usage[] =
        "NAME --standby HOST [--interval TIME|auto] [--max-slowdown N%] [--max-lag TIME] "
        "[--output-commit yes|no] [--wait]";
    char *name = NULL;
    gboolean wait = FALSE;
    g_auto(ProtectOptions) o = {0};
    const GOptionEntry options[] = {
        {"standby", 0, 0, G_OPTION_ARG_FILENAME, &o.standby, "Host that keeps the copy", "HOST"},
        {"interval", 0, 0, G_OPTION_ARG_FILENAME, &o.interval, "Time between cuts", "TIME|auto"},
        {"max-slowdown", 0, 0, G_OPTION_ARG_FILENAME, &o.max_slowdown,
         "With auto: what guests may lose", "N%"},
        {"max-lag", 0, 0, G_OPTION_ARG_FILENAME, &o.max_lag,
         "With auto: how old the last committed cut may be", "TIME"},
        {"output-commit", 0, 0, G_OPTION_ARG_FILENAME, &o.output_commit,
         "Hold output until committed", "yes|no"},
        {"wait", 0, 0, G_OPTION_ARG_NONE, &wait, "Until the copy is complete", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, usage, options, 1, &name, error))
        return FALSE;
    JsonObject *arguments = protect_arguments(name, &o, error);
    Client *client = arguments != NULL ? cli_connect(cli, error) : NULL;
    if (client == NULL) {
        if (arguments != NULL)
            json_object_unref(arguments);
        return FALSE;
    }
    gboolean good = run_protect(cli, client, name, arguments, wait, error);
    cli_disconnect(client);
    return good;
}

gboolean
cli_unprotect(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    const GOptionEntry options[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "Although the standby cannot be told", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME [--force]", options, 1, &name, error))
        return FALSE;
    JsonObject *arguments = cli_name(name);
    json_object_set_boolean_member(arguments, "force", force);
    g_autoptr(JsonObject) result = cli_once(cli, "unprotect", arguments, error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        printf("%s is not protected any more\n", name);
    return cli_print_json(cli, result);
}

static double
get_ms(JsonObject *object, const char *key)
{
    return json_object_get_double_member_with_default(object, key, 0);
}

gboolean
cli_failover(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;

    if (!cli_parse(&argc, &argv, "NAME", NULL, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "failover", cli_name(name), error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        printf("%s runs here as incarnation %" G_GINT64_FORMAT ", from epoch %" G_GINT64_FORMAT
               ", %.1f ms after the decision\n",
               name, json_get_int(result, "incarnation", 0), json_get_int(result, "epoch", 0),
               get_ms(result, "decided_to_running_ms"));
    return cli_print_json(cli, result);
}

gboolean
cli_migrate(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    g_autofree char *to = NULL;
    const GOptionEntry options[] = {
        {"to", 0, 0, G_OPTION_ARG_FILENAME, &to, "Where to", "HOST"},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME --to HOST", options, 1, &name, error))
        return FALSE;
    if (to == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "migrate: --to HOST is missing: see district host list");
        return FALSE;
    }
    JsonObject *arguments = cli_name(name);
    json_object_set_string_member(arguments, "to", to);
    g_autoptr(JsonObject) result = cli_once(cli, "migrate", arguments, error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        printf("%s runs on %s, %.1f ms after the hand-over began\n", name, to,
               get_ms(result, "handed_over_ms"));
    return cli_print_json(cli, result);
}
