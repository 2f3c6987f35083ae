/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of journals for clones and exports: a whole district-ckpt with two fake members whose
 * journals the test serves, and the copying of one that nobody has open.
 */
#include "ckpt-rig.h"

#include "ckpt/journal-file.h"
#include "common/clock.h"
#include "common/page.h"
#include "common/pbmsg.h"
#include "member.pb-c.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N 2
#define BYTES JOURNAL_BYTES_MIN
#define LIMIT_NS (20 * NS_PER_S)

typedef struct Fixture {
    char *path[N];
    int fd[N];
    int copy[N];
    Rig *rig;
} Fixture;

static int
scratch(uint64_t bytes)
{
    int fd = memfd_create("copy", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(fd, (off_t)bytes), ==, 0);
    return fd;
}

static void
fill(int fd, uint64_t offset, uint64_t len, char byte)
{
    g_autofree char *data = g_strnfill(len, byte);

    g_assert_cmpint(pwrite(fd, data, len, (off_t)offset), ==, (ssize_t)len);
}

static void
assert_same(int a, int b)
{
    g_autofree char *x = g_malloc(BYTES), *y = g_malloc(BYTES);

    g_assert_cmpint(pread(a, x, BYTES, 0), ==, BYTES);
    g_assert_cmpint(pread(b, y, BYTES, 0), ==, BYTES);
    g_assert_cmpmem(x, BYTES, y, BYTES);
}

static void
set_up(Fixture *f, gconstpointer cannot_freeze)
{
    FakeMemberConfig config[N] = {0};

    for (int i = 0; i < N; i++) {
        f->fd[i] = g_file_open_tmp("test-journals-copy-XXXXXX", &f->path[i], NULL);
        fill(f->fd[i], 0, BYTES, (char)('a' + i));
        f->copy[i] = scratch(BYTES);
        config[i] = (FakeMemberConfig){.ram_size = 4 << 20,
                                       .journal = f->path[i],
                                       .journal_bytes = BYTES,
                                       .journal_old = cannot_freeze != NULL};
    }
    f->rig = rig_new_mixed(N, config);
    rig_run(f->rig);
    rig_start(f->rig);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    rig_free(f->rig);
    for (int i = 0; i < N; i++) {
        close(f->fd[i]);
        close(f->copy[i]);
        g_assert_cmpint(g_unlink(f->path[i]), ==, 0);
        g_free(f->path[i]);
    }
}

static void
ask(Fixture *f)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCopyJournalsRequest copy = DISTRICT__CKPT_COPY_JOURNALS_REQUEST__INIT;
    char *names[N];

    for (int i = 0; i < N; i++)
        names[i] = g_strdup_printf("m%d", i);
    copy.members = names;
    copy.n_members = N;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_COPY_JOURNALS;
    request.copy_journals = &copy;
    rig_send(f->rig, &request, f->copy, N);
    for (int i = 0; i < N; i++)
        g_free(names[i]);
}

/* The error, or "". */
static char *
answer(Fixture *f, int timeout_ms)
{
    District__CkptReply *reply = rig_receive(f->rig, timeout_ms);
    char *error;

    g_assert_nonnull(reply);
    error = g_strdup(reply->error);
    district__ckpt_reply__free_unpacked(reply, NULL);
    return error;
}

/* The next order to engine i is to freeze, or to thaw. */
static void
take_freeze(Fixture *f, int i, bool on, int timeout_ms)
{
    g_autoptr(GError) error = NULL;
    District__JournalOrder *order = (District__JournalOrder *)pbmsg_recv(
        fake_member_link(f->rig->members[i]), &district__journal_order__descriptor, NULL, NULL,
        timeout_ms, &error);

    g_assert_no_error(error);
    g_assert_cmpint(order->m_case, ==, DISTRICT__JOURNAL_ORDER__M_FREEZE);
    g_assert_cmpint(order->freeze->on, ==, on);
    district__journal_order__free_unpacked(order, NULL);
}

static void
say_frozen(Fixture *f, int i)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalFrozen frozen = DISTRICT__JOURNAL_FROZEN__INIT;

    news.m_case = DISTRICT__JOURNAL_NEWS__M_FROZEN;
    news.frozen = &frozen;
    g_assert_true(
        pbmsg_send(fake_member_link(f->rig->members[i]), &news.base, NULL, 0, 1000, NULL));
}

static void
test_one_moment(Fixture *f, gconstpointer data)
{
    ask(f);
    /* The draft is made now, and writes are under way. */
    for (int i = 0; i < N; i++)
        take_freeze(f, i, true, 10000);
    fill(f->fd[0], 8 * SECTOR_BYTES, 3 * SECTOR_BYTES, 'x');
    say_frozen(f, 0);
    g_usleep(300000);
    fill(f->fd[1], BYTES - SECTOR_BYTES, SECTOR_BYTES, 'y');
    say_frozen(f, 1);
    for (int i = 0; i < N; i++)
        take_freeze(f, i, false, 10000);
    g_autofree char *error = answer(f, 10000);
    g_assert_cmpstr(error, ==, "");
    for (int i = 0; i < N; i++)
        assert_same(f->fd[i], f->copy[i]);
}

static void
test_not_again(Fixture *f, gconstpointer data)
{
    g_autofree char *second = NULL;
    District__CkptReply *first;

    ask(f);
    take_freeze(f, 0, true, 10000);
    take_freeze(f, 1, true, 10000);
    ask(f);
    second = answer(f, 10000);
    g_assert_nonnull(strstr(second, "under way"));
    say_frozen(f, 0);
    say_frozen(f, 1);
    first = rig_receive_any(f->rig, 10000);
    g_assert_cmpstr(first->error, ==, "");
    district__ckpt_reply__free_unpacked(first, NULL);
}

static void
test_not_frozen(Fixture *f, gconstpointer data)
{
    g_autofree char *error = NULL, *again = NULL;

    ask(f);
    take_freeze(f, 0, true, 10000);
    take_freeze(f, 1, true, 10000);
    say_frozen(f, 0);
    error = answer(f, 20000);
    g_assert_nonnull(strstr(error, "takes too long"));
    take_freeze(f, 0, false, 1000);
    take_freeze(f, 1, false, 1000);
    /* What comes too late is nothing, and it can be tried again. */
    say_frozen(f, 1);
    ask(f);
    for (int i = 0; i < N; i++) {
        take_freeze(f, i, true, 10000);
        say_frozen(f, i);
    }
    again = answer(f, 10000);
    g_assert_cmpstr(again, ==, "");
}

static void
test_old_engine(Fixture *f, gconstpointer data)
{
    g_autofree char *error = NULL;

    ask(f);
    error = answer(f, 10000);
    g_assert_nonnull(strstr(error, "older release"));
}

static void
test_other_size(Fixture *f, gconstpointer data)
{
    g_autofree char *error = NULL;

    g_assert_cmpint(ftruncate(f->copy[1], BYTES / 2), ==, 0);
    ask(f);
    error = answer(f, 10000);
    g_assert_nonnull(strstr(error, "size"));
}

/* ---- One that nobody has open ---- */

typedef struct Unused {
    char *path;
    int fd;
    int copy;
} Unused;

static void
unused_init(Unused *u, uint64_t copy_bytes)
{
    u->fd = g_file_open_tmp("test-journals-copy-XXXXXX", &u->path, NULL);
    fill(u->fd, 0, BYTES, 'j');
    u->copy = scratch(copy_bytes);
}

static void
unused_clear(Unused *u)
{
    close(u->fd);
    close(u->copy);
    g_assert_cmpint(g_unlink(u->path), ==, 0);
    g_free(u->path);
}

static void
test_unused(void)
{
    g_autoptr(GError) error = NULL;
    Unused u;

    unused_init(&u, BYTES);
    journal_file_copy_unused(u.path, u.copy, &error);
    g_assert_no_error(error);
    assert_same(u.fd, u.copy);
    unused_clear(&u);
}

static void
test_in_use(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    g_autoptr(GError) error = NULL;
    Unused u;

    unused_init(&u, BYTES);
    g_assert_cmpint(fcntl(u.fd, F_OFD_SETLK, &lock), ==, 0);
    g_assert_false(journal_file_copy_unused(u.path, u.copy, &error));
    g_assert_nonnull(strstr(error->message, "in use"));
    unused_clear(&u);
}

static void
test_unused_other_size(void)
{
    g_autoptr(GError) error = NULL;
    Unused u;

    unused_init(&u, 2 * BYTES);
    g_assert_false(journal_file_copy_unused(u.path, u.copy, &error));
    g_assert_nonnull(strstr(error->message, "size"));
    unused_clear(&u);
}

#define ADD(name, function)                                                                        \
    g_test_add("/journals-copy/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("copies have what was written until all journals were frozen", test_one_moment);
    ADD("a second copy is refused while one is made", test_not_again);
    ADD("a journal that does not freeze ends the copy and leaves all thawed", test_not_frozen);
    g_test_add("/journals-copy/an engine that cannot freeze is refused by name", Fixture,
               GINT_TO_POINTER(1), set_up, test_old_engine, tear_down);
    ADD("a file of another size is refused", test_other_size);
    g_test_add_func("/journals-copy/a journal that nobody has open is copied", test_unused);
    g_test_add_func("/journals-copy/a journal that is open to write is not", test_in_use);
    g_test_add_func("/journals-copy/a journal of another size is not", test_unused_other_size);
    return g_test_run();
}
