/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where in a redo log the pages of RAM are that it has. */
#include "standby/logindex.h"

#include <string.h>
#include <sys/mman.h>

/* An entry is filling << OFFSET_BITS | offset / 8: logs of up to 8 TiB. */
#define OFFSET_BITS 40
#define FILLING_MAX ((UINT64_C(1) << (64 - OFFSET_BITS)) - 1)
G_STATIC_ASSERT(RAM_BYTES_MAX < (UINT64_C(8) << OFFSET_BITS));

struct LogIndex {
    uint32_t n;
    uint64_t **entries; /* per image */
    size_t *bytes;
    uint64_t filling; /* from 1: entries never set are of none */
};

LogIndex *
log_index_new(const RamSet *ram)
{
    LogIndex *index = g_new0(LogIndex, 1);

    index->n = ram->n;
    index->filling = 1;
    index->entries = g_new(uint64_t *, ram->n);
    index->bytes = g_new(size_t, ram->n);
    for (uint32_t i = 0; i < ram->n; i++) {
        index->bytes[i] = page_count(ram->sizes[i]) * sizeof(uint64_t);
        index->entries[i] = mmap(NULL, index->bytes[i], PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (index->entries[i] == MAP_FAILED)
            g_error("out of address space for an index of %zu bytes", index->bytes[i]);
    }
    return index;
}

void
log_index_free(LogIndex *index)
{
    for (uint32_t i = 0; i < index->n; i++)
        munmap(index->entries[i], index->bytes[i]);
    g_free(index->entries);
    g_free(index->bytes);
    g_free(index);
}

void
log_index_clear(LogIndex *index)
{
    if (++index->filling <= FILLING_MAX)
        return;
    /* After days: entries of the fillings that are counted again must not look like them. What was
     * never used stays without memory. */
    for (uint32_t i = 0; i < index->n; i++) {
        if (madvise(index->entries[i], index->bytes[i], MADV_DONTNEED) != 0)
            memset(index->entries[i], 0, index->bytes[i]);
    }
    index->filling = 1;
}

void
log_index_set(LogIndex *index, uint32_t image, uint64_t page, uint64_t offset)
{
    if (image < index->n)
        index->entries[image][page] = index->filling << OFFSET_BITS | offset / 8;
}

gboolean
log_index_get(const LogIndex *index, uint32_t image, uint64_t page, uint64_t *offset)
{
    uint64_t entry = index->entries[image][page];

    *offset = (entry & ((UINT64_C(1) << OFFSET_BITS) - 1)) * 8;
    return entry >> OFFSET_BITS == index->filling;
}
