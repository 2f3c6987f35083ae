/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty logging without KVM: pending sets, the ranges to clear, hostile ring entries. */
#include "common/page.h"
#include "common/pagebits.h"
#include "dirtylog/internal.h"

#include <errno.h>
#include <gio/gio.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* ---- Resets that KVM stops half-way ---- */

#define KVM_RING_ENTRIES 256 /* a page of them */
#define ANSWERS_MAX 4

/* KVM's side of one ring: what it publishes, and what it answers to KVM_RESET_DIRTY_RINGS. */
typedef struct FakeKvm {
    DirtyLog *log;
    int vcpu_fd;
    struct kvm_dirty_gfn *entries;
    unsigned published;
    struct {
        int n, error;
    } answers[ANSWERS_MAX];
    unsigned n_answers, asked;
} FakeKvm;

static FakeKvm *the_kvm;

/* As told, then all that is left: more than ever is unreset. */
static int
fake_reset(DirtyLog *log)
{
    FakeKvm *kvm = the_kvm;

    if (kvm->asked++ >= kvm->n_answers)
        return INT_MAX;
    errno = kvm->answers[kvm->asked - 1].error;
    return kvm->answers[kvm->asked - 1].n;
}

static void
kvm_answers(FakeKvm *kvm, int n, int error)
{
    g_assert_cmpuint(kvm->n_answers, <, ANSWERS_MAX);
    kvm->answers[kvm->n_answers].n = n;
    kvm->answers[kvm->n_answers].error = error;
    kvm->n_answers++;
}

/* One slot of 300 pages, one vCPU; the first harvest is done. */
static FakeKvm *
kvm_new(void)
{
    const DirtyLogSlot slot = {0, 0, 300};
    FakeKvm *kvm = g_new0(FakeKvm, 1);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t bits[5] = {0};

    the_kvm = kvm;
    kvm->vcpu_fd = memfd_create("vcpu", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(kvm->vcpu_fd, (off_t)((KVM_DIRTY_LOG_PAGE_OFFSET + 1) * page)), ==,
                    0);
    kvm->entries = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, kvm->vcpu_fd,
                        (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * page));
    g_assert_true(kvm->entries != MAP_FAILED);
    kvm->log = dirtylog_alloc(-1, -1);
    dirtylog_ring_init(kvm->log, KVM_RING_ENTRIES, fake_reset);
    g_assert_true(dirtylog_add_slot(kvm->log, &slot, NULL));
    g_assert_true(dirtylog_add_vcpu(kvm->log, kvm->vcpu_fd, NULL));
    g_assert_true(dirtylog_harvest(kvm->log, bits, NULL, NULL));
    kvm->asked = 0;
    return kvm;
}

static void
kvm_free(FakeKvm *kvm)
{
    dirtylog_free(kvm->log);
    munmap(kvm->entries, (size_t)sysconf(_SC_PAGESIZE));
    close(kvm->vcpu_fd);
    g_free(kvm);
}

static void
kvm_publish(FakeKvm *kvm, uint64_t page)
{
    kvm->entries[kvm->published++ % KVM_RING_ENTRIES] =
        (struct kvm_dirty_gfn){KVM_DIRTY_GFN_F_DIRTY, 0, page};
}

/* The pages that the next harvest reports, as "1 2 3"; or the error. */
static char *
kvm_harvest(FakeKvm *kvm)
{
    g_autoptr(GString) pages = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    uint64_t bits[5] = {0};

    if (!dirtylog_harvest(kvm->log, bits, NULL, &error))
        return g_strdup(error->message);
    for (uint64_t page = 0; page < 300; page++) {
        if (pagebits_test(bits, page))
            g_string_append_printf(pages, "%s%u", pages->len ? " " : "", (unsigned)page);
    }
    return g_string_free(g_steal_pointer(&pages), FALSE);
}

static void
assert_harvest(FakeKvm *kvm, const char *want)
{
    g_autofree char *got = kvm_harvest(kvm);

    g_assert_cmpstr(got, ==, want);
}

static void
test_whole_reset_is_trusted(void)
{
    FakeKvm *kvm = kvm_new();

    kvm_publish(kvm, 5);
    kvm_publish(kvm, 200);
    assert_harvest(kvm, "5 200");
    g_assert_cmpuint(kvm->asked, ==, 1);
    assert_harvest(kvm, "");
    g_assert_cmpuint(kvm->asked, ==, 1); /* nothing to reset */
    kvm_free(kvm);
}

/* Which of its pages it protected is not known: all are reported from then on. */
static void
test_partial_reset_is_distrusted(void)
{
    FakeKvm *kvm = kvm_new();

    kvm_answers(kvm, 1, 0);
    kvm_answers(kvm, 2, 0);
    for (uint64_t page = 10; page < 13; page++)
        kvm_publish(kvm, page);
    assert_harvest(kvm, "10 11 12");
    g_assert_cmpuint(kvm->asked, ==, 2);
    assert_harvest(kvm, "10 11 12");
    kvm_publish(kvm, 20);
    assert_harvest(kvm, "10 11 12 20");
    assert_harvest(kvm, "10 11 12"); /* that reset was whole */
    kvm_free(kvm);
}

/* A page that shows in a ring again has been protected, and is reset anew. */
static void
test_seen_again_is_trusted(void)
{
    FakeKvm *kvm = kvm_new();

    kvm_answers(kvm, 1, 0);
    kvm_answers(kvm, 1, 0);
    kvm_publish(kvm, 10);
    kvm_publish(kvm, 11);
    assert_harvest(kvm, "10 11");
    kvm_publish(kvm, 10);
    assert_harvest(kvm, "10 11");
    assert_harvest(kvm, "11");
    kvm_publish(kvm, 11);
    assert_harvest(kvm, "11");
    assert_harvest(kvm, "");
    /* And is distrusted again if that reset is not whole either. */
    kvm->asked = kvm->n_answers = 0;
    kvm_answers(kvm, 0, 0);
    kvm_publish(kvm, 10);
    assert_harvest(kvm, "10");
    assert_harvest(kvm, "10");
    kvm_free(kvm);
}

static void
test_interrupted_reset_is_distrusted(void)
{
    FakeKvm *kvm = kvm_new();

    kvm_answers(kvm, -1, EINTR);
    kvm_answers(kvm, -1, EAGAIN);
    kvm_publish(kvm, 7);
    assert_harvest(kvm, "7");
    g_assert_cmpuint(kvm->asked, ==, 3);
    assert_harvest(kvm, "7");
    kvm_free(kvm);
}

/* What a failed reset left is still to be reset by the next one, and its pages are not lost. */
static void
test_failed_reset_is_made_up_for(void)
{
    FakeKvm *kvm = kvm_new();
    g_autofree char *failed = NULL;

    kvm_answers(kvm, -1, EIO);
    kvm_answers(kvm, 1, 0);
    kvm_publish(kvm, 30);
    kvm_publish(kvm, 31);
    failed = kvm_harvest(kvm);
    g_assert_nonnull(strstr(failed, "KVM_RESET_DIRTY_RINGS"));
    assert_harvest(kvm, "30 31"); /* one entry of the two, then the rest, without a new entry */
    g_assert_cmpuint(kvm->asked, ==, 3);
    assert_harvest(kvm, "30 31");
    g_assert_cmpuint(kvm->asked, ==, 3);
    kvm_free(kvm);
}

static int
reset_nothing(DirtyLog *log)
{
    return 0;
}

static void
test_reset_that_does_nothing_fails(void)
{
    FakeKvm *kvm = kvm_new();
    g_autofree char *failed = NULL;
    const DirtyLogSlot slot = {0, 0, 300};

    dirtylog_free(kvm->log);
    kvm->log = dirtylog_alloc(-1, -1);
    dirtylog_ring_init(kvm->log, KVM_RING_ENTRIES, reset_nothing);
    g_assert_true(dirtylog_add_slot(kvm->log, &slot, NULL));
    g_assert_true(dirtylog_add_vcpu(kvm->log, kvm->vcpu_fd, NULL));
    kvm_publish(kvm, 1);
    kvm_publish(kvm, 2);
    failed = kvm_harvest(kvm);
    g_assert_nonnull(strstr(failed, "left 2 pages unprotected"));
    kvm_free(kvm);
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
    g_test_add_func("/ring/a whole reset is trusted", test_whole_reset_is_trusted);
    g_test_add_func("/ring/pages of a partial reset are reported with every harvest",
                    test_partial_reset_is_distrusted);
    g_test_add_func("/ring/a page seen in a ring again is trusted", test_seen_again_is_trusted);
    g_test_add_func("/ring/pages of an interrupted reset are reported with every harvest",
                    test_interrupted_reset_is_distrusted);
    g_test_add_func("/ring/a failed reset is made up for", test_failed_reset_is_made_up_for);
    g_test_add_func("/ring/a reset that does nothing fails", test_reset_that_does_nothing_fails);
    return g_test_run();
}
