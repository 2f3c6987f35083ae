/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Distributions of times: a ring of the last samples, sorted when somebody asks. */
#include "ckpt/stats.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

void
sample_ring_add(SampleRing *ring, uint64_t value)
{
    ring->samples[ring->count % SAMPLES_KEPT] = value;
    ring->last = value;
    ring->count++;
}

static int
sample_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* The smallest sample that at least percent of all samples do not exceed. */
static uint64_t
sample_rank(const uint64_t *sorted, size_t n, unsigned percent)
{
    size_t rank = (n * percent + 99) / 100;

    return sorted[rank > 0 ? rank - 1 : 0];
}

Percentiles
sample_ring_percentiles(const SampleRing *ring)
{
    Percentiles p = {.count = ring->count, .last = ring->last};
    size_t n = MIN(ring->count, SAMPLES_KEPT);

    if (n == 0)
        return p;
    g_autofree uint64_t *sorted = g_memdup2(ring->samples, n * sizeof(uint64_t));
    qsort(sorted, n, sizeof(uint64_t), sample_compare);
    p.p50 = sample_rank(sorted, n, 50);
    p.p99 = sample_rank(sorted, n, 99);
    p.max = sorted[n - 1];
    return p;
}
