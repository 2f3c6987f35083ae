/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tiny guest: bare metal, no interrupts but in op=tick, no allocation. It does work whose every step depends
 * on all memory written before (chain.h), says how far it is in a header page (guest.h) and on the
 * debug console, and so lets a test tell whether a restored or replicated machine is exactly the
 * one that was saved. README.md describes the command line and the output.
 */
#include "chain.h"
#include "cpu.h"

#define PORT_RESET 0x64
#define RESET_PULSE 0xFE
/* PM1 status, and enable 2 further on (ACPI 6.4 §4.8.3.1). */
#define PM1_ENABLE 2
#define PM1_POWER_BUTTON 0x100

void guest_main(const StartInfo *info);

static void
publish(GuestCpuState *state, const ChainPos *pos)
{
    uint64_t seq = state->seq + 1;

    state->pos[seq & 1] = *pos;
    __atomic_store_n(&state->seq, seq, __ATOMIC_RELEASE);
}

static void
report_chain(unsigned cpu, uint64_t round, uint64_t chain)
{
    out_begin();
    out_text("chain cpu=");
    out_number(cpu);
    out_text(" round=");
    out_number(round);
    out_text(" value=");
    out_hex(chain, 16);
    out_end();
}

static void
round_end(const GuestParams *params, unsigned cpu, uint64_t round, uint64_t chain)
{
    if (params->report != 0 && round != 0 && round % params->report == 0) {
        report_chain(cpu, round, chain);
        if (params->period != 0)
            pace_report(cpu);
    }
    busy_wait(params->delay);
}

static void
all_finished(const GuestParams *params)
{
    bool chains = params->op == GUEST_OP_DIRTY || params->op == GUEST_OP_TOUCH;

    for (unsigned cpu = 1; chains && cpu < params->cpus; cpu++)
        while (__atomic_load_n(&header->cpu[cpu].done, __ATOMIC_ACQUIRE) == 0)
            __asm__ volatile("pause");
    out_begin();
    out_text("done");
    out_end();
    if (params->end == GUEST_END_POWEROFF)
        port_out16((uint16_t)params->poweroff_port, (uint16_t)params->poweroff_value);
    else if (params->end == GUEST_END_RESET || params->end == GUEST_END_RESET_WRITING)
        port_out8(PORT_RESET, RESET_PULSE);
}

static void
button_listen(const GuestParams *params)
{
    if (params->button != 0)
        port_out16((uint16_t)(params->button + PM1_ENABLE), PM1_POWER_BUTTON);
}

static bool
button_pressed(const GuestParams *params)
{
    return params->button != 0 && (port_in16((uint16_t)params->button) & PM1_POWER_BUTTON) != 0;
}

static ChainPos positions[GUEST_CPUS_MAX];

/* All steps of one round; in ring 0 or 3. */
static void
do_round(unsigned cpu)
{
    const GuestParams *params = &header->params;
    ChainPos *pos = &positions[cpu];
    uint64_t round = pos->round;
    bool paced = params->period != 0 && round != 0;
    uint64_t first;
    uint64_t *slice;

    chain_slice(params, cpu, &first);
    slice = (uint64_t *)(params->base + first * GUEST_PAGE_BYTES);
    if (paced)
        pace_begin(params, cpu);
    while (pos->round == round) {
        chain_step(params, cpu, pos, slice);
        publish(&header->cpu[cpu], pos);
        if (paced)
            pace_step(cpu);
    }
    if (paced)
        pace_end(cpu);
}

/* One CPU's whole life. */
static void
work(unsigned cpu)
{
    const GuestParams *params = &header->params;
    ChainPos *pos = &positions[cpu];

    *pos = chain_start(params, cpu);
    publish(&header->cpu[cpu], pos);
    button_listen(params);
    while (!chain_finished(params, pos) && !button_pressed(params)) {
        uint64_t round = pos->round;

        if (params->ring == 3)
            cpu_call_ring3(do_round, cpu);
        else
            do_round(cpu);
        round_end(params, cpu, round, pos->chain);
    }
    __atomic_store_n(&header->cpu[cpu].done, 1, __ATOMIC_RELEASE);
    if (cpu == 0)
        all_finished(params);
    cpu_halt();
}

static bool
range_is_ram(const StartInfo *info, uint64_t from, uint64_t bytes)
{
    const MemmapEntry *map = (const MemmapEntry *)info->memmap;

    for (uint32_t i = 0; i < info->n_memmap; i++)
        if (map[i].type == 1 && from >= map[i].base && bytes <= map[i].size &&
            from - map[i].base <= map[i].size - bytes)
            return true;
    return false;
}

/* A machine that was reset keeps its RAM, but the chain starts from zeros. */
static void
clear_leftovers(const GuestParams *params)
{
    uint64_t *word = (uint64_t *)params->base;
    uint64_t *end = word + params->pages * GUEST_PAGE_WORDS;

    while (word < end)
        *word++ = 0;
}

static void
parse_command_line(const StartInfo *info)
{
    GuestParams params;
    const char *bad = "";
    bool warm = header->magic == GUEST_MAGIC;

    for (uint64_t i = 0; i < GUEST_PAGE_WORDS; i++)
        ((volatile uint64_t *)header)[i] = 0;
    if (!guest_params_parse(&params, info->cmdline ? (const char *)info->cmdline : "", &bad)) {
        out_begin();
        out_text("error option not understood: ");
        out_text(bad);
        out_end();
        cpu_halt();
    }
    header->params = params;
    if (!range_is_ram(info, params.base, params.pages * GUEST_PAGE_BYTES))
        guest_fail("pages at base are not all RAM: give the machine more memory");
    memory_map_high(params.base + params.pages * GUEST_PAGE_BYTES);
    if (warm)
        clear_leftovers(&params);
    __atomic_store_n(&header->magic, GUEST_MAGIC, __ATOMIC_RELEASE);
}

static void
report_ready(const GuestParams *params)
{
    out_begin();
    out_text("ready cpus=");
    out_number(params->cpus);
    out_text(" pages=");
    out_number(params->pages);
    out_text(" base=0x");
    out_hex(params->base, 10);
    out_text(" seed=");
    out_number(params->seed);
    out_text(" ring=");
    out_number(params->ring);
    out_end();
}

void
guest_main(const StartInfo *info)
{
    const GuestParams *params = &header->params;

    cpu_setup(0);
    if (info->magic != START_INFO_MAGIC || info->version < 1)
        guest_fail("not started by PVH with a memory map");
    parse_command_line(info);
    if (params->op == GUEST_OP_DEVICES) {
        devices_run();
        all_finished(params);
        cpu_halt();
    }
    if (params->op == GUEST_OP_JOURNAL) {
        journal_run();
        all_finished(params);
        cpu_halt();
    }
    if (params->op == GUEST_OP_DISK) {
        diskbench_run();
        all_finished(params);
        cpu_halt();
    }
    if (params->op == GUEST_OP_TICK) {
        report_ready(params);
        ticks_run(params->report);
    }
    if (params->op == GUEST_OP_HALT) {
        report_ready(params);
        cpu_halt();
    }
    report_ready(params);
    cpus_start(params->cpus, work);
    work(0);
}
