/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Moving frames between the switch and one descriptor, without ever waiting. */
#ifndef DISTRICT_NETPROXY_LINK_H
#define DISTRICT_NETPROXY_LINK_H

#include "netproxy/frame.h"

typedef enum {
    LINK_STREAM, /* stream socket, QEMU's `-netdev stream` framing */
    LINK_TAP,    /* TAP device opened with IFF_TAP | IFF_NO_PI: one read or write is one frame */
} LinkKind;

typedef enum {
    LINK_IDLE,    /* nothing left to read (EAGAIN), or the whole queue was written */
    LINK_MORE,    /* there may be more to read */
    LINK_BLOCKED, /* frames are left, the descriptor takes no more for now */
    LINK_LOST,    /* closed by the peer, or the peer broke the framing: detach it */
} LinkResult;

typedef struct Link Link;
typedef void (*LinkFrameFunc)(void *opaque, const guint8 *data, gsize len);

/* fd becomes the link's and is made non-blocking. */
Link *link_new(LinkKind kind, int fd);
void link_free(Link *link);
int link_fd(const Link *link);

/*
 * Read once (a stream: up to 256 KiB; a TAP: up to 64 frames) and call func for each whole frame; a
 * partial one is kept until its rest arrives. On LINK_LOST error says why.
 */
LinkResult link_read(Link *link, LinkFrameFunc func, void *opaque, GError **error);

/*
 * Write frames from queue, removing those written whole; *sent counts them, *failed those that the
 * device refused (a TAP that is down). A frame of which only a part could be written stays at the
 * head, and its rest goes out with the next call.
 */
LinkResult link_write(Link *link, FrameQueue *queue, guint64 *sent, guint64 *failed);

#endif
