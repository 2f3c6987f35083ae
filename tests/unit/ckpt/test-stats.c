/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Histograms against sorted arrays, and measures over time. */
#include "ckpt/stats.h"

#include <glib.h>
#include <stdlib.h>

#define SAMPLES 20000

/* Spread over magnitudes, as times are. */
static uint64_t
random_value(GRand *rand)
{
    uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

    return value >> g_rand_int_range(rand, 0, 64);
}

static int
compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* A percentile is never below the sample of its rank, and at most 1/32 above it. */
static void
assert_close(uint64_t told, uint64_t sample)
{
    g_assert_cmpuint(told, >=, sample);
    g_assert_cmpuint(told - sample, <=, sample / 32);
}

static void
test_error(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree Histogram *h = g_new0(Histogram, 1);

    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t value = random_value(rand);
        histogram_add(h, value);
        /* So that its bucket, and not the largest sample, says what the median is. */
        histogram_add(h, UINT64_MAX);
        assert_close(histogram_percentiles(h).p50, value);
        histogram_clear(h);
    }
}

static void
test_sorted(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    g_autofree uint64_t *sorted = g_new(uint64_t, SAMPLES);
    const size_t counts[] = {1, 2, 3, 9, 10, 11, 99, 100, 101, 1000, SAMPLES};

    for (size_t k = 0; k < G_N_ELEMENTS(counts); k++) {
        g_autofree Histogram *h = g_new0(Histogram, 1);
        size_t n = counts[k];
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i++) {
            sorted[i] = random_value(rand) >> 16;
            sum += sorted[i];
            histogram_add(h, sorted[i]);
        }
        qsort(sorted, n, sizeof(uint64_t), compare);
        Percentiles p = histogram_percentiles(h);
        g_assert_cmpuint(p.count, ==, n);
        assert_close(p.p50, sorted[(n * 50 + 99) / 100 - 1]);
        assert_close(p.p90, sorted[(n * 90 + 99) / 100 - 1]);
        assert_close(p.p99, sorted[(n * 99 + 99) / 100 - 1]);
        g_assert_cmpuint(p.max, ==, sorted[n - 1]);
        g_assert_cmpuint(p.mean, ==, sum / n);
    }
}

static void
test_small(void)
{
    g_autofree Histogram *h = g_new0(Histogram, 1);

    for (uint64_t i = 1; i <= 50; i++)
        histogram_add(h, 51 - i);
    Percentiles p = histogram_percentiles(h);
    g_assert_cmpuint(p.p50, ==, 25);
    g_assert_cmpuint(p.p90, ==, 45);
    g_assert_cmpuint(p.p99, ==, 50);
    g_assert_cmpuint(p.max, ==, 50);
}

static void
assert_same(const Histogram *a, const Histogram *b)
{
    g_assert_cmpmem(a, sizeof(*a), b, sizeof(*b));
}

static void
test_merge(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    g_autofree Histogram *one = g_new0(Histogram, 1), *two = g_new0(Histogram, 1);
    g_autofree Histogram *both = g_new0(Histogram, 1), *none = g_new0(Histogram, 1);

    histogram_merge(one, none);
    assert_same(one, none);
    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t value = random_value(rand);
        histogram_add(i % 3 == 0 ? one : two, value);
        histogram_add(both, value);
    }
    histogram_merge(one, none);
    histogram_merge(one, two);
    assert_same(one, both);
    histogram_merge(none, both);
    assert_same(none, both);
}

static void
test_extremes(void)
{
    g_autofree Histogram *h = g_new0(Histogram, 1);

    histogram_add(h, 0);
    g_assert_cmpuint(histogram_percentiles(h).p99, ==, 0);
    histogram_add(h, UINT64_MAX);
    histogram_add(h, UINT64_MAX);
    Percentiles p = histogram_percentiles(h);
    g_assert_cmpuint(p.count, ==, 3);
    g_assert_cmpuint(p.p50, ==, UINT64_MAX);
    g_assert_cmpuint(p.max, ==, UINT64_MAX);
    for (unsigned bit = 0; bit < 64; bit++) {
        histogram_clear(h);
        histogram_add(h, UINT64_C(1) << bit);
        g_assert_cmpuint(histogram_percentiles(h).p50, ==, UINT64_C(1) << bit);
        histogram_add(h, (UINT64_C(1) << bit) - 1);
        assert_close(histogram_percentiles(h).p50, (UINT64_C(1) << bit) - 1);
    }
}

static void
test_none(void)
{
    g_autofree Histogram *h = g_new0(Histogram, 1), *empty = g_new0(Histogram, 1);

    g_assert_cmpuint(histogram_percentiles(h).count, ==, 0);
    g_assert_cmpuint(histogram_percentiles(h).p99, ==, 0);
    histogram_add(h, 7);
    histogram_add(h, UINT64_MAX);
    histogram_clear(h);
    assert_same(h, empty);
}

static void
test_recent(void)
{
    g_autofree Measure *m = g_new0(Measure, 1);
    const int64_t start = 1000 * MEASURE_WINDOW_NS;

    measure_add(m, 1000, start);
    g_assert_cmpuint(measure_recent(m, start + MEASURE_WINDOW_NS - 1).max, ==, 1000);
    measure_add(m, 5, start + MEASURE_WINDOW_NS);
    /* In the window before. */
    g_assert_cmpuint(measure_recent(m, start + 2 * MEASURE_WINDOW_NS - 1).count, ==, 2);
    g_assert_cmpuint(measure_recent(m, start + 2 * MEASURE_WINDOW_NS - 1).max, ==, 1000);
    /* Gone; the other is. */
    Percentiles p = measure_recent(m, start + 2 * MEASURE_WINDOW_NS);
    g_assert_cmpuint(p.count, ==, 1);
    g_assert_cmpuint(p.max, ==, 5);
    g_assert_cmpuint(histogram_percentiles(&m->all).max, ==, 1000);
    g_assert_cmpuint(m->last, ==, 5);
}

static void
test_silence(void)
{
    g_autofree Measure *m = g_new0(Measure, 1);
    const int64_t start = 1000 * MEASURE_WINDOW_NS;

    for (int i = 0; i < 20; i++)
        measure_add(m, 9, start + i * MEASURE_WINDOW_NS / 10);
    g_assert_cmpuint(measure_recent(m, start + 20 * MEASURE_WINDOW_NS).count, ==, 0);
    g_assert_cmpuint(histogram_percentiles(&m->all).count, ==, 20);
}

static void
test_names(void)
{
    for (unsigned i = 0; i < MEASURES; i++) {
        g_assert_nonnull(measure_name((MeasureKind)i));
        for (unsigned k = 0; k < i; k++)
            g_assert_cmpstr(measure_name((MeasureKind)i), !=, measure_name((MeasureKind)k));
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/histogram/no value is told more than a 32nd above what it was", test_error);
    g_test_add_func("/histogram/percentiles are those of the sorted samples", test_sorted);
    g_test_add_func("/histogram/small values are exact, and ranks the nearest", test_small);
    g_test_add_func("/histogram/a sum is as if all had been added to one", test_merge);
    g_test_add_func("/histogram/zero, powers of two and the largest value have their place",
                    test_extremes);
    g_test_add_func("/histogram/no sample gives zeroes", test_none);
    g_test_add_func("/stats/recent are the last two windows", test_recent);
    g_test_add_func("/stats/after a silence nothing is recent", test_silence);
    g_test_add_func("/stats/every measure has a name of its own", test_names);
    return g_test_run();
}
