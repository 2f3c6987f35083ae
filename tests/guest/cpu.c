/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processors of the tiny guest: descriptor tables, traps, start of the other CPUs, ring 3. */
#include "cpu.h"

#define STACK_BYTES 8192
#define AP_TRAMPOLINE 0x8000ULL
#define GDT_TSS_FIRST 8
#define SEL_CODE64 0x18
#define TRAP_STUB_BYTES 16
#define IDT_GATE 0x8E00 /* present, ring 0, interrupt gate (Intel SDM vol. 3, 64-bit IDT gates) */
#define TSS_AVAILABLE 0x89

/* Local APIC (Intel SDM vol. 3, "Advanced Programmable Interrupt Controller"), xAPIC mode. */
#define LAPIC_BASE 0xFEE00000ULL
#define LAPIC_SPURIOUS 0xF0
#define LAPIC_ICR_LOW 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_DIVIDE 0x3E0
#define LVT_PERIODIC 0x20000
#define DIVIDE_BY_1 0xB
#define TICK_VECTOR 0x40
#define TICK_COUNT 2000000 /* 2 ms at KVM's 1 GHz */
#define ICR_INIT 0x4500
#define ICR_STARTUP 0x4600
#define AP_WAIT_LOOPS 100000000ULL

extern char ap_trampoline[], ap_trampoline_end[], trap_stubs[], boot_stacks[];
extern char tick_entry[];
extern volatile uint64_t ap_stack_top, tick_count;
extern uint64_t gdt[], boot_pdpt[512];
/* clang-format off */
void ring3_call(void (*function)(unsigned), unsigned cpu, void *stack, void *rsp0);
void guest_main(const StartInfo *info);
void ap_main(void);
void trap_handle(const uint64_t *frame);
void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);
/* clang-format on */

/* Intel SDM vol. 3, "64-Bit Task State Segment". */
typedef struct __attribute__((packed)) Tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map;
} Tss;

typedef struct __attribute__((packed)) TablePointer {
    uint16_t limit;
    uint64_t base;
} TablePointer;

static uint64_t idt[2 * (TICK_VECTOR + 1)] __attribute__((aligned(16)));
static Tss tss[GUEST_CPUS_MAX];
static uint8_t trap_stacks[GUEST_CPUS_MAX][1024] __attribute__((aligned(16)));
static uint8_t ring3_stacks[GUEST_CPUS_MAX][4096] __attribute__((aligned(16)));
static volatile unsigned ap_index;
static volatile unsigned ap_started;
static void (*ap_work)(unsigned cpu);

/* The compiler may call these for structures and loops. */
void *
memset(void *to, int value, size_t len)
{
    volatile uint8_t *p = to;

    while (len-- > 0)
        *p++ = (uint8_t)value;
    return to;
}

void *
memcpy(void *to, const void *from, size_t len)
{
    volatile uint8_t *p = to;
    const uint8_t *q = from;

    while (len-- > 0)
        *p++ = *q++;
    return to;
}

void
cpu_halt(void)
{
    for (;;)
        __asm__ volatile("hlt"); /* interrupts are off since the entry */
}

/* frame: vector, error code, RIP, CS, RFLAGS, RSP, SS. */
void
trap_handle(const uint64_t *frame)
{
    uint64_t cr2;

    __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
    out_text("\nerror trap vector=");
    out_number(frame[0]);
    out_text(" code=0x");
    out_hex(frame[1], 8);
    out_text(" rip=0x");
    out_hex(frame[2], 16);
    out_text(" cr2=0x");
    out_hex(cr2, 16);
    out_text("\n");
    for (;;)
        __asm__ volatile("hlt");
}

static void
tss_setup(unsigned cpu)
{
    uint64_t base = (uint64_t)&tss[cpu];
    uint64_t *descriptor = &gdt[GDT_TSS_FIRST + 2 * cpu];
    uint16_t selector = (uint16_t)((GDT_TSS_FIRST + 2 * cpu) * 8);

    tss[cpu].rsp[0] = (uint64_t)trap_stacks[cpu] + sizeof(trap_stacks[cpu]);
    tss[cpu].io_map = sizeof(Tss);
    descriptor[0] = (sizeof(Tss) - 1) | (base & 0xFFFFFF) << 16 | (uint64_t)TSS_AVAILABLE << 40 |
                    (base >> 24 & 0xFF) << 56;
    descriptor[1] = base >> 32;
    __asm__ volatile("ltr %0" : : "r"(selector) : "memory");
}

static void
idt_set(unsigned vector, uint64_t entry)
{
    idt[vector * 2] = (entry & 0xFFFF) | (uint64_t)SEL_CODE64 << 16 | (uint64_t)IDT_GATE << 32 |
                      (entry >> 16 & 0xFFFF) << 48;
    idt[vector * 2 + 1] = entry >> 32;
}

void
cpu_setup(unsigned cpu)
{
    TablePointer pointer = {sizeof(idt) - 1, (uint64_t)idt};

    for (unsigned i = 0; i < 32; i++)
        idt_set(i, (uint64_t)trap_stubs + i * TRAP_STUB_BYTES);
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
    tss_setup(cpu);
}

void
ap_main(void)
{
    unsigned cpu = ap_index;

    cpu_setup(cpu);
    ap_started = cpu;
    ap_work(cpu);
    cpu_halt();
}

static void
lapic_write(uint32_t reg, uint32_t value)
{
    *(volatile uint32_t *)(LAPIC_BASE + reg) = value;
}

void
busy_wait(uint64_t loops)
{
    while (loops-- > 0)
        __asm__ volatile("" ::: "memory");
}

/* INIT-SIPI (Intel SDM vol. 3, "MP Initialization Protocol"). APIC ids count from 0 here. */
static void
ap_start(unsigned cpu)
{
    ap_index = cpu;
    ap_stack_top = (uint64_t)boot_stacks + (cpu + 1) * STACK_BYTES;
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, ICR_INIT);
    busy_wait(10000);
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, ICR_STARTUP | (uint32_t)(AP_TRAMPOLINE >> 12));
    for (uint64_t i = 0; ap_started != cpu; i++) {
        if (i == AP_WAIT_LOOPS)
            guest_fail("a CPU did not start: give the machine as many as cpus= says");
    }
}

void
cpus_start(unsigned n, void (*work)(unsigned cpu))
{
    if (n < 2)
        return;
    ap_work = work;
    memcpy((void *)AP_TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    lapic_write(LAPIC_SPURIOUS, 0x1FF);
    for (unsigned cpu = 1; cpu < n; cpu++)
        ap_start(cpu);
}

void
ticks_run(uint64_t report)
{
    idt_set(TICK_VECTOR, (uint64_t)tick_entry);
    lapic_write(LAPIC_SPURIOUS, 0x1FF);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | TICK_VECTOR);
    lapic_write(LAPIC_TIMER_COUNT, TICK_COUNT);
    for (uint64_t told = 0;;) {
        __asm__ volatile("sti; hlt; cli" ::: "memory");
        if (report == 0 || tick_count < told + report)
            continue;
        told = tick_count;
        out_begin();
        out_text("tick ");
        out_number(told);
        out_end();
    }
}

void
cpu_call_ring3(void (*function)(unsigned), unsigned cpu)
{
    ring3_call(function, cpu, ring3_stacks[cpu] + sizeof(ring3_stacks[cpu]),
               (uint8_t *)&tss[cpu] + offsetof(Tss, rsp));
}

void
memory_map_high(uint64_t end)
{
    static uint64_t directories[60][512] __attribute__((aligned(4096)));
    uint64_t gib = 4;

    for (; gib < 64 && gib << 30 < end; gib++) {
        uint64_t *directory = directories[gib - 4];

        for (uint64_t i = 0; i < 512; i++)
            directory[i] = (gib << 30) + (i << 21) + 0x87;
        boot_pdpt[gib] = (uint64_t)directory + 7;
    }
}
