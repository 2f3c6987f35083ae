/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What processor the guest sees. See cpuid.c for the model.
 */
#ifndef DISTRICT_VMM_CPUID_H
#define DISTRICT_VMM_CPUID_H

#include "vmm/machine_priv.h"

/* CPUID of vCPU id out of n, from what this host's KVM supports. Owner: the caller (g_free). */
struct kvm_cpuid2 *cpuid_for_vcpu(Machine *m, unsigned id, unsigned n, GError **error);

/*
 * Whether a guest made with wanted can go on here: every feature bit of it is in offered (what
 * cpuid_for_vcpu gives on this host). The error names the first leaf and bits missing.
 */
gboolean cpuid_check(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *offered,
                     GError **error);

/* Apply the model to a table; pure, for tests. */
void cpuid_model_apply(struct kvm_cpuid2 *cpuid, unsigned id, unsigned n, bool tsc_deadline);

#endif
