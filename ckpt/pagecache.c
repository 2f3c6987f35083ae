/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bounded cache of what was last sent of pages. */
#include "ckpt/pagecache.h"

#include <glib.h>
#include <string.h>
#include <sys/mman.h>

/* A page that comes in survives one visit of the hand, one that has been found three: a scan of three
 * times the size of the cache between two uses. */
#define CREDIT_START 1
#define CREDIT_MAX 3

typedef struct Slot {
    uint32_t *place; /* of the page whose content it is; NULL: free */
    unsigned credit;
} Slot;

struct PageCache {
    uint32_t n_slots;
    uint32_t hand;
    Slot *slots;
    uint8_t *data; /* PAGE_BYTES for each slot */
};

static size_t
data_bytes(const PageCache *cache)
{
    return (size_t)cache->n_slots * PAGE_BYTES;
}

PageCache *
page_cache_new(size_t bytes)
{
    PageCache *cache = g_new0(PageCache, 1);

    cache->n_slots = (uint32_t)CLAMP(bytes / PAGE_BYTES, 1, UINT32_MAX - 1);
    cache->slots = g_new0(Slot, cache->n_slots);
    cache->data = mmap(NULL, data_bytes(cache), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->data == MAP_FAILED)
        g_error("out of memory for a cache of %u pages", cache->n_slots);
    return cache;
}

void
page_cache_free(PageCache *cache)
{
    if (cache == NULL)
        return;
    munmap(cache->data, data_bytes(cache));
    g_free(cache->slots);
    g_free(cache);
}

static uint8_t *
slot_data(PageCache *cache, uint32_t slot)
{
    return cache->data + (size_t)slot * PAGE_BYTES;
}

uint8_t *
page_cache_find(PageCache *cache, const uint32_t *place)
{
    Slot *slot;

    if (*place == 0)
        return NULL;
    slot = &cache->slots[*place - 1];
    slot->credit = CREDIT_MAX;
    return slot_data(cache, *place - 1);
}

/* Give the page a slot, if the hand finds one that has no credit left. */
static void
cache_admit(PageCache *cache, uint32_t *place)
{
    uint32_t at = cache->hand;
    Slot *slot = &cache->slots[at];

    cache->hand = at + 1 == cache->n_slots ? 0 : at + 1;
    if (slot->place != NULL && slot->credit > 0) {
        slot->credit--;
        return;
    }
    if (slot->place != NULL)
        *slot->place = 0;
    *slot = (Slot){place, CREDIT_START};
    *place = at + 1;
}

void
page_cache_put(PageCache *cache, uint32_t *place, const uint8_t *data)
{
    if (*place == 0)
        cache_admit(cache, place);
    if (*place != 0)
        memcpy(slot_data(cache, *place - 1), data, PAGE_BYTES);
}

void
page_cache_drop(PageCache *cache, uint32_t *place)
{
    if (*place == 0)
        return;
    cache->slots[*place - 1] = (Slot){0};
    *place = 0;
}
