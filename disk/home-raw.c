/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Home images that are raw files or block devices. */
#include "disk/home-ops.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZERO_CHUNK (256 * 1024)

typedef struct RawHome {
    Home base;
    int fd;
} RawHome;

static gboolean
raw_read(Home *home, uint64_t offset, void *buf, size_t len, GError **error)
{
    int fd = ((RawHome *)home)->fd;

    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) /* 0: it has shrunk */
            return home_fail(home->name, "read", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
raw_write(Home *home, uint64_t offset, const void *buf, size_t len, GError **error)
{
    int fd = ((RawHome *)home)->fd;

    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return home_fail(home->name, "write", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
raw_zero(Home *home, uint64_t offset, uint64_t len, GError **error)
{
    static const uint8_t zeros[ZERO_CHUNK];

    if (fallocate(((RawHome *)home)->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)offset,
                  (off_t)len) == 0)
        return TRUE;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ENODEV)
        return home_fail(home->name, "write zeros", errno, error);
    while (len > 0) {
        size_t step = MIN(len, ZERO_CHUNK);

        if (!raw_write(home, offset, zeros, step, error))
            return FALSE;
        offset += step;
        len -= step;
    }
    return TRUE;
}

static gboolean
raw_flush(Home *home, GError **error)
{
    return fdatasync(((RawHome *)home)->fd) == 0 || home_fail(home->name, "sync", errno, error);
}

static gboolean
raw_next_data(Home *home, uint64_t from, uint64_t *start, uint64_t *end, GError **error)
{
    int fd = ((RawHome *)home)->fd;
    off_t data = lseek(fd, (off_t)from, SEEK_DATA), hole;

    *start = *end = home->bytes;
    if (data < 0 && errno == ENXIO)
        return TRUE; /* nothing but a hole is left */
    if (data < 0 && errno == EINVAL) {
        *start = from; /* it does not know: a block device */
        return TRUE;
    }
    hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        return home_fail(home->name, "find its data", errno, error);
    *start = MIN((uint64_t)data, home->bytes);
    *end = MIN((uint64_t)hole, home->bytes);
    return TRUE;
}

static void
raw_close(Home *home)
{
    RawHome *raw = (RawHome *)home;

    close(raw->fd);
    g_free(raw);
}

static const HomeOps raw_ops = {
    .read = raw_read,
    .write = raw_write,
    .zero = raw_zero,
    .flush = raw_flush,
    .next_data = raw_next_data,
    .close = raw_close,
};

/* Whether fd is an image of so many bytes. */
static gboolean
raw_check(int fd, const char *path, uint64_t bytes, GError **error)
{
    struct stat st;
    uint64_t have = 0;

    if (fstat(fd, &st) < 0)
        return home_fail(path, "open", errno, error);
    if (S_ISREG(st.st_mode))
        have = (uint64_t)st.st_size;
    else if (!S_ISBLK(st.st_mode) || ioctl(fd, BLKGETSIZE64, &have) < 0)
        return home_fail(path, "open", ENOTBLK, error);
    if (have == bytes)
        return TRUE;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "home image %s has %" G_GUINT64_FORMAT " bytes, the disk %" G_GUINT64_FORMAT
                "; give the disk back the image it had",
                path, (guint64)have, (guint64)bytes);
    return FALSE;
}

Home *
home_raw_open(const char *path, uint64_t bytes, bool write, GError **error)
{
    int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    RawHome *raw;

    if (fd < 0) {
        home_fail(path, "open", errno, error);
        return NULL;
    }
    if (!raw_check(fd, path, bytes, error)) {
        close(fd);
        return NULL;
    }
    raw = g_new0(RawHome, 1);
    raw->base.ops = &raw_ops;
    raw->fd = fd;
    return &raw->base;
}
