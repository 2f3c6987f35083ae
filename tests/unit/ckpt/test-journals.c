/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A journal on its way to the standby: a whole district-ckpt between a fake standby and a fake member
 * whose journal the test serves.
 */
#include "ckpt-rig.h"

#include "common/clock.h"
#include "common/page.h"
#include "common/pbmsg.h"
#include "member.pb-c.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_NS (20 * NS_PER_S)
#define FREE DISTRICT__JOURNAL_MODE__JOURNAL_MODE_FREE
#define COPY DISTRICT__JOURNAL_MODE__JOURNAL_MODE_COPY
#define HOLD DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD
#define DETACH_MS 1500
/* More than is read and sent ahead of acknowledgements. */
#define LARGE_BYTES (40 << 20)
/* In a second without staging: ten are made. */
#define MAX_HARVESTS 20

typedef struct Fixture {
    char *path;
    int fd;
    Rig *rig;
    int mode;       /* that was ordered last */
    uint64_t ended; /* the last write that may end */
} Fixture;

static void
set_up(Fixture *f, gconstpointer bytes)
{
    unsigned size = bytes ? GPOINTER_TO_UINT(bytes) : (unsigned)JOURNAL_BYTES_MIN;
    g_autofree char *old = g_strnfill(1 << 20, 'o');

    f->fd = g_file_open_tmp("test-journals-XXXXXX", &f->path, NULL);
    for (unsigned at = 0; at < size; at += 1 << 20)
        g_assert_cmpint(pwrite(f->fd, old, 1 << 20, at), ==, 1 << 20);
    FakeMemberConfig config = {
        .ram_size = 4 << 20, .writes_per_ms = 1, .journal = f->path, .journal_bytes = size};
    f->rig = rig_new(1, &config);
    rig_run(f->rig);
    rig_start(f->rig);
    f->mode = FREE;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    rig_free(f->rig);
    close(f->fd);
    g_assert_cmpint(g_unlink(f->path), ==, 0);
    g_free(f->path);
}

static void
confirm(Fixture *f, District__JournalMode mode)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalModeNow now = DISTRICT__JOURNAL_MODE_NOW__INIT;

    f->mode = (int)mode;
    now.mode = mode;
    news.m_case = DISTRICT__JOURNAL_NEWS__M_MODE;
    news.mode = &now;
    g_assert_true(
        pbmsg_send(fake_member_link(f->rig->members[0]), &news.base, NULL, 0, 1000, NULL));
}

/* Do as the engine does with an order, if there is one within ms. */
static void
serve(Fixture *f, int ms)
{
    District__JournalOrder *order = (District__JournalOrder *)pbmsg_recv(
        fake_member_link(f->rig->members[0]), &district__journal_order__descriptor, NULL, NULL, ms,
        NULL);

    if (!order)
        return;
    if (order->m_case == DISTRICT__JOURNAL_ORDER__M_SET_MODE)
        confirm(f, order->set_mode->mode);
    else
        f->ended = order->end->seq;
    district__journal_order__free_unpacked(order, NULL);
}

static void
serve_for(Fixture *f, int64_t ns)
{
    int64_t until = clock_monotonic_ns() + ns;

    while (clock_monotonic_ns() < until)
        serve(f, 10);
}

static void
serve_until_mode(Fixture *f, int mode)
{
    int64_t until = clock_monotonic_ns() + LIMIT_NS;

    while (f->mode != mode && clock_monotonic_ns() < until)
        serve(f, 10);
    g_assert_cmpint(f->mode, ==, mode);
}

static void
serve_until_ended(Fixture *f, uint64_t seq)
{
    int64_t until = clock_monotonic_ns() + LIMIT_NS;

    while (f->ended < seq && clock_monotonic_ns() < until)
        serve(f, 10);
    g_assert_cmpuint(f->ended, ==, seq);
}

/* A sector has been written. */
static void
tell(Fixture *f, uint64_t seq, uint64_t sector, uint8_t fill)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalWritten written = DISTRICT__JOURNAL_WRITTEN__INIT;
    District__JournalRange range = DISTRICT__JOURNAL_RANGE__INIT, *ranges = &range;
    uint8_t data[SECTOR_BYTES];

    memset(data, fill, sizeof data);
    g_assert_cmpint(pwrite(f->fd, data, sizeof data, (off_t)(sector * SECTOR_BYTES)), ==,
                    SECTOR_BYTES);
    range.offset = sector * SECTOR_BYTES;
    range.len = sizeof data;
    written.seq = seq;
    written.n_ranges = 1;
    written.ranges = &ranges;
    news.m_case = DISTRICT__JOURNAL_NEWS__M_WRITTEN;
    news.written = &written;
    g_assert_true(
        pbmsg_send(fake_member_link(f->rig->members[0]), &news.base, NULL, 0, 1000, NULL));
}

static void
protect(Fixture *f)
{
    rig_protect(f->rig, 5000, DETACH_MS);
    serve_until_mode(f, HOLD);
    int64_t until = clock_monotonic_ns() + LIMIT_NS;
    while (fake_standby_good(f->rig->standby) < 3 && clock_monotonic_ns() < until)
        serve(f, 10);
    g_assert_cmpuint(fake_standby_good(f->rig->standby), >=, 3);
}

static void
test_before_the_first_epoch(Fixture *f, gconstpointer data)
{
    fake_standby_hold_journal(f->rig->standby, true);
    rig_protect(f->rig, 5000, DETACH_MS);
    serve_until_mode(f, COPY);
    serve_for(f, NS_PER_S);
    g_assert_cmpuint(fake_standby_journal(f->rig->standby), >, 1);
    g_assert_cmpint(fake_standby_journal_byte(f->rig->standby), ==, 'o');
    g_assert_cmpuint(fake_standby_published(f->rig->standby), ==, 0);
    g_assert_cmpint(f->mode, ==, COPY);
    g_assert_cmpuint(fake_standby_good(f->rig->standby), ==, 0);
    fake_standby_hold_journal(f->rig->standby, false);
    serve_until_mode(f, HOLD);
    rig_wait_good(f->rig, 3);
    g_assert_cmpuint(fake_standby_published(f->rig->standby), >, 0);
}

/* However long a copy takes: each harvest costs a guest a fault for every page that it writes again. */
static void
test_seldom_harvested(Fixture *f, gconstpointer data)
{
    fake_standby_hold_journal(f->rig->standby, true);
    rig_protect(f->rig, 5000, DETACH_MS);
    serve_until_mode(f, COPY);
    serve_for(f, NS_PER_S / 2);
    uint64_t writes = fake_member_writes(f->rig->members[0]);
    uint64_t harvests = fake_member_harvests(f->rig->members[0]);
    serve_for(f, NS_PER_S);
    writes = fake_member_writes(f->rig->members[0]) - writes;
    harvests = fake_member_harvests(f->rig->members[0]) - harvests;
    g_test_message("%" G_GUINT64_FORMAT " harvests, %" G_GUINT64_FORMAT " writes", harvests,
                   writes);
    g_assert_cmpuint(harvests, <=, MAX_HARVESTS);
    g_assert_cmpuint(harvests, >, 0);
    g_assert_cmpuint(writes, >, MAX_HARVESTS);
    fake_standby_hold_journal(f->rig->standby, false);
    serve_until_mode(f, HOLD);
    rig_wait_good(f->rig, 1);
}

/* Wherever the copy is: what it has read of a place before a write must not come after it. */
static void
test_written_while_copied(Fixture *f, gconstpointer data)
{
    enum { STEP = 1 << 20 };

    fake_standby_hold_journal(f->rig->standby, true);
    rig_protect(f->rig, 5000, DETACH_MS);
    serve_until_mode(f, COPY);
    serve_for(f, NS_PER_S / 2);
    for (uint64_t at = 0; at < LARGE_BYTES; at += STEP)
        tell(f, 1 + at / STEP, at / SECTOR_BYTES, (uint8_t)(0x80 + at / STEP));
    serve_for(f, NS_PER_S / 2);
    fake_standby_hold_journal(f->rig->standby, false);
    serve_until_mode(f, HOLD);
    rig_wait_good(f->rig, 1);
    for (uint64_t at = 0; at < LARGE_BYTES; at += STEP) {
        g_assert_cmpint(fake_standby_journal_at(f->rig->standby, at), ==, (int)(0x80 + at / STEP));
        g_assert_cmpint(fake_standby_journal_at(f->rig->standby, at + SECTOR_BYTES), ==, 'o');
    }
}

static void
test_held(Fixture *f, gconstpointer data)
{
    protect(f);
    tell(f, 1, 7, 0x11);
    serve_until_ended(f, 1);
    g_assert_cmpint(fake_standby_journal_byte(f->rig->standby), ==, 0x11);
    fake_standby_hold_journal(f->rig->standby, true);
    tell(f, 2, 7, 0x22);
    unsigned good = fake_standby_good(f->rig->standby);
    serve_for(f, NS_PER_S / 2);
    g_assert_cmpint(fake_standby_journal_byte(f->rig->standby), ==, 0x22);
    g_assert_cmpuint(f->ended, ==, 1);
    g_assert_cmpuint(fake_standby_good(f->rig->standby), >, good); /* epochs wait for no journal */
    fake_standby_hold_journal(f->rig->standby, false);
    serve_until_ended(f, 2);
    g_assert_cmpuint(fake_standby_wrong(f->rig->standby), ==, 0);
}

/* Told to one stream, made durable with the copy of the next. */
static void
test_lost_and_found(Fixture *f, gconstpointer data)
{
    protect(f);
    fake_standby_hold_journal(f->rig->standby, true);
    tell(f, 1, 7, 0x11);
    serve_for(f, NS_PER_S / 10);
    fake_standby_drop(f->rig->standby);
    serve_for(f, NS_PER_S / 2);
    g_assert_cmpuint(f->ended, ==, 0);
    g_assert_cmpint(f->mode, ==, HOLD);
    fake_standby_hold_journal(f->rig->standby, false);
    serve_until_ended(f, 1);
    g_assert_cmpint(f->mode, ==, HOLD);
}

static void
test_detach(Fixture *f, gconstpointer data)
{
    protect(f);
    fake_standby_hold_journal(f->rig->standby, true);
    fake_standby_hang(f->rig->standby, true);
    int64_t hung = clock_monotonic_ns();
    fake_standby_drop(f->rig->standby);
    tell(f, 1, 7, 0x11);
    serve_until_mode(f, FREE);
    g_assert_cmpint(clock_monotonic_ns() - hung, >=, DETACH_MS * NS_PER_MS);
    g_assert_cmpuint(f->ended, ==, 0);
    rig_wait_event(f->rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DETACHED);
    fake_standby_hold_journal(f->rig->standby, false);
    fake_standby_hang(f->rig->standby, false);
    serve_until_mode(f, COPY);
    serve_until_mode(f, HOLD);
}

static void
test_unprotect(Fixture *f, gconstpointer data)
{
    protect(f);
    fake_standby_hold_journal(f->rig->standby, true);
    tell(f, 1, 7, 0x11);
    rig_unprotect(f->rig);
    serve_until_mode(f, FREE);
    g_assert_cmpuint(f->ended, ==, 0);
}

/* It does not know whether the standby has what waits. */
static void
test_next_ckpt(Fixture *f, gconstpointer data)
{
    protect(f);
    fake_standby_hold_journal(f->rig->standby, true);
    tell(f, 1, 7, 0x11);
    serve_for(f, NS_PER_S / 10);
    fake_member_journal_mode(f->rig->members[0], HOLD);
    rig_kill(f->rig);
    rig_run(f->rig);
    fake_member_wait_links(f->rig->members[0], 2);
    tell(f, 1, 7, 0x11);
    serve_for(f, NS_PER_S);
    g_assert_cmpuint(f->ended, ==, 0);
    g_assert_cmpint(f->mode, ==, HOLD);
    fake_standby_hold_journal(f->rig->standby, false);
    rig_protect(f->rig, 5000, DETACH_MS);
    serve_until_ended(f, 1);
    g_assert_cmpint(f->mode, ==, HOLD);
}

/* And is not asked to protect: as long as output that was held. */
static void
test_next_ckpt_unprotected(Fixture *f, gconstpointer data)
{
    protect(f);
    fake_member_journal_mode(f->rig->members[0], HOLD);
    rig_kill(f->rig);
    rig_run(f->rig);
    fake_member_wait_links(f->rig->members[0], 2);
    int64_t since = clock_monotonic_ns();
    serve_until_mode(f, FREE);
    g_assert_cmpint(clock_monotonic_ns() - since, >=, 2 * NS_PER_S);
}

static void
test_foreign_range(Fixture *f, gconstpointer data)
{
    protect(f);
    g_assert_cmpint(ftruncate(f->fd, 2 * (off_t)JOURNAL_BYTES_MIN), ==, 0);
    tell(f, 1, JOURNAL_BYTES_MIN / SECTOR_BYTES, 0x11);
    /* The link is ended, and the engine then taken for lost. */
    rig_wait_event(f->rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_LOST);
}

#define ADD(name, function)                                                                        \
    g_test_add("/journals/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("no epoch completes before the standby has the journals", test_before_the_first_epoch);
    g_test_add("/journals/a copy does not go over what is written meanwhile", Fixture,
               GUINT_TO_POINTER(LARGE_BYTES), set_up, test_written_while_copied, tear_down);
    ADD("guests are seldom harvested while journals are copied", test_seldom_harvested);
    ADD("a held write ends when the standby has it", test_held);
    ADD("a write told to a lost stream ends with the next one's copy", test_lost_and_found);
    ADD("writes are set free when the district is detached", test_detach);
    ADD("writes are set free when protection ends", test_unprotect);
    ADD("the next district-ckpt leaves held writes waiting", test_next_ckpt);
    ADD("the next district-ckpt sets writes free as it does output", test_next_ckpt_unprotected);
    ADD("a range beyond the journal ends the engine", test_foreign_range);
    return g_test_run();
}
