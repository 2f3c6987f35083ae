/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which page of an epoch another one may refer to. */
#include "ckpt/dedup.h"

#include <glib.h>

static const uint64_t hash_a[2] = {1, 2};
static const uint64_t hash_b[2] = {1, 3}; /* in the same entry of the table */

static bool
ask(Dedup *dedup, const uint64_t hash[2], uint64_t scope, uint64_t order, uint64_t page,
    DedupPage *found)
{
    return dedup_find_or_note(dedup, hash, (DedupTime){scope, order}, (DedupPage){7, page}, found);
}

static void
test_found(void)
{
    Dedup *dedup = dedup_new();
    DedupPage found = {0};

    g_assert_false(ask(dedup, hash_a, 1, 1, 100, &found));
    g_assert_true(ask(dedup, hash_a, 1, 2, 200, &found));
    g_assert_cmpuint(found.image, ==, 7);
    g_assert_cmpuint(found.page, ==, 100);
    dedup_free(dedup);
}

static void
test_same_batch(void)
{
    Dedup *dedup = dedup_new();
    DedupPage found;

    g_assert_false(ask(dedup, hash_a, 1, 1, 100, &found));
    g_assert_false(ask(dedup, hash_a, 1, 1, 101, &found));
    dedup_free(dedup);
}

static void
test_queued_later(void)
{
    Dedup *dedup = dedup_new();
    DedupPage found;

    /* The worker of the batch queued second is done first. */
    g_assert_false(ask(dedup, hash_a, 1, 2, 200, &found));
    g_assert_false(ask(dedup, hash_a, 1, 1, 100, &found));
    g_assert_true(ask(dedup, hash_a, 1, 3, 300, &found));
    g_assert_cmpuint(found.page, ==, 100);
    dedup_free(dedup);
}

static void
test_other_scope(void)
{
    Dedup *dedup = dedup_new();
    DedupPage found;

    g_assert_false(ask(dedup, hash_a, 1, 1, 100, &found));
    g_assert_false(ask(dedup, hash_a, 2, 2, 200, &found));
    g_assert_false(ask(dedup, hash_a, 1, 3, 300, &found));
    dedup_free(dedup);
}

static void
test_other_hash(void)
{
    Dedup *dedup = dedup_new();
    DedupPage found;

    g_assert_false(ask(dedup, hash_a, 1, 1, 100, &found));
    g_assert_false(ask(dedup, hash_b, 1, 2, 200, &found));
    g_assert_true(ask(dedup, hash_b, 1, 3, 300, &found));
    g_assert_cmpuint(found.page, ==, 200);
    dedup_free(dedup);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dedup/a page that has been sent with that content is found", test_found);
    g_test_add_func("/dedup/pages of one batch do not refer to each other", test_same_batch);
    g_test_add_func("/dedup/a batch does not refer to one that is queued after it",
                    test_queued_later);
    g_test_add_func("/dedup/what another scope has sent is not found", test_other_scope);
    g_test_add_func("/dedup/another content is not found, and takes its place", test_other_hash);
    return g_test_run();
}
