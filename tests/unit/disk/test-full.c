/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An overlay whose file system is full: a tmpfs of a few pages, in a mount namespace of our own. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define BLOCKS 256
#define SIZE ((uint64_t)BLOCKS * PAGE_BYTES)

static char *directory; /* where the tmpfs is; NULL: we cannot mount */

static void
mount_set_up(void)
{
    g_autofree char *path = g_dir_make_tmp("district-full-XXXXXX", NULL);

    g_assert_nonnull(path);
    if ((unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("district-full", path, "tmpfs", 0, "size=256k") == 0)
        directory = g_steal_pointer(&path);
    else
        g_rmdir(path);
}

static void
mount_tear_down(void)
{
    if (directory == NULL)
        return;
    umount(directory);
    g_rmdir(directory);
    g_free(directory);
}

static void
remount(const char *size)
{
    g_assert_cmpint(mount(NULL, directory, NULL, MS_REMOUNT, size), ==, 0);
}

typedef struct Fixture {
    Rig *rig;
} Fixture;

static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    if (directory == NULL)
        return;
    remount("size=256k");
    f->rig = rig_new(SIZE, directory);
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    if (f->rig != NULL)
        rig_free(f->rig);
}

static bool
skipped(void)
{
    if (directory == NULL)
        g_test_skip("no right to mount a tmpfs");
    return directory == NULL;
}

/* Run the main loop for longer than the time between two attempts. */
static void
run_a_while(void)
{
    gint64 end = g_get_monotonic_time() + 700 * G_TIME_SPAN_MILLISECOND;

    while (g_get_monotonic_time() < end) {
        g_main_context_iteration(NULL, FALSE);
        g_usleep(1000);
    }
}

/* Write blocks from first on, one request each, with value. */
static void
start_blocks(Rig *rig, const uint8_t *block, unsigned first, unsigned n, Wait *waits)
{
    for (unsigned i = 0; i < n; i++)
        disk_write(rig->disk, (first + i) * PAGE_BYTES, block, PAGE_BYTES, wait_done, &waits[i]);
}

static void
test_data(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *all = g_malloc(SIZE);
    Wait wait = {0};
    uint64_t end;

    if (skipped())
        return;
    memset(all, 9, SIZE);
    g_assert_cmpint(rig_fill(f->rig, 0, 4 * PAGE_BYTES, 1), ==, 0);
    g_assert_null(disk_waiting(f->rig->disk));
    disk_write(f->rig->disk, 0, all, SIZE, wait_done, &wait);
    run_a_while();
    g_assert_false(wait.ended);
    g_assert_nonnull(strstr(disk_waiting(f->rig->disk), "db/0"));
    g_assert_nonnull(strstr(disk_waiting(f->rig->disk), directory));
    /* Nothing of it is to be seen; reads go on. */
    rig_check(f->rig, 0, 4 * PAGE_BYTES, 1);
    disk_cut(f->rig->disk, &end);
    g_assert_cmpuint(end, ==, 4);
    remount("size=4m");
    g_assert_cmpint(wait_end(&wait), ==, 0);
    g_assert_null(disk_waiting(f->rig->disk));
    rig_check(f->rig, 0, SIZE, 9);
}

static void
test_many(Fixture *f, gconstpointer data)
{
    uint8_t block[PAGE_BYTES];
    Wait waits[BLOCKS] = {{0}};
    unsigned ended = 0;

    if (skipped())
        return;
    memset(block, 5, sizeof block);
    /* The index has its first page by this. */
    g_assert_cmpint(rig_fill(f->rig, 0, PAGE_BYTES, 4), ==, 0);
    start_blocks(f->rig, block, 0, BLOCKS, waits);
    run_a_while();
    for (unsigned i = 0; i < BLOCKS; i++) {
        ended += waits[i].ended;
        g_assert_cmpint(waits[i].error, ==, 0);
    }
    g_assert_cmpuint(ended, >, 10);
    g_assert_cmpuint(ended, <, 64);
    g_assert_nonnull(disk_waiting(f->rig->disk));
    remount("size=4m");
    for (unsigned i = 0; i < BLOCKS; i++)
        g_assert_cmpint(wait_end(&waits[i]), ==, 0);
    rig_check(f->rig, 0, SIZE, 5);
    g_assert_null(disk_waiting(f->rig->disk));
}

/* Zeros need the index only. */
static void
test_index(Fixture *f, gconstpointer data)
{
    g_autofree char *path = NULL;
    uint8_t filler[PAGE_BYTES] = {1};
    Wait wait = {0};
    uint64_t end;
    int fd;

    if (skipped())
        return;
    path = g_build_filename(directory, "filler", NULL);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    while (write(fd, filler, sizeof filler) > 0)
        continue;
    disk_zero(f->rig->disk, 0, SIZE, true, wait_done, &wait);
    run_a_while();
    g_assert_false(wait.ended);
    g_assert_nonnull(disk_waiting(f->rig->disk));
    disk_cut(f->rig->disk, &end);
    g_assert_cmpuint(end, ==, 0);
    close(fd);
    g_unlink(path);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    disk_cut(f->rig->disk, &end);
    g_assert_cmpuint(end, ==, BLOCKS);
    rig_check(f->rig, 0, SIZE, 0);
}

/* What the client releases is room, too. */
static void
test_released(Fixture *f, gconstpointer data)
{
    uint8_t block[PAGE_BYTES];
    Wait waits[40] = {{0}};
    uint64_t end;

    if (skipped())
        return;
    g_assert_cmpint(rig_fill(f->rig, 0, 48 * PAGE_BYTES, 1), ==, 0);
    disk_cut(f->rig->disk, &end);
    memset(block, 2, sizeof block);
    start_blocks(f->rig, block, 100, 40, waits);
    run_a_while();
    g_assert_nonnull(disk_waiting(f->rig->disk));
    memset(f->rig->home_bytes, 1, 48 * PAGE_BYTES);
    disk_released_below(f->rig->disk, 2);
    disk_home_below(f->rig->disk, 2);
    for (unsigned i = 0; i < 40; i++)
        g_assert_cmpint(wait_end(&waits[i]), ==, 0);
    rig_check(f->rig, 0, 48 * PAGE_BYTES, 1);
    rig_check(f->rig, 100 * PAGE_BYTES, 40 * PAGE_BYTES, 2);
}

static void
test_resend(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    uint8_t filler[PAGE_BYTES] = {1};
    uint64_t end;
    int fd;

    if (skipped())
        return;
    remount("size=2m");
    g_assert_cmpint(rig_fill(f->rig, 0, SIZE, 1), ==, 0);
    path = g_build_filename(directory, "filler", NULL);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    while (write(fd, filler, sizeof filler) > 0)
        continue;
    /* The first page of the index has room for 256 entries, and no more. */
    g_assert_false(disk_resend(f->rig->disk, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE);
    g_assert_nonnull(strstr(error->message, directory));
    disk_cut(f->rig->disk, &end);
    g_assert_cmpuint(end, ==, BLOCKS);
    close(fd);
    g_unlink(path);
    g_assert_true(disk_resend(f->rig->disk, NULL));
    disk_cut(f->rig->disk, &end);
    g_assert_cmpuint(end, ==, 2 * BLOCKS);
}

#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int
main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    mount_set_up();
    ADD("/full/a write waits for room, and nothing of it is done before", test_data);
    ADD("/full/of many writes those that fit end and the others wait", test_many);
    ADD("/full/the index waits for room, too", test_index);
    ADD("/full/what the client releases is used", test_released);
    ADD("/full/a resend that does not fit is refused whole", test_resend);
    status = g_test_run();
    mount_tear_down();
    return status;
}
