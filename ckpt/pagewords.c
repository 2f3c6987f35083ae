/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages as words: is one all zeros, where do two differ. */
#include "ckpt/pagewords.h"

#include <immintrin.h>
#include <string.h>

/* ---- Portable ---- */

static bool
portable_is_zero(const uint8_t *page)
{
    for (size_t at = 0; at < PAGE_BYTES; at += PAGE_GROUP_BYTES) {
        uint64_t word[8];
        memcpy(word, page + at, sizeof word);
        if ((word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) != 0)
            return false;
    }
    return true;
}

static unsigned
portable_diff(const uint8_t *a, const uint8_t *b, uint8_t mask[PAGE_MASK_BYTES])
{
    unsigned count = 0;

    for (size_t group = 0; group < PAGE_MASK_BYTES; group++) {
        uint64_t x[8], y[8];
        unsigned bits = 0;

        memcpy(x, a + group * PAGE_GROUP_BYTES, sizeof x);
        memcpy(y, b + group * PAGE_GROUP_BYTES, sizeof y);
        for (unsigned i = 0; i < 8; i++)
            bits |= (unsigned)(x[i] != y[i]) << i;
        mask[group] = (uint8_t)bits;
        count += (unsigned)__builtin_popcount(bits);
    }
    return count;
}

static const PageOps portable_ops = {"portable", portable_is_zero, portable_diff};

/* ---- AVX2 ---- */

__attribute__((target("avx2"))) static bool
avx2_is_zero(const uint8_t *page)
{
    for (size_t at = 0; at < PAGE_BYTES; at += 2 * PAGE_GROUP_BYTES) {
        const __m256i *from = (const __m256i *)(const void *)(page + at);
        __m256i low = _mm256_or_si256(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
        __m256i high = _mm256_or_si256(_mm256_loadu_si256(from + 2), _mm256_loadu_si256(from + 3));
        __m256i all = _mm256_or_si256(low, high);
        if (!_mm256_testz_si256(all, all))
            return false;
    }
    return true;
}

/* Of four words each: the bits of those that are equal. */
__attribute__((target("avx2"))) static inline unsigned
avx2_equal(const uint8_t *a, const uint8_t *b)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)a);
    __m256i y = _mm256_loadu_si256((const __m256i *)(const void *)b);

    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(x, y)));
}

__attribute__((target("avx2,popcnt"))) static unsigned
avx2_diff(const uint8_t *a, const uint8_t *b, uint8_t mask[PAGE_MASK_BYTES])
{
    unsigned count = 0;

    for (size_t group = 0; group < PAGE_MASK_BYTES; group++) {
        size_t at = group * PAGE_GROUP_BYTES;
        unsigned equal = avx2_equal(a + at, b + at) | avx2_equal(a + at + 32, b + at + 32) << 4;
        unsigned bits = equal ^ 0xff;

        mask[group] = (uint8_t)bits;
        count += (unsigned)__builtin_popcount(bits);
    }
    return count;
}

static const PageOps avx2_ops = {"avx2", avx2_is_zero, avx2_diff};

/* ---- Choosing ---- */

const PageOps *const *
page_ops_all(void)
{
    static const PageOps *const with_avx2[] = {&portable_ops, &avx2_ops, NULL};
    static const PageOps *const without[] = {&portable_ops, NULL};

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") ? with_avx2 : without;
}

const PageOps *
page_ops(void)
{
    static const PageOps *best; /* whoever comes first: all find the same */
    const PageOps *ops = g_atomic_pointer_get(&best);

    if (ops == NULL) {
        for (const PageOps *const *at = page_ops_all(); *at != NULL; at++)
            ops = *at;
        g_atomic_pointer_set(&best, ops);
    }
    return ops;
}
