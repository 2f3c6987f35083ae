/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copying the image of a journal. */
#include "ckpt/journal-file.h"

#include "common/page.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES ((size_t)1 << 20)
/* An engine that has just ended may still be closing it. */
#define LOCK_WAIT_US (3 * G_USEC_PER_SEC)
#define LOCK_RETRY_US 20000

static gboolean
copy_fail(const char *path, const char *doing, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "journal %s: %s: %s%s",
                path, doing, g_strerror(err),
                err == ENOSPC || err == EDQUOT ? ": free some space and try again" : "");
    return FALSE;
}

static gboolean
read_chunk(int fd, uint8_t *data, size_t len, uint64_t offset, const char *path, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return copy_fail(path, n < 0 ? "reading" : "it is shorter than it was, reading",
                             n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
write_chunk(int fd, const uint8_t *data, size_t len, uint64_t offset, const char *path,
            GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return copy_fail(path, "writing its copy", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

/* What is different of a chunk, block by block. */
static gboolean
copy_chunk(int to, const uint8_t *now, const uint8_t *before, size_t len, uint64_t offset,
           const char *path, GError **error)
{
    for (size_t at = 0; at < len; at += PAGE_BYTES) {
        if (memcmp(now + at, before + at, PAGE_BYTES) != 0 &&
            !write_chunk(to, now + at, PAGE_BYTES, offset + at, path, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
journal_file_copy(int from, int to, uint64_t bytes, const char *path, const gint *cancel,
                  GError **error)
{
    g_autofree uint8_t *now = g_malloc(CHUNK_BYTES), *before = g_malloc(CHUNK_BYTES);

    for (uint64_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t len = MIN(CHUNK_BYTES, bytes - at);
        if (cancel != NULL && g_atomic_int_get(cancel) != 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "journal %s: not copied", path);
            return FALSE;
        }
        if (!read_chunk(from, now, len, at, path, error) ||
            !read_chunk(to, before, len, at, path, error) ||
            !copy_chunk(to, now, before, len, at, path, error))
            return FALSE;
    }
    return TRUE;
}

bool
journal_file_in_use(int fd)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static gboolean
lock_unused(int fd, const char *path, GError **error)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    gint64 limit = g_get_monotonic_time() + LOCK_WAIT_US;

    while (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        if (errno != EAGAIN && errno != EACCES)
            return copy_fail(path, "locking it", errno, error);
        if (g_get_monotonic_time() >= limit) {
            g_set_error(
                error, G_IO_ERROR, G_IO_ERROR_BUSY,
                "journal %s is in use by a program that nothing is known of: end that first "
                "(lslocks and fuser -v say which it is)",
                path);
            return FALSE;
        }
        g_usleep(LOCK_RETRY_US);
    }
    return TRUE;
}

static gboolean
copy_locked(int fd, const char *path, int to, GError **error)
{
    struct stat from_st, to_st;

    if (fstat(fd, &from_st) != 0 || fstat(to, &to_st) != 0)
        return copy_fail(path, "looking at it", errno, error);
    if (!S_ISREG(from_st.st_mode) || from_st.st_size != to_st.st_size ||
        from_st.st_size % PAGE_BYTES != 0)
        return copy_fail(path, "it has not the size of its copy", EINVAL, error);
    return journal_file_copy(fd, to, (uint64_t)from_st.st_size, path, NULL, error) &&
           (fsync(to) == 0 || copy_fail(path, "syncing its copy", errno, error));
}

gboolean
journal_file_copy_unused(const char *path, int to, GError **error)
{
    /* Not blocking: a FIFO of that name must not hold us up. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    gboolean good;

    if (fd < 0)
        return copy_fail(path, "opening it", errno, error);
    good = lock_unused(fd, path, error) && copy_locked(fd, path, to, error);
    close(fd);
    return good;
}
