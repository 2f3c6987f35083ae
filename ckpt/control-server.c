/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control server: sockets on the GLib main loop. */
#include "ckpt/control-server.h"

#include "common/pbmsg.h"

#include <glib-unix.h>
#include <unistd.h>

/* A client that does not read is dropped after this long: it must not hold up the main loop. */
#define SEND_TIMEOUT_MS 500

struct ControlServer {
    Inbox *inbox;
    int listen_fd;
    guint listen_source;
    int client_fd; /* -1: none */
    guint client_source;
    uint64_t client; /* counts connections */
};

static void
client_close(ControlServer *server)
{
    if (server->client_fd < 0)
        return;
    g_source_remove(server->client_source);
    close(server->client_fd);
    server->client_fd = -1;
}

static gboolean
client_readable(gint fd, GIOCondition condition, gpointer data)
{
    ControlServer *server = data;
    int fds[FDMSG_FDS_MAX];
    guint n_fds = G_N_ELEMENTS(fds);
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *message =
        pbmsg_recv(fd, &district__ckpt_request__descriptor, fds, &n_fds, 0, &error);

    if (!message) {
        if (g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            return G_SOURCE_CONTINUE;
        if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
            g_warning("control client: %s; closed", error->message);
        client_close(server);
        return G_SOURCE_CONTINUE; /* the source has been removed */
    }
    ControlRequest *request = g_new0(ControlRequest, 1);
    request->server = server;
    request->client = server->client;
    request->message = (District__CkptRequest *)message;
    request->fds = g_memdup2(fds, n_fds * sizeof(int));
    request->n_fds = n_fds;
    InboxMessage post = {.kind = INBOX_CONTROL, .request = request};
    inbox_post(server->inbox, &post);
    return G_SOURCE_CONTINUE;
}

/* A new client replaces the old one: an old fd may live on in a child of a dead districtd. */
static gboolean
server_readable(gint fd, GIOCondition condition, gpointer data)
{
    ControlServer *server = data;
    g_autoptr(GError) error = NULL;
    int client = fdmsg_accept(fd, &error);

    if (client < 0) {
        if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            g_warning("control: %s", error->message);
        return G_SOURCE_CONTINUE;
    }
    client_close(server);
    server->client++;
    server->client_fd = client;
    server->client_source =
        g_unix_fd_add(client, G_IO_IN | G_IO_HUP | G_IO_ERR, client_readable, server);
    return G_SOURCE_CONTINUE;
}

ControlServer *
control_server_new(const char *path, Inbox *inbox, GError **error)
{
    int fd = fdmsg_listen(path, error);

    if (fd < 0)
        return NULL;
    ControlServer *server = g_new0(ControlServer, 1);
    server->inbox = inbox;
    server->listen_fd = fd;
    server->client_fd = -1;
    server->listen_source = g_unix_fd_add(fd, G_IO_IN, server_readable, server);
    return server;
}

/* ---- From the coordinator thread to the main loop ---- */

typedef struct Outgoing {
    ControlServer *server;
    uint64_t client; /* 0: whoever is there */
    GByteArray *packet;
} Outgoing;

static gboolean
outgoing_send(gpointer data)
{
    Outgoing *out = data;
    ControlServer *server = out->server;
    g_autoptr(GError) error = NULL;

    if (server->client_fd >= 0 && (out->client == 0 || out->client == server->client) &&
        !fdmsg_send(server->client_fd, out->packet->data, out->packet->len, NULL, 0,
                    SEND_TIMEOUT_MS, &error)) {
        g_warning("control client: %s; closed", error->message);
        client_close(server);
    }
    g_byte_array_unref(out->packet);
    g_free(out);
    return G_SOURCE_REMOVE;
}

static void
outgoing_post(ControlServer *server, uint64_t client, const District__CkptMessage *message)
{
    Outgoing *out = g_new0(Outgoing, 1);
    size_t len = district__ckpt_message__get_packed_size(message);

    out->server = server;
    out->client = client;
    out->packet = g_byte_array_sized_new((guint)len);
    g_byte_array_set_size(out->packet, (guint)len);
    district__ckpt_message__pack(message, out->packet->data);
    g_idle_add_full(G_PRIORITY_DEFAULT, outgoing_send, out, NULL);
}

void
control_request_reply(ControlRequest *request, District__CkptReply *reply)
{
    District__CkptMessage message = DISTRICT__CKPT_MESSAGE__INIT;

    reply->id = request->message->id;
    message.m_case = DISTRICT__CKPT_MESSAGE__M_REPLY;
    message.reply = reply;
    outgoing_post(request->server, request->client, &message);
    fdmsg_close_fds(request->fds, request->n_fds);
    g_free(request->fds);
    district__ckpt_request__free_unpacked(request->message, NULL);
    g_free(request);
}

void
control_request_error(ControlRequest *request, const char *format, ...)
{
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    reply.error = text;
    control_request_reply(request, &reply);
}

void
control_request_ok(ControlRequest *request)
{
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;

    control_request_reply(request, &reply);
}

void
control_server_event(ControlServer *server, const District__CkptEvent *event)
{
    District__CkptMessage message = DISTRICT__CKPT_MESSAGE__INIT;

    message.m_case = DISTRICT__CKPT_MESSAGE__M_EVENT;
    message.event = (District__CkptEvent *)event;
    outgoing_post(server, 0, &message);
}

void
control_server_free(ControlServer *server)
{
    g_source_remove(server->listen_source);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    client_close(server);
    close(server->listen_fd);
    g_free(server);
}
