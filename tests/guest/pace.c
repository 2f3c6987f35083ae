/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rounds that last a period of the TSC each: their steps are spread evenly over it, and what is left is spent
 * looking at the TSC. So a guest dirties so much in a second, tells the longest time that it did not run (what a
 * pause is to a guest), and how often it looked (the time that was left to it). Plain integer code: it may
 * run on an emulated CPU.
 */
#include "cpu.h"

/* Steps between two looks at the TSC: few, so that a gap is hardly longer than what stopped the guest. */
#define PACE_STEPS 8

typedef struct Pace {
    uint64_t begin;  /* of this round */
    uint64_t end;    /* of this round, if it keeps its pace */
    uint64_t target; /* when the next steps are due */
    uint64_t pause;  /* between one PACE_STEPS and the next */
    uint64_t steps;  /* done in this round */
    uint64_t seen;   /* the TSC at the last look */
    /* Since the last report: */
    uint64_t from;  /* the TSC when it was out */
    uint64_t gap;   /* the longest between two looks */
    uint64_t late;  /* the most by which a round exceeded its period */
    uint64_t spins; /* looks */
} Pace;

static Pace paces[GUEST_CPUS_MAX];

static inline uint64_t
tsc_read(void)
{
    uint32_t low;
    uint32_t high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((uint64_t)high << 32) | low;
}

/* Look at the TSC until it is there, once at least. */
static void
pace_wait(Pace *pace, uint64_t until)
{
    uint64_t seen = pace->seen;
    uint64_t spins = 0;
    uint64_t now;

    do {
        now = tsc_read();
        if (now - seen > pace->gap)
            pace->gap = now - seen;
        seen = now;
        spins++;
    } while (now < until);
    pace->seen = seen;
    pace->spins += spins;
}

void
pace_begin(const GuestParams *params, unsigned cpu)
{
    Pace *pace = &paces[cpu];
    uint64_t groups = (params->dirty + PACE_STEPS - 1) / PACE_STEPS;

    /* Late by more than a period: what is lost is lost. */
    if (pace->seen == 0 || pace->seen - pace->begin >= params->period * 2)
        pace->begin = pace->seen = tsc_read();
    else
        pace->begin += params->period;
    if (pace->from == 0)
        pace->from = pace->begin;
    pace->end = pace->begin + params->period;
    pace->target = pace->begin;
    pace->pause = groups > 0 ? params->period / groups : 0;
    pace->steps = 0;
}

void
pace_step(unsigned cpu)
{
    Pace *pace = &paces[cpu];

    if (++pace->steps % PACE_STEPS != 0)
        return;
    pace->target += pace->pause;
    pace_wait(pace, pace->target < pace->end ? pace->target : pace->end);
}

void
pace_end(unsigned cpu)
{
    Pace *pace = &paces[cpu];

    pace_wait(pace, pace->end);
    if (pace->seen - pace->end > pace->late)
        pace->late = pace->seen - pace->end;
}

void
pace_report(unsigned cpu)
{
    Pace *pace = &paces[cpu];

    out_begin();
    out_text("pace cpu=");
    out_number(cpu);
    out_text(" ticks=");
    out_number(pace->seen - pace->from);
    out_text(" gap=");
    out_number(pace->gap);
    out_text(" late=");
    out_number(pace->late);
    out_text(" spins=");
    out_number(pace->spins);
    out_end();
    pace->gap = pace->late = pace->spins = 0;
    pace->seen = pace->from = tsc_read();
}
