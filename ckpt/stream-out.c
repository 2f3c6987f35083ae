/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stream to the standby: connecting, writing, hearing. */
#include "ckpt/stream-out.h"

#include "ckpt/layout.h"

/* glibc's tcp_info ends before the kernel's. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 3000
#define HANDSHAKE_TIMEOUT_MS 5000
#define GREET_TIMEOUT_MS 5000
/* How long the standby may take to close after BYE. */
#define GOODBYE_TIMEOUT_MS 1500
#define WRITE_PIECE_BYTES ((size_t)64 * 1024)
/* What the standby sends is small. */
#define HEARD_LENGTH_MAX 4096

/* What an error carries beside its text. */
typedef struct StreamOutErrorPrivate {
    uint64_t newer; /* with STREAM_ERROR_NEWER_LIVES: which incarnation that is */
} StreamOutErrorPrivate;

static void
stream_out_error_private_init(StreamOutErrorPrivate *data)
{
}

static void
stream_out_error_private_copy(const StreamOutErrorPrivate *from, StreamOutErrorPrivate *to)
{
    *to = *from;
}

static void
stream_out_error_private_clear(StreamOutErrorPrivate *data)
{
}

G_DEFINE_EXTENDED_ERROR(StreamOutError, stream_out_error)

uint64_t
stream_out_error_newer(const GError *error)
{
    return stream_out_error_get_private(error)->newer;
}

typedef struct StreamOut {
    TlsIdentity *identity;
    char *address;
    uint16_t port;
    char *peer_name;
    char *district;
    int silence_ms;
    Inbox *inbox;

    GMutex lock; /* guards channel while it comes to be, interrupted and ended */
    GCond cond;  /* of ended */
    TlsChannel *channel;
    bool interrupted;
    bool ended; /* the hearing thread is done with the channel */

    uint64_t heard_sequence; /* the greeting, then the hearing thread */
    Sink *sink;              /* set before that thread starts */
    GThread *hearing;
} StreamOut;

gpointer
stream_out_new(TlsIdentity *identity, const char *address, uint16_t port, const char *peer_name,
               const char *district, int silence_ms, Inbox *inbox)
{
    StreamOut *out = g_new0(StreamOut, 1);

    g_mutex_init(&out->lock);
    g_cond_init(&out->cond);
    out->identity = identity;
    out->address = g_strdup(address);
    out->port = port;
    out->peer_name = g_strdup(peer_name);
    out->district = g_strdup(district);
    out->silence_ms = silence_ms;
    out->inbox = inbox;
    return out;
}

/* Make channel known to stream_out_interrupt; FALSE if it came too late for that. */
static gboolean
stream_out_adopt(StreamOut *out, TlsChannel *channel, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&out->lock);

    out->channel = channel;
    if (!out->interrupted)
        return TRUE;
    g_set_error_literal(error, STREAM_OUT_ERROR, STREAM_ERROR_LOST, "interrupted");
    return FALSE;
}

static gboolean
stream_out_open(void *opaque, GError **error)
{
    StreamOut *out = opaque;
    int fd = tls_tcp_connect(out->address, out->port, CONNECT_TIMEOUT_MS, error);

    if (fd < 0)
        return FALSE;
    if (!tls_preamble_send(fd, "stream", out->district, CONNECT_TIMEOUT_MS, error)) {
        close(fd);
        return FALSE;
    }
    TlsChannel *channel =
        tls_channel_client(out->identity, fd, out->peer_name, HANDSHAKE_TIMEOUT_MS, error);
    return channel && stream_out_adopt(out, channel, error);
}

/* Receive one record, in sequence and intact. payload: caller frees with g_free. */
static gboolean
stream_out_hear(StreamOut *out, RecordHeader *header, uint8_t **payload, int timeout_ms,
                GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];

    if (!tls_channel_recv(out->channel, raw, sizeof(raw), timeout_ms, error) ||
        !record_header_decode(raw, header, error))
        return FALSE;
    if (header->length > HEARD_LENGTH_MAX || header->sequence != out->heard_sequence++) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "the standby's record %" G_GUINT64_FORMAT " is too long or out of order",
                    header->sequence);
        return FALSE;
    }
    g_autofree uint8_t *buffer = g_malloc(header->length + 1);
    if (header->length > 0 &&
        !tls_channel_recv(out->channel, buffer, header->length, timeout_ms, error))
        return FALSE;
    if (!record_verify(raw, buffer, error))
        return FALSE;
    *payload = g_steal_pointer(&buffer);
    return TRUE;
}

/* Turn an ERROR record into a GError. */
static void
stream_out_error_record(const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_error__descriptor, payload,
                                              header->length, "ERROR record", error);
    District__StreamError *said = (District__StreamError *)message;

    if (!said)
        return;
    StreamOutError code = said->code == DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_SUPERSEDED
                              ? STREAM_ERROR_NEWER_LIVES
                              : STREAM_ERROR_REFUSED_BY_IT;
    g_autofree char *text = g_strescape(said->text, NULL);
    GError *refusal = g_error_new(STREAM_OUT_ERROR, code, "%.512s", text);
    stream_out_error_get_private(refusal)->newer = said->incarnation;
    g_propagate_error(error, refusal);
    protobuf_c_message_free_unpacked(message, NULL);
}

static gboolean
stream_out_check_hello(StreamOut *out, const District__StreamHello *hello, GError **error)
{
    if (hello->version != STREAM_VERSION) {
        g_set_error(error, STREAM_OUT_ERROR, STREAM_ERROR_REFUSED_BY_IT,
                    "it speaks format version %u, this program version %u: use the same release "
                    "on both hosts",
                    hello->version, STREAM_VERSION);
        return FALSE;
    }
    if (hello->committed_epoch > EPOCH_NUMBER_MAX) {
        g_set_error(error, STREAM_OUT_ERROR, STREAM_ERROR_REFUSED_BY_IT,
                    "the standby says it holds an epoch whose number is not possible");
        return FALSE;
    }
    if (strcmp(hello->district, out->district) != 0) {
        g_set_error(error, STREAM_OUT_ERROR, STREAM_ERROR_REFUSED_BY_IT,
                    "the standby there is of another district");
        return FALSE;
    }
    return TRUE;
}

static gpointer stream_out_hearing_run(gpointer data);

static gboolean
stream_out_greet(void *opaque, Sink *sink, uint64_t *held, GError **error)
{
    StreamOut *out = opaque;
    RecordHeader header;
    g_autofree uint8_t *payload = NULL;

    if (!stream_out_hear(out, &header, &payload, GREET_TIMEOUT_MS, error))
        return FALSE;
    if (header.type == RECORD_ERROR) {
        stream_out_error_record(&header, payload, error);
        return FALSE;
    }
    if (header.type != RECORD_HELLO) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN,
                    "the peer did not begin with HELLO; is it district-standby?");
        return FALSE;
    }
    ProtobufCMessage *message = layout_unpack(&district__stream_hello__descriptor, payload,
                                              header.length, "HELLO record", error);
    if (!message)
        return FALSE;
    gboolean ok = stream_out_check_hello(out, (District__StreamHello *)message, error);
    *held = ((District__StreamHello *)message)->committed_epoch;
    protobuf_c_message_free_unpacked(message, NULL);
    if (ok) {
        out->sink = sink;
        out->hearing = g_thread_new("hearing", stream_out_hearing_run, out);
    }
    return ok;
}

static gboolean
stream_out_ack(StreamOut *out, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_ack__descriptor, payload,
                                              header->length, "ACK record", error);

    if (!message)
        return FALSE;
    InboxMessage post = {.kind = INBOX_SINK_ACK,
                         .sink_id = sink_id(out->sink),
                         .number = ((District__StreamAck *)message)->committed_epoch};
    protobuf_c_message_free_unpacked(message, NULL);
    inbox_post(out->inbox, &post);
    return TRUE;
}

static gboolean
stream_out_journal_ack(StreamOut *out, const RecordHeader *header, const uint8_t *payload,
                       GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_journal_ack__descriptor, payload,
                                              header->length, "JOURNAL_ACK record", error);

    if (!message)
        return FALSE;
    InboxMessage post = {.kind = INBOX_SINK_JOURNAL,
                         .sink_id = sink_id(out->sink),
                         .number = ((District__StreamJournalAck *)message)->seq};
    protobuf_c_message_free_unpacked(message, NULL);
    inbox_post(out->inbox, &post);
    return TRUE;
}

static gboolean
stream_out_hear_one(StreamOut *out, GError **error)
{
    RecordHeader header;
    g_autofree uint8_t *payload = NULL;

    if (!stream_out_hear(out, &header, &payload, out->silence_ms, error))
        return FALSE;
    switch (header.type) {
    case RECORD_HEARTBEAT:
        return TRUE;
    case RECORD_ACK:
        return stream_out_ack(out, &header, payload, error);
    case RECORD_JOURNAL_ACK:
        return stream_out_journal_ack(out, &header, payload, error);
    case RECORD_ERROR:
        stream_out_error_record(&header, payload, error);
        return FALSE;
    default:
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "the standby sent a record of type %u, which is not its to send", header.type);
        return FALSE;
    }
}

static gpointer
stream_out_hearing_run(gpointer data)
{
    StreamOut *out = data;
    GError *error = NULL;

    while (stream_out_hear_one(out, &error))
        ;
    g_mutex_lock(&out->lock);
    out->ended = true;
    g_cond_signal(&out->cond);
    g_mutex_unlock(&out->lock);
    sink_fail(out->sink, error);
    return NULL;
}

static gboolean
stream_out_write(void *opaque, const void *data, size_t len, GError **error)
{
    StreamOut *out = opaque;

    /* A record may be long and the link slow: what is bounded is the wait for progress. */
    for (size_t at = 0; at < len; at += WRITE_PIECE_BYTES) {
        size_t piece = MIN(len - at, WRITE_PIECE_BYTES);
        if (!tls_channel_send(out->channel, (const uint8_t *)data + at, piece, out->silence_ms,
                              error))
            return FALSE;
    }
    return TRUE;
}

/* Linux counts how long a connection had something to send: not so is the time in which the guests had
 * nothing, and it is no matter how much fits the socket's buffer. */
static bool
stream_out_link(void *opaque, uint64_t *bytes, int64_t *busy_ns)
{
    StreamOut *out = opaque;
    struct tcp_info info = {0};
    socklen_t len = sizeof info;

    if (getsockopt(tls_channel_fd(out->channel), IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        len < offsetof(struct tcp_info, tcpi_busy_time) + sizeof info.tcpi_busy_time)
        return false;
    *bytes = info.tcpi_bytes_acked;
    *busy_ns = (int64_t)(info.tcpi_busy_time * 1000);
    return true;
}

/*
 * BYE has been written: go on hearing until the standby closes. To close while it still sends would
 * reset the connection under the records it has not read yet.
 */
static gboolean
stream_out_finish(void *opaque, GError **error)
{
    StreamOut *out = opaque;
    gint64 until = g_get_monotonic_time() + GOODBYE_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&out->lock);

    while (!out->ended && g_cond_wait_until(&out->cond, &out->lock, until))
        ;
    return TRUE;
}

static void
stream_out_interrupt(void *opaque)
{
    StreamOut *out = opaque;
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&out->lock);

    out->interrupted = true;
    if (out->channel)
        tls_channel_interrupt(out->channel);
}

static void
stream_out_free(void *opaque)
{
    StreamOut *out = opaque;

    stream_out_interrupt(out);
    if (out->hearing)
        g_thread_join(out->hearing);
    g_clear_pointer(&out->channel, tls_channel_free);
    tls_identity_unref(out->identity);
    g_mutex_clear(&out->lock);
    g_cond_clear(&out->cond);
    g_free(out->address);
    g_free(out->peer_name);
    g_free(out->district);
    g_free(out);
}

const SinkTransport stream_out_transport = {
    .open = stream_out_open,
    .greet = stream_out_greet,
    .write = stream_out_write,
    .link = stream_out_link,
    .finish = stream_out_finish,
    .interrupt = stream_out_interrupt,
    .free = stream_out_free,
    .is_stream = true,
};
