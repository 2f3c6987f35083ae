/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Staging: one arena per member, slots in the order in which pages were first copied. */
#include "ckpt/staging.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

typedef struct StagingMember {
    uint64_t n_pages;
    uint64_t used;     /* slots filled */
    uint32_t *slot_of; /* page -> slot + 1; 0: not staged */
    uint32_t *page_of; /* slot -> page */
    uint8_t *arena;    /* slot -> PAGE_BYTES of data */
} StagingMember;

struct Staging {
    uint32_t n_members;
    uint64_t pages;
    StagingMember *members;
};

G_STATIC_ASSERT((RAM_BYTES_MAX >> PAGE_SHIFT_4K) < UINT32_MAX);

static void *
staging_reserve(uint64_t bytes)
{
    void *p = mmap(NULL, MAX(bytes, PAGE_BYTES), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void
staging_release(void *p, uint64_t bytes)
{
    if (p)
        munmap(p, MAX(bytes, PAGE_BYTES));
}

Staging *
staging_new(const uint64_t *n_pages_of, uint32_t n_members, GError **error)
{
    g_autoptr(Staging) staging = g_new0(Staging, 1);

    staging->n_members = n_members;
    staging->members = g_new0(StagingMember, n_members);
    for (uint32_t i = 0; i < n_members; i++) {
        StagingMember *m = &staging->members[i];
        m->n_pages = n_pages_of[i];
        m->slot_of = staging_reserve(m->n_pages * sizeof(uint32_t));
        m->page_of = staging_reserve(m->n_pages * sizeof(uint32_t));
        m->arena = staging_reserve(m->n_pages * PAGE_BYTES);
        if (!m->slot_of || !m->page_of || !m->arena) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                        "staging: cannot reserve address space for %" G_GUINT64_FORMAT
                        " pages: %s; raise the limit (ulimit -v) of district-ckpt",
                        m->n_pages, g_strerror(errno));
            return NULL;
        }
        /* Huge pages spare most of the page faults when slots are filled for the first time. */
        madvise(m->arena, m->n_pages * PAGE_BYTES, MADV_HUGEPAGE);
    }
    return g_steal_pointer(&staging);
}

void
staging_free(Staging *staging)
{
    for (uint32_t i = 0; i < staging->n_members; i++) {
        StagingMember *m = &staging->members[i];
        staging_release(m->slot_of, m->n_pages * sizeof(uint32_t));
        staging_release(m->page_of, m->n_pages * sizeof(uint32_t));
        staging_release(m->arena, m->n_pages * PAGE_BYTES);
    }
    g_free(staging->members);
    g_free(staging);
}

uint8_t *
staging_place(Staging *staging, uint32_t member, uint64_t page)
{
    StagingMember *m = &staging->members[member];
    uint32_t slot = m->slot_of[page];

    if (slot == 0) {
        m->page_of[m->used] = (uint32_t)page;
        slot = (uint32_t)++m->used;
        m->slot_of[page] = slot;
        staging->pages++;
    }
    return m->arena + (uint64_t)(slot - 1) * PAGE_BYTES;
}

void
staging_copy(Staging *staging, uint32_t member, uint64_t page, const uint8_t *data)
{
    memcpy(staging_place(staging, member, page), data, PAGE_BYTES);
}

uint64_t
staging_pages(const Staging *staging)
{
    return staging->pages;
}

uint64_t
staging_member_pages(const Staging *staging, uint32_t member)
{
    return staging->members[member].used;
}

PageRef
staging_page(const Staging *staging, uint32_t member, uint64_t slot)
{
    const StagingMember *m = &staging->members[member];

    return (PageRef){.index = m->page_of[slot], .data = m->arena + slot * PAGE_BYTES};
}

void
staging_clear(Staging *staging, uint64_t keep_pages)
{
    for (uint32_t i = 0; i < staging->n_members; i++) {
        StagingMember *m = &staging->members[i];
        for (uint64_t slot = 0; slot < m->used; slot++)
            m->slot_of[m->page_of[slot]] = 0;
        if (m->used > keep_pages) {
            madvise(m->arena + keep_pages * PAGE_BYTES, (m->used - keep_pages) * PAGE_BYTES,
                    MADV_DONTNEED);
        }
        m->used = 0;
    }
    staging->pages = 0;
}
