/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Staging: the pages of one epoch, copied out of guest RAM. Each page has one slot; a page copied
 * again goes to the same slot. One thread fills it; once frozen (no more staging_copy) any number
 * of threads may read it.
 *
 * Address space is reserved for all pages of all members, so a cut never fails for want of room;
 * memory is used only for slots that were filled. The coordinator keeps that bounded by throttling
 * the guests, see STAGING_SOFT_PAGES there.
 */
#ifndef DISTRICT_CKPT_STAGING_H
#define DISTRICT_CKPT_STAGING_H

#include "ckpt/encode.h"

#include <glib.h>

typedef struct Staging Staging;

/* For n_members members of n_pages_of[i] pages. NULL with error set if address space runs out. */
Staging *staging_new(const uint64_t *n_pages_of, uint32_t n_members, GError **error);
void staging_free(Staging *staging);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Staging, staging_free)

/* Room for page `page` (below n_pages_of[member]) of member, to be filled by the caller before it is read: its
 * slot if it has one, else a new one. Lives until staging_clear. */
uint8_t *staging_place(Staging *staging, uint32_t member, uint64_t page);
/* Copy PAGE_BYTES from data as page `page` (below n_pages_of[member]) of member. */
void staging_copy(Staging *staging, uint32_t member, uint64_t page, const uint8_t *data);

/* Pages staged: of all members, and of one. */
uint64_t staging_pages(const Staging *staging);
uint64_t staging_member_pages(const Staging *staging, uint32_t member);

/* Slot `slot` (below staging_member_pages) of member; the data lives until staging_clear. */
PageRef staging_page(const Staging *staging, uint32_t member, uint64_t slot);

/* Forget all pages. Memory of more than keep_pages slots per member goes back to the kernel. */
void staging_clear(Staging *staging, uint64_t keep_pages);

#endif
