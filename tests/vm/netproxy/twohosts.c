/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two network namespaces on either side of a district-net. */
#include "twohosts.h"

#include "common/fdmsg.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FRAME_MAX 65550

struct TwoHosts {
    char *program;
    char *dir;
    char *control_path;
    char *port_path;
    char *flows_path;
    int home_ns;
    int ns[2];
    int tap[2];
    GPid pid; /* 0: not running */
    /* the guest's wire */
    pthread_t thread;
    gboolean plugged;
    int wire_fd;
    int stop_pipe[2];
};

static void
two_hosts_enter(int ns)
{
    g_assert_cmpint(setns(ns, CLONE_NEWNET), ==, 0);
}

void
two_hosts_run(TwoHosts *hosts, Host host, const char *command)
{
    g_autoptr(GError) error = NULL;
    int status;

    two_hosts_enter(hosts->ns[host]);
    g_spawn_command_line_sync(command, NULL, NULL, &status, &error);
    two_hosts_enter(hosts->home_ns);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
}

static gboolean
two_hosts_fail(GError **error, const char *what)
{
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "%s: %s", what, g_strerror(errno));
    return FALSE;
}

static gboolean
two_hosts_open_host(TwoHosts *hosts, Host host, GError **error)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI, .ifr_name = "tap0"};

    if (unshare(CLONE_NEWNET) < 0)
        return two_hosts_fail(error, "a network namespace cannot be made (root is needed)");
    hosts->ns[host] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    hosts->tap[host] = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    gboolean good = hosts->ns[host] >= 0 && hosts->tap[host] >= 0 &&
                    ioctl(hosts->tap[host], TUNSETIFF, &ifr) == 0;
    two_hosts_enter(hosts->home_ns);
    if (!good)
        return two_hosts_fail(error, "/dev/net/tun");
    g_autofree char *v4 = g_strdup_printf("ip addr add 10.99.0.%d/24 dev tap0", host + 1);
    g_autofree char *v6 = g_strdup_printf("ip addr add fd99::%d/64 dev tap0 nodad", host + 1);
    two_hosts_run(hosts, host, "ip link set lo up");
    two_hosts_run(hosts, host, v4);
    two_hosts_run(hosts, host, "ip link set tap0 up");
    two_hosts_run(hosts, host, v6);
    return TRUE;
}

TwoHosts *
two_hosts_new(const char *district_net, GError **error)
{
    g_autoptr(TwoHosts) hosts = g_new0(TwoHosts, 1);

    hosts->program = g_strdup(district_net);
    hosts->ns[0] = hosts->ns[1] = hosts->tap[0] = hosts->tap[1] = -1;
    hosts->dir = g_dir_make_tmp("district-net-XXXXXX", error);
    hosts->home_ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (!hosts->dir || hosts->home_ns < 0)
        return NULL;
    hosts->control_path = g_build_filename(hosts->dir, "control", NULL);
    hosts->port_path = g_build_filename(hosts->dir, "guest", NULL);
    hosts->flows_path = g_build_filename(hosts->dir, "flows", NULL);
    for (Host host = HOST_GUEST; host <= HOST_FAR; host++) {
        if (!two_hosts_open_host(hosts, host, error))
            return NULL;
    }
    return g_steal_pointer(&hosts);
}

void
two_hosts_free(TwoHosts *hosts)
{
    two_hosts_unplug(hosts);
    two_hosts_kill_net(hosts);
    for (guint i = 0; i < 2; i++) {
        if (hosts->tap[i] >= 0)
            close(hosts->tap[i]);
        if (hosts->ns[i] >= 0)
            close(hosts->ns[i]);
    }
    close(hosts->home_ns);
    g_unlink(hosts->control_path);
    g_unlink(hosts->port_path);
    g_unlink(hosts->flows_path);
    g_rmdir(hosts->dir);
    g_free(hosts->control_path);
    g_free(hosts->port_path);
    g_free(hosts->flows_path);
    g_free(hosts->program);
    g_free(hosts->dir);
    g_free(hosts);
}

/* --- district-net --- */

static void
two_hosts_keep_tap(gpointer data)
{
    fcntl(*(int *)data, F_SETFD, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* die with the test, however it ends */
}

void
two_hosts_start_net(TwoHosts *hosts, guint64 incarnation)
{
    g_autofree char *port = g_strdup_printf("guest=%s", hosts->port_path);
    g_autofree char *tap = g_strdup_printf("%d", hosts->tap[HOST_FAR]);
    g_autofree char *life = g_strdup_printf("%" G_GUINT64_FORMAT, incarnation);
    char *argv[] = {
        hosts->program, "--name",   "test", "--control", hosts->control_path, "--port",
        port,           "--tap-fd", tap,    "--flows",   hosts->flows_path,   "--incarnation",
        life,           NULL};
    g_autoptr(GError) error = NULL;

    g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_LEAVE_DESCRIPTORS_OPEN,
                  two_hosts_keep_tap, &hosts->tap[HOST_FAR], &hosts->pid, &error);
    g_assert_no_error(error);
}

void
two_hosts_kill_net(TwoHosts *hosts)
{
    if (!hosts->pid)
        return;
    kill(hosts->pid, SIGKILL);
    waitpid(hosts->pid, NULL, 0);
    hosts->pid = 0;
    g_unlink(hosts->control_path);
    g_unlink(hosts->port_path);
}

void
two_hosts_end_net(TwoHosts *hosts)
{
    int status = -1;
    pid_t ended = 0;

    kill(hosts->pid, SIGTERM);
    for (int i = 0; i < 500 && ended == 0; i++) {
        g_usleep(10000);
        ended = waitpid(hosts->pid, &status, WNOHANG);
    }
    g_assert_cmpint(ended, ==, hosts->pid);
    g_assert_cmpint(status, ==, 0);
    hosts->pid = 0;
}

int
two_hosts_control(TwoHosts *hosts)
{
    g_autoptr(GError) error = NULL;
    int fd = fdmsg_connect(hosts->control_path, 5000, &error);

    g_assert_no_error(error);
    return fd;
}

/* --- The guest's wire --- */

static gboolean
wire_read_all(int fd, guint8 *buf, gsize len)
{
    return recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static void *
wire_thread(void *data)
{
    TwoHosts *hosts = data;
    int tap = hosts->tap[HOST_GUEST];
    guint8 *buf = g_malloc(FRAME_MAX + 4);
    struct pollfd fds[] = {{.fd = tap, .events = POLLIN},
                           {.fd = hosts->wire_fd, .events = POLLIN},
                           {.fd = hosts->stop_pipe[0], .events = POLLIN}};

    while (poll(fds, 3, -1) >= 0 && !fds[2].revents) {
        if (fds[0].revents & POLLIN) {
            ssize_t n = read(tap, buf + 4, FRAME_MAX);
            guint32 prefix = GUINT32_TO_BE((guint32)n);
            memcpy(buf, &prefix, 4);
            if (n > 0 && send(hosts->wire_fd, buf, (gsize)n + 4, MSG_NOSIGNAL) < 0)
                break;
        }
        if (fds[1].revents) {
            guint32 prefix;
            if (!wire_read_all(hosts->wire_fd, (guint8 *)&prefix, 4))
                break;
            prefix = GUINT32_FROM_BE(prefix);
            if (prefix > FRAME_MAX || !wire_read_all(hosts->wire_fd, buf, prefix))
                break;
            if (write(tap, buf, prefix) < 0)
                break;
        }
    }
    g_free(buf);
    return NULL;
}

void
two_hosts_plug(TwoHosts *hosts)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    g_assert_false(hosts->plugged);
    g_strlcpy(addr.sun_path, hosts->port_path, sizeof(addr.sun_path));
    hosts->wire_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (guint i = 0; connect(hosts->wire_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0; i++) {
        g_assert_cmpuint(i, <, 500);
        g_usleep(10 * 1000);
    }
    g_assert_cmpint(pipe2(hosts->stop_pipe, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pthread_create(&hosts->thread, NULL, wire_thread, hosts), ==, 0);
    hosts->plugged = TRUE;
}

void
two_hosts_unplug(TwoHosts *hosts)
{
    if (!hosts->plugged)
        return;
    close(hosts->stop_pipe[1]);
    shutdown(hosts->wire_fd, SHUT_RDWR);
    pthread_join(hosts->thread, NULL);
    close(hosts->stop_pipe[0]);
    close(hosts->wire_fd);
    hosts->plugged = FALSE;
}

/* --- TCP --- */

void
two_hosts_address(Host host, int family, guint16 port, struct sockaddr_storage *address)
{
    memset(address, 0, sizeof(*address));
    address->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)address;
        in->sin_addr.s_addr = htonl(0x0a630001 + host);
        in->sin_port = htons(port);
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
        in6->sin6_addr.s6_addr[0] = 0xfd;
        in6->sin6_addr.s6_addr[1] = 0x99;
        in6->sin6_addr.s6_addr[15] = (guint8)(host + 1);
        in6->sin6_port = htons(port);
    }
}

int
two_hosts_socket(TwoHosts *hosts, Host host, int family)
{
    struct timeval limit = {.tv_sec = 5};
    int one = 1;

    two_hosts_enter(hosts->ns[host]);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    two_hosts_enter(hosts->home_ns);
    g_assert_cmpint(fd, >=, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    return fd;
}

void
two_hosts_connect(TwoHosts *hosts, Host host, int family, guint16 port, int *client_fd,
                  int *server_fd)
{
    Host other = host == HOST_GUEST ? HOST_FAR : HOST_GUEST;
    struct sockaddr_storage server, client;
    int listen_fd = two_hosts_socket(hosts, other, family);
    int fd = two_hosts_socket(hosts, host, family);

    two_hosts_address(other, family, port, &server);
    two_hosts_address(host, family, (guint16)(port + 1), &client);
    g_assert_cmpint(bind(listen_fd, (struct sockaddr *)&server, sizeof(server)), ==, 0);
    g_assert_cmpint(listen(listen_fd, 4), ==, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&client, sizeof(client)), ==, 0);
    if (connect(fd, (struct sockaddr *)&server, sizeof(server)) < 0)
        g_error("connect: %s", g_strerror(errno));
    *server_fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(*server_fd, >=, 0);
    struct timeval limit = {.tv_sec = 5};
    setsockopt(*server_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    close(listen_fd);
    *client_fd = fd;
}
