/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ethernet frames over a stream socket; frame_link.h has the rules for a cut. */
#include "vmm/devices/frame_link.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RECEIVE_BYTES (256 * 1024)
/*
 * Most bytes read at a stop. The switch delivers nothing while a cut is on, so the socket's buffer
 * is all there can be; this is against a peer that does not stop writing.
 */
#define STOP_READ_MAX (8 * 1024 * 1024)
/* Most bytes read per turn of the main loop, so that vCPUs waiting for the lock get it. */
#define TURN_READ_MAX (512 * 1024)

struct FrameLink {
    Machine *machine;
    char *path;
    const FrameLinkOps *ops;
    void *opaque;
    bool started;
    bool outage_logged;
    int fd; /* -1: not connected */
    guint in_source, out_source, retry_source;

    /* Whole frames with headers; [0, sent) has gone into this connection. */
    GByteArray *tx;
    size_t tx_frame; /* start of the first frame that is not sent whole */
    size_t tx_sent;
    bool refused; /* can_send said no since writable was last called */

    size_t rx_len;
    uint8_t rx[RECEIVE_BYTES];
};

static void schedule_retry(FrameLink *link);

/* Sources are removed under the lock but may already wait for it: such a one must do nothing. */
static bool
source_is_stale(void)
{
    return g_source_is_destroyed(g_main_current_source());
}

static void
remove_source(guint *source)
{
    if (*source)
        g_source_remove(*source);
    *source = 0;
}

static uint32_t
frame_length(const uint8_t *header)
{
    return (uint32_t)header[0] << 24 | (uint32_t)header[1] << 16 | (uint32_t)header[2] << 8 |
           header[3];
}

/* ---- Sending ---- */

/* Move tx_frame past the frames that are in the socket whole, and forget those. */
static void
settle_sent(FrameLink *link)
{
    while (link->tx_frame < link->tx->len) {
        size_t end =
            link->tx_frame + FRAME_HEADER_BYTES + frame_length(link->tx->data + link->tx_frame);

        if (end > link->tx_sent)
            break;
        link->tx_frame = end;
    }
    /* Moving bytes down costs; so only when there are few or none, or much would be kept. */
    if (link->tx_frame < link->tx->len && link->tx_frame < FRAME_LINK_PENDING_MAX)
        return;
    g_byte_array_remove_range(link->tx, 0, (guint)link->tx_frame);
    link->tx_sent -= link->tx_frame;
    link->tx_frame = 0;
}

/* Forget an incomplete frame at the end: its rest does not come on the next connection. */
static void
drop_incomplete(FrameLink *link)
{
    size_t at = 0;

    while (link->rx_len - at >= FRAME_HEADER_BYTES) {
        uint32_t len = frame_length(link->rx + at);

        if (len == 0 || len > FRAME_MAX || link->rx_len - at - FRAME_HEADER_BYTES < len)
            break;
        at += FRAME_HEADER_BYTES + len;
    }
    link->rx_len = at;
}

static void
disconnect(FrameLink *link, const char *why)
{
    if (link->fd < 0)
        return;
    drop_incomplete(link);
    g_warning("network link %s: %s; reconnecting", link->path, why);
    remove_source(&link->in_source);
    remove_source(&link->out_source);
    close(link->fd);
    link->fd = -1;
    link->tx_sent = link->tx_frame; /* the next connection gets the frame from its start */
    if (link->started)
        schedule_retry(link);
}

/* True if all is sent. */
static bool
send_some(FrameLink *link)
{
    while (link->fd >= 0 && link->tx_sent < link->tx->len) {
        ssize_t n = send(link->fd, link->tx->data + link->tx_sent, link->tx->len - link->tx_sent,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            link->tx_sent += (size_t)n;
            settle_sent(link);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return false;
        } else if (errno != EINTR) {
            disconnect(link, g_strerror(errno));
        }
    }
    return link->tx->len == 0;
}

static void
tell_writable(FrameLink *link)
{
    if (!link->refused || !frame_link_can_send(link))
        return;
    link->refused = false;
    link->ops->writable(link->opaque);
}

static gboolean
socket_writable(gint fd, GIOCondition condition, gpointer opaque)
{
    FrameLink *link = opaque;
    gboolean go_on = G_SOURCE_REMOVE;

    machine_lock(link->machine);
    if (!source_is_stale()) {
        bool all = send_some(link);

        tell_writable(link);
        /* disconnect may have removed this source, writable may have queued more. */
        if (!all && link->out_source)
            go_on = G_SOURCE_CONTINUE;
        else if (link->out_source)
            link->out_source = 0;
        if (go_on == G_SOURCE_REMOVE)
            frame_link_flush(link);
    }
    machine_unlock(link->machine);
    return go_on;
}

bool
frame_link_can_send(FrameLink *link)
{
    bool room = link->tx->len - link->tx_frame < FRAME_LINK_PENDING_MAX;

    if (!room)
        link->refused = true;
    return room;
}

uint8_t *
frame_link_frame(FrameLink *link, size_t len)
{
    guint start = link->tx->len;
    uint8_t *at;

    g_assert(len > 0 && len <= FRAME_MAX);
    g_byte_array_set_size(link->tx, start + (guint)(FRAME_HEADER_BYTES + len));
    at = link->tx->data + start;
    at[0] = (uint8_t)(len >> 24);
    at[1] = (uint8_t)(len >> 16);
    at[2] = (uint8_t)(len >> 8);
    at[3] = (uint8_t)len;
    return at + FRAME_HEADER_BYTES;
}

void
frame_link_flush(FrameLink *link)
{
    if (!send_some(link) && link->fd >= 0 && link->started && !link->out_source)
        link->out_source = g_unix_fd_add(link->fd, G_IO_OUT, socket_writable, link);
}

/* ---- Receiving ---- */

/* Hand out complete frames while the device takes them. False if the stream makes no sense. */
static bool
deliver_frames(FrameLink *link, bool at_stop)
{
    bool (*takes)(void *opaque) = at_stop ? link->ops->can_keep : link->ops->can_receive;
    size_t at = 0;
    bool sane = true;

    while (link->rx_len - at >= FRAME_HEADER_BYTES) {
        uint32_t len = frame_length(link->rx + at);

        if (len == 0 || len > FRAME_MAX) {
            sane = false;
            break;
        }
        if (link->rx_len - at - FRAME_HEADER_BYTES < len)
            break;
        if (!takes(link->opaque))
            break;
        link->ops->receive(link->opaque, link->rx + at + FRAME_HEADER_BYTES, len);
        at += FRAME_HEADER_BYTES + len;
    }
    memmove(link->rx, link->rx + at, link->rx_len - at);
    link->rx_len -= at;
    if (at > 0)
        link->ops->received(link->opaque);
    return sane;
}

/* Read once. Bytes read; 0 when the socket is empty, closed or there is no room. */
static size_t
receive_some(FrameLink *link)
{
    ssize_t n;

    if (link->fd < 0 || link->rx_len == sizeof link->rx)
        return 0;
    do
        n = recv(link->fd, link->rx + link->rx_len, sizeof link->rx - link->rx_len, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        link->rx_len += (size_t)n;
        return (size_t)n;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
        disconnect(link, n == 0 ? "closed by the switch" : g_strerror(errno));
    }
    return 0;
}

static void
refuse_stream(FrameLink *link)
{
    link->rx_len = 0;
    disconnect(link, "the switch sent a frame of impossible length");
}

static gboolean
socket_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    FrameLink *link = opaque;
    gboolean go_on = G_SOURCE_REMOVE;

    machine_lock(link->machine);
    if (!source_is_stale()) {
        for (size_t turn = 0, n = 1; n > 0 && turn < TURN_READ_MAX; turn += n) {
            n = receive_some(link);
            if (n > 0 && !deliver_frames(link, false))
                refuse_stream(link);
        }
        /* A device that takes no more leaves frames in rx until frame_link_receive_resume. */
        if (link->in_source && link->ops->can_receive(link->opaque))
            go_on = G_SOURCE_CONTINUE;
        else
            link->in_source = 0;
    }
    machine_unlock(link->machine);
    return go_on;
}

void
frame_link_receive_resume(FrameLink *link)
{
    if (!link->started)
        return;
    if (!deliver_frames(link, false))
        refuse_stream(link);
    if (link->fd >= 0 && !link->in_source && link->ops->can_receive(link->opaque))
        link->in_source = g_unix_fd_add(link->fd, G_IO_IN, socket_readable, link);
}

/* ---- Connecting ---- */

static bool
try_connect(FrameLink *link)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return false;
    g_strlcpy(address.sun_path, link->path, sizeof address.sun_path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        if (!link->outage_logged)
            g_message("network link %s: %s; trying again every %d ms", link->path,
                      g_strerror(errno), FRAME_LINK_RETRY_MS);
        link->outage_logged = true;
        close(fd);
        return false;
    }
    link->outage_logged = false;
    link->fd = fd;
    return true;
}

static void
go_online(FrameLink *link)
{
    frame_link_flush(link);
    tell_writable(link);
    frame_link_receive_resume(link);
}

static gboolean
retry_due(gpointer opaque)
{
    FrameLink *link = opaque;
    gboolean go_on = G_SOURCE_REMOVE;

    machine_lock(link->machine);
    if (!source_is_stale()) {
        if (try_connect(link)) {
            link->retry_source = 0;
            go_online(link);
        } else {
            go_on = G_SOURCE_CONTINUE;
        }
    }
    machine_unlock(link->machine);
    return go_on;
}

static void
schedule_retry(FrameLink *link)
{
    if (!link->retry_source)
        link->retry_source = g_timeout_add(FRAME_LINK_RETRY_MS, retry_due, link);
}

/* ---- Life ---- */

FrameLink *
frame_link_new(Machine *m, const char *path, const FrameLinkOps *ops, void *opaque)
{
    FrameLink *link = g_new0(FrameLink, 1);

    link->machine = m;
    link->path = g_strdup(path);
    link->ops = ops;
    link->opaque = opaque;
    link->fd = -1;
    link->tx = g_byte_array_new();
    return link;
}

void
frame_link_free(FrameLink *link)
{
    if (!link)
        return;
    remove_source(&link->in_source);
    remove_source(&link->out_source);
    remove_source(&link->retry_source);
    if (link->fd >= 0)
        close(link->fd);
    g_byte_array_unref(link->tx);
    g_free(link->path);
    g_free(link);
}

/* Hand to the device what it may keep while it is stopped. */
static void
keep_frames(FrameLink *link)
{
    if (!deliver_frames(link, true))
        refuse_stream(link);
}

void
frame_link_stop(FrameLink *link)
{
    size_t total = 0, n;

    link->started = false;
    remove_source(&link->in_source);
    remove_source(&link->out_source);
    remove_source(&link->retry_source);
    send_some(link);
    /* First what the running device did not take: it may fill rx, and then nothing can be read. */
    keep_frames(link);
    do {
        n = receive_some(link);
        total += n;
        keep_frames(link);
    } while (n > 0 && total < STOP_READ_MAX && link->ops->can_keep(link->opaque));
}

void
frame_link_start(FrameLink *link)
{
    link->started = true;
    if (link->fd >= 0 || try_connect(link))
        go_online(link);
    else
        schedule_retry(link);
}

const uint8_t *
frame_link_pending(const FrameLink *link, size_t *len)
{
    *len = link->tx->len - link->tx_frame;
    return link->tx->data + link->tx_frame;
}

bool
frame_link_pending_valid(const uint8_t *data, size_t len)
{
    size_t at = 0;

    if (len > FRAME_LINK_PENDING_MAX + FRAME_HEADER_BYTES + FRAME_MAX)
        return false;
    while (at < len) {
        uint32_t frame;

        if (len - at < FRAME_HEADER_BYTES)
            return false;
        frame = frame_length(data + at);
        at += FRAME_HEADER_BYTES;
        if (frame == 0 || frame > FRAME_MAX || frame > len - at)
            return false;
        at += frame;
    }
    return true;
}

void
frame_link_set_pending(FrameLink *link, const uint8_t *data, size_t len)
{
    g_byte_array_set_size(link->tx, 0);
    g_byte_array_append(link->tx, data, (guint)len);
    link->tx_frame = link->tx_sent = 0;
    link->rx_len = 0;
}

bool
frame_link_connected(const FrameLink *link)
{
    return link->fd >= 0;
}
