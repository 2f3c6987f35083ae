/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty logging without KVM: pending sets, the ranges to clear, hostile ring entries. */
#include "common/page.h"
#include "common/pagebits.h"
#include "dirtylog/internal.h"

#include <gio/gio.h>
#include <string.h>

#define RING_ENTRIES 8

/* A source that finds what the test says. */
typedef struct FakeSource {
    gboolean fails;
    uint64_t page; /* found dirty in slot 0 by each collection; UINT64_MAX: none */
} FakeSource;

static gboolean
fake_slot_added(DirtyLog *log, LogSlot *slot, GError **error)
{
    slot->unsafe = g_new0(uint64_t, slot->words);
    return TRUE;
}

static gboolean
fake_collect(DirtyLog *log, GError **error)
{
    FakeSource *fake = log->state;

    if (fake->page != UINT64_MAX)
        pagebits_set(log->slots[0].pending, fake->page);
    if (fake->fails)
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "as wanted");
    return !fake->fails;
}

static const DirtyLogOps fake_ops = {
    .name = "fake",
    .slot_added = fake_slot_added,
    .collect = fake_collect,
    .free = g_free,
};

/* Slot 0 is pages [0, 100), slot 7 pages [100, 300): the border is inside a word. */
static DirtyLog *
fake_log(FakeSource **fake)
{
    const DirtyLogSlot slots[] = {{0, 0, 100}, {7, 100, 200}};
    DirtyLog *log = dirtylog_alloc(-1, -1);
    uint64_t bits[5] = {0};

    *fake = g_new0(FakeSource, 1);
    (*fake)->page = UINT64_MAX;
    log->ops = &fake_ops;
    log->state = *fake;
    g_assert_true(dirtylog_add_slot(log, &slots[0], NULL));
    g_assert_true(dirtylog_add_slot(log, &slots[1], NULL));
    g_assert_true(dirtylog_harvest(log, bits, NULL, NULL));
    return log;
}

static void
test_first_harvest(void)
{
    const DirtyLogSlot slot = {0, 3, 130};
    DirtyLog *log = dirtylog_alloc(-1, -1);
    uint64_t bits[3] = {0};
    uint64_t n;

    log->ops = &fake_ops;
    log->state = g_new0(FakeSource, 1);
    ((FakeSource *)log->state)->page = UINT64_MAX;
    g_assert_true(dirtylog_add_slot(log, &slot, NULL));
    g_assert_true(dirtylog_harvest(log, bits, &n, NULL));
    g_assert_cmpuint(n, ==, 130);
    g_assert_cmphex(bits[0], ==, ~(uint64_t)7);
    g_assert_cmphex(bits[1], ==, ~(uint64_t)0);
    g_assert_cmphex(bits[2], ==, 0x1f);
    dirtylog_free(log);
}

static void
test_mark_across_slots(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    uint64_t bits[5] = {0};
    uint64_t n;

    dirtylog_mark(log, 98, 5);
    g_assert_true(dirtylog_harvest(log, bits, &n, NULL));
    g_assert_cmpuint(n, ==, 5);
    for (uint64_t page = 0; page < 300; page++)
        g_assert_cmpint(pagebits_test(bits, page), ==, page >= 98 && page < 103);
    dirtylog_free(log);
}

static void
test_mark_outside(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    uint64_t bits[5] = {0};
    uint64_t n;

    dirtylog_mark(log, 300, 1000);
    dirtylog_mark(log, UINT64_MAX, UINT64_MAX);
    dirtylog_mark(log, 50, 0);
    g_assert_true(dirtylog_harvest(log, bits, &n, NULL));
    g_assert_cmpuint(n, ==, 0);
    dirtylog_mark(log, 299, UINT64_MAX);
    g_assert_true(dirtylog_harvest(log, bits, &n, NULL));
    g_assert_cmpuint(n, ==, 1);
    dirtylog_free(log);
}

static void
test_harvest_ors(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    uint64_t bits[5] = {0x10};

    dirtylog_mark(log, 0, 1);
    g_assert_true(dirtylog_harvest(log, bits, NULL, NULL));
    g_assert_cmphex(bits[0], ==, 0x11);
    dirtylog_free(log);
}

static void
test_failure_forgets_nothing(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    g_autoptr(GError) error = NULL;
    uint64_t bits[5] = {0};
    uint64_t n;

    fake->fails = TRUE;
    fake->page = 42;
    dirtylog_mark(log, 7, 1);
    g_assert_false(dirtylog_harvest(log, bits, NULL, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_FAILED);
    g_assert_cmpuint(pagebits_count(bits, 5), ==, 0);
    fake->fails = FALSE;
    fake->page = UINT64_MAX;
    g_assert_true(dirtylog_harvest(log, bits, &n, NULL));
    g_assert_cmpuint(n, ==, 2);
    g_assert_true(pagebits_test(bits, 7) && pagebits_test(bits, 42));
    dirtylog_free(log);
}

static void
assert_slot_refused(DirtyLog *log, DirtyLogSlot slot)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(dirtylog_add_slot(log, &slot, &error));
    g_assert_nonnull(error);
}

static void
test_slot_refused(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);

    assert_slot_refused(log, (DirtyLogSlot){1, 300, 0});
    assert_slot_refused(log, (DirtyLogSlot){7, 300, 1});
    assert_slot_refused(log, (DirtyLogSlot){1, UINT64_MAX, 2});
    assert_slot_refused(log, (DirtyLogSlot){1, 0, UINT64_MAX});
    dirtylog_free(log);
}

static void
test_runs(void)
{
    uint64_t scratch[10000] = {0};
    LogSlot slot = {.where = {0, 0, 10000 * 64 - 30}, .words = 10000, .scratch = scratch};
    size_t pos = 0;
    uint64_t first;
    uint32_t count;

    g_assert_false(dirtylog_bitmap_next_run(&slot, &pos, &first, &count));
    scratch[2] = 1;
    scratch[5] = 1;
    scratch[9999] = 1;
    g_assert_true(dirtylog_bitmap_next_run(&slot, &pos, &first, &count));
    g_assert_cmpuint(first, ==, 128);
    g_assert_cmpuint(count, ==, 256);
    g_assert_true(dirtylog_bitmap_next_run(&slot, &pos, &first, &count));
    g_assert_cmpuint(first, ==, 9999 * 64);
    g_assert_cmpuint(count, ==, 34);
    g_assert_false(dirtylog_bitmap_next_run(&slot, &pos, &first, &count));
}

static void
test_long_run_is_cut(void)
{
    g_autofree uint64_t *scratch = g_new(uint64_t, 10000);
    LogSlot slot = {.where = {0, 0, 640000}, .words = 10000, .scratch = scratch};
    uint64_t covered = 0;
    uint64_t first;
    uint32_t count;

    memset(scratch, 0xff, 10000 * sizeof(uint64_t));
    for (size_t pos = 0; dirtylog_bitmap_next_run(&slot, &pos, &first, &count);) {
        g_assert_cmpuint(first, ==, covered);
        g_assert_cmpuint(count, <=, 262144);
        covered += count;
    }
    g_assert_cmpuint(covered, ==, 640000);
}

static uint32_t
collect(DirtyLog *log, DirtyRing *ring, gboolean *odd)
{
    g_autoptr(GError) error = NULL;
    uint32_t n = dirtylog_ring_collect(log, ring, &error);

    *odd = error != NULL;
    return n;
}

static void
test_ring_order(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    struct kvm_dirty_gfn entries[RING_ENTRIES] = {0};
    DirtyRing ring = {.entries = entries, .n_entries = RING_ENTRIES, .next = UINT32_MAX};
    uint64_t bits[5] = {0};
    gboolean odd;

    /* From the last entry over the edge to the first; the third is not published. */
    entries[7] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 0, 1};
    entries[0] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 7, 199};
    entries[2] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 0, 2};
    g_assert_cmpuint(collect(log, &ring, &odd), ==, 2);
    g_assert_false(odd);
    g_assert_cmpuint(ring.next, ==, 1);
    g_assert_cmpuint(entries[7].flags, ==, KVM_DIRTY_GFN_F_RESET);
    g_assert_cmpuint(entries[0].flags, ==, KVM_DIRTY_GFN_F_RESET);
    g_assert_cmpuint(entries[2].flags, ==, KVM_DIRTY_GFN_F_DIRTY);
    g_assert_true(dirtylog_harvest(log, bits, NULL, NULL));
    g_assert_true(pagebits_test(bits, 1) && pagebits_test(bits, 299));
    g_assert_cmpuint(pagebits_count(bits, 5), ==, 2);
    dirtylog_free(log);
}

static void
test_ring_collected_once(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    struct kvm_dirty_gfn entries[RING_ENTRIES];
    DirtyRing ring = {.entries = entries, .n_entries = RING_ENTRIES};
    gboolean odd;

    for (unsigned i = 0; i < RING_ENTRIES; i++)
        entries[i] = (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 0, i};
    g_assert_cmpuint(collect(log, &ring, &odd), ==, RING_ENTRIES);
    g_assert_cmpuint(collect(log, &ring, &odd), ==, 0);
    dirtylog_free(log);
}

static void
test_ring_odd_entries(void)
{
    FakeSource *fake;
    DirtyLog *log = fake_log(&fake);
    const struct kvm_dirty_gfn hostile[] = {
        {KVM_DIRTY_GFN_F_DIRTY, 0, 100},
        {KVM_DIRTY_GFN_F_DIRTY, 0, UINT64_MAX},
        {KVM_DIRTY_GFN_F_DIRTY, 3, 0},
        {KVM_DIRTY_GFN_F_DIRTY, 0x10000, 0},
        {KVM_DIRTY_GFN_F_DIRTY, UINT32_MAX, 200},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(hostile); i++) {
        struct kvm_dirty_gfn entries[RING_ENTRIES] = {hostile[i], {KVM_DIRTY_GFN_F_DIRTY, 0, 5}};
        DirtyRing ring = {.entries = entries, .n_entries = RING_ENTRIES};
        gboolean odd;

        g_assert_cmpuint(collect(log, &ring, &odd), ==, 2);
        g_assert_true(odd);
        g_assert_true(pagebits_test(log->slots[0].pending, 5));
    }
    dirtylog_free(log);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dirtylog/the first harvest reports every page", test_first_harvest);
    g_test_add_func("/dirtylog/a mark may cross slots", test_mark_across_slots);
    g_test_add_func("/dirtylog/a mark outside of all slots is ignored", test_mark_outside);
    g_test_add_func("/dirtylog/a harvest keeps bits that are set", test_harvest_ors);
    g_test_add_func("/dirtylog/a failed harvest forgets nothing", test_failure_forgets_nothing);
    g_test_add_func("/dirtylog/impossible slots are refused", test_slot_refused);
    g_test_add_func("/bitmap/runs to clear are aligned and end with the slot", test_runs);
    g_test_add_func("/bitmap/a long run is cut, without a gap", test_long_run_is_cut);
    g_test_add_func("/ring/entries are taken in order up to an unpublished one", test_ring_order);
    g_test_add_func("/ring/an entry is taken once", test_ring_collected_once);
    g_test_add_func("/ring/odd entries are refused and do not jam", test_ring_odd_entries);
    return g_test_run();
}
