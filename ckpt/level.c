/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The zstd level of a stream, and how many threads encode. */
#include "ckpt/level.h"

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
/* Of the time, what fewer threads may cost: to go on with them, and to begin with so few. */
#define FEWER_COST 0.1
#define FEWER_COST_NEW 0.05
/* Of the link's speed, how much a new measurement counts. */
#define LINK_NEW 0.5

typedef struct LevelRule {
    int zstd;
    /* As a rule, where level 1 has 1: time, and bytes that are left (pages of a guest that runs pgbench). */
    double cost;
    double size;
} LevelRule;

/* 0 would mean zstd's default, which is 3. */
static const LevelRule levels[ZSTD_LEVELS] = {
    {-10, 0.45, 2.2}, {-5, 0.6, 1.7}, {-3, 0.68, 1.5}, {-1, 0.85, 1.1},
    {1, 1, 1},        {3, 1.6, 0.92}, {6, 4, 0.86},
};
#define LEVEL_START 4

void
level_init(Level *choice, unsigned threads_max)
{
    unsigned most = MAX(threads_max, 1);

    *choice = (Level){.threads_max = most, .threads = most, .at = LEVEL_START};
}

int
level_zstd(const Level *choice)
{
    return levels[choice->at].zstd;
}

/* How long a plain byte takes to arrive at a level, with so many threads, ns. */
static double
level_arrival(const Level *choice, unsigned level, unsigned threads, int64_t now_ns)
{
    const LevelRule *here = &levels[choice->at], *there = &levels[level];
    double cost = choice->cost[choice->at] * there->cost / here->cost;
    double size = choice->size[choice->at] * there->size / here->size;

    if (choice->known_ns[level] != 0 && now_ns - choice->known_ns[level] < KNOWN_FOR_NS) {
        cost = choice->cost[level];
        size = choice->size[level];
    }
    double encode = cost / threads, send = size * choice->link_ns_per_byte;
    return MAX(encode, send) + OVERLAP_MISSED * MIN(encode, send);
}

static bool
level_measure(Level *choice, const LevelSample *sample, int64_t now_ns)
{
    if (sample->link_bytes >= SAMPLE_BYTES_MIN && sample->link_ns > 0) {
        double now = (double)sample->link_ns / (double)sample->link_bytes;
        choice->link_ns_per_byte = choice->link_ns_per_byte == 0
                                       ? now
                                       : LINK_NEW * now + (1 - LINK_NEW) * choice->link_ns_per_byte;
    }
    if (sample->plain_bytes < SAMPLE_BYTES_MIN)
        return false;
    if (choice->moved) {
        choice->moved = false;
        return false;
    }
    choice->cost[choice->at] = (double)sample->encode_ns / (double)sample->plain_bytes;
    choice->size[choice->at] = (double)sample->encoded_bytes / (double)sample->plain_bytes;
    choice->known_ns[choice->at] = now_ns;
    return choice->link_ns_per_byte != 0;
}

static unsigned
level_threads(const Level *choice, int64_t now_ns)
{
    double least = level_arrival(choice, choice->at, choice->threads_max, now_ns);

    for (unsigned threads = 1; threads < choice->threads_max; threads++) {
        double cost = threads < choice->threads ? FEWER_COST_NEW : FEWER_COST;
        if (level_arrival(choice, choice->at, threads, now_ns) <= least * (1 + cost))
            return threads;
    }
    return choice->threads_max;
}

int
level_look(Level *choice, const LevelSample *sample, int64_t now_ns)
{
    unsigned best = choice->at;

    if (!level_measure(choice, sample, now_ns))
        return level_zstd(choice);
    double least =
        level_arrival(choice, choice->at, choice->threads_max, now_ns) * (1 - STEP_WORTH);
    for (unsigned level = choice->at > 0 ? choice->at - 1 : 0;
         level <= MIN(choice->at + 1, ZSTD_LEVELS - 1); level++) {
        double arrival = level_arrival(choice, level, choice->threads_max, now_ns);
        if (level == choice->at || arrival >= least)
            continue;
        best = level;
        least = arrival;
    }
    /* Of the level in force it is known; of the next one it will be at the next look. */
    choice->threads = best == choice->at ? level_threads(choice, now_ns) : choice->threads_max;
    choice->moved = best != choice->at;
    choice->at = best;
    return level_zstd(choice);
}
