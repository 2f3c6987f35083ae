/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs: create, destroy, start, stop, restart, checkpoint, clone. */
#include "control/cli/cli.h"
#include "control/definition.h"
#include "control/units.h"

#include <stdio.h>

/* One request about district name; prints line (formatted by the caller) unless --json. */
static JsonObject *
call_named(Cli *cli, const char *verb, const char *name, gboolean force, const char *key,
           const char *value, GError **error)
{
    JsonObject *arguments = cli_name(name);

    if (force)
        json_object_set_boolean_member(arguments, "force", TRUE);
    if (value != NULL)
        json_object_set_string_member(arguments, key, value);
    JsonObject *result = cli_once(cli, verb, arguments, error);
    if (result != NULL)
        cli_print_json(cli, result);
    return result;
}

gboolean
cli_create(Cli *cli, int argc, char **argv, GError **error)
{
    char *file = NULL;
    g_autofree char *text = NULL;
    gsize len = 0;

    if (!cli_parse(&argc, &argv, "FILE", NULL, 1, &file, error) ||
        !g_file_get_contents(file, &text, &len, error))
        return FALSE;
    /* The same check as districtd's, here because only text can travel in JSON. */
    g_autoptr(Definition) definition = definition_parse(text, len, file, error);
    if (definition == NULL)
        return FALSE;
    JsonObject *arguments = json_object_new();
    json_object_set_string_member(arguments, "file", file);
    json_object_set_string_member(arguments, "definition", definition->text);
    g_autoptr(JsonObject) result = cli_once(cli, "create", arguments, error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        printf("%s created: district start %s\n", definition->name, definition->name);
    return cli_print_json(cli, result);
}

gboolean
cli_destroy(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    const GOptionEntry options[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force,
         "Also one that is damaged, or a copy whose home is gone for good", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME [--force]", options, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result = call_named(cli, "destroy", name, force, NULL, NULL, error);
    if (result != NULL && !cli->json)
        printf("%s destroyed\n", name);
    return result != NULL;
}

static gboolean
start_like(Cli *cli, const char *verb, const char *name, gboolean force, const char *from,
           GError **error)
{
    g_autoptr(JsonObject) result = call_named(cli, verb, name, force, "from", from, error);

    if (result != NULL && !cli->json)
        printf("%s runs as incarnation %" G_GINT64_FORMAT "\n", name,
               json_get_int(result, "incarnation", 0));
    return result != NULL;
}

gboolean
cli_start(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    const GOptionEntry options[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force,
         "Although the standby cannot be asked, or a newer life is elsewhere", NULL},
        {0},
    };

    return cli_parse(&argc, &argv, "NAME [--force]", options, 1, &name, error) &&
           start_like(cli, "start", name, force, NULL, error);
}

gboolean
cli_rollback(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    g_autofree char *to = NULL;
    const GOptionEntry options[] = {
        {"to", 0, 0, G_OPTION_ARG_FILENAME, &to, "Checkpoint: number or label (the last one)",
         "ID"},
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "As for start", NULL},
        {0},
    };

    return cli_parse(&argc, &argv, "NAME [--to ID] [--force]", options, 1, &name, error) &&
           start_like(cli, "restart", name, force, to, error);
}

gboolean
cli_restart(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    g_autofree char *from = NULL;
    const GOptionEntry options[] = {
        {"from", 0, 0, G_OPTION_ARG_FILENAME, &from, "Checkpoint: number or label (the last one)",
         "ID"},
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "As for start", NULL},
        {0},
    };

    return cli_parse(&argc, &argv, "NAME [--from ID] [--force]", options, 1, &name, error) &&
           start_like(cli, "restart", name, force, from, error);
}

static void
print_stopped(const Cli *cli, const char *name, const char *unplugged)
{
    if (cli->json)
        return;
    if (unplugged != NULL)
        printf("%s stopped; did not power off in time: %s\n", name, unplugged);
    else
        printf("%s stopped\n", name);
}

gboolean
cli_stop(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean force = FALSE;
    g_autofree char *timeout = NULL;
    uint64_t us = 0;
    const GOptionEntry options[] = {
        {"timeout", 0, 0, G_OPTION_ARG_FILENAME, &timeout,
         "How long guests may take to power off (10s)", "TIME"},
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "Kill, also an operation that hangs", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME [--timeout TIME] [--force]", options, 1, &name, error))
        return FALSE;
    if (timeout != NULL && !units_parse_time(timeout, &us, error)) {
        g_prefix_error(error, "stop: --timeout: ");
        return FALSE;
    }
    JsonObject *arguments = cli_name(name);
    json_object_set_boolean_member(arguments, "force", force);
    if (timeout != NULL)
        json_object_set_int_member(arguments, "timeout_us", (gint64)us);
    g_autoptr(JsonObject) result = cli_once(cli, "stop", arguments, error);
    if (result == NULL)
        return FALSE;
    print_stopped(cli, name, json_get_string(result, "unplugged", NULL));
    return cli_print_json(cli, result);
}

gboolean
cli_checkpoint(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    g_autofree char *label = NULL;
    const GOptionEntry options[] = {
        {"label", 0, 0, G_OPTION_ARG_FILENAME, &label, "A note to find it by", "TEXT"},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME [--label TEXT]", options, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result =
        call_named(cli, "checkpoint", name, FALSE, "label", label, error);
    if (result != NULL && !cli->json)
        printf("%s: checkpoint %" G_GINT64_FORMAT " saved, epoch %" G_GINT64_FORMAT
               ", %" G_GINT64_FORMAT " bytes\n",
               name, json_get_int(result, "id", 0), json_get_int(result, "epoch", 0),
               json_get_int(result, "bytes", 0));
    return result != NULL;
}

gboolean
cli_clone(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    g_autofree char *at = NULL, *as = NULL;
    const GOptionEntry options[] = {
        {"at", 0, 0, G_OPTION_ARG_FILENAME, &at, "Checkpoint: number or label", "ID"},
        {"as", 0, 0, G_OPTION_ARG_FILENAME, &as, "Name of the clone", "NEW"},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME --at ID --as NEW", options, 1, &name, error))
        return FALSE;
    if (at == NULL || as == NULL) {
        g_set_error(
            error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
            "clone: say which checkpoint (--at ID; see district log %s) and a name (--as NEW)",
            name);
        return FALSE;
    }
    JsonObject *arguments = cli_name(name);
    json_object_set_string_member(arguments, "at", at);
    json_object_set_string_member(arguments, "as", as);
    g_autoptr(JsonObject) result = cli_once(cli, "clone", arguments, error);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        printf("%s runs checkpoint %" G_GINT64_FORMAT
               " of %s: what it changes is gone when it stops\n",
               as, json_get_int(result, "checkpoint", 0), name);
    return cli_print_json(cli, result);
}
