/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Home images: raw files through io_uring, qcow2 through a real qemu-nbd. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024 * 1024)
#define SIZE (64 * MIB)

typedef struct Fixture {
    Image image;
    BlockBackend *b;
    uint8_t *buf; /* a MiB */
} Fixture;

static void
set_up(Fixture *f, gconstpointer format)
{
    image_make(&f->image, format, SIZE);
    f->b = image_open(&f->image, BLOCK_WRITE);
    f->buf = g_malloc(MIB);
}

static void
tear_down(Fixture *f, gconstpointer format)
{
    if (f->b != NULL)
        image_close(f->b);
    image_remove(&f->image);
    g_free(f->buf);
}

static void
reads_what_was_written(Fixture *f, gconstpointer format)
{
    g_assert_cmpuint(f->b->bytes, ==, SIZE);
    for (uint64_t i = 0; i < 4; i++) {
        memset(f->buf, (int)i + 1, 64 * 1024);
        g_assert_cmpint(block_write(f->b, i * 9 * MIB + 512, f->buf, 64 * 1024), ==, 0);
    }
    g_assert_cmpint(block_flush(f->b), ==, 0);
    for (uint64_t i = 0; i < 4; i++) {
        g_assert_cmpint(block_read(f->b, i * 9 * MIB, f->buf, 66 * 1024), ==, 0);
        g_assert_true(all_bytes(f->buf, 512, 0));
        g_assert_true(all_bytes(f->buf + 512, 64 * 1024, (uint8_t)(i + 1)));
        g_assert_true(all_bytes(f->buf + 512 + 64 * 1024, 1536, 0));
    }
}

static void
contents_stay(Fixture *f, gconstpointer format)
{
    memset(f->buf, 0x5A, 4096);
    g_assert_cmpint(block_write(f->b, SIZE - 4096, f->buf, 4096), ==, 0);
    image_close(f->b);
    f->b = image_open(&f->image, BLOCK_READ);
    g_assert_cmpint(block_read(f->b, SIZE - 4096, f->buf, 4096), ==, 0);
    g_assert_true(all_bytes(f->buf, 4096, 0x5A));
}

/* More than one command of qemu-nbd may be. */
static void
large_transfer(Fixture *f, gconstpointer format)
{
    size_t len = 40 * MIB;
    g_autofree uint8_t *big = g_malloc(len);

    for (size_t i = 0; i < len; i++)
        big[i] = (uint8_t)(i >> 16);
    g_assert_cmpint(block_write(f->b, 4096, big, len), ==, 0);
    memset(big, 0xFF, len);
    g_assert_cmpint(block_read(f->b, 4096, big, len), ==, 0);
    for (size_t i = 0; i < len; i += 4096)
        g_assert_true(all_bytes(big + i, 4096, (uint8_t)(i >> 16)));
}

static void
many_at_once(Fixture *f, gconstpointer format)
{
    enum { N = 600 };
    g_autofree int *errors = g_new(int, N);

    memset(f->buf, 7, 4096);
    for (int i = 0; i < N; i++) {
        errors[i] = -1;
        f->b->ops->write(f->b, (uint64_t)i * 8192, f->buf, 4096, block_note, &errors[i]);
    }
    for (int i = 0; i < N; i++) {
        block_wait(&errors[i]);
        g_assert_cmpint(errors[i], ==, 0);
    }
    g_assert_cmpint(block_read(f->b, (N - 1) * 8192, f->buf, 8192), ==, 0);
    g_assert_true(all_bytes(f->buf, 4096, 7));
    g_assert_true(all_bytes(f->buf + 4096, 4096, 0));
}

static void
check_zeroed(Fixture *f, bool unmap)
{
    memset(f->buf, 0xEE, MIB);
    for (int i = 0; i < 3; i++)
        g_assert_cmpint(block_write(f->b, (uint64_t)i * MIB, f->buf, MIB), ==, 0);
    g_assert_cmpint(block_zero(f->b, 512, 2 * MIB, unmap), ==, 0);
    g_assert_cmpint(block_read(f->b, 0, f->buf, MIB), ==, 0);
    g_assert_true(all_bytes(f->buf, 512, 0xEE));
    g_assert_true(all_bytes(f->buf + 512, MIB - 512, 0));
    g_assert_cmpint(block_read(f->b, 2 * MIB, f->buf, MIB), ==, 0);
    g_assert_true(all_bytes(f->buf, 512, 0));
    g_assert_true(all_bytes(f->buf + 512, MIB - 512, 0xEE));
}

static void
zeroes(Fixture *f, gconstpointer format)
{
    check_zeroed(f, false);
    check_zeroed(f, true);
    g_assert_cmpint(block_zero(f->b, 0, SIZE, true), ==, 0);
    g_assert_cmpint(block_read(f->b, 0, f->buf, MIB), ==, 0);
    g_assert_true(all_bytes(f->buf, MIB, 0));
}

static void
discards(Fixture *f, gconstpointer format)
{
    struct stat before, after;

    memset(f->buf, 0xEE, MIB);
    for (int i = 0; i < 8; i++)
        g_assert_cmpint(block_write(f->b, (uint64_t)i * MIB, f->buf, MIB), ==, 0);
    g_assert_cmpint(block_flush(f->b), ==, 0);
    g_assert_cmpint(stat(f->image.path, &before), ==, 0);
    g_assert_cmpint(block_discard(f->b, 0, 8 * MIB), ==, 0);
    g_assert_cmpint(block_flush(f->b), ==, 0);
    g_assert_cmpint(stat(f->image.path, &after), ==, 0);
    g_assert_cmpint(after.st_blocks, <, before.st_blocks - 8 * MIB / 512 / 2);
}

static void
read_only_refuses_writes(Fixture *f, gconstpointer format)
{
    image_close(f->b);
    f->b = image_open(&f->image, BLOCK_READ);
    g_assert_true(f->b->read_only);
    memset(f->buf, 1, 512);
    g_assert_cmpint(block_write(f->b, 0, f->buf, 512), !=, 0);
    g_assert_cmpint(block_read(f->b, 0, f->buf, 512), ==, 0);
    g_assert_true(all_bytes(f->buf, 512, 0));
}

static void
open_refused(Fixture *f, const char *path, const char *why)
{
    Image other = {.dir = f->image.dir, .path = (char *)path, .format = f->image.format};
    g_autoptr(GError) error = NULL;

    g_assert_null(image_try_open(&other, BLOCK_WRITE, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, path));
    if (why != NULL)
        g_assert_nonnull(strstr(error->message, why));
}

static void
second_opening_is_refused(Fixture *f, gconstpointer format)
{
    open_refused(f, f->image.path, "lock");
}

static void
second_raw_opening_is_refused(Fixture *f, gconstpointer format)
{
    open_refused(f, f->image.path, "in use");
    image_close(f->b);
    f->b = image_open(&f->image, BLOCK_READ);
    BlockBackend *also = image_open(&f->image, BLOCK_READ); /* readers share it */
    image_close(also);
}

static gpointer
close_soon(gpointer opaque)
{
    g_usleep(100000);
    close(GPOINTER_TO_INT(opaque));
    return NULL;
}

/* An engine that was killed may take a moment to go. */
static void
short_lock_is_waited_for(Fixture *f, gconstpointer format)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    GThread *thread;
    int fd;

    image_close(f->b);
    fd = open(f->image.path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    thread = g_thread_new("closer", close_soon, GINT_TO_POINTER(fd));
    f->b = image_open(&f->image, BLOCK_WRITE);
    g_thread_join(thread);
}

static void
missing_image_is_named(Fixture *f, gconstpointer format)
{
    open_refused(f, "/nonexistent/image", NULL);
}

static void
odd_sizes_are_refused(Fixture *f, gconstpointer format)
{
    image_close(f->b);
    f->b = NULL;
    g_assert_cmpint(truncate(f->image.path, 1000), ==, 0);
    open_refused(f, f->image.path, "multiple");
    g_assert_cmpint(truncate(f->image.path, 0), ==, 0);
    open_refused(f, f->image.path, "multiple");
    open_refused(f, f->image.dir, "directory");
}

/* Beside whoever has it open to write, who can also go and come back. */
static void
shared_opening_keeps_nobody_out(Fixture *f, gconstpointer format)
{
    BlockBackend *shared;

    memset(f->buf, 0x3C, MIB);
    g_assert_cmpint(block_write(f->b, MIB, f->buf, MIB), ==, 0);
    g_assert_cmpint(block_flush(f->b), ==, 0);
    shared = image_open(&f->image, BLOCK_SHARED);
    g_assert_true(shared->read_only);
    image_close(f->b);
    f->b = image_open(&f->image, BLOCK_WRITE);
    memset(f->buf, 0, MIB);
    g_assert_cmpint(block_read(shared, MIB, f->buf, MIB), ==, 0);
    g_assert_true(all_bytes(f->buf, MIB, 0x3C));
    g_assert_cmpint(block_write(shared, 0, f->buf, 4096), !=, 0);
    image_close(shared);
}

/* The format is what was said, whatever the image holds. */
static void
content_is_not_believed(Fixture *f, gconstpointer format)
{
    Image as_qcow2 = f->image;

    as_qcow2.format = "qcow2";
    g_autoptr(GError) error = NULL;
    image_close(f->b);
    f->b = NULL;
    g_assert_null(image_try_open(&as_qcow2, BLOCK_WRITE, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "qcow2"));
}

static void
odd_formats_are_refused(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(
        block_nbd_open(f->image.path, "qcow2,backing=/x", BLOCK_WRITE, f->image.dir, &error));
    g_assert_nonnull(strstr(error->message, "not a format"));
}

/* ---- The death of qemu-nbd ---- */

static void
killed_server_gives_errors(Fixture *f, gconstpointer format)
{
    enum { N = 50 };
    int errors[N];
    pid_t pid = image_server(f->b);

    g_log_set_always_fatal(G_LOG_FATAL_MASK); /* it warns, and rightly */
    memset(f->buf, 1, MIB);
    kill(pid, SIGSTOP);
    for (int i = 0; i < N; i++) {
        errors[i] = -1;
        f->b->ops->write(f->b, (uint64_t)i * MIB, f->buf, MIB, block_note, &errors[i]);
    }
    for (int i = 0; i < 20; i++)
        g_main_context_iteration(NULL, FALSE);
    kill(pid, SIGKILL);
    for (int i = 0; i < N; i++) {
        block_wait(&errors[i]);
        g_assert_cmpint(errors[i], ==, EIO);
    }
    g_assert_cmpint(block_read(f->b, 0, f->buf, 512), ==, EIO);
    g_assert_cmpint(block_flush(f->b), ==, EIO);
    g_assert_cmpint(block_zero(f->b, 0, MIB, true), ==, EIO);
}

static void
idle_server_may_die_too(Fixture *f, gconstpointer format)
{
    g_log_set_always_fatal(G_LOG_FATAL_MASK); /* it warns, and rightly */
    kill(image_server(f->b), SIGKILL);
    g_assert_cmpint(block_read(f->b, 0, f->buf, 512), ==, EIO);
    g_assert_cmpint(block_read(f->b, 0, f->buf, 512), ==, EIO);
    /* Nothing is left that keeps the main loop awake. */
    for (int i = 0; i < 10 && g_main_context_iteration(NULL, FALSE); i++)
        g_assert_cmpint(i, <, 9);
}

static void
count(void *opaque, int error)
{
    ++*(int *)opaque;
}

static void
count_until(const int *ended, int n)
{
    for (gint64 limit = g_get_monotonic_time() + 20 * G_USEC_PER_SEC; *ended < n;) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_main_context_iteration(NULL, FALSE);
    }
    for (int i = 0; i < 20; i++)
        g_main_context_iteration(NULL, FALSE);
    g_assert_cmpint(*ended, ==, n);
}

static void
die_under_requests(Fixture *f, int n)
{
    pid_t pid = image_server(f->b);
    siginfo_t info;
    int ended = 0;

    kill(pid, SIGSTOP);
    for (int i = 0; i < n; i++)
        f->b->ops->read(f->b, 0, f->buf, 512, count, &ended);
    for (int i = 0; i < 20; i++)
        g_main_context_iteration(NULL, FALSE);
    kill(pid, SIGKILL);
    g_assert_cmpint(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), ==, 0);
    f->b->ops->flush(f->b, count, &ended);
    count_until(&ended, n + 1);
}

/*
 * Its death is found out by the very call that makes a request. libnbd 1.14 says then whether the
 * command was taken from memory that it has freed, which is made to look like a refusal (not in the
 * first round, where that memory is not touched).
 */
static void
request_to_dead_server_ends_once(Fixture *f, gconstpointer format)
{
    enum { REQUESTS = 40, ROUNDS = 10, FREED_IS_NEGATIVE = 200 };

    /* It warns, and rightly. */
    g_log_set_always_fatal((GLogLevelFlags)G_LOG_FATAL_MASK | G_LOG_LEVEL_CRITICAL);
    mallopt(M_PERTURB, FREED_IS_NEGATIVE);
    for (int round = 0; round < ROUNDS; round++) {
        die_under_requests(f, REQUESTS + round);
        image_close(f->b);
        f->b = image_open(&f->image, BLOCK_WRITE);
    }
    mallopt(M_PERTURB, 0);
}

/* What a killed process leaves. */
static void
remove_sockets(Fixture *f, pid_t pid)
{
    for (int i = 0; i < 100; i++) {
        g_autofree char *socket = g_strdup_printf("%s/nbd-%d-%d", f->image.dir, (int)pid, i);

        unlink(socket);
    }
}

static void
server_ends_with_us(Fixture *f, gconstpointer format)
{
    pid_t pid = image_server(f->b), child;
    int error = -1, status;

    g_assert_cmpint(kill(pid, 0), ==, 0);
    image_close(f->b);
    f->b = NULL;
    g_assert_cmpint(kill(pid, 0), ==, -1);
    /* And if we are killed: in a process of its own. */
    child = fork();
    if (child == 0) {
        BlockBackend *b = image_open(&f->image, BLOCK_WRITE);

        b->ops->flush(b, block_note, &error);
        block_wait(&error);
        raise(SIGKILL);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    /* It lets go of the image, so that it can be opened again. */
    f->b = image_open(&f->image, BLOCK_WRITE);
    remove_sockets(f, child);
}

#define RAW(name, function) g_test_add("/raw/" name, Fixture, "raw", set_up, function, tear_down)
#define NBD(name, function)                                                                        \
    g_test_add("/qcow2/" name, Fixture, "qcow2", set_up, function, tear_down)
#define BOTH(name, function)                                                                       \
    RAW(name, function);                                                                           \
    NBD(name, function)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    BOTH("what was written is read", reads_what_was_written);
    BOTH("contents stay over a new opening", contents_stay);
    BOTH("a transfer larger than one command is whole", large_transfer);
    BOTH("hundreds of requests at once all end", many_at_once);
    BOTH("a zeroed range reads as zeros, and its neighbours do not", zeroes);
    BOTH("a discard gives space back", discards);
    BOTH("a read-only image takes no writes", read_only_refuses_writes);
    BOTH("an image that is not there is named", missing_image_is_named);
    BOTH("a shared opening keeps nobody out", shared_opening_keeps_nobody_out);
    RAW("a second opening is refused", second_raw_opening_is_refused);
    RAW("a lock that goes soon is waited for", short_lock_is_waited_for);
    RAW("sizes that no disk has are refused", odd_sizes_are_refused);
    RAW("content is not asked for the format", content_is_not_believed);
    NBD("a second opening is refused", second_opening_is_refused);
    NBD("a format that is an option list is refused", odd_formats_are_refused);
    NBD("a killed qemu-nbd gives errors to all requests", killed_server_gives_errors);
    NBD("an idle qemu-nbd that dies is noticed", idle_server_may_die_too);
    NBD("a request to a qemu-nbd that has just died ends once", request_to_dead_server_ends_once);
    NBD("qemu-nbd ends with its owner", server_ends_with_us);
    return g_test_run();
}
