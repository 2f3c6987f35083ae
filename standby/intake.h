/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The intake: carries what a stream's Receiver has verified into the shadow. One per stream. */
#ifndef DISTRICT_STANDBY_INTAKE_H
#define DISTRICT_STANDBY_INTAKE_H

#include "ckpt/receive.h"
#include "standby/keeper.h"

typedef struct Intake Intake;

/* Called on the receive thread when an epoch has committed; the place to acknowledge it. */
typedef void (*IntakeCommitted)(uint64_t epoch, gpointer opaque);

Intake *intake_new(Keeper *keeper, IntakeCommitted committed, gpointer opaque);
/* What is not committed is dropped. */
void intake_free(Intake *intake);

/* The ops for receiver_new; the Intake is their opaque. */
extern const ReceiverOps intake_ops;

/* The stream's incarnation, once HELLO has come. */
uint64_t intake_incarnation(const Intake *intake);

#endif
