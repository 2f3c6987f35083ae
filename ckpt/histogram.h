/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Histograms with bounded relative error (log-linear, as HdrHistogram's).
 *
 * Theory of operation. Values below HISTOGRAM_STEPS have a bucket each. Above, each power of two is
 * divided into HISTOGRAM_STEPS buckets of equal width, so a bucket is never wider than 1/32 of the
 * values in it: a percentile is told as the largest value of its bucket, which is at most 1/32 above
 * a sample that was added, and never below. All of uint64_t has its place; count, sum, largest and
 * smallest are exact. Memory is fixed (15 KiB, of which only pages with samples are ever touched),
 * adding takes a few instructions, and nothing allocates.
 *
 * Not for two threads at a time.
 */
#ifndef DISTRICT_CKPT_HISTOGRAM_H
#define DISTRICT_CKPT_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 5
#define HISTOGRAM_STEPS (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

/* All zero is a valid empty histogram. */
typedef struct Histogram {
    uint64_t count;
    uint64_t sum; /* modulo 2^64: half a millennium of nanoseconds */
    uint64_t max;
    uint64_t min; /* of no meaning while count is 0 */
    uint64_t buckets[HISTOGRAM_BUCKETS];
} Histogram;

void histogram_add(Histogram *histogram, uint64_t value);
void histogram_clear(Histogram *histogram);
/* As if all that has been added to more had been added to histogram. */
void histogram_merge(Histogram *histogram, const Histogram *more);

/* In the unit of the samples; all zero without samples. Percentiles are by nearest rank: the smallest
 * value that at least so many percent of the samples do not exceed. */
typedef struct Percentiles {
    uint64_t count;
    uint64_t p50;
    uint64_t p90;
    uint64_t p99;
    uint64_t max;
    uint64_t mean; /* rounded down */
} Percentiles;
Percentiles histogram_percentiles(const Histogram *histogram);

#endif
