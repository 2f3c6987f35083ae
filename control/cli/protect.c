/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs: protect, unprotect, failover, migrate. */
#include "control/cli/cli.h"
#include "control/pacing.h"
#include "control/units.h"

#include <stdio.h>
#include <string.h>

#define POLL_US 100000
#define TIMEOUT_MAX_US (365 * 86400 * (uint64_t)G_USEC_PER_SEC)

static gboolean
still_wanted(JsonObject *d, const char *name, GError **error)
{
    if (strcmp(json_get_string(d, "state", ""), "running") == 0 &&
        json_get_bool(d, "protect", FALSE))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: it is %s: %s", name,
                json_get_string(d, "state", "?"),
                json_get_string(d, "reason", "no longer to be protected"));
    return FALSE;
}

/* What is waited for. */
typedef struct Wait {
    char *name;         /* of the district; not owned */
    gint64 deadline_us; /* of g_get_monotonic_time() */
    char *said;         /* last, of why it is not protected yet; or NULL */
} Wait;

/* Once, on a line of its own. */
static void
say_why(Wait *wait, const char *why)
{
    if (why[0] == '\0' || g_strcmp0(why, wait->said) == 0)
        return;
    cli_progress("", 0, 0);
    fprintf(stderr, "%s: not protected yet: %s\n", wait->name, why);
    g_free(wait->said);
    wait->said = g_strdup(why);
}

/* Poll until the standby holds a first commit; a bar shows the initial copy. NULL with error set. */
static JsonObject *
poll_protected(Client *client, Wait *wait, GError **error)
{
    for (;;) {
        g_autoptr(JsonObject) d = cli_call(client, "show", cli_name(wait->name), error);
        if (d == NULL || !still_wanted(d, wait->name, error))
            return NULL;
        JsonObject *c = json_get_object(d, "checkpointing");
        const char *protection = json_get_string(c, "protection", "");
        if (strcmp(protection, "protected") == 0)
            return g_steal_pointer(&d);
        say_why(wait, json_get_string(c, "protection_error", ""));
        cli_progress(protection, (guint64)json_get_int(c, "sync_done_pages", 0),
                     (guint64)MAX(json_get_int(c, "sync_total_pages", 0), 1));
        if (g_get_monotonic_time() >= wait->deadline_us) {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                        "%s: not protected in time%s%s: it is tried on until district unprotect %s",
                        wait->name, wait->said != NULL ? ": " : "",
                        wait->said != NULL ? wait->said : "", wait->name);
            return NULL;
        }
        g_usleep(POLL_US);
    }
}

static gboolean
wait_protected(Cli *cli, Client *client, Wait *wait, GError **error)
{
    g_autoptr(JsonObject) d = poll_protected(client, wait, error);

    cli_progress("", 0, 0);
    g_clear_pointer(&wait->said, g_free);
    return d != NULL && cli_print_json(cli, d);
}

/* What protect was given; NULL: not. */
typedef struct ProtectOptions {
    char *standby;
    char *interval;
    char *max_slowdown;
    char *max_lag;
    char *output_commit;
    char *timeout;
    gboolean wait;
} ProtectOptions;

static void
protect_options_clear(ProtectOptions *o)
{
    g_free(o->standby);
    g_free(o->interval);
    g_free(o->max_slowdown);
    g_free(o->max_lag);
    g_free(o->output_commit);
    g_free(o->timeout);
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

/* Until when it is waited. */
static gboolean
protect_deadline(const ProtectOptions *o, gint64 *deadline_us, GError **error)
{
    uint64_t us = 0;

    *deadline_us = G_MAXINT64;
    if (o->timeout == NULL)
        return TRUE;
    if (!o->wait) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "protect: --timeout is how long to --wait: give both, or neither");
        return FALSE;
    }
    if (!units_parse_time(o->timeout, &us, error))
        return bad_option("--timeout", error);
    *deadline_us = g_get_monotonic_time() + (gint64)MIN(us, TIMEOUT_MAX_US);
    return TRUE;
}

/* wait: NULL: not. */
static gboolean
run_protect(Cli *cli, Client *client, const char *name, JsonObject *arguments, Wait *wait,
            GError **error)
{
    g_autoptr(JsonObject) result = cli_call(client, "protect", arguments, error);

    if (result == NULL || (wait != NULL && !wait_protected(cli, client, wait, error)))
        return FALSE;
    if (wait != NULL && !cli->json)
        printf("%s: protected\n", name);
    else if (!cli->json)
        printf("%s: protection begins: district show %s\n", name, name);
    return wait != NULL || cli_print_json(cli, result);
}

gboolean
cli_protect(Cli *cli, int argc, char **argv, GError **error)
{
    static const char usage[] =
        "NAME --standby HOST [--interval TIME|auto] [--max-slowdown N%] [--max-lag TIME] "
        "[--output-commit yes|no] [--wait [--timeout TIME]]";
    g_auto(ProtectOptions) o = {0};
    Wait wait = {0};
    const GOptionEntry options[] = {
        {"standby", 0, 0, G_OPTION_ARG_FILENAME, &o.standby, "Host that keeps the copy", "HOST"},
        {"interval", 0, 0, G_OPTION_ARG_FILENAME, &o.interval, "Time between cuts", "TIME|auto"},
        {"max-slowdown", 0, 0, G_OPTION_ARG_FILENAME, &o.max_slowdown,
         "With auto: what guests may lose", "N%"},
        {"max-lag", 0, 0, G_OPTION_ARG_FILENAME, &o.max_lag,
         "With auto: how old the last committed cut may be", "TIME"},
        {"output-commit", 0, 0, G_OPTION_ARG_FILENAME, &o.output_commit,
         "Hold output until committed", "yes|no"},
        {"wait", 0, 0, G_OPTION_ARG_NONE, &o.wait, "Until the copy is complete", NULL},
        {"timeout", 0, 0, G_OPTION_ARG_FILENAME, &o.timeout, "How long to wait (for ever)", "TIME"},
        {0},
    };

    if (!cli_parse(&argc, &argv, usage, options, 1, &wait.name, error) ||
        !protect_deadline(&o, &wait.deadline_us, error))
        return FALSE;
    JsonObject *arguments = protect_arguments(wait.name, &o, error);
    Client *client = arguments != NULL ? cli_connect(cli, error) : NULL;
    if (client == NULL) {
        if (arguments != NULL)
            json_object_unref(arguments);
        return FALSE;
    }
    gboolean good = run_protect(cli, client, wait.name, arguments, o.wait ? &wait : NULL, error);
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
