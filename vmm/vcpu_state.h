/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* State of one vCPU, as in vmstate.proto. All run on the vCPU's own thread while it is parked. */
#ifndef DISTRICT_VMM_VCPU_STATE_H
#define DISTRICT_VMM_VCPU_STATE_H

#include "vmm/vcpu.h"

#include "vmstate.pb-c.h"

/*
 * Job: read the state out of KVM into vcpu->saved, packed as a VmState that has only this vCPU.
 * (Serialised messages may be concatenated: repeated fields append. So each vCPU packs its own.)
 */
gboolean vcpu_state_save(Vcpu *vcpu, void *unused, GError **error);

typedef struct VcpuRestore {
    const District__VmState *state; /* checked by vcpu_state_check */
    uint64_t elapsed_ns;            /* real time since the save */
} VcpuRestore;

/* Job: load this vCPU's part of a VmState. opaque: VcpuRestore. */
gboolean vcpu_state_restore(Vcpu *vcpu, void *opaque, GError **error);

/* TSC ticks of a guest at khz in elapsed_ns; exact, for centuries. */
uint64_t vcpu_tsc_ticks(uint64_t elapsed_ns, uint32_t khz);

/* Check everything about state that can be checked before loading it; called on the main thread. */
gboolean vcpu_state_check(const Vcpu *vcpu, const District__VcpuState *state, GError **error);

#endif
