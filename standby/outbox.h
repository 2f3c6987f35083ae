/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sending half of a stream: a thread that sends records in order, and heartbeats in between. */
#ifndef DISTRICT_STANDBY_OUTBOX_H
#define DISTRICT_STANDBY_OUTBOX_H

#include "ckpt/format.h"
#include "common/tls.h"

#include <protobuf-c/protobuf-c.h>

typedef struct Outbox Outbox;

/* The channel must outlive the outbox. Nothing is sent before the first push. */
Outbox *outbox_new(TlsChannel *channel);

/* When nothing else was sent for so long, a heartbeat is; 0: as at first, 100 ms. Any thread. */
void outbox_set_heartbeat(Outbox *outbox, uint32_t ms);

/* Queue a record with message as payload; never blocks. */
void outbox_push(Outbox *outbox, RecordType type, uint64_t epoch, const ProtobufCMessage *message);

/* Send what is queued, bounded by the send time limit, and end the thread. */
void outbox_free(Outbox *outbox);

#endif
