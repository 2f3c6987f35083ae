/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection from a primary, on its own thread: TLS handshake, HELLO, then records until the
 * end.
 *
 *   HANDSHAKE -> WAITING -> RECEIVING -> ENDED      (ENDED from any of them)
 *
 * A stream that has shown who it is waits for its turn: the main thread first ends the stream that
 * has it. So two streams never write to the shadow, and nobody but the right peer can end the
 * stream that works.
 */
#ifndef DISTRICT_STANDBY_STREAM_H
#define DISTRICT_STANDBY_STREAM_H

#include "common/tls.h"
#include "standby/keeper.h"

typedef enum {
    STREAM_HANDSHAKE,
    STREAM_WAITING,
    STREAM_RECEIVING,
    STREAM_ENDED,
    STREAM_N_STATES,
} StreamState;

typedef enum {
    STREAM_NEWS_WAITING,   /* wants its turn: stream_give_turn */
    STREAM_NEWS_CONNECTED, /* receives from now on */
    STREAM_NEWS_COMMITTED_FIRST,
    STREAM_NEWS_HEARD, /* something came after stream_ask_heard */
    STREAM_NEWS_ENDED, /* for good: stream_stop to clean up, then stream_outcome */
} StreamNews;

typedef struct Stream Stream;
/* Runs on the main thread. */
typedef void (*StreamNotify)(Stream *stream, StreamNews news, gpointer opaque);

typedef struct StreamConfig {
    TlsIdentity *identity;
    Keeper *keeper;
    const char *host;      /* our name */
    const char *peer_name; /* required of the peer */
    StreamNotify notify;
    gpointer opaque;
} StreamConfig;

/* Start on fd, an accepted TCP connection (ownership passes). What config points to outlives the
 * stream, except the strings, which are copied. */
Stream *stream_new(const StreamConfig *config, int fd);

void stream_give_turn(Stream *stream);
/* End it now and wait for its thread; bounded by the time one record takes. */
void stream_stop(Stream *stream);
void stream_unref(Stream *stream);

/* Notify HEARD at the next sign of life. */
void stream_ask_heard(Stream *stream);

/* After stream_stop: why it ended, never NULL; was it ever RECEIVING; was the end wanted (BYE). */
const char *stream_outcome(const Stream *stream);
bool stream_was_connected(const Stream *stream);
bool stream_said_goodbye(const Stream *stream);

/* At any time. */
const char *stream_peer(const Stream *stream);
StreamState stream_state(const Stream *stream);
uint64_t stream_incarnation(const Stream *stream);
uint64_t stream_received_bytes(const Stream *stream);
uint64_t stream_epochs(const Stream *stream);
int64_t stream_heard_ns(const Stream *stream); /* CLOCK_MONOTONIC of the last sign of life */

#endif
