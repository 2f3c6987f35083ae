/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A switch with a test at the other end of every port. */
#include "wire.h"

#include "common/clock.h"
#include "netproxy/packet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void
wire_connect(Wire *wire, guint port, int snd_bytes)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), ==,
                    0);
    if (snd_bytes) {
        g_assert_cmpint(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &snd_bytes, sizeof(int)), ==, 0);
        g_assert_cmpint(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &snd_bytes, sizeof(int)), ==, 0);
    }
    if (wire->fds[port] >= 0)
        close(wire->fds[port]);
    wire->fds[port] = pair[1];
    wire->readers[port]->fd = pair[1];
    wire->readers[port]->len = 0;
    switch_attach(wire->sw, port, LINK_STREAM, pair[0]);
}

Wire *
wire_new(guint n_members, gboolean connect)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g"};
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    Wire *wire = g_new0(Wire, 1);

    for (guint i = 0; i < n_members; i++)
        g_strv_builder_add(builder, names[i]);
    g_auto(GStrv) members = g_strv_builder_end(builder);
    wire->sw = switch_new((const char *const *)members, 1, NULL, NULL);
    wire->n_ports = n_members + 1;
    wire->now_ns = clock_monotonic_ns();
    for (guint i = 0; i < wire->n_ports; i++) {
        wire->fds[i] = -1;
        wire->readers[i] = g_new0(WireReader, 1);
        if (connect)
            wire_connect(wire, i, 0);
    }
    return wire;
}

void
wire_free(Wire *wire)
{
    switch_free(wire->sw);
    for (guint i = 0; i < wire->n_ports; i++) {
        if (wire->fds[i] >= 0)
            close(wire->fds[i]);
        g_free(wire->readers[i]);
    }
    g_free(wire);
}

void
wire_pump(Wire *wire)
{
    for (guint round = 0; round < 8; round++) {
        for (guint i = 0; i < wire->n_ports; i++) {
            switch_readable(wire->sw, i);
            switch_writable(wire->sw, i);
        }
        switch_flush(wire->sw);
    }
}

void
wire_wait(Wire *wire, gint64 ns)
{
    wire->now_ns += ns;
    switch_tick(wire->sw, wire->now_ns);
    switch_flush(wire->sw);
}

static void
wire_mac(guint8 *mac, guint port)
{
    if (port == WIRE_BROADCAST)
        memset(mac, 0xff, MAC_BYTES);
    else
        memcpy(mac, (const guint8[]){0x52, 0x54, 0, 0, 0, (guint8)port}, MAC_BYTES);
}

gsize
wire_make(guint8 *out, guint to, guint from, guint32 number, gsize len)
{
    memset(out, 0, len);
    wire_mac(out, to);
    wire_mac(out + MAC_BYTES, from);
    out[12] = 0x88;
    out[13] = 0xb5; /* for local experiments, IEEE 802 */
    memcpy(out + 14, &number, sizeof(number));
    return len;
}

guint32
wire_number(const guint8 *frame)
{
    guint32 number;

    memcpy(&number, frame + 14, sizeof(number));
    return number;
}

void
wire_send(Wire *wire, guint port, const guint8 *frame, gsize len)
{
    guint32 prefix = GUINT32_TO_BE((guint32)len);
    g_autofree guint8 *out = g_malloc(len + sizeof(prefix));

    memcpy(out, &prefix, sizeof(prefix));
    memcpy(out + sizeof(prefix), frame, len);
    g_assert_cmpint(send(wire->fds[port], out, len + sizeof(prefix), MSG_NOSIGNAL), ==,
                    (gssize)(len + sizeof(prefix)));
}

void
wire_send_number(Wire *wire, guint port, guint to, guint32 number)
{
    guint8 frame[60];

    wire_send(wire, port, frame, wire_make(frame, to, port, number, sizeof(frame)));
}

const guint8 *
wire_receive(Wire *wire, guint port, gsize *len)
{
    static guint8 frame[FRAME_BYTES_MAX];
    WireReader *reader = wire->readers[port];
    ssize_t n = recv(reader->fd, reader->buf + reader->len, sizeof(reader->buf) - reader->len, 0);
    guint32 prefix;

    if (n > 0)
        reader->len += (gsize)n;
    if (reader->len < sizeof(prefix))
        return NULL;
    memcpy(&prefix, reader->buf, sizeof(prefix));
    *len = GUINT32_FROM_BE(prefix);
    g_assert_cmpuint(*len, >=, FRAME_BYTES_MIN);
    g_assert_cmpuint(*len, <=, FRAME_BYTES_MAX);
    if (reader->len < sizeof(prefix) + *len)
        return NULL;
    memcpy(frame, reader->buf + sizeof(prefix), *len);
    reader->len -= sizeof(prefix) + *len;
    memmove(reader->buf, reader->buf + sizeof(prefix) + *len, reader->len);
    return frame;
}

guint32
wire_receive_number(Wire *wire, guint port)
{
    gsize len;
    const guint8 *frame = wire_receive(wire, port, &len);

    return frame ? wire_number(frame) : 0;
}

gsize
wire_make_tcp(guint8 *out, guint to, guint from, guint8 flags, guint32 seq, guint32 ack)
{
    Packet packet = {.src = {.family = 4, .bytes = {10, 0, 0, (guint8)(from + 1)}},
                     .dst = {.family = 4, .bytes = {10, 0, 0, (guint8)(to + 1)}},
                     .src_port = (guint16)(1000 + from),
                     .dst_port = (guint16)(1000 + to),
                     .seq = seq,
                     .ack = ack,
                     .flags = flags,
                     .window = 1000};

    wire_mac(packet.src_mac, from);
    wire_mac(packet.dst_mac, to);
    return packet_make_tcp(&packet, 0, out);
}

guint8 *
wire_cut(Wire *wire, guint64 epoch, gsize *len)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g"};
    g_autoptr(GError) error = NULL;
    guint8 *state = NULL;

    g_assert_true(switch_cut_begin(wire->sw, epoch, &error));
    for (guint i = 0; i + 1 < wire->n_ports; i++) {
        switch_cut_member(wire->sw, epoch, names[i], &error);
        g_assert_no_error(error);
    }
    g_assert_true(switch_cut_end(wire->sw, epoch, &state, len, &error));
    return state;
}

District__NetPortStats
wire_port_stats(Wire *wire, guint port)
{
    District__NetStatsReply stats;

    switch_stats(wire->sw, &stats);
    District__NetPortStats copy = *stats.ports[port];
    switch_stats_clear(&stats);
    return copy;
}
