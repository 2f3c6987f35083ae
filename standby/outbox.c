/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sending half of a stream. */
#include "standby/outbox.h"

/* A peer that takes nothing for this long is gone. */
#define SEND_TIMEOUT_MS 5000
#define HEARTBEAT_MS 100
#define HEARTBEAT_MAX_MS 1000

typedef struct OutRecord {
    bool last; /* end the thread */
    RecordType type;
    uint64_t epoch;
    GByteArray *payload; /* NULL: empty */
} OutRecord;

struct Outbox {
    TlsChannel *channel;
    GAsyncQueue *queue; /* of OutRecord */
    GThread *thread;
    gint heartbeat_ms;
    uint64_t sequence; /* the thread's */
};

static void
out_record_free(gpointer data)
{
    OutRecord *record = data;

    if (record->payload != NULL)
        g_byte_array_unref(record->payload);
    g_free(record);
}

static gboolean
send_record(Outbox *outbox, const OutRecord *record)
{
    const void *payload = record->payload != NULL ? record->payload->data : NULL;
    uint32_t length = record->payload != NULL ? record->payload->len : 0;
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    g_byte_array_set_size(out, RECORD_HEADER_BYTES);
    record_header_encode(out->data, record->type, outbox->sequence++, record->epoch, payload,
                         length);
    if (length > 0)
        g_byte_array_append(out, payload, length);
    if (tls_channel_send(outbox->channel, out->data, out->len, SEND_TIMEOUT_MS, &error))
        return TRUE;
    g_debug("cannot send to the primary: %s", error->message);
    /* Wakes the receiving thread, which then ends the stream. */
    tls_channel_interrupt(outbox->channel);
    return FALSE;
}

static gpointer
outbox_run(gpointer data)
{
    static const OutRecord heartbeat = {.type = RECORD_HEARTBEAT};
    Outbox *outbox = data;
    gboolean good = TRUE;

    for (;;) {
        OutRecord *record = g_async_queue_timeout_pop(
            outbox->queue, (guint64)g_atomic_int_get(&outbox->heartbeat_ms) * 1000);
        bool last = record != NULL && record->last;

        if (good && record != NULL && !last)
            good = send_record(outbox, record);
        else if (good && record == NULL && outbox->sequence > 0)
            good = send_record(outbox, &heartbeat);
        g_clear_pointer(&record, out_record_free);
        if (last)
            return NULL;
    }
}

Outbox *
outbox_new(TlsChannel *channel)
{
    Outbox *outbox = g_new0(Outbox, 1);

    outbox->channel = channel;
    outbox->heartbeat_ms = HEARTBEAT_MS;
    outbox->queue = g_async_queue_new_full(out_record_free);
    outbox->thread = g_thread_new("sender", outbox_run, outbox);
    return outbox;
}

void
outbox_set_heartbeat(Outbox *outbox, uint32_t ms)
{
    g_atomic_int_set(&outbox->heartbeat_ms,
                     ms == 0 ? HEARTBEAT_MS : (gint)CLAMP(ms, HEARTBEAT_MS, HEARTBEAT_MAX_MS));
}

void
outbox_push(Outbox *outbox, RecordType type, uint64_t epoch, const ProtobufCMessage *message)
{
    OutRecord *record = g_new0(OutRecord, 1);

    record->type = type;
    record->epoch = epoch;
    record->payload = g_byte_array_new();
    g_byte_array_set_size(record->payload, (guint)protobuf_c_message_get_packed_size(message));
    protobuf_c_message_pack(message, record->payload->data);
    g_async_queue_push(outbox->queue, record);
}

void
outbox_free(Outbox *outbox)
{
    OutRecord *last;

    if (outbox == NULL)
        return;
    last = g_new0(OutRecord, 1);
    last->last = true;
    g_async_queue_push(outbox->queue, last);
    g_thread_join(outbox->thread);
    g_async_queue_unref(outbox->queue);
    g_free(outbox);
}
