/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File I/O that does not block: an io_uring served by a main loop.
 *
 * For one thread, that of the default main context. An operation is queued by the call, handed to
 * the kernel with all others of the same turn of the main loop, and its end is told from the main
 * loop, never from inside the call. Operations end in any order. Each is done whole or fails: what
 * the kernel did only in part is continued here.
 */
#ifndef DISTRICT_DISK_URING_H
#define DISTRICT_DISK_URING_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* error: 0, or an errno value; EIO also for a read beyond the end of the file. */
typedef void (*UringDone)(void *opaque, int error);

typedef struct Uring Uring;

/* NULL with error set where the kernel has no io_uring for us. */
Uring *uring_new(GError **error);
/* No operation is under way. May be called from a completion. */
void uring_free(Uring *uring);

/* Wait here until nothing is under way; completions are called. For the end of a life only: it
 * blocks. */
void uring_drain(Uring *uring);

/* Operations under way. */
unsigned uring_busy(const Uring *uring);

/* iov is copied (at most IOV_MAX of them, and some bytes in all); what it points at stays the
 * caller's. */
void uring_readv(Uring *uring, int fd, const struct iovec *iov, unsigned n_iov, uint64_t offset,
                 UringDone done, void *opaque);
void uring_writev(Uring *uring, int fd, const struct iovec *iov, unsigned n_iov, uint64_t offset,
                  UringDone done, void *opaque);
/* data_only: fdatasync(2), else fsync(2). Covers writes that have ended before this call. */
void uring_fsync(Uring *uring, int fd, bool data_only, UringDone done, void *opaque);
/* mode: as fallocate(2). */
void uring_fallocate(Uring *uring, int fd, int mode, uint64_t offset, uint64_t len, UringDone done,
                     void *opaque);

#endif
