/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of one epoch that are the same: which page has been sent with this content already?
 *
 * Theory of operation. Workers encode batches in any order, but batches leave in the order in which
 * they were queued. So a page may refer only to one of a batch that was queued before its own: it has
 * arrived by then. And that page must still have the content it was remembered for: within a
 * *scope* each page is sent at most once, and references do not leave their scope. The receiver
 * needs to know none of this: a reference means what it has of that page when the record comes.
 *
 * The table is direct-mapped and of fixed size: what is driven out is sent once more. Any thread.
 */
#ifndef DISTRICT_CKPT_DEDUP_H
#define DISTRICT_CKPT_DEDUP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Dedup Dedup;

typedef struct DedupPage {
    uint32_t image;
    uint64_t page;
} DedupPage;

/* When a page is sent. */
typedef struct DedupTime {
    uint64_t scope; /* from 1; a page is in it once */
    uint64_t order; /* of its batch in the queue, over all scopes */
} DedupTime;

Dedup *dedup_new(void);
void dedup_free(Dedup *dedup);

/*
 * Is there a page with this hash that a batch of the same scope, queued before, sends? If so *found is
 * set. If not, page is remembered as one: it must be sent whole then, as part of the batch at now.
 */
bool dedup_find_or_note(Dedup *dedup, const uint64_t hash[2], DedupTime now, DedupPage page,
                        DedupPage *found);

#endif
