/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page bitmaps. */
#include "common/pagebits.h"

#include "common/page.h"

#include <emmintrin.h>

#define WORD_BITS 64
#define GROUP_WORDS 8

size_t
pagebits_words(uint64_t n_pages)
{
    return (size_t)((n_pages + WORD_BITS - 1) / WORD_BITS);
}

size_t
pagebits_bytes(uint64_t n_pages)
{
    size_t bytes = pagebits_words(n_pages) * sizeof(uint64_t);

    return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

void
pagebits_set(uint64_t *bits, uint64_t page)
{
    __atomic_fetch_or(&bits[page / WORD_BITS], (uint64_t)1 << (page % WORD_BITS), __ATOMIC_ACQ_REL);
}

bool
pagebits_test(const uint64_t *bits, uint64_t page)
{
    return (__atomic_load_n(&bits[page / WORD_BITS], __ATOMIC_ACQUIRE) >> (page % WORD_BITS)) & 1;
}

void
pagebits_set_range(uint64_t *bits, uint64_t first, uint64_t count)
{
    while (count > 0) {
        uint64_t shift = first % WORD_BITS;
        uint64_t n = count < WORD_BITS - shift ? count : WORD_BITS - shift;
        uint64_t mask = n == WORD_BITS ? ~(uint64_t)0 : (((uint64_t)1 << n) - 1) << shift;
        __atomic_fetch_or(&bits[first / WORD_BITS], mask, __ATOMIC_ACQ_REL);
        first += n;
        count -= n;
    }
}

/* Most of a bitmap is clear. Halves of these loads may be from before and after a write, words are not. */
static bool
group_is_clear(const uint64_t *bits)
{
    const __m128i *from = (const __m128i *)(const void *)bits;
    __m128i low = _mm_or_si128(_mm_loadu_si128(from), _mm_loadu_si128(from + 1));
    __m128i high = _mm_or_si128(_mm_loadu_si128(from + 2), _mm_loadu_si128(from + 3));
    __m128i zero = _mm_cmpeq_epi8(_mm_or_si128(low, high), _mm_setzero_si128());

    return _mm_movemask_epi8(zero) == 0xFFFF;
}

size_t
pagebits_next(const uint64_t *bits, size_t word, size_t words)
{
    while (word < words) {
        if (word % GROUP_WORDS == 0 && words - word >= GROUP_WORDS && group_is_clear(bits + word))
            word += GROUP_WORDS;
        else if (__atomic_load_n(&bits[word], __ATOMIC_RELAXED) != 0)
            return word;
        else
            word++;
    }
    return words;
}

uint64_t
pagebits_take_word(uint64_t *bits, size_t word)
{
    /* Most words are clear: a plain load keeps their cache lines shared. */
    if (__atomic_load_n(&bits[word], __ATOMIC_ACQUIRE) == 0)
        return 0;
    return __atomic_exchange_n(&bits[word], 0, __ATOMIC_ACQ_REL);
}

uint64_t
pagebits_or(uint64_t *dst, const uint64_t *src, size_t words)
{
    uint64_t n = 0;

    for (size_t i = pagebits_next(src, 0, words); i < words; i = pagebits_next(src, i + 1, words)) {
        __atomic_fetch_or(&dst[i], src[i], __ATOMIC_ACQ_REL);
        n += (uint64_t)__builtin_popcountll(src[i]);
    }
    return n;
}

uint64_t
pagebits_count(const uint64_t *bits, size_t words)
{
    uint64_t n = 0;

    for (size_t i = 0; i < words; i++)
        n += (uint64_t)__builtin_popcountll(__atomic_load_n(&bits[i], __ATOMIC_ACQUIRE));
    return n;
}
