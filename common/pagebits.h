/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Page bitmaps: one bit per 4 KiB page, in 64-bit words, little-endian bit order as
 * KVM_GET_DIRTY_LOG has it. They may lie in memory shared between processes, so the operations that
 * can race are atomic, word by word.
 */
#ifndef DISTRICT_COMMON_PAGEBITS_H
#define DISTRICT_COMMON_PAGEBITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Words, and bytes rounded up to whole pages, for a bitmap of n_pages bits. */
size_t pagebits_words(uint64_t n_pages);
size_t pagebits_bytes(uint64_t n_pages);

/* Set or test one bit; atomic. */
void pagebits_set(uint64_t *bits, uint64_t page);
bool pagebits_test(const uint64_t *bits, uint64_t page);

/* Set bits [first, first + count); atomic per word. */
void pagebits_set_range(uint64_t *bits, uint64_t first, uint64_t count);

/* The first word from `word` on that is not 0, or words. What a racing writer sets may be missed. */
size_t pagebits_next(const uint64_t *bits, size_t word, size_t words);

/* Clear and return one word; atomic exchange. */
uint64_t pagebits_take_word(uint64_t *bits, size_t word);

/* dst |= src, atomic on dst. Returns how many bits were set in src. */
uint64_t pagebits_or(uint64_t *dst, const uint64_t *src, size_t words);

/* Number of bits set; a racing writer may or may not be counted. */
uint64_t pagebits_count(const uint64_t *bits, size_t words);

#endif
