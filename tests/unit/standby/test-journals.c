/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journals that a stream brings to a standby. */
#include "standby/journals.h"

#include "ckpt/layout.h"
#include "standby/error.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

#define BYTES JOURNAL_BYTES_MIN
#define LIMIT_US (10 * G_USEC_PER_SEC)

typedef struct Fixture {
    char *dir;
    Journals *journals;
    uint64_t seq;
    GMutex lock; /* guards durable */
    uint64_t durable;
} Fixture;

static void
on_durable(uint64_t seq, gpointer opaque)
{
    Fixture *f = opaque;

    g_mutex_lock(&f->lock);
    g_assert_cmpuint(seq, >, f->durable);
    f->durable = seq;
    g_mutex_unlock(&f->lock);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("test-journals-XXXXXX", NULL);
    g_mutex_init(&f->lock);
    f->journals = journals_new(f->dir, on_durable, f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);

    g_clear_pointer(&f->journals, journals_free);
    g_assert_true(journals_wait_ended(10000));
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_mutex_clear(&f->lock);
}

/* Another stream of the same primary. */
static void
connect_again(Fixture *f)
{
    journals_free(f->journals);
    f->journals = journals_new(f->dir, on_durable, f);
    f->seq = 0;
    f->durable = 0;
}

static gboolean
push(Fixture *f, District__StreamJournal *record, GError **error)
{
    gboolean taken;

    record->seq = f->seq + 1;
    g_assert_true(layout_check_journal(record, NULL));
    taken = journals_push(f->journals, record, error);
    f->seq += taken ? 1 : 0;
    return taken;
}

static gboolean
begin(Fixture *f, const char *member, uint64_t size, GError **error)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN;
    record.member = (char *)member;
    record.size = size;
    return push(f, &record, error);
}

static gboolean
data_at(Fixture *f, const char *member, uint64_t sector, uint8_t fill, GError **error)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;
    uint8_t bytes[SECTOR_BYTES];

    memset(bytes, fill, sizeof bytes);
    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA;
    record.member = (char *)member;
    record.offset = sector * SECTOR_BYTES;
    record.data.data = bytes;
    record.data.len = sizeof bytes;
    return push(f, &record, error);
}

static gboolean
publish(Fixture *f, GError **error)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH;
    return push(f, &record, error);
}

/* All that has been pushed is durable. */
static void
wait_durable(Fixture *f)
{
    gint64 limit = g_get_monotonic_time() + LIMIT_US;

    for (;;) {
        g_mutex_lock(&f->lock);
        bool done = f->durable == f->seq;
        g_mutex_unlock(&f->lock);
        if (done)
            return;
        g_assert_true(journals_good(f->journals, NULL));
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(500);
    }
}

/* A byte of a journal, -1 if there is no such file. */
static int
byte_of(Fixture *f, const char *member, uint64_t sector)
{
    g_autofree char *name = journals_file_name(member);
    g_autofree char *path = g_build_filename(f->dir, name, NULL);
    g_autofree char *content = NULL;
    gsize len;

    if (!g_file_get_contents(path, &content, &len, NULL))
        return -1;
    g_assert_cmpuint(len, ==, BYTES);
    return (uint8_t)content[sector * SECTOR_BYTES];
}

static guint
files_in(const Fixture *f)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    guint n = 0;

    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

static void
copy(Fixture *f, uint8_t fill)
{
    g_assert_true(begin(f, "db", BYTES, NULL));
    g_assert_true(data_at(f, "db", 3, fill, NULL));
    g_assert_true(publish(f, NULL));
    wait_durable(f);
}

static void
test_copy_and_writes(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->dir, "journal-db.img", NULL);
    struct stat st;

    g_assert_true(begin(f, "db", BYTES, NULL));
    g_assert_true(begin(f, "app", BYTES, NULL));
    g_assert_true(data_at(f, "db", 3, 0x33, NULL));
    wait_durable(f);
    g_assert_cmpint(byte_of(f, "db", 3), ==, -1);
    g_assert_true(publish(f, NULL));
    wait_durable(f);
    g_assert_cmpint(byte_of(f, "db", 3), ==, 0x33);
    g_assert_cmpint(byte_of(f, "db", 4), ==, 0);
    g_assert_cmpint(byte_of(f, "app", 3), ==, 0);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    g_assert_true(data_at(f, "db", 3, 0x44, NULL));
    g_assert_true(data_at(f, "db", 3, 0x55, NULL));
    g_assert_true(data_at(f, "app", BYTES / SECTOR_BYTES - 1, 0x66, NULL));
    wait_durable(f);
    g_assert_cmpint(byte_of(f, "db", 3), ==, 0x55);
    g_assert_cmpint(byte_of(f, "app", BYTES / SECTOR_BYTES - 1), ==, 0x66);
    g_assert_cmpuint(files_in(f), ==, 2);
}

/* The journal of before is whole until the new one is. */
static void
test_unfinished_copy(Fixture *f, gconstpointer data)
{
    copy(f, 0x11);
    connect_again(f);
    g_assert_true(begin(f, "db", BYTES, NULL));
    g_assert_true(data_at(f, "db", 3, 0x22, NULL));
    wait_durable(f);
    g_assert_cmpint(byte_of(f, "db", 3), ==, 0x11);
    g_assert_cmpuint(files_in(f), ==, 2);
    connect_again(f);
    copy(f, 0x33);
    g_assert_cmpint(byte_of(f, "db", 3), ==, 0x33);
    g_assert_cmpuint(files_in(f), ==, 1);
}

static void
assert_refused(gboolean taken, GError *const *error, const char *word)
{
    g_assert_false(taken);
    g_assert_error(*error, STANDBY_ERROR, (int)STANDBY_DAMAGED);
    g_assert_nonnull(strstr((*error)->message, word));
}

static void
test_refusals(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) early = NULL, beyond = NULL, foreign = NULL, twice = NULL, late = NULL,
                      again = NULL;

    assert_refused(data_at(f, "db", 0, 1, &early), &early, "no copy of the journal");
    g_assert_true(begin(f, "db", BYTES, NULL));
    assert_refused(data_at(f, "db", BYTES / SECTOR_BYTES, 1, &beyond), &beyond, "beyond the end");
    assert_refused(data_at(f, "app", 0, 1, &foreign), &foreign, "member app");
    assert_refused(begin(f, "db", BYTES, &twice), &twice, "copied already");
    g_assert_true(publish(f, NULL));
    assert_refused(begin(f, "app", BYTES, &late), &late, "copied already");
    assert_refused(publish(f, &again), &again, "copied already");
}

static void
test_no_directory(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    journals_free(f->journals);
    f->journals = journals_new(NULL, on_durable, f);
    g_assert_false(begin(f, "db", BYTES, &error));
    g_assert_nonnull(strstr(error->message, "--disk-dir"));
}

/* A file system that takes no more, as far as a test can make one. */
static void
test_failure_is_told(Fixture *f, gconstpointer data)
{
    g_autofree char *gone = g_build_filename(f->dir, "not", "there", NULL);
    gint64 limit = g_get_monotonic_time() + LIMIT_US;
    g_autoptr(GError) error = NULL;

    journals_free(f->journals);
    f->journals = journals_new(gone, on_durable, f);
    g_assert_true(begin(f, "db", BYTES, NULL));
    while (journals_good(f->journals, &error)) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(500);
    }
    g_assert_nonnull(strstr(error->message, gone));
    g_assert_false(data_at(f, "db", 0, 1, NULL));
    g_assert_cmpuint(f->durable, ==, 0);
}

#define ADD(name, function)                                                                        \
    g_test_add("/journals/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("a copy and what follows it are written in order and acknowledged", test_copy_and_writes);
    ADD("a copy that is not finished leaves the journal as it was", test_unfinished_copy);
    ADD("records out of range or order are refused", test_refusals);
    ADD("without a directory journals are refused", test_no_directory);
    ADD("what cannot be written is told and not acknowledged", test_failure_is_told);
    return g_test_run();
}
