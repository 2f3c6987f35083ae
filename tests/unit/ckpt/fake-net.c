/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A district-net without a network. */
#include "fake-net.h"

#include "common/memfd.h"
#include "common/pbmsg.h"

#include <poll.h>
#include <unistd.h>

#define OPS_MAX 16
#define LIMIT_MS 1000

struct FakeNet {
    char *path;
    int listen_fd;
    GThread *thread;
    gint stop; /* atomic */

    GMutex lock; /* guards what follows */
    FakeNetAnswer answers[OPS_MAX];
    unsigned counts[OPS_MAX];
    bool holds;
    uint64_t committed;
    unsigned loose_cuts;
};

/* ---- What it does; with the lock held ---- */

static void
net_do(FakeNet *net, const District__NetRequest *request)
{
    switch (request->op_case) {
    case DISTRICT__NET_REQUEST__OP_MODE:
        net->holds = request->mode->protected_;
        break;
    case DISTRICT__NET_REQUEST__OP_CUT_BEGIN:
        net->loose_cuts += !net->holds;
        break;
    case DISTRICT__NET_REQUEST__OP_COMMIT:
        net->committed = request->commit->epoch;
        break;
    default:
        break;
    }
}

static FakeNetAnswer
net_note(FakeNet *net, const District__NetRequest *request)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);
    FakeNetAnswer answer;

    g_assert_cmpint(request->op_case, <, OPS_MAX);
    answer = net->answers[request->op_case];
    net->counts[request->op_case]++;
    if (answer == FAKE_NET_DO || answer == FAKE_NET_NO_STATE)
        net_do(net, request);
    return answer;
}

/* ---- The protocol ---- */

static void
net_reply(int fd, const District__NetRequest *request, FakeNetAnswer answer)
{
    static const char state[] = "frames in flight";
    District__NetReply reply = DISTRICT__NET_REPLY__INIT;
    District__NetCutEndReply end = DISTRICT__NET_CUT_END_REPLY__INIT;
    int state_fd = -1;

    reply.id = request->id;
    if (answer == FAKE_NET_REFUSE) {
        reply.error = (char *)"the test wants it so";
    } else if (answer == FAKE_NET_DO && request->op_case == DISTRICT__NET_REQUEST__OP_CUT_END) {
        state_fd = memfd_from_data("net-state", state, sizeof(state), NULL);
        end.state_len = sizeof(state);
        reply.cut_end = &end;
    }
    pbmsg_send(fd, &reply.base, &state_fd, state_fd >= 0, LIMIT_MS, NULL);
    if (state_fd >= 0)
        close(state_fd);
}

static void
net_serve(FakeNet *net, int fd)
{
    while (!g_atomic_int_get(&net->stop)) {
        int got[FDMSG_FDS_MAX];
        guint n = FDMSG_FDS_MAX;
        g_autoptr(GError) error = NULL;
        District__NetRequest *request = (District__NetRequest *)pbmsg_recv(
            fd, &district__net_request__descriptor, got, &n, 50, &error);
        if (!request && g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            continue;
        if (!request)
            return;
        FakeNetAnswer answer = net_note(net, request);
        if (answer != FAKE_NET_HANG)
            net_reply(fd, request, answer);
        fdmsg_close_fds(got, n);
        district__net_request__free_unpacked(request, NULL);
    }
}

static gpointer
net_run(gpointer data)
{
    FakeNet *net = data;

    while (!g_atomic_int_get(&net->stop)) {
        struct pollfd p = {.fd = net->listen_fd, .events = POLLIN};
        if (poll(&p, 1, 50) <= 0)
            continue;
        int fd = fdmsg_accept(net->listen_fd, NULL);
        if (fd < 0)
            continue;
        net_serve(net, fd);
        close(fd);
    }
    return NULL;
}

/* ---- For the tests ---- */

FakeNet *
fake_net_new(const char *path)
{
    FakeNet *net = g_new0(FakeNet, 1);
    g_autoptr(GError) error = NULL;

    net->path = g_strdup(path);
    g_mutex_init(&net->lock);
    net->listen_fd = fdmsg_listen(path, &error);
    g_assert_no_error(error);
    net->thread = g_thread_new("net", net_run, net);
    return net;
}

void
fake_net_free(FakeNet *net)
{
    if (!net)
        return;
    g_atomic_int_set(&net->stop, 1);
    g_thread_join(net->thread);
    close(net->listen_fd);
    unlink(net->path);
    g_mutex_clear(&net->lock);
    g_free(net->path);
    g_free(net);
}

void
fake_net_answer(FakeNet *net, FakeNetOp op, FakeNetAnswer answer)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);

    net->answers[op] = answer;
}

unsigned
fake_net_count(FakeNet *net, FakeNetOp op)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);

    return net->counts[op];
}

bool
fake_net_holds(FakeNet *net)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);

    return net->holds;
}

uint64_t
fake_net_committed(FakeNet *net)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);

    return net->committed;
}

unsigned
fake_net_loose_cuts(FakeNet *net)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&net->lock);

    return net->loose_cuts;
}
