/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages copied by one thread and by several. */
#include "ckpt/pagecopy.h"

#include "common/clock.h"
#include "common/page.h"

#include <glib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES_MAX 6000

static uint8_t *
pages_new(void)
{
    uint8_t *p = mmap(NULL, PAGES_MAX * PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(p != MAP_FAILED);
    return p;
}

/* Lists of all lengths that are a border, with what they are to be told by. */
static void
copy_lists(unsigned threads, bool hurry)
{
    static const size_t lengths[] = {0,   1,    15,   16,   17,   127,      128,
                                     129, 2047, 2048, 2049, 4096, PAGES_MAX};
    PageCopier *copier = page_copier_new(threads);
    uint8_t *from = pages_new(), *to = pages_new();

    page_copier_hurry(copier, hurry);
    for (size_t k = 0; k < G_N_ELEMENTS(lengths); k++) {
        size_t n = lengths[k];
        for (size_t i = 0; i < n * PAGE_BYTES / sizeof(uint64_t); i++)
            ((uint64_t *)(void *)from)[i] = (i + k) * UINT64_C(0x9e3779b97f4a7c15);
        memset(to, 0xEE, PAGES_MAX * PAGE_BYTES);
        for (size_t i = 0; i < n; i++) /* in another order */
            page_copier_add(copier, to + (n - 1 - i) * PAGE_BYTES, from + i * PAGE_BYTES);
        page_copier_flush(copier);
        for (size_t i = 0; i < n; i++)
            g_assert_cmpint(
                memcmp(to + (n - 1 - i) * PAGE_BYTES, from + i * PAGE_BYTES, PAGE_BYTES), ==, 0);
        for (size_t i = n * PAGE_BYTES; i < PAGES_MAX * PAGE_BYTES; i += 61)
            g_assert_cmpint(to[i], ==, 0xEE);
    }
    page_copier_free(copier);
    munmap(from, PAGES_MAX * PAGE_BYTES);
    munmap(to, PAGES_MAX * PAGE_BYTES);
}

static void
test_alone(void)
{
    copy_lists(0, true);
    copy_lists(3, false);
}

static void
test_crew(void)
{
    copy_lists(1, true);
    copy_lists(3, true);
    copy_lists(16, true);
}

/* What a list has is all there when flush returns, time after time. */
static void
test_again_and_again(void)
{
    PageCopier *copier = page_copier_new(3);
    uint8_t *from = pages_new(), *to = pages_new();
    int64_t until = clock_monotonic_ns() + NS_PER_S / 2;
    uint64_t turn = 0;

    page_copier_hurry(copier, true);
    while (clock_monotonic_ns() < until) {
        turn++;
        for (size_t i = 0; i < 256; i++) {
            memcpy(from + i * PAGE_BYTES + 4088, &turn, sizeof(turn));
            page_copier_add(copier, to + i * PAGE_BYTES, from + i * PAGE_BYTES);
        }
        page_copier_flush(copier);
        for (size_t i = 0; i < 256; i++)
            g_assert_cmpint(memcmp(to + i * PAGE_BYTES + 4088, &turn, sizeof(turn)), ==, 0);
    }
    g_test_message("%" G_GUINT64_FORMAT " turns", turn);
    page_copier_free(copier);
    munmap(from, PAGES_MAX * PAGE_BYTES);
    munmap(to, PAGES_MAX * PAGE_BYTES);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pagecopy/one_thread_copies_every_page_to_its_place_and_nothing_else",
                    test_alone);
    g_test_add_func("/pagecopy/several_threads_copy_every_page_to_its_place_and_nothing_else",
                    test_crew);
    g_test_add_func("/pagecopy/all_is_there_after_a_flush_time_after_time", test_again_and_again);
    return g_test_run();
}
