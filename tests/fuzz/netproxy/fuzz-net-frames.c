/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hostile members and a hostile outside: the input is cut into pieces, each sent to a port of a
 * switch as raw bytes of its stream or as one well-framed frame, with cuts, commits, mode changes
 * and time in between; the state that a cut gives must be loadable.
 */
#include "common/clock.h"
#include "netproxy/switch.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PORTS 3

typedef struct Fuzz {
    Switch *sw;
    int fds[PORTS];
    int64_t now_ns;
    guint64 epoch;
} Fuzz;

static void
fuzz_connect(Fuzz *fuzz, guint port)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        g_error("socketpair failed");
    if (fuzz->fds[port] >= 0)
        close(fuzz->fds[port]);
    fuzz->fds[port] = pair[1];
    switch_attach(fuzz->sw, port, LINK_STREAM, pair[0]);
}

static void
fuzz_pump(Fuzz *fuzz)
{
    guint8 sink[4096];

    for (guint i = 0; i < PORTS; i++) {
        switch_readable(fuzz->sw, i);
        switch_writable(fuzz->sw, i);
    }
    switch_flush(fuzz->sw);
    for (guint i = 0; i < PORTS; i++) {
        while (recv(fuzz->fds[i], sink, sizeof(sink), MSG_DONTWAIT) > 0)
            ;
    }
}

/* The state of a cut is always good enough for a new switch. */
static void
fuzz_reload(const guint8 *state, gsize len)
{
    const char *const names[] = {"a", "b", NULL};
    g_autoptr(Switch) sw = switch_new(names, 1, NULL, NULL);

    if (!switch_restore(sw, state, len, TRUE, 2, NULL))
        g_error("the state of a cut was refused");
    switch_announce(sw);
}

static void
fuzz_cut(Fuzz *fuzz)
{
    g_autofree guint8 *state = NULL;
    gsize len;

    if (switch_cut_begin(fuzz->sw, ++fuzz->epoch, NULL)) {
        switch_cut_member(fuzz->sw, fuzz->epoch, "a", NULL);
        fuzz_pump(fuzz);
        switch_cut_member(fuzz->sw, fuzz->epoch, "b", NULL);
        if (switch_cut_end(fuzz->sw, fuzz->epoch, &state, &len, NULL))
            fuzz_reload(state, len);
    }
}

static void
fuzz_send(Fuzz *fuzz, guint port, const uint8_t *data, size_t len, gboolean framed)
{
    guint32 prefix = GUINT32_TO_BE((guint32)len);

    if (framed)
        send(fuzz->fds[port], &prefix, sizeof(prefix), MSG_NOSIGNAL);
    send(fuzz->fds[port], data, len, MSG_NOSIGNAL);
}

/* One step: a command byte, a length byte, as many bytes. Returns how many were used. */
static size_t
fuzz_step(Fuzz *fuzz, const uint8_t *data, size_t size)
{
    size_t len = MIN((size_t)data[1], size - 2);
    guint port = data[0] % PORTS;

    switch (data[0] / PORTS % 8) {
    case 0:
        fuzz_send(fuzz, port, data + 2, len, FALSE);
        break;
    case 1:
        fuzz_connect(fuzz, port);
        break;
    case 2:
        fuzz_cut(fuzz);
        break;
    case 3:
        switch_commit(fuzz->sw, data[1], NULL);
        break;
    case 4:
        switch_set_mode(fuzz->sw, data[1] & 1, data[1] & 2);
        break;
    case 5:
        switch_tick(fuzz->sw, fuzz->now_ns += data[1] * 100 * NS_PER_MS);
        break;
    default:
        fuzz_send(fuzz, port, data + 2, len, TRUE);
        break;
    }
    fuzz_pump(fuzz);
    return 2 + len;
}

static GLogWriterOutput
fuzz_quiet(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer data)
{
    return G_LOG_WRITER_HANDLED;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *const names[] = {"a", "b", NULL};
    static gboolean quiet;
    Fuzz fuzz = {.fds = {-1, -1, -1}, .now_ns = clock_monotonic_ns()};

    if (!quiet)
        g_log_set_writer_func(fuzz_quiet, NULL, NULL);
    quiet = TRUE;
    fuzz.sw = switch_new(names, 1, NULL, NULL);
    for (guint i = 0; i < PORTS; i++)
        fuzz_connect(&fuzz, i);
    while (size >= 2) {
        size_t used = fuzz_step(&fuzz, data, size);
        data += used;
        size -= used;
    }
    switch_free(fuzz.sw);
    for (guint i = 0; i < PORTS; i++)
        close(fuzz.fds[i]);
    return 0;
}
