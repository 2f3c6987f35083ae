/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines that tell of a job, and its end when nobody listens. */
#include "ckpt/progress.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define LINE_MS 200

struct Progress {
    int fd;
    GThread *thread;
    gint stop;   /* atomic */
    GMutex lock; /* guards what follows */
    const char *phase;
    uint64_t done;
    uint64_t total;
};

static void
tell(Progress *progress)
{
    g_autofree char *line = NULL;

    g_mutex_lock(&progress->lock);
    line = g_strdup_printf("%s %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", progress->phase,
                           progress->total != 0 ? MIN(progress->done, progress->total)
                                                : progress->done,
                           progress->total);
    g_mutex_unlock(&progress->lock);
    /* Whoever does not read misses some. */
    if (write(progress->fd, line, strlen(line)) < 0 && errno == EPIPE)
        _exit(1);
}

/* A pipe whose readers have all gone is in error (poll(2)). */
static gpointer
progress_run(gpointer data)
{
    Progress *progress = data;

    while (!g_atomic_int_get(&progress->stop)) {
        struct pollfd end = {.fd = progress->fd};

        if (poll(&end, 1, LINE_MS) > 0 && (end.revents & (POLLERR | POLLHUP)) != 0)
            _exit(1);
        tell(progress);
    }
    return NULL;
}

Progress *
progress_new(int fd)
{
    Progress *progress = g_new0(Progress, 1);

    progress->fd = fd;
    progress->phase = "begin";
    g_mutex_init(&progress->lock);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    progress->thread = g_thread_new("progress", progress_run, progress);
    return progress;
}

void
progress_free(Progress *progress)
{
    if (progress == NULL)
        return;
    g_atomic_int_set(&progress->stop, 1);
    g_thread_join(progress->thread);
    close(progress->fd);
    g_mutex_clear(&progress->lock);
    g_free(progress);
}

void
progress_phase(Progress *progress, const char *phase, uint64_t total)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&progress->lock);
    progress->phase = phase;
    progress->done = 0;
    progress->total = total;
    g_mutex_unlock(&progress->lock);
}

void
progress_set(Progress *progress, uint64_t done)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&progress->lock);
    progress->done = done;
    g_mutex_unlock(&progress->lock);
}

void
progress_add(Progress *progress, uint64_t done)
{
    if (progress == NULL)
        return;
    g_mutex_lock(&progress->lock);
    progress->done += done;
    g_mutex_unlock(&progress->lock);
}
