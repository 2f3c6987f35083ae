/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qemu-nbd process behind a disk whose image is not raw.
 *
 * It is started with the image's format and path as options of the block layer, never as a plain
 * file name: QEMU would take "json:..." or "ssh:..." in a name for something else, and would guess
 * the format from content that a guest may have written. It gets SIGTERM when the thread that has
 * started it ends, whatever ends it, and then closes the image in order. Its socket has a name that
 * stays the same over an execve of this process: who else is connected to a disk finds it again.
 */
#include "disk/nbd-server.h"
#include "disk/nbd-wait.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_LIMIT_US (10 * G_USEC_PER_SEC)
/* An image that is locked may be just being closed by the qemu-nbd of a member that was killed. */
#define LOCK_WAIT_US (2 * G_USEC_PER_SEC)
#define LOCK_RETRY_US 50000
#define STOP_LIMIT_US (10 * G_USEC_PER_SEC)
#define STOP_POLL_US 2000
#define LOG_BYTES 4096

struct NbdServer {
    char *path;
    char *socket;
    GPid pid; /* 0: it has ended and is reaped */
    int log_fd;
    GSource *log_source; /* of the thread that has started it */
};

/* ---- The process ---- */

static void
child_prepare(gpointer opaque)
{
    pid_t parent = *(const pid_t *)opaque;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL); /* who starts us may have some blocked */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    umask(0077); /* for its socket */
}

/* A value of the option syntax: commas are doubled. */
static char *
option_quote(const char *value)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);

    return g_strjoinv(",,", parts);
}

static gboolean
server_spawn(NbdServer *server, const char *format, BlockMode mode, GError **error)
{
    g_autofree char *path = option_quote(server->path);
    g_autofree char *image =
        g_strdup_printf("driver=%s,%sfile.driver=file,file.filename=%s", format,
                        mode == BLOCK_SHARED ? "force-share=on," : "", path);
    g_autofree char *socket = g_strconcat("--socket=", server->socket, NULL);
    const char *argv[] = {"qemu-nbd",
                          socket,
                          "--shared=3",
                          "--persistent",
                          "--cache=writeback",
                          "--discard=unmap",
                          "--image-opts",
                          image,
                          mode == BLOCK_WRITE ? NULL : "--read-only",
                          NULL};
    pid_t self = getpid();

    unlink(server->socket);
    if (!g_spawn_async_with_pipes(
            NULL, (char **)argv, NULL,
            G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL,
            child_prepare, &self, &server->pid, NULL, NULL, &server->log_fd, error)) {
        g_prefix_error(error,
                       "disk %s: cannot start qemu-nbd (package qemu-utils): ", server->path);
        return FALSE;
    }
    fcntl(server->log_fd, F_SETFD, FD_CLOEXEC);
    return g_unix_set_fd_nonblocking(server->log_fd, TRUE, error);
}

/* Reap it if it has ended. */
static bool
server_running(void *opaque)
{
    NbdServer *server = opaque;

    if (server->pid != 0 && waitpid(server->pid, NULL, WNOHANG) != 0)
        server->pid = 0;
    return server->pid != 0;
}

static void
server_end(NbdServer *server)
{
    gint64 limit = g_get_monotonic_time() + STOP_LIMIT_US;

    if (!server_running(server))
        return;
    kill(server->pid, SIGTERM);
    while (server_running(server)) {
        if (g_get_monotonic_time() > limit) {
            g_warning("disk %s: its qemu-nbd does not end; it is killed", server->path);
            kill(server->pid, SIGKILL);
            limit = G_MAXINT64; /* now it will */
        }
        g_usleep(STOP_POLL_US);
    }
}

/* ---- What it says ---- */

/* What has been said and not been read yet, as one line. */
static char *
log_take(NbdServer *server)
{
    char text[LOG_BYTES];
    ssize_t n = read(server->log_fd, text, sizeof text - 1);

    if (n <= 0)
        return NULL;
    text[n] = '\0';
    return g_strdup(g_strdelimit(g_strchomp(text), "\n", ' '));
}

static gboolean
log_ready(int fd, GIOCondition condition, gpointer opaque)
{
    NbdServer *server = opaque;
    g_autofree char *text = log_take(server);

    if (text != NULL) {
        g_message("disk %s: %s", server->path, text);
        return G_SOURCE_CONTINUE;
    }
    return G_SOURCE_REMOVE;
}

static void
log_begin(NbdServer *server)
{
    server->log_source = g_unix_fd_source_new(server->log_fd, G_IO_IN | G_IO_HUP | G_IO_ERR);
    g_source_set_callback(server->log_source, G_SOURCE_FUNC(log_ready), server, NULL);
    g_source_attach(server->log_source, g_main_context_get_thread_default());
}

static void
log_end(NbdServer *server)
{
    if (server->log_source != NULL)
        g_source_destroy(server->log_source);
    g_clear_pointer(&server->log_source, g_source_unref);
}

/* ---- Start and stop ---- */

static gboolean
server_check(const char *path, const char *format, const char *socket, GError **error)
{
    for (const char *c = format; *c != '\0'; c++) {
        if (g_ascii_isalnum(*c) || *c == '-')
            continue;
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "disk %s: %s is not a format; give one that qemu-img --help lists", path,
                    format);
        return FALSE;
    }
    if (strlen(socket) < sizeof((struct sockaddr_un *)0)->sun_path)
        return TRUE;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                "disk %s: socket path %s is too long; use a shorter directory name", path, socket);
    return FALSE;
}

/* One try. *busy: another one has the image locked. */
static gboolean
server_try(NbdServer *server, const char *format, BlockMode mode, struct nbd_handle **nbd,
           bool *busy, GError **error)
{
    gint64 limit = g_get_monotonic_time() + START_LIMIT_US;
    g_autoptr(GError) why = NULL;
    g_autofree char *said = NULL;

    *busy = false;
    if (!server_spawn(server, format, mode, error))
        return FALSE;
    *nbd = nbd_wait_connect("qemu-nbd", server->socket, limit, server_running, server, &why);
    if (*nbd != NULL)
        return TRUE;
    server_end(server);
    said = log_take(server);
    *busy = said != NULL && strstr(said, "lock") != NULL;
    g_set_error(error, G_IO_ERROR, *busy ? G_IO_ERROR_BUSY : G_IO_ERROR_FAILED, "disk %s: %s%s",
                server->path, said != NULL ? said : why->message,
                *busy ? ": end the program that uses it" : "");
    close(server->log_fd);
    server->log_fd = -1;
    return FALSE;
}

static gboolean
server_go(NbdServer *server, const char *format, BlockMode mode, struct nbd_handle **nbd,
          GError **error)
{
    gint64 limit = g_get_monotonic_time() + LOCK_WAIT_US;

    for (;;) {
        g_autoptr(GError) why = NULL;
        bool busy;

        if (server_try(server, format, mode, nbd, &busy, &why))
            return TRUE;
        if (!busy || g_get_monotonic_time() > limit) {
            g_propagate_error(error, g_steal_pointer(&why));
            return FALSE;
        }
        g_usleep(LOCK_RETRY_US);
    }
}

NbdServer *
nbd_server_start(const char *path, const char *format, BlockMode mode, const char *socket_dir,
                 struct nbd_handle **nbd, GError **error)
{
    static gint started; /* atomic */
    NbdServer *server = g_new0(NbdServer, 1);

    server->path = g_canonicalize_filename(path, NULL);
    server->socket =
        g_strdup_printf("%s/nbd-%d-%d", socket_dir, (int)getpid(), g_atomic_int_add(&started, 1));
    server->log_fd = -1;
    if (server_check(path, format, server->socket, error) &&
        server_go(server, format, mode, nbd, error)) {
        log_begin(server);
        return server;
    }
    nbd_server_stop(server);
    return NULL;
}

void
nbd_server_stop(NbdServer *server)
{
    server_end(server);
    log_end(server);
    if (server->log_fd >= 0)
        close(server->log_fd);
    unlink(server->socket);
    g_free(server->socket);
    g_free(server->path);
    g_free(server);
}

const char *
nbd_server_socket(const NbdServer *server)
{
    return server->socket;
}
