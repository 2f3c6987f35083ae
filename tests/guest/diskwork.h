/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tiny guest has on its disk, as a function of the numbers of its writes: for the guest
 * and the checker. Freestanding.
 *
 * The disk has GUEST_DISK_UNITS places, written over and over: the first half are blocks of 4096
 * bytes, the others pieces of 3 sectors that lie across such blocks. Write number n goes to the
 * place guest_disk_unit(n) and fills it with words that follow from n. The header page has for each
 * place the number it was last written with, and the number of a write that is under way.
 */
#ifndef DISTRICT_TESTS_GUEST_DISKWORK_H
#define DISTRICT_TESTS_GUEST_DISKWORK_H

#include "guest.h"

#define GUEST_DISK_BYTES_MIN (1024 * 1024)
#define GUEST_DISK_PIECE_BYTES 1536

static inline unsigned
guest_disk_unit(uint64_t number)
{
    return (unsigned)(number * 29 % GUEST_DISK_UNITS);
}

static inline uint64_t
guest_disk_bytes(unsigned unit)
{
    return unit < GUEST_DISK_UNITS / 2 ? GUEST_PAGE_BYTES : GUEST_DISK_PIECE_BYTES;
}

static inline uint64_t
guest_disk_offset(unsigned unit)
{
    uint64_t half = GUEST_DISK_UNITS / 2;

    return unit < half ? unit * GUEST_PAGE_BYTES
                       : half * GUEST_PAGE_BYTES + (unit - half) * GUEST_DISK_PIECE_BYTES;
}

static inline uint64_t
guest_disk_word(uint64_t number, uint64_t i)
{
    return i == 0 ? number : (number * 512 + i) * 0x9E3779B97F4A7C15ULL;
}

static inline bool
guest_disk_is(const uint64_t *words, unsigned unit, uint64_t number)
{
    for (uint64_t i = 0; i < guest_disk_bytes(unit) / 8; i++)
        if (words[i] != guest_disk_word(number, i))
            return false;
    return true;
}

#endif
