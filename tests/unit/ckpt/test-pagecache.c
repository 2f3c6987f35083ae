/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The cache of what was last sent of pages: what it keeps, and what it forgets. */
#include "ckpt/pagecache.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

#define SLOTS 64
#define N_PAGES 4096

typedef struct Fixture {
    PageCache *cache;
    uint32_t places[N_PAGES];
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->cache = page_cache_new(SLOTS * PAGE_BYTES);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    page_cache_free(f->cache);
}

/* As the encoder does with a page; was it found? */
static bool
touch(Fixture *f, unsigned page)
{
    uint8_t content[PAGE_BYTES];
    const uint8_t *had = page_cache_find(f->cache, &f->places[page]);

    memset(content, 0, sizeof content);
    memcpy(content, &page, sizeof page);
    if (had != NULL)
        g_assert_cmpmem(had, PAGE_BYTES, content, PAGE_BYTES);
    page_cache_put(f->cache, &f->places[page], content);
    return had != NULL;
}

static unsigned
touch_all(Fixture *f, unsigned first, unsigned count)
{
    unsigned found = 0;

    for (unsigned i = 0; i < count; i++)
        found += touch(f, first + i);
    return found;
}

static unsigned
kept(const Fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < N_PAGES; i++)
        n += f->places[i] != 0;
    return n;
}

static void
test_newest(Fixture *f, gconstpointer data)
{
    uint8_t page[PAGE_BYTES];

    for (unsigned i = 0; i < 3; i++) {
        memset(page, (int)i, sizeof page);
        page_cache_put(f->cache, &f->places[9], page);
        g_assert_cmpmem(page_cache_find(f->cache, &f->places[9]), PAGE_BYTES, page, PAGE_BYTES);
    }
}

static void
test_bounded(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 20 * N_PAGES; i++) {
        touch(f, (unsigned)g_test_rand_int_range(0, N_PAGES));
        if (i % 1000 == 0)
            g_assert_cmpuint(kept(f), <=, SLOTS);
    }
    g_assert_cmpuint(kept(f), ==, SLOTS);
}

static void
test_hot_outlives_scan(Fixture *f, gconstpointer data)
{
    unsigned at = SLOTS;

    touch_all(f, 0, SLOTS / 2);
    touch_all(f, 0, SLOTS / 2);
    /* Each time, more pages that are never wanted again than the cache has room for. */
    for (unsigned epoch = 0; epoch < 20; epoch++, at += SLOTS + SLOTS / 2) {
        g_assert_cmpuint(touch_all(f, 0, SLOTS / 2), ==, SLOTS / 2);
        touch_all(f, at, SLOTS + SLOTS / 2);
    }
}

static void
test_loop(Fixture *f, gconstpointer data)
{
    touch_all(f, 0, 2 * SLOTS);
    for (unsigned round = 0; round < 20; round++)
        g_assert_cmpuint(touch_all(f, 0, 2 * SLOTS), >=, SLOTS / 2);
}

static void
test_moves_on(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 10; i++)
        touch_all(f, 0, SLOTS);
    /* Another hot set: the old one has credit for a few misses each. */
    for (unsigned i = 0; i < 6; i++)
        touch_all(f, SLOTS, SLOTS);
    g_assert_cmpuint(touch_all(f, SLOTS, SLOTS), ==, SLOTS);
}

static void
test_drop(Fixture *f, gconstpointer data)
{
    touch_all(f, 0, SLOTS);
    page_cache_drop(f->cache, &f->places[3]);
    g_assert_null(page_cache_find(f->cache, &f->places[3]));
    page_cache_drop(f->cache, &f->places[3]);
    for (unsigned i = 0; i < 8; i++)
        touch_all(f, SLOTS, SLOTS);
    g_assert_cmpuint(f->places[3], ==, 0);
}

#define ADD(path, function) g_test_add(path, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/pagecache/a page has the content that was put last", test_newest);
    ADD("/pagecache/it never has more pages than it was made for", test_bounded);
    ADD("/pagecache/the hot set outlives scans", test_hot_outlives_scan);
    ADD("/pagecache/a loop over more than there is room for finds some", test_loop);
    ADD("/pagecache/a new hot set takes over", test_moves_on);
    ADD("/pagecache/a page dropped is forgotten", test_drop);
    return g_test_run();
}
