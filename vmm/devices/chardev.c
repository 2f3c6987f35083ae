/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Console back ends: file, pty, none, and the log beside them. chardev.h has the promises. */
#include "vmm/devices/chardev.h"
#include "vmm/devices/outfile.h"
#include "vmm/devices/state.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* Output is gathered up to a line, this many bytes or CHARDEV_FLUSH_MS, whichever comes first. */
#define PENDING_MAX 512
#define INPUT_MAX 4096

struct Chardev {
    Machine *machine;
    const ChardevOps *ops;
    void *opaque;
    OutFile *file; /* "file:PATH", or NULL */
    OutFile *log;  /* or NULL */
    int fd;        /* pty master, -1 if no pty */
    int slave_fd;  /* held open so that the pty lives without a reader; -1 if no pty */
    char *pty_path;
    char *link_path; /* removed by chardev_free */
    bool started;
    guint input_source;
    guint flush_source;
    GByteArray *pending;
};

static gboolean
set_system_error(GError **error, const char *what, const char *path)
{
    int saved = errno;

    g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_SYSTEM, "console: cannot %s %s: %s", what, path,
                g_strerror(saved));
    return FALSE;
}

static OutFile *
open_file(const char *path, GError **error)
{
    OutFile *file = outfile_open(path, error);

    if (!file)
        g_prefix_error(error, "console: ");
    return file;
}

/* Put a symbolic link to the pty at path in one step. */
static gboolean
make_link(Chardev *chardev, const char *path, GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.%d", path, (int)getpid());
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISLNK(st.st_mode)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "console: %s exists and is not a symbolic link; remove it or choose another "
                    "name for the pty's link",
                    path);
        return FALSE;
    }
    (void)unlink(temporary);
    if (symlink(chardev->pty_path, temporary) < 0)
        return set_system_error(error, "make the link", temporary);
    if (rename(temporary, path) < 0) {
        set_system_error(error, "make the link", path);
        (void)unlink(temporary);
        return FALSE;
    }
    chardev->link_path = g_strdup(path);
    return TRUE;
}

static gboolean
open_pty(Chardev *chardev, const char *link_path, GError **error)
{
    char name[64];
    struct termios tio;

    chardev->fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (chardev->fd < 0 || grantpt(chardev->fd) < 0 || unlockpt(chardev->fd) < 0 ||
        ptsname_r(chardev->fd, name, sizeof name) != 0)
        return set_system_error(error, "make a pty from", "/dev/ptmx");
    chardev->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (chardev->slave_fd < 0 || tcgetattr(chardev->slave_fd, &tio) < 0)
        return set_system_error(error, "open", name);
    cfmakeraw(&tio);
    if (tcsetattr(chardev->slave_fd, TCSANOW, &tio) < 0)
        return set_system_error(error, "set raw mode on", name);
    chardev->pty_path = g_strdup(name);
    return link_path ? make_link(chardev, link_path, error) : TRUE;
}

static gboolean
open_spec(Chardev *chardev, const char *spec, GError **error)
{
    const char *argument;

    if (strcmp(spec, "none") == 0)
        return TRUE;
    if (strcmp(spec, "pty") == 0)
        return open_pty(chardev, NULL, error);
    if (g_str_has_prefix(spec, "pty:") && spec[4])
        return open_pty(chardev, spec + 4, error);
    argument = g_str_has_prefix(spec, "file:") ? spec + 5 : "";
    if (*argument) {
        chardev->file = open_file(argument, error);
        return chardev->file != NULL;
    }
    g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                "console: \"%s\" is not \"none\", \"file:PATH\", \"pty\" or \"pty:LINK\"", spec);
    return FALSE;
}

Chardev *
chardev_open(Machine *m, const char *spec, const char *log_path, const ChardevOps *ops,
             void *opaque, GError **error)
{
    g_autoptr(Chardev) chardev = g_new0(Chardev, 1);

    chardev->machine = m;
    chardev->ops = ops;
    chardev->opaque = opaque;
    chardev->fd = chardev->slave_fd = -1;
    chardev->pending = g_byte_array_new();
    if (!open_spec(chardev, spec, error))
        return NULL;
    if (log_path) {
        chardev->log = open_file(log_path, error);
        if (!chardev->log)
            return NULL;
    }
    return g_steal_pointer(&chardev);
}

static void
close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void
remove_source(guint *source)
{
    if (*source)
        g_source_remove(*source);
    *source = 0;
}

void
chardev_free(Chardev *chardev)
{
    if (!chardev)
        return;
    remove_source(&chardev->input_source);
    remove_source(&chardev->flush_source);
    if (chardev->link_path)
        (void)unlink(chardev->link_path);
    close_fd(chardev->fd);
    close_fd(chardev->slave_fd);
    outfile_free(chardev->file);
    outfile_free(chardev->log);
    g_byte_array_unref(chardev->pending);
    g_free(chardev->pty_path);
    g_free(chardev->link_path);
    g_free(chardev);
}

/* Bytes written, 0 if the pty takes none now. */
static size_t
write_some(int fd, const uint8_t *data, size_t len)
{
    ssize_t n;

    do
        n = write(fd, data, len);
    while (n < 0 && errno == EINTR);
    return n > 0 ? (size_t)n : 0;
}

static void
write_pty(Chardev *chardev, const uint8_t *data, size_t len)
{
    size_t n = write_some(chardev->fd, data, len);

    if (n == len)
        return;
    /* Full: forget what nobody has read, both on its way and in the line discipline. */
    tcflush(chardev->fd, TCOFLUSH);
    tcflush(chardev->slave_fd, TCIFLUSH);
    write_some(chardev->fd, data + n, len - n);
}

void
chardev_flush(Chardev *chardev)
{
    GByteArray *pending = chardev->pending;

    remove_source(&chardev->flush_source);
    if (pending->len == 0)
        return;
    if (chardev->log)
        outfile_write(chardev->log, pending->data, pending->len);
    if (chardev->pty_path)
        write_pty(chardev, pending->data, pending->len);
    else if (chardev->file)
        outfile_write(chardev->file, pending->data, pending->len);
    g_byte_array_set_size(pending, 0);
}

static gboolean
flush_due(gpointer opaque)
{
    Chardev *chardev = opaque;

    machine_lock(chardev->machine);
    /* A flush that came first has removed this source; then there may be a newer one. */
    if (!g_source_is_destroyed(g_main_current_source())) {
        chardev->flush_source = 0;
        chardev_flush(chardev);
    }
    machine_unlock(chardev->machine);
    return G_SOURCE_REMOVE;
}

void
chardev_write(Chardev *chardev, const uint8_t *data, size_t len)
{
    if (!chardev->pty_path && !chardev->file && !chardev->log)
        return;
    while (len > 0) {
        size_t n = MIN(len, PENDING_MAX - chardev->pending->len);
        g_byte_array_append(chardev->pending, data, (guint)n);
        if (chardev->pending->len >= PENDING_MAX || data[n - 1] == '\n')
            chardev_flush(chardev);
        data += n;
        len -= n;
    }
    if (chardev->pending->len > 0 && !chardev->flush_source)
        chardev->flush_source = g_timeout_add(CHARDEV_FLUSH_MS, flush_due, chardev);
}

static gboolean
input_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *chardev = opaque;
    uint8_t buf[INPUT_MAX];
    size_t room = 0;
    ssize_t n = 0;
    gboolean go_on = G_SOURCE_REMOVE;

    machine_lock(chardev->machine);
    if (g_source_is_destroyed(g_main_current_source())) {
        machine_unlock(chardev->machine);
        return G_SOURCE_REMOVE;
    }
    room = chardev->ops->room(chardev->opaque);
    if (room > 0) {
        n = read(fd, buf, MIN(room, sizeof buf));
        if (n > 0)
            chardev->ops->input(chardev->opaque, buf, (size_t)n);
        /* The slave end is ours, so the pty cannot end; should it fail, output goes on alone. */
        if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
            go_on = G_SOURCE_CONTINUE;
    }
    if (go_on == G_SOURCE_REMOVE)
        chardev->input_source = 0;
    machine_unlock(chardev->machine);
    return go_on;
}

void
chardev_input_resume(Chardev *chardev)
{
    if (chardev->started && chardev->pty_path && !chardev->input_source)
        chardev->input_source = g_unix_fd_add(chardev->fd, G_IO_IN, input_ready, chardev);
}

void
chardev_stop(Chardev *chardev)
{
    chardev->started = false;
    remove_source(&chardev->input_source);
    chardev_flush(chardev);
}

void
chardev_start(Chardev *chardev)
{
    chardev->started = true;
    chardev_input_resume(chardev);
}

const char *
chardev_pty_path(const Chardev *chardev)
{
    return chardev->pty_path;
}
