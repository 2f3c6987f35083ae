/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stream to the standby: a sink's transport over TLS (common/tls.h), and the thread that hears
 * ACK, HEARTBEAT and ERROR from the other side (docs/format.md).
 */
#ifndef DISTRICT_CKPT_STREAM_OUT_H
#define DISTRICT_CKPT_STREAM_OUT_H

#include "ckpt/sink.h"
#include "common/tls.h"

typedef enum {
    STREAM_ERROR_LOST,          /* connection failed or went silent: try again soon */
    STREAM_ERROR_REFUSED_BY_IT, /* VERSION, FULL, REFUSED, DAMAGED: try again later */
    STREAM_ERROR_NEWER_LIVES,   /* SUPERSEDED: the members must stop at once */
} StreamOutError;

#define STREAM_OUT_ERROR (stream_out_error_quark())
GQuark stream_out_error_quark(void);
/* Of a STREAM_ERROR_NEWER_LIVES: the incarnation that lives elsewhere. */
uint64_t stream_out_error_newer(const GError *error);

extern const SinkTransport stream_out_transport;

/*
 * The opaque for stream_out_transport; the sink frees it. identity: a reference is taken over.
 * silence_ms: nothing heard for this long means lost.
 */
gpointer stream_out_new(TlsIdentity *identity, const char *address, uint16_t port,
                        const char *peer_name, const char *district, int silence_ms, Inbox *inbox);

#endif
