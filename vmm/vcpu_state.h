/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * State of one vCPU, as in vmstate.proto. A save has two halves. The first, most of it, needs only
 * that all vCPUs are out of the guest, and runs on each one's own thread meanwhile. The second is
 * what an interrupt changes: it waits until devices are at rest and interrupt controllers saved.
 */
#ifndef DISTRICT_VMM_VCPU_STATE_H
#define DISTRICT_VMM_VCPU_STATE_H

#include "vmm/vcpu.h"

#include "vmstate.pb-c.h"

/* Make room for saves, and pack what never changes: after a change of CPUID. */
void vcpu_state_prepare(Vcpu *vcpu);

/* Job, the first half: read the state out of KVM and pack it into vcpu->saved. */
gboolean vcpu_state_save(Vcpu *vcpu, void *unused, GError **error);

/* The second half, on any thread, when the job is done. */
gboolean vcpu_state_save_interrupts(Vcpu *vcpu, GError **error);

/*
 * How many bytes it takes what has been saved as a VmState that has only this vCPU; and these, to
 * out. Serialised messages may be concatenated, as repeated fields append: so each vCPU packs its
 * own, and what never changes stays packed.
 */
size_t vcpu_state_bytes(const Vcpu *vcpu);
void vcpu_state_put(const Vcpu *vcpu, uint8_t *out);

/* Job: load this vCPU's part of a VmState. opaque: District__VmState, checked by vcpu_state_check. */
gboolean vcpu_state_restore(Vcpu *vcpu, void *opaque, GError **error);

/* TSC ticks of a guest at khz in elapsed_ns; exact, for centuries. */
uint64_t vcpu_tsc_ticks(uint64_t elapsed_ns, uint32_t khz);

/* Check everything about state that can be checked before loading it; called on the main thread. */
gboolean vcpu_state_check(const Vcpu *vcpu, const District__VcpuState *state, GError **error);

#endif
