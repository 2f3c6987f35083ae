/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal disk of district-vmm, on a file, with the test as its client. */
#include "vmm/journal.h"

#include "common/pbmsg.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define BYTES (1 << 20)
#define FREE DISTRICT__JOURNAL_MODE__JOURNAL_MODE_FREE
#define COPY DISTRICT__JOURNAL_MODE__JOURNAL_MODE_COPY
#define HOLD DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD
#define LIMIT_US (10 * G_USEC_PER_SEC)

typedef struct Fixture {
    char *path;
    Journal *journal;
    int link; /* our end; -1: none */
} Fixture;

typedef struct Write {
    uint8_t data[SECTOR_BYTES * 8];
    bool ended;
    int error;
} Write;

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int fd = g_file_open_tmp("test-journal-XXXXXX", &f->path, &error);

    g_assert_no_error(error);
    g_assert_cmpint(ftruncate(fd, BYTES), ==, 0);
    close(fd);
    f->journal = journal_open(f->path, &error);
    g_assert_no_error(error);
    f->link = -1;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    journal_close(f->journal);
    if (f->link >= 0)
        close(f->link);
    g_assert_cmpint(g_unlink(f->path), ==, 0);
    g_free(f->path);
}

/* Whatever can be done without waiting for more, and a little of waiting. */
static void
pump(void)
{
    gint64 until = g_get_monotonic_time() + 30000;

    while (g_get_monotonic_time() < until) {
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(500);
    }
}

static void
on_ended(void *opaque, int error)
{
    Write *write = opaque;

    g_assert_false(write->ended);
    write->ended = true;
    write->error = error;
}

static void
write_start(Fixture *f, Write *write, uint64_t sector, unsigned sectors, uint8_t fill)
{
    *write = (Write){0};
    memset(write->data, fill, sizeof write->data);
    disk_write(journal_disk(f->journal), sector * SECTOR_BYTES, write->data,
               (size_t)sectors * SECTOR_BYTES, on_ended, write);
}

static void
wait_ended(const Write *write)
{
    gint64 limit = g_get_monotonic_time() + LIMIT_US;

    while (!write->ended) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(500);
    }
    g_assert_cmpint(write->error, ==, 0);
}

static uint8_t
on_file(Fixture *f, uint64_t sector)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    uint8_t byte;

    g_assert_cmpint(pread(fd, &byte, 1, (off_t)(sector * SECTOR_BYTES)), ==, 1);
    close(fd);
    return byte;
}

static void
connect_link(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    if (f->link >= 0)
        close(f->link);
    f->link = journal_link(f->journal, &error);
    g_assert_no_error(error);
}

static District__JournalNews *
hear(Fixture *f)
{
    gint64 limit = g_get_monotonic_time() + LIMIT_US;

    for (;;) {
        g_autoptr(GError) error = NULL;
        District__JournalNews *news = (District__JournalNews *)pbmsg_recv(
            f->link, &district__journal_news__descriptor, NULL, NULL, 0, &error);
        if (news != NULL)
            return news;
        g_assert_error(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT);
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(500);
    }
}

static void
hear_nothing(Fixture *f)
{
    pump();
    g_assert_null(pbmsg_recv(f->link, &district__journal_news__descriptor, NULL, NULL, 0, NULL));
}

/* The next news is of one write; its seq. */
static uint64_t
hear_written(Fixture *f, uint64_t sector, unsigned sectors)
{
    District__JournalNews *news = hear(f);
    uint64_t seq;

    g_assert_cmpint(news->m_case, ==, DISTRICT__JOURNAL_NEWS__M_WRITTEN);
    g_assert_cmpuint(news->written->n_ranges, ==, 1);
    g_assert_cmpuint(news->written->ranges[0]->offset, ==, sector * SECTOR_BYTES);
    g_assert_cmpuint(news->written->ranges[0]->len, ==, sectors * SECTOR_BYTES);
    seq = news->written->seq;
    district__journal_news__free_unpacked(news, NULL);
    return seq;
}

static void
order(Fixture *f, District__JournalOrder *message)
{
    g_autoptr(GError) error = NULL;

    pbmsg_send(f->link, &message->base, NULL, 0, 1000, &error);
    g_assert_no_error(error);
}

static void
set_mode(Fixture *f, District__JournalMode mode)
{
    District__JournalOrder message = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalSetMode set = DISTRICT__JOURNAL_SET_MODE__INIT;

    set.mode = mode;
    message.m_case = DISTRICT__JOURNAL_ORDER__M_SET_MODE;
    message.set_mode = &set;
    order(f, &message);
    District__JournalNews *news = hear(f);
    g_assert_cmpint(news->m_case, ==, DISTRICT__JOURNAL_NEWS__M_MODE);
    g_assert_cmpint(news->mode->mode, ==, mode);
    district__journal_news__free_unpacked(news, NULL);
}

static void
let_end(Fixture *f, uint64_t seq)
{
    District__JournalOrder message = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalEnd end = DISTRICT__JOURNAL_END__INIT;

    end.seq = seq;
    message.m_case = DISTRICT__JOURNAL_ORDER__M_END;
    message.end = &end;
    order(f, &message);
}

static void
test_free(Fixture *f, gconstpointer data)
{
    Write write;

    write_start(f, &write, 8, 8, 0x11);
    wait_ended(&write);
    g_assert_cmpuint(on_file(f, 8), ==, 0x11);
    connect_link(f);
    write_start(f, &write, 0, 1, 0x22);
    wait_ended(&write);
    hear_nothing(f);
}

static void
test_copy(Fixture *f, gconstpointer data)
{
    Write write;

    connect_link(f);
    set_mode(f, COPY);
    write_start(f, &write, 8, 8, 0x11);
    wait_ended(&write);
    g_assert_cmpuint(on_file(f, 8), ==, 0x11);
    hear_written(f, 8, 8);
}

static void
test_hold(Fixture *f, gconstpointer data)
{
    Write first, second;

    connect_link(f);
    set_mode(f, HOLD);
    write_start(f, &first, 8, 1, 0x11);
    uint64_t seq = hear_written(f, 8, 1);
    g_assert_cmpuint(on_file(f, 8), ==, 0x11);
    /* Nothing else is written while the client reads. */
    write_start(f, &second, 8, 2, 0x22);
    let_end(f, seq - 1);
    hear_nothing(f);
    g_assert_false(first.ended);
    g_assert_cmpuint(on_file(f, 8), ==, 0x11);
    g_assert_nonnull(journal_waiting(f->journal));
    let_end(f, seq);
    wait_ended(&first);
    g_assert_cmpuint(hear_written(f, 8, 2), ==, seq + 1);
    g_assert_cmpuint(on_file(f, 8), ==, 0x22);
    g_assert_false(second.ended);
    let_end(f, seq + 1);
    wait_ended(&second);
    g_assert_null(journal_waiting(f->journal));
}

static void
test_overlap(Fixture *f, gconstpointer data)
{
    Write writes[4];

    connect_link(f);
    set_mode(f, HOLD);
    write_start(f, &writes[0], 100, 1, 1); /* keeps the others together */
    write_start(f, &writes[1], 8, 4, 2);
    write_start(f, &writes[2], 20, 1, 3);
    write_start(f, &writes[3], 10, 4, 4);
    let_end(f, hear_written(f, 100, 1));
    District__JournalNews *news = hear(f);
    g_assert_cmpuint(news->written->n_ranges, ==, 2);
    g_assert_cmpuint(news->written->ranges[0]->offset, ==, 8 * SECTOR_BYTES);
    g_assert_cmpuint(news->written->ranges[1]->offset, ==, 20 * SECTOR_BYTES);
    g_assert_cmpuint(on_file(f, 10), ==, 2);
    let_end(f, news->written->seq);
    district__journal_news__free_unpacked(news, NULL);
    let_end(f, hear_written(f, 10, 4));
    wait_ended(&writes[3]);
    g_assert_cmpuint(on_file(f, 10), ==, 4);
    g_assert_true(writes[1].ended && writes[2].ended);
}

static void
test_set_free(Fixture *f, gconstpointer data)
{
    Write first, second;

    connect_link(f);
    set_mode(f, HOLD);
    write_start(f, &first, 8, 1, 0x11);
    hear_written(f, 8, 1);
    set_mode(f, COPY);
    wait_ended(&first);
    set_mode(f, HOLD);
    write_start(f, &second, 8, 1, 0x22);
    hear_written(f, 8, 1);
    set_mode(f, FREE);
    wait_ended(&second);
}

static void
test_client_gone(Fixture *f, gconstpointer data)
{
    Write first, second;

    connect_link(f);
    set_mode(f, HOLD);
    write_start(f, &first, 8, 1, 0x11);
    uint64_t seq = hear_written(f, 8, 1);
    close(f->link);
    f->link = -1;
    pump();
    g_assert_false(first.ended);
    connect_link(f);
    g_assert_cmpint(journal_mode(f->journal), ==, HOLD);
    g_assert_cmpuint(hear_written(f, 8, 1), ==, seq);
    let_end(f, seq);
    wait_ended(&first);
    /* And one that comes while there is none. */
    journal_unlink(f->journal);
    write_start(f, &second, 9, 1, 0x22);
    pump();
    g_assert_false(second.ended);
    connect_link(f);
    let_end(f, hear_written(f, 9, 1));
    wait_ended(&second);
}

/* What it was to have a copy for is void. */
static void
test_copying_client_gone(Fixture *f, gconstpointer data)
{
    Write write;

    connect_link(f);
    set_mode(f, COPY);
    close(f->link);
    f->link = -1;
    write_start(f, &write, 8, 1, 0x11);
    wait_ended(&write);
    pump();
    g_assert_cmpint(journal_mode(f->journal), ==, FREE);
}

/* A client that does not read delays no write that need not wait for it. */
static void
test_full_link(Fixture *f, gconstpointer data)
{
    Write write;

    connect_link(f);
    set_mode(f, COPY);
    for (unsigned i = 0; i < 2000; i++) {
        write_start(f, &write, i % 64, 1, (uint8_t)i);
        for (int k = 0; k < 50 && !write.ended; k++)
            g_main_context_iteration(NULL, TRUE);
        if (!write.ended)
            break; /* the link is full: the write is tried to be told of */
    }
    close(f->link);
    f->link = -1;
    wait_ended(&write);
}

static void
order_freeze(Fixture *f, bool on)
{
    District__JournalOrder message = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalFreeze freeze = DISTRICT__JOURNAL_FREEZE__INIT;

    freeze.on = on;
    message.m_case = DISTRICT__JOURNAL_ORDER__M_FREEZE;
    message.freeze = &freeze;
    order(f, &message);
}

static void
hear_frozen(Fixture *f)
{
    District__JournalNews *news = hear(f);

    g_assert_cmpint(news->m_case, ==, DISTRICT__JOURNAL_NEWS__M_FROZEN);
    district__journal_news__free_unpacked(news, NULL);
}

static void
test_freeze(Fixture *f, gconstpointer data)
{
    Write write;

    connect_link(f);
    order_freeze(f, true);
    hear_frozen(f);
    write_start(f, &write, 8, 1, 0x11);
    pump();
    g_assert_false(write.ended);
    g_assert_cmpuint(on_file(f, 8), ==, 0);
    order_freeze(f, false);
    wait_ended(&write);
    g_assert_cmpuint(on_file(f, 8), ==, 0x11);
    hear_nothing(f); /* a thaw is not answered */
}

/* The write has begun, the order is there, and which of the two is seen first is not known. */
static void
test_freeze_while_writing(Fixture *f, gconstpointer data)
{
    Write first, second;

    connect_link(f);
    set_mode(f, COPY);
    write_start(f, &first, 8, 1, 0x11);
    order_freeze(f, true);
    hear_written(f, 8, 1);
    hear_frozen(f);
    g_assert_true(first.ended);
    write_start(f, &second, 9, 1, 0x22);
    hear_nothing(f);
    g_assert_cmpuint(on_file(f, 9), ==, 0);
    order_freeze(f, false);
    hear_written(f, 9, 1);
}

/* One that waits for the standby is on the disk, and goes on waiting. */
static void
test_freeze_held(Fixture *f, gconstpointer data)
{
    Write first, second;

    connect_link(f);
    set_mode(f, HOLD);
    write_start(f, &first, 8, 1, 0x11);
    uint64_t seq = hear_written(f, 8, 1);
    order_freeze(f, true);
    hear_frozen(f);
    write_start(f, &second, 9, 1, 0x22);
    let_end(f, seq);
    wait_ended(&first);
    hear_nothing(f);
    order_freeze(f, false);
    let_end(f, hear_written(f, 9, 1));
    wait_ended(&second);
}

static void
test_freezing_client_gone(Fixture *f, gconstpointer data)
{
    Write write;

    connect_link(f);
    order_freeze(f, true);
    hear_frozen(f);
    write_start(f, &write, 8, 1, 0x11);
    close(f->link);
    f->link = -1;
    wait_ended(&write);
}

static void
test_freeze_over_reset(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    Write write;

    connect_link(f);
    order_freeze(f, true);
    hear_frozen(f);
    text = journal_hand_on(f->journal, &error);
    g_assert_no_error(error);
    journal_close(f->journal);
    f->journal = journal_open(f->path, &error);
    g_assert_no_error(error);
    g_assert_true(journal_inherit(f->journal, text, &error));
    write_start(f, &write, 8, 1, 0x11);
    pump();
    g_assert_false(write.ended);
    order_freeze(f, false);
    wait_ended(&write);
}

static void
test_bad_orders(Fixture *f, gconstpointer data)
{
    District__JournalOrder message = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalSetMode set = DISTRICT__JOURNAL_SET_MODE__INIT;

    connect_link(f);
    set.mode = (District__JournalMode)7;
    message.m_case = DISTRICT__JOURNAL_ORDER__M_SET_MODE;
    message.set_mode = &set;
    order(f, &message);
    pump();
    g_autoptr(GError) error = NULL;
    g_assert_null(
        pbmsg_recv(f->link, &district__journal_news__descriptor, NULL, NULL, 1000, &error));
    g_assert_error(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED);
    g_assert_cmpint(journal_mode(f->journal), ==, FREE);
}

static void
test_refused_images(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("test-journal-XXXXXX", &path, NULL);

    g_assert_cmpint(ftruncate(fd, BYTES + SECTOR_BYTES), ==, 0);
    close(fd);
    g_assert_null(journal_open(path, &error));
    g_assert_nonnull(strstr(error->message, "multiple of 4096"));
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_clear_error(&error);
    g_assert_null(journal_open(path, &error));
    g_assert_nonnull(error);
}

#define ADD(name, function) g_test_add("/journal/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("a write that waits for nobody ends when it is on the disk", test_free);
    ADD("while a copy is made writes are told and do not wait", test_copy);
    ADD("a write that is held ends when the client says so and none overtakes it", test_hold);
    ADD("overlapping writes are told one after the other", test_overlap);
    ADD("writes that are set free end", test_set_free);
    ADD("a client that goes leaves held writes to the next one", test_client_gone);
    ADD("a client that goes while it copies leaves writes free", test_copying_client_gone);
    ADD("a client that does not read is not waited for for ever", test_full_link);
    ADD("a frozen journal begins no write until it is thawed", test_freeze);
    ADD("a journal is frozen when the write under way is done", test_freeze_while_writing);
    ADD("a held write ends while the journal is frozen", test_freeze_held);
    ADD("a client that goes leaves no journal frozen", test_freezing_client_gone);
    ADD("a guest's reset leaves a frozen journal frozen", test_freeze_over_reset);
    ADD("an order that is none ends the link", test_bad_orders);
    g_test_add_func("/journal/an image that cannot be is refused by name", test_refused_images);
    return g_test_run();
}
