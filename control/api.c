/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The user API: newline-delimited JSON on RUNTIME/districtd.sock (docs/protocol.md, "User API").
 *
 * A client may have several requests under way; answers carry its id. Its output is queued; an answer
 * longer than OUTPUT_MAX is an error instead, and a client that leaves as much unread is cut off, so
 * that no client can hold up another one or fill memory. Descriptors that come along (SCM_RIGHTS) are
 * for the next request that is whole.
 */
#include "control/apiparse.h"
#include "control/daemon.h"
#include "common/fdmsg.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX 64
#define REQUESTS_MAX 16
#define OUTPUT_MAX (8 * 1024 * 1024)
#define RECENT_MAX 256
/* Descriptors that a request can have. */
#define FDS_MAX 2

struct ApiServer {
    Daemon *daemon;
    char *path;
    int fd;
    guint source;
    GPtrArray *clients; /* of Client */
    GQueue recent;      /* of JsonObject, the last events */
};

typedef struct Client {
    gint refs;         /* main thread only */
    ApiServer *server; /* NULL once it has gone */
    int fd;
    guint reader;
    guint writer;
    GByteArray *in;
    GByteArray *out;
    int fds[FDS_MAX]; /* for the next request; owned */
    guint n_fds;
    guint requests;
    gboolean subscribed;
} Client;

struct ApiRequest {
    Client *client;
    Daemon *daemon;
    JsonNode *id;
    int fds[FDS_MAX]; /* owned; -1: taken, or none */
};

static void
client_unref(gpointer data)
{
    Client *client = data;

    if (--client->refs > 0)
        return;
    fdmsg_close_fds(client->fds, client->n_fds);
    g_byte_array_unref(client->in);
    g_byte_array_unref(client->out);
    g_free(client);
}

/* The connection has ended; requests under way keep the struct until they are answered. */
static void
client_close(Client *client)
{
    if (client->server == NULL)
        return;
    if (client->reader != 0)
        g_source_remove(client->reader);
    if (client->writer != 0)
        g_source_remove(client->writer);
    close(client->fd);
    GPtrArray *clients = client->server->clients;
    client->server = NULL;
    g_ptr_array_remove_fast(clients, client);
}

static gboolean
on_writable(gint fd, GIOCondition condition, gpointer data)
{
    Client *client = data;
    ssize_t n = send(fd, client->out->data, client->out->len, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (n < 0) {
        client->writer = 0;
        client_close(client);
        return G_SOURCE_REMOVE;
    }
    g_byte_array_remove_range(client->out, 0, (guint)n);
    if (client->out->len > 0)
        return G_SOURCE_CONTINUE;
    client->writer = 0;
    return G_SOURCE_REMOVE;
}

static void
client_send_line(Client *client, const char *line)
{
    if (client->server == NULL)
        return;
    if (client->out->len + strlen(line) > OUTPUT_MAX) {
        client_close(client);
        return;
    }
    g_byte_array_append(client->out, (const guint8 *)line, (guint)strlen(line));
    if (client->writer == 0)
        client->writer =
            g_unix_fd_add(client->fd, G_IO_OUT | G_IO_HUP | G_IO_ERR, on_writable, client);
}

static void
client_send(Client *client, JsonObject *message)
{
    g_autofree char *line = json_to_line(message);

    client_send_line(client, line);
}

/* ---- Answers ---- */

static JsonObject *
failure_new(const GError *error)
{
    JsonObject *message = json_object_new();
    JsonObject *what = json_object_new();

    json_object_set_string_member(what, "class", control_error_class(error));
    json_object_set_string_member(what, "desc", error->message);
    json_object_set_object_member(message, "error", what);
    return message;
}

/* The line that says so; one that is longer than any client is sent says that instead. */
static char *
answer_line(JsonObject *message)
{
    JsonNode *id = json_object_get_member(message, "id");
    char *line = json_to_line(message);

    if (strlen(line) <= OUTPUT_MAX)
        return line;
    g_free(line);
    g_autoptr(GError) error =
        g_error_new(CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "the answer has more than %d MiB, which is more than any client is sent",
                    OUTPUT_MAX / 1024 / 1024);
    g_autoptr(JsonObject) failure = failure_new(error);
    if (id != NULL)
        json_object_set_member(failure, "id", json_node_copy(id));
    return json_to_line(failure);
}

static void
request_end(ApiRequest *request, JsonObject *message)
{
    if (request->id != NULL)
        json_object_set_member(message, "id", g_steal_pointer(&request->id));
    g_autofree char *line = answer_line(message);
    client_send_line(request->client, line);
    for (guint i = 0; i < FDS_MAX; i++) {
        if (request->fds[i] >= 0)
            close(request->fds[i]);
    }
    request->client->requests--;
    client_unref(request->client);
    g_free(request);
}

void
api_reply(ApiRequest *request, JsonObject *result)
{
    g_autoptr(JsonObject) message = json_object_new();

    json_object_set_object_member(message, "return", result != NULL ? result : json_object_new());
    request_end(request, message);
}

void
api_fail(ApiRequest *request, const GError *error)
{
    g_autoptr(JsonObject) message = failure_new(error);

    request_end(request, message);
}

void
api_job_done(JsonObject *result, const GError *error, gpointer data)
{
    if (error != NULL)
        api_fail(data, error);
    else
        api_reply(data, result != NULL ? json_object_ref(result) : NULL);
}

Daemon *
api_request_daemon(const ApiRequest *request)
{
    return request->daemon;
}

int
api_request_take_fd(ApiRequest *request, guint i)
{
    int fd = i < FDS_MAX ? request->fds[i] : -1;

    if (fd >= 0)
        request->fds[i] = -1;
    return fd;
}

void
api_subscribe(ApiRequest *request)
{
    request->client->subscribed = TRUE;
}

/* ---- Requests ---- */

static ApiRequest *
request_new(Client *client)
{
    ApiRequest *request = g_new0(ApiRequest, 1);

    request->client = client;
    request->daemon = client->server->daemon;
    for (guint i = 0; i < FDS_MAX; i++)
        request->fds[i] = i < client->n_fds ? client->fds[i] : -1;
    client->n_fds = 0;
    client->refs++;
    client->requests++;
    return request;
}

static void
client_line(Client *client, const char *line, gsize len)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(ApiCall) call = api_call_parse(line, len, &error);
    ApiRequest *request = request_new(client);

    if (call == NULL) {
        api_fail(request, error);
        return;
    }
    request->id = g_steal_pointer(&call->id);
    if (client->requests > REQUESTS_MAX) {
        error = g_error_new(CONTROL_ERROR, CONTROL_ERROR_BUSY,
                            "more than %d requests under way: wait for answers", REQUESTS_MAX);
        api_fail(request, error);
        return;
    }
    verb_execute(request, call->execute, call->arguments);
}

static void
client_lines(Client *client)
{
    gsize start = 0;
    const guint8 *newline = NULL;

    while (client->server != NULL &&
           (newline = memchr(client->in->data + start, '\n', client->in->len - start)) != NULL) {
        const char *line = (const char *)client->in->data + start;
        gsize len = (gsize)(newline - client->in->data) - start;
        if (len > 0)
            client_line(client, line, len);
        start += len + 1;
    }
    if (start > 0)
        g_byte_array_remove_range(client->in, 0, (guint)start);
}

/* More than a request can have are closed. */
static void
client_take_fds(Client *client, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (gsize at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
            if (client->n_fds < FDS_MAX)
                client->fds[client->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

static ssize_t
client_receive(Client *client, void *buf, gsize len)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = buf, .iov_len = len};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof(control.space)};
    ssize_t n = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n >= 0)
        client_take_fds(client, &message);
    return n;
}

static gboolean
on_input(gint fd, GIOCondition condition, gpointer data)
{
    Client *client = data;
    guint8 chunk[65536];
    ssize_t n = client_receive(client, chunk, sizeof(chunk));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return G_SOURCE_CONTINUE;
    if (n <= 0) {
        client_close(client);
        return G_SOURCE_CONTINUE; /* client_close has removed it */
    }
    client->refs++;
    g_byte_array_append(client->in, chunk, (guint)n);
    client_lines(client);
    if (client->in->len > API_LINE_MAX)
        client_close(client);
    client_unref(client);
    return G_SOURCE_CONTINUE;
}

static void
client_greet(Client *client)
{
    g_autoptr(JsonObject) greeting = json_object_new();
    JsonObject *what = json_object_new();

    json_object_set_string_member(what, "version", DISTRICT_VERSION);
    json_object_set_string_member(what, "host", client->server->daemon->config->host_name);
    json_object_set_object_member(greeting, "district", what);
    client_send(client, greeting);
}

static gboolean
on_client(gint fd, GIOCondition condition, gpointer data)
{
    ApiServer *server = data;
    int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (connection < 0)
        return G_SOURCE_CONTINUE;
    if (server->clients->len >= CLIENTS_MAX) {
        g_message("API: more than %d clients: one refused", CLIENTS_MAX);
        close(connection);
        return G_SOURCE_CONTINUE;
    }
    Client *client = g_new0(Client, 1);
    client->refs = 1;
    client->server = server;
    client->fd = connection;
    client->in = g_byte_array_new();
    client->out = g_byte_array_new();
    client->reader = g_unix_fd_add(connection, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, client);
    g_ptr_array_add(server->clients, client);
    client_greet(client);
    return G_SOURCE_CONTINUE;
}

/* ---- Events ---- */

void
api_server_event(ApiServer *server, JsonObject *event)
{
    g_queue_push_tail(&server->recent, json_object_ref(event));
    if (g_queue_get_length(&server->recent) > RECENT_MAX)
        json_object_unref(g_queue_pop_head(&server->recent));
    for (guint i = server->clients->len; i > 0; i--) {
        Client *client = server->clients->pdata[i - 1];
        if (client->subscribed)
            client_send(client, event);
    }
}

JsonArray *
api_server_recent(ApiServer *server)
{
    JsonArray *events = json_array_new();

    for (GList *i = server->recent.head; i != NULL; i = i->next)
        json_array_add_object_element(events, json_object_ref(i->data));
    return events;
}

/* ---- Server ---- */

static int
listen_on(const char *path, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = -1;

    if (strlen(path) >= sizeof(address.sun_path)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: too long for a socket: set a shorter RuntimeDir=", path);
        return -1;
    }
    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    unlink(path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t old = umask(0177);
    gboolean good = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                    listen(fd, CLIENTS_MAX) == 0;
    umask(old);
    if (good)
        return fd;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: cannot listen: %s", path,
                g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

ApiServer *
api_server_new(Daemon *daemon, GError **error)
{
    g_autofree char *path = config_socket_path(daemon->config);
    int fd = listen_on(path, error);

    if (fd < 0)
        return NULL;
    ApiServer *server = g_new0(ApiServer, 1);
    server->daemon = daemon;
    server->path = g_steal_pointer(&path);
    server->fd = fd;
    server->clients = g_ptr_array_new_with_free_func(client_unref);
    server->source = g_unix_fd_add(fd, G_IO_IN, on_client, server);
    return server;
}

void
api_server_free(ApiServer *server)
{
    if (server == NULL)
        return;
    g_source_remove(server->source);
    close(server->fd);
    unlink(server->path);
    while (server->clients->len > 0)
        client_close(server->clients->pdata[0]);
    g_ptr_array_unref(server->clients);
    g_queue_clear_full(&server->recent, (GDestroyNotify)json_object_unref);
    g_free(server->path);
    g_free(server);
}
