/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control socket of district-standby. */
#include "standby/control.h"

#include "common/pbmsg.h"

#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEND_TIMEOUT_MS 1000

struct Control {
    char *path;
    const ControlOps *ops;
    void *opaque;
    int listen_fd;
    guint listen_source;
    guint client_source;
    GMutex lock; /* guards client, and keeps messages whole */
    int client;
};

/* The client is gone or must go. Main thread. */
static void
drop_client(Control *control)
{
    if (control->client_source != 0)
        g_source_remove(control->client_source);
    control->client_source = 0;
    g_mutex_lock(&control->lock);
    if (control->client >= 0)
        close(control->client);
    control->client = -1;
    g_mutex_unlock(&control->lock);
}

static gboolean
on_request(gint fd, GIOCondition condition, gpointer data)
{
    Control *control = data;
    int fds[FDMSG_FDS_MAX];
    guint n_fds = G_N_ELEMENTS(fds);
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *message =
        pbmsg_recv(fd, &district__standby_request__descriptor, fds, &n_fds, 0, &error);

    (void)condition;
    if (message == NULL) {
        if (g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            return G_SOURCE_CONTINUE;
        g_message("control connection ended: %s", error->message);
        control->client_source = 0;
        drop_client(control);
        return G_SOURCE_REMOVE;
    }
    control->ops->request(control->opaque, (District__StandbyRequest *)message, fds, n_fds);
    for (guint i = 0; i < n_fds; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_client(gint fd, GIOCondition condition, gpointer data)
{
    Control *control = data;
    g_autoptr(GError) error = NULL;
    int client = fdmsg_accept(fd, &error);

    (void)condition;
    if (client < 0) {
        if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            g_warning("%s: cannot accept: %s", control->path, error->message);
        return G_SOURCE_CONTINUE;
    }
    drop_client(control);
    g_mutex_lock(&control->lock);
    control->client = client;
    g_mutex_unlock(&control->lock);
    control->client_source =
        g_unix_fd_add(client, G_IO_IN | G_IO_HUP | G_IO_ERR, on_request, control);
    control->ops->connected(control->opaque);
    return G_SOURCE_CONTINUE;
}

Control *
control_new(const char *path, const ControlOps *ops, void *opaque, GError **error)
{
    int fd = fdmsg_listen(path, error);
    Control *control;

    if (fd < 0)
        return NULL;
    control = g_new0(Control, 1);
    control->path = g_strdup(path);
    control->ops = ops;
    control->opaque = opaque;
    control->listen_fd = fd;
    control->client = -1;
    g_mutex_init(&control->lock);
    control->listen_source = g_unix_fd_add(fd, G_IO_IN, on_client, control);
    return control;
}

void
control_free(Control *control)
{
    if (control == NULL)
        return;
    drop_client(control);
    g_source_remove(control->listen_source);
    close(control->listen_fd);
    unlink(control->path);
    g_mutex_clear(&control->lock);
    g_free(control->path);
    g_free(control);
}

gboolean
control_send(Control *control, const District__StandbyMessage *message, const int *fds, guint n_fds)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&control->lock);
    g_autoptr(GError) error = NULL;

    if (control->client < 0)
        return FALSE;
    if (pbmsg_send(control->client, &message->base, fds, n_fds, SEND_TIMEOUT_MS, &error))
        return TRUE;
    g_warning("control connection cut off: %s", error->message);
    /* The main thread sees the hang-up and closes it. */
    shutdown(control->client, SHUT_RDWR);
    return FALSE;
}

gboolean
control_send_event(Control *control, District__StandbyEventKind kind, const char *text,
                   uint64_t epoch, uint64_t incarnation, const int *fds, guint n_fds)
{
    District__StandbyMessage message = DISTRICT__STANDBY_MESSAGE__INIT;
    District__StandbyEvent event = DISTRICT__STANDBY_EVENT__INIT;

    event.kind = kind;
    event.text = (char *)(text != NULL ? text : "");
    event.epoch = epoch;
    event.incarnation = incarnation;
    message.m_case = DISTRICT__STANDBY_MESSAGE__M_EVENT;
    message.event = &event;
    return control_send(control, &message, fds, n_fds);
}
