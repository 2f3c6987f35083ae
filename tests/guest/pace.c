/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * op=pace: dirties so many pages in each period of the TSC, evenly, and tells the longest time that it did not
 * run: what a pause is to a guest. Between two looks at the TSC it writes a few pages, so that a gap is
 * hardly longer than what stopped it. Plain integer code: it may run on an emulated CPU.
 */
#include "cpu.h"

/* Pages written between two looks at the TSC. */
#define PACE_BATCH 8

static struct {
    uint64_t next;  /* page to write next */
    uint64_t begin; /* of this round */
    uint64_t seen;  /* the TSC at the last look */
    uint64_t gap;   /* the longest between two looks since the last report */
    uint64_t late;  /* what the longest round took above its period, since then */
} pace;

static inline uint64_t
tsc_read(void)
{
    uint32_t low;
    uint32_t high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((uint64_t)high << 32) | low;
}

/* Look at the TSC until it is there; returns what it is then. */
static uint64_t
pace_wait(uint64_t until)
{
    uint64_t seen = pace.seen;
    uint64_t now;

    do {
        now = tsc_read();
        if (now - seen > pace.gap)
            pace.gap = now - seen;
        seen = now;
    } while (now < until);
    pace.seen = seen;
    return now;
}

static void
pace_write(const GuestParams *params, uint64_t n)
{
    uint64_t left = params->pages - pace.next;
    uint64_t count = n < left ? n : left;
    volatile uint64_t *word = (volatile uint64_t *)(params->base + pace.next * GUEST_PAGE_BYTES);

    for (uint64_t i = 0; i < count; i++, word += GUEST_PAGE_WORDS)
        *word = pace.begin;
    pace.next += count;
    if (pace.next == params->pages)
        pace.next = 0;
}

static void
pace_round(unsigned cpu)
{
    const GuestParams *params = &header->params;
    uint64_t step = params->dirty ? params->period * PACE_BATCH / params->dirty : 0;
    uint64_t target = pace.begin;
    uint64_t end = pace.begin + params->period;

    for (uint64_t done = 0; done < params->dirty; done += PACE_BATCH) {
        pace_write(params, PACE_BATCH);
        target += step;
        pace_wait(target < end ? target : end);
    }
    uint64_t now = pace_wait(end);

    (void)cpu;
    if (now - end > pace.late)
        pace.late = now - end;
    /* Late by more than a period: what is lost is lost. */
    pace.begin = now - end < params->period ? end : now;
}

static void
pace_report(uint64_t round)
{
    out_begin();
    out_text("pace round=");
    out_number(round);
    out_text(" gap=");
    out_number(pace.gap);
    out_text(" late=");
    out_number(pace.late);
    out_end();
    pace.gap = 0;
    pace.late = 0;
    pace.seen = tsc_read();
}

void
pace_run(void)
{
    const GuestParams *params = &header->params;

    pace.begin = pace.seen = tsc_read();
    for (uint64_t round = 1; params->rounds == 0 || round <= params->rounds; round++) {
        if (params->ring == 3)
            cpu_call_ring3(pace_round, 0);
        else
            pace_round(0);
        if (params->report != 0 && round % params->report == 0)
            pace_report(round);
    }
}
