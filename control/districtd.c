/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * districtd: keeps the districts of one host.
 *
 * THEORY OF OPERATION
 *
 * One main loop on one thread owns all state. It never waits: processes are talked to by
 * asynchronous requests, and what must block (TLS, joining, making keys) has threads that post
 * their news to the loop. An operation of several steps is a Job (job.c).
 *
 * The processes of districts are not ours to lose: they run in sessions of their own and are
 * written down in run.json before they execute. When districtd is killed they go on, and the next
 * one finds them again (adopt.c). So killing districtd is always safe, and stopping it does just
 * that.
 *
 * At most one incarnation of a district runs anywhere. Its number is written down durably before
 * anything runs under it; whoever hears of a higher one at a home elsewhere ends his own at once
 * (incarnation.c has the rules, exchange.c the talk).
 */
#include "control/daemon.h"
#include "control/pki.h"
#include "common/log.h"

#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static gboolean
on_signal(gpointer data)
{
    g_main_loop_quit(data);
    return G_SOURCE_REMOVE;
}

/* Every member costs a few descriptors, and held images one each. */
static void
raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int
run(Config *config)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autoptr(GError) error = NULL;
    Daemon *daemon = daemon_new(config, &error);

    if (daemon == NULL) {
        g_warning("%s", error->message);
        return EXIT_FAILURE;
    }
    g_unix_signal_add(SIGTERM, on_signal, loop);
    g_unix_signal_add(SIGINT, on_signal, loop);
    g_message("host %s ready, port %u", config->host_name, config->port);
    g_main_loop_run(loop);
    g_message("ending; districts go on");
    daemon_free(daemon);
    return EXIT_SUCCESS;
}

static gboolean
go_to_background(const Config *config)
{
    g_autofree char *log = g_build_filename(config->log_dir, "districtd.log", NULL);

    if (g_mkdir_with_parents(config->log_dir, 0700) != 0 || daemon(1, 1) != 0 ||
        freopen("/dev/null", "r", stdin) == NULL || freopen(log, "a", stdout) == NULL ||
        freopen(log, "a", stderr) == NULL) {
        fprintf(stderr, "districtd: %s: cannot write: check LogDir= in districtd.conf\n", log);
        return FALSE;
    }
    return TRUE;
}

int
main(int argc, char **argv)
{
    g_autofree char *file = NULL;
    gboolean foreground = FALSE;
    gboolean version = FALSE;
    const GOptionEntry options[] = {
        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &file, "Configuration (" CONFIG_FILE_DEFAULT ")",
         "FILE"},
        {"foreground", 'f', 0, G_OPTION_ARG_NONE, &foreground, "Stay, and log to stderr", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- keep the districts of this host");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1) {
        fprintf(stderr, "districtd: %s: see districtd --help\n",
                error != NULL ? error->message : "too many arguments");
        return 2;
    }
    if (version) {
        printf("districtd %s\n", DISTRICT_VERSION);
        return EXIT_SUCCESS;
    }
    g_autoptr(Config) config = config_load(file ? file : CONFIG_FILE_DEFAULT, file != NULL, &error);
    if (config == NULL) {
        fprintf(stderr, "districtd: %s\n", error->message);
        return EXIT_FAILURE;
    }
    if (!foreground && !go_to_background(config))
        return EXIT_FAILURE;
    signal(SIGPIPE, SIG_IGN);
    raise_fd_limit();
    log_init("districtd", config->host_name);
    return run(config);
}
