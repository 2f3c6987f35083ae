/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Staging. */
#include "ckpt/staging.h"

#include <string.h>

static const uint64_t sizes[] = {1000, 64};

static Staging *
staging_make(void)
{
    g_autoptr(GError) error = NULL;
    Staging *staging = staging_new(sizes, G_N_ELEMENTS(sizes), &error);

    g_assert_no_error(error);
    return staging;
}

static void
test_slot(void)
{
    g_autoptr(Staging) staging = staging_make();
    uint8_t page[PAGE_BYTES];

    memset(page, 1, sizeof(page));
    staging_copy(staging, 0, 999, page);
    staging_copy(staging, 0, 0, page);
    memset(page, 2, sizeof(page));
    staging_copy(staging, 0, 999, page);
    g_assert_cmpuint(staging_pages(staging), ==, 2);
    g_assert_cmpuint(staging_page(staging, 0, 0).index, ==, 999);
    g_assert_cmpint(staging_page(staging, 0, 0).data[4095], ==, 2);
    g_assert_cmpint(staging_page(staging, 0, 1).data[0], ==, 1);
}

static void
test_members(void)
{
    g_autoptr(Staging) staging = staging_make();
    uint8_t page[PAGE_BYTES] = {7};

    staging_copy(staging, 0, 5, page);
    staging_copy(staging, 1, 5, page);
    g_assert_cmpuint(staging_pages(staging), ==, 2);
    g_assert_cmpuint(staging_member_pages(staging, 0), ==, 1);
    g_assert_cmpuint(staging_member_pages(staging, 1), ==, 1);
}

static void
test_clear(void)
{
    g_autoptr(Staging) staging = staging_make();
    uint8_t page[PAGE_BYTES] = {0};

    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < sizes[0]; i++) {
            memset(page, (int)(round + i), sizeof(page));
            staging_copy(staging, 0, sizes[0] - 1 - i, page);
        }
        g_assert_cmpuint(staging_member_pages(staging, 0), ==, sizes[0]);
        for (uint64_t i = 0; i < sizes[0]; i++) {
            PageRef ref = staging_page(staging, 0, i);
            g_assert_cmpuint(ref.index, ==, sizes[0] - 1 - i);
            g_assert_cmpint(ref.data[100], ==, (uint8_t)(round + i));
        }
        staging_clear(staging, 10);
        g_assert_cmpuint(staging_pages(staging), ==, 0);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/staging/a page copied again goes to the same slot", test_slot);
    g_test_add_func("/staging/members do not share pages", test_members);
    g_test_add_func("/staging/after clearing it is empty and can be filled again", test_clear);
    return g_test_run();
}
