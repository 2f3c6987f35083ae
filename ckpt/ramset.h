/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The RAM of a district's members as sealed memfds, mapped for writing. */
#ifndef DISTRICT_CKPT_RAMSET_H
#define DISTRICT_CKPT_RAMSET_H

#include "ckpt/encode.h"

typedef struct RamSet {
    uint32_t n;
    int *fds;        /* owned; -1: given away */
    uint8_t **maps;  /* owned */
    uint64_t *sizes; /* bytes, whole pages */
} RamSet;

/* n sparse, zero-filled memfds of the given sizes (bytes, already checked). NULL with error set. */
RamSet *ram_set_new(const uint64_t *sizes, uint32_t n, GError **error);

/* Take over descriptors from another process: each must be a sealed memfd of the given size
 * that has not been run (memfd_is_spent).
 * Ownership of the descriptors passes on success only. */
RamSet *ram_set_adopt(const int *fds, const uint64_t *sizes, uint32_t n, GError **error);

void ram_set_free(RamSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RamSet, ram_set_free)

/* Sum of the sizes, bytes. */
uint64_t ram_set_bytes(const RamSet *set);

/* Bytes of memory the set takes now: pages never written and zero pages take none. */
uint64_t ram_set_allocated(const RamSet *set);

/* Store one page; data NULL: a zero page, whose memory is given back. member and page are in range.
 */
void ram_set_put(RamSet *set, uint32_t member, uint64_t page, const uint8_t *data);

/* Does the host have memory left for more of the set? FORMAT_ERROR_LIMIT if not. */
gboolean ram_set_check_room(const RamSet *set, GError **error);

/* Is there memory left for so many bytes of RAM? FORMAT_ERROR_LIMIT if not. */
gboolean memory_check_room(uint64_t bytes, GError **error);

/* MemAvailable of /proc/meminfo, bytes (proc(5)); UINT64_MAX if it cannot be read. */
uint64_t memory_available(void);

#endif
