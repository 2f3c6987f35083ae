/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pace of cuts: pace.h has the theory. */
#include "ckpt/pace.h"

#include <glib.h>

/* Each sample moves an estimate by this part of the difference... */
#define PACE_STEP 4
/* ...and counts as no more than so many times the estimate. */
#define PACE_SAMPLE_MAX 2
/* What guests lose is told over about so many epochs. */
#define PACE_TOLD_STEP 8
/* No sample is above this, whatever clocks say, so that sums stay far from any limit. */
#define PACE_SANE_NS (60 * NS_PER_S)
#define PPM 1000000

static int64_t
pace_sane(int64_t ns)
{
    return CLAMP(ns, 0, PACE_SANE_NS);
}

static int64_t
pace_faults_ns(uint64_t faults)
{
    return (int64_t)MIN(faults, (uint64_t)(PACE_SANE_NS / PACE_FAULT_NS)) * PACE_FAULT_NS;
}

/* What guests may lose in an epoch of that length. */
static int64_t
pace_budget_ns(const Pace *pace, int64_t interval_ns)
{
    return interval_ns * pace->max_slowdown / 100;
}

/* The time to drain that asks for this length. */
static int64_t
pace_drain_of(int64_t interval_ns)
{
    return interval_ns * 100 / PACE_DRAIN_MARGIN;
}

static int64_t
pace_smooth(int64_t estimate, int64_t sample, int64_t least)
{
    sample = MIN(sample, estimate * PACE_SAMPLE_MAX);
    return MAX(estimate + (sample - estimate) / PACE_STEP, least);
}

void
pace_init(Pace *pace, unsigned max_slowdown, int64_t max_lag_ns)
{
    *pace = (Pace){.max_slowdown = max_slowdown ? max_slowdown : PACE_SLOWDOWN_DEFAULT,
                   .max_lag_ns = max_lag_ns ? max_lag_ns : PACE_LAG_DEFAULT_NS};
    int64_t start = MIN(PACE_START_NS, pace->max_lag_ns / 2);
    pace->pause_ns = pace->cost_ns = pace_budget_ns(pace, start);
    pace->drain_ns = pace_drain_of(start);
}

void
pace_cut(Pace *pace, int64_t pause_ns, uint64_t faults, int64_t interval_ns)
{
    int64_t pause = pace_sane(pause_ns);
    int64_t cost = pause + pace_faults_ns(faults);
    int64_t least = pace_budget_ns(pace, PACE_LEAST_NS);

    pace->pause_ns = pace_smooth(pace->pause_ns, pause, least);
    pace->cost_ns = pace_smooth(pace->cost_ns, cost, least);
    if (interval_ns <= 0)
        return;
    int64_t lost_ppm = (int64_t)((double)cost * PPM / (double)MAX(interval_ns, cost));
    pace->slowdown_ppm += (lost_ppm - pace->slowdown_ppm) / PACE_TOLD_STEP;
}

void
pace_drained(Pace *pace, int64_t drain_ns)
{
    pace->drain_ns = pace_smooth(pace->drain_ns, pace_sane(drain_ns), pace_drain_of(PACE_LEAST_NS));
}

int64_t
pace_interval_ns(const Pace *pace)
{
    int64_t pauses = pace->pause_ns * 100 / pace->max_slowdown;
    int64_t faults = pace->cost_ns * 100 / pace->max_slowdown;
    int64_t drain = pace->drain_ns * PACE_DRAIN_MARGIN / 100;
    int64_t wish = MIN(MAX(faults, drain), pace->max_lag_ns / 2);

    return CLAMP(MAX(pauses, wish), PACE_LEAST_NS, PACE_MOST_NS);
}
