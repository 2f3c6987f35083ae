/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stirring: a client that has found the guest idle is told when it is idle no more, and need not look.
 *
 * Theory of operation. Armed while the guest stands still, it fires once, by an eventfd: when a vCPU's
 * thread has used STIR_CPU_NS of CPU since then (common/taskclock.h), when the guest has given something
 * to a device, or when it powers itself off. So what a guest does unseen is less than that work on each
 * vCPU, and nobody outside knows of it.
 *
 * All but stir_now() is for the main thread.
 */
#ifndef DISTRICT_VMM_STIR_H
#define DISTRICT_VMM_STIR_H

#include "vmm/machine_priv.h"

/* Entering the guest and waiting for an interrupt there takes a part of it. */
#define STIR_CPU_NS 100000

/* eventfd: of an earlier life of the process, taken over; -1 makes one. NULL with error set. */
Stir *stir_new(int eventfd, GError **error);

/* Readable from when it has fired until it is read, or armed again. Stays the Stir's. */
int stir_fd(const Stir *stir);

/* Can it tell, with these vCPUs? Not without the right to such clocks. */
bool stir_possible(Stir *stir, const VcpuSet *vcpus);

/* Where it is not possible it fires at once. */
void stir_arm(Stir *stir, const VcpuSet *vcpus);
void stir_disarm(Stir *stir);

/* The guest stirs; from any thread. */
void stir_now(Stir *stir);

#endif
