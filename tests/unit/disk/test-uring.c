/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The io_uring of the main loop, on real files. */
#include "disk/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPS 3000

typedef struct Fixture {
    Uring *uring;
    int fd;
    unsigned ended, failed;
    int error; /* of the last that failed */
} Fixture;

static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->uring = uring_new(&error);
    g_assert_no_error(error);
    f->fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    g_assert_cmpint(f->fd, >=, 0);
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    if (f->uring != NULL)
        uring_free(f->uring);
    close(f->fd);
}

static void
on_done(void *opaque, int error)
{
    Fixture *f = opaque;

    f->ended++;
    if (error != 0) {
        f->failed++;
        f->error = error;
    }
}

static gboolean
on_timeout(gpointer opaque)
{
    g_error("the operation did not end in time");
    return G_SOURCE_REMOVE;
}

static void
wait_for(Fixture *f, unsigned ended)
{
    guint timeout = g_timeout_add_seconds(20, on_timeout, NULL);

    while (f->ended < ended)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(timeout);
    g_assert_cmpuint(f->ended, ==, ended);
}

static void
test_many(Fixture *f, gconstpointer data)
{
    g_autofree uint32_t *values = g_new(uint32_t, (gsize)2 * OPS);

    for (unsigned i = 0; i < OPS; i++) {
        struct iovec iov = {&values[i], sizeof values[i]};

        values[i] = i * 2654435761U;
        uring_writev(f->uring, f->fd, &iov, 1, i * sizeof values[i], on_done, f);
    }
    g_assert_cmpuint(f->ended, ==, 0);
    g_assert_cmpuint(uring_busy(f->uring), ==, OPS);
    wait_for(f, OPS);
    g_assert_cmpuint(uring_busy(f->uring), ==, 0);
    for (unsigned i = 0; i < OPS; i++) {
        struct iovec iov = {&values[OPS + i], sizeof values[i]};

        uring_readv(f->uring, f->fd, &iov, 1, i * sizeof values[i], on_done, f);
    }
    wait_for(f, 2 * OPS);
    g_assert_cmpuint(f->failed, ==, 0);
    g_assert_cmpmem(values, OPS * sizeof *values, values + OPS, OPS * sizeof *values);
}

static void
test_vectors(Fixture *f, gconstpointer data)
{
    char a[] = "log", b[] = "structured", back[sizeof "logstructured"] = "";
    struct iovec out[] = {{a, strlen(a)}, {b, strlen(b)}};
    struct iovec in[] = {{back, 6}, {back + 6, strlen(a) + strlen(b) - 6}};

    uring_writev(f->uring, f->fd, out, 2, 4096, on_done, f);
    wait_for(f, 1);
    uring_readv(f->uring, f->fd, in, 2, 4096, on_done, f);
    wait_for(f, 2);
    g_assert_cmpstr(back, ==, "logstructured");
}

static void
test_end_of_file(Fixture *f, gconstpointer data)
{
    char half[100], whole[200];
    struct iovec out = {half, sizeof half}, in = {whole, sizeof whole};

    memset(half, 1, sizeof half);
    uring_writev(f->uring, f->fd, &out, 1, 0, on_done, f);
    wait_for(f, 1);
    uring_readv(f->uring, f->fd, &in, 1, 0, on_done, f);
    wait_for(f, 2);
    g_assert_cmpint(f->error, ==, EIO);
}

/* The kernel ends a read of a pipe with what there is. */
static void
test_short(Fixture *f, gconstpointer data)
{
    char back[10] = "";
    struct iovec in[] = {{back, 2}, {back + 2, 7}};
    int ends[2];

    g_assert_cmpint(pipe(ends), ==, 0);
    uring_readv(f->uring, ends[0], in, 2, 0, on_done, f);
    for (const char *part = "continued"; *part != '\0'; part += 3) {
        g_assert_cmpint(write(ends[1], part, 3), ==, 3);
        for (unsigned i = 0; i < 20; i++) {
            g_main_context_iteration(NULL, FALSE);
            g_usleep(500);
        }
    }
    wait_for(f, 1);
    g_assert_cmpuint(f->failed, ==, 0);
    g_assert_cmpstr(back, ==, "continued");
    close(ends[0]);
    close(ends[1]);
}

static void
test_bad_descriptor(Fixture *f, gconstpointer data)
{
    char byte = 0;
    struct iovec iov = {&byte, 1};
    int closed = dup(f->fd);

    close(closed);
    uring_writev(f->uring, closed, &iov, 1, 0, on_done, f);
    wait_for(f, 1);
    g_assert_cmpint(f->error, ==, EBADF);
}

static void
test_punch(Fixture *f, gconstpointer data)
{
    g_autofree char *block = g_malloc(65536);
    struct iovec iov = {block, 65536};
    struct stat before, after;

    memset(block, 7, 65536);
    uring_writev(f->uring, f->fd, &iov, 1, 0, on_done, f);
    wait_for(f, 1);
    uring_fsync(f->uring, f->fd, true, on_done, f);
    wait_for(f, 2);
    g_assert_cmpint(fstat(f->fd, &before), ==, 0);
    uring_fallocate(f->uring, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 61440,
                    on_done, f);
    wait_for(f, 3);
    g_assert_cmpint(fstat(f->fd, &after), ==, 0);
    g_assert_cmpuint(f->failed, ==, 0);
    g_assert_cmpint(after.st_size, ==, 65536);
    g_assert_cmpint(after.st_blocks, <, before.st_blocks);
}

static void
free_ring(void *opaque, int error)
{
    Fixture *f = opaque;

    f->ended++;
    uring_free(f->uring);
    f->uring = NULL;
}

static void
test_freed_inside(Fixture *f, gconstpointer data)
{
    uring_fsync(f->uring, f->fd, false, free_ring, f);
    wait_for(f, 1);
    g_assert_null(f->uring);
    g_assert_false(g_main_context_iteration(NULL, FALSE));
}

#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/uring/more operations than the ring holds all end", test_many);
    ADD("/uring/vectors are written and read in order", test_vectors);
    ADD("/uring/a read beyond the end of the file is an error", test_end_of_file);
    ADD("/uring/a transfer that ends short is continued", test_short);
    ADD("/uring/an error is told as errno", test_bad_descriptor);
    ADD("/uring/a hole is punched", test_punch);
    ADD("/uring/a completion may free the ring", test_freed_inside);
    return g_test_run();
}
