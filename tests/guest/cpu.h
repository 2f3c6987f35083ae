/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tiny guest's machine: ports, text output, processors, memory above 4 GiB. Guest side only. */
#ifndef DISTRICT_TESTS_GUEST_CPU_H
#define DISTRICT_TESTS_GUEST_CPU_H

#include "guest.h"

#define header ((GuestHeader *)GUEST_HEADER_GPA)

/* hvm_start_info and its memory map (Xen public/arch-x86/hvm/start_info.h). */
#define START_INFO_MAGIC 0x336ec578
typedef struct StartInfo {
    uint32_t magic;
    uint32_t version; /* the memory map exists since 1 */
    uint32_t flags;
    uint32_t n_modules;
    uint64_t modules;
    uint64_t cmdline;
    uint64_t rsdp;
    uint64_t memmap;
    uint32_t n_memmap;
    uint32_t reserved;
} StartInfo;

typedef struct MemmapEntry {
    uint64_t base;
    uint64_t size;
    uint32_t type; /* 1: RAM */
    uint32_t reserved;
} MemmapEntry;

static inline void
port_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void
port_out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void
port_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t
port_in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t
port_in16(uint16_t port)
{
    uint16_t value;

    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t
port_in32(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* Count loops down to 0. */
void busy_wait(uint64_t loops);

/* One line at a time, whichever CPU prints. */
void out_begin(void);
void out_text(const char *text);
void out_number(uint64_t n);
void out_hex(uint64_t n, unsigned digits);
void out_end(void);

/* "error TEXT", then halt this CPU for good. */
__attribute__((noreturn)) void guest_fail(const char *text);
__attribute__((noreturn)) void cpu_halt(void);

/* Map the RAM between 4 GiB and end. */
void memory_map_high(uint64_t end);

/* Load IDT and TSS. */
void cpu_setup(unsigned cpu);
/* Start the other CPUs one by one; each calls work(cpu) on its own stack. */
void cpus_start(unsigned n, void (*work)(unsigned cpu));
/* Call function(cpu) in ring 3; it may use memory, and neither ports nor HLT. */
void cpu_call_ring3(void (*function)(unsigned), unsigned cpu);

/* period=: around the steps of a round, and after each of them; and what was seen since the last report. */
void pace_begin(const GuestParams *params, unsigned cpu);
void pace_step(unsigned cpu);
void pace_end(unsigned cpu);
void pace_report(unsigned cpu);

/* op=tick: count the interrupts of a periodic local APIC timer, and print each report-th. */
__attribute__((noreturn)) void ticks_run(uint64_t report);

/* op=devices, in devices.c. */
void devices_run(void);
/* All of op=journal. */
void journal_run(void);
/* All of op=disk, in diskbench.c. */
void diskbench_run(void);

#endif
