/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stream sockets with QEMU framing, and TAP devices. */
#include "netproxy/link.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Room for whole frames of the largest size, and for many small ones in one read. */
#define LINK_INPUT_BYTES (256 * 1024)
#define LINK_TAP_BURST 64
#define LINK_IOV_MAX 64

struct Link {
    LinkKind kind;
    int fd;
    gsize in_len;   /* bytes at the start of in that belong to a frame not complete yet */
    gsize out_done; /* bytes of the queue's first frame that were written already */
    guint8 in[LINK_INPUT_BYTES];
};

Link *
link_new(LinkKind kind, int fd)
{
    Link *link = g_malloc(sizeof(Link));

    link->kind = kind;
    link->fd = fd;
    link->in_len = 0;
    link->out_done = 0;
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    return link;
}

void
link_free(Link *link)
{
    close(link->fd);
    g_free(link);
}

int
link_fd(const Link *link)
{
    return link->fd;
}

static LinkResult
link_lost(GError **error, int code)
{
    g_set_error_literal(error, G_IO_ERROR, g_io_error_from_errno(code), g_strerror(code));
    return LINK_LOST;
}

/* Hand out every whole frame in the input buffer. */
static LinkResult
link_stream_parse(Link *link, LinkFrameFunc func, void *opaque, GError **error)
{
    gsize at = 0;

    while (link->in_len - at >= FRAME_PREFIX_BYTES) {
        guint32 len;
        memcpy(&len, link->in + at, sizeof(len));
        len = GUINT32_FROM_BE(len);
        if (len < FRAME_BYTES_MIN || len > FRAME_BYTES_MAX) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                        "a frame of %u bytes was announced, outside %d to %d", len, FRAME_BYTES_MIN,
                        FRAME_BYTES_MAX);
            return LINK_LOST;
        }
        if (link->in_len - at - FRAME_PREFIX_BYTES < len)
            break;
        func(opaque, link->in + at + FRAME_PREFIX_BYTES, len);
        at += FRAME_PREFIX_BYTES + len;
    }
    link->in_len -= at;
    memmove(link->in, link->in + at, link->in_len);
    return LINK_MORE;
}

static LinkResult
link_stream_read(Link *link, LinkFrameFunc func, void *opaque, GError **error)
{
    ssize_t n;

    do {
        n = recv(link->fd, link->in + link->in_len, sizeof(link->in) - link->in_len, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? LINK_IDLE : link_lost(error, errno);
    if (n == 0) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CLOSED, "closed by the peer");
        return LINK_LOST;
    }
    link->in_len += (gsize)n;
    return link_stream_parse(link, func, opaque, error);
}

static LinkResult
link_tap_read(Link *link, LinkFrameFunc func, void *opaque, GError **error)
{
    for (guint i = 0; i < LINK_TAP_BURST; i++) {
        ssize_t n = read(link->fd, link->in, FRAME_BYTES_MAX);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? LINK_IDLE : link_lost(error, errno);
        if (n == 0)
            return link_lost(error, ENODEV);
        if (n >= FRAME_BYTES_MIN)
            func(opaque, link->in, (gsize)n);
    }
    return LINK_MORE;
}

LinkResult
link_read(Link *link, LinkFrameFunc func, void *opaque, GError **error)
{
    if (link->kind == LINK_TAP)
        return link_tap_read(link, func, opaque, error);
    return link_stream_read(link, func, opaque, error);
}

/* Gather the first frames of queue, leaving out what was written of the first one. */
static gsize
link_gather(const Link *link, const FrameQueue *queue, struct iovec *iov)
{
    gsize n = 0;

    for (GList *l = queue->frames.head; l && n < LINK_IOV_MAX; l = l->next, n++) {
        Frame *frame = l->data;
        gsize skip = n == 0 ? link->out_done : 0;
        iov[n].iov_base = frame->wire + skip;
        iov[n].iov_len = FRAME_PREFIX_BYTES + frame->len - skip;
    }
    return n;
}

/* Account for written bytes: drop the frames they completed from queue. */
static void
link_stream_wrote(Link *link, FrameQueue *queue, gsize written, guint64 *sent)
{
    link->out_done += written;
    for (Frame *frame = frame_queue_peek(queue); frame; frame = frame_queue_peek(queue)) {
        gsize whole = FRAME_PREFIX_BYTES + frame->len;
        if (link->out_done < whole)
            return;
        link->out_done -= whole;
        frame_unref(frame_queue_pop(queue));
        (*sent)++;
    }
}

static LinkResult
link_stream_write(Link *link, FrameQueue *queue, guint64 *sent)
{
    while (frame_queue_peek(queue)) {
        struct iovec iov[LINK_IOV_MAX];
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = link_gather(link, queue, iov)};
        ssize_t n = sendmsg(link->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == ENOBUFS ? LINK_BLOCKED : LINK_LOST;
        link_stream_wrote(link, queue, (gsize)n, sent);
    }
    return LINK_IDLE;
}

static LinkResult
link_tap_write(Link *link, FrameQueue *queue, guint64 *sent, guint64 *failed)
{
    for (Frame *frame = frame_queue_peek(queue); frame; frame = frame_queue_peek(queue)) {
        ssize_t n = write(link->fd, frame_data(frame), frame->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return LINK_BLOCKED;
        if (n < 0)
            (*failed)++; /* EIO: the interface is down; EINVAL: nothing it can carry */
        else
            (*sent)++;
        frame_unref(frame_queue_pop(queue));
    }
    return LINK_IDLE;
}

LinkResult
link_write(Link *link, FrameQueue *queue, guint64 *sent, guint64 *failed)
{
    if (link->kind == LINK_TAP)
        return link_tap_write(link, queue, sent, failed);
    return link_stream_write(link, queue, sent);
}
