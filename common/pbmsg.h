/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* protobuf-c messages over fdmsg sockets. */
#ifndef DISTRICT_COMMON_PBMSG_H
#define DISTRICT_COMMON_PBMSG_H

#include "common/fdmsg.h"

#include <protobuf-c/protobuf-c.h>

/* As fdmsg_send, for a message. */
gboolean pbmsg_send(int fd, const ProtobufCMessage *msg, const int *fds, guint n_fds,
                    int timeout_ms, GError **error);

/*
 * As fdmsg_recv, unpacked as type. Returns the message (free with protobuf_c_message_free_unpacked
 * and a NULL allocator, or the type's own function), or NULL with error set; on a packet that does
 * not parse, received descriptors are closed.
 */
ProtobufCMessage *pbmsg_recv(int fd, const ProtobufCMessageDescriptor *type, int *fds, guint *n_fds,
                             int timeout_ms, GError **error);

/* Unpack, taking budget bytes of memory at most: a few bytes of empty submessages can ask for a lot
 * of it. NULL if it does not parse or takes more. Free with protobuf_c_message_free_unpacked. */
ProtobufCMessage *pbmsg_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                               size_t len, size_t budget);
/* More than a message of len bytes takes that is what it should be: structs and pointers beside the
 * bytes it carries. */
size_t pbmsg_budget(size_t len);

#endif
