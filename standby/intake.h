/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The intake: carries what a stream's Receiver has verified into the shadow. One per stream. */
#ifndef DISTRICT_STANDBY_INTAKE_H
#define DISTRICT_STANDBY_INTAKE_H

#include "ckpt/receive.h"
#include "standby/keeper.h"

typedef struct Intake Intake;

/* Called on the receive thread when an epoch has committed; the place to acknowledge it. */
typedef void (*IntakeCommitted)(uint64_t epoch, gpointer opaque);

/* Called on the journals' thread when JOURNAL records up to seq are durable; must not block. */
typedef void (*IntakeJournaled)(uint64_t seq, gpointer opaque);

Intake *intake_new(Keeper *keeper, IntakeCommitted committed, IntakeJournaled journaled,
                   gpointer opaque);
/* Nothing more is to come, or to be called. */
void intake_stop(Intake *intake);
/* What is not committed is dropped. */
void intake_free(Intake *intake);

/* The ops for receiver_new; the Intake is their opaque. */
extern const ReceiverOps intake_ops;

/* FALSE with error set: a journal could not be written. */
gboolean intake_good(Intake *intake, GError **error);

/* The stream's incarnation, once HELLO has come. */
uint64_t intake_incarnation(const Intake *intake);
/* How often it wants to hear from us at least, from then on; 0: as ever. */
uint32_t intake_heartbeat_ms(const Intake *intake);

#endif
