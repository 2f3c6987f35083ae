/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sealed memfds: memory shared between processes that none of them can shrink under the others. */
#ifndef DISTRICT_COMMON_MEMFD_H
#define DISTRICT_COMMON_MEMFD_H

#include <glib.h>
#include <stdint.h>

/*
 * Create a memfd of size bytes (sparse, zero filled), sealed with F_SEAL_SHRINK | F_SEAL_GROW |
 * F_SEAL_SEAL. Returns the fd (caller owns, close-on-exec) or -1 with error set.
 */
int memfd_create_sealed(const char *name, uint64_t size, GError **error);

/*
 * Check a descriptor that came from another process: a memfd, sealed as above, of exactly size
 * bytes (size 0: any size). FALSE with an error that starts with what, its name for the reader.
 */
gboolean memfd_check(int fd, uint64_t size, const char *what, GError **error);

/* Size of fd in bytes, 0 on error. */
uint64_t memfd_size(int fd);

/*
 * Map size bytes shared. write: PROT_READ|PROT_WRITE, else PROT_READ. Returns NULL with error set
 * on failure. Undo with munmap(ptr, size).
 */
void *memfd_map(int fd, uint64_t size, gboolean write, GError **error);

/*
 * Guest RAM that is about to run stops being a checkpoint. That is noted on the memory itself (the
 * write bits of its mode are taken away), so that every process with a descriptor of it can tell,
 * whoever was killed in between. Descriptors that are open go on writing.
 */
gboolean memfd_mark_spent(int fd, GError **error);
gboolean memfd_is_spent(int fd);

/* A sealed memfd holding a copy of data (size 0 gives one zero page). */
int memfd_from_data(const char *name, const void *data, uint64_t size, GError **error);

#endif
