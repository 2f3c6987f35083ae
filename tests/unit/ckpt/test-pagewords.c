/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages as words: every version of the operations against the definition. */
#include "ckpt/pagewords.h"

#include <string.h>

/* Room to misalign. */
typedef struct Pages {
    uint8_t a[PAGE_BYTES + 64];
    uint8_t b[PAGE_BYTES + 64];
} Pages;

static void
check_diff(const PageOps *ops, const uint8_t *a, const uint8_t *b)
{
    uint8_t mask[PAGE_MASK_BYTES];
    unsigned count, expected = 0;

    memset(mask, 0xa5, sizeof mask);
    count = ops->diff(a, b, mask);
    for (size_t word = 0; word < PAGE_WORDS; word++) {
        bool differs = memcmp(a + word * 8, b + word * 8, 8) != 0;
        g_assert_cmpint(mask[word / 8] >> word % 8 & 1, ==, differs);
        expected += differs;
    }
    g_assert_cmpuint(count, ==, expected);
}

static void
test_every_byte(gconstpointer data)
{
    g_autofree Pages *pages = g_new0(Pages, 1);

    g_assert_true(((const PageOps *)data)->is_zero(pages->a));
    for (size_t at = 0; at < PAGE_BYTES; at++) {
        pages->a[at] = 0x10;
        g_assert_false(((const PageOps *)data)->is_zero(pages->a));
        check_diff(data, pages->a, pages->b);
        pages->a[at] = 0;
    }
}

static void
test_random(gconstpointer data)
{
    g_autofree Pages *pages = g_new0(Pages, 1);

    for (unsigned i = 0; i < 300; i++) {
        uint8_t *a = pages->a + i % 64, *b = pages->b + i / 64;

        for (size_t at = 0; at < PAGE_BYTES; at++)
            a[at] = b[at] = (uint8_t)g_test_rand_int();
        for (unsigned k = 0; k < i * 4; k++)
            a[g_test_rand_int_range(0, PAGE_BYTES)] ^= (uint8_t)(1u << k % 8);
        check_diff(data, a, b);
        check_diff(data, a, a);
        g_assert_false(((const PageOps *)data)->is_zero(a));
    }
}

/* What is just outside the page is none of it. */
static void
test_edges(gconstpointer data)
{
    g_autofree Pages *pages = g_new0(Pages, 1);

    memset(pages->a, 0xff, sizeof pages->a);
    for (size_t offset = 1; offset < 64; offset++) {
        memset(pages->a + offset, 0, PAGE_BYTES);
        g_assert_true(((const PageOps *)data)->is_zero(pages->a + offset));
        check_diff(data, pages->a + offset, pages->b);
        memset(pages->a + offset, 0xff, PAGE_BYTES);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (const PageOps *const *ops = page_ops_all(); *ops != NULL; ops++) {
        g_autofree char *byte = g_strdup_printf("/%s/every byte counts", (*ops)->name);
        g_autofree char *random = g_strdup_printf("/%s/random pages, not aligned", (*ops)->name);
        g_autofree char *edges =
            g_strdup_printf("/%s/nothing beside the page counts", (*ops)->name);

        g_test_add_data_func(byte, *ops, test_every_byte);
        g_test_add_data_func(random, *ops, test_random);
        g_test_add_data_func(edges, *ops, test_edges);
    }
    return g_test_run();
}
