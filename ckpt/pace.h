/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pace of cuts, for Interval=auto: how long the next epoch should be. No I/O, no clock.
 *
 * Theory of operation. Output leaves the district, and a failover goes back, by an epoch and its way
 * to the standby: epochs should be short. Three things bound them from below:
 *
 *   pauses  A cut makes guests stand still for a time that hardly depends on the epoch's length, so
 *           the epoch is at least pause / MaxSlowdown.
 *   faults  The first write to a page after each harvest costs its guest a fault. Rewritten pages are
 *           found once per epoch however long it is, so longer epochs cost less. How much a fault
 *           costs cannot be seen from outside the guest: PACE_FAULT_NS is assumed.
 *   drain   Epochs go out one after the other, so one has to be through when the next is cut. The time
 *           that it takes is measured as a whole, encoding, link and standby: from its cut, or from
 *           the acknowledgement before it if it had to wait for that, to its own. The epoch is
 *           PACE_DRAIN_MARGIN of this. So there is mostly one epoch in flight; the second one that
 *           is allowed takes up what comes unevenly.
 *
 * MaxLag bounds them from above: the last committed cut is at most an epoch and its way old, and its
 * way is shorter than the epoch, so an epoch is at most half of MaxLag.
 *
 * Where that contradicts itself, pauses win, as they are measured and a longer epoch is sure to help;
 * then MaxLag; then the assumed faults and the drain. What a link cannot carry in epochs of half of
 * MaxLag waits in staging, and in the end guests are throttled (coordinator.c). Never below
 * PACE_LEAST_NS, never above PACE_MOST_NS.
 *
 * Each sample moves an estimate by at most a quarter of it, up or down, and so the interval. A hiccup
 * of one epoch is hardly felt; a link that is ten times slower is followed in about ten epochs.
 */
#ifndef DISTRICT_CKPT_PACE_H
#define DISTRICT_CKPT_PACE_H

#include "common/clock.h"

#include <stdint.h>

#define PACE_LEAST_NS (2 * NS_PER_MS)
#define PACE_MOST_NS (2 * NS_PER_S)
/* Before there is any sample. */
#define PACE_START_NS (25 * NS_PER_MS)
/* Of the time that an epoch takes to be acknowledged, in per cent. */
#define PACE_DRAIN_MARGIN 125
/*
 * One write fault of the dirty log: an exit, the fault's handling in KVM, and the way back. 1 to 3 us
 * on processors with EPT or NPT; hardware that logs by itself (PML) takes less, KVM inside another
 * hypervisor many times as much. The same for both dirty sources, which differ in how pages are told.
 */
#define PACE_FAULT_NS 2000

#define PACE_SLOWDOWN_MIN 1 /* per cent */
#define PACE_SLOWDOWN_MAX 50
#define PACE_SLOWDOWN_DEFAULT 10
#define PACE_LAG_MIN_NS (10 * NS_PER_MS)
#define PACE_LAG_MAX_NS (2 * PACE_MOST_NS)
#define PACE_LAG_DEFAULT_NS NS_PER_S

typedef struct Pace {
    int64_t max_slowdown; /* per cent */
    int64_t max_lag_ns;
    /* Estimates, never below what the least interval comes from. */
    int64_t pause_ns; /* of an epoch */
    int64_t cost_ns;  /* pause and faults of an epoch */
    int64_t drain_ns;
    int64_t slowdown_ppm; /* what guests have lost of late: pauses and assumed faults */
} Pace;

/* Both within the bounds above; 0: the default. */
void pace_init(Pace *pace, unsigned max_slowdown, int64_t max_lag_ns);

/* A cut has been made, interval_ns after the one before: the longest pause of a member, and the most
 * faults that a vCPU took since then, if those of a member were its vCPUs' alike. Any values are taken. */
void pace_cut(Pace *pace, int64_t pause_ns, uint64_t faults, int64_t interval_ns);

/* An epoch has been acknowledged, and the way out was its own for drain_ns. */
void pace_drained(Pace *pace, int64_t drain_ns);

/* From the last cut to the next one. */
int64_t pace_interval_ns(const Pace *pace);

#endif
