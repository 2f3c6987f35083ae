/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SOCK_SEQPACKET messages with file descriptors (unix(7), SCM_RIGHTS). The transport of every local
 * protocol in docs/protocol.md.
 */
#ifndef DISTRICT_COMMON_FDMSG_H
#define DISTRICT_COMMON_FDMSG_H

#include <glib.h>
#include <stddef.h>

/* Most fds in one message. SCM_MAX_FD is 253. */
#define FDMSG_FDS_MAX 250
/* Largest message, bytes. Anything bigger travels in a memfd. */
#define FDMSG_BYTES_MAX (64 * 1024)

typedef enum {
    FDMSG_ERROR_CLOSED,  /* the peer has gone */
    FDMSG_ERROR_TIMEOUT, /* nothing within the time limit */
    FDMSG_ERROR_TOO_BIG, /* message or fd count above the limit: the peer is broken or hostile */
    FDMSG_ERROR_SYSTEM,  /* a system call failed; the message has strerror */
} FdmsgError;

#define FDMSG_ERROR (fdmsg_error_quark())
GQuark fdmsg_error_quark(void);

/*
 * Listen on path (a stale socket file there is replaced; mode 0600), SOCK_CLOEXEC, non-blocking.
 * Returns the fd, or -1 with error set. Owner: the caller closes it.
 */
int fdmsg_listen(const char *path, GError **error);

/* Accept one connection from a listening fd; -1 with FDMSG_ERROR_TIMEOUT if none is waiting. */
int fdmsg_accept(int listen_fd, GError **error);

/* Connect to path, retrying while it does not exist or refuses, for at most timeout_ms. */
int fdmsg_connect(const char *path, int timeout_ms, GError **error);

/*
 * Send one message with n_fds descriptors (they stay the caller's). Waits at most timeout_ms for
 * room. FALSE with error set on failure; then nothing was sent.
 */
gboolean fdmsg_send(int fd, const void *data, size_t len, const int *fds, guint n_fds,
                    int timeout_ms, GError **error);

/*
 * Receive one message into buf (cap bytes; FDMSG_BYTES_MAX is always enough). *n_fds: capacity of
 * fds on entry, count received on return; the caller owns them (close-on-exec). fds may be NULL:
 * descriptors that arrive are then closed. timeout_ms: -1 waits for ever, 0 polls. Returns the
 * length (0 is never a valid message), or -1 with error set.
 */
gssize fdmsg_recv(int fd, void *buf, size_t cap, int *fds, guint *n_fds, int timeout_ms,
                  GError **error);

/* Close count descriptors and set each to -1. */
void fdmsg_close_fds(int *fds, guint count);

#endif
