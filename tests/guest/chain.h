/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tiny guest's work, as a function of its options alone. Freestanding: the guest runs it on its
 * RAM, the checker on a copy.
 *
 * Each CPU has its own slice of the working set and its own chain, a 64-bit hash. A step picks a
 * page by a PRNG from (seed, cpu, round, step), folds words of its old content into the chain, then
 * writes content derived from the chain. So the chain depends on everything ever written and read
 * back: one page that was lost, or came back stale, makes it differ from then on. Verify steps only
 * fold.
 */
#ifndef DISTRICT_TESTS_GUEST_CHAIN_H
#define DISTRICT_TESTS_GUEST_CHAIN_H

#include "guest.h"

/* Pages of cpu's slice; *first: index of its first page in the working set. */
uint64_t chain_slice(const GuestParams *params, unsigned cpu, uint64_t *first);

/* Before the first step. */
ChainPos chain_start(const GuestParams *params, unsigned cpu);

/* True if all of params->rounds are done (never, if it is 0). */
bool chain_finished(const GuestParams *params, const ChainPos *pos);

/* Index in the slice of the page that the step at pos reads or writes. */
uint64_t chain_step_page(const GuestParams *params, unsigned cpu, const ChainPos *pos);

/* Do the step at pos on slice, the first page of cpu's slice, and move pos on. */
void chain_step(const GuestParams *params, unsigned cpu, ChainPos *pos, uint64_t *slice);

#endif
