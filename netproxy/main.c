/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-net: the network of one district. Options, sockets and the event loop; switch.c has the
 * theory of operation.
 */
#include "common/clock.h"
#include "common/log.h"
#include "common/page.h"
#include "common/pbmsg.h"
#include "netproxy/control.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* What epoll reports; the number says which one of its kind. */
typedef enum {
    EVENT_SIGNAL,
    EVENT_PORT_LISTEN,    /* somebody connects to a port */
    EVENT_PORT,           /* a port's connection */
    EVENT_CONTROL_LISTEN, /* a client connects */
    EVENT_CONTROL,        /* a client's request */
} EventType;

#define EVENTS_MAX 64

typedef struct Net {
    char *name;
    char *control_path;
    char **port_specs;
    char *outside_path;
    char *flows_path;
    int tap_fd;
    gint64 incarnation;
    gboolean hold;
    /* from the above */
    char **names; /* members */
    char **paths; /* their sockets */
    Switch *sw;
    Control control;
    int epoll_fd;
    int signal_fd;
    int control_fd;
    int *listen_fds;
    int clients[CONTROL_CLIENTS_MAX]; /* -1: free */
    int *watched;                     /* by port: descriptor in epoll, -1: none */
    gboolean quit;
} Net;

static gboolean
net_fail(GError **error, const char *what)
{
    int saved = errno;

    g_set_error(error, G_IO_ERROR, (gint)g_io_error_from_errno(saved), "%s: %s", what,
                g_strerror(saved));
    return FALSE;
}

/* --- epoll --- */

static void
net_epoll(Net *net, int op, int fd, EventType type, guint number, guint32 events)
{
    struct epoll_event event = {.events = events, .data.u64 = (guint64)type << 32 | number};

    if (epoll_ctl(net->epoll_fd, op, fd, &event) < 0)
        g_warning("epoll_ctl: %s", g_strerror(errno));
}

static void
net_watch_port(void *opaque, guint port, int fd, gboolean input, gboolean output)
{
    Net *net = opaque;
    guint32 events = (input ? EPOLLIN : 0) | (output ? EPOLLOUT : 0);

    if (events == 0 && net->watched[port] == fd) {
        epoll_ctl(net->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        net->watched[port] = -1;
    } else if (events != 0) {
        net_epoll(net, net->watched[port] == fd ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, EVENT_PORT,
                  port, events);
        net->watched[port] = fd;
    }
}

/* --- Ports --- */

static int
net_listen_stream(const char *path, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(addr.sun_path)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                    "socket path %s is longer than %zu bytes: use a shorter runtime directory",
                    path, sizeof(addr.sun_path) - 1);
        return -1;
    }
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        net_fail(error, "socket");
        return -1;
    }
    unlink(path);
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, 4) < 0) {
        net_fail(error, path);
        close(fd);
        return -1;
    }
    return fd;
}

static void
net_accept_port(Net *net, guint port)
{
    int fd = accept4(net->listen_fds[port], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        switch_attach(net->sw, port, LINK_STREAM, fd);
    else if (errno != EAGAIN && errno != ECONNABORTED)
        g_warning("port %u: accept: %s", port, g_strerror(errno));
}

/* --- Control clients --- */

static void
net_drop_client(Net *net, guint client)
{
    close(net->clients[client]);
    net->clients[client] = -1;
    control_client_gone(&net->control, (int)client);
}

static void
net_accept_client(Net *net)
{
    int fd = fdmsg_accept(net->control_fd, NULL);
    guint client = 0;

    if (fd < 0)
        return;
    while (client < CONTROL_CLIENTS_MAX && net->clients[client] >= 0)
        client++;
    if (client == CONTROL_CLIENTS_MAX) {
        g_warning("a control client was turned away: there are %d already", CONTROL_CLIENTS_MAX);
        close(fd);
        return;
    }
    net->clients[client] = fd;
    net_epoll(net, EPOLL_CTL_ADD, fd, EVENT_CONTROL, client, EPOLLIN);
}

/* Carry out one request; FALSE: the client is to be dropped. */
static gboolean
net_serve(Net *net, guint client, const District__NetRequest *request, const int *fds, guint n_fds,
          GError **error)
{
    District__NetReply reply;
    int reply_fd;

    control_handle(&net->control, (int)client, request, fds, n_fds, &reply, &reply_fd);
    /* A client that does not take its replies is not waited for. */
    gboolean sent =
        pbmsg_send(net->clients[client], &reply.base, &reply_fd, reply_fd >= 0, 0, error);
    if (reply_fd >= 0)
        close(reply_fd);
    control_reply_clear(&reply);
    return sent;
}

static void
net_read_client(Net *net, guint client)
{
    g_autoptr(GError) error = NULL;
    int fds[CONTROL_FDS_MAX];
    guint n_fds = G_N_ELEMENTS(fds);

    if (net->clients[client] < 0)
        return;
    ProtobufCMessage *request = pbmsg_recv(net->clients[client], &district__net_request__descriptor,
                                           fds, &n_fds, 0, &error);
    if (request) {
        net_serve(net, client, (const District__NetRequest *)request, fds, n_fds, &error);
        fdmsg_close_fds(fds, n_fds);
        protobuf_c_message_free_unpacked(request, NULL);
    }
    if (!error || g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
        return;
    if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
        g_warning("control client dropped: %s", error->message);
    net_drop_client(net, client);
}

/* --- The loop --- */

static void
net_handle(Net *net, const struct epoll_event *event)
{
    EventType type = (EventType)(event->data.u64 >> 32);
    guint number = (guint)event->data.u64;

    switch (type) {
    case EVENT_SIGNAL:
        net->quit = TRUE;
        break;
    case EVENT_PORT_LISTEN:
        net_accept_port(net, number);
        break;
    case EVENT_PORT:
        if (event->events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
            switch_writable(net->sw, number);
        if (event->events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            switch_readable(net->sw, number);
        break;
    case EVENT_CONTROL_LISTEN:
        net_accept_client(net);
        break;
    case EVENT_CONTROL:
        net_read_client(net, number);
        break;
    }
}

/* Milliseconds until the switch has something to do, rounded up. */
static int
net_timeout(const Net *net)
{
    gint64 deadline = switch_deadline(net->sw);
    gint64 left = deadline - clock_monotonic_ns();

    if (deadline == G_MAXINT64)
        return -1;
    return left <= 0 ? 0 : (int)MIN((left + NS_PER_MS - 1) / NS_PER_MS, 60 * 1000);
}

static gboolean
net_loop(Net *net, GError **error)
{
    while (!net->quit) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(net->epoll_fd, events, EVENTS_MAX, net_timeout(net));
        if (n < 0 && errno != EINTR)
            return net_fail(error, "epoll_wait");
        switch_tick(net->sw, clock_monotonic_ns());
        control_tick(&net->control, clock_monotonic_ns());
        for (int i = 0; i < n; i++)
            net_handle(net, &events[i]);
        switch_flush(net->sw);
    }
    return TRUE;
}

/* --- Set-up --- */

static gboolean
net_option_error(GError **error, const char *format, const char *what)
{
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, format, what);
    return FALSE;
}

/* Split --port NAME=PATH. */
static gboolean
net_parse_ports(Net *net, GError **error)
{
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    g_autoptr(GStrvBuilder) paths = g_strv_builder_new();
    g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (char **spec = net->port_specs; spec && *spec; spec++) {
        const char *equals = strchr(*spec, '=');
        if (!equals || equals == *spec || equals[1] == '\0' || equals - *spec > NAME_BYTES_MAX)
            return net_option_error(error, "--port %s: must be MEMBER=SOCKET", *spec);
        g_autofree char *name = g_strndup(*spec, (gsize)(equals - *spec));
        if (strcmp(name, "outside") == 0)
            return net_option_error(error, "--port %s: this name is taken by the outside", *spec);
        g_strv_builder_add(names, name);
        g_strv_builder_add(paths, equals + 1);
        if (!g_hash_table_add(known, g_steal_pointer(&name)))
            return net_option_error(error, "--port %s: the member has a port already", *spec);
    }
    net->names = g_strv_builder_end(names);
    net->paths = g_strv_builder_end(paths);
    return TRUE;
}

static gboolean
net_parse(Net *net, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"name", 0, 0, G_OPTION_ARG_STRING, &net->name, "Name of the district", "NAME"},
        {"control", 0, 0, G_OPTION_ARG_FILENAME, &net->control_path, "Control socket", "PATH"},
        {"port", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &net->port_specs,
         "A member and the socket it connects to; once for each member", "MEMBER=PATH"},
        {"tap-fd", 0, 0, G_OPTION_ARG_INT, &net->tap_fd,
         "Outside: inherited TAP descriptor (IFF_TAP | IFF_NO_PI)", "FD"},
        {"outside-socket", 0, 0, G_OPTION_ARG_FILENAME, &net->outside_path,
         "Outside: a stream socket to listen on instead, framed as members' are", "PATH"},
        {"flows", 0, 0, G_OPTION_ARG_FILENAME, &net->flows_path,
         "Leave the connections that cross here at the end, for the next one to reset what a "
         "rollback undoes",
         "FILE"},
        {"incarnation", 0, 0, G_OPTION_ARG_INT64, &net->incarnation, "Incarnation of the district",
         "N"},
        {"hold", 0, 0, G_OPTION_ARG_NONE, &net->hold,
         "Hold all output to the outside until district-ckpt says otherwise", NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);

    g_option_context_set_summary(
        context, "The virtual switch and boundary of one district; districtd starts it.");
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, error))
        return FALSE;
    if (argc > 1)
        return net_option_error(error, "unexpected argument %s", argv[1]);
    if (!net->name || !net->control_path)
        return net_option_error(error, "%s must be given", net->name ? "--control" : "--name");
    if (net->tap_fd >= 0 && net->outside_path)
        return net_option_error(error, "--tap-fd and %s exclude each other", "--outside-socket");
    if (net->incarnation < 0)
        return net_option_error(error, "--incarnation: %s", "must not be negative");
    if (!net_parse_ports(net, error))
        return FALSE;
    if (g_strv_length(net->names) > MEMBERS_MAX)
        return net_option_error(error, "--port: %s", "more members than a district may have");
    return TRUE;
}

static gboolean
net_open_signals(Net *net, GError **error)
{
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    net->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (net->signal_fd < 0)
        return net_fail(error, "signalfd");
    net_epoll(net, EPOLL_CTL_ADD, net->signal_fd, EVENT_SIGNAL, 0, EPOLLIN);
    return TRUE;
}

static gboolean
net_open_outside(Net *net, GError **error)
{
    guint outside = switch_outside_port(net->sw);

    if (net->tap_fd >= 0) {
        struct stat st;
        if (fstat(net->tap_fd, &st) < 0 || !S_ISCHR(st.st_mode))
            return net_option_error(error, "--tap-fd: %s", "not an open TAP descriptor");
        switch_attach(net->sw, outside, LINK_TAP, net->tap_fd);
    }
    if (!net->outside_path)
        return TRUE;
    net->listen_fds[outside] = net_listen_stream(net->outside_path, error);
    if (net->listen_fds[outside] < 0)
        return FALSE;
    net_epoll(net, EPOLL_CTL_ADD, net->listen_fds[outside], EVENT_PORT_LISTEN, outside, EPOLLIN);
    return TRUE;
}

/* What the one before has left, once: it says nothing of a life after this one. */
static void
net_take_flows(Net *net)
{
    g_autofree char *data = NULL;
    gsize len;

    if (!net->flows_path || !g_file_get_contents(net->flows_path, &data, &len, NULL))
        return;
    unlink(net->flows_path);
    net->control.undone = g_bytes_new_take(g_steal_pointer(&data), len);
}

static void
net_leave_flows(Net *net)
{
    g_autoptr(GError) error = NULL;
    gsize len;

    if (!net->flows_path)
        return;
    g_autofree guint8 *flows = switch_save_flows(net->sw, &len);
    if (!g_file_set_contents_full(net->flows_path, (char *)flows, (gssize)len,
                                  G_FILE_SET_CONTENTS_CONSISTENT, 0600, &error))
        g_warning("a rollback would not know the newest connections: %s", error->message);
}

static gboolean
net_open(Net *net, GError **error)
{
    guint n = g_strv_length(net->names);

    net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (net->epoll_fd < 0)
        return net_fail(error, "epoll_create1");
    net->watched = g_new(int, n + 1);
    net->listen_fds = g_new(int, n + 1);
    for (guint i = 0; i <= n; i++)
        net->watched[i] = net->listen_fds[i] = -1;
    for (guint i = 0; i < CONTROL_CLIENTS_MAX; i++)
        net->clients[i] = -1;
    net->sw =
        switch_new((const char *const *)net->names, (guint64)net->incarnation, net_watch_port, net);
    net->control = (Control){.sw = net->sw, .cutter = -1};
    net_take_flows(net);
    /* Takes the place of one that held output: nothing may slip out before a mode is set. */
    if (net->hold)
        switch_set_mode(net->sw, TRUE, TRUE);
    if (!net_open_signals(net, error) || !net_open_outside(net, error))
        return FALSE;
    for (guint i = 0; i < n; i++) {
        net->listen_fds[i] = net_listen_stream(net->paths[i], error);
        if (net->listen_fds[i] < 0)
            return FALSE;
        net_epoll(net, EPOLL_CTL_ADD, net->listen_fds[i], EVENT_PORT_LISTEN, i, EPOLLIN);
    }
    /* Last: whoever can connect to it finds everything else in place. */
    net->control_fd = fdmsg_listen(net->control_path, error);
    if (net->control_fd < 0)
        return FALSE;
    net_epoll(net, EPOLL_CTL_ADD, net->control_fd, EVENT_CONTROL_LISTEN, 0, EPOLLIN);
    return TRUE;
}

int
main(int argc, char **argv)
{
    Net net = {.tap_fd = -1, .epoll_fd = -1, .signal_fd = -1, .control_fd = -1};
    g_autoptr(GError) error = NULL;

    if (!net_parse(&net, argc, argv, &error)) {
        g_printerr("district-net: %s; see --help\n", error->message);
        return 1;
    }
    log_init("district-net", net.name);
    if (!net_open(&net, &error) || !net_loop(&net, &error)) {
        g_printerr("district-net: district %s: %s\n", net.name, error->message);
        return 1;
    }
    net_leave_flows(&net);
    /* The kernel closes the descriptors; only names in the file system would stay behind. */
    unlink(net.control_path);
    for (char **path = net.paths; *path; path++)
        unlink(*path);
    if (net.outside_path)
        unlink(net.outside_path);
    if (net.control.undone)
        g_bytes_unref(net.control.undone);
    switch_free(net.sw);
    return 0;
}
