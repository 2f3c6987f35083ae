/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client of district-net's control protocol: one request at a time. */
#include "ckpt/netctl.h"

#include "common/memfd.h"
#include "common/pbmsg.h"
#include "net.pb-c.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEND_TIMEOUT_MS 1000

struct NetCtl {
    char *path; /* NULL: no network */
    int fd;
    uint64_t last_id;
};

NetCtl *
netctl_new(const char *path)
{
    NetCtl *net = g_new0(NetCtl, 1);

    net->path = g_strdup(path);
    net->fd = -1;
    return net;
}

static void
netctl_disconnect(NetCtl *net)
{
    if (net->fd >= 0)
        close(net->fd);
    net->fd = -1;
}

void
netctl_free(NetCtl *net)
{
    netctl_disconnect(net);
    g_free(net->path);
    g_free(net);
}

gboolean
netctl_connect(NetCtl *net, int timeout_ms, GError **error)
{
    if (!net->path || net->fd >= 0)
        return TRUE;
    net->fd = fdmsg_connect(net->path, timeout_ms, error);
    if (net->fd < 0)
        g_prefix_error(error, "district-net: ");
    return net->fd >= 0;
}

bool
netctl_connected(const NetCtl *net)
{
    return !net->path || net->fd >= 0;
}

/* It never speaks unasked: between calls there is nothing to read but the end. */
void
netctl_check(NetCtl *net)
{
    char byte;

    if (net->fd >= 0 && (recv(net->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN))
        netctl_disconnect(net);
}

static gboolean
netctl_send(NetCtl *net, District__NetRequest *request, const int *fds, guint n_fds, GError **error)
{
    if (net->fd < 0) {
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED,
                    "district-net: not connected; districtd should have restarted it");
        return FALSE;
    }
    request->id = ++net->last_id;
    if (pbmsg_send(net->fd, &request->base, fds, n_fds, SEND_TIMEOUT_MS, error))
        return TRUE;
    g_prefix_error(error, "district-net: ");
    netctl_disconnect(net);
    return FALSE;
}

static District__NetReply *
netctl_receive(NetCtl *net, int *fds, guint *n_fds, GError **error)
{
    District__NetReply *reply = (District__NetReply *)pbmsg_recv(
        net->fd, &district__net_reply__descriptor, fds, n_fds, NET_CALL_TIMEOUT_MS, error);

    if (!reply) {
        g_prefix_error(error, "district-net: ");
        netctl_disconnect(net);
        return NULL;
    }
    if (reply->id == net->last_id && reply->error[0] == '\0')
        return reply;
    g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_SYSTEM, "district-net: %s",
                reply->id != net->last_id ? "reply to another request" : reply->error);
    if (reply->id != net->last_id)
        netctl_disconnect(net);
    if (n_fds)
        fdmsg_close_fds(fds, *n_fds);
    district__net_reply__free_unpacked(reply, NULL);
    return NULL;
}

static gboolean
netctl_wait(NetCtl *net, GError **error)
{
    District__NetReply *reply = netctl_receive(net, NULL, NULL, error);

    if (!reply)
        return FALSE;
    district__net_reply__free_unpacked(reply, NULL);
    return TRUE;
}

static gboolean
netctl_call(NetCtl *net, District__NetRequest *request, const int *fds, guint n_fds, GError **error)
{
    if (!net->path)
        return TRUE;
    return netctl_send(net, request, fds, n_fds, error) && netctl_wait(net, error);
}

gboolean
netctl_cut_begin(NetCtl *net, uint64_t cut, GError **error)
{
    District__NetCutBeginRequest op = DISTRICT__NET_CUT_BEGIN_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    op.epoch = cut;
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_BEGIN;
    request.cut_begin = &op;
    return netctl_call(net, &request, NULL, 0, error);
}

gboolean
netctl_cut_member_send(NetCtl *net, uint64_t cut, const char *member, GError **error)
{
    District__NetCutMemberRequest op = DISTRICT__NET_CUT_MEMBER_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    if (!net->path)
        return TRUE;
    op.epoch = cut;
    op.member = (char *)member;
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_MEMBER;
    request.cut_member = &op;
    return netctl_send(net, &request, NULL, 0, error);
}

gboolean
netctl_cut_member_wait(NetCtl *net, GError **error)
{
    return !net->path || netctl_wait(net, error);
}

/* Copy the network's state out of the memfd that came with the reply. */
static GByteArray *
netctl_state_read(int fd, uint64_t len, GError **error)
{
    if (len > NET_STATE_BYTES_MAX || memfd_size(fd) < len) {
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG,
                    "district-net: its state of %" G_GUINT64_FORMAT
                    " bytes is above the limit, or more than it passed",
                    len);
        return NULL;
    }
    g_autoptr(GByteArray) state = g_byte_array_sized_new((guint)len);
    g_byte_array_set_size(state, (guint)len);
    for (uint64_t done = 0; done < len;) {
        ssize_t n = pread(fd, state->data + done, len - done, (off_t)done);
        if (n <= 0) {
            g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_SYSTEM,
                        "district-net: cannot read its state memfd");
            return NULL;
        }
        done += (uint64_t)n;
    }
    return g_steal_pointer(&state);
}

gboolean
netctl_cut_end(NetCtl *net, uint64_t cut, GByteArray **state, GError **error)
{
    District__NetCutEndRequest op = DISTRICT__NET_CUT_END_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    int fd = -1;
    guint n_fds = 1;

    if (!net->path) {
        *state = g_byte_array_new();
        return TRUE;
    }
    op.epoch = cut;
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_END;
    request.cut_end = &op;
    if (!netctl_send(net, &request, NULL, 0, error))
        return FALSE;
    District__NetReply *reply = netctl_receive(net, &fd, &n_fds, error);
    if (!reply)
        return FALSE;
    *state = NULL;
    if (reply->cut_end && n_fds == 1)
        *state = netctl_state_read(fd, reply->cut_end->state_len, error);
    else
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_SYSTEM,
                    "district-net: the end of a cut came without its state");
    fdmsg_close_fds(&fd, n_fds);
    district__net_reply__free_unpacked(reply, NULL);
    return *state != NULL;
}

gboolean
netctl_cut_abort(NetCtl *net, uint64_t cut, GError **error)
{
    District__NetCutAbortRequest op = DISTRICT__NET_CUT_ABORT_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    op.epoch = cut;
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_ABORT;
    request.cut_abort = &op;
    return netctl_call(net, &request, NULL, 0, error);
}

gboolean
netctl_commit(NetCtl *net, uint64_t cut, GError **error)
{
    District__NetCommitRequest op = DISTRICT__NET_COMMIT_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    op.epoch = cut;
    request.op_case = DISTRICT__NET_REQUEST__OP_COMMIT;
    request.commit = &op;
    return netctl_call(net, &request, NULL, 0, error);
}

gboolean
netctl_restore(NetCtl *net, const void *state, size_t len, bool reset_crossing,
               uint64_t incarnation, GError **error)
{
    District__NetRestoreRequest op = DISTRICT__NET_RESTORE_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    if (!net->path)
        return TRUE;
    int fd = memfd_from_data("net-state", state, len, error);
    if (fd < 0)
        return FALSE;
    op.state_len = len;
    op.reset_crossing = reset_crossing;
    op.incarnation = incarnation;
    request.op_case = DISTRICT__NET_REQUEST__OP_RESTORE;
    request.restore = &op;
    gboolean ok = netctl_call(net, &request, &fd, 1, error);
    close(fd);
    return ok;
}

gboolean
netctl_announce(NetCtl *net, GError **error)
{
    District__NetAnnounceRequest op = DISTRICT__NET_ANNOUNCE_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    request.op_case = DISTRICT__NET_REQUEST__OP_ANNOUNCE;
    request.announce = &op;
    return netctl_call(net, &request, NULL, 0, error);
}

gboolean
netctl_mode(NetCtl *net, bool output_commit, bool protect, GError **error)
{
    District__NetModeRequest op = DISTRICT__NET_MODE_REQUEST__INIT;
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;

    op.output_commit = output_commit;
    op.protected_ = protect;
    request.op_case = DISTRICT__NET_REQUEST__OP_MODE;
    request.mode = &op;
    return netctl_call(net, &request, NULL, 0, error);
}
