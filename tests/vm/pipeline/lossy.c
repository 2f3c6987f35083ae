/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file system that can lose its power. */
#include "lossy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* linux/ext4.h has them only since 6.8. */
#define EXT4_SHUTDOWN _IOR('X', 125, guint32)
#define EXT4_SHUTDOWN_NOLOGFLUSH 2
#define PAGE 4096
#define FREE_LIMIT_US (20 * G_USEC_PER_SEC)
#define FILLER "filler"
#define FREEZE_LIMIT_S 60

struct Lossy {
    char *image;
    char *path;
    pid_t thawer; /* 0: it is not frozen */
};

gboolean
lossy_own_mounts(void)
{
    /* Shared, so that what is mounted and unmounted here later is so for our children, too. */
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_SHARED, NULL) == 0;
}

/* NULL, or what the program said about why it failed. */
static char *
run(const char *const *argv)
{
    g_autofree char *err = NULL;
    g_autoptr(GError) error = NULL;
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                      NULL, NULL, NULL, &err, &status, &error))
        return g_strdup(error->message);
    return status == 0 ? NULL : g_strdup_printf("%s: %s", argv[2], g_strstrip(err));
}

static char *
try_mount(const Lossy *lossy, const char *options)
{
    g_autofree char *with = g_strdup_printf("loop%s%s", *options ? "," : "", options);
    const char *argv[] = {"timeout", "20", "mount", "-o", with, lossy->image, lossy->path, NULL};

    return run(argv);
}

Lossy *
lossy_new(const char *image, const char *path, guint mib, char **why)
{
    Lossy *lossy = g_new0(Lossy, 1);
    const char *mkfs[] = {"timeout", "20", "mkfs.ext4", "-q", "-F", "-m", "0", image, NULL};
    int fd = open(image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, (off_t)mib << 20), ==, 0);
    close(fd);
    g_assert_cmpint(g_mkdir_with_parents(path, 0700), ==, 0);
    lossy->image = g_strdup(image);
    lossy->path = g_strdup(path);
    *why = run(mkfs);
    if (!*why)
        *why = try_mount(lossy, "");
    if (!*why)
        return lossy;
    g_free(lossy->image);
    g_free(lossy->path);
    g_free(lossy);
    return NULL;
}

const char *
lossy_path(const Lossy *lossy)
{
    return lossy->path;
}

static void
lossy_unmount(const Lossy *lossy)
{
    gint64 limit = g_get_monotonic_time() + FREE_LIMIT_US;

    while (umount(lossy->path) != 0) {
        if (errno != EBUSY || g_get_monotonic_time() > limit)
            g_error("%s: umount: %s", lossy->path, g_strerror(errno));
        g_usleep(10000);
    }
}

void
lossy_free(Lossy *lossy)
{
    lossy_unmount(lossy);
    unlink(lossy->image);
    g_free(lossy->image);
    g_free(lossy->path);
    g_free(lossy);
}

static void
lossy_ioctl(const Lossy *lossy, unsigned long request, void *argument)
{
    int fd = open(lossy->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || ioctl(fd, request, argument) != 0)
        g_error("%s: ioctl 0x%lx: %s", lossy->path, request, g_strerror(errno));
    close(fd);
}

void
lossy_cut_power(Lossy *lossy)
{
    guint32 how = EXT4_SHUTDOWN_NOLOGFLUSH;

    lossy_ioctl(lossy, EXT4_SHUTDOWN, &how);
}

/* The loop device must be a new one: one that is still there has the file system as it was. */
static void
wait_detached(const Lossy *lossy)
{
    gint64 limit = g_get_monotonic_time() + FREE_LIMIT_US;

    for (;;) {
        g_autofree char *out = NULL;
        const char *argv[] = {"losetup", "-j", lossy->image, NULL};

        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                                   NULL, NULL, NULL));
        if (*out == '\0')
            return;
        if (g_get_monotonic_time() > limit)
            g_error("%s: its loop device does not go: %s", lossy->image, out);
        g_usleep(10000);
    }
}

void
lossy_mount(Lossy *lossy, const char *options)
{
    lossy_unmount(lossy);
    wait_detached(lossy);
    g_autofree char *why = try_mount(lossy, options);
    if (why)
        g_error("%s: %s", lossy->image, why);
}

/* ---- Writeback at random ---- */

static void
write_some_of(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        gint32 pages = (gint32)(st.st_size / PAGE) + 1;
        for (int i = 0; i < 8; i++)
            sync_file_range(fd, (off_t)g_test_rand_int_range(0, pages) * PAGE,
                            (off_t)g_test_rand_int_range(1, 16) * PAGE, SYNC_FILE_RANGE_WRITE);
    }
    close(fd);
}

static void
write_some_in(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);

    for (const char *name; dir && (name = g_dir_read_name(dir));) {
        g_autofree char *child = g_build_filename(path, name, NULL);
        if (g_file_test(child, G_FILE_TEST_IS_SYMLINK) || g_test_rand_bit())
            continue;
        if (g_file_test(child, G_FILE_TEST_IS_DIR))
            write_some_in(child);
        else
            write_some_of(child);
    }
}

void
lossy_write_some(Lossy *lossy)
{
    write_some_in(lossy->path);
}

/* ---- Room ---- */

void
lossy_fill(Lossy *lossy, guint leave_kib)
{
    g_autofree char *path = g_build_filename(lossy->path, FILLER, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct statvfs fs;

    g_assert_cmpint(fstatvfs(fd, &fs), ==, 0);
    for (off_t at = 0, step = 1 << 20; step >= PAGE;) {
        g_assert_cmpint(fstatvfs(fd, &fs), ==, 0);
        off_t room = (off_t)(fs.f_bavail * fs.f_frsize) - (off_t)leave_kib * 1024;
        if (room >= step && fallocate(fd, 0, at, step) == 0)
            at += step;
        else
            step /= 2;
    }
    close(fd);
}

void
lossy_make_room(Lossy *lossy)
{
    g_autofree char *path = g_build_filename(lossy->path, FILLER, NULL);

    g_assert_cmpint(unlink(path), ==, 0);
}

/* Nobody could end what waits for it were the test to fail meanwhile. */
void
lossy_freeze(Lossy *lossy)
{
    lossy->thawer = fork();
    g_assert_cmpint(lossy->thawer, >=, 0);
    if (lossy->thawer == 0) {
        sleep(FREEZE_LIMIT_S);
        lossy_ioctl(lossy, FITHAW, NULL);
        _exit(0);
    }
    lossy_ioctl(lossy, FIFREEZE, NULL);
}

void
lossy_thaw(Lossy *lossy)
{
    lossy_ioctl(lossy, FITHAW, NULL);
    kill(lossy->thawer, SIGKILL);
    waitpid(lossy->thawer, NULL, 0);
    lossy->thawer = 0;
}
