/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packing and unpacking of device state. */
#include "vmm/devices/state.h"

#include "common/pbmsg.h"

G_DEFINE_QUARK(device - error - quark, device_error)

void
state_append(GByteArray *out, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    guint start = out->len;

    g_byte_array_set_size(out, start + (guint)len);
    protobuf_c_message_pack(msg, out->data + start);
}

/* Depth is bounded by the schema: our messages do not nest recursively. */
const char *
state_unknown_in(const ProtobufCMessage *msg)
{
    const ProtobufCMessageDescriptor *type = msg->descriptor;

    if (msg->n_unknown_fields > 0)
        return type->short_name;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const uint8_t *at = (const uint8_t *)msg + field->offset;
        ProtobufCMessage *const *list = (ProtobufCMessage *const *)at;
        size_t n = 1;

        if (field->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            n = *(const size_t *)((const uint8_t *)msg + field->quantifier_offset);
            list = *(ProtobufCMessage *const *const *)at;
        }
        for (size_t j = 0; j < n; j++) {
            const char *found = list[j] == NULL ? NULL : state_unknown_in(list[j]);

            if (found != NULL)
                return found;
        }
    }
    return NULL;
}

ProtobufCMessage *
state_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len)
{
    return pbmsg_unpack(type, data, len, pbmsg_budget(len));
}

ProtobufCMessage *
state_parse(const char *kind, const ProtobufCMessageDescriptor *type, const uint8_t *data,
            size_t len, GError **error)
{
    ProtobufCMessage *msg = state_unpack(type, data, len);

    if (!msg) {
        state_refuse(error, kind, "%zu bytes are not a %s", len, type->name);
        return NULL;
    }
    if (state_unknown_in(msg) != NULL) {
        protobuf_c_message_free_unpacked(msg, NULL);
        state_refuse(error, kind,
                     "it has fields that this version does not know; load it with the version "
                     "that saved it");
        return NULL;
    }
    return msg;
}

gboolean
state_refuse(GError **error, const char *kind, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_STATE, "%s: saved state refused: %s", kind, text);
    return FALSE;
}
