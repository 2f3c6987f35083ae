/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The real district-standby with disks: where their files are, and how they are handed over. */
#include "client.h"

#include <string.h>
#include <sys/stat.h>

#define N_MEMBERS 2
#define RAM_PAGES 512
#define DISK_BYTES (RAM_PAGES * PAGE_BYTES / 2)

static void
set_up(Rig *rig, gconstpointer data)
{
    rig_init(rig);
    rig_start(rig);
}

static void
tear_down(Rig *rig, gconstpointer data)
{
    rig_clear(rig);
}

/* Connect, greet and commit a full epoch of pages of fill, with a disk for each member. */
static void
protect_disks(Primary *primary, Rig *rig, uint64_t epoch, uint8_t fill)
{
    primary_open(primary, rig, "home", N_MEMBERS, RAM_PAGES);
    for (uint32_t i = 0; i < N_MEMBERS; i++)
        writer_add_disk(&primary->writer, i, DISK_BYTES);
    primary_greet(primary, NULL);
    writer_epoch(&primary->writer, epoch, 0, 0, RAM_PAGES, fill);
    g_assert_true(primary_flush(primary));
    g_assert_true(primary_wait_ack(primary, epoch, LIMIT_MS));
}

static District__StandbyMessage *
ask_disks(Rig *rig)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyDisksRequest disks = DISTRICT__STANDBY_DISKS_REQUEST__INIT;
    District__StandbyMessage *message;

    request.op_case = DISTRICT__STANDBY_REQUEST__OP_DISKS;
    request.disks = &disks;
    message = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(message->reply->error, ==, "");
    g_assert_nonnull(message->reply->disks);
    return message;
}

static District__StandbyMessage *
ask_activate(Rig *rig, uint64_t incarnation)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyActivateRequest activate = DISTRICT__STANDBY_ACTIVATE_REQUEST__INIT;
    District__StandbyMessage *message;

    activate.incarnation = incarnation;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ACTIVATE;
    request.activate = &activate;
    message = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(message->reply->error, ==, "");
    return message;
}

static void
test_activate_with_disks(Rig *rig, gconstpointer data)
{
    static const char *const names[N_MEMBERS] = {"db-0.raw", "web-0.raw"};
    District__StandbyActivateReply *activated;
    District__StandbyMessage *message;
    Primary primary;

    protect_disks(&primary, rig, 1, 0x11);
    for (uint64_t epoch = 2; epoch < 30; epoch++)
        writer_epoch(&primary.writer, epoch, epoch - 1, epoch, 1, (uint8_t)epoch);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 29, LIMIT_MS));
    message = ask_activate(rig, 4);
    activated = message->reply->activate;
    g_test_message("decided to handed: %" G_GUINT64_FORMAT " us",
                   (activated->handed_ns - activated->decided_ns) / 1000);
    g_assert_cmpuint(activated->disks_epoch, ==, 1);
    g_assert_cmpuint(activated->n_disk_files, ==, N_MEMBERS);
    g_assert_cmpuint(rig->reply_fds.n, ==, 1 + N_MEMBERS + N_MEMBERS);
    for (uint32_t i = 0; i < N_MEMBERS; i++) {
        g_autofree char *path = g_build_filename(rig->disk_dir, names[i], NULL);
        g_autofree char *content = NULL;
        struct stat named, open;
        size_t len;

        g_assert_cmpstr(activated->disk_files[i], ==, path);
        g_assert_cmpint(stat(path, &named), ==, 0);
        g_assert_cmpint(fstat(rig->reply_fds.fds[1 + N_MEMBERS + i], &open), ==, 0);
        g_assert_cmpuint(named.st_ino, ==, open.st_ino);
        g_assert_true(g_file_get_contents(path, &content, &len, NULL));
        g_assert_cmpuint(len, ==, DISK_BYTES);
        for (uint64_t block = 0; block < RAM_PAGES / 2; block++)
            g_assert_cmpuint(content[block * PAGE_BYTES + 77], ==,
                             block >= 2 && block < 30 ? block : 0x11);
    }
    rig_message_free(message);
    primary_close(&primary);
}

static void
test_ask_disks(Rig *rig, gconstpointer data)
{
    District__StandbyMessage *message = ask_disks(rig);
    Primary first, second;

    g_assert_cmpuint(message->reply->disks->n_disks, ==, 0);
    g_assert_cmpuint(message->reply->disks->epoch, ==, 0);
    rig_message_free(message);
    protect_disks(&first, rig, 1, 0x11);
    message = ask_disks(rig);
    g_assert_cmpuint(message->reply->disks->n_disks, ==, N_MEMBERS);
    g_assert_cmpuint(message->reply->disks->epoch, ==, 1);
    g_assert_cmpstr(message->reply->disks->disks[1]->member, ==, "web");
    g_assert_cmpuint(message->reply->disks->disks[1]->size, ==, DISK_BYTES);
    g_assert_true(g_str_has_suffix(message->reply->disks->disks[1]->file, "/disks/web-0.raw"));
    rig_message_free(message);
    /* The paths stay; the files behind them do not, and that can be told. */
    protect_disks(&second, rig, 8, 0x88);
    message = ask_disks(rig);
    g_assert_cmpuint(message->reply->disks->epoch, ==, 8);
    rig_message_free(message);
    message = ask_activate(rig, 4);
    g_assert_cmpuint(message->reply->activate->disks_epoch, ==, 8);
    rig_message_free(message);
    primary_close(&first);
    primary_close(&second);
}

/* The disks are those of epoch 1, full of 0x11. */
static void
check_first(Rig *rig)
{
    g_autofree char *path = g_build_filename(rig->disk_dir, "db-0.raw", NULL);
    g_autofree char *content = NULL;
    District__StandbyMessage *message = ask_activate(rig, 4);
    size_t len;

    g_assert_cmpuint(message->reply->activate->epoch, ==, 1);
    g_assert_cmpuint(message->reply->activate->disks_epoch, ==, 1);
    g_assert_cmpstr(message->reply->activate->disk_files[0], ==, path);
    rig_message_free(message);
    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, DISK_BYTES);
    g_assert_cmpuint(content[77], ==, 0x11);
}

/* The copy after it commits while districtd is away, and is killed before that is back. */
static void
test_acknowledged_outlives_the_next(Rig *rig, gconstpointer data)
{
    District__StreamError *error;
    Primary first, second;
    g_autofree char *refused = NULL;

    protect_disks(&first, rig, 1, 0x11);
    primary_open(&second, rig, "home", N_MEMBERS, RAM_PAGES);
    for (uint32_t i = 0; i < N_MEMBERS; i++)
        writer_add_disk(&second.writer, i, DISK_BYTES);
    primary_greet(&second, NULL);
    rig_disconnect(rig);
    writer_epoch(&second.writer, 8, 0, 0, RAM_PAGES, 0x88);
    writer_begin(&second.writer, 10, 9); /* what is refused tells that epoch 8 has been done with */
    g_assert_true(primary_flush(&second));
    error = primary_wait_error(&second);
    district__stream_error__free_unpacked(error, NULL);
    rig_kill(rig);
    rig_start(rig);
    refused = rig_adopt(rig);
    g_assert_cmpstr(refused, ==, NULL);
    check_first(rig);
    primary_close(&first);
    primary_close(&second);
}

static void
test_disks_without_directory(Rig *rig, gconstpointer data)
{
    District__StreamError *error;
    Primary primary;

    rig_kill(rig);
    g_clear_pointer(&rig->disk_dir, g_free);
    rig_start(rig);
    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    writer_add_disk(&primary.writer, 0, DISK_BYTES);
    primary_greet(&primary, NULL);
    writer_begin(&primary.writer, 1, 0);
    g_assert_true(primary_flush(&primary));
    error = primary_wait_error(&primary);
    g_assert_cmpint(error->code, ==, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_REFUSED);
    g_assert_nonnull(strstr(error->text, "--disk-dir"));
    district__stream_error__free_unpacked(error, NULL);
    primary_close(&primary);
}

#define ADD(path, function) g_test_add(path, Rig, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/disk-handover/activation gives the disks and their paths", test_activate_with_disks);
    ADD("/disk-handover/the disks can be asked for at any time", test_ask_disks);
    ADD("/disk-handover/what was acknowledged outlives a copy that nobody holds yet",
        test_acknowledged_outlives_the_next);
    ADD("/disk-handover/without a directory a district with disks is told so",
        test_disks_without_directory);
    return g_test_run();
}
