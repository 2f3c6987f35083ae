/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection of the district command to districtd: lines of JSON, blocking. */
#include "control/cli/cli.h"
#include "control/apiparse.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FDS_MAX 2

struct Client {
    int fd;
    GByteArray *in;
    GQueue events; /* of JsonObject, that came while an answer was waited for */
    gint64 next_id;
    const int *fds; /* to go with the next request; not owned */
    gsize n_fds;
    int watch_fd; /* -1: none */
    CliWatch watch;
    gpointer watch_data;
};

static gboolean
unreachable(GError **error, const char *path)
{
    int code = errno;

    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                "%s: %s: is districtd running, and are you root?", path, g_strerror(code));
    return FALSE;
}

/* Until districtd has said something, or has gone; what is watched has its turns. */
static void
client_wait(Client *client)
{
    struct pollfd ends[] = {{.fd = client->fd, .events = POLLIN},
                            {.fd = client->watch_fd, .events = POLLIN}};

    while (ends[1].fd >= 0) {
        if (poll(ends, G_N_ELEMENTS(ends), -1) < 0) {
            if (errno != EINTR)
                return;
            continue;
        }
        if (ends[1].revents != 0 && !client->watch(client->watch_fd, client->watch_data))
            client->watch_fd = ends[1].fd = -1;
        if (ends[0].revents != 0)
            return;
    }
}

/* Next line as an object; waits for ever: districtd bounds what takes time. */
static JsonObject *
client_read(Client *client, GError **error)
{
    for (;;) {
        const guint8 *newline =
            client->in->len > 0 ? memchr(client->in->data, '\n', client->in->len) : NULL;
        if (newline != NULL) {
            gsize len = (gsize)(newline - client->in->data);
            JsonObject *object = json_parse_object((char *)client->in->data, len, error);
            g_byte_array_remove_range(client->in, 0, (guint)len + 1);
            return object;
        }
        guint8 chunk[16384];
        client_wait(client);
        ssize_t n = client->in->len > 8 * API_LINE_MAX ? 0 : read(client->fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                        "districtd closed the connection: look into its log");
            return NULL;
        }
        g_byte_array_append(client->in, chunk, (guint)n);
    }
}

Client *
cli_connect(const Cli *cli, GError **error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, cli->socket, sizeof(address.sun_path));
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        unreachable(error, cli->socket);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    Client *client = g_new0(Client, 1);
    client->fd = fd;
    client->watch_fd = -1;
    client->in = g_byte_array_new();
    g_autoptr(JsonObject) greeting = client_read(client, error);
    if (greeting != NULL)
        return client;
    cli_disconnect(client);
    return NULL;
}

void
cli_disconnect(Client *client)
{
    if (client == NULL)
        return;
    close(client->fd);
    g_byte_array_unref(client->in);
    g_queue_clear_full(&client->events, (GDestroyNotify)json_object_unref);
    g_free(client);
}

/* Descriptors go with the first bytes. */
static ssize_t
client_send(Client *client, const char *data, gsize len)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (char *)data, .iov_len = len};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    gsize bytes = client->n_fds * sizeof(int);

    if (client->n_fds > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(bytes);
        control.align = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(bytes), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), client->fds, bytes);
    }
    ssize_t n = sendmsg(client->fd, &message, MSG_NOSIGNAL);
    if (n > 0)
        client->n_fds = 0;
    return n;
}

static gboolean
client_write(Client *client, const char *line, GError **error)
{
    gsize len = strlen(line);

    while (len > 0) {
        ssize_t n = client_send(client, line, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return unreachable(error, "districtd");
        line += n;
        len -= (gsize)n;
    }
    return TRUE;
}

static ControlError
error_code_of_class(const char *class)
{
    for (int code = CONTROL_ERROR_INVALID; code <= CONTROL_ERROR_FAILED; code++) {
        GError probe = {CONTROL_ERROR, code, NULL};
        if (strcmp(control_error_class(&probe), class) == 0)
            return (ControlError)code;
    }
    return CONTROL_ERROR_FAILED;
}

static JsonObject *
take_answer(JsonObject *message, GError **error)
{
    JsonObject *failure = json_get_object(message, "error");
    JsonObject *result = json_get_object(message, "return");

    if (failure != NULL)
        g_set_error(error, CONTROL_ERROR,
                    (gint)error_code_of_class(json_get_string(failure, "class", "")), "%s",
                    json_get_string(failure, "desc", "failed"));
    else if (result == NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "districtd gave no answer");
    return failure == NULL && result != NULL ? json_object_ref(result) : NULL;
}

/* A request that could not be read is answered without its id. */
static gboolean
answers(JsonObject *message, gint64 id)
{
    return json_object_has_member(message, "id") ? json_get_int(message, "id", 0) == id
                                                 : json_object_has_member(message, "error");
}

JsonObject *
cli_call(Client *client, const char *execute, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonObject) request = json_object_new();

    json_object_set_string_member(request, "execute", execute);
    json_object_set_object_member(request, "arguments",
                                  arguments != NULL ? arguments : json_object_new());
    json_object_set_int_member(request, "id", ++client->next_id);
    g_autofree char *line = json_to_line(request);
    if (!client_write(client, line, error))
        return NULL;
    for (;;) {
        g_autoptr(JsonObject) message = client_read(client, error);
        if (message == NULL)
            return NULL;
        if (answers(message, client->next_id))
            return take_answer(message, error);
        if (json_object_has_member(message, "event"))
            g_queue_push_tail(&client->events, g_steal_pointer(&message));
    }
}

void
cli_pass_fds(Client *client, const int *fds, gsize n_fds)
{
    g_return_if_fail(n_fds <= FDS_MAX);
    client->fds = fds;
    client->n_fds = n_fds;
}

void
cli_watch(Client *client, int fd, CliWatch watch, gpointer data)
{
    client->watch_fd = fd;
    client->watch = watch;
    client->watch_data = data;
}

JsonObject *
cli_once(const Cli *cli, const char *execute, JsonObject *arguments, GError **error)
{
    Client *client = cli_connect(cli, error);

    if (client == NULL) {
        if (arguments != NULL)
            json_object_unref(arguments);
        return NULL;
    }
    JsonObject *result = cli_call(client, execute, arguments, error);
    cli_disconnect(client);
    return result;
}

JsonObject *
cli_next_event(Client *client, GError **error)
{
    JsonObject *event = g_queue_pop_head(&client->events);

    return event != NULL ? event : client_read(client, error);
}
