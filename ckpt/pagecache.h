/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bounded cache of what was last sent of pages: what deltas are made against. One thread.
 *
 * Theory of operation. A page's place in the cache is a number that its owner keeps for it
 * (0: it is not there), so finding it is one load. Which pages stay: each slot has a small credit,
 * which is filled up when the page is found. A page for which there is no free slot takes one unit of
 * credit from the slot under the hand, which moves on; only if there is none left does the page get the slot.
 * LRU and plain CLOCK let a loop over more pages than there are slots drive out every page right before
 * it is wanted again, and a single scan drive out the hot set. Here most of a loop that is twice the
 * size of the cache finds half of its pages, the hot set outlives a scan, and what is not wanted any more
 * goes after as many misses as it has credit for. One step per miss, no list to keep.
 */
#ifndef DISTRICT_CKPT_PAGECACHE_H
#define DISTRICT_CKPT_PAGECACHE_H

#include "common/page.h"

#include <stddef.h>
#include <stdint.h>

typedef struct PageCache PageCache;

/* For so many bytes of pages, at least one page. Memory is used as slots are filled. */
PageCache *page_cache_new(size_t bytes);
/* No place may be used after that, except to set it to 0. */
void page_cache_free(PageCache *cache);

/* The content that is kept for the page with this place, valid until the next call; NULL: none. */
uint8_t *page_cache_find(PageCache *cache, const uint32_t *place);
/* The page has that content from now on: keep it if it is found worth it, else forget the page. The
 * place is set by this and, when another page takes the slot, by later calls: it must not move. */
void page_cache_put(PageCache *cache, uint32_t *place, const uint8_t *data);
void page_cache_drop(PageCache *cache, uint32_t *place);

#endif
