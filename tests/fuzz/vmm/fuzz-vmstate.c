/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A saved state from a hostile file or peer: parsing it and deciding whether it may be loaded. */
#include "vmm/cpuid.h"
#include "vmm/devices/state.h"
#include "vmm/state.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* As much of a machine as the check looks at; no KVM behind it. */
static Machine *
machine_fake(void)
{
    static Machine m;
    static VcpuSet set;
    static Vcpu vcpu;

    if (m.vcpus == NULL) {
        vcpu = (Vcpu){.set = &set, .m = &m, .cpuid = g_malloc0(sizeof(struct kvm_cpuid2))};
        set = (VcpuSet){.m = &m, .n = 1, .vcpu = &vcpu, .xsave_bytes = sizeof(struct kvm_xsave)};
        m = (Machine){.name = (char *)"fuzz", .ram_size = 1 << 20, .vcpus = &set};
        m.devices = g_ptr_array_new();
    }
    return &m;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Machine *m = machine_fake();
    District__VmState *state =
        (District__VmState *)state_unpack(&district__vm_state__descriptor, data, len);

    if (state == NULL)
        return 0;
    /* Reach past the first comparisons. */
    state->version = STATE_VERSION;
    state->ram_size = m->ram_size;
    state->vcpu_count = 1;
    state_check(m, state, NULL);
    if (state->n_vcpus == 1)
        vcpu_state_check(&m->vcpus->vcpu[0], state->vcpus[0], NULL);
    district__vm_state__free_unpacked(state, NULL);
    return 0;
}
