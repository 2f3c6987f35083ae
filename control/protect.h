/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of protection that migration shares. They use job's host, pacing and output_commit. */
#ifndef DISTRICT_CONTROL_PROTECT_H
#define DISTRICT_CONTROL_PROTECT_H

#include "control/daemon.h"

/* The peer makes a district-standby ready. */
void protect_step_prepare(Job *job);
/* The wish is written down. */
void protect_step_record(Job *job);
/* district-ckpt starts to stream. */
void protect_step_ckpt(Job *job);

#endif
