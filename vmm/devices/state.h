/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What dump and restore of every device share: packing, and unpacking what may be hostile. */
#ifndef DISTRICT_VMM_DEVICES_STATE_H
#define DISTRICT_VMM_DEVICES_STATE_H

#include <glib.h>
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    DEVICE_ERROR_STATE,  /* saved state is damaged, foreign or impossible */
    DEVICE_ERROR_CONFIG, /* what the operator asked for cannot be had */
    DEVICE_ERROR_SYSTEM, /* a system call failed; the message has strerror */
} DeviceError;

#define DEVICE_ERROR (device_error_quark())
GQuark device_error_quark(void);

/* Append msg, packed, to out. */
void state_append(GByteArray *out, const ProtobufCMessage *msg);

/* Name of a message in msg's tree that has fields this build does not know, or NULL. */
const char *state_unknown_in(const ProtobufCMessage *msg);

/* Unpack what may be hostile, in memory that is bounded by what it should be (pbmsg_budget). NULL if it
 * does not parse or takes more. Free with protobuf_c_message_free_unpacked(msg, NULL). */
ProtobufCMessage *state_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                               size_t len);

/*
 * Unpack the state of a device. A message that does not parse, or has fields this build does not
 * know, is refused; kind names the device in the error. Free with
 * protobuf_c_message_free_unpacked(msg, NULL).
 */
ProtobufCMessage *state_parse(const char *kind, const ProtobufCMessageDescriptor *type,
                              const uint8_t *data, size_t len, GError **error);

/* Set a DEVICE_ERROR_STATE error "kind: saved state refused: ..."; always FALSE. */
gboolean state_refuse(GError **error, const char *kind, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* NOLINTBEGIN(bugprone-macro-parentheses): a type in a declaration takes none. */
/* Typed wrapper: `g_autoptr(Type)` cannot be had from protobuf-c, so devices name theirs here. */
#define STATE_DEFINE_AUTOPTR(Type)                                                                 \
    static inline void Type##_free_unpacked(Type *msg)                                             \
    {                                                                                              \
        protobuf_c_message_free_unpacked((ProtobufCMessage *)msg, NULL);                           \
    }                                                                                              \
    G_DEFINE_AUTOPTR_CLEANUP_FUNC(Type, Type##_free_unpacked)
/* NOLINTEND(bugprone-macro-parentheses) */

#endif
