/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks of a shadow: their files and names, room for them, and disks that fail. */
#include "writer.h"

#include "ckpt/receive.h"
#include "common/fdmsg.h"
#include "common/memfd.h"
#include "standby/error.h"
#include "standby/intake.h"
#include "standby/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_PAGES 64
#define DISK_BLOCKS 64
#define LIMIT_MS 10000
/* Of the second disk: its last block is used up to there. */
#define LAST_USED ((size_t)5 * SECTOR_BYTES)
#define SMALL_DISK ((DISK_BLOCKS - 1) * PAGE_BYTES + LAST_USED)
#define FIRST_DISK_FD (SHADOW_FDS_EXTRA + 2)

typedef struct Fixture {
    char *dir;
    bool mounted;
    Keeper *keeper;
    Intake *intake;
    Receiver *receiver;
    Writer writer;
    uint64_t committed;
    bool away; /* there is nobody to hold */
    int fds[FDMSG_FDS_MAX];
    guint n_fds;
} Fixture;

static gboolean
on_hold(const int *fds, guint n_fds, uint64_t epoch, uint64_t incarnation, gpointer opaque)
{
    Fixture *f = opaque;

    if (f->away)
        return FALSE;
    fdmsg_close_fds(f->fds, f->n_fds);
    for (guint i = 0; i < n_fds; i++)
        f->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    f->n_fds = n_fds;
    return TRUE;
}

static void
on_committed(uint64_t epoch, gpointer opaque)
{
    ((Fixture *)opaque)->committed = epoch;
}

/* A new stream of a primary, which says HELLO. */
static void
connect_again(Fixture *f)
{
    g_clear_pointer(&f->receiver, receiver_free);
    g_clear_pointer(&f->intake, intake_free);
    f->intake = intake_new(f->keeper, on_committed, NULL, f);
    f->receiver = receiver_new(&intake_ops, f->intake);
    f->writer.sequence = 0;
    writer_drain(&f->writer);
    writer_hello(&f->writer);
}

static gboolean
feed(Fixture *f, GError **error)
{
    const uint8_t *data = f->writer.out->data;
    gboolean good = TRUE;

    for (guint i = 0; good && i < f->writer.starts->len; i++) {
        const uint8_t *at = data + g_array_index(f->writer.starts, size_t, i);
        good = receiver_record(f->receiver, at, at + RECORD_HEADER_BYTES, error);
    }
    writer_drain(&f->writer);
    return good;
}

static void
feed_good(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    feed(f, &error);
    g_assert_no_error(error);
}

static void
settle(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    shadow_settle(keeper_shadow(f->keeper), LIMIT_MS, &error);
    g_assert_no_error(error);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->dir = g_dir_make_tmp("district-disks-XXXXXX", &error);
    g_assert_no_error(error);
    f->keeper = keeper_new("shop", f->dir, on_hold, f);
    writer_init(&f->writer, 2, RAM_PAGES);
    f->writer.version = STREAM_VERSION;
    writer_add_disk(&f->writer, 0, DISK_BLOCKS * PAGE_BYTES);
    writer_add_disk(&f->writer, 0, SMALL_DISK);
    writer_add_disk(&f->writer, 1, DISK_BLOCKS * PAGE_BYTES);
    connect_again(f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    const char *rm[] = {"rm", "-rf", f->dir, NULL};

    g_clear_pointer(&f->receiver, receiver_free);
    g_clear_pointer(&f->intake, intake_free);
    keeper_free(f->keeper);
    writer_clear(&f->writer);
    fdmsg_close_fds(f->fds, f->n_fds);
    if (f->mounted)
        umount2(f->dir, MNT_DETACH);
    g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_free(f->dir);
}

/* A file system of size bytes in place of the directory; FALSE where that is not allowed. */
static gboolean
mount_small(Fixture *f, const char *size)
{
    g_autofree char *options = g_strdup_printf("size=%s,mode=0700", size);

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", f->dir, "tmpfs", 0, options) != 0) {
        g_test_skip("no right to mount a file system");
        return FALSE;
    }
    f->mounted = true;
    return TRUE;
}

static char *
path_of(Fixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

static bool
exists(Fixture *f, const char *name)
{
    g_autofree char *path = path_of(f, name);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* The fill byte of a block, as far as the disk of bytes bytes has it. */
static uint8_t
block_fill(int fd, uint64_t block, uint64_t bytes)
{
    uint8_t data[PAGE_BYTES];
    size_t len = (size_t)MIN(PAGE_BYTES, bytes - block * PAGE_BYTES);

    g_assert_cmpint(pread(fd, data, PAGE_BYTES, (off_t)(block * PAGE_BYTES)), ==, (gssize)len);
    g_assert_cmpmem(data, len - 1, data + 1, len - 1);
    return data[0];
}

/* The same of a file of the directory. */
static uint8_t
file_fill(Fixture *f, const char *name, uint64_t block)
{
    g_autofree char *path = path_of(f, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t fill;

    g_assert_cmpint(fd, >=, 0);
    fill = block_fill(fd, block, memfd_size(fd));
    close(fd);
    return fill;
}

static uint64_t
allocated(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Committed: epoch 1 of 0x11, then epoch 2 with pages 8 to 15 as 0x22. */
static void
commit_two(Fixture *f)
{
    writer_epoch(&f->writer, 1, 0, 0, DISK_BLOCKS, 0x11);
    writer_epoch(&f->writer, 2, 1, 8, 8, 0x22);
    feed_good(f);
    g_assert_cmpuint(f->committed, ==, 2);
    settle(f);
}

static void
crash(Fixture *f)
{
    shadow_free(keeper_take(f->keeper));
}

/* ---- Files ---- */

static void
test_epochs_arrive(Fixture *f, gconstpointer data)
{
    static const char *const names[] = {"db-0.raw", "db-1.raw", "web-0.raw"};
    struct stat st;

    commit_two(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = path_of(f, names[i]);

        for (uint64_t block = 0; block < DISK_BLOCKS; block++)
            g_assert_cmpuint(file_fill(f, names[i], block), ==,
                             block >= 8 && block < 16 ? 0x22 : 0x11);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
        g_assert_cmpuint(st.st_size, ==, i == 1 ? SMALL_DISK : DISK_BLOCKS * PAGE_BYTES);
    }
}

static void
test_zero_gives_room_back(Fixture *f, gconstpointer data)
{
    uint64_t before;
    int fd;

    commit_two(f);
    fd = f->fds[FIRST_DISK_FD];
    before = allocated(fd);
    writer_begin(&f->writer, 3, 2);
    for (uint64_t block = 16; block < 48; block++)
        writer_page(&f->writer, writer_disk_image(&f->writer, 0, 0), block, 0);
    writer_state(&f->writer);
    writer_end(&f->writer);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 16), ==, 0);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 47), ==, 0);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 48), ==, 0x11);
    g_assert_cmpuint(allocated(fd), <=, before - 32 * PAGE_BYTES);
}

static void
test_old_lives_until_commit(Fixture *f, gconstpointer data)
{
    int old;

    commit_two(f);
    old = fcntl(f->fds[FIRST_DISK_FD], F_DUPFD_CLOEXEC, 0);
    connect_again(f);
    writer_begin(&f->writer, 8, 0);
    writer_page(&f->writer, writer_disk_image(&f->writer, 0, 0), 0, 0x88);
    feed_good(f);
    g_assert_true(exists(f, "db-0.raw.sync-8"));
    g_assert_cmpuint(file_fill(f, "db-0.raw", 0), ==, 0x11);
    g_assert_cmpuint(file_fill(f, "db-0.raw.sync-8", 0), ==, 0x88);
    writer_state(&f->writer);
    writer_end(&f->writer);
    feed_good(f);
    g_assert_false(exists(f, "db-0.raw.sync-8"));
    g_assert_cmpuint(file_fill(f, "db-0.raw", 0), ==, 0x88);
    /* Whoever has the old one open still has all of it. */
    g_assert_cmpuint(block_fill(old, 0, DISK_BLOCKS * PAGE_BYTES), ==, 0x11);
    close(old);
}

static void
test_dropped_sync_leaves_nothing(Fixture *f, gconstpointer data)
{
    commit_two(f);
    connect_again(f);
    writer_begin(&f->writer, 8, 0);
    feed_good(f);
    g_assert_true(exists(f, "web-0.raw.sync-8"));
    connect_again(f);
    g_assert_false(exists(f, "web-0.raw.sync-8"));
    g_assert_cmpuint(file_fill(f, "web-0.raw", 9), ==, 0x22);
}

static void
test_leftovers(Fixture *f, gconstpointer data)
{
    static const char *const names[] = {"db-0.raw.sync-77", "old-3.raw.sync-1", "note.txt",
                                        "db-0.raw.sync-1x"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = path_of(f, names[i]);
        g_assert_true(g_file_set_contents(path, "x", 1, NULL));
    }
    commit_two(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        g_assert_cmpint(exists(f, names[i]), ==, i >= 2);
}

static void
test_fewer_disks(Fixture *f, gconstpointer data)
{
    commit_two(f);
    connect_again(f);
    f->writer.n_disks[0] = 1;
    writer_epoch(&f->writer, 8, 0, 0, 4, 0x88);
    feed_good(f);
    g_assert_true(exists(f, "db-0.raw"));
    g_assert_false(exists(f, "db-1.raw"));
    g_assert_true(exists(f, "web-0.raw"));
}

static void
test_other_disks_need_a_full_epoch(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    commit_two(f);
    f->writer.disk_bytes[0][1] += SECTOR_BYTES;
    writer_begin(&f->writer, 3, 2);
    g_assert_false(feed(f, &error));
    g_assert_nonnull(strstr(error->message, "send a full epoch"));
}

static void
test_disks_listed(Fixture *f, gconstpointer data)
{
    g_autoptr(GPtrArray) none = NULL, disks = NULL;
    g_autofree char *path = path_of(f, "db-1.raw");
    const KeeperDisk *disk;
    uint64_t born;

    none = keeper_disks(f->keeper, &born);
    g_assert_cmpuint(none->len, ==, 0);
    g_assert_cmpuint(born, ==, 0);
    commit_two(f);
    disks = keeper_disks(f->keeper, &born);
    g_assert_cmpuint(disks->len, ==, 3);
    g_assert_cmpuint(born, ==, 1);
    disk = disks->pdata[1];
    g_assert_cmpstr(disk->member, ==, "db");
    g_assert_cmpuint(disk->index, ==, 1);
    g_assert_cmpuint(disk->bytes, ==, SMALL_DISK);
    g_assert_cmpstr(disk->path, ==, path);
}

static void
test_no_directory(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    keeper_free(f->keeper);
    f->keeper = keeper_new("shop", NULL, on_hold, f);
    connect_again(f);
    writer_begin(&f->writer, 1, 0);
    g_assert_false(feed(f, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_REFUSED);
    g_assert_nonnull(strstr(error->message, "--disk-dir"));
}

/* 31 members with 8 disks each. */
static void
test_too_many(Fixture *f, gconstpointer data)
{
    enum { N = 31 };
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    District__StreamDisk disk = DISTRICT__STREAM_DISK__INIT, *disks[DISKS_MAX];
    District__StreamMember members[N], *list[N];
    g_autoptr(GError) error = NULL;

    disk.size = PAGE_BYTES;
    for (unsigned i = 0; i < DISKS_MAX; i++)
        disks[i] = &disk;
    for (unsigned i = 0; i < N; i++) {
        members[i] = (District__StreamMember)DISTRICT__STREAM_MEMBER__INIT;
        members[i].name = (char *)"m";
        members[i].ram_size = PAGE_BYTES;
        members[i].n_disks = DISKS_MAX;
        members[i].disks = disks;
        list[i] = &members[i];
    }
    begin.epoch = 1;
    begin.full = true;
    begin.n_members = N;
    begin.members = list;
    g_assert_null(shadow_new("shop", 1, f->dir, &begin, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_REFUSED);
    g_assert_nonnull(strstr(error->message, "31 members with 248 disks"));
}

/* ---- Adopting ---- */

static void
test_half_applied(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;
    uint8_t old[PAGE_BYTES];
    Ledger *ledger;

    commit_two(f);
    crash(f);
    /* As if killed in the middle of writing block 9. */
    ledger = memfd_map(f->fds[0], memfd_size(f->fds[0]), TRUE, NULL);
    ledger->applied = 1;
    memset(old, 0x11, sizeof old);
    g_assert_cmpint(pwrite(f->fds[FIRST_DISK_FD], old, 1000, 9 * PAGE_BYTES + 96), ==, 1000);
    shadow = shadow_adopt(f->dir, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 2);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 9), ==, 0x22);
    ledger_unmap(ledger);
}

static void
test_killed_before_rename(Fixture *f, gconstpointer data)
{
    g_autofree char *last = path_of(f, "db-0.raw"), *first = path_of(f, "db-0.raw.sync-1");
    g_autofree char *web = path_of(f, "web-0.raw"), *web_first = path_of(f, "web-0.raw.sync-1");
    g_autoptr(GError) error = NULL;
    Shadow *shadow;

    commit_two(f);
    crash(f);
    /* One file's name is still another's, of the shadow before; the other one's is free. */
    g_assert_cmpint(rename(last, first), ==, 0);
    g_assert_true(g_file_set_contents(last, "old", 3, NULL));
    g_assert_cmpint(rename(web, web_first), ==, 0);
    shadow = shadow_adopt(f->dir, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_false(exists(f, "db-0.raw.sync-1"));
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x22);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 8), ==, 0x22);
    /* And it goes on. */
    keeper_put(f->keeper, shadow);
    writer_epoch(&f->writer, 3, 2, 9, 1, 0x33);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 9), ==, 0x33);
}

/* Epochs 1 and 2 are held; epoch 8, all of 0x88, is committed, and nobody has come to hold it. */
static void
commit_unheld(Fixture *f)
{
    commit_two(f);
    f->away = true;
    connect_again(f);
    writer_epoch(&f->writer, 8, 0, 0, DISK_BLOCKS, 0x88);
    feed_good(f);
    g_assert_cmpuint(f->committed, ==, 8);
}

static void
test_killed_before_held(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;

    commit_unheld(f);
    shadow = shadow_adopt(f->dir, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 2);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x22);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 9), ==, 0x22);
}

static void
test_held_at_last(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;

    commit_unheld(f);
    writer_epoch(&f->writer, 9, 8, 9, 1, 0x99);
    feed_good(f);
    f->away = false;
    keeper_hold_again(f->keeper);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x88);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 9), ==, 0x99);
    g_assert_false(exists(f, "db-0.raw.sync-8"));
    crash(f);
    shadow = shadow_adopt(f->dir, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 9);
}

/* It would remove the files that are not named yet. */
static void
test_full_waits_for_the_hold(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    commit_unheld(f);
    connect_again(f);
    writer_begin(&f->writer, 12, 0);
    g_assert_false(feed(f, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_REFUSED);
    g_assert_nonnull(strstr(error->message, "has not taken epoch 8 of district shop"));
    f->away = false;
    keeper_hold_again(f->keeper);
    connect_again(f);
    writer_epoch(&f->writer, 13, 0, 0, DISK_BLOCKS, 0xdd);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0xdd);
}

static void
test_removed_file(Fixture *f, gconstpointer data)
{
    g_autofree char *path = path_of(f, "db-1.raw");
    g_autoptr(GError) error = NULL;

    commit_two(f);
    crash(f);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_true(g_file_set_contents(path, "another", 7, NULL));
    g_assert_null(shadow_adopt(f->dir, f->fds, f->n_fds, &error));
    g_assert_nonnull(strstr(error->message, "db-1.raw has been removed or replaced"));
}

static void
test_wrong_descriptors(Fixture *f, gconstpointer data)
{
    g_autofree char *path = path_of(f, "db-0.raw");
    int fds[FDMSG_FDS_MAX], read_only;

    commit_two(f);
    crash(f);
    read_only = open(path, O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < 4; i++) {
        const int wrong[] = {f->fds[FIRST_DISK_FD + 1], read_only, f->fds[1], -1};
        g_autoptr(GError) error = NULL;

        memcpy(fds, f->fds, sizeof fds);
        fds[FIRST_DISK_FD] = wrong[i];
        g_assert_null(shadow_adopt(f->dir, fds, f->n_fds, &error));
        g_assert_nonnull(strstr(error->message, "disk 0 of member db"));
    }
    close(read_only);
    for (guint n = FIRST_DISK_FD; n < f->n_fds; n++)
        g_assert_null(shadow_adopt(f->dir, f->fds, n, NULL));
    g_assert_null(shadow_adopt(NULL, f->fds, f->n_fds, NULL));
}

static void
test_every_ledger_byte(Fixture *f, gconstpointer data)
{
    size_t used = sizeof(Ledger) + 2 * sizeof(LedgerMember) + 3 * sizeof(LedgerDisk);
    Ledger *ledger;
    uint8_t *bytes;

    commit_two(f);
    crash(f);
    ledger = memfd_map(f->fds[0], memfd_size(f->fds[0]), TRUE, NULL);
    bytes = (uint8_t *)ledger;
    for (size_t at = 0; at < used; at++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Shadow) shadow = NULL;

        bytes[at] ^= 1;
        shadow = shadow_adopt(f->dir, f->fds, f->n_fds, &error);
        if (shadow != NULL)
            g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x22);
        else
            g_assert_nonnull(error);
        bytes[at] ^= 1;
    }
    ledger_unmap(ledger);
}

/* ---- Room ---- */

static void
test_no_room_for_an_epoch(Fixture *f, gconstpointer data)
{
    uint32_t image = writer_disk_image(&f->writer, 1, 0);
    g_autoptr(GError) error = NULL;

    if (!mount_small(f, "1m"))
        return;
    /* 64 + 64 of 256 blocks, so that 144 more of a bigger disk do not fit. */
    f->writer.n_disks[0] = 1;
    image--;
    f->writer.disk_bytes[1][0] = 512 * PAGE_BYTES;
    writer_epoch(&f->writer, 1, 0, 0, 16, 0x11);
    writer_begin(&f->writer, 2, 1);
    for (uint64_t block = 0; block < 100; block++)
        writer_page(&f->writer, image, block, 0x22);
    writer_state(&f->writer);
    writer_end(&f->writer);
    feed_good(f);
    settle(f);
    writer_begin(&f->writer, 3, 2);
    for (uint64_t block = 0; block < 400; block++)
        writer_page(&f->writer, image, block, 0x33);
    g_assert_false(feed(f, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_FULL);
    g_assert_nonnull(strstr(error->message, "disk 0 of member web"));
    g_test_message("%s", error->message);
    /* Nothing of it is in the disk, and what fits goes on. */
    g_assert_cmpuint(shadow_committed(keeper_shadow(f->keeper)), ==, 2);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 0), ==, 0x22);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 99), ==, 0x22);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 100), ==, 0);
    connect_again(f);
    writer_begin(&f->writer, 4, 2);
    writer_page(&f->writer, image, 5, 0x44);
    writer_state(&f->writer);
    writer_end(&f->writer);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "web-0.raw", 5), ==, 0x44);
}

static void
test_no_room_for_a_full_epoch(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    if (!mount_small(f, "1m"))
        return;
    /* 3 times 64 of 256 blocks, so there is no room for that once more. */
    commit_two(f);
    connect_again(f);
    writer_epoch(&f->writer, 8, 0, 0, DISK_BLOCKS, 0x88);
    g_assert_false(feed(f, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_FULL);
    connect_again(f);
    g_assert_false(exists(f, "db-0.raw.sync-8"));
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x22);
    settle(f);
    writer_epoch(&f->writer, 9, 2, 8, 1, 0x99);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 8), ==, 0x99);
}

static void
test_announced_too_much(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    if (!mount_small(f, "1m"))
        return;
    f->writer.disk_bytes[0][0] = (uint64_t)1 << 30;
    f->writer.disk_data = (uint64_t)1 << 40; /* more than the disk: counted as all of it */
    writer_begin(&f->writer, 1, 0);
    g_assert_false(feed(f, &error));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_FULL);
    g_assert_nonnull(strstr(error->message, "1024 MiB needed, 1 MiB free"));
}

static void
test_big_disk_is_no_memory(Fixture *f, gconstpointer data)
{
    f->writer.disk_bytes[0][0] = (uint64_t)1 << 40;
    commit_two(f);
    g_assert_cmpuint(keeper_status(f->keeper).ram_bytes, ==, 2 * RAM_PAGES * PAGE_BYTES);
    g_assert_cmpuint(allocated(f->fds[FIRST_DISK_FD]), <, 2 * DISK_BLOCKS * PAGE_BYTES);
}

/* A zero block that is applied does not take the room of the data that comes after it. */
static void
test_room_is_kept_for_a_log(Fixture *f, gconstpointer data)
{
    DecodedPage blocks[DISK_BLOCKS];
    g_autofree uint8_t *bytes = g_malloc0(DISK_BLOCKS * PAGE_BYTES);
    const Shadow *shadow;
    uint64_t before;
    DiskSet *disks;
    int fd;

    commit_two(f);
    shadow = keeper_shadow(f->keeper);
    disks = (DiskSet *)shadow_disks(shadow);
    fd = disks->files[0].fd;
    before = allocated(fd);
    for (unsigned i = 0; i < DISK_BLOCKS; i++)
        blocks[i] = (DecodedPage){i, bytes + i * PAGE_BYTES};
    g_assert_true(disk_set_reserve(disks, 1, 0, blocks, DISK_BLOCKS, NULL));
    for (unsigned i = 0; i < DISK_BLOCKS; i++)
        blocks[i].data = NULL;
    g_assert_true(disk_set_store(disks, 0, blocks, DISK_BLOCKS, NULL));
    g_assert_cmpuint(block_fill(fd, 8, DISK_BLOCKS * PAGE_BYTES), ==, 0);
    g_assert_cmpuint(allocated(fd), >=, before);
    disk_set_unreserve(disks, 1);
    g_assert_true(disk_set_store(disks, 0, blocks, DISK_BLOCKS, NULL));
    g_assert_cmpuint(allocated(fd), <, before);
}

/* ---- Disks that fail ---- */

/* Commit epoch 3, but when it is applied a disk fails, as a full one without a promise of room would.
 */
static void
fail_disk(Fixture *f)
{
    int full = open("/dev/full", O_RDWR | O_CLOEXEC);
    int fd = shadow_disks(keeper_shadow(f->keeper))->files[0].fd;

    writer_begin(&f->writer, 3, 2);
    writer_page(&f->writer, writer_disk_image(&f->writer, 0, 0), 3, 0x33);
    writer_state(&f->writer);
    feed_good(f);
    g_assert_cmpint(dup3(full, fd, O_CLOEXEC), >=, 0);
    close(full);
    writer_end(&f->writer);
    feed_good(f);
    g_assert_cmpuint(f->committed, ==, 3);
}

static void
test_failed_disk(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) unsettled = NULL;
    g_autoptr(GError) refused = NULL;
    g_autoptr(GError) not_adopted = NULL;
    Shadow *shadow;

    commit_two(f);
    fail_disk(f);
    shadow = keeper_shadow(f->keeper);
    g_assert_false(shadow_settle(shadow, LIMIT_MS, &unsettled));
    g_test_message("%s", unsettled->message);
    g_assert_nonnull(strstr(unsettled->message, "disk 0 of member db"));
    g_assert_nonnull(strstr(unsettled->message, "send a full epoch"));
    writer_epoch(&f->writer, 4, 3, 0, 1, 0x44);
    g_assert_false(feed(f, &refused));
    g_assert_nonnull(strstr(refused->message, "disk 0 of member db"));
    crash(f);
    g_assert_null(shadow_adopt(f->dir, f->fds, f->n_fds, &not_adopted));
    g_assert_nonnull(strstr(not_adopted->message, "a disk could not be written"));
}

static void
test_full_epoch_after_failure(Fixture *f, gconstpointer data)
{
    commit_two(f);
    fail_disk(f);
    g_assert_false(shadow_settle(keeper_shadow(f->keeper), LIMIT_MS, NULL));
    connect_again(f);
    writer_epoch(&f->writer, 9, 0, 0, DISK_BLOCKS, 0x99);
    feed_good(f);
    settle(f);
    g_assert_cmpuint(file_fill(f, "db-0.raw", 3), ==, 0x99);
}

#define ADD(path, function) g_test_add(path, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_FATAL_MASK |
                           G_LOG_LEVEL_CRITICAL); /* disks that fail are warned of */
    ADD("/disks/what is committed is in the files", test_epochs_arrive);
    ADD("/disks/zero blocks give their room back", test_zero_gives_room_back);
    ADD("/disks/the old file lives until the new one commits", test_old_lives_until_commit);
    ADD("/disks/a full copy that is dropped leaves no file", test_dropped_sync_leaves_nothing);
    ADD("/disks/leftovers of an earlier life go, other files stay", test_leftovers);
    ADD("/disks/a disk that the district has no more loses its file", test_fewer_disks);
    ADD("/disks/other disks need a full epoch", test_other_disks_need_a_full_epoch);
    ADD("/disks/the files can be listed at any time", test_disks_listed);
    ADD("/disks/without a directory they are refused by name", test_no_directory);
    ADD("/disks/more of them than can be handed over are refused", test_too_many);
    ADD("/disks/an epoch half applied is applied again", test_half_applied);
    ADD("/disks/files that were not renamed yet are renamed", test_killed_before_rename);
    ADD("/disks/a copy that nobody holds yet takes no names from the one that is held",
        test_killed_before_held);
    ADD("/disks/a copy that is held at last gets the names", test_held_at_last);
    ADD("/disks/a full epoch is refused until the one before is held",
        test_full_waits_for_the_hold);
    ADD("/disks/a file that was removed is not adopted", test_removed_file);
    ADD("/disks/wrong descriptors are not adopted", test_wrong_descriptors);
    ADD("/disks/a ledger with any byte changed is refused or harmless", test_every_ledger_byte);
    ADD("/disks/an epoch for which there is no room is refused", test_no_room_for_an_epoch);
    ADD("/disks/a full epoch for which there is no room keeps the old",
        test_no_room_for_a_full_epoch);
    ADD("/disks/more than fits is refused when it is announced", test_announced_too_much);
    ADD("/disks/a big disk takes no memory", test_big_disk_is_no_memory);
    ADD("/disks/room for a log is not given back", test_room_is_kept_for_a_log);
    ADD("/disks/a disk that fails makes the copy unusable by name", test_failed_disk);
    ADD("/disks/a full epoch replaces a copy that failed", test_full_epoch_after_failure);
    return g_test_run();
}
