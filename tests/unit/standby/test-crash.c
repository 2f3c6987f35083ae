/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-standby killed at any instant: what a new process adopts is exactly an epoch that was
 * sent whole, and not older than the last one acknowledged.
 */
#include "client.h"

#include "common/memfd.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_PAGES 2048
#define ROUNDS 50
#define EPOCHS_MAX 20000
/* Longest time from the first epoch of a round to the kill, unless the first one takes longer. */
#define KILL_US_MAX 20000
/* The disk beside the RAM: a sector short of as many blocks. */
#define DISK_BYTES (RAM_PAGES * PAGE_BYTES - SECTOR_BYTES)
/* After fds for ledger and logs. */
#define FIRST_RAM_FD 3
#define FIRST_DISK_FD 4

/* What RAM and disk are after each epoch: a fill byte per page. */
typedef struct Model {
    uint8_t *after[EPOCHS_MAX];
    uint64_t last; /* epoch given to the connection in full */
    int kill_us_max;
} Model;

typedef struct Killer {
    Rig *rig;
    unsigned delay_us;
} Killer;

static gpointer
killer_run(gpointer data)
{
    Killer *killer = data;

    g_usleep(killer->delay_us);
    kill(killer->rig->pid, SIGKILL);
    return NULL;
}

/* Queue the next epoch: full, or a few ranges of pages on top of base. */
static void
write_next(Primary *primary, Model *model, uint64_t epoch, uint64_t base)
{
    uint64_t first = base == 0 ? 0 : g_random_int_range(0, RAM_PAGES);
    uint64_t count = base == 0 ? RAM_PAGES : (uint64_t)g_random_int_range(1, RAM_PAGES);
    uint8_t fill = (uint8_t)g_random_int_range(0, 256);

    g_assert_cmpuint(epoch, <, EPOCHS_MAX);
    count = MIN(count, RAM_PAGES - first);
    model->after[epoch] =
        base == 0 ? g_malloc0(RAM_PAGES) : g_memdup2(model->after[base], RAM_PAGES);
    memset(model->after[epoch] + first, fill, count);
    writer_epoch(&primary->writer, epoch, base, first, count, fill);
    model->last = epoch;
}

/* An image must be as the model says it is after epoch. */
static void
check_image(int fd, uint64_t bytes, const char *what, const Model *model, uint64_t epoch)
{
    g_autoptr(GError) error = NULL;
    uint8_t *image = memfd_map(fd, bytes, FALSE, &error);

    g_assert_no_error(error);
    for (uint64_t page = 0; page < RAM_PAGES; page++) {
        const uint8_t *data = image + page * PAGE_BYTES;
        size_t len = MIN(PAGE_BYTES, bytes - page * PAGE_BYTES);
        if (data[0] != model->after[epoch][page] || memcmp(data, data + 1, len - 1) != 0)
            g_error("epoch %" G_GUINT64_FORMAT ", %s page %" G_GUINT64_FORMAT
                    " is 0x%02x, not 0x%02x",
                    epoch, what, page, data[0], model->after[epoch][page]);
    }
    munmap(image, bytes);
}

/* What is held must be epoch, and the disk the only file, under its last name. */
static void
check_held(Rig *rig, const Model *model, uint64_t epoch)
{
    g_autofree char *path = g_build_filename(rig->disk_dir, "db-0.raw", NULL);
    g_autoptr(GDir) dir = g_dir_open(rig->disk_dir, 0, NULL);
    struct stat named, open;
    unsigned files = 0;

    check_image(rig->held.fds[FIRST_RAM_FD], RAM_PAGES * PAGE_BYTES, "RAM", model, epoch);
    check_image(rig->held.fds[FIRST_DISK_FD], DISK_BYTES, "disk", model, epoch);
    g_assert_cmpint(stat(path, &named), ==, 0);
    g_assert_cmpint(fstat(rig->held.fds[FIRST_DISK_FD], &open), ==, 0);
    g_assert_cmpuint(named.st_ino, ==, open.st_ino);
    g_assert_cmpuint(named.st_size, ==, DISK_BYTES);
    while (g_dir_read_name(dir) != NULL)
        files++;
    g_assert_cmpuint(files, ==, 1);
}

static uint64_t
committed(Rig *rig)
{
    District__StandbyMessage *message = rig_status(rig);
    uint64_t epoch = message->reply->status->committed_epoch;

    rig_message_free(message);
    return epoch;
}

/* Stream epochs until the standby is killed under us; *acked: the last one acknowledged. */
static void
stream_until_killed(Rig *rig, Model *model, uint64_t *held, uint64_t *acked)
{
    Killer killer = {rig, (unsigned)g_random_int_range(0, model->kill_us_max)};
    Primary primary;
    GThread *thread;
    uint64_t base = g_random_int_range(0, 4) == 0 ? 0 : *held;

    primary_open(&primary, rig, "home", 1, RAM_PAGES);
    writer_add_disk(&primary.writer, 0, DISK_BYTES);
    primary_greet(&primary, NULL);
    primary.acked = *acked;
    thread = g_thread_new("killer", killer_run, &killer);
    for (;;) {
        uint64_t epoch = model->last + 1;

        write_next(&primary, model, epoch, base);
        base = epoch;
        /* Two epochs may be in flight. */
        if (!primary_flush(&primary) || !primary_wait_ack(&primary, epoch - 1, LIMIT_MS))
            break;
    }
    g_thread_join(thread);
    *acked = primary.acked;
    primary_close(&primary);
}

/* Commit the first epoch undisturbed, to have something, and to know how long it takes here. */
static void
commit_first(Rig *rig, Model *model)
{
    gint64 start = g_get_monotonic_time();
    Primary primary;

    rig_start(rig);
    primary_open(&primary, rig, "home", 1, RAM_PAGES);
    writer_add_disk(&primary.writer, 0, DISK_BYTES);
    primary_greet(&primary, NULL);
    write_next(&primary, model, 1, 0);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 1, LIMIT_MS));
    model->kill_us_max = (int)MAX(KILL_US_MAX, g_get_monotonic_time() - start);
    rig_kill(rig);
    primary_close(&primary);
}

static void
test_kill_rounds(void)
{
    g_autofree Model *model = g_new0(Model, 1);
    District__StandbyActivateReply activated;
    g_autofree char *why = NULL;
    uint64_t held = 1, acked = 1, later = 0;
    Rig rig;

    rig_init(&rig);
    commit_first(&rig, model);
    for (unsigned round = 0; round < ROUNDS; round++) {
        g_autofree char *before = NULL, *error = NULL;

        rig_start(&rig);
        before = rig_adopt(&rig);
        g_assert_cmpstr(before, ==, NULL);
        g_assert_cmpuint(committed(&rig), ==, held);
        stream_until_killed(&rig, model, &held, &acked);
        rig_kill(&rig);
        rig_start(&rig);
        error = rig_adopt(&rig);
        g_assert_cmpstr(error, ==, NULL);
        held = committed(&rig);
        g_assert_cmpuint(held, >=, acked);
        g_assert_cmpuint(held, <=, model->last);
        later += held > acked;
        check_held(&rig, model, held);
        rig_kill(&rig);
    }
    g_test_message("%" G_GUINT64_FORMAT
                   " epochs, committed beyond the last ACK in %" G_GUINT64_FORMAT " of %d rounds",
                   model->last, later, ROUNDS);
    rig_start(&rig);
    g_free(rig_adopt(&rig));
    why = rig_activate(&rig, 100, &activated);
    g_assert_cmpstr(why, ==, NULL);
    g_assert_cmpuint(activated.epoch, ==, held);
    rig_clear(&rig);
    for (size_t i = 0; i < EPOCHS_MAX; i++)
        g_free(model->after[i]);
}

static void
test_adopt_only_when_fresh(void)
{
    g_autofree char *error = NULL;
    Primary primary;
    Rig rig;

    rig_init(&rig);
    rig_start(&rig);
    primary_open(&primary, &rig, "home", 1, RAM_PAGES);
    primary_greet(&primary, NULL);
    writer_epoch(&primary.writer, 1, 0, 0, 1, 1);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 1, LIMIT_MS));
    rig_message_free(rig_status(&rig));
    error = rig_adopt(&rig);
    g_assert_nonnull(strstr(error, "fresh"));
    primary_close(&primary);
    rig_clear(&rig);
}

static void
test_adopt_garbage(void)
{
    g_autofree char *error = NULL;
    Rig rig;

    rig_init(&rig);
    rig_start(&rig);
    for (guint i = 0; i < 4; i++)
        rig.held.fds[i] = memfd_create_sealed("garbage", 8192, NULL);
    rig.held.n = 4;
    error = rig_adopt(&rig);
    g_assert_nonnull(strstr(error, "no ledger"));
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crash/killed at any instant no committed epoch is lost or torn",
                    test_kill_rounds);
    g_test_add_func("/crash/only a fresh process adopts", test_adopt_only_when_fresh);
    g_test_add_func("/crash/what is not a ledger is not adopted", test_adopt_garbage);
    return g_test_run();
}
