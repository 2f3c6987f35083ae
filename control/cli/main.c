/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district: the command for people and scripts.
 *
 * A thin client: each verb makes one or a few requests of districtd's user API and prints the
 * answer as a table, or with --json as it came. Exit status 0 or not; an error is one line on
 * stderr.
 */
#include "control/cli/cli.h"
#include "control/config.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gboolean
cli_unavailable(Cli *cli, int argc, char **argv, GError **error)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNSUPPORTED,
                "%s: not available in this version", argv[0]);
    return FALSE;
}

static const CliVerb verbs[] = {
    {"create", cli_create, "FILE", "define a district"},
    {"destroy", cli_destroy, "NAME [--force]", "remove a district and its checkpoints"},
    {"start", cli_start, "NAME [--force]", "boot its members; what was imported goes on"},
    {"stop", cli_stop, "NAME [--timeout TIME] [--force]", "shut its members down"},
    {"restart", cli_restart, "NAME [--from ID] [--force]", "go on from a durable checkpoint"},
    {"list", cli_list, "", "all districts of this host"},
    {"show", cli_show, "NAME", "state, epoch, lag, pauses, members"},
    {"console", cli_console, "NAME/MEMBER [--log]", "serial console (leave with ^])"},
    {"rollback", cli_rollback, "NAME [--to ID] [--force]", "back to a durable checkpoint"},
    {"checkpoint", cli_checkpoint, "NAME [--label TEXT]", "make a checkpoint durable now"},
    {"log", cli_log, "NAME", "its durable checkpoints"},
    {"clone", cli_clone, "NAME --at ID --as NEW", "run an old checkpoint beside it"},
    {"store", cli_store, "check NAME", "is every byte of them as it was written?"},
    {"export", cli_export, "NAME FILE [--at ID] [--force]", "a durable checkpoint as one file"},
    {"import", cli_import, "FILE [--as NAME] [--isolated]", "a district out of such a file"},
    {"protect", cli_protect,
     "NAME --standby HOST [--interval T|auto] [--output-commit yes|no] [--wait] ...",
     "keep a hot copy on another host"},
    {"unprotect", cli_unprotect, "NAME [--force]", "give the copy up"},
    {"failover", cli_failover, "NAME", "on the standby: take over"},
    {"migrate", cli_migrate, "NAME --to HOST", "move it, live"},
    {"host", cli_host, "add|list|remove ...", "the hosts this one knows"},
    {"events", cli_events, "[--follow]", "what happened"},
    {"top", cli_top, "[--once]", "live view"},
    {"doctor", cli_doctor, "", "can this machine do it?"},
    {"evacuate", cli_unavailable, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};

static void
print_usage(void)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);

    puts("usage: district [--json] [--config FILE | --socket PATH] VERB ...\n");
    for (const CliVerb *verb = verbs; verb->name != NULL; verb++) {
        if (verb->usage != NULL)
            g_ptr_array_add(rows,
                            g_strdup_printf("  %s %s\t%s", verb->name, verb->usage, verb->summary));
    }
    cli_print_table(rows);
}

/* Where districtd listens: --socket, or what --config or the standard configuration says. */
static gboolean
find_socket(Cli *cli, const char *config_file, GError **error)
{
    if (cli->socket != NULL)
        return TRUE;
    g_autoptr(Config) config =
        config_load(config_file ? config_file : CONFIG_FILE_DEFAULT, config_file != NULL, error);
    if (config == NULL)
        return FALSE;
    cli->socket = config_socket_path(config);
    return TRUE;
}

/* --json may stand anywhere. */
static int
take_json(int argc, char **argv, gboolean *json)
{
    int kept = 0;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            *json = TRUE;
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    return kept;
}

static gboolean
run_verb(Cli *cli, int argc, char **argv, GError **error)
{
    for (const CliVerb *verb = verbs; verb->name != NULL; verb++) {
        if (strcmp(verb->name, argv[0]) == 0)
            return verb->run(cli, argc, argv, error);
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: no such verb: see district --help", argv[0]);
    return FALSE;
}

int
main(int argc, char **argv)
{
    Cli cli = {0};
    g_autofree char *config_file = NULL;
    gboolean help = FALSE;
    gboolean version = FALSE;
    const GOptionEntry options[] = {
        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &config_file, NULL, NULL},
        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &cli.socket, NULL, NULL},
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &version, NULL, NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    setlocale(LC_ALL, "");
    argc = take_json(argc, argv, &cli.json);
    g_option_context_add_main_entries(context, options, NULL);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_set_strict_posix(context, TRUE);
    gboolean good = g_option_context_parse(context, &argc, &argv, &error);
    if (good && version) {
        printf("district %s\n", DISTRICT_VERSION);
    } else if (good && (help || argc < 2)) {
        print_usage();
        good = help;
    } else if (good) {
        good = find_socket(&cli, config_file, &error) && run_verb(&cli, argc - 1, argv + 1, &error);
    }
    if (error != NULL)
        fprintf(stderr, "district: %s\n", error->message);
    g_free(cli.socket);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
