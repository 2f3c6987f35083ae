/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a vCPU's state out of KVM. The other direction is in vcpu_restore.c.
 *
 * Order: MP_STATE first, because reading it makes KVM act on a pending INIT or SIPI (no vCPU is in
 * the guest any more that could send another), and VCPU_EVENTS last, because all that comes before
 * may still move events. The deadline of the local APIC's timer is an MSR and read before the local
 * APIC: should it pass in between, it is restored as one that has passed, and fires at once.
 *
 * A save happens in each pause: nothing is allocated for it. What it fills in is kept with the vCPU,
 * and what never changes (CPUID) is packed only once.
 */
#include "vmm/vcpu_state.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* Field VmState.vcpus on the wire: its tag, and the most that the length behind it takes
 * (protobuf, "Message Structure"). */
#define VCPUS_TAG (10 << 3 | 2)
#define LENGTH_BYTES_MAX 5

/* Room for the messages that point at each other, filled in one go. */
typedef struct VcpuFrame {
    District__VcpuState vcpu;
    District__X86Regs regs;
    District__X86Sregs sregs;
    District__X86Segment segments[8];
    District__X86Table gdt, idt;
    uint64_t pdptrs[4];
    District__X86Debug debug;
    uint64_t db[4];
    District__X86Events events;
    struct kvm_lapic_state lapic;
    uint32_t xcr[KVM_MAX_XCRS];
    uint64_t xcr_value[KVM_MAX_XCRS];
    uint64_t *msr_value; /* as many as vcpu->msrs has */
} VcpuFrame;

static gboolean
save_regs(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    struct kvm_regs r = {0};

    if (!vcpu_ioctl(vcpu, KVM_GET_REGS, &r, "read its registers", error))
        return FALSE;
    f->regs = (District__X86Regs){
        .base = PROTOBUF_C_MESSAGE_INIT(&district__x86_regs__descriptor),
        .rax = r.rax,
        .rbx = r.rbx,
        .rcx = r.rcx,
        .rdx = r.rdx,
        .rsi = r.rsi,
        .rdi = r.rdi,
        .rsp = r.rsp,
        .rbp = r.rbp,
        .r8 = r.r8,
        .r9 = r.r9,
        .r10 = r.r10,
        .r11 = r.r11,
        .r12 = r.r12,
        .r13 = r.r13,
        .r14 = r.r14,
        .r15 = r.r15,
        .rip = r.rip,
        .rflags = r.rflags,
    };
    f->vcpu.regs = &f->regs;
    return TRUE;
}

static District__X86Segment *
save_segment(District__X86Segment *to, const struct kvm_segment *from)
{
    *to = (District__X86Segment){
        .base = PROTOBUF_C_MESSAGE_INIT(&district__x86_segment__descriptor),
        .start = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .type = from->type,
        .present = from->present,
        .dpl = from->dpl,
        .db = from->db,
        .s = from->s,
        .l = from->l,
        .g = from->g,
        .avl = from->avl,
        .unusable = from->unusable,
    };
    return to;
}

static District__X86Table *
save_table(District__X86Table *to, const struct kvm_dtable *from)
{
    district__x86_table__init(to);
    to->start = from->base;
    to->limit = from->limit;
    return to;
}

static void
save_sregs_fields(VcpuFrame *f, const struct kvm_sregs2 *s)
{
    District__X86Sregs *to = &f->sregs;

    district__x86_sregs__init(to);
    to->cs = save_segment(&f->segments[0], &s->cs);
    to->ds = save_segment(&f->segments[1], &s->ds);
    to->es = save_segment(&f->segments[2], &s->es);
    to->fs = save_segment(&f->segments[3], &s->fs);
    to->gs = save_segment(&f->segments[4], &s->gs);
    to->ss = save_segment(&f->segments[5], &s->ss);
    to->tr = save_segment(&f->segments[6], &s->tr);
    to->ldt = save_segment(&f->segments[7], &s->ldt);
    to->gdt = save_table(&f->gdt, &s->gdt);
    to->idt = save_table(&f->idt, &s->idt);
    to->cr0 = s->cr0;
    to->cr2 = s->cr2;
    to->cr3 = s->cr3;
    to->cr4 = s->cr4;
    to->cr8 = s->cr8;
    to->efer = s->efer;
    to->apic_base = s->apic_base;
    if (s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
        to->pdptrs_valid = TRUE;
        for (size_t i = 0; i < G_N_ELEMENTS(f->pdptrs); i++)
            f->pdptrs[i] = s->pdptrs[i];
        to->pdptrs = f->pdptrs;
        to->n_pdptrs = G_N_ELEMENTS(f->pdptrs);
    }
    f->vcpu.sregs = to;
}

static gboolean
save_sregs(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    struct kvm_sregs2 s2 = {0};
    struct kvm_sregs s = {0};

    if (vcpu->set->has_sregs2) {
        if (!vcpu_ioctl(vcpu, KVM_GET_SREGS2, &s2, "read its system registers", error))
            return FALSE;
    } else {
        if (!vcpu_ioctl(vcpu, KVM_GET_SREGS, &s, "read its system registers", error))
            return FALSE;
        /* The interrupt bitmap of the old struct says again what VCPU_EVENTS has. */
        s2 = (struct kvm_sregs2){
            .cs = s.cs,
            .ds = s.ds,
            .es = s.es,
            .fs = s.fs,
            .gs = s.gs,
            .ss = s.ss,
            .tr = s.tr,
            .ldt = s.ldt,
            .gdt = s.gdt,
            .idt = s.idt,
            .cr0 = s.cr0,
            .cr2 = s.cr2,
            .cr3 = s.cr3,
            .cr4 = s.cr4,
            .cr8 = s.cr8,
            .efer = s.efer,
            .apic_base = s.apic_base,
        };
    }
    save_sregs_fields(f, &s2);
    return TRUE;
}

static gboolean
save_xsave(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    bool large = vcpu->set->xsave_bytes > sizeof(struct kvm_xsave);

    if (!vcpu_ioctl(vcpu, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, vcpu->xsave,
                    "read its XSAVE area", error))
        return FALSE;
    f->vcpu.xsave.data = (uint8_t *)vcpu->xsave;
    f->vcpu.xsave.len = vcpu->set->xsave_bytes;
    return TRUE;
}

static gboolean
save_xcrs(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    struct kvm_xcrs xcrs = {0};

    /* A processor without XSAVE has none: KVM says so with EINVAL. */
    if (!vcpu->set->has_xcrs)
        return TRUE;
    if (ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs) < 0) {
        if (errno == EINVAL)
            return TRUE;
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                    "%s, vCPU %u: cannot read its XCRs: %s", vcpu->m->name, vcpu->id,
                    g_strerror(errno));
        return FALSE;
    }
    if (xcrs.nr_xcrs > KVM_MAX_XCRS) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s, vCPU %u: %u XCRs", vcpu->m->name,
                    vcpu->id, xcrs.nr_xcrs);
        return FALSE;
    }
    for (uint32_t i = 0; i < xcrs.nr_xcrs; i++) {
        f->xcr[i] = xcrs.xcrs[i].xcr;
        f->xcr_value[i] = xcrs.xcrs[i].value;
    }
    f->vcpu.n_xcr = f->vcpu.n_xcr_value = xcrs.nr_xcrs;
    f->vcpu.xcr = f->xcr;
    f->vcpu.xcr_value = f->xcr_value;
    return TRUE;
}

static gboolean
save_debug(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    struct kvm_debugregs debug = {0};

    if (!vcpu_ioctl(vcpu, KVM_GET_DEBUGREGS, &debug, "read its debug registers", error))
        return FALSE;
    district__x86_debug__init(&f->debug);
    for (size_t i = 0; i < G_N_ELEMENTS(f->db); i++)
        f->db[i] = debug.db[i];
    f->debug.db = f->db;
    f->debug.n_db = G_N_ELEMENTS(f->db);
    f->debug.dr6 = debug.dr6;
    f->debug.dr7 = debug.dr7;
    f->vcpu.debug = &f->debug;
    return TRUE;
}

static gboolean
save_msrs(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    const struct kvm_msrs *msrs = vcpu->msrs;
    int got = ioctl(vcpu->fd, KVM_GET_MSRS, msrs);

    if (got != (int)msrs->nmsrs) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s, vCPU %u: cannot read MSR 0x%x",
                    vcpu->m->name, vcpu->id,
                    msrs->entries[CLAMP(got, 0, (int)msrs->nmsrs - 1)].index);
        return FALSE;
    }
    for (uint32_t i = 0; i < msrs->nmsrs; i++)
        f->msr_value[i] = msrs->entries[i].data;
    f->vcpu.msr_value = f->msr_value;
    f->vcpu.n_msr_value = msrs->nmsrs;
    return TRUE;
}

static gboolean
save_lapic(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    if (!vcpu_ioctl(vcpu, KVM_GET_LAPIC, &f->lapic, "read its local APIC", error))
        return FALSE;
    f->vcpu.lapic.data = (uint8_t *)f->lapic.regs;
    f->vcpu.lapic.len = sizeof(f->lapic.regs);
    return TRUE;
}

static gboolean
save_events(Vcpu *vcpu, VcpuFrame *f, GError **error)
{
    struct kvm_vcpu_events e = {0};

    if (!vcpu_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &e, "read its pending events", error))
        return FALSE;
    f->events = (District__X86Events){
        .base = PROTOBUF_C_MESSAGE_INIT(&district__x86_events__descriptor),
        .exception_injected = e.exception.injected,
        .exception_nr = e.exception.nr,
        .exception_has_error_code = e.exception.has_error_code,
        .exception_pending = e.exception.pending,
        .exception_error_code = e.exception.error_code,
        .exception_has_payload = e.exception_has_payload,
        .exception_payload = e.exception_payload,
        .interrupt_injected = e.interrupt.injected,
        .interrupt_nr = e.interrupt.nr,
        .interrupt_soft = e.interrupt.soft,
        .interrupt_shadow = e.interrupt.shadow,
        .nmi_injected = e.nmi.injected,
        .nmi_pending = e.nmi.pending,
        .nmi_masked = e.nmi.masked,
        .sipi_vector = e.sipi_vector,
        .smi_latched_init = e.smi.latched_init,
        .triple_fault_pending = e.triple_fault.pending,
        .flags = e.flags,
    };
    f->vcpu.events = &f->events;
    return TRUE;
}

/* ---- What never changes ---- */

static District__X86Cpuid **
constant_cpuid(const struct kvm_cpuid2 *cpuid)
{
    District__X86Cpuid *entries = g_new(District__X86Cpuid, cpuid->nent);
    District__X86Cpuid **list = g_new(District__X86Cpuid *, cpuid->nent);

    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *from = &cpuid->entries[i];

        entries[i] = (District__X86Cpuid){
            .base = PROTOBUF_C_MESSAGE_INIT(&district__x86_cpuid__descriptor),
            .function = from->function,
            .index = from->index,
            .indexed = (from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
        list[i] = &entries[i];
    }
    return list;
}

static void
pack_append(const District__VcpuState *state, GByteArray *out)
{
    guint at = out->len;

    g_byte_array_set_size(out, at + (guint)district__vcpu_state__get_packed_size(state));
    district__vcpu_state__pack(state, out->data + at);
}

void
vcpu_state_prepare(Vcpu *vcpu)
{
    District__VcpuState constant = DISTRICT__VCPU_STATE__INIT;
    g_autofree uint32_t *msrs = g_new(uint32_t, vcpu->msrs->nmsrs);

    if (vcpu->frame == NULL)
        vcpu->frame = g_new0(VcpuFrame, 1);
    g_free(vcpu->frame->msr_value);
    vcpu->frame->msr_value = g_new0(uint64_t, vcpu->msrs->nmsrs);
    for (uint32_t i = 0; i < vcpu->msrs->nmsrs; i++)
        msrs[i] = vcpu->msrs->entries[i].index;
    constant.id = vcpu->id;
    constant.msr = msrs;
    constant.n_msr = vcpu->msrs->nmsrs;
    constant.cpuid = constant_cpuid(vcpu->cpuid);
    constant.n_cpuid = vcpu->cpuid->nent;
    g_byte_array_set_size(vcpu->constant, 0);
    pack_append(&constant, vcpu->constant);
    if (constant.n_cpuid > 0)
        g_free(constant.cpuid[0]);
    g_free(constant.cpuid);
}

/* ---- The two halves ---- */

gboolean
vcpu_state_save(Vcpu *vcpu, void *unused, GError **error)
{
    VcpuFrame *f = vcpu->frame;
    struct kvm_mp_state mp = {0};

    district__vcpu_state__init(&f->vcpu);
    g_byte_array_set_size(vcpu->saved, 0);
    if (!vcpu_ioctl(vcpu, KVM_GET_MP_STATE, &mp, "read its MP state", error) ||
        !save_regs(vcpu, f, error) || !save_sregs(vcpu, f, error) || !save_xsave(vcpu, f, error) ||
        !save_xcrs(vcpu, f, error) || !save_debug(vcpu, f, error) || !save_msrs(vcpu, f, error))
        return FALSE;
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    f->vcpu.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    f->vcpu.mp_state = mp.mp_state;
    pack_append(&f->vcpu, vcpu->saved);
    return TRUE;
}

gboolean
vcpu_state_save_interrupts(Vcpu *vcpu, GError **error)
{
    VcpuFrame *f = vcpu->frame;

    district__vcpu_state__init(&f->vcpu);
    if (!save_lapic(vcpu, f, error) || !save_events(vcpu, f, error))
        return FALSE;
    pack_append(&f->vcpu, vcpu->saved);
    return TRUE;
}

/* ---- Putting it together ---- */

static size_t
put_head(size_t len, uint8_t out[1 + LENGTH_BYTES_MAX])
{
    size_t at = 0;

    out[at++] = VCPUS_TAG;
    for (; len >= 0x80; len >>= 7)
        out[at++] = (uint8_t)(len | 0x80);
    out[at++] = (uint8_t)len;
    return at;
}

size_t
vcpu_state_bytes(const Vcpu *vcpu)
{
    uint8_t head[1 + LENGTH_BYTES_MAX];
    size_t len = (size_t)vcpu->constant->len + vcpu->saved->len;

    return put_head(len, head) + len;
}

void
vcpu_state_put(const Vcpu *vcpu, uint8_t *out)
{
    out += put_head((size_t)vcpu->constant->len + vcpu->saved->len, out);
    memcpy(out, vcpu->constant->data, vcpu->constant->len);
    memcpy(out + vcpu->constant->len, vcpu->saved->data, vcpu->saved->len);
}
