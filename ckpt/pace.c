/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pace of a stream: the zstd level at which epochs arrive soonest. */
#include "ckpt/pace.h"

#include "common/clock.h"

#include <glib.h>

/* Less says nothing. */
#define SAMPLE_BYTES_MIN (256 * 1024)
/* How long it is believed what was measured at a level that is not in force. */
#define KNOWN_FOR_NS (30 * NS_PER_S)
/* Of the time that a step must save. */
#define STEP_WORTH 0.05
/* Of the faster one of encoding and sending, what counts: they do not overlap altogether, and it may as
 * well be no slower than it must. */
#define OVERLAP_MISSED 0.25
/* Of the link's speed, how much a new measurement counts. */
#define LINK_NEW 0.5

typedef struct PaceLevel {
    int zstd;
    /* As a rule, where level 1 has 1: time, and bytes that are left (pages of a guest that runs pgbench). */
    double cost;
    double size;
} PaceLevel;

/* 0 would mean zstd's default, which is 3. */
static const PaceLevel levels[PACE_LEVELS] = {
    {-10, 0.45, 2.2}, {-5, 0.6, 1.7}, {-3, 0.68, 1.5}, {-1, 0.85, 1.1},
    {1, 1, 1},        {3, 1.6, 0.92}, {6, 4, 0.86},
};
#define LEVEL_START 4

void
pace_init(Pace *pace, unsigned threads)
{
    *pace = (Pace){.threads = MAX(threads, 1), .at = LEVEL_START};
}

int
pace_level(const Pace *pace)
{
    return levels[pace->at].zstd;
}

/* How long a plain byte takes to arrive at a level, ns. */
static double
pace_arrival(const Pace *pace, unsigned level, int64_t now_ns)
{
    const PaceLevel *here = &levels[pace->at], *there = &levels[level];
    double cost = pace->cost[pace->at] * there->cost / here->cost;
    double size = pace->size[pace->at] * there->size / here->size;

    if (pace->known_ns[level] != 0 && now_ns - pace->known_ns[level] < KNOWN_FOR_NS) {
        cost = pace->cost[level];
        size = pace->size[level];
    }
    double encode = cost / pace->threads, send = size * pace->link_ns_per_byte;
    return MAX(encode, send) + OVERLAP_MISSED * MIN(encode, send);
}

static bool
pace_measure(Pace *pace, const PaceSample *sample, int64_t now_ns)
{
    if (sample->link_bytes >= SAMPLE_BYTES_MIN && sample->link_ns > 0) {
        double now = (double)sample->link_ns / (double)sample->link_bytes;
        pace->link_ns_per_byte = pace->link_ns_per_byte == 0
                                     ? now
                                     : LINK_NEW * now + (1 - LINK_NEW) * pace->link_ns_per_byte;
    }
    if (sample->plain_bytes < SAMPLE_BYTES_MIN)
        return false;
    if (pace->moved) {
        pace->moved = false;
        return false;
    }
    pace->cost[pace->at] = (double)sample->encode_ns / (double)sample->plain_bytes;
    pace->size[pace->at] = (double)sample->encoded_bytes / (double)sample->plain_bytes;
    pace->known_ns[pace->at] = now_ns;
    return pace->link_ns_per_byte != 0;
}

int
pace_look(Pace *pace, const PaceSample *sample, int64_t now_ns)
{
    unsigned best = pace->at;

    if (!pace_measure(pace, sample, now_ns))
        return pace_level(pace);
    double least = pace_arrival(pace, pace->at, now_ns) * (1 - STEP_WORTH);
    for (unsigned level = pace->at > 0 ? pace->at - 1 : 0;
         level <= MIN(pace->at + 1, PACE_LEVELS - 1); level++) {
        double arrival = pace_arrival(pace, level, now_ns);
        if (level == pace->at || arrival >= least)
            continue;
        best = level;
        least = arrival;
    }
    pace->moved = best != pace->at;
    pace->at = best;
    return pace_level(pace);
}
