/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty logging against a running guest. The method: a shadow copy of RAM takes only pages that a
 * harvest reported. Whenever the vCPUs are out and one more harvest is in, shadow and RAM must be
 * equal byte for byte; a page that any harvest missed stays different.
 *
 * Needs /dev/kvm. argv: path of the tiny guest.
 */
#include "check.h"
#include "common/pagebits.h"
#include "rawvm.h"

#include <gio/gio.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS pagebits_words(RAWVM_RAM_PAGES)
#define WAIT_US (30 * G_USEC_PER_SEC) /* machines may be busy */
#define RING_WAIT_US (120 * G_USEC_PER_SEC)
/*
 * Guest work for one and for two vCPUs, 3000 pages over both memslots. Ring tests work in ring 3,
 * which runs natively everywhere: a KVM that emulates ring 0 logs each store and overruns the ring.
 */
#define WORK " pages=3000 dirty=200 report=0 pattern=random"

#define FAST " report=0 op=touch pattern=random ring=3"
/* Room for what the boot of the tiny guest writes in ring 0; less than half of 20000 pages. */
#define SMALL_RING 8192

static const char *elf_path;

typedef struct Shadow {
    RawVm *vm;
    uint8_t *copy;
    uint64_t *bits;
    uint64_t reported; /* pages, all harvests */
} Shadow;

static void
shadow_init(Shadow *shadow, RawVm *vm)
{
    *shadow = (Shadow){.vm = vm};
    shadow->copy = g_malloc0(RAWVM_RAM_BYTES);
    shadow->bits = g_new0(uint64_t, WORDS);
}

static void
shadow_clear(Shadow *shadow)
{
    g_free(shadow->copy);
    g_free(shadow->bits);
}

static uint64_t
shadow_harvest(Shadow *shadow)
{
    g_autoptr(GError) error = NULL;
    uint64_t n = 0;

    dirtylog_harvest(rawvm_log(shadow->vm), shadow->bits, &n, &error);
    g_assert_no_error(error);
    shadow->reported += n;
    return n;
}

static void
shadow_copy(Shadow *shadow)
{
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t word = pagebits_take_word(shadow->bits, i);

        for (; word != 0; word &= word - 1) {
            size_t at = (i * 64 + (size_t)__builtin_ctzll(word)) * 4096;
            memcpy(shadow->copy + at, rawvm_ram(shadow->vm) + at, 4096);
        }
    }
}

/* First page that differs, or -1. */
static int64_t
shadow_compare(const Shadow *shadow)
{
    for (uint64_t i = 0; i < RAWVM_RAM_PAGES; i++)
        if (memcmp(shadow->copy + i * 4096, rawvm_ram(shadow->vm) + i * 4096, 4096) != 0)
            return (int64_t)i;
    return -1;
}

/* Stop the guest, harvest the rest, compare, go on. */
static void
shadow_verify(Shadow *shadow)
{
    rawvm_pause(shadow->vm);
    shadow_harvest(shadow);
    shadow_copy(shadow);
    g_assert_cmpint(shadow_compare(shadow), ==, -1);
    rawvm_resume(shadow->vm);
}

static RawVm *
vm_start(unsigned n_vcpus, DirtyLogSource source, uint32_t ring_entries, const char *options)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *line = g_strdup_printf("cpus=%u%s", n_vcpus, options);
    RawVmConfig config = {.n_vcpus = n_vcpus,
                          .source = source,
                          .ring_entries = ring_entries,
                          .elf = elf_path,
                          .command_line = line};
    RawVm *vm = rawvm_new(&config, &error);

    g_assert_no_error(error);
    rawvm_resume(vm);
    return vm;
}

static gboolean
wait_for_output(RawVm *vm, const char *text)
{
    gint64 end = g_get_monotonic_time() + WAIT_US;

    while (g_get_monotonic_time() < end) {
        g_autofree char *output = rawvm_output(vm);

        if (strstr(output, text))
            return TRUE;
        g_usleep(2000);
    }
    return FALSE;
}

/* Wait, vCPUs running, until each CPU has got on by so many rounds; and no error line was printed.
 */
static void
assert_progress(RawVm *vm, unsigned n_vcpus, uint64_t rounds)
{
    const GuestImage image = {.low = rawvm_ram(vm), .low_bytes = RAWVM_RAM_BYTES};
    gint64 end = g_get_monotonic_time() + WAIT_US;
    g_autofree char *output = NULL;

    for (unsigned cpu = 0; cpu < n_vcpus; cpu++) {
        ChainPos start = {0};
        ChainPos pos = {0};

        guest_image_position(&image, cpu, &start, NULL);
        while (pos.round < start.round + rounds && g_get_monotonic_time() < end) {
            g_usleep(1000);
            guest_image_position(&image, cpu, &pos, NULL);
        }
        g_assert_cmpuint(pos.round, >=, start.round + rounds);
    }
    output = rawvm_output(vm);
    g_assert_null(strstr(output, "error"));
}

typedef struct Case {
    const char *name;
    DirtyLogSource source;
    unsigned n_vcpus;
    uint32_t ring_entries;
    const char *options;
} Case;

static void
test_no_page_missed(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(c->n_vcpus, c->source, c->ring_entries, c->options);
    Shadow shadow;

    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "ready"));
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < 10; i++) {
            shadow_harvest(&shadow);
            shadow_copy(&shadow);
            g_usleep(round % 4 * 500);
        }
        shadow_verify(&shadow);
    }
    assert_progress(vm, c->n_vcpus, 4);
    shadow_verify(&shadow);
    g_assert_cmpuint(shadow.reported, >, RAWVM_RAM_PAGES + 100);
    shadow_clear(&shadow);
}

static void
test_first_harvest(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(1, c->source, 0, " op=halt");
    Shadow shadow;

    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "ready"));
    rawvm_pause(vm);
    g_assert_cmpuint(shadow_harvest(&shadow), ==, RAWVM_RAM_PAGES);
    g_assert_cmpuint(pagebits_count(shadow.bits, WORDS), ==, RAWVM_RAM_PAGES);
    g_assert_cmpuint(shadow_harvest(&shadow), ==, 0);
    shadow_clear(&shadow);
}

/* Exactly the pages written are reported, not more: header, working set and a few of the guest's
 * own. */
static void
test_exact(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(
        1, c->source, 0, " pages=1000 dirty=1000 pattern=seq rounds=2 delay=200000 ring=3");
    Shadow shadow;
    uint64_t n;

    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "round=1 "));
    shadow_verify(&shadow);
    g_assert_true(wait_for_output(vm, "done"));
    rawvm_pause(vm);
    n = shadow_harvest(&shadow);
    g_assert_cmpuint(n, >=, 1001);
    g_assert_cmpuint(n, <, 1020);
    shadow_copy(&shadow);
    g_assert_cmpint(shadow_compare(&shadow), ==, -1);
    shadow_clear(&shadow);
}

/* The method can fail: pages of one harvest are dropped, and the comparison notices. */
static void
test_dropped_harvest(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm =
        vm_start(1, c->source, 0, " pages=20000 dirty=100 report=0 pattern=seq ring=3");
    Shadow shadow;

    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "ready"));
    shadow_verify(&shadow);
    assert_progress(vm, 1, 2);
    rawvm_pause(vm);
    g_assert_cmpuint(shadow_harvest(&shadow), >, 100);
    memset(shadow.bits, 0, WORDS * sizeof(uint64_t));
    rawvm_resume(vm);
    g_usleep(2000);
    rawvm_pause(vm);
    shadow_harvest(&shadow);
    shadow_copy(&shadow);
    g_assert_cmpint(shadow_compare(&shadow), >=, 0);
    shadow_clear(&shadow);
}

typedef struct Writer {
    RawVm *vm;
    gboolean mark;
    gint stop;
} Writer;

/* Pages 7200 up to the end of RAM are nobody else's. */
static void *
writer_thread(void *opaque)
{
    Writer *writer = opaque;
    guint32 x = 1;

    while (!g_atomic_int_get(&writer->stop)) {
        uint64_t page;

        x = x * 1664525 + 1013904223;
        page = 7200 + (x >> 16) % (RAWVM_RAM_PAGES - 7200 - 1);
        memcpy(rawvm_ram(writer->vm) + page * 4096 + 4094, &x, 4);
        if (writer->mark)
            dirtylog_mark(rawvm_log(writer->vm), page, 2);
        if (x % 16 == 0)
            g_usleep(20);
    }
    return NULL;
}

static int64_t
run_with_writer(const Case *c, gboolean mark)
{
    g_autoptr(RawVm) vm = vm_start(1, c->source, c->ring_entries, WORK " ring=3");
    Writer writer = {.vm = vm, .mark = mark};
    Shadow shadow;
    pthread_t thread;
    int64_t differs;

    shadow_init(&shadow, vm);
    shadow_verify(&shadow);
    pthread_create(&thread, NULL, writer_thread, &writer);
    for (unsigned i = 0; i < 100; i++) {
        shadow_harvest(&shadow);
        shadow_copy(&shadow);
        g_usleep(1000);
    }
    g_atomic_int_set(&writer.stop, 1);
    pthread_join(thread, NULL);
    rawvm_pause(vm);
    shadow_harvest(&shadow);
    shadow_copy(&shadow);
    differs = shadow_compare(&shadow);
    shadow_clear(&shadow);
    return differs;
}

static void
test_own_writes(gconstpointer data)
{
    g_assert_cmpint(run_with_writer(data, TRUE), ==, -1);
}

static void
test_own_writes_unmarked(gconstpointer data)
{
    g_assert_cmpint(run_with_writer(data, FALSE), >=, 7200);
}

/*
 * Wait until a ring has been full more than `before` times. Nobody harvests meanwhile: that empties
 * the rings, and where the guest is slow it would do so before one is full. So this ends as soon as
 * the guest has got on by a ring's worth of pages, however long that takes.
 */
static unsigned
wait_ring_full(RawVm *vm, unsigned before)
{
    const GuestImage image = {.low = rawvm_ram(vm), .low_bytes = RAWVM_RAM_BYTES};
    gint64 end = g_get_monotonic_time() + RING_WAIT_US;
    ChainPos start = {0}, pos = {0};

    guest_image_position(&image, 0, &start, NULL);
    while (rawvm_ring_fulls(vm) <= before) {
        guest_image_position(&image, 0, &pos, NULL);
        if (g_get_monotonic_time() > end)
            g_error("no ring was full; CPU 0 has got from round %" G_GUINT64_FORMAT
                    " to %" G_GUINT64_FORMAT,
                    start.round, pos.round);
        g_usleep(2000);
    }
    return rawvm_ring_fulls(vm);
}

static void
test_ring_full(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(c->n_vcpus, c->source, c->ring_entries, c->options);
    Shadow shadow;

    shadow_init(&shadow, vm);
    for (unsigned fulls = 0; fulls < 4;) {
        fulls = wait_ring_full(vm, fulls);
        shadow_verify(&shadow);
    }
    assert_progress(vm, c->n_vcpus, 4);
    shadow_verify(&shadow);
    shadow_clear(&shadow);
}

typedef struct Storm {
    RawVm *vm;
    pthread_t harvester;
    gint stop;
} Storm;

static void *
storm_thread(void *opaque)
{
    Storm *storm = opaque;

    while (!g_atomic_int_get(&storm->stop)) {
        rawvm_kick(storm->vm);
        pthread_kill(storm->harvester, SIGUSR1);
        g_usleep(30);
    }
    return NULL;
}

/* Signals make KVM_RESET_DIRTY_RINGS stop half-way; nothing may be lost by that. */
static void
test_signals(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(c->n_vcpus, c->source, c->ring_entries, c->options);
    Storm storm = {.vm = vm, .harvester = pthread_self()};
    Shadow shadow;
    pthread_t thread;

    shadow_init(&shadow, vm);
    pthread_create(&thread, NULL, storm_thread, &storm);
    for (unsigned round = 0; round < 40; round++) {
        g_usleep(10000);
        shadow_verify(&shadow);
    }
    g_atomic_int_set(&storm.stop, 1);
    pthread_join(thread, NULL);
    assert_progress(vm, c->n_vcpus, 4);
    shadow_verify(&shadow);
    shadow_clear(&shadow);
}

/* In the other process: until the pipe's other end is closed. Never leaves the parent stopped. */
static void
stop_parent(pid_t parent, const int end[2])
{
    struct pollfd closed = {.fd = end[0]};

    close(end[1]);
    while (poll(&closed, 1, 0) == 0 && getppid() == parent) {
        kill(parent, SIGSTOP);
        kill(parent, SIGCONT);
        g_usleep(500);
    }
    _exit(0);
}

/* Stop signals cannot be blocked: another process stops and continues this one. */
static void
test_stop_signals(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(RawVm) vm = vm_start(c->n_vcpus, c->source, c->ring_entries, c->options);
    pid_t self = getpid();
    Shadow shadow;
    int end[2];
    pid_t child;

    shadow_init(&shadow, vm);
    g_assert_cmpint(pipe(end), ==, 0);
    child = fork();
    if (child == 0)
        stop_parent(self, end);
    close(end[0]);
    for (unsigned round = 0; round < 40; round++) {
        g_usleep(10000);
        shadow_verify(&shadow);
    }
    close(end[1]);
    waitpid(child, NULL, 0);
    assert_progress(vm, c->n_vcpus, 4);
    shadow_verify(&shadow);
    shadow_clear(&shadow);
}

/* A harvest that KVM refuses says so, hands nothing out, and forgets nothing. */
static void
test_failed_harvest(void)
{
    g_autoptr(RawVm) vm = vm_start(1, DIRTYLOG_BITMAP, 0, " pages=500 dirty=500 rounds=2");
    g_autoptr(GError) error = NULL;
    Shadow shadow;

    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "ready"));
    shadow_verify(&shadow);
    g_assert_true(wait_for_output(vm, "done"));
    rawvm_pause(vm);
    g_assert_cmpint(rawvm_set_slot(vm, RAWVM_SLOT1, 0), ==, 0);
    g_assert_false(dirtylog_harvest(rawvm_log(vm), shadow.bits, NULL, &error));
    g_assert_nonnull(strstr(error->message, "memslot 5"));
    g_assert_cmpuint(pagebits_count(shadow.bits, WORDS), ==, 0);
    g_assert_cmpint(rawvm_set_slot(vm, RAWVM_SLOT1, RAWVM_RAM_PAGES - RAWVM_SLOT0_PAGES), ==, 0);
    shadow_harvest(&shadow);
    shadow_copy(&shadow);
    g_assert_cmpint(shadow_compare(&shadow), ==, -1);
    shadow_clear(&shadow);
}

/* A page outside of what was announced is an error by name, and does not jam the ring. */
static void
test_ring_odd_entry(void)
{
    g_autoptr(GError) error = NULL;
    RawVmConfig config = {.n_vcpus = 1,
                          .source = DIRTYLOG_RING,
                          .elf = elf_path,
                          .command_line = "cpus=1 base=0x5ffe000 pages=2 dirty=2 rounds=1",
                          .hide_pages = 2};
    g_autoptr(RawVm) vm = rawvm_new(&config, &error);
    Shadow shadow;

    g_assert_no_error(error);
    shadow_init(&shadow, vm);
    rawvm_resume(vm);
    g_assert_true(wait_for_output(vm, "done"));
    rawvm_pause(vm);
    g_assert_false(dirtylog_harvest(rawvm_log(vm), shadow.bits, NULL, &error));
    g_assert_nonnull(strstr(error->message, "memslot 5"));
    g_assert_cmpuint(shadow_harvest(&shadow), ==, RAWVM_RAM_PAGES - 2);
    shadow_clear(&shadow);
}

/* A KVM that logs each emulated store overruns a small ring when the guest works in ring 0. */
static void
test_ring_overrun(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(RawVm) vm = NULL;
    Shadow shadow;

    if (access("/sys/module/kvm_pvm", F_OK) != 0) {
        g_test_skip("this KVM runs ring 0 natively and never overruns a ring");
        return;
    }
    vm = vm_start(1, DIRTYLOG_RING, 1024, WORK);
    shadow_init(&shadow, vm);
    g_assert_true(wait_for_output(vm, "use the bitmap instead"));
    rawvm_pause(vm);
    /* And it stays an error: pages were left unprotected. */
    g_assert_false(dirtylog_harvest(rawvm_log(vm), shadow.bits, NULL, &error));
    g_assert_nonnull(strstr(error->message, "overran"));
    g_assert_cmpuint(pagebits_count(shadow.bits, WORDS), ==, 0);
    shadow_clear(&shadow);
}

static void
test_slot_not_logged(void)
{
    g_autoptr(RawVm) vm = vm_start(1, DIRTYLOG_BITMAP, 0, " op=halt");
    g_autoptr(GError) error = NULL;
    DirtyLogSlot slot = {.slot = 9, .first_page = 0, .n_pages = 1};

    g_assert_false(dirtylog_add_slot(rawvm_log(vm), &slot, &error));
    g_assert_nonnull(strstr(error->message, "KVM_MEM_LOG_DIRTY_PAGES"));
}

static void
test_ring_size_refused(void)
{
    g_autoptr(GError) error = NULL;
    RawVmConfig config = {.n_vcpus = 1,
                          .source = DIRTYLOG_RING,
                          .ring_entries = 3000,
                          .elf = elf_path,
                          .command_line = ""};

    g_assert_null(rawvm_new(&config, &error));
    g_assert_nonnull(strstr(error->message, "power of two"));
}

/* ---- Registration ---- */

static const Case cases[] = {
    {"bitmap, one vCPU", DIRTYLOG_BITMAP, 1, 0, WORK},
    {"bitmap, two vCPUs", DIRTYLOG_BITMAP, 2, 0, WORK},
    {"bitmap, two vCPUs in ring 3", DIRTYLOG_BITMAP, 2, 0, WORK " ring=3"},
    {"automatic choice, two vCPUs", DIRTYLOG_AUTO, 2, 0, WORK " ring=3"},
    {"ring, one vCPU", DIRTYLOG_RING, 1, 0, WORK " ring=3"},
    {"ring, two vCPUs", DIRTYLOG_RING, 2, 0, WORK " ring=3"},
    {"small ring, two vCPUs", DIRTYLOG_RING, 2, SMALL_RING, WORK " ring=3"},
};
static const Case full_cases[] = {
    {"one vCPU", DIRTYLOG_RING, 1, SMALL_RING, " pages=20000 dirty=100" FAST},
    {"two vCPUs", DIRTYLOG_RING, 2, SMALL_RING, " pages=20000 dirty=100" FAST},
};
static const Case signal_cases[] = {
    {"bitmap", DIRTYLOG_BITMAP, 2, 0, " pages=4000 dirty=100" FAST},
    {"ring", DIRTYLOG_RING, 2, 0, " pages=4000 dirty=100" FAST},
    {"small ring", DIRTYLOG_RING, 2, SMALL_RING, " pages=4000 dirty=100" FAST},
};

static void
add(const char *what, const Case *c, GTestDataFunc function)
{
    g_autofree char *path = g_strdup_printf("/dirtylog/%s (%s)", what, c->name);

    g_test_add_data_func(path, c, function);
}

static void
add_source_tests(const Case *c)
{
    add("the first harvest reports every page", c, test_first_harvest);
    add("a harvest reports the written pages and no others", c, test_exact);
    add("a dropped harvest shows in the shadow", c, test_dropped_harvest);
    add("pages the VMM marks are reported", c, test_own_writes);
    add("pages the VMM does not mark show in the shadow", c, test_own_writes_unmarked);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc < 2 || access("/dev/kvm", R_OK | W_OK) != 0) {
        fprintf(stderr, "this test needs /dev/kvm and the path of the tiny guest\n");
        return 77;
    }
    elf_path = argv[1];
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        add("no written page is ever missed", &cases[i], test_no_page_missed);
    add_source_tests(&cases[0]);
    add_source_tests(&cases[4]);
    for (size_t i = 0; i < G_N_ELEMENTS(full_cases); i++)
        add("a full ring loses nothing", &full_cases[i], test_ring_full);
    for (size_t i = 0; i < G_N_ELEMENTS(signal_cases); i++)
        add("signals in the middle lose nothing", &signal_cases[i], test_signals);
    for (size_t i = 0; i < G_N_ELEMENTS(signal_cases); i++)
        add("stops in the middle lose nothing", &signal_cases[i], test_stop_signals);
    g_test_add_func("/dirtylog/a failed harvest forgets nothing", test_failed_harvest);
    g_test_add_func("/dirtylog/a ring entry for no known page is refused", test_ring_odd_entry);
    g_test_add_func("/dirtylog/an overrun ring is an error for good", test_ring_overrun);
    g_test_add_func("/dirtylog/a memslot that is not logged is refused", test_slot_not_logged);
    g_test_add_func("/dirtylog/a ring of 3000 entries is refused", test_ring_size_refused);
    return g_test_run();
}
