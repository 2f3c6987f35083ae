/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Raw files and block devices as home images.
 *
 * Theory of operation: all I/O goes through an io_uring of the backend's own and the page cache, so
 * that district-ckpt, which writes committed blocks to the same image, is seen at once. Zeroing and
 * discarding is fallocate(2) on files and block devices alike (Linux does there what BLKZEROOUT and
 * BLKDISCARD do, but without blocking the main loop for as long as that takes). Where it is not to
 * be had, zeros are written, a piece at a time, and discarding is left out.
 *
 * The lock is an open file description lock on the whole file: QEMU's own image locks are of the
 * same kind, so QEMU and District keep each other out. It goes with the descriptor.
 * Who opens an image BLOCK_SHARED takes none: a shared one would keep the writer from coming back.
 */
#include "disk/block.h"
#include "disk/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Zeros written at a time. */
#define ZERO_CHUNK (256 * 1024)
/* How long to wait for who is just closing the image: an engine that was killed, say. */
#define LOCK_WAIT_US (500 * 1000)
#define LOCK_RETRY_US 10000

typedef struct RawBackend {
    BlockBackend base;
    Uring *uring;
    int fd;
    bool no_zero_range; /* fallocate cannot, as we have seen */
    bool no_punch;
} RawBackend;

/* A range being made zero. */
typedef struct ZeroRequest {
    RawBackend *raw;
    uint64_t offset;
    uint64_t len;
    bool punch;
    BlockDone done;
    void *opaque;
} ZeroRequest;

static const uint8_t zeros[ZERO_CHUNK];

static void
raw_read(BlockBackend *b, uint64_t offset, void *buf, size_t len, BlockDone done, void *opaque)
{
    RawBackend *raw = (RawBackend *)b;
    struct iovec iov = {.iov_base = buf, .iov_len = len};

    uring_readv(raw->uring, raw->fd, &iov, 1, offset, done, opaque);
}

static void
raw_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len, BlockDone done,
          void *opaque)
{
    RawBackend *raw = (RawBackend *)b;
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

    uring_writev(raw->uring, raw->fd, &iov, 1, offset, done, opaque);
}

static void
raw_flush(BlockBackend *b, BlockDone done, void *opaque)
{
    RawBackend *raw = (RawBackend *)b;

    uring_fsync(raw->uring, raw->fd, true, done, opaque);
}

/* ---- Zeros ---- */

/* What says "this cannot be done here" rather than "this went wrong". */
static bool
not_supported(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == ENODEV || error == EINVAL;
}

static void
zero_written(void *opaque, int error)
{
    ZeroRequest *request = opaque;
    struct iovec iov = {.iov_base = (void *)zeros};

    if (error != 0 || request->len == 0) {
        request->done(request->opaque, error);
        g_free(request);
        return;
    }
    iov.iov_len = MIN(request->len, ZERO_CHUNK);
    request->offset += iov.iov_len;
    request->len -= iov.iov_len;
    uring_writev(request->raw->uring, request->raw->fd, &iov, 1, request->offset - iov.iov_len,
                 zero_written, request);
}

static void
zero_allocated(void *opaque, int error)
{
    ZeroRequest *request = opaque;

    if (!not_supported(error)) {
        request->done(request->opaque, error);
        g_free(request);
        return;
    }
    if (error != EINVAL && request->punch) /* EINVAL may be of this range alone */
        request->raw->no_punch = true;
    else if (error != EINVAL)
        request->raw->no_zero_range = true;
    zero_written(request, 0);
}

static void
raw_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap, BlockDone done, void *opaque)
{
    RawBackend *raw = (RawBackend *)b;
    ZeroRequest *request = g_new(ZeroRequest, 1);
    int mode = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

    *request = (ZeroRequest){raw, offset, len, unmap, done, opaque};
    if (unmap ? raw->no_punch : raw->no_zero_range)
        zero_written(request, 0);
    else
        uring_fallocate(raw->uring, raw->fd, mode, offset, len, zero_allocated, request);
}

/* ---- Discard ---- */

static void
discarded(void *opaque, int error)
{
    ZeroRequest *request = opaque;

    /* It is a hint. */
    request->done(request->opaque, not_supported(error) ? 0 : error);
    g_free(request);
}

static void
raw_discard(BlockBackend *b, uint64_t offset, uint64_t len, BlockDone done, void *opaque)
{
    RawBackend *raw = (RawBackend *)b;
    ZeroRequest *request = g_new(ZeroRequest, 1);

    *request = (ZeroRequest){raw, offset, len, true, done, opaque};
    uring_fallocate(raw->uring, raw->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, len,
                    discarded, request);
}

/* ---- Opening ---- */

static void
raw_close(BlockBackend *b)
{
    RawBackend *raw = (RawBackend *)b;

    g_clear_pointer(&raw->uring, uring_free);
    if (raw->fd >= 0)
        close(raw->fd);
    g_free(raw->base.home);
    g_free(raw);
}

static const BlockBackendOps raw_ops = {
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .zero = raw_zero,
    .discard = raw_discard,
    .close = raw_close,
};

static gboolean
raw_size(RawBackend *raw, const char *path, GError **error)
{
    struct stat st = {0};

    if (fstat(raw->fd, &st) == 0 && S_ISREG(st.st_mode)) {
        raw->base.bytes = (uint64_t)st.st_size;
    } else if (!S_ISBLK(st.st_mode) || ioctl(raw->fd, BLKGETSIZE64, &raw->base.bytes) < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_REGULAR_FILE,
                    "disk %s is neither a file nor a block device", path);
        return FALSE;
    }
    if (raw->base.bytes > 0 && raw->base.bytes % SECTOR_BYTES == 0 &&
        raw->base.bytes <= DISK_BYTES_MAX)
        return TRUE;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "disk %s has %" G_GUINT64_FORMAT " bytes; it must be a multiple of %d from 512 to "
                "64T: set its size with truncate -s, or name its format if it is no raw image",
                path, (guint64)raw->base.bytes, SECTOR_BYTES);
    return FALSE;
}

static gboolean
raw_lock(const RawBackend *raw, const char *path, GError **error)
{
    gint64 limit = g_get_monotonic_time() + LOCK_WAIT_US;
    struct flock lock = {.l_type = raw->base.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

    while (fcntl(raw->fd, F_OFD_SETLK, &lock) < 0) {
        int code = errno;

        if ((code == EAGAIN || code == EACCES) && g_get_monotonic_time() < limit) {
            g_usleep(LOCK_RETRY_US);
            continue;
        }
        if (code == EAGAIN || code == EACCES)
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "disk %s is in use by another program: end that first (lslocks and fuser "
                        "-v say which it is)",
                        path);
        else
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "disk %s: cannot lock: %s",
                        path, g_strerror(code));
        return FALSE;
    }
    return TRUE;
}

BlockBackend *
block_raw_open(const char *path, BlockMode mode, GError **error)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    RawBackend *raw = g_new0(RawBackend, 1);

    raw->base.ops = &raw_ops;
    raw->base.read_only = mode != BLOCK_WRITE;
    raw->base.home = g_strconcat("raw:", absolute, NULL);
    /* Not blocking: a FIFO of that name must not hold us up. */
    raw->fd = open(path, (mode == BLOCK_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (raw->fd < 0) {
        int code = errno;

        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "disk %s: cannot open: %s",
                    path, g_strerror(code));
    } else if (raw_size(raw, path, error) && (mode == BLOCK_SHARED || raw_lock(raw, path, error))) {
        /* To an io_uring it would mean not to wait for the medium either. */
        fcntl(raw->fd, F_SETFL, 0);
        raw->uring = uring_new(error);
        g_prefix_error(error, "disk %s: ", path);
    }
    if (raw->uring != NULL)
        return &raw->base;
    raw_close(&raw->base);
    return NULL;
}
