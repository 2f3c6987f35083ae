/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The zstd level that a stream comes to, with links and encoders made up. */
#include "ckpt/level.h"

#include "common/clock.h"

#include <glib.h>

#define MIB ((uint64_t)1 << 20)
#define FASTEST (-10)
#define TIGHTEST 6

/* An encoder like the usual one, at so many MB/s with level 1, and a link of so many. */
typedef struct Model {
    Level zstd;
    double encoder_mb_s, link_mb_s;
    int64_t now_ns;
    unsigned moves;
} Model;

static double
cost_of(int level)
{
    return level >= 1 ? 1 + 0.4 * (level - 1) : 1 / (1 - 0.15 * level);
}

static double
size_of(int level)
{
    return level >= 1 ? 0.5 - 0.02 * (level - 1) : 0.5 - 0.05 * level;
}

static void
look(Model *m, uint64_t plain_bytes)
{
    int level = level_zstd(&m->zstd);
    LevelSample sample = {.plain_bytes = plain_bytes};

    sample.encoded_bytes = (uint64_t)((double)plain_bytes * size_of(level));
    sample.encode_ns = (int64_t)((double)plain_bytes * cost_of(level) * 1e3 / m->encoder_mb_s);
    sample.link_bytes = sample.encoded_bytes;
    sample.link_ns = (int64_t)((double)sample.link_bytes * 1e3 / m->link_mb_s);
    m->now_ns += NS_PER_S / 4;
    m->moves += level_look(&m->zstd, &sample, m->now_ns) != level;
}

static int
settle(Model *m, double link_mb_s, unsigned looks)
{
    m->link_mb_s = link_mb_s;
    for (unsigned i = 0; i < looks; i++)
        look(m, 16 * MIB);
    return level_zstd(&m->zstd);
}

static void
model_init(Model *m)
{
    *m = (Model){.encoder_mb_s = 400, .now_ns = NS_PER_S};
    level_init(&m->zstd, 1);
}

static void
test_slow_link(void)
{
    Model m;

    model_init(&m);
    g_assert_cmpint(settle(&m, 1, 100), >, 1);
    g_assert_cmpint(settle(&m, 1, 1), <=, TIGHTEST);
}

static void
test_fast_link(void)
{
    Model m;

    model_init(&m);
    g_assert_cmpint(settle(&m, 5000, 100), ==, FASTEST);
}

static void
test_changing_link(void)
{
    Model m;

    model_init(&m);
    settle(&m, 5000, 100);
    g_assert_cmpint(settle(&m, 1, 100), >, 1);
    g_assert_cmpint(settle(&m, 5000, 100), ==, FASTEST);
}

static void
test_settles(void)
{
    static const double links[] = {1, 10, 50, 100, 150, 200, 300, 500, 1000, 5000};

    for (size_t i = 0; i < G_N_ELEMENTS(links); i++) {
        Model m;

        model_init(&m);
        settle(&m, links[i], 100);
        m.moves = 0;
        settle(&m, links[i], 1000);
        /* It may look again at what it has not seen for long. */
        g_assert_cmpuint(m.moves, <=, 20);
    }
}

static void
test_little_says_nothing(void)
{
    Model m;
    int level;

    model_init(&m);
    m.link_mb_s = 1;
    level = level_zstd(&m.zstd);
    for (unsigned i = 0; i < 100; i++)
        look(&m, 10000);
    g_assert_cmpint(level_zstd(&m.zstd), ==, level);
}

static void
test_threads(void)
{
    Model one, four;

    model_init(&one);
    model_init(&four);
    level_init(&four.zstd, 4);
    /* The link is what one thread feeds: four have time for more. */
    g_assert_cmpint(settle(&one, 300, 100), <, settle(&four, 300, 100));
}

/* Looks that lead to another number of threads. */
static unsigned
settle_threads(Model *m, double link_mb_s, unsigned looks)
{
    unsigned changes = 0;

    for (unsigned i = 0; i < looks; i++) {
        unsigned before = m->zstd.threads;
        settle(m, link_mb_s, 1);
        changes += m->zstd.threads != before;
    }
    return changes;
}

static void
test_few_threads(void)
{
    Model m;

    model_init(&m);
    level_init(&m.zstd, 4);
    /* At the tightest level an encoder needs a tenth of the time that the link does. */
    settle_threads(&m, 5, 100);
    g_assert_cmpint(level_zstd(&m.zstd), ==, TIGHTEST);
    g_assert_cmpuint(m.zstd.threads, ==, 1);
}

static void
test_all_threads(void)
{
    Model m;

    model_init(&m);
    level_init(&m.zstd, 4);
    settle_threads(&m, 5, 100);
    settle_threads(&m, 5000, 100);
    g_assert_cmpuint(m.zstd.threads, ==, 4);
}

static void
test_threads_settle(void)
{
    static const double links[] = {1, 10, 50, 100, 150, 200, 300, 500, 1000, 5000};

    for (size_t i = 0; i < G_N_ELEMENTS(links); i++) {
        Model m;

        model_init(&m);
        level_init(&m.zstd, 4);
        settle_threads(&m, links[i], 100);
        g_assert_cmpuint(settle_threads(&m, links[i], 1000), <=, 40);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/level/a slow link has the encoder take its time", test_slow_link);
    g_test_add_func("/level/a fast link makes it hurry", test_fast_link);
    g_test_add_func("/level/it follows a link that changes", test_changing_link);
    g_test_add_func("/level/it settles", test_settles);
    g_test_add_func("/level/it goes by nothing that is too little", test_little_says_nothing);
    g_test_add_func("/level/more threads leave time for a tighter level", test_threads);
    g_test_add_func("/level/a slow link leaves CPUs to guests", test_few_threads);
    g_test_add_func("/level/a fast link has all threads encode", test_all_threads);
    g_test_add_func("/level/the number of threads settles", test_threads_settle);
    return g_test_run();
}
