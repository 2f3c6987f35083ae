/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying pages out of guest RAM, past the caches: what is copied is read again only later, by other
 * threads, and what the guest has in the caches stays there.
 *
 * A crew of threads helps where it counts, while a guest stands still: the caller and the crew take
 * chunks of the list until none is left. A thread of the crew that does not get a CPU takes none, and
 * is not waited for. One thread owns a PageCopier.
 */
#ifndef DISTRICT_CKPT_PAGECOPY_H
#define DISTRICT_CKPT_PAGECOPY_H

#include <stdbool.h>
#include <stdint.h>

/* Room of the list; page_copier_add copies what is in it when it is full. */
#define PAGE_COPIER_ROOM 2048

typedef struct PageCopier PageCopier;

/* With so many threads; 0: the caller alone. */
PageCopier *page_copier_new(unsigned threads);
void page_copier_free(PageCopier *copier);

/* A page to copy, both aligned to PAGE_BYTES and no other one's destination. */
void page_copier_add(PageCopier *copier, uint8_t *to, const uint8_t *from);

/* Copy all that was added, and order it before whatever this thread writes next. */
void page_copier_flush(PageCopier *copier);

/* While it is set, the crew helps. */
void page_copier_hurry(PageCopier *copier, bool hurry);

#endif
