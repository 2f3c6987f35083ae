/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Harvesting: dirty pages from the engines' bitmaps to the staging and to targets in sync. */
#include "ckpt/coordinator-internal.h"

#include "common/pagebits.h"
#include "common/trace.h"

/* Between harvests ahead of a cut, while what they find is new to the epoch: a fifth of the interval
 * between cuts, within these bounds. */
#define HARVESTS_PER_INTERVAL 5
#define HARVEST_MIN_NS (2 * NS_PER_MS)
#define HARVEST_MAX_NS (20 * NS_PER_MS)
/* At most, while it is not; or the interval between cuts, if that is longer. */
#define HARVEST_LONGEST_NS (100 * NS_PER_MS)
/* What harvests ahead of a cut may cost: for each page of the epoch, which costs its guest one fault
 * in any case, this part of a fault more. */
#define HARVEST_AGAIN_PART 4

static int64_t
harvest_shortest_ns(const Coordinator *c)
{
    int64_t interval = c->stream ? cut_interval_ns(c) : HARVEST_MAX_NS;

    return CLAMP(interval / HARVESTS_PER_INTERVAL, HARVEST_MIN_NS, HARVEST_MAX_NS);
}

static int64_t
harvest_longest_ns(const Coordinator *c)
{
    return MAX(HARVEST_LONGEST_NS, c->stream ? cut_interval_ns(c) : 0);
}

bool
harvest_spent(const Coordinator *c)
{
    return c->staging_active && c->harvested_again > staging_pages(c->staging) / HARVEST_AGAIN_PART;
}

int64_t
harvest_interval_ns(const Coordinator *c)
{
    if (harvest_spent(c))
        return harvest_longest_ns(c);
    return CLAMP(c->harvest_ns, harvest_shortest_ns(c), harvest_longest_ns(c));
}

/*
 * Each page harvested costs its guest a fault when it is written again. That buys a smaller residue
 * as long as pages are new to the epoch; pages that are staged already are hot, will be dirty at the
 * cut whatever is done, and are left alone longer. Without staging (a full copy under way) a harvest
 * only keeps the log from filling up.
 */
static void
harvest_adapt(Coordinator *c, uint64_t pages, uint64_t fresh)
{
    int64_t interval = CLAMP(c->harvest_ns, harvest_shortest_ns(c), harvest_longest_ns(c));

    if (c->staging_active)
        c->harvested_again += pages - MIN(fresh, pages);
    if (!c->staging_active || fresh < pages / 2)
        c->harvest_ns = interval * 2;
    else if (fresh > pages / 4 * 3)
        c->harvest_ns = interval / 2;
}

static void
harvest_stage_word(Coordinator *c, uint32_t member, size_t word, uint64_t bits)
{
    const uint8_t *ram = c->members[member]->ram;

    for (; bits != 0; bits &= bits - 1) {
        uint64_t page = (uint64_t)word * 64 + (uint64_t)__builtin_ctzll(bits);
        page_copier_add(c->copier, staging_place(c->staging, member, page),
                        ram + page * PAGE_BYTES);
    }
}

/* Bits that stand for pages: an engine may set any bit in the last word. */
static uint64_t
harvest_valid_bits(const Member *m, size_t word)
{
    uint64_t last = m->n_pages - (uint64_t)word * 64;

    return last >= 64 ? UINT64_MAX : (UINT64_C(1) << last) - 1;
}

uint64_t
harvest_take(Coordinator *c, uint32_t member)
{
    Member *m = c->members[member];
    size_t words = (m->n_pages + 63) / 64;
    uint64_t pages = 0;

    for (size_t w = pagebits_next(m->bitmap, 0, words); w < words;
         w = pagebits_next(m->bitmap, w + 1, words)) {
        uint64_t bits = pagebits_take_word(m->bitmap, w) & harvest_valid_bits(m, w);
        target_dirty(c->stream, member, w, bits);
        target_dirty(c->file, member, w, bits);
        if (c->persist)
            target_dirty(c->persist->full, member, w, bits);
        if (c->staging_active)
            harvest_stage_word(c, member, w, bits);
        pages += (uint64_t)__builtin_popcountll(bits);
    }
    page_copier_flush(c->copier);
    c->stats->dirty_pages += pages;
    c->faults_of[member] += pages;
    return pages;
}

bool
harvest_all(Coordinator *c, uint64_t *pages)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError **errors = g_newa0(GError *, c->n_members);
    uint64_t staged = staging_pages(c->staging);
    int64_t start = clock_monotonic_ns();

    trace_harvest_begin(staged);
    *pages = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        asked[i] = member_is_on(c->members[i]) && member_send_harvest(c->members[i], &errors[i]);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i] && member_collect_harvest(c->members[i], &errors[i]))
            *pages += harvest_take(c, i);
    }
    harvest_adapt(c, *pages, staging_pages(c->staging) - staged);
    int64_t now = clock_monotonic_ns();
    c->next_harvest_ns = now + harvest_interval_ns(c);
    trace_harvest_end(*pages, staging_pages(c->staging) - staged, now - start);
    return members_settle(c, errors);
}
