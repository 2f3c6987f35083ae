/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sealed memfds. */
#include "common/memfd.h"

#include "common/page.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMFD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static void
memfd_fail(GError **error, const char *what)
{
    int saved = errno;
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(saved), "%s: %s", what,
                g_strerror(saved));
}

int
memfd_create_sealed(const char *name, uint64_t size, GError **error)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        memfd_fail(error, "memfd_create");
        return -1;
    }
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, MEMFD_SEALS | F_SEAL_SEAL) < 0) {
        memfd_fail(error, name);
        close(fd);
        return -1;
    }
    return fd;
}

uint64_t
memfd_size(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

gboolean
memfd_check(int fd, uint64_t size, const char *what, GError **error)
{
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & MEMFD_SEALS) != MEMFD_SEALS) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "%s: not a memfd sealed against shrinking and growing", what);
        return FALSE;
    }
    if (size != 0 && memfd_size(fd) != size) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "%s: %" G_GUINT64_FORMAT " bytes where %" G_GUINT64_FORMAT " were announced",
                    what, memfd_size(fd), size);
        return FALSE;
    }
    return TRUE;
}

gboolean
memfd_mark_spent(int fd, GError **error)
{
    if (fchmod(fd, S_IRUSR) < 0) {
        memfd_fail(error, "fchmod");
        return FALSE;
    }
    return TRUE;
}

gboolean
memfd_is_spent(int fd)
{
    struct stat st;

    return fstat(fd, &st) < 0 || (st.st_mode & S_IWUSR) == 0;
}

void *
memfd_map(int fd, uint64_t size, gboolean write, GError **error)
{
    void *p = mmap(NULL, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        memfd_fail(error, "mmap");
        return NULL;
    }
    return p;
}

int
memfd_from_data(const char *name, const void *data, uint64_t size, GError **error)
{
    int fd = memfd_create_sealed(name, size ? size : PAGE_BYTES, error);

    if (fd < 0)
        return -1;
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, (const char *)data + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            memfd_fail(error, name);
            close(fd);
            return -1;
        }
        done += (uint64_t)n;
    }
    return fd;
}
