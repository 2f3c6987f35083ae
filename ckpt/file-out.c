/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A checkpoint file: records to a descriptor, in the order they come. */
#include "ckpt/file-out.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct FileOut {
    int fd;
    char *path;
    gint interrupted; /* atomic */
} FileOut;

gpointer
file_out_new(int fd, const char *path)
{
    FileOut *out = g_new0(FileOut, 1);

    out->fd = fd;
    out->path = g_strdup(path);
    return out;
}

static gboolean
file_out_error(FileOut *out, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "checkpoint file %s: %s%s",
                out->path, g_strerror(err),
                err == ENOSPC || err == EDQUOT ? "; free some space and try again" : "");
    return FALSE;
}

static gboolean
file_out_open(void *opaque, GError **error)
{
    return TRUE;
}

static gboolean
file_out_greet(void *opaque, Sink *sink, uint64_t *held, GError **error)
{
    return TRUE;
}

static gboolean
file_out_write(void *opaque, const void *data, size_t len, GError **error)
{
    FileOut *out = opaque;

    for (size_t done = 0; done < len;) {
        if (g_atomic_int_get(&out->interrupted))
            return file_out_error(out, ECANCELED, error);
        ssize_t n = write(out->fd, (const char *)data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return file_out_error(out, n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
file_out_finish(void *opaque, GError **error)
{
    FileOut *out = opaque;

    if (fsync(out->fd) == 0 || errno == EINVAL) /* EINVAL: a pipe; nothing to sync */
        return TRUE;
    return file_out_error(out, errno, error);
}

static void
file_out_interrupt(void *opaque)
{
    FileOut *out = opaque;

    g_atomic_int_set(&out->interrupted, 1);
}

static void
file_out_free(void *opaque)
{
    FileOut *out = opaque;

    close(out->fd);
    g_free(out->path);
    g_free(out);
}

const SinkTransport file_out_transport = {
    .open = file_out_open,
    .greet = file_out_greet,
    .write = file_out_write,
    .finish = file_out_finish,
    .interrupt = file_out_interrupt,
    .free = file_out_free,
    .is_stream = false,
};
