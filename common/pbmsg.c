/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* protobuf-c messages over fdmsg sockets. */
#include "common/pbmsg.h"

#include <stdlib.h>

gboolean
pbmsg_send(int fd, const ProtobufCMessage *msg, const int *fds, guint n_fds, int timeout_ms,
           GError **error)
{
    size_t len = protobuf_c_message_get_packed_size(msg);

    if (len == 0 || len > FDMSG_BYTES_MAX) {
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG,
                    "%s of %zu bytes is outside the limits", msg->descriptor->short_name, len);
        return FALSE;
    }
    g_autofree uint8_t *buf = g_malloc(len);
    protobuf_c_message_pack(msg, buf);
    return fdmsg_send(fd, buf, len, fds, n_fds, timeout_ms, error);
}

ProtobufCMessage *
pbmsg_recv(int fd, const ProtobufCMessageDescriptor *type, int *fds, guint *n_fds, int timeout_ms,
           GError **error)
{
    g_autofree uint8_t *buf = g_malloc(FDMSG_BYTES_MAX);
    gssize len = fdmsg_recv(fd, buf, FDMSG_BYTES_MAX, fds, n_fds, timeout_ms, error);

    if (len < 0)
        return NULL;
    ProtobufCMessage *msg = protobuf_c_message_unpack(type, NULL, (size_t)len, buf);
    if (!msg) {
        if (fds && n_fds)
            fdmsg_close_fds(fds, *n_fds);
        g_set_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG, "a packet that is no %s arrived",
                    type->short_name);
    }
    return msg;
}

/* ---- Unpacking what strangers have packed ---- */

#define BUDGET_BASE ((size_t)64 * 1024)
#define BUDGET_FACTOR 32
#define BUDGET_EXTRA_MAX ((size_t)16 * 1024 * 1024)

size_t
pbmsg_budget(size_t len)
{
    return len + BUDGET_BASE + MIN(len * BUDGET_FACTOR, BUDGET_EXTRA_MAX);
}

static void *
budget_alloc(void *budget, size_t size)
{
    size_t *left = budget;

    if (size > *left)
        return NULL;
    *left -= size;
    return malloc(size);
}

static void
budget_free(void *budget, void *block)
{
    (void)budget;
    free(block);
}

ProtobufCMessage *
pbmsg_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, size_t budget)
{
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};

    /* The default allocator is malloc and free too, so the message outlives this one. */
    return protobuf_c_message_unpack(type, &allocator, len, data);
}
