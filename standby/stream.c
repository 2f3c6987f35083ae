/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One connection from a primary, on its own thread. */
#include "standby/stream.h"

#include "ckpt/receive.h"
#include "common/clock.h"
#include "standby/error.h"
#include "standby/intake.h"
#include "standby/outbox.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANDSHAKE_TIMEOUT_MS 5000
#define HELLO_TIMEOUT_MS 5000
#define TURN_TIMEOUT_MS 30000
/* With a heartbeat every 800 ms at least, a primary silent for this long is not coming back. */
#define SILENCE_MAX_MS 10000
/* How long to read on after an ERROR record, so that it is not lost in a TCP reset. */
#define LINGER_MS 1000
/* Payloads are read in pieces, each a sign of life. */
#define PIECE_BYTES (256 * 1024)

struct Stream {
    gatomicrefcount refs;
    StreamConfig config;
    char *host;
    char *peer_name;
    int fd;           /* given to the channel */
    int interrupt_fd; /* a duplicate, for shutdown(2) */
    GThread *thread;

    /* The thread's. */
    TlsChannel *channel;
    Outbox *outbox;
    Intake *intake;
    Receiver *receiver;
    char *outcome;
    bool goodbye;
    bool connected;

    atomic_int state;
    atomic_bool stop;
    atomic_bool ask_heard;
    atomic_bool busy; /* with what has come: nothing is read meanwhile */
    atomic_uint_least64_t incarnation, received, epochs;
    atomic_int_least64_t heard_ns;

    GMutex lock; /* guards turn */
    GCond cond;
    bool turn;
};

/* Allowed moves, by state: bits of the next. */
static const unsigned moves[STREAM_N_STATES] = {
    [STREAM_HANDSHAKE] = 1u << STREAM_WAITING | 1u << STREAM_ENDED,
    [STREAM_WAITING] = 1u << STREAM_RECEIVING | 1u << STREAM_ENDED,
    [STREAM_RECEIVING] = 1u << STREAM_ENDED,
    [STREAM_ENDED] = 0,
};

static void
stream_move(Stream *stream, StreamState next)
{
    StreamState now = stream_state(stream);

    if (!(moves[now] & 1u << next))
        g_critical("stream from %s: no move from state %d to %d", stream->peer_name, now, next);
    atomic_store(&stream->state, (int)next);
}

/* ---- News to the main thread ---- */

typedef struct News {
    Stream *stream;
    StreamNews news;
} News;

static gboolean
deliver_news(gpointer data)
{
    News *news = data;

    news->stream->config.notify(news->stream, news->news, news->stream->config.opaque);
    return G_SOURCE_REMOVE;
}

static void
news_free(gpointer data)
{
    News *news = data;

    stream_unref(news->stream);
    g_free(news);
}

static void
stream_post(Stream *stream, StreamNews what)
{
    News *news = g_new(News, 1);

    g_atomic_ref_count_inc(&stream->refs);
    *news = (News){stream, what};
    g_idle_add_full(G_PRIORITY_HIGH, deliver_news, news, news_free);
}

/* ---- Receiving ---- */

static void
note_heard(Stream *stream, size_t bytes)
{
    atomic_store(&stream->heard_ns, clock_monotonic_ns());
    atomic_fetch_add(&stream->received, bytes);
    if (atomic_exchange(&stream->ask_heard, false))
        stream_post(stream, STREAM_NEWS_HEARD);
}

/* Feed a record to the receiver. That may take long (an epoch to be applied first, a large image to
 * be given back) while the primary's heartbeats wait in the socket: that is no silence of its. */
static gboolean
digest_record(Stream *stream, const uint8_t raw[RECORD_HEADER_BYTES], const uint8_t *payload,
              GError **error)
{
    gboolean good;

    atomic_store(&stream->busy, true);
    good = receiver_record(stream->receiver, raw, payload, error) &&
           intake_good(stream->intake, error);
    note_heard(stream, 0);
    atomic_store(&stream->busy, false);
    return good;
}

/* Receive one record and feed it to the receiver. */
static gboolean
take_record(Stream *stream, GByteArray *payload, int timeout_ms, GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header;

    if (!tls_channel_recv(stream->channel, raw, sizeof raw, timeout_ms, error))
        return FALSE;
    note_heard(stream, sizeof raw);
    if (!record_header_decode(raw, &header, error))
        return FALSE;
    g_byte_array_set_size(payload, header.length);
    for (uint32_t at = 0; at < header.length;) {
        uint32_t piece = MIN(header.length - at, PIECE_BYTES);
        if (!tls_channel_recv(stream->channel, payload->data + at, piece, timeout_ms, error))
            return FALSE;
        note_heard(stream, piece);
        at += piece;
    }
    return digest_record(stream, raw, payload->data, error);
}

/* Receive until the stream ends; the end by BYE is no error. */
static gboolean
receive_epochs(Stream *stream, GByteArray *payload, GError **error)
{
    while (!receiver_over(stream->receiver)) {
        if (atomic_load(&stream->stop) || !take_record(stream, payload, SILENCE_MAX_MS, error))
            return FALSE;
    }
    return TRUE;
}

/* On this thread or, when districtd was away, on the main one. */
static void
acknowledge(uint64_t epoch, gpointer opaque)
{
    Stream *stream = opaque;
    District__StreamAck ack = DISTRICT__STREAM_ACK__INIT;

    ack.committed_epoch = epoch;
    outbox_push(stream->outbox, RECORD_ACK, epoch, &ack.base);
}

/* On the journals' thread. */
static void
on_journaled(uint64_t seq, gpointer opaque)
{
    Stream *stream = opaque;
    District__StreamJournalAck ack = DISTRICT__STREAM_JOURNAL_ACK__INIT;

    ack.seq = seq;
    outbox_push(stream->outbox, RECORD_JOURNAL_ACK, 0, &ack.base);
}

static void
on_committed(uint64_t epoch, gpointer opaque)
{
    Stream *stream = opaque;

    if (atomic_fetch_add(&stream->epochs, 1) == 0)
        stream_post(stream, STREAM_NEWS_COMMITTED_FIRST);
    keeper_acknowledge(stream->config.keeper, epoch, acknowledge, stream);
}

/* ---- Coming up ---- */

/* Any name our CA has signed may shake hands, so that a wrong one can be told why it must go. */
static gboolean
shake_hands(Stream *stream, GError **error)
{
    const char *name;

    stream->channel = tls_channel_server(stream->config.identity, g_steal_fd(&stream->fd), NULL,
                                         HANDSHAKE_TIMEOUT_MS, error);
    if (stream->channel == NULL) {
        g_prefix_error(error, "no mutual TLS with the peer: ");
        return FALSE;
    }
    stream->outbox = outbox_new(stream->channel);
    name = tls_channel_peer_name(stream->channel);
    if (strcmp(name, stream->peer_name) == 0)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED, "host %s is not %s, the home of district %s",
                name, stream->peer_name, keeper_district(stream->config.keeper));
    return FALSE;
}

static gboolean
wait_turn(Stream *stream, GError **error)
{
    gint64 until = g_get_monotonic_time() + TURN_TIMEOUT_MS * 1000;
    gboolean in_time = TRUE;
    bool turn;

    stream_move(stream, STREAM_WAITING);
    stream_post(stream, STREAM_NEWS_WAITING);
    g_mutex_lock(&stream->lock);
    while (in_time && !stream->turn && !atomic_load(&stream->stop))
        in_time = g_cond_wait_until(&stream->cond, &stream->lock, until);
    turn = stream->turn;
    g_mutex_unlock(&stream->lock);
    if (turn && !atomic_load(&stream->stop))
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED, "the standby is not receiving now");
    return FALSE;
}

static void
say_hello(Stream *stream)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    KeeperStatus held = keeper_status(stream->config.keeper);

    hello.version = STREAM_VERSION;
    hello.software = (char *)"district " DISTRICT_VERSION;
    hello.district = (char *)keeper_district(stream->config.keeper);
    hello.host = stream->host;
    hello.incarnation = held.incarnation;
    hello.committed_epoch = held.committed_epoch;
    outbox_push(stream->outbox, RECORD_HELLO, 0, &hello.base);
}

static gboolean
serve(Stream *stream, GError **error)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    if (!shake_hands(stream, error))
        return FALSE;
    stream->intake = intake_new(stream->config.keeper, on_committed, on_journaled, stream);
    stream->receiver = receiver_new(&intake_ops, stream->intake);
    if (!take_record(stream, payload, HELLO_TIMEOUT_MS, error))
        return FALSE;
    atomic_store(&stream->incarnation, intake_incarnation(stream->intake));
    outbox_set_heartbeat(stream->outbox, intake_heartbeat_ms(stream->intake));
    if (!wait_turn(stream, error))
        return FALSE;
    say_hello(stream);
    stream_move(stream, STREAM_RECEIVING);
    stream->connected = true;
    stream_post(stream, STREAM_NEWS_CONNECTED);
    return receive_epochs(stream, payload, error);
}

/* ---- Ending ---- */

/* Tell the peer why, if it can still hear it, and wait until it has. */
static void
say_error(Stream *stream, const GError *why)
{
    District__StreamError error = DISTRICT__STREAM_ERROR__INIT;
    int64_t until = clock_monotonic_ns() + LINGER_MS * NS_PER_MS;
    g_autofree uint8_t *sink = g_malloc(PIECE_BYTES);

    if (stream->outbox == NULL || why->domain == TLS_ERROR)
        return;
    error.code = standby_error_code(why);
    error.text = why->message;
    if (error.code == STANDBY_SUPERSEDED)
        error.incarnation = keeper_newest(stream->config.keeper);
    outbox_push(stream->outbox, RECORD_ERROR, 0, &error.base);
    g_clear_pointer(&stream->outbox, outbox_free);
    while (!atomic_load(&stream->stop) && clock_monotonic_ns() < until) {
        if (tls_channel_recv_some(stream->channel, sink, PIECE_BYTES, LINGER_MS, NULL) < 0)
            return;
    }
}

static gpointer
stream_run(gpointer data)
{
    Stream *stream = data;
    g_autoptr(GError) error = NULL;
    gboolean goodbye = serve(stream, &error);

    keeper_forget(stream->config.keeper, stream);
    if (stream->intake != NULL)
        intake_stop(stream->intake);
    if (goodbye) {
        stream->goodbye = true;
        stream->outcome = g_strdup("the primary ended protection");
    } else if (atomic_load(&stream->stop)) {
        stream->outcome = g_strdup("the connection was replaced or ended here");
    } else {
        stream->outcome = g_strdup(error->message);
        say_error(stream, error);
    }
    stream_move(stream, STREAM_ENDED);
    g_clear_pointer(&stream->outbox, outbox_free);
    g_clear_pointer(&stream->receiver, receiver_free);
    g_clear_pointer(&stream->intake, intake_free);
    g_clear_pointer(&stream->channel, tls_channel_free);
    stream_post(stream, STREAM_NEWS_ENDED);
    return NULL;
}

Stream *
stream_new(const StreamConfig *config, int fd)
{
    Stream *stream = g_new0(Stream, 1);

    g_atomic_ref_count_init(&stream->refs);
    stream->config = *config;
    stream->host = g_strdup(config->host);
    stream->peer_name = g_strdup(config->peer_name);
    stream->fd = fd;
    stream->interrupt_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    g_mutex_init(&stream->lock);
    g_cond_init(&stream->cond);
    atomic_store(&stream->heard_ns, clock_monotonic_ns());
    stream->thread = g_thread_new("receiver", stream_run, stream);
    return stream;
}

void
stream_give_turn(Stream *stream)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&stream->lock);

    stream->turn = true;
    g_cond_broadcast(&stream->cond);
}

void
stream_stop(Stream *stream)
{
    g_mutex_lock(&stream->lock);
    atomic_store(&stream->stop, true);
    g_cond_broadcast(&stream->cond);
    g_mutex_unlock(&stream->lock);
    if (stream->interrupt_fd >= 0)
        shutdown(stream->interrupt_fd, SHUT_RDWR);
    if (stream->thread != NULL)
        g_thread_join(g_steal_pointer(&stream->thread));
}

void
stream_unref(Stream *stream)
{
    if (!g_atomic_ref_count_dec(&stream->refs))
        return;
    if (stream->interrupt_fd >= 0)
        close(stream->interrupt_fd);
    g_mutex_clear(&stream->lock);
    g_cond_clear(&stream->cond);
    g_free(stream->host);
    g_free(stream->peer_name);
    g_free(stream->outcome);
    g_free(stream);
}

/* ---- What is known of it ---- */

void
stream_ask_heard(Stream *stream)
{
    atomic_store(&stream->ask_heard, true);
}

const char *
stream_outcome(const Stream *stream)
{
    return stream->outcome;
}

bool
stream_was_connected(const Stream *stream)
{
    return stream->connected;
}

bool
stream_said_goodbye(const Stream *stream)
{
    return stream->goodbye;
}

const char *
stream_peer(const Stream *stream)
{
    return stream->peer_name;
}

StreamState
stream_state(const Stream *stream)
{
    return (StreamState)atomic_load(&stream->state);
}

uint64_t
stream_incarnation(const Stream *stream)
{
    return atomic_load(&stream->incarnation);
}

uint64_t
stream_received_bytes(const Stream *stream)
{
    return atomic_load(&stream->received);
}

uint64_t
stream_epochs(const Stream *stream)
{
    return atomic_load(&stream->epochs);
}

int64_t
stream_heard_ns(const Stream *stream)
{
    return atomic_load(&stream->busy) ? clock_monotonic_ns() : atomic_load(&stream->heard_ns);
}
