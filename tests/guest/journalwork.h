/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tiny guest has on its journal (op=journal), for the guest and the checker. Freestanding.
 *
 * Sector 0 is the head: the number of the last record, and words that follow from it. Record n is in
 * one of GUEST_JOURNAL_SLOTS sectors behind it, written before the head that names it.
 */
#ifndef DISTRICT_TESTS_GUEST_JOURNALWORK_H
#define DISTRICT_TESTS_GUEST_JOURNALWORK_H

#include "diskwork.h"

#define GUEST_SECTOR_BYTES 512
#define GUEST_SECTOR_WORDS (GUEST_SECTOR_BYTES / 8)
#define GUEST_JOURNAL_SLOTS 1024
/* How many of the last records are checked: the journal may be read while it is written. */
#define GUEST_JOURNAL_CHECKED (GUEST_JOURNAL_SLOTS - 128)

static inline uint64_t
guest_journal_sector(uint64_t number)
{
    return 1 + number % GUEST_JOURNAL_SLOTS;
}

static inline bool
guest_journal_is(const uint64_t *words, uint64_t number)
{
    for (uint64_t i = 0; i < GUEST_SECTOR_WORDS; i++)
        if (words[i] != guest_disk_word(number, i))
            return false;
    return true;
}

#endif
