/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Are crossing connections of real TCP stacks reset at both ends, at once, without traffic? */
#include "common/clock.h"
#include "common/pbmsg.h"
#include "net.pb-c.h"
#include "twohosts.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RESET_WITHIN_MS 1000
/* What is only waited for. */
#define POLL_LIMIT_NS (10 * NS_PER_S)

static const char *district_net;

/* --- Control --- */

static District__NetReply *
net_call(int control, District__NetRequest *request, const int *fds, guint n_fds, int *reply_fd)
{
    g_autoptr(GError) error = NULL;
    guint n = reply_fd ? 1 : 0;

    request->id = 1;
    pbmsg_send(control, &request->base, fds, n_fds, 2000, &error);
    g_assert_no_error(error);
    ProtobufCMessage *reply = pbmsg_recv(control, &district__net_reply__descriptor, reply_fd,
                                         reply_fd ? &n : NULL, 2000, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(((District__NetReply *)reply)->error, ==, "");
    return (District__NetReply *)reply;
}

static void
net_do(int control, District__NetRequest *request)
{
    district__net_reply__free_unpacked(net_call(control, request, NULL, 0, NULL), NULL);
}

/* A cut of the only member; the state's memfd, its length in *len. */
static int
net_cut(int control, guint64 epoch, guint64 *len)
{
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    District__NetCutBeginRequest begin = DISTRICT__NET_CUT_BEGIN_REQUEST__INIT;
    District__NetCutMemberRequest member = DISTRICT__NET_CUT_MEMBER_REQUEST__INIT;
    District__NetCutEndRequest end = DISTRICT__NET_CUT_END_REQUEST__INIT;
    int fd = -1;

    begin.epoch = member.epoch = end.epoch = epoch;
    member.member = "guest";
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_BEGIN;
    request.cut_begin = &begin;
    net_do(control, &request);
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_MEMBER;
    request.cut_member = &member;
    net_do(control, &request);
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_END;
    request.cut_end = &end;
    District__NetReply *reply = net_call(control, &request, NULL, 0, &fd);
    *len = reply->cut_end->state_len;
    district__net_reply__free_unpacked(reply, NULL);
    return fd;
}

static void
net_restore(int control, int state_fd, guint64 len, gboolean reset)
{
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    District__NetRestoreRequest restore = DISTRICT__NET_RESTORE_REQUEST__INIT;

    restore.state_len = len;
    restore.reset_crossing = reset;
    restore.incarnation = 2;
    request.op_case = DISTRICT__NET_REQUEST__OP_RESTORE;
    request.restore = &restore;
    district__net_reply__free_unpacked(net_call(control, &request, &state_fd, 1, NULL), NULL);
}

static void
net_announce(int control)
{
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    District__NetAnnounceRequest announce = DISTRICT__NET_ANNOUNCE_REQUEST__INIT;

    request.op_case = DISTRICT__NET_REQUEST__OP_ANNOUNCE;
    request.announce = &announce;
    net_do(control, &request);
}

static District__NetStatsReply
net_stats(int control)
{
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    District__NetStatsRequest stats = DISTRICT__NET_STATS_REQUEST__INIT;

    request.op_case = DISTRICT__NET_REQUEST__OP_STATS;
    request.stats = &stats;
    District__NetReply *reply = net_call(control, &request, NULL, 0, NULL);
    District__NetStatsReply numbers = *reply->stats;
    district__net_reply__free_unpacked(reply, NULL);
    numbers.ports = NULL;
    numbers.n_ports = 0;
    return numbers;
}

/* The guest's segment has passed the switch. */
static void
wait_flows(int control, guint64 n)
{
    gint64 until = clock_monotonic_ns() + POLL_LIMIT_NS;

    while (net_stats(control).crossing_flows != n && clock_monotonic_ns() < until)
        g_usleep(2000);
    g_assert_cmpuint(net_stats(control).crossing_flows, ==, n);
}

/* Both ends have answered: one has been seen to be reset before the switch hears of it. */
static void
wait_no_resets(int control)
{
    gint64 until = clock_monotonic_ns() + POLL_LIMIT_NS;

    while (net_stats(control).resets_pending != 0 && clock_monotonic_ns() < until)
        g_usleep(10000);
    g_assert_cmpuint(net_stats(control).resets_pending, ==, 0);
}

/* --- Connections --- */

/* Send bytes from one end and read them at the other. */
static void
transfer(int from, int to, gsize bytes)
{
    static char buf[65536];
    gsize sent = 0, received = 0;

    while (received < bytes) {
        if (sent < bytes) {
            ssize_t n =
                send(from, buf, MIN(sizeof(buf), bytes - sent), MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += n > 0 ? (gsize)n : 0;
        }
        ssize_t n = recv(to, buf, sizeof(buf), sent < bytes ? MSG_DONTWAIT : 0);
        if (n < 0 && errno != EAGAIN)
            g_error("recv: %s", g_strerror(errno));
        received += n > 0 ? (gsize)n : 0;
    }
}

/* The error that ends fd, waited for without sending anything. 0: none in time. */
static int
wait_error(int fd, gint64 until_ns)
{
    gint64 left = until_ns - clock_monotonic_ns();
    struct pollfd pfd = {.fd = fd, .events = POLLIN | POLLRDHUP};
    char c;

    if (poll(&pfd, 1, (int)MAX(left / NS_PER_MS, 0)) <= 0)
        return 0;
    return recv(fd, &c, 1, MSG_DONTWAIT) < 0 ? errno : -1;
}

static void
assert_reset(int fd, gint64 since_ns, const char *which)
{
    int error = wait_error(fd, since_ns + RESET_WITHIN_MS * NS_PER_MS);

    g_test_message("%s: %s after %.1f ms", which, error > 0 ? g_strerror(error) : "no error",
                   (double)(clock_monotonic_ns() - since_ns) / NS_PER_MS);
    g_assert_cmpint(error, ==, ECONNRESET);
}

static TwoHosts *
hosts_start(int *control)
{
    g_autoptr(GError) error = NULL;
    TwoHosts *hosts = two_hosts_new(district_net, &error);

    if (!hosts)
        g_error("this test needs root, network namespaces and /dev/net/tun: %s", error->message);
    two_hosts_start_net(hosts, 1);
    two_hosts_plug(hosts);
    *control = two_hosts_control(hosts);
    return hosts;
}

/* The district goes on from state_fd. Returns when that was. */
static gint64
hosts_go_on(TwoHosts *hosts, int *control, int state_fd, guint64 len, gboolean reset)
{
    close(*control);
    two_hosts_unplug(hosts);
    two_hosts_start_net(hosts, 2);
    *control = two_hosts_control(hosts);
    net_restore(*control, state_fd, len, reset);
    two_hosts_plug(hosts);
    gint64 now = clock_monotonic_ns();
    net_announce(*control);
    close(state_fd);
    return now;
}

/* On another host: its own has died. */
static gint64
hosts_fail_over(TwoHosts *hosts, int *control, int state_fd, guint64 len, gboolean reset)
{
    two_hosts_kill_net(hosts);
    return hosts_go_on(hosts, control, state_fd, len, reset);
}

/* client_host connects, the state is saved, beyond bytes are sent each way, the host dies. */
static void
check_reset(Host client_host, int family, gsize beyond)
{
    int control, client, server;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    guint64 len;

    two_hosts_connect(hosts, client_host, family, 4000, &client, &server);
    transfer(client, server, 1000);
    transfer(server, client, 100000);
    int state_fd = net_cut(control, 1, &len);
    if (beyond) {
        transfer(client, server, beyond);
        transfer(server, client, beyond);
    }
    gint64 since = hosts_fail_over(hosts, &control, state_fd, len, TRUE);
    assert_reset(client, since, "client");
    assert_reset(server, since, "server");
    wait_no_resets(control);
    close(client);
    close(server);

    /* The same pair of addresses is good for a new connection. */
    two_hosts_connect(hosts, client_host, family, 4000, &client, &server);
    transfer(client, server, 100000);
    close(client);
    close(server);
    close(control);
}

static void
test_quiet(void)
{
    check_reset(HOST_FAR, AF_INET, 0);
}

static void
test_beyond_v4(void)
{
    check_reset(HOST_FAR, AF_INET, 20 * 1000 * 1000);
}

static void
test_outbound_v4(void)
{
    check_reset(HOST_GUEST, AF_INET, 3000);
}

static void
test_beyond_v6(void)
{
    check_reset(HOST_FAR, AF_INET6, 20 * 1000 * 1000);
}

static void
test_outbound_v6(void)
{
    check_reset(HOST_GUEST, AF_INET6, 3000);
}

/* The guest is in the middle of connecting to somebody who does not answer. */
static void
test_half_open(void)
{
    int control;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    struct sockaddr_storage nobody;
    guint64 len;

    two_hosts_run(hosts, HOST_GUEST,
                  "ip neigh add 10.99.0.3 lladdr 52:54:00:99:99:99 dev tap0 nud permanent");
    two_hosts_address(HOST_FAR + 1, AF_INET, 80, &nobody);
    int fd = two_hosts_socket(hosts, HOST_GUEST, AF_INET);
    struct timeval now = {.tv_usec = 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &now, sizeof(now));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&nobody, sizeof(nobody)), <, 0);
    g_assert_cmpint(errno, ==, EINPROGRESS);
    wait_flows(control, 1);
    int state_fd = net_cut(control, 1, &len);
    gint64 since = hosts_fail_over(hosts, &control, state_fd, len, TRUE);
    int error = wait_error(fd, since + RESET_WITHIN_MS * NS_PER_MS);
    g_test_message("%s", g_strerror(error));
    g_assert_cmpint(error, ==, ECONNREFUSED);
    close(fd);
    close(control);
}

/* What the checkpoint does not know, the district-net of the life that is undone has left behind. */
static void
test_rollback(void)
{
    int control, client, server;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    guint64 len;
    int state_fd = net_cut(control, 1, &len);

    two_hosts_connect(hosts, HOST_FAR, AF_INET, 4000, &client, &server);
    transfer(client, server, 100000);
    transfer(server, client, 100000);
    two_hosts_end_net(hosts);
    gint64 since = hosts_go_on(hosts, &control, state_fd, len, TRUE);
    assert_reset(client, since, "client");
    assert_reset(server, since, "server");
    wait_no_resets(control);
    close(client);
    close(server);
    close(control);
}

/* A district-net was killed, and its successor heard nothing of the connection before the cut. */
static void
test_unknown(void)
{
    int control, client, server;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    guint64 len;

    two_hosts_connect(hosts, HOST_FAR, AF_INET, 4000, &client, &server);
    transfer(client, server, 1000);
    g_usleep(200 * 1000); /* a late ACK */
    close(control);
    two_hosts_kill_net(hosts);
    two_hosts_unplug(hosts);
    two_hosts_start_net(hosts, 1);
    control = two_hosts_control(hosts);
    two_hosts_plug(hosts);
    int state_fd = net_cut(control, 1, &len);
    wait_flows(control, 0);
    gint64 since = hosts_fail_over(hosts, &control, state_fd, len, TRUE);
    g_assert_cmpint(send(server, "s", 1, MSG_NOSIGNAL), ==, 1);
    g_assert_cmpint(send(client, "c", 1, MSG_NOSIGNAL), ==, 1);
    assert_reset(client, since, "client");
    assert_reset(server, since, "server");
    close(client);
    close(server);
    close(control);
}

/* With output commit nothing was seen outside that is undone: connections go on. */
static void
test_goes_on(void)
{
    int control, client, server;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    guint64 len;

    two_hosts_connect(hosts, HOST_FAR, AF_INET, 4000, &client, &server);
    transfer(client, server, 100000);
    int state_fd = net_cut(control, 1, &len);
    hosts_fail_over(hosts, &control, state_fd, len, FALSE);
    transfer(client, server, 100000);
    transfer(server, client, 100000);
    close(client);
    close(server);
    close(control);
}

/* The guest comes to life a second after the announcement. */
static void
test_late_guest(void)
{
    int control, client, server;
    g_autoptr(TwoHosts) hosts = hosts_start(&control);
    guint64 len;

    two_hosts_connect(hosts, HOST_FAR, AF_INET, 4000, &client, &server);
    int state_fd = net_cut(control, 1, &len);
    transfer(client, server, 100000);
    gint64 since = hosts_fail_over(hosts, &control, state_fd, len, TRUE);
    two_hosts_unplug(hosts);
    assert_reset(client, since, "client");
    g_usleep(1000 * 1000);
    two_hosts_plug(hosts);
    assert_reset(server, clock_monotonic_ns(), "server");
    close(client);
    close(server);
    close(control);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 2) {
        g_printerr("usage: %s DISTRICT-NET\n", argv[0]);
        return 1;
    }
    district_net = argv[1];
    g_test_add_func("/resets/a quiet connection is reset at both ends", test_quiet);
    g_test_add_func("/resets/a connection that went on after the cut, IPv4", test_beyond_v4);
    g_test_add_func("/resets/a connection that went on after the cut, IPv6", test_beyond_v6);
    g_test_add_func("/resets/a connection that the guest made, IPv4", test_outbound_v4);
    g_test_add_func("/resets/a connection that the guest made, IPv6", test_outbound_v6);
    g_test_add_func("/resets/a connection that is only half open", test_half_open);
    g_test_add_func("/resets/a guest that is slow to come back", test_late_guest);
    g_test_add_func("/resets/a connection made since the checkpoint, at a rollback", test_rollback);
    g_test_add_func("/resets/a connection that no table knows, when it speaks", test_unknown);
    g_test_add_func("/resets/connections go on if none is to be reset", test_goes_on);
    return g_test_run();
}
