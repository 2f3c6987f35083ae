/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files for what guests print; outfile.h has the promises. */
#include "vmm/devices/outfile.h"
#include "vmm/devices/state.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

struct OutFile {
    char *path;
    int fd;         /* -1: it could not be begun anew */
    bool regular;   /* may be renamed */
    uint64_t bytes; /* in it, as far as we know; only if regular */
};

/* Open the file and find out what it is. False with errno set. */
static bool
outfile_begin(OutFile *file)
{
    struct stat st;

    file->fd =
        open(file->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (file->fd < 0 || fstat(file->fd, &st) < 0)
        return false;
    file->regular = S_ISREG(st.st_mode);
    file->bytes = (uint64_t)st.st_size;
    return true;
}

OutFile *
outfile_open(const char *path, GError **error)
{
    g_autoptr(OutFile) file = g_new0(OutFile, 1);

    file->path = g_strdup(path);
    if (outfile_begin(file))
        return g_steal_pointer(&file);
    g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_SYSTEM, "cannot open %s for writing: %s", path,
                g_strerror(errno));
    return NULL;
}

static void
outfile_close(OutFile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

void
outfile_free(OutFile *file)
{
    if (!file)
        return;
    outfile_close(file);
    g_free(file->path);
    g_free(file);
}

/* Put the full file aside and begin a new one. */
static void
outfile_rotate(OutFile *file)
{
    g_autofree char *aside = g_strconcat(file->path, ".1", NULL);

    outfile_close(file);
    if (g_rename(file->path, aside) == 0 || errno == ENOENT) {
        if (outfile_begin(file))
            return;
    }
    g_warning("%s is full and cannot be begun anew: %s; what the guest prints there is lost",
              file->path, g_strerror(errno));
    outfile_close(file);
}

static bool
outfile_is_full(OutFile *file, size_t len)
{
    struct stat st;

    if (!file->regular || file->bytes + len <= OUTFILE_BYTES_MAX)
        return false;
    /* Somebody may have emptied it meanwhile. */
    if (fstat(file->fd, &st) == 0)
        file->bytes = (uint64_t)st.st_size;
    return file->bytes > 0 && file->bytes + len > OUTFILE_BYTES_MAX;
}

void
outfile_write(OutFile *file, const uint8_t *data, size_t len)
{
    if (file->fd >= 0 && outfile_is_full(file, len))
        outfile_rotate(file);
    while (len > 0) {
        ssize_t n = write(file->fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* disk full, or a pipe nobody reads: the rest is lost, the guest goes on */
        file->bytes += (uint64_t)n;
        data += n;
        len -= (size_t)n;
    }
}
