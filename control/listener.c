/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one TCP port of a host: preambles and routing. */
#include "control/listener.h"
#include "control/error.h"
#include "common/tls.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct Listener {
    ListenerRoute route;
    gpointer data;
    GSocket *socket;
    guint source;         /* 0 while LISTENER_HALF_OPEN_MAX connections are half open */
    GPtrArray *half_open; /* of HalfOpen */
};

typedef struct HalfOpen {
    Listener *listener;
    int fd;
    char *from;
    guint source;
    guint timer;
    gsize len;
    char preamble[TLS_PREAMBLE_BYTES];
} HalfOpen;

static gboolean on_connection(gint fd, GIOCondition condition, gpointer data);

static void
half_open_free(gpointer data)
{
    HalfOpen *half = data;

    g_source_remove(half->source);
    g_source_remove(half->timer);
    if (half->fd >= 0)
        close(half->fd);
    g_free(half->from);
    g_free(half);
}

static void
half_open_end(HalfOpen *half)
{
    Listener *listener = half->listener;

    g_ptr_array_remove_fast(listener->half_open, half);
    if (listener->source == 0)
        listener->source =
            g_unix_fd_add(g_socket_get_fd(listener->socket), G_IO_IN, on_connection, listener);
}

static gboolean
on_preamble_late(gpointer data)
{
    HalfOpen *half = data;

    g_message("connection from %s closed: no preamble within %d ms", half->from,
              LISTENER_PREAMBLE_MS);
    half_open_end(half);
    return G_SOURCE_CONTINUE; /* half_open_free has removed it */
}

static void
half_open_route(HalfOpen *half)
{
    g_autofree char *kind = NULL;
    g_autofree char *district = NULL;
    g_autofree char *from = g_strdup(half->from);
    g_autoptr(GError) error = NULL;
    Listener *listener = half->listener;
    int fd = -1;

    if (!tls_preamble_parse(half->preamble, &kind, &district, &error))
        g_message("connection from %s closed: %s", from, error->message);
    else
        fd = g_steal_fd(&half->fd);
    half_open_end(half);
    if (fd >= 0)
        listener->route(fd, kind, district, from, listener->data);
}

static gboolean
on_preamble(gint fd, GIOCondition condition, gpointer data)
{
    HalfOpen *half = data;
    ssize_t n =
        recv(fd, half->preamble + half->len, sizeof(half->preamble) - half->len, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (n <= 0) {
        half_open_end(half);
        return G_SOURCE_CONTINUE;
    }
    half->len += (gsize)n;
    if (half->len == sizeof(half->preamble))
        half_open_route(half);
    return G_SOURCE_CONTINUE;
}

static char *
remote_address(GSocket *socket)
{
    g_autoptr(GSocketAddress) address = g_socket_get_remote_address(socket, NULL);

    if (address == NULL || !G_IS_INET_SOCKET_ADDRESS(address))
        return g_strdup("?");
    return g_inet_address_to_string(
        g_inet_socket_address_get_address(G_INET_SOCKET_ADDRESS(address)));
}

static gboolean
on_connection(gint fd, GIOCondition condition, gpointer data)
{
    Listener *listener = data;
    g_autoptr(GSocket) socket = g_socket_accept(listener->socket, NULL, NULL);

    if (socket == NULL)
        return G_SOURCE_CONTINUE;
    HalfOpen *half = g_new0(HalfOpen, 1);
    half->listener = listener;
    half->from = remote_address(socket);
    /* The descriptor goes on alone: the GSocket closes only its own. */
    half->fd = fcntl(g_socket_get_fd(socket), F_DUPFD_CLOEXEC, 3);
    half->source = g_unix_fd_add(half->fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_preamble, half);
    half->timer = g_timeout_add(LISTENER_PREAMBLE_MS, on_preamble_late, half);
    g_ptr_array_add(listener->half_open, half);
    if (listener->half_open->len < LISTENER_HALF_OPEN_MAX)
        return G_SOURCE_CONTINUE;
    listener->source = 0;
    return G_SOURCE_REMOVE;
}

static gboolean
listener_bind(Listener *listener, const char *address, uint16_t port, GError **error)
{
    g_autoptr(GSocketAddress) where = g_inet_socket_address_new_from_string(address, port);

    if (where == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "Listen=%s is not an IP address: give one of this host, or 0.0.0.0", address);
        return FALSE;
    }
    listener->socket = g_socket_new(g_socket_address_get_family(where), G_SOCKET_TYPE_STREAM,
                                    G_SOCKET_PROTOCOL_TCP, error);
    if (listener->socket == NULL)
        return FALSE;
    g_socket_set_blocking(listener->socket, FALSE);
    return g_socket_bind(listener->socket, where, TRUE, error) &&
           g_socket_listen(listener->socket, error);
}

Listener *
listener_new(const char *address, uint16_t port, ListenerRoute route, gpointer data, GError **error)
{
    Listener *listener = g_new0(Listener, 1);
    g_autoptr(GError) why = NULL;

    listener->route = route;
    listener->data = data;
    listener->half_open = g_ptr_array_new_with_free_func(half_open_free);
    if (!listener_bind(listener, address, port, &why)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "cannot listen on %s port %u: %s: see Listen= and Port= in districtd.conf",
                    address, port, why->message);
        listener_free(listener);
        return NULL;
    }
    listener->source =
        g_unix_fd_add(g_socket_get_fd(listener->socket), G_IO_IN, on_connection, listener);
    return listener;
}

void
listener_free(Listener *listener)
{
    if (listener == NULL)
        return;
    if (listener->source != 0)
        g_source_remove(listener->source);
    g_ptr_array_unref(listener->half_open);
    g_clear_object(&listener->socket);
    g_free(listener);
}
