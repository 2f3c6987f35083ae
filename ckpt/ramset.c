/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The RAM of a district's members as sealed memfds, mapped for writing. */
#include "ckpt/ramset.h"

#include "common/memfd.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Memory that loading leaves to the rest of the host. */
#define MEMORY_RESERVE ((uint64_t)64 * 1024 * 1024)

static RamSet *
ram_set_empty(const uint64_t *sizes, uint32_t n)
{
    RamSet *set = g_new0(RamSet, 1);

    set->n = n;
    set->fds = g_new(int, n);
    set->maps = g_new0(uint8_t *, n);
    set->sizes = g_memdup2(sizes, n * sizeof *sizes);
    for (uint32_t i = 0; i < n; i++)
        set->fds[i] = -1;
    return set;
}

RamSet *
ram_set_new(const uint64_t *sizes, uint32_t n, GError **error)
{
    g_autoptr(RamSet) set = ram_set_empty(sizes, n);

    for (uint32_t i = 0; i < n; i++) {
        set->fds[i] = memfd_create_sealed("district-ram", sizes[i], error);
        if (set->fds[i] < 0)
            return NULL;
        set->maps[i] = memfd_map(set->fds[i], sizes[i], TRUE, error);
        if (set->maps[i] == NULL)
            return NULL;
    }
    return g_steal_pointer(&set);
}

RamSet *
ram_set_adopt(const int *fds, const uint64_t *sizes, uint32_t n, GError **error)
{
    g_autoptr(RamSet) set = ram_set_empty(sizes, n);

    for (uint32_t i = 0; i < n; i++) {
        if (!memfd_check(fds[i], sizes[i], "RAM image", error))
            return NULL;
        if (memfd_is_spent(fds[i])) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                        "RAM image %u has been run already and is no checkpoint any more", i);
            return NULL;
        }
        set->maps[i] = memfd_map(fds[i], sizes[i], TRUE, error);
        if (set->maps[i] == NULL)
            return NULL;
    }
    memcpy(set->fds, fds, n * sizeof *fds);
    return g_steal_pointer(&set);
}

void
ram_set_free(RamSet *set)
{
    if (set == NULL)
        return;
    for (uint32_t i = 0; i < set->n; i++) {
        if (set->maps[i] != NULL)
            munmap(set->maps[i], set->sizes[i]);
        if (set->fds[i] >= 0)
            close(set->fds[i]);
    }
    g_free(set->fds);
    g_free(set->maps);
    g_free(set->sizes);
    g_free(set);
}

uint64_t
ram_set_bytes(const RamSet *set)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < set->n; i++)
        sum += set->sizes[i];
    return sum;
}

uint64_t
ram_set_allocated(const RamSet *set)
{
    const uint64_t stat_block = 512; /* stat(2) */
    uint64_t sum = 0;
    struct stat st;

    for (uint32_t i = 0; i < set->n; i++) {
        if (set->fds[i] >= 0 && fstat(set->fds[i], &st) == 0)
            sum += (uint64_t)st.st_blocks * stat_block;
    }
    return sum;
}

void
ram_set_put(RamSet *set, uint32_t member, uint64_t page, const uint8_t *data)
{
    uint64_t at = page << PAGE_SHIFT_4K;

    if (data != NULL)
        memcpy(set->maps[member] + at, data, PAGE_BYTES);
    else if (fallocate(set->fds[member], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                       PAGE_BYTES) != 0)
        memset(set->maps[member] + at, 0, PAGE_BYTES);
}

uint64_t
memory_available(void)
{
    g_autofree char *text = NULL;
    const char *line;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL))
        return UINT64_MAX;
    line = strstr(text, "MemAvailable:");
    if (line == NULL)
        return UINT64_MAX;
    return g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024;
}

static gboolean
no_room(uint64_t bytes, uint64_t available, GError **error)
{
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                "not enough memory: %" G_GUINT64_FORMAT " MiB of RAM in %" G_GUINT64_FORMAT
                " MiB available: free memory on this host or use another one",
                bytes >> 20, available >> 20);
    return FALSE;
}

gboolean
memory_check_room(uint64_t bytes, GError **error)
{
    uint64_t available = memory_available();

    return (available >= MEMORY_RESERVE && available - MEMORY_RESERVE >= bytes) ||
           no_room(bytes, available, error);
}

gboolean
ram_set_check_room(const RamSet *set, GError **error)
{
    uint64_t available = memory_available();

    return available >= MEMORY_RESERVE ||
           no_room(ram_set_bytes(set), ram_set_allocated(set) + available, error);
}
