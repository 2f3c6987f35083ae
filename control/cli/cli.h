/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The district command: what its verbs have in common. */
#ifndef DISTRICT_CONTROL_CLI_CLI_H
#define DISTRICT_CONTROL_CLI_CLI_H

#include "control/error.h"
#include "control/json.h"

#include <glib.h>

typedef struct Client Client;

/* Options every verb takes. */
typedef struct Cli {
    char *socket;  /* --socket, or from --config */
    gboolean json; /* --json */
} Cli;

/* One verb: what it takes after its name, and what it does. Returns FALSE with error set. */
typedef gboolean (*CliRun)(Cli *cli, int argc, char **argv, GError **error);
typedef struct CliVerb {
    const char *name;
    CliRun run;
    const char *usage;
    const char *summary;
} CliVerb;

/* ---- client.c: a connection to districtd ---- */
Client *cli_connect(const Cli *cli, GError **error);
void cli_disconnect(Client *client);
/* One request; arguments is taken over. NULL with the daemon's error set. */
JsonObject *cli_call(Client *client, const char *execute, JsonObject *arguments, GError **error);
/* Descriptors for the next request, at most two; they stay the caller's. */
void cli_pass_fds(Client *client, const int *fds, gsize n_fds);
/* While an answer is waited for, call watch whenever fd can be read, until it says FALSE. */
typedef gboolean (*CliWatch)(int fd, gpointer data);
void cli_watch(Client *client, int fd, CliWatch watch, gpointer data);
/* Connect, one request, disconnect. */
JsonObject *cli_once(const Cli *cli, const char *execute, JsonObject *arguments, GError **error);
/* Wait for the next event; NULL with error set when the connection ends. */
JsonObject *cli_next_event(Client *client, GError **error);

/* ---- options.c ---- */
/* Parse options of a verb, which argv[0] names in full ("host add"); then exactly n_names words must be left, which words gets. */
gboolean cli_parse(int *argc, char ***argv, const char *usage, const GOptionEntry *entries,
                   int n_words, char **words, GError **error);
/* {"name": name} */
JsonObject *cli_name(const char *name);
/* With --json print result on a line, else print nothing; always TRUE. */
gboolean cli_print_json(const Cli *cli, JsonObject *result);
/* A table: columns separated by tabs in each row, padded for people. */
void cli_print_table(GPtrArray *rows);
gboolean cli_is_terminal(void);
/* "[=====>    ] 42 % text" on stderr's current line, as far as it fits; total 0 ends the line. Terminals
 * only. */
void cli_progress(const char *what, guint64 done, guint64 total);

/* ---- phases.c: where pauses go ---- */
/* Rows for what a pause consists of; none before the first. checkpointing: of an answer to show. */
void cli_add_phases(GPtrArray *rows, JsonObject *checkpointing);
/* Ask for what has been measured lately, and make it "recent" of district, of an answer to list. */
void cli_add_recent(Client *client, JsonObject *district);
/* Print it, in 80 columns, below a line of heads if wanted. FALSE: there has been no pause. */
gboolean cli_print_recent(JsonObject *district, gboolean heads);

/* ---- the verbs ---- */
gboolean cli_create(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_destroy(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_start(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_stop(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_restart(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_rollback(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_checkpoint(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_list(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_show(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_clone(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_log(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_store(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_export(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_import(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_top(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_events(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_protect(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_unprotect(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_failover(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_migrate(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_host(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_console(Cli *cli, int argc, char **argv, GError **error);
gboolean cli_doctor(Cli *cli, int argc, char **argv, GError **error);

#endif
