/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copying pages: pagecopy.h has the theory. */
#include "ckpt/pagecopy.h"

#include "common/page.h"
#include "common/urgent.h"

#include <emmintrin.h>
#include <glib.h>
#include <stdbool.h>
#include <unistd.h>

/* Pages that a thread takes at a time: some 10 us of work. */
#define CHUNK_PAGES 16
/* Fewer are copied in less time than it takes to wake a thread. */
#define CREW_PAGES_MIN 128

typedef struct PagePair {
    uint8_t *to;
    const uint8_t *from;
} PagePair;

struct PageCopier {
    PagePair pairs[PAGE_COPIER_ROOM];
    size_t n;
    bool hurry;

    unsigned n_threads;
    GThread **threads;
    pid_t *tids;

    GMutex lock; /* guards what follows */
    GCond work;
    GCond done;
    size_t n_open; /* of pairs: what may be taken */
    size_t next;   /* the first that nobody has taken */
    unsigned busy; /* threads of the crew with a chunk */
    bool stop;
};

static void
pair_copy(const PagePair *pair)
{
    const __m128i *from = (const __m128i *)(const void *)pair->from;
    __m128i *to = (__m128i *)(void *)pair->to;

    for (size_t i = 0; i < PAGE_BYTES / sizeof *to; i += 4) {
        __m128i a = _mm_load_si128(from + i), b = _mm_load_si128(from + i + 1);
        __m128i c = _mm_load_si128(from + i + 2), d = _mm_load_si128(from + i + 3);
        _mm_stream_si128(to + i, a);
        _mm_stream_si128(to + i + 1, b);
        _mm_stream_si128(to + i + 2, c);
        _mm_stream_si128(to + i + 3, d);
    }
}

static void
pairs_copy(const PagePair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        pair_copy(&pairs[i]);
    /* Streaming stores are in no order with others. */
    _mm_sfence();
}

/* Take a chunk and copy it; the lock is held but meanwhile. False: there is none. */
static bool
copier_chunk(PageCopier *c)
{
    size_t first = c->next, n = MIN(c->n_open - first, CHUNK_PAGES);

    if (n == 0)
        return false;
    c->next += n;
    g_mutex_unlock(&c->lock);
    pairs_copy(&c->pairs[first], n);
    g_mutex_lock(&c->lock);
    return true;
}

typedef struct CrewStart {
    PageCopier *copier;
    unsigned number;
} CrewStart;

static gpointer
crew_run(gpointer data)
{
    g_autofree CrewStart *start = data;
    PageCopier *c = start->copier;

    g_mutex_lock(&c->lock);
    c->tids[start->number] = gettid();
    g_cond_signal(&c->done);
    while (!c->stop) {
        c->busy++;
        while (copier_chunk(c))
            continue;
        if (--c->busy == 0)
            g_cond_signal(&c->done);
        g_cond_wait(&c->work, &c->lock);
    }
    g_mutex_unlock(&c->lock);
    return NULL;
}

PageCopier *
page_copier_new(unsigned threads)
{
    PageCopier *c = g_new0(PageCopier, 1);

    g_mutex_init(&c->lock);
    g_cond_init(&c->work);
    g_cond_init(&c->done);
    c->n_threads = threads;
    c->threads = g_new0(GThread *, threads);
    c->tids = g_new0(pid_t, threads);
    for (unsigned i = 0; i < threads; i++) {
        CrewStart *start = g_new(CrewStart, 1);
        *start = (CrewStart){.copier = c, .number = i};
        c->threads[i] = g_thread_new("copy", crew_run, start);
    }
    g_mutex_lock(&c->lock);
    for (unsigned i = 0; i < threads; i++) {
        while (c->tids[i] == 0)
            g_cond_wait(&c->done, &c->lock);
    }
    g_mutex_unlock(&c->lock);
    return c;
}

void
page_copier_free(PageCopier *c)
{
    g_mutex_lock(&c->lock);
    c->stop = true;
    g_cond_broadcast(&c->work);
    g_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->n_threads; i++)
        g_thread_join(c->threads[i]);
    g_mutex_clear(&c->lock);
    g_cond_clear(&c->work);
    g_cond_clear(&c->done);
    g_free(c->threads);
    g_free(c->tids);
    g_free(c);
}

/* With the crew: as much as it comes to take. */
static void
copier_share(PageCopier *c)
{
    for (unsigned i = 0; i < c->n_threads; i++)
        urgent_set(c->tids[i], true);
    g_mutex_lock(&c->lock);
    c->next = 0;
    c->n_open = c->n;
    g_cond_broadcast(&c->work);
    while (copier_chunk(c))
        continue;
    /* Not limited: that is a chunk of each thread, of memory that is there. */
    while (c->busy > 0)
        g_cond_wait(&c->done, &c->lock);
    c->n_open = c->next = 0;
    g_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->n_threads; i++)
        urgent_set(c->tids[i], false);
}

void
page_copier_flush(PageCopier *c)
{
    if (c->hurry && c->n_threads > 0 && c->n >= CREW_PAGES_MIN)
        copier_share(c);
    else
        pairs_copy(c->pairs, c->n);
    c->n = 0;
}

void
page_copier_add(PageCopier *c, uint8_t *to, const uint8_t *from)
{
    c->pairs[c->n++] = (PagePair){.to = to, .from = from};
    if (c->n == PAGE_COPIER_ROOM)
        page_copier_flush(c);
}

void
page_copier_hurry(PageCopier *c, bool hurry)
{
    c->hurry = hurry;
}
