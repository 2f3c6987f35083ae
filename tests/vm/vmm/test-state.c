/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Nothing of what KVM keeps for a guest is lost between save and restore: interrupts under way,
 * timers, events, registers, MSRs. The method: give a machine state that is nothing like what a new
 * one has, read it back, save, restore into another machine, and compare what KVM says of the two.
 *
 * Some KVMs ignore some of what they are given. Each test looks first whether what it set is there,
 * and says what this KVM cannot show.
 */
#include "vmm/lifecycle.h"
#include "vmm/state.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"

#include "common/page.h"
#include "common/pagebits.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TEST_RAM (4ULL << 20)
#define STATE_ROOM (1 << 20)

/* Local APIC registers (Intel SDM vol. 3, "Local APIC Register Address Map"). */
#define APIC_TPR 0x80
#define APIC_PPR 0xA0
#define APIC_LDR 0xD0
#define APIC_SVR 0xF0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ICR_HIGH 0x310
#define APIC_LVTT 0x320
#define APIC_LVT0 0x350
#define APIC_LVT1 0x360
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3E0
#define LVTT_PERIODIC (1u << 17)
#define LVTT_TSC_DEADLINE (1u << 18)
#define TDCR_BY_128 0xA
#define APIC_BUS_HZ 1000000000ULL /* KVM's: a count is a nanosecond */

#define MSR_TSC 0x10
#define MSR_TSC_DEADLINE 0x6E0
#define CLOCKS_APART_NS 500000

/* Reachable until exit, as machines are. */
static GPtrArray *machines;

/* ---- Two machines ---- */

static Machine *
machine_make(bool incoming)
{
    g_autoptr(GError) error = NULL;
    MachineConfig config = {.name = "test",
                            .stir_fd = -1,
                            .ram_size = TEST_RAM,
                            .n_vcpus = 1,
                            .dirty_source = DIRTYLOG_BITMAP,
                            .ram_fd = -1,
                            .incoming = incoming};
    Machine *m = machine_new(&config, &error);

    g_assert_no_error(error);
    g_ptr_array_add(machines, m);
    return m;
}

/* Save m, which has never run, and load it into a new machine. */
static Machine *
machine_move(Machine *m)
{
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));
    g_autofree uint8_t *state = g_malloc(STATE_ROOM);
    g_autoptr(GError) error = NULL;
    PauseResult result;
    Machine *to;

    machine_pause(m, state, STATE_ROOM, bits, &result, &error);
    g_assert_no_error(error);
    to = machine_make(true);
    state_restore(to, state, result.state_len, &(StateRestore){.ram_fd = dup(m->ram_fd)}, &error);
    g_assert_no_error(error);
    machine_restored(to);
    return to;
}

static void
vm_call(Machine *m, unsigned long request, void *arg)
{
    if (ioctl(m->vm_fd, request, arg) < 0)
        g_error("KVM request 0x%lx: %s", request, g_strerror(errno));
}

static void
vcpu_call(Machine *m, unsigned long request, void *arg)
{
    if (ioctl(m->vcpus->vcpu[0].fd, request, arg) < 0)
        g_error("KVM request 0x%lx: %s", request, g_strerror(errno));
}

/* Byte for byte; says where they differ. */
static void
assert_same(const char *what, const void *want, const void *got, size_t bytes)
{
    const uint8_t *a = want, *b = got;

    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i])
            g_error("%s: byte 0x%zx was 0x%02x and is 0x%02x", what, i, a[i], b[i]);
    }
}

/* ---- The vCPU ---- */

static void
test_registers(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_regs set, want, got;
    uint64_t *r = (uint64_t *)&set;

    for (size_t i = 0; i < sizeof(set) / sizeof(*r); i++)
        r[i] = 0x0123456789ABCD00 + i;
    set.rflags = 0x0CD7; /* all arithmetic flags, DF */
    vcpu_call(m, KVM_SET_REGS, &set);
    vcpu_call(m, KVM_GET_REGS, &want);
    assert_same("what this KVM keeps of registers", &set, &want, sizeof(set));
    to = machine_move(m);
    vcpu_call(to, KVM_GET_REGS, &got);
    assert_same("registers", &want, &got, sizeof(want));
}

static void
test_system_registers(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_sregs want, got;
    struct kvm_debugregs debug = {.db = {0x1000, 0x2000, 0x3000, 0x4000}, .dr7 = 0x455};
    struct kvm_debugregs debug_want, debug_got;

    vcpu_call(m, KVM_GET_SREGS, &want);
    want.gdt = (struct kvm_dtable){.base = 0x12345000, .limit = 0x7F};
    want.idt = (struct kvm_dtable){.base = 0x23456000, .limit = 0xFFF};
    want.fs.base = 0x345678;
    want.gs.selector = 0x28;
    want.gs.limit = 0x12345;
    want.cr2 = 0xDEADBEEF000;
    want.cr3 = 0x45000;
    want.cr4 |= 0x610; /* PSE, OSFXSR, OSXMMEXCPT */
    want.cr8 = 5;
    want.efer |= 0x800; /* NX */
    vcpu_call(m, KVM_SET_SREGS, &want);
    vcpu_call(m, KVM_GET_SREGS, &want);
    g_assert_cmphex(want.cr2, ==, 0xDEADBEEF000);
    g_assert_cmphex(want.cr8, ==, 5);
    vcpu_call(m, KVM_GET_DEBUGREGS, &debug_want);
    debug.dr6 = debug_want.dr6 | 0x5; /* breakpoints 0 and 2 were hit */
    vcpu_call(m, KVM_SET_DEBUGREGS, &debug);
    vcpu_call(m, KVM_GET_DEBUGREGS, &debug_want);
    g_assert_cmphex(debug_want.db[3], ==, 0x4000);
    to = machine_move(m);
    vcpu_call(to, KVM_GET_SREGS, &got);
    assert_same("system registers", &want, &got, sizeof(want));
    vcpu_call(to, KVM_GET_DEBUGREGS, &debug_got);
    assert_same("debug registers", &debug_want, &debug_got, sizeof(debug_want));
}

/* x87 and SSE (Intel SDM vol. 1, "XSAVE Area"): legacy area, then the header. */
static void
test_fpu(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_xsave want, got;
    uint8_t *area = (uint8_t *)want.region;
    const uint64_t x87_and_sse = 3;

    vcpu_call(m, KVM_GET_XSAVE, &want);
    memset(area + 160, 0xA5, 256); /* XMM0-15 */
    for (size_t i = 0; i < 8; i++)
        memset(area + 32 + 16 * i, 0x3C, 10); /* ST0-7: 80 bits */
    memcpy(area + 512, &x87_and_sse, sizeof(x87_and_sse));
    vcpu_call(m, KVM_SET_XSAVE, &want);
    vcpu_call(m, KVM_GET_XSAVE, &want);
    g_assert_cmphex(area[160 + 255], ==, 0xA5);
    to = machine_move(m);
    vcpu_call(to, KVM_GET_XSAVE, &got);
    assert_same("XSAVE area", &want, &got, sizeof(want));
}

static void
test_mp_state(void)
{
    static const uint32_t states[] = {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED,
                                      KVM_MP_STATE_UNINITIALIZED};

    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        Machine *m = machine_make(false), *to;
        struct kvm_mp_state state = {.mp_state = states[i]};

        vcpu_call(m, KVM_SET_MP_STATE, &state);
        to = machine_move(m);
        vcpu_call(to, KVM_GET_MP_STATE, &state);
        g_assert_cmpuint(state.mp_state, ==, states[i]);
    }
}

/* ---- Events that the guest has not taken yet ---- */

static void
check_events(const struct kvm_vcpu_events *set)
{
    Machine *m = machine_make(false), *to;
    struct kvm_vcpu_events want, got;

    vcpu_call(m, KVM_SET_VCPU_EVENTS, (void *)set);
    vcpu_call(m, KVM_GET_VCPU_EVENTS, &want);
    assert_same("what this KVM keeps of an exception", &set->exception, &want.exception,
                sizeof(set->exception));
    assert_same("what this KVM keeps of an interrupt", &set->interrupt, &want.interrupt,
                sizeof(set->interrupt) - 1); /* the shadow is looked at by its own test */
    assert_same("what this KVM keeps of an NMI", &set->nmi, &want.nmi, sizeof(set->nmi));
    to = machine_move(m);
    vcpu_call(to, KVM_GET_VCPU_EVENTS, &got);
    assert_same("events", &want, &got, sizeof(want));
}

static void
test_exception_and_nmi(void)
{
    const struct kvm_vcpu_events events = {
        .exception = {.injected = 1, .nr = 14, .has_error_code = 1, .error_code = 6},
        .nmi = {.pending = 1, .masked = 1},
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING,
    };

    check_events(&events);
}

static void
test_injected_interrupt(void)
{
    const struct kvm_vcpu_events hard = {.interrupt = {.injected = 1, .nr = 0x51}};
    const struct kvm_vcpu_events nmi = {.nmi = {.injected = 1}};

    check_events(&hard);
    check_events(&nmi);
}

static void
test_interrupt_shadow(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_vcpu_events events = {.interrupt.shadow = KVM_X86_SHADOW_INT_STI,
                                     .flags = KVM_VCPUEVENT_VALID_SHADOW};

    vcpu_call(m, KVM_SET_VCPU_EVENTS, &events);
    vcpu_call(m, KVM_GET_VCPU_EVENTS, &events);
    if (events.interrupt.shadow == 0) {
        g_test_skip("this KVM ignores the interrupt shadow of KVM_SET_VCPU_EVENTS");
        return;
    }
    to = machine_move(m);
    events.interrupt.shadow = 0;
    vcpu_call(to, KVM_GET_VCPU_EVENTS, &events);
    g_assert_cmpuint(events.interrupt.shadow, !=, 0);
}

/* ---- The local APIC ---- */

static uint32_t *
apic_reg(struct kvm_lapic_state *apic, unsigned reg)
{
    return (uint32_t *)(void *)(apic->regs + reg);
}

/* In one of the 256-bit sets. */
static void
apic_set_vector(struct kvm_lapic_state *apic, unsigned set, unsigned vector)
{
    *apic_reg(apic, set + vector / 32 * 0x10) |= 1u << vector % 32;
}

static bool
apic_has_vector(struct kvm_lapic_state *apic, unsigned set, unsigned vector)
{
    return *apic_reg(apic, set + vector / 32 * 0x10) & 1u << vector % 32;
}

static void
apic_fill(struct kvm_lapic_state *apic)
{
    *apic_reg(apic, APIC_SVR) = 0x1FF;
    *apic_reg(apic, APIC_TPR) = 0x20;
    *apic_reg(apic, APIC_LDR) = 0x02000000;
    *apic_reg(apic, APIC_ICR_HIGH) = 0x03000000;
    *apic_reg(apic, APIC_LVT0) = 0x10700;
    *apic_reg(apic, APIC_LVT1) = 0x400;
    apic_set_vector(apic, APIC_IRR, 0x41);
    apic_set_vector(apic, APIC_IRR, 0x80);
    apic_set_vector(apic, APIC_IRR, 0xFB);
    apic_set_vector(apic, APIC_ISR, 0x31);
    apic_set_vector(apic, APIC_ISR, 0x62);
    apic_set_vector(apic, APIC_TMR, 0x62);
    /* Nine minutes: it does not fire here. */
    *apic_reg(apic, APIC_LVTT) = LVTT_PERIODIC | 0xEC;
    *apic_reg(apic, APIC_TDCR) = TDCR_BY_128;
    *apic_reg(apic, APIC_TMICT) = 0xFFFFFFFF;
    *apic_reg(apic, APIC_TMCCT) = 0xC0000000;
}

static void
test_local_apic(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_lapic_state want, got;
    const uint32_t ten_seconds = (uint32_t)(10 * APIC_BUS_HZ / 128);
    uint32_t count;

    vcpu_call(m, KVM_GET_LAPIC, &want);
    apic_fill(&want);
    vcpu_call(m, KVM_SET_LAPIC, &want);
    vcpu_call(m, KVM_GET_LAPIC, &want);
    g_assert_true(apic_has_vector(&want, APIC_IRR, 0x41));
    g_assert_true(apic_has_vector(&want, APIC_IRR, 0xFB));
    g_assert_true(apic_has_vector(&want, APIC_ISR, 0x62));
    g_assert_cmphex(*apic_reg(&want, APIC_LVTT), ==, LVTT_PERIODIC | 0xEC);
    count = *apic_reg(&want, APIC_TMCCT);
    g_assert_cmphex(count, <=, 0xFFFFFFFF);
    g_assert_cmphex(count, >, 0);
    to = machine_move(m);
    vcpu_call(to, KVM_GET_LAPIC, &got);
    /* The timer goes on with what was left, and has counted since. */
    g_assert_cmphex(*apic_reg(&got, APIC_TMCCT), <=, count);
    g_assert_cmphex(*apic_reg(&got, APIC_TMCCT), >, count - ten_seconds);
    *apic_reg(&got, APIC_TMCCT) = count;
    /* A vCPU that has not run has not worked its priority out. */
    *apic_reg(&got, APIC_PPR) = *apic_reg(&want, APIC_PPR);
    assert_same("local APIC", &want, &got, sizeof(want));
}

/* ---- The chips: PICs, IOAPIC, PIT ---- */

static void
test_pics(void)
{
    static const uint32_t chips[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
    Machine *m = machine_make(false), *to;
    struct kvm_irqchip want[2], got;

    for (size_t i = 0; i < G_N_ELEMENTS(chips); i++) {
        want[i].chip_id = chips[i];
        vm_call(m, KVM_GET_IRQCHIP, &want[i]);
        want[i].chip.pic = (struct kvm_pic_state){
            .last_irr = 0x12,
            .irr = 0x10,
            .imr = 0xB8,
            .isr = 0x04,
            .priority_add = 3,
            .irq_base = (uint8_t)(0x20 + 8 * i),
            .read_reg_select = 1,
            .special_mask = 1,
            .auto_eoi = 1,
            .rotate_on_auto_eoi = 1,
            .special_fully_nested_mode = 1,
            .init4 = 1,
            .elcr = 0x08,
            .elcr_mask = want[i].chip.pic.elcr_mask,
        };
        vm_call(m, KVM_SET_IRQCHIP, &want[i]);
        vm_call(m, KVM_GET_IRQCHIP, &want[i]);
        g_assert_cmphex(want[i].chip.pic.imr, ==, 0xB8);
        g_assert_cmphex(want[i].chip.pic.isr, ==, 0x04);
    }
    to = machine_move(m);
    for (size_t i = 0; i < G_N_ELEMENTS(chips); i++) {
        got.chip_id = chips[i];
        vm_call(to, KVM_GET_IRQCHIP, &got);
        assert_same(i == 0 ? "master PIC" : "slave PIC", &want[i].chip.pic, &got.chip.pic,
                    sizeof(got.chip.pic));
    }
}

static void
test_ioapic(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_irqchip want = {.chip_id = KVM_IRQCHIP_IOAPIC};
    struct kvm_irqchip got = {.chip_id = KVM_IRQCHIP_IOAPIC};
    struct kvm_ioapic_state *io = &want.chip.ioapic;

    vm_call(m, KVM_GET_IRQCHIP, &want);
    io->ioregsel = 0x13;
    io->id = 1;
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
        io->redirtbl[pin].bits = 0;
        io->redirtbl[pin].fields.vector = (uint8_t)(0x30 + pin);
        io->redirtbl[pin].fields.dest_id = (uint8_t)pin;
        io->redirtbl[pin].fields.dest_mode = pin & 1;
        io->redirtbl[pin].fields.trig_mode = pin >= 16;
        io->redirtbl[pin].fields.mask = pin % 3 == 0;
    }
    io->redirtbl[17].fields.remote_irr = 1; /* in service at the CPU */
    io->irr = 1u << 3 | 1u << 18;           /* masked ones that wait */
    vm_call(m, KVM_SET_IRQCHIP, &want);
    vm_call(m, KVM_GET_IRQCHIP, &want);
    g_assert_cmphex(io->irr, ==, 1u << 3 | 1u << 18);
    g_assert_cmphex(io->redirtbl[17].fields.remote_irr, ==, 1);
    g_assert_cmphex(io->redirtbl[22].fields.vector, ==, 0x30 + 22);
    to = machine_move(m);
    vm_call(to, KVM_GET_IRQCHIP, &got);
    assert_same("IOAPIC", io, &got.chip.ioapic, sizeof(*io));
}

static void
test_pit(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_pit_state2 want = {
        .channels = {{.count = 0x4A9,
                      .mode = 2,
                      .rw_mode = 3,
                      .gate = 1,
                      .read_state = 3,
                      .write_state = 4,
                      .write_latch = 0xA9},
                     {.count = 0x12,
                      .mode = 2,
                      .rw_mode = 1,
                      .gate = 1,
                      .count_latched = 1,
                      .latched_count = 7},
                     {.count = 0x1234,
                      .mode = 3,
                      .rw_mode = 3,
                      .bcd = 1,
                      .status_latched = 1,
                      .status = 0x36}},
    };
    struct kvm_pit_state2 got;

    vm_call(m, KVM_SET_PIT2, &want);
    vm_call(m, KVM_GET_PIT2, &want);
    g_assert_cmphex(want.channels[0].count, ==, 0x4A9);
    g_assert_cmphex(want.channels[2].mode, ==, 3);
    to = machine_move(m);
    vm_call(to, KVM_GET_PIT2, &got);
    for (size_t i = 0; i < G_N_ELEMENTS(want.channels); i++)
        got.channels[i].count_load_time = want.channels[i].count_load_time; /* the host's clock */
    assert_same("PIT", &want, &got, sizeof(want));
}

/* ---- MSRs ---- */

/* False, and 0: this KVM does not know it. */
static bool
msr_get(Machine *m, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one = {.head.nmsrs = 1, .entry.index = index};

    *value = 0;
    if (ioctl(m->vcpus->vcpu[0].fd, KVM_GET_MSRS, &one) != 1)
        return false;
    *value = one.entry.data;
    return true;
}

static bool
msr_set(Machine *m, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};

    return ioctl(m->vcpus->vcpu[0].fd, KVM_SET_MSRS, &one) == 1;
}

static void
msr_fill(Machine *m)
{
    static const struct {
        uint32_t index;
        uint64_t value;
    } set[] = {
        {0x174, 0x10}, /* SYSENTER_CS, _ESP, _EIP */
        {0x175, 0x12345000},
        {0x176, 0x23456000},
        {0x277, 0x0007040600070401},      /* PAT */
        {0x2FF, 0xC06},                   /* MTRR default type */
        {0x3B, 0x1234},                   /* TSC_ADJUST, where offered */
        {0xC0000081, 0x0023001000000000}, /* STAR */
        {0xC0000082, 0xFFFFFFFF81000000}, /* LSTAR */
        {0xC0000084, 0x47700},            /* FMASK */
        {0xC0000102, 0xFFFF888012345000}, /* KERNEL_GS_BASE */
        {0x4B564D00, 0x3000},             /* kvmclock: wall clock, system time */
        {0x4B564D01, 0x4001},
        {0x4B564D03, 0x5001}, /* steal time */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(set); i++) {
        uint64_t now;

        if (!msr_set(m, set[i].index, set[i].value) || !msr_get(m, set[i].index, &now) ||
            now != set[i].value)
            g_test_message("this KVM does not keep MSR 0x%x", set[i].index);
    }
}

/* Every MSR that KVM says a guest has. */
static void
test_msrs(void)
{
    Machine *m = machine_make(false), *to;
    const struct kvm_msrs *list = m->vcpus->vcpu[0].msrs;
    unsigned odd = 0;
    uint64_t value;

    msr_fill(m);
    g_assert_true(msr_get(m, 0xC0000082, &value));
    g_assert_cmphex(value, ==, 0xFFFFFFFF81000000);
    g_assert_true(msr_get(m, 0x4B564D01, &value));
    g_assert_cmphex(value, ==, 0x4001);
    to = machine_move(m);
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        uint32_t index = list->entries[i].index;
        uint64_t want, got = 0;

        if (index == MSR_TSC)
            continue;
        g_assert_true(msr_get(m, index, &want) && msr_get(to, index, &got));
        if (want != got)
            g_error("MSR 0x%x was 0x%" G_GINT64_MODIFIER "x and is 0x%" G_GINT64_MODIFIER "x",
                    index, want, got);
        odd += want != 0;
    }
    g_assert_cmpuint(odd, >=, 8);
}

static void
test_tsc_deadline(void)
{
    Machine *m = machine_make(false), *to;
    struct kvm_lapic_state apic;
    uint64_t now, deadline, got;

    vcpu_call(m, KVM_GET_LAPIC, &apic);
    *apic_reg(&apic, APIC_SVR) = 0x1FF;
    *apic_reg(&apic, APIC_LVTT) = LVTT_TSC_DEADLINE | 0xEC;
    vcpu_call(m, KVM_SET_LAPIC, &apic);
    g_assert_true(msr_get(m, MSR_TSC, &now));
    deadline = now + (1ULL << 42); /* more than ten minutes */
    if (ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) <= 0 ||
        !msr_set(m, MSR_TSC_DEADLINE, deadline) || !msr_get(m, MSR_TSC_DEADLINE, &got) ||
        got != deadline) {
        g_test_skip("this KVM has no TSC deadline timer");
        return;
    }
    to = machine_move(m);
    g_assert_true(msr_get(to, MSR_TSC_DEADLINE, &got));
    g_assert_cmphex(got, ==, deadline);
    vcpu_call(to, KVM_GET_LAPIC, &apic);
    g_assert_cmphex(*apic_reg(&apic, APIC_LVTT), ==, LVTT_TSC_DEADLINE | 0xEC);
}

static uint64_t
tsc_khz(Machine *m)
{
    int khz = ioctl(m->vcpus->vcpu[0].fd, KVM_GET_TSC_KHZ, 0);

    g_assert_cmpint(khz, >, 0);
    return (uint64_t)khz;
}

/* Far from this host's own. False: the test is skipped. */
static bool
tsc_set(Machine *m, uint64_t *now)
{
    const uint64_t far_off = 1ULL << 50;

    if (msr_set(m, MSR_TSC, far_off) && msr_get(m, MSR_TSC, now) && *now >= far_off &&
        *now <= far_off + 60 * 1000ULL * tsc_khz(m))
        return true;
    g_test_skip("this KVM ignores writes to IA32_TSC: the guest's is the host's");
    return false;
}

/* It goes on from where it was, by what has passed, whatever this host's own is. */
static void
test_tsc_goes_on(void)
{
    Machine *m = machine_make(false), *to;
    uint64_t before, after;

    if (!tsc_set(m, &before))
        return;
    to = machine_move(m);
    g_assert_true(msr_get(to, MSR_TSC, &after));
    g_assert_cmpuint(after, >, before);
    g_assert_cmpuint(after, <, before + 60 * 1000ULL * tsc_khz(m));
}

/* By how many ns the TSC is ahead of kvmclock: of the looks at both, the one that took least. */
static int64_t
tsc_ahead(Machine *m)
{
    uint64_t least = UINT64_MAX;
    int64_t ahead = 0;

    for (int i = 0; i < 50; i++) {
        struct kvm_clock_data first = {0}, last = {0};
        uint64_t tsc;

        vm_call(m, KVM_GET_CLOCK, &first);
        g_assert_true(msr_get(m, MSR_TSC, &tsc));
        vm_call(m, KVM_GET_CLOCK, &last);
        if (last.clock - first.clock >= least)
            continue;
        least = last.clock - first.clock;
        ahead =
            (int64_t)((double)tsc * 1e6 / (double)tsc_khz(m)) - (int64_t)(first.clock + least / 2);
    }
    g_test_message("a look at both clocks took %" G_GUINT64_FORMAT " ns", least);
    return ahead;
}

/* A guest's clocks step by the same time, or it would find one of them unsteady. */
static void
test_tsc_keeps_up(void)
{
    int64_t least = INT64_MAX;

    /* This thread may have to wait for a CPU in the middle of it. */
    for (int i = 0; i < 10 && least > CLOCKS_APART_NS; i++) {
        Machine *m = machine_make(false);
        uint64_t now;

        if (!tsc_set(m, &now))
            return;
        int64_t before = tsc_ahead(m), after = tsc_ahead(machine_move(m));
        g_test_message("the TSC has got %" G_GINT64_FORMAT " ns ahead", after - before);
        least = MIN(least, ABS(after - before));
    }
    g_assert_cmpint(least, <=, CLOCKS_APART_NS);
}

int
main(int argc, char **argv)
{
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        g_print("1..0 # SKIP /dev/kvm is not there: load the kvm module for this processor\n");
        return 77;
    }
    g_test_init(&argc, &argv, NULL);
    machines = g_ptr_array_new();
    g_test_add_func("/state/registers come back", test_registers);
    g_test_add_func("/state/system and debug registers come back", test_system_registers);
    g_test_add_func("/state/the FPU comes back", test_fpu);
    g_test_add_func("/state/a halted vCPU stays halted", test_mp_state);
    g_test_add_func("/state/a pending exception and NMI come back", test_exception_and_nmi);
    g_test_add_func("/state/an interrupt half delivered comes back", test_injected_interrupt);
    g_test_add_func("/state/the interrupt shadow comes back", test_interrupt_shadow);
    g_test_add_func("/state/the local APIC and its timer come back", test_local_apic);
    g_test_add_func("/state/the PICs come back", test_pics);
    g_test_add_func("/state/the IOAPIC comes back", test_ioapic);
    g_test_add_func("/state/the PIT comes back", test_pit);
    g_test_add_func("/state/every MSR comes back", test_msrs);
    g_test_add_func("/state/the TSC deadline comes back", test_tsc_deadline);
    g_test_add_func("/state/the TSC goes on", test_tsc_goes_on);
    g_test_add_func("/state/the TSC goes on by as much as kvmclock", test_tsc_keeps_up);
    return g_test_run();
}
