/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SOCK_SEQPACKET messages with file descriptors. */
#include "common/fdmsg.h"

#include "common/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

G_DEFINE_QUARK(fdmsg - error - quark, fdmsg_error)

static int
fdmsg_fail(GError **error, FdmsgError code, const char *what)
{
    g_set_error(error, FDMSG_ERROR, code, "%s: %s", what, g_strerror(errno));
    return -1;
}

static gboolean
fdmsg_address(const char *path, struct sockaddr_un *addr, GError **error)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr->sun_path)) {
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_SYSTEM,
                    "socket path %s is longer than %zu bytes: use a shorter runtime directory",
                    path, sizeof(addr->sun_path) - 1);
        return FALSE;
    }
    g_strlcpy(addr->sun_path, path, sizeof(addr->sun_path));
    return TRUE;
}

int
fdmsg_listen(const char *path, GError **error)
{
    struct sockaddr_un addr;

    if (!fdmsg_address(path, &addr, error))
        return -1;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fdmsg_fail(error, FDMSG_ERROR_SYSTEM, "socket");
    unlink(path);
    /* The mode set on the socket before bind becomes that of the file: no moment of openness. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, 16) < 0) {
        fdmsg_fail(error, FDMSG_ERROR_SYSTEM, path);
        close(fd);
        return -1;
    }
    return fd;
}

int
fdmsg_accept(int listen_fd, GError **error)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return fdmsg_fail(error, errno == EAGAIN ? FDMSG_ERROR_TIMEOUT : FDMSG_ERROR_SYSTEM,
                          "accept");
    return fd;
}

/* Try once; -1 with errno set. */
static int
fdmsg_connect_once(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

int
fdmsg_connect(const char *path, int timeout_ms, GError **error)
{
    struct sockaddr_un addr;
    int64_t deadline = clock_monotonic_ns() + timeout_ms * NS_PER_MS;

    if (!fdmsg_address(path, &addr, error))
        return -1;
    for (;;) {
        int fd = fdmsg_connect_once(&addr);
        if (fd >= 0)
            return fd;
        if (errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN)
            return fdmsg_fail(error, FDMSG_ERROR_SYSTEM, path);
        if (clock_monotonic_ns() >= deadline)
            return fdmsg_fail(error, FDMSG_ERROR_TIMEOUT, path);
        g_usleep(2000);
    }
}

/* Wait for events until deadline (CLOCK_MONOTONIC, ns; negative: for ever). */
static gboolean
fdmsg_wait(int fd, short events, int64_t deadline, GError **error)
{
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = events};
        int wait_ms = -1;
        if (deadline >= 0) {
            int64_t left = deadline - clock_monotonic_ns();
            wait_ms = left <= 0 ? 0 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
        }
        int n = poll(&pfd, 1, wait_ms);
        if (n > 0)
            return TRUE;
        if (n == 0) {
            g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT, "no answer within the time limit");
            return FALSE;
        }
        if (errno != EINTR) {
            fdmsg_fail(error, FDMSG_ERROR_SYSTEM, "poll");
            return FALSE;
        }
    }
}

static int64_t
fdmsg_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? -1 : clock_monotonic_ns() + timeout_ms * NS_PER_MS;
}

gboolean
fdmsg_send(int fd, const void *data, size_t len, const int *fds, guint n_fds, int timeout_ms,
           GError **error)
{
    if (len == 0 || len > FDMSG_BYTES_MAX || n_fds > FDMSG_FDS_MAX) {
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG,
                    "message of %zu bytes with %u descriptors is outside the limits", len, n_fds);
        return FALSE;
    }

    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * FDMSG_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n_fds > 0) {
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
    }

    int64_t deadline = fdmsg_deadline(timeout_ms);
    for (;;) {
        if (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return TRUE;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            fdmsg_fail(error,
                       errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN
                           ? FDMSG_ERROR_CLOSED
                           : FDMSG_ERROR_SYSTEM,
                       "sendmsg");
            return FALSE;
        }
        if (!fdmsg_wait(fd, POLLOUT, deadline, error))
            return FALSE;
    }
}

/* Move the descriptors of a received message to fds; those beyond cap are closed. */
static guint
fdmsg_take_fds(struct msghdr *msg, int *fds, guint cap)
{
    guint n = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (n < cap)
                fds[n++] = fd;
            else
                close(fd);
        }
    }
    return n;
}

gssize
fdmsg_recv(int fd, void *buf, size_t cap, int *fds, guint *n_fds, int timeout_ms, GError **error)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * FDMSG_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = cap};
    struct msghdr msg;
    ssize_t len;
    int64_t deadline = fdmsg_deadline(timeout_ms);
    guint fds_cap = fds && n_fds ? *n_fds : 0;
    int none[1];

    for (;;) {
        msg = (struct msghdr){.msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = sizeof(control.space)};
        len = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (len >= 0)
            break;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return fdmsg_fail(error, errno == ECONNRESET ? FDMSG_ERROR_CLOSED : FDMSG_ERROR_SYSTEM,
                              "recvmsg");
        if (!fdmsg_wait(fd, POLLIN, deadline, error))
            return -1;
    }

    guint n = fdmsg_take_fds(&msg, fds ? fds : none, fds_cap);
    if (len == 0 || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        if (fds)
            fdmsg_close_fds(fds, n);
        if (len == 0)
            g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED, "the peer closed the connection");
        else
            g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG,
                        "a message of more than %zu bytes arrived", cap);
        return -1;
    }
    if (n_fds)
        *n_fds = n;
    return len;
}

void
fdmsg_close_fds(int *fds, guint count)
{
    for (guint i = 0; i < count; i++) {
        close(fds[i]);
        fds[i] = -1;
    }
}
