/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images for tests. */
#include "image.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void
image_make(Image *image, const char *format, uint64_t bytes)
{
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, bytes);
    g_autofree char *name = g_strconcat("image.", format, NULL);
    g_autoptr(GError) error = NULL;
    int status;

    image->dir = g_dir_make_tmp("district-disk-XXXXXX", NULL);
    image->path = g_build_filename(image->dir, name, NULL);
    image->format = format;
    if (strcmp(format, "raw") == 0) { /* qemu-img would put a block of data at its start */
        g_assert_true(g_file_set_contents(image->path, "", 0, NULL));
        g_assert_cmpint(truncate(image->path, (off_t)bytes), ==, 0);
        return;
    }
    const char *argv[] = {"qemu-img", "create", "-q", "-f", format, image->path, size, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
}

void
image_remove(Image *image)
{
    g_assert_cmpint(g_unlink(image->path), ==, 0);
    g_assert_cmpint(g_rmdir(image->dir), ==, 0);
    g_free(image->path);
    g_free(image->dir);
}

BlockBackend *
image_try_open(const Image *image, BlockMode mode, GError **error)
{
    if (strcmp(image->format, "raw") == 0)
        return block_raw_open(image->path, mode, error);
    return block_nbd_open(image->path, image->format, mode, image->dir, error);
}

BlockBackend *
image_open(const Image *image, BlockMode mode)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *b = image_try_open(image, mode, &error);

    g_assert_no_error(error);
    return b;
}

void
image_close(BlockBackend *b)
{
    b->ops->close(b);
}

void
block_note(void *opaque, int error)
{
    *(int *)opaque = error;
}

static gboolean
block_wake(gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

void
block_wait(const int *error)
{
    gint64 limit = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;
    guint wake = g_timeout_add(50, block_wake, NULL);

    while (*error == -1) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(wake);
}

int
block_read(BlockBackend *b, uint64_t offset, void *buf, size_t len)
{
    int error = -1;

    b->ops->read(b, offset, buf, len, block_note, &error);
    g_assert_cmpint(error, ==, -1); /* never from inside the call */
    block_wait(&error);
    return error;
}

int
block_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len)
{
    int error = -1;

    b->ops->write(b, offset, buf, len, block_note, &error);
    g_assert_cmpint(error, ==, -1);
    block_wait(&error);
    return error;
}

int
block_flush(BlockBackend *b)
{
    int error = -1;

    b->ops->flush(b, block_note, &error);
    g_assert_cmpint(error, ==, -1);
    block_wait(&error);
    return error;
}

int
block_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap)
{
    int error = -1;

    b->ops->zero(b, offset, len, unmap, block_note, &error);
    g_assert_cmpint(error, ==, -1);
    block_wait(&error);
    return error;
}

int
block_discard(BlockBackend *b, uint64_t offset, uint64_t len)
{
    int error = -1;

    b->ops->discard(b, offset, len, block_note, &error);
    g_assert_cmpint(error, ==, -1);
    block_wait(&error);
    return error;
}

pid_t
image_server(const BlockBackend *b)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t len = sizeof peer;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_strlcpy(address.sun_path, b->home + strlen("nbd:"), sizeof address.sun_path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), ==, 0);
    close(fd);
    return peer.pid;
}

bool
all_bytes(const uint8_t *buf, size_t len, uint8_t value)
{
    for (size_t i = 0; i < len; i++) {
        if (buf[i] != value)
            return false;
    }
    return true;
}
