/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Distributions of times: the last samples of a measure, and percentiles over them. */
#ifndef DISTRICT_CKPT_STATS_H
#define DISTRICT_CKPT_STATS_H

#include <stdint.h>

#define SAMPLES_KEPT 4096

/* The last SAMPLES_KEPT samples. All zero is a valid empty ring. Owned by one thread. */
typedef struct SampleRing {
    uint64_t count; /* samples ever added */
    uint64_t last;
    uint64_t samples[SAMPLES_KEPT];
} SampleRing;

/* Percentiles of the samples kept, in the unit of the samples; count is of all samples ever. */
typedef struct Percentiles {
    uint64_t count;
    uint64_t p50;
    uint64_t p99;
    uint64_t max;
    uint64_t last;
} Percentiles;

void sample_ring_add(SampleRing *ring, uint64_t value);

/* Nearest-rank percentiles; all zero if there is no sample. */
Percentiles sample_ring_percentiles(const SampleRing *ring);

#endif
