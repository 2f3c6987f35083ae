/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The shadow and its redo logs: half-applied epochs, and damage to what was held. */
#include "writer.h"

#include "ckpt/receive.h"
#include "common/fdmsg.h"
#include "common/memfd.h"
#include "standby/error.h"
#include "standby/keeper.h"
#include "standby/intake.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_PAGES 64

/* What the host seems to have (the linker puts this in place of it). 0: what it has. */
static uint64_t pretended;
uint64_t __real_memory_available(void);
uint64_t __wrap_memory_available(void);

uint64_t
__wrap_memory_available(void)
{
    return pretended != 0 ? pretended : __real_memory_available();
}

typedef struct Fixture {
    Keeper *keeper;
    Intake *intake;
    Receiver *receiver;
    Writer writer;
    uint64_t committed;
    int fds[FDMSG_FDS_MAX];
    guint n_fds;
} Fixture;

static gboolean
on_hold(const int *fds, guint n_fds, uint64_t epoch, uint64_t incarnation, gpointer opaque)
{
    Fixture *f = opaque;

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

/* Feed what the writer has. */
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

/* Committed: epoch 1 of 0x11, then epoch 2 with pages 8 to 15 as 0x22. */
static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    f->keeper = keeper_new("shop", NULL, on_hold, f);
    f->intake = intake_new(f->keeper, on_committed, NULL, f);
    f->receiver = receiver_new(&intake_ops, f->intake);
    writer_init(&f->writer, 2, RAM_PAGES);
    f->writer.version = STREAM_VERSION;
    writer_hello(&f->writer);
    writer_epoch(&f->writer, 1, 0, 0, RAM_PAGES, 0x11);
    writer_epoch(&f->writer, 2, 1, 8, 8, 0x22);
    feed_good(f);
    g_assert_cmpuint(f->committed, ==, 2);
    g_assert_true(shadow_settle(keeper_shadow(f->keeper), 1000, NULL));
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    receiver_free(f->receiver);
    intake_free(f->intake);
    keeper_free(f->keeper);
    writer_clear(&f->writer);
    fdmsg_close_fds(f->fds, f->n_fds);
}

static uint8_t
page_fill(const Shadow *shadow, uint32_t member, uint64_t page)
{
    const uint8_t *data = shadow_ram(shadow)->maps[member] + page * PAGE_BYTES;

    g_assert_cmpmem(data, PAGE_BYTES - 1, data + 1, PAGE_BYTES - 1);
    return data[0];
}

/* What is held after the process is gone; the caller maps and harms it. */
static Ledger *
crash(Fixture *f)
{
    shadow_free(keeper_take(f->keeper));
    return memfd_map(f->fds[0], memfd_size(f->fds[0]), TRUE, NULL);
}

static void
test_half_applied(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;
    Ledger *ledger = crash(f);
    uint8_t *ram = memfd_map(f->fds[SHADOW_FDS_EXTRA], RAM_PAGES * PAGE_BYTES, TRUE, NULL);

    /* As if killed in the middle of copying page 9. */
    ledger->applied = 1;
    memset(ram + 9 * PAGE_BYTES + 100, 0x11, 7 * PAGE_BYTES - 100);
    munmap(ram, RAM_PAGES * PAGE_BYTES);
    shadow = shadow_adopt(NULL, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 2);
    for (uint64_t page = 0; page < RAM_PAGES; page++)
        g_assert_cmpuint(page_fill(shadow, 0, page), ==, page >= 8 && page < 16 ? 0x22 : 0x11);
    ledger_unmap(ledger);
}

static void
test_two_to_apply(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;
    Ledger *ledger;

    writer_epoch(&f->writer, 5, 2, 10, 2, 0);
    feed_good(f);
    g_assert_true(shadow_settle(keeper_shadow(f->keeper), 1000, NULL));
    ledger = crash(f);
    ledger->applied = 1;
    shadow = shadow_adopt(NULL, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 5);
    g_assert_cmpuint(page_fill(shadow, 1, 9), ==, 0x22);
    g_assert_cmpuint(page_fill(shadow, 1, 10), ==, 0);
    g_assert_cmpuint(page_fill(shadow, 1, 12), ==, 0x22);
    ledger_unmap(ledger);
}

static void
test_half_received(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Shadow) shadow = NULL;

    writer_begin(&f->writer, 3, 2);
    writer_page(&f->writer, 0, 0, 0x33);
    writer_state(&f->writer);
    feed_good(f);
    g_assert_cmpuint(page_fill(keeper_shadow(f->keeper), 0, 0), ==, 0x11);
    ledger_unmap(crash(f));
    shadow = shadow_adopt(NULL, f->fds, f->n_fds, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(shadow_committed(shadow), ==, 2);
    g_assert_cmpuint(page_fill(shadow, 0, 0), ==, 0x11);
}

static void
test_adopted_goes_on(Fixture *f, gconstpointer data)
{
    Shadow *shadow;

    ledger_unmap(crash(f));
    shadow = shadow_adopt(NULL, f->fds, f->n_fds, NULL);
    g_assert_nonnull(shadow);
    keeper_put(f->keeper, shadow);
    for (uint64_t epoch = 3; epoch < 10; epoch++) {
        writer_epoch(&f->writer, epoch, epoch - 1, epoch, 1, (uint8_t)epoch);
        feed_good(f);
    }
    g_assert_true(shadow_settle(shadow, 1000, NULL));
    g_assert_cmpuint(page_fill(shadow, 0, 9), ==, 9);
    g_assert_cmpuint(page_fill(shadow, 0, 10), ==, 0x22);
}

static void
test_every_ledger_byte(Fixture *f, gconstpointer data)
{
    Ledger *ledger = crash(f);
    uint8_t *bytes = (uint8_t *)ledger;
    size_t used = sizeof *ledger + 2 * sizeof(LedgerMember);

    for (size_t at = 0; at < used; at++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Shadow) shadow = NULL;

        bytes[at] ^= 1;
        shadow = shadow_adopt(NULL, f->fds, f->n_fds, &error);
        /* Bytes of the free slot do not matter; all else is refused or gives the same state. */
        if (shadow != NULL) {
            g_assert_cmpuint(shadow_committed(shadow), ==, 2);
            g_assert_cmpuint(page_fill(shadow, 0, 8), ==, 0x22);
            g_assert_true(at >= G_STRUCT_OFFSET(Ledger, commit));
        } else {
            g_assert_nonnull(error);
        }
        bytes[at] ^= 1;
    }
    ledger_unmap(ledger);
}

static void
test_damaged_log(Fixture *f, gconstpointer data)
{
    Ledger *ledger = crash(f);
    int log_fd = f->fds[1 + (ledger->commit & 1)];
    uint8_t *log = memfd_map(log_fd, memfd_size(log_fd), TRUE, NULL);
    size_t size = memfd_size(log_fd);

    /* The head and table of the first entry: 24 bytes and 8 pages. */
    for (size_t at = 0; at < 24 + 8 * 8; at++) {
        g_autoptr(GError) error = NULL;

        log[at] ^= 0x80;
        g_assert_null(shadow_adopt(NULL, f->fds, f->n_fds, &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
        log[at] ^= 0x80;
    }
    munmap(log, size);
    g_assert_cmpint(ftruncate(log_fd, 100), ==, 0);
    g_assert_null(shadow_adopt(NULL, f->fds, f->n_fds, NULL));
    ledger_unmap(ledger);
}

static void
test_wrong_descriptors(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int swapped[FDMSG_FDS_MAX];

    ledger_unmap(crash(f));
    for (guint n = 0; n < f->n_fds; n++) {
        g_assert_null(shadow_adopt(NULL, f->fds, n, &error));
        g_clear_error(&error);
    }
    memcpy(swapped, f->fds, sizeof swapped);
    swapped[SHADOW_FDS_EXTRA] = f->fds[1]; /* a log for a RAM image */
    g_assert_null(shadow_adopt(NULL, swapped, f->n_fds, &error));
    g_assert_nonnull(strstr(error->message, "RAM image"));
}

static void
test_log_limit(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    /* One more time each page than a log of this RAM has room for, counting its state. */
    writer_begin(&f->writer, 3, 2);
    for (unsigned i = 0; feed(f, &error) && i < 4096; i++) {
        PageRef refs[RAM_PAGES];
        uint8_t page[PAGE_BYTES];

        memset(page, 1 + i % 250, sizeof page);
        for (unsigned p = 0; p < RAM_PAGES; p++)
            refs[p] = (PageRef){p, page};
        writer_pages(&f->writer, 0, refs, RAM_PAGES);
    }
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT);
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_FULL);
    g_assert_cmpuint(shadow_committed(keeper_shadow(f->keeper)), ==, 2);
}

/* Memory runs out in the middle of a full epoch. */
static void
test_full_epoch_out_of_memory(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    Shadow *before = keeper_shadow(f->keeper);

    writer_begin(&f->writer, 3, 0);
    feed_good(f);
    pretended = (uint64_t)32 << 20;
    for (unsigned i = 0; feed(f, &error) && i < 8192; i++)
        writer_page(&f->writer, 0, i % RAM_PAGES, 0x33);
    pretended = 0;
    g_assert_error(error, STANDBY_ERROR, STANDBY_FULL);
    g_assert_true(keeper_shadow(f->keeper) == before);
    g_assert_cmpuint(shadow_committed(before), ==, 2);
    g_assert_cmpuint(page_fill(before, 0, 8), ==, 0x22);
}

/* A stream of pages that change in one word, whose epochs come faster than they are applied. */
static void
stream_deltas(Fixture *f, uint8_t page[PAGE_BYTES], uint64_t first, uint64_t last)
{
    for (uint64_t epoch = first; epoch <= last; epoch++) {
        PageRef refs[RAM_PAGES];

        page[epoch % PAGE_BYTES] ^= 0x5a;
        for (uint64_t p = 0; p < RAM_PAGES; p++)
            refs[p] = (PageRef){p, page};
        writer_begin(&f->writer, epoch, epoch - 1);
        writer_pages(&f->writer, 0, refs, epoch % 2 == 0 ? RAM_PAGES : RAM_PAGES / 2);
        writer_pages(&f->writer, 1, refs, RAM_PAGES);
        writer_state(&f->writer);
        writer_end(&f->writer);
    }
}

static void
test_deltas(Fixture *f, gconstpointer data)
{
    Shadow *shadow = keeper_shadow(f->keeper);
    uint8_t page[PAGE_BYTES] = {1};

    writer_remember(&f->writer);
    stream_deltas(f, page, 3, 40);
    g_assert_cmpuint(f->writer.stats.delta, >, 30 * RAM_PAGES);
    g_assert_cmpuint(f->writer.stats.duplicate, >, 0);
    feed_good(f);
    g_assert_cmpuint(f->committed, ==, 40);
    g_assert_true(shadow_settle(shadow, 1000, NULL));
    for (uint64_t p = 0; p < RAM_PAGES; p++) {
        g_assert_cmpmem(shadow_ram(shadow)->maps[0] + p * PAGE_BYTES, PAGE_BYTES, page, PAGE_BYTES);
        g_assert_cmpmem(shadow_ram(shadow)->maps[1] + p * PAGE_BYTES, PAGE_BYTES, page, PAGE_BYTES);
    }
}

/* The primary takes it that the standby has something else than it has. */
static void
test_delta_against_other(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    Shadow *shadow = keeper_shadow(f->keeper);
    uint8_t page[PAGE_BYTES] = {1};

    writer_remember(&f->writer);
    stream_deltas(f, page, 3, 6);
    feed_good(f);
    g_assert_true(shadow_settle(shadow, 1000, NULL));
    memset(shadow_ram(shadow)->maps[1] + 5 * PAGE_BYTES + 2000, 0x77, 1);
    /* Its epoch 6 is still in a log, where epoch 7 finds it; not so the one after. */
    stream_deltas(f, page, 7, 7);
    feed_good(f);
    g_assert_true(shadow_settle(shadow, 1000, NULL));
    memset(shadow_ram(shadow)->maps[0] + 60 * PAGE_BYTES + 2000, 0x77, 1);
    stream_deltas(f, page, 8, 8);
    g_assert_false(feed(f, &error));
    g_assert_nonnull(strstr(error->message, "do not fit what is held here"));
    g_assert_cmpint(standby_error_code(error), ==, STANDBY_DAMAGED);
    g_assert_cmpuint(shadow_committed(shadow), ==, 7);
}

#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/shadow/an epoch half applied is applied again", test_half_applied);
    ADD("/shadow/two epochs not applied are applied in order", test_two_to_apply);
    ADD("/shadow/an epoch half received is gone", test_half_received);
    ADD("/shadow/an adopted one goes on", test_adopted_goes_on);
    ADD("/shadow/a ledger with any byte changed is refused or harmless", test_every_ledger_byte);
    ADD("/shadow/a damaged log is refused", test_damaged_log);
    ADD("/shadow/missing and swapped descriptors are refused", test_wrong_descriptors);
    ADD("/shadow/an epoch that outgrows the RAM is refused", test_log_limit);
    ADD("/shadow/a full epoch for which memory runs out is refused and the old state kept",
        test_full_epoch_out_of_memory);
    ADD("/shadow/deltas find the newest content, applied or not", test_deltas);
    ADD("/shadow/deltas against something else are refused with their epoch",
        test_delta_against_other);
    return g_test_run();
}
