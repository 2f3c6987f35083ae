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

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* How long whoever starts it waits until it has taken over what runs and can be talked to. */
#define READY_LIMIT_MS 60000
#define READY "ready"

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

/* ---- In the background ---- */

/* Tell the parent, which is all ears; fd -1: there is none. At most PIPE_BUF bytes come in one piece. */
static void
tell_parent(int fd, const char *text)
{
    if (fd < 0)
        return;
    if (write(fd, text, MIN(strlen(text), PIPE_BUF)) < 0)
        g_message("whoever started districtd has gone");
    close(fd);
}

/* The parent: until the child is ready, or says why not. Returns the exit status. */
static int
await_child(int fd, const char *log)
{
    struct pollfd end = {.fd = fd, .events = POLLIN};
    char said[PIPE_BUF + 1] = "";
    int n = TEMP_FAILURE_RETRY(poll(&end, 1, READY_LIMIT_MS));

    if (n > 0 && TEMP_FAILURE_RETRY(read(fd, said, PIPE_BUF)) > 0) {
        if (strcmp(said, READY) == 0)
            return EXIT_SUCCESS;
        fprintf(stderr, "districtd: %s\n", said);
    } else {
        fprintf(stderr, "districtd: %s: look into %s\n",
                n == 0 ? "not ready yet, it goes on" : "it has ended", log);
    }
    return EXIT_FAILURE;
}

static gboolean
log_to(const char *log)
{
    return setsid() >= 0 && freopen("/dev/null", "r", stdin) != NULL &&
           freopen(log, "a", stdout) != NULL && freopen(log, "a", stderr) != NULL;
}

/* Returns the exit status of the parent, when all is said; in the child -1, with the end of a pipe to the
 * parent in *tell_fd. */
static int
go_to_background(const Config *config, int *tell_fd)
{
    g_autofree char *log = g_build_filename(config->log_dir, "districtd.log", NULL);
    g_autofree char *problem =
        g_strdup_printf("%s: cannot write: check LogDir= in districtd.conf", log);
    int ends[2];
    pid_t pid = -1;

    if (g_mkdir_with_parents(config->log_dir, 0700) != 0 || pipe2(ends, O_CLOEXEC) != 0 ||
        (pid = fork()) < 0) {
        fprintf(stderr, "districtd: %s\n", problem);
        return EXIT_FAILURE;
    }
    close(ends[pid > 0 ? 1 : 0]);
    if (pid > 0)
        return await_child(ends[0], log);
    *tell_fd = ends[1];
    if (log_to(log))
        return -1;
    tell_parent(*tell_fd, problem);
    return EXIT_FAILURE;
}

static int
run(Config *config, int tell_fd)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autoptr(GError) error = NULL;
    Daemon *daemon = daemon_new(config, &error);

    if (daemon == NULL) {
        g_warning("%s", error->message);
        tell_parent(tell_fd, error->message);
        return EXIT_FAILURE;
    }
    g_unix_signal_add(SIGTERM, on_signal, loop);
    g_unix_signal_add(SIGINT, on_signal, loop);
    g_message("host %s ready, port %u", config->host_name, config->port);
    tell_parent(tell_fd, READY);
    g_main_loop_run(loop);
    g_message("ending; districts go on");
    daemon_free(daemon);
    return EXIT_SUCCESS;
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
    int tell_fd = -1;
    int status = foreground ? -1 : go_to_background(config, &tell_fd);
    if (status >= 0)
        return status;
    signal(SIGPIPE, SIG_IGN);
    raise_fd_limit();
    log_init("districtd", config->host_name);
    return run(config, tell_fd);
}
