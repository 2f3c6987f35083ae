/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connecting to an NBD server; libnbd's own waits have no limit, so they are made here. */
#include "disk/nbd-wait.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_US 2000
#define TURN_MS 50

bool
nbd_wait_turn(struct nbd_handle *nbd, gint64 limit_us)
{
    gint64 left_ms = (limit_us - g_get_monotonic_time()) / 1000;

    if (left_ms <= 0 || nbd_poll(nbd, (int)MIN(left_ms, TURN_MS)) < 0)
        return false;
    return !nbd_aio_is_dead(nbd) && !nbd_aio_is_closed(nbd);
}

/* A connected socket; -1 with errno set. */
static int
socket_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    /* Its length has been checked. */
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

static gboolean
connect_fail(const char *name, int code, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "%s: cannot connect: %s", name,
                g_strerror(code));
    return FALSE;
}

static int
socket_wait(const char *name, const char *path, gint64 limit_us, bool (*keep_on)(void *opaque),
            void *opaque, GError **error)
{
    int fd;

    if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        connect_fail(name, ENAMETOOLONG, error);
        return -1;
    }
    while ((fd = socket_connect(path)) < 0) {
        int code = errno;
        /* EAGAIN: its queue of connections is full. */
        bool later =
            code == EAGAIN || (keep_on != NULL && (code == ENOENT || code == ECONNREFUSED));

        if (!later || g_get_monotonic_time() > limit_us || (keep_on != NULL && !keep_on(opaque))) {
            connect_fail(name, code, error);
            return -1;
        }
        g_usleep(RETRY_US);
    }
    return fd;
}

struct nbd_handle *
nbd_wait_connect(const char *name, const char *socket, gint64 limit_us,
                 bool (*keep_on)(void *opaque), void *opaque, GError **error)
{
    int fd = socket_wait(name, socket, limit_us, keep_on, opaque, error);
    struct nbd_handle *nbd;

    if (fd < 0)
        return NULL;
    nbd = nbd_create();
    if (nbd == NULL) {
        close(fd);
        connect_fail(name, ENOMEM, error);
        return NULL;
    }
    nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (nbd_aio_connect_socket(nbd, fd) == 0) {
        while (!nbd_aio_is_ready(nbd) && nbd_wait_turn(nbd, limit_us))
            continue;
    }
    if (nbd_aio_is_ready(nbd))
        return nbd;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: no NBD handshake in time%s%s", name,
                nbd_get_error() != NULL ? ": " : "",
                nbd_get_error() != NULL ? nbd_get_error() : "");
    nbd_close(nbd);
    return NULL;
}
