/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hostile control clients: the input is a NetState that a RESTORE brings (first byte even), or a
 * series of packed NetRequests, each after a length byte.
 */
#include "common/memfd.h"
#include "netproxy/control.h"

#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
fuzz_request(Control *control, const uint8_t *data, size_t len)
{
    District__NetRequest *request = district__net_request__unpack(NULL, len, data);
    District__NetReply reply;
    int fd;

    if (!request)
        return;
    control_handle(control, 0, request, NULL, 0, &reply, &fd);
    control_reply_clear(&reply);
    if (fd >= 0)
        close(fd);
    switch_flush(control->sw);
    district__net_request__free_unpacked(request, NULL);
}

static void
fuzz_restore(Control *control, const uint8_t *data, size_t len)
{
    if (switch_restore(control->sw, data, len, TRUE, 1, NULL))
        switch_announce(control->sw);
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

    if (!quiet)
        g_log_set_writer_func(fuzz_quiet, NULL, NULL);
    quiet = TRUE;
    g_autoptr(Switch) sw = switch_new(names, 1, NULL, NULL);
    Control control = {.sw = sw, .cutter = -1};
    if (size > 0 && data[0] % 2 == 0)
        fuzz_restore(&control, data + 1, size - 1);
    for (size_t at = 1; size > 0 && data[0] % 2 && at < size;) {
        size_t len = MIN((size_t)data[at], size - at - 1);
        fuzz_request(&control, data + at + 1, len);
        at += 1 + len;
    }
    control_client_gone(&control, 0);
    return 0;
}
