/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block backend: the image behind a disk, its home. Asynchronous, for one thread: all calls and
 * all completions are made on the thread of the default main context, completions from the main
 * loop and never from inside a call. Any number of requests may be under way, and they end in any
 * order; who needs an order waits for the one before. Buffers are the caller's and stay as they are
 * until the completion.
 *
 * Ranges are multiples of SECTOR_BYTES and inside the image: the caller has checked that.
 */
#ifndef DISTRICT_DISK_BLOCK_H
#define DISTRICT_DISK_BLOCK_H

#include "common/page.h"

#include <glib.h>
#include <stdbool.h>

/* error: 0, or an errno value. */
typedef void (*BlockDone)(void *opaque, int error);

typedef struct BlockBackend BlockBackend;

typedef struct BlockBackendOps {
    void (*read)(BlockBackend *b, uint64_t offset, void *buf, size_t len, BlockDone done,
                 void *opaque);
    void (*write)(BlockBackend *b, uint64_t offset, const void *buf, size_t len, BlockDone done,
                  void *opaque);
    /* What was written before by requests that have ended is durable (fdatasync(2)). */
    void (*flush)(BlockBackend *b, BlockDone done, void *opaque);
    /* The range reads as zeros afterwards. unmap: its space may be given back. */
    void (*zero)(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap, BlockDone done,
                 void *opaque);
    /* The content of the range is of no interest any more; what it reads as is undefined. */
    void (*discard)(BlockBackend *b, uint64_t offset, uint64_t len, BlockDone done, void *opaque);
    /* No request is under way. Ends what it started, too. */
    void (*close)(BlockBackend *b);
} BlockBackendOps;

struct BlockBackend {
    const BlockBackendOps *ops;
    uint64_t bytes; /* a multiple of SECTOR_BYTES, at most DISK_BYTES_MAX */
    bool read_only;
    char *home;  /* as MemberDisk.home: "raw:PATH" or "nbd:PATH" */
    char *image; /* as MemberDisk.image, or NULL */
};

typedef enum BlockMode {
    BLOCK_WRITE, /* nobody else has the image open */
    BLOCK_READ,  /* others may, to read as well */
    BLOCK_SHARED, /* only read, and not locked: someone else has it open to write, but sees to it that
                     what is read here does not change */
} BlockMode;

/*
 * A raw file or block device, through io_uring. It is locked against another opening (F_OFD_SETLK).
 * NULL with an error that names path and what to do.
 */
BlockBackend *block_raw_open(const char *path, BlockMode mode, GError **error);

/*
 * An image of any other format that QEMU knows, through libnbd to a qemu-nbd that is started here
 * on a unix socket in socket_dir and ends with this process, whatever ends it. format: as
 * "qcow2"; never guessed from the content, which a guest could have written.
 */
BlockBackend *block_nbd_open(const char *path, const char *format, BlockMode mode,
                             const char *socket_dir, GError **error);

#endif
