/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client of a child's control socket on the main loop. */
#include "control/rpc.h"
#include "control/error.h"
#include "common/fdmsg.h"
#include "common/pbmsg.h"
#include "ckpt.pb-c.h"
#include "standby.pb-c.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#define RPC_RETRY_MS 5
/* Messages handled before other sources of the main loop get their turn. */
#define RPC_BATCH 64

struct Rpc {
    const RpcProtocol *protocol;
    char *path;
    char *name;
    RpcEvent event;
    gpointer data;
    int fd;
    guint source; /* of fd, or the retry timer while there is none */
    guint64 next_id;
    GQueue calls;   /* of Call, oldest first */
    gboolean *gone; /* set when freed from inside a callback */
};

typedef struct Call {
    Rpc *rpc;
    guint64 id;
    gboolean sent;
    void *packed;
    gsize len;
    int fds[FDMSG_FDS_MAX];
    guint n_fds;
    guint timer;
    RpcReply reply;
    gpointer data;
} Call;

static gboolean
ckpt_is_reply(const ProtobufCMessage *message, guint64 *id, const char **error)
{
    const District__CkptMessage *m = (const District__CkptMessage *)message;

    if (m->m_case != DISTRICT__CKPT_MESSAGE__M_REPLY)
        return FALSE;
    *id = m->reply->id;
    *error = m->reply->error;
    return TRUE;
}

static void
ckpt_set_id(ProtobufCMessage *request, guint64 id)
{
    ((District__CkptRequest *)request)->id = id;
}

static gboolean
standby_is_reply(const ProtobufCMessage *message, guint64 *id, const char **error)
{
    const District__StandbyMessage *m = (const District__StandbyMessage *)message;

    if (m->m_case != DISTRICT__STANDBY_MESSAGE__M_REPLY)
        return FALSE;
    *id = m->reply->id;
    *error = m->reply->error;
    return TRUE;
}

static void
standby_set_id(ProtobufCMessage *request, guint64 id)
{
    ((District__StandbyRequest *)request)->id = id;
}

const RpcProtocol rpc_ckpt_protocol = {&district__ckpt_message__descriptor, ckpt_is_reply,
                                       ckpt_set_id};
const RpcProtocol rpc_standby_protocol = {&district__standby_message__descriptor, standby_is_reply,
                                          standby_set_id};

static void rpc_disconnect(Rpc *rpc);

static void
call_free(Call *call)
{
    if (call->timer != 0)
        g_source_remove(call->timer);
    fdmsg_close_fds(call->fds, call->n_fds);
    g_free(call->packed);
    g_free(call);
}

/* Answer and free a call that has been taken off the queue. */
static void
call_finish(Call *call, ProtobufCMessage *message, int *fds, guint n_fds, const GError *error)
{
    if (call->reply != NULL)
        call->reply(message, fds, n_fds, error, call->data);
    call_free(call);
}

static gboolean
on_call_timeout(gpointer data)
{
    Call *call = data;
    g_autoptr(GError) error = g_error_new(
        CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE, "%s: %s: look into its log", call->rpc->name,
        call->sent ? "no answer in time" : "does not accept connections");

    call->timer = 0;
    g_queue_remove(&call->rpc->calls, call);
    call_finish(call, NULL, NULL, 0, error);
    return G_SOURCE_REMOVE;
}

static gboolean
call_send(Call *call)
{
    g_autoptr(GError) error = NULL;

    /* The buffer holds many requests; a server that left them all unread is as good as gone. */
    if (!fdmsg_send(call->rpc->fd, call->packed, call->len, call->fds, call->n_fds, 0, &error)) {
        g_warning("%s: %s", call->rpc->name, error->message);
        return FALSE;
    }
    call->sent = TRUE;
    fdmsg_close_fds(call->fds, call->n_fds);
    call->n_fds = 0;
    return TRUE;
}

static Call *
rpc_find_call(Rpc *rpc, guint64 id)
{
    for (GList *i = rpc->calls.head; i != NULL; i = i->next) {
        Call *call = i->data;
        if (call->sent && call->id == id)
            return call;
    }
    return NULL;
}

static void
rpc_dispatch_reply(Rpc *rpc, ProtobufCMessage *message, guint64 id, const char *text, int *fds,
                   guint n_fds)
{
    Call *call = rpc_find_call(rpc, id);
    g_autoptr(GError) error = NULL;

    if (call == NULL)
        return; /* its time limit passed */
    g_queue_remove(&rpc->calls, call);
    if (text[0] != '\0')
        error = g_error_new(CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: %s", rpc->name, text);
    call_finish(call, error != NULL ? NULL : message, fds, n_fds, error);
}

/* Returns FALSE when there is nothing more to read, or rpc was freed. */
static gboolean
rpc_read_one(Rpc *rpc)
{
    int fds[FDMSG_FDS_MAX];
    guint n_fds = FDMSG_FDS_MAX;
    guint64 id = 0;
    const char *text = NULL;
    gboolean gone = FALSE;
    g_autoptr(GError) error = NULL;
    ProtobufCMessage *message = pbmsg_recv(rpc->fd, rpc->protocol->message, fds, &n_fds, 0, &error);

    if (message == NULL) {
        if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            rpc_disconnect(rpc);
        return FALSE;
    }
    rpc->gone = &gone;
    if (rpc->protocol->is_reply(message, &id, &text))
        rpc_dispatch_reply(rpc, message, id, text, fds, n_fds);
    else
        rpc->event(message, fds, n_fds, NULL, rpc->data);
    for (guint i = 0; i < n_fds; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    if (!gone)
        rpc->gone = NULL;
    return !gone;
}

static gboolean
on_readable(gint fd, GIOCondition condition, gpointer data)
{
    Rpc *rpc = data;

    for (int i = 0; i < RPC_BATCH; i++) {
        if (!rpc_read_one(rpc))
            break;
    }
    /* A lost connection or a freed rpc has removed this source by its number already. */
    return G_SOURCE_CONTINUE;
}

static gboolean
on_retry(gpointer data)
{
    Rpc *rpc = data;
    int fd = fdmsg_connect(rpc->path, 0, NULL);

    if (fd < 0)
        return G_SOURCE_CONTINUE;
    rpc->fd = fd;
    rpc->source = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, rpc);
    for (GList *i = rpc->calls.head; i != NULL; i = i->next) {
        if (!call_send(i->data)) {
            rpc_disconnect(rpc);
            break;
        }
    }
    return G_SOURCE_REMOVE;
}

/* Answer with an error what was sent and will not be answered any more. */
static void
rpc_fail_calls(Rpc *rpc, gboolean unsent_too)
{
    g_autoptr(GError) error =
        g_error_new(CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                    "%s: ended before it answered: look into its log", rpc->name);
    GQueue failed = G_QUEUE_INIT;
    GQueue kept = G_QUEUE_INIT;
    Call *call = NULL;

    while ((call = g_queue_pop_head(&rpc->calls)) != NULL)
        g_queue_push_tail(unsent_too || call->sent ? &failed : &kept, call);
    rpc->calls = kept;
    while ((call = g_queue_pop_head(&failed)) != NULL)
        call_finish(call, NULL, NULL, 0, error);
}

static void
rpc_disconnect(Rpc *rpc)
{
    g_source_remove(rpc->source);
    close(rpc->fd);
    rpc->fd = -1;
    rpc->source = g_timeout_add(RPC_RETRY_MS, on_retry, rpc);
    rpc_fail_calls(rpc, FALSE);
}

Rpc *
rpc_new(const RpcProtocol *protocol, const char *path, const char *name, RpcEvent event,
        gpointer data)
{
    Rpc *rpc = g_new0(Rpc, 1);

    rpc->protocol = protocol;
    rpc->path = g_strdup(path);
    rpc->name = g_strdup(name);
    rpc->event = event;
    rpc->data = data;
    rpc->fd = -1;
    rpc->source = g_timeout_add(RPC_RETRY_MS, on_retry, rpc);
    return rpc;
}

void
rpc_call(Rpc *rpc, ProtobufCMessage *request, const int *fds, guint n_fds, int timeout_ms,
         RpcReply reply, gpointer data)
{
    Call *call = g_new0(Call, 1);

    call->rpc = rpc;
    call->id = ++rpc->next_id;
    call->reply = reply;
    call->data = data;
    rpc->protocol->set_id(request, call->id);
    call->len = protobuf_c_message_get_packed_size(request);
    call->packed = g_malloc(call->len);
    protobuf_c_message_pack(request, call->packed);
    for (guint i = 0; i < n_fds && i < FDMSG_FDS_MAX; i++)
        call->fds[call->n_fds++] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
    call->timer = g_timeout_add((guint)timeout_ms, on_call_timeout, call);
    g_queue_push_tail(&rpc->calls, call);
    if (rpc->fd >= 0 && !call_send(call))
        call->sent = FALSE; /* its time limit reports it */
}

void
rpc_free(Rpc *rpc)
{
    if (rpc == NULL)
        return;
    if (rpc->gone != NULL)
        *rpc->gone = TRUE;
    g_source_remove(rpc->source);
    if (rpc->fd >= 0)
        close(rpc->fd);
    rpc_fail_calls(rpc, TRUE);
    g_free(rpc->path);
    g_free(rpc->name);
    g_free(rpc);
}
