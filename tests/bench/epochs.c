/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epochs made up by a pattern.
 *
 * Theory of operation. A pattern is how pages are chosen and what is written to them. RAM lives here
 * in one piece per member and is changed in place, so that what a page was before matters as it does
 * in a guest. It starts half zero, a quarter text, a quarter words that look like pointers. Everything
 * follows from the seed: two runs have the same epochs.
 */
#include "epochs.h"

#include <string.h>

#define WORDS (PAGE_BYTES / sizeof(uint64_t))

typedef struct Pattern Pattern;

typedef struct PatternSource {
    EpochSource base;
    const Pattern *pattern;
    uint64_t ram_pages;
    uint64_t dirty;
    uint8_t **ram;
    uint64_t epoch;
    uint64_t seed;
    bool *chosen; /* pages of the epoch under way */
} PatternSource;

struct Pattern {
    const char *name;
    /* Which page is number i of the epoch's. */
    uint64_t (*page)(PatternSource *s, uint64_t i);
    void (*write)(PatternSource *s, uint8_t *page);
    /* Of the dirty pages asked for, so many are touched: 1/part. */
    uint64_t part;
    /* All members write the same to the same pages. */
    bool twins;
};

/* xorshift64* (Vigna 2016). */
static uint64_t
next_random(PatternSource *s)
{
    s->seed ^= s->seed >> 12;
    s->seed ^= s->seed << 25;
    s->seed ^= s->seed >> 27;
    return s->seed * UINT64_C(2685821657736338717);
}

/* ---- Which pages ---- */

static uint64_t
page_random(PatternSource *s, uint64_t i)
{
    (void)i;
    return next_random(s) % s->ram_pages;
}

static uint64_t
page_sequential(PatternSource *s, uint64_t i)
{
    return ((s->epoch - 1) * s->dirty + i) % s->ram_pages;
}

/* The same ones in each epoch, here and there. */
static uint64_t
page_hot(PatternSource *s, uint64_t i)
{
    return i * (s->ram_pages / s->dirty) % s->ram_pages;
}

/* ---- What is written ---- */

/* A few words, each a counter or a pointer. */
static void
write_words(PatternSource *s, uint8_t *page)
{
    uint64_t n = 1 + next_random(s) % 8;

    for (uint64_t i = 0; i < n; i++) {
        uint8_t *at = page + next_random(s) % WORDS * sizeof(uint64_t);
        uint64_t word;

        memcpy(&word, at, sizeof word);
        if (i % 2 == 0)
            word += 1 + next_random(s) % 100;
        else
            word = UINT64_C(0xffff888000000000) | (next_random(s) & 0x3fffffc0);
        memcpy(at, &word, sizeof word);
    }
}

/* As a loop that counts through an array does. */
static void
write_counters(PatternSource *s, uint8_t *page)
{
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t word = s->epoch * WORDS + i;
        memcpy(page + i * sizeof word, &word, sizeof word);
    }
}

static void
write_mostly_zeros(PatternSource *s, uint8_t *page)
{
    memset(page, 0, PAGE_BYTES);
    if (next_random(s) % 2 == 0)
        return;
    for (int i = 0; i < 8; i++) {
        uint64_t word = next_random(s) & 0xffffff;
        memcpy(page + next_random(s) % 64 * sizeof word, &word, sizeof word);
    }
}

static void
write_text(PatternSource *s, uint8_t *page)
{
    static const char *const words[] = {
        "the ", "of ",       "page ",   "GET /index ", "epoch ", "HTTP/1.1 200 OK\r\n", "user=",
        "a ",   "district ", "commit ", "error: ",     "INFO ",  "127.0.0.1 ",          "select ",
        "\n",   "from ",     "where ",  "value",       "null, ", "\"name\": \"",        "\", ",
    };

    for (size_t at = 0; at < PAGE_BYTES;) {
        char number[24];
        const char *word = words[next_random(s) % G_N_ELEMENTS(words)];
        if (next_random(s) % 8 == 0) {
            g_snprintf(number, sizeof number, "%u ", (unsigned)(next_random(s) % 100000));
            word = number;
        }
        for (; *word != '\0' && at < PAGE_BYTES; word++)
            page[at++] = (uint8_t)*word;
    }
}

static void
write_noise(PatternSource *s, uint8_t *page)
{
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t word = next_random(s);
        memcpy(page + i * sizeof word, &word, sizeof word);
    }
}

static const Pattern patterns[] = {
    {"idle", page_hot, write_words, 20, false},
    {"sequential", page_sequential, write_counters, 1, false},
    {"random-words", page_random, write_words, 1, false},
    {"hot-set", page_hot, write_words, 1, false},
    {"zero-heavy", page_random, write_mostly_zeros, 1, false},
    {"text", page_random, write_text, 1, false},
    {"incompressible", page_random, write_noise, 1, false},
    {"twins", page_random, write_text, 1, true},
};

const char *const pattern_names[] = {
    "idle", "sequential",     "random-words", "hot-set", "zero-heavy",
    "text", "incompressible", "twins",        NULL,
};
G_STATIC_ASSERT(G_N_ELEMENTS(pattern_names) == G_N_ELEMENTS(patterns) + 1);

/* ---- Epochs ---- */

static void
fill_ram(PatternSource *s)
{
    for (uint64_t i = s->ram_pages / 2; i < s->ram_pages; i++) {
        uint8_t *page = s->ram[0] + i * PAGE_BYTES;
        if (i % 2 == 0)
            write_text(s, page);
        for (int k = 0; i % 2 != 0 && k < 40; k++)
            write_words(s, page);
    }
    for (uint32_t m = 1; m < s->base.n_images; m++)
        memcpy(s->ram[m], s->ram[0], s->ram_pages * PAGE_BYTES);
}

/* Write to the epoch's pages of member. */
static void
dirty_member(PatternSource *s, uint32_t member)
{
    memset(s->chosen, 0, s->ram_pages);
    for (uint64_t i = 0; i < MAX(s->dirty / s->pattern->part, 1); i++) {
        uint64_t page = s->pattern->page(s, i);
        s->pattern->write(s, s->ram[member] + page * PAGE_BYTES);
        s->chosen[page] = true;
    }
}

static gboolean
pattern_next(EpochSource *base, GArray *pages, GError **error)
{
    PatternSource *s = (PatternSource *)base;
    uint64_t seed = s->seed;

    for (uint32_t m = 0; m < base->n_images; m++) {
        if (s->pattern->twins)
            s->seed = seed;
        if (s->epoch > 0)
            dirty_member(s, m);
        for (uint64_t i = 0; i < s->ram_pages; i++) {
            BenchPage page = {m, {i, s->ram[m] + i * PAGE_BYTES}};
            if (s->chosen[i] || s->epoch == 0)
                g_array_append_val(pages, page);
        }
    }
    s->epoch++;
    return TRUE;
}

static void
pattern_free(EpochSource *base)
{
    PatternSource *s = (PatternSource *)base;

    for (uint32_t m = 0; m < base->n_images; m++)
        g_free(s->ram[m]);
    g_free(s->ram);
    g_free(s->chosen);
    g_free(base->n_pages_of);
    g_free(s);
}

EpochSource *
pattern_source_new(const char *name, uint32_t members, uint64_t ram_pages, uint64_t dirty)
{
    PatternSource *s = g_new0(PatternSource, 1);

    for (size_t i = 0; i < G_N_ELEMENTS(patterns); i++) {
        if (strcmp(patterns[i].name, name) == 0)
            s->pattern = &patterns[i];
    }
    s->base = (EpochSource){.n_images = members, .next = pattern_next, .free = pattern_free};
    s->base.n_pages_of = g_new(uint64_t, members);
    s->ram_pages = ram_pages;
    s->dirty = MIN(dirty, ram_pages);
    s->seed = 42;
    s->ram = g_new0(uint8_t *, members);
    s->chosen = g_new0(bool, ram_pages);
    for (uint32_t m = 0; m < members; m++) {
        s->ram[m] = g_malloc0(ram_pages * PAGE_BYTES);
        s->base.n_pages_of[m] = ram_pages;
    }
    if (s->pattern == NULL) {
        pattern_free(&s->base);
        return NULL;
    }
    fill_ram(s);
    return &s->base;
}
