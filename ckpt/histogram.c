/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Histograms with bounded relative error. */
#include "ckpt/histogram.h"

#include <glib.h>
#include <string.h>

static unsigned
histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;

    /* The bit that makes value that large is a step of its own: it carries into the power. */
    return shift * HISTOGRAM_STEPS + (unsigned)(value >> shift);
}

/* The largest value of a bucket. */
static uint64_t
histogram_top(unsigned bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    uint64_t first = (uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << shift;

    return first + ((UINT64_C(1) << shift) - 1);
}

void
histogram_add(Histogram *histogram, uint64_t value)
{
    histogram->buckets[histogram_bucket(value)]++;
    if (histogram->count == 0 || value < histogram->min)
        histogram->min = value;
    histogram->max = MAX(histogram->max, value);
    histogram->sum += value;
    histogram->count++;
}

void
histogram_clear(Histogram *histogram)
{
    if (histogram->count == 0)
        return;
    unsigned first = histogram_bucket(histogram->min), last = histogram_bucket(histogram->max);

    memset(&histogram->buckets[first], 0, (last - first + 1) * sizeof(histogram->buckets[0]));
    histogram->count = histogram->sum = histogram->max = histogram->min = 0;
}

void
histogram_merge(Histogram *histogram, const Histogram *more)
{
    if (more->count == 0)
        return;
    for (unsigned i = histogram_bucket(more->min); i <= histogram_bucket(more->max); i++)
        histogram->buckets[i] += more->buckets[i];
    histogram->min = histogram->count == 0 ? more->min : MIN(histogram->min, more->min);
    histogram->max = MAX(histogram->max, more->max);
    histogram->sum += more->sum;
    histogram->count += more->count;
}

/* ceil(count * percent / 100), without overflow. */
static uint64_t
histogram_rank(uint64_t count, unsigned percent)
{
    return count / 100 * percent + (count % 100 * percent + 99) / 100;
}

Percentiles
histogram_percentiles(const Histogram *histogram)
{
    static const unsigned percents[] = {50, 90, 99};
    uint64_t at[G_N_ELEMENTS(percents)], seen = 0;
    unsigned next = 0;

    if (histogram->count == 0)
        return (Percentiles){0};
    for (unsigned i = histogram_bucket(histogram->min); next < G_N_ELEMENTS(percents); i++) {
        seen += histogram->buckets[i];
        /* What was added never exceeds the largest, although its bucket may. */
        while (next < G_N_ELEMENTS(percents) &&
               seen >= histogram_rank(histogram->count, percents[next]))
            at[next++] = MIN(histogram_top(i), histogram->max);
    }
    return (Percentiles){.count = histogram->count,
                         .p50 = at[0],
                         .p90 = at[1],
                         .p99 = at[2],
                         .max = histogram->max,
                         .mean = histogram->sum / histogram->count};
}
