/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a vCPU's state into KVM. Saving is in vcpu_state.c.
 *
 * Order: CPUID first, for it decides what the rest may contain; SREGS before LAPIC, because the
 * APIC base selects the APIC's mode; LAPIC before MSRs, because the TSC deadline needs the timer's
 * mode; TSC before TSC_DEADLINE, which is compared with it; VCPU_EVENTS last.
 *
 * Time: a restored guest's TSC goes on from the value saved plus the real time that has passed, at
 * the guest's TSC rate: of the time until it is written, for loading what comes before takes a while.
 * So it agrees with kvmclock, which state.c moves on in the same way, and vCPUs with each other: KVM takes a
 * value that is within a second of another vCPU's for the same. It never goes back. Where KVM does not let us
 * write the TSC (it then is the host's), it is monotonic on this host by itself.
 */
#include "vmm/vcpu_state.h"

#include "common/clock.h"
#include "vmm/cpuid.h"
#include "vmm/state.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_IA32_TSC 0x10
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define STATE_MSRS_MAX 256 /* KVM takes no more in one call */
#define STATE_CPUID_MAX 256
#define XSAVE_BYTES_MIN 576 /* legacy area and header */
/* How far, in parts per million, KVM lets TSC rates differ without scaling. */
#define TSC_TOLERANCE_PPM 250

/* ---- Checking ---- */

static gboolean
refuse(const Vcpu *vcpu, GError **error, const char *what)
{
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "%s: state of vCPU %u: %s",
                vcpu->m->name, vcpu->id, what);
    return FALSE;
}

static struct kvm_cpuid2 *
cpuid_from_state(const District__VcpuState *state)
{
    struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + state->n_cpuid * sizeof(cpuid->entries[0]));

    cpuid->nent = (uint32_t)state->n_cpuid;
    for (size_t i = 0; i < state->n_cpuid; i++) {
        const District__X86Cpuid *from = state->cpuid[i];

        cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = from->function,
            .index = from->index,
            .flags = from->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    return cpuid;
}

static bool
sregs_complete(const District__X86Sregs *s)
{
    return s != NULL && s->cs != NULL && s->ds != NULL && s->es != NULL && s->fs != NULL &&
           s->gs != NULL && s->ss != NULL && s->tr != NULL && s->ldt != NULL && s->gdt != NULL &&
           s->idt != NULL && s->n_pdptrs == (s->pdptrs_valid ? 4 : 0);
}

static gboolean
vcpu_cpuid_check(const Vcpu *vcpu, const District__VcpuState *state, GError **error)
{
    g_autofree struct kvm_cpuid2 *wanted = NULL;

    if (state->n_cpuid == 0 || state->n_cpuid > STATE_CPUID_MAX)
        return refuse(vcpu, error, "it has no usable CPUID");
    wanted = cpuid_from_state(state);
    return cpuid_check(wanted, vcpu->cpuid, error);
}

gboolean
vcpu_state_check(const Vcpu *vcpu, const District__VcpuState *state, GError **error)
{
    if (state->id != vcpu->id)
        return refuse(vcpu, error, "it is another vCPU's");
    if (state->regs == NULL || !sregs_complete(state->sregs) || state->events == NULL)
        return refuse(vcpu, error, "registers are missing");
    if (state->debug == NULL || state->debug->n_db != 4)
        return refuse(vcpu, error, "debug registers are missing");
    if (state->lapic.len != sizeof(((struct kvm_lapic_state *)NULL)->regs))
        return refuse(vcpu, error, "its local APIC page has the wrong size");
    if (state->xsave.len < XSAVE_BYTES_MIN || state->xsave.len > vcpu->set->xsave_bytes)
        return refuse(vcpu, error, "its XSAVE area does not fit this host's processor");
    if (state->n_msr != state->n_msr_value || state->n_msr > STATE_MSRS_MAX)
        return refuse(vcpu, error, "its MSR list is damaged");
    if (state->n_xcr != state->n_xcr_value || state->n_xcr > KVM_MAX_XCRS)
        return refuse(vcpu, error, "its XCR list is damaged");
    return vcpu_cpuid_check(vcpu, state, error);
}

/* ---- Loading ---- */

static gboolean
load_regs(Vcpu *vcpu, const District__X86Regs *r, GError **error)
{
    struct kvm_regs regs = {
        .rax = r->rax,
        .rbx = r->rbx,
        .rcx = r->rcx,
        .rdx = r->rdx,
        .rsi = r->rsi,
        .rdi = r->rdi,
        .rsp = r->rsp,
        .rbp = r->rbp,
        .r8 = r->r8,
        .r9 = r->r9,
        .r10 = r->r10,
        .r11 = r->r11,
        .r12 = r->r12,
        .r13 = r->r13,
        .r14 = r->r14,
        .r15 = r->r15,
        .rip = r->rip,
        .rflags = r->rflags,
    };

    return vcpu_ioctl(vcpu, KVM_SET_REGS, &regs, "load its registers", error);
}

static struct kvm_segment
load_segment(const District__X86Segment *from)
{
    return (struct kvm_segment){
        .base = from->start,
        .limit = from->limit,
        .selector = (uint16_t)from->selector,
        .type = (uint8_t)from->type,
        .present = (uint8_t)from->present,
        .dpl = (uint8_t)from->dpl,
        .db = (uint8_t)from->db,
        .s = (uint8_t)from->s,
        .l = (uint8_t)from->l,
        .g = (uint8_t)from->g,
        .avl = (uint8_t)from->avl,
        .unusable = (uint8_t)from->unusable,
    };
}

static struct kvm_dtable
load_table(const District__X86Table *from)
{
    return (struct kvm_dtable){.base = from->start, .limit = (uint16_t)from->limit};
}

static gboolean
load_sregs_old(Vcpu *vcpu, const struct kvm_sregs2 *s, GError **error)
{
    struct kvm_sregs old = {
        .cs = s->cs,
        .ds = s->ds,
        .es = s->es,
        .fs = s->fs,
        .gs = s->gs,
        .ss = s->ss,
        .tr = s->tr,
        .ldt = s->ldt,
        .gdt = s->gdt,
        .idt = s->idt,
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->efer,
        .apic_base = s->apic_base,
    };

    return vcpu_ioctl(vcpu, KVM_SET_SREGS, &old, "load its system registers", error);
}

static gboolean
load_sregs(Vcpu *vcpu, const District__X86Sregs *from, GError **error)
{
    struct kvm_sregs2 s = {
        .cs = load_segment(from->cs),
        .ds = load_segment(from->ds),
        .es = load_segment(from->es),
        .fs = load_segment(from->fs),
        .gs = load_segment(from->gs),
        .ss = load_segment(from->ss),
        .tr = load_segment(from->tr),
        .ldt = load_segment(from->ldt),
        .gdt = load_table(from->gdt),
        .idt = load_table(from->idt),
        .cr0 = from->cr0,
        .cr2 = from->cr2,
        .cr3 = from->cr3,
        .cr4 = from->cr4,
        .cr8 = from->cr8,
        .efer = from->efer,
        .apic_base = from->apic_base,
    };

    if (!vcpu->set->has_sregs2)
        return load_sregs_old(vcpu, &s, error);
    if (from->pdptrs_valid) {
        s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        for (size_t i = 0; i < G_N_ELEMENTS(s.pdptrs); i++)
            s.pdptrs[i] = from->pdptrs[i];
    }
    return vcpu_ioctl(vcpu, KVM_SET_SREGS2, &s, "load its system registers", error);
}

static gboolean
load_fpu(Vcpu *vcpu, const District__VcpuState *state, GError **error)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = (uint32_t)state->n_xcr};

    for (size_t i = 0; i < state->n_xcr; i++) {
        xcrs.xcrs[i].xcr = state->xcr[i];
        xcrs.xcrs[i].value = state->xcr_value[i];
    }
    if (state->n_xcr > 0 && !vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs, "load its XCRs", error))
        return FALSE;
    memset(vcpu->xsave, 0, vcpu->set->xsave_bytes);
    memcpy(vcpu->xsave, state->xsave.data, state->xsave.len);
    return vcpu_ioctl(vcpu, KVM_SET_XSAVE, vcpu->xsave, "load its XSAVE area", error);
}

static gboolean
load_debug(Vcpu *vcpu, const District__X86Debug *from, GError **error)
{
    struct kvm_debugregs debug = {.dr6 = from->dr6, .dr7 = from->dr7};

    for (size_t i = 0; i < G_N_ELEMENTS(debug.db); i++)
        debug.db[i] = from->db[i];
    return vcpu_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug, "load its debug registers", error);
}

static gboolean
load_lapic(Vcpu *vcpu, const District__VcpuState *state, GError **error)
{
    struct kvm_lapic_state lapic;

    memcpy(lapic.regs, state->lapic.data, sizeof(lapic.regs));
    return vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic, "load its local APIC", error);
}

static gboolean
load_msr(Vcpu *vcpu, uint32_t index, uint64_t value, GError **error)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};

    if (ioctl(vcpu->fd, KVM_SET_MSRS, &one) == 1)
        return TRUE;
    /* Read-only ones are fine if they are as they were. */
    if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1 && one.entry.data == value)
        return TRUE;
    /* One that this kernel does not know, never written by the guest. */
    if (value == 0)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                "%s, vCPU %u: this host's KVM does not take MSR 0x%x; restore on a kernel at least "
                "as new as the one it was saved on",
                vcpu->m->name, vcpu->id, index);
    return FALSE;
}

uint64_t
vcpu_tsc_ticks(uint64_t elapsed_ns, uint32_t khz)
{
    return elapsed_ns / NS_PER_MS * khz + elapsed_ns % NS_PER_MS * khz / NS_PER_MS;
}

/* TSC rate: KVM scales if it can. A small difference is within what the guest measures anyway. */
static void
load_tsc_rate(Vcpu *vcpu, uint32_t wanted)
{
    int here = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    uint64_t difference;

    if (wanted == 0 || here <= 0 || (uint32_t)here == wanted ||
        ioctl(vcpu->fd, KVM_SET_TSC_KHZ, wanted) == 0)
        return;
    difference = (uint64_t)ABS((int64_t)here - (int64_t)wanted);
    if (difference * 1000000 / wanted > TSC_TOLERANCE_PPM)
        g_warning("vCPU %u: guest TSC runs at %d kHz here, %u kHz before, and this host cannot "
                  "scale it: guests should use kvmclock",
                  vcpu->id, here, wanted);
}

static gboolean
load_msrs(Vcpu *vcpu, const District__VmState *vm, GError **error)
{
    const District__VcpuState *state = vm->vcpus[vcpu->id];

    /* Three passes in place of sorting: TSC, all but the deadline, the deadline. */
    for (int pass = 0; pass < 3; pass++) {
        for (size_t i = 0; i < state->n_msr; i++) {
            uint32_t index = state->msr[i];
            uint64_t value = state->msr_value[i];
            int turn = index == MSR_IA32_TSC ? 0 : index == MSR_IA32_TSC_DEADLINE ? 2 : 1;

            if (turn != pass)
                continue;
            if (index == MSR_IA32_TSC)
                value += vcpu_tsc_ticks(clock_state_elapsed(vm->clock), state->tsc_khz);
            if (!load_msr(vcpu, index, value, error))
                return FALSE;
        }
    }
    return TRUE;
}

static gboolean
load_events(Vcpu *vcpu, const District__X86Events *from, GError **error)
{
    /* Of SMM (never offered) only the latched INIT can be there; flags are limited to what is. */
    const uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                           KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_PAYLOAD |
                           KVM_VCPUEVENT_VALID_TRIPLE_FAULT | KVM_VCPUEVENT_VALID_SMM;
    struct kvm_vcpu_events e = {
        .exception = {.injected = (uint8_t)from->exception_injected,
                      .nr = (uint8_t)from->exception_nr,
                      .has_error_code = (uint8_t)from->exception_has_error_code,
                      .pending = (uint8_t)from->exception_pending,
                      .error_code = from->exception_error_code},
        .interrupt = {.injected = (uint8_t)from->interrupt_injected,
                      .nr = (uint8_t)from->interrupt_nr,
                      .soft = (uint8_t)from->interrupt_soft,
                      .shadow = (uint8_t)from->interrupt_shadow},
        .nmi = {.injected = (uint8_t)from->nmi_injected,
                .pending = (uint8_t)from->nmi_pending,
                .masked = (uint8_t)from->nmi_masked},
        .sipi_vector = from->sipi_vector,
        .smi.latched_init = (uint8_t)from->smi_latched_init,
        .triple_fault.pending = (uint8_t)from->triple_fault_pending,
        .exception_has_payload = (uint8_t)from->exception_has_payload,
        .exception_payload = from->exception_payload,
        .flags = from->flags & known,
    };

    return vcpu_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &e, "load its pending events", error);
}

static gboolean
load_cpuid(Vcpu *vcpu, const District__VcpuState *state, GError **error)
{
    g_autofree struct kvm_cpuid2 *cpuid = cpuid_from_state(state);

    return vcpu_cpuid_set(vcpu, cpuid, error);
}

gboolean
vcpu_state_restore(Vcpu *vcpu, void *opaque, GError **error)
{
    const District__VmState *vm = opaque;
    const District__VcpuState *state = vm->vcpus[vcpu->id];
    struct kvm_mp_state mp = {.mp_state = state->mp_state};

    if (!load_cpuid(vcpu, state, error))
        return FALSE;
    load_tsc_rate(vcpu, state->tsc_khz);
    if (!load_sregs(vcpu, state->sregs, error) || !load_regs(vcpu, state->regs, error) ||
        !load_fpu(vcpu, state, error) || !load_debug(vcpu, state->debug, error) ||
        !load_lapic(vcpu, state, error) || !load_msrs(vcpu, vm, error) ||
        !vcpu_ioctl(vcpu, KVM_SET_MP_STATE, &mp, "load its MP state", error) ||
        !load_events(vcpu, state->events, error))
        return FALSE;
    /* Tell the guest's watchdogs that it was stopped. EINVAL: it has no kvmclock. */
    if (ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL)
        g_warning("vCPU %u: KVM_KVMCLOCK_CTRL: %s", vcpu->id, g_strerror(errno));
    return TRUE;
}
