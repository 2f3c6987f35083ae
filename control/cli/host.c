/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verb: host add, host list, host remove. */
#include "control/cli/cli.h"

#include <stdio.h>
#include <string.h>

static gboolean
host_add(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;
    gboolean joined = FALSE;
    g_autofree char *address = NULL;
    g_autofree char *second = NULL;
    g_autofree char *token = NULL;
    const GOptionEntry options[] = {
        {"address", 0, 0, G_OPTION_ARG_FILENAME, &address, "Where its districtd listens",
         "ADDR[:PORT]"},
        {"second-address", 0, 0, G_OPTION_ARG_FILENAME, &second, "The same by another path",
         "ADDR"},
        {"token", 0, 0, G_OPTION_ARG_FILENAME, &token, "As printed by host add on the other side",
         "TOKEN"},
        {"joined", 0, 0, G_OPTION_ARG_NONE, &joined, "Both have certificates of one CA already",
         NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv,
                   "NAME --address ADDR[:PORT] [--second-address ADDR] "
                   "[--token T | --joined]",
                   options, 1, &name, error))
        return FALSE;
    if (address == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "host add %s: --address ADDRESS is missing", name);
        return FALSE;
    }
    JsonObject *arguments = cli_name(name);
    json_object_set_string_member(arguments, "address", address);
    if (second != NULL)
        json_object_set_string_member(arguments, "second_address", second);
    if (token != NULL)
        json_object_set_string_member(arguments, "token", token);
    json_object_set_boolean_member(arguments, "joined", joined);
    g_autoptr(JsonObject) result = cli_once(cli, "host-add", arguments, error);
    if (result == NULL)
        return FALSE;
    const char *command = json_get_string(result, "command", NULL);
    if (!cli->json && command != NULL)
        printf("Now run on %s, within an hour:\n  %s\n", name, command);
    else if (!cli->json)
        printf("host %s added\n", name);
    return cli_print_json(cli, result);
}

static gboolean
host_list(Cli *cli, int argc, char **argv, GError **error)
{
    if (!cli_parse(&argc, &argv, "", NULL, 0, NULL, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "host-list", NULL, error);
    if (result == NULL)
        return FALSE;
    if (cli->json)
        return cli_print_json(cli, result);
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    JsonArray *hosts = json_get_array(result, "hosts");
    g_ptr_array_add(rows, g_strdup("NAME\tADDRESS\tPORT\tSECOND ADDRESS\tREACHABLE\tCONNECTIONS"));
    for (guint i = 0; hosts != NULL && i < json_array_get_length(hosts); i++) {
        JsonObject *h = json_array_get_object_element(hosts, i);
        g_ptr_array_add(
            rows,
            g_strdup_printf("%s\t%s\t%" G_GINT64_FORMAT "\t%s\t%s\t%" G_GINT64_FORMAT,
                            json_get_string(h, "name", "?"), json_get_string(h, "address", "?"),
                            json_get_int(h, "port", 0), json_get_string(h, "second_address", "-"),
                            json_get_bool(h, "reachable", FALSE) ? "yes" : "no",
                            json_get_int(h, "connections", 0)));
    }
    cli_print_table(rows);
    return TRUE;
}

static gboolean
host_remove(Cli *cli, int argc, char **argv, GError **error)
{
    char *name = NULL;

    if (!cli_parse(&argc, &argv, "NAME", NULL, 1, &name, error))
        return FALSE;
    g_autoptr(JsonObject) result = cli_once(cli, "host-remove", cli_name(name), error);
    if (result != NULL && !cli->json)
        printf("host %s removed\n", name);
    return result != NULL && cli_print_json(cli, result);
}

gboolean
cli_host(Cli *cli, int argc, char **argv, GError **error)
{
    static const CliVerb actions[] = {
        {"add", host_add, NULL, NULL},
        {"list", host_list, NULL, NULL},
        {"remove", host_remove, NULL, NULL},
        {NULL, NULL, NULL, NULL},
    };

    for (const CliVerb *action = actions; argc > 1 && action->name != NULL; action++) {
        if (strcmp(action->name, argv[1]) == 0) {
            g_autofree char *verb = g_strconcat("host ", action->name, NULL);
            argv[1] = verb; /* for what is said of its options */
            return action->run(cli, argc - 1, argv + 1, error);
        }
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "usage: district host add|list|remove ...");
    return FALSE;
}
