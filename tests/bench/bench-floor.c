/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The floor: what a pause costs at the very least on this machine's KVM.
 *
 * The tiny guest on the bare KVM API. Its dirty log is harvested at the beat of a pipeline's, and what was dirty
 * copied, while it runs. At each cut the vCPU is kicked out, the log is taken a last time (KVM_GET_DIRTY_LOG,
 * KVM_CLEAR_DIRTY_LOG), the residue is copied, and the vCPU goes on: no state is saved, nothing is encoded or
 * sent, no other process is asked. Whatever does that as well cannot be shorter.
 *
 * Prints one JSON object.
 */
#include "common/clock.h"
#include "tests/bench/figures.h"
#include "tests/vm/dirtylog/rawvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#define PAGE 4096ULL
#define CUTS_MAX 9999
#define MIB_PAGES 256ULL
/* As before District's cuts: harvests are repeated while they find much. */
#define PRECUT_HARVESTS_MAX 4
#define PRECUT_PAGES_ENOUGH 64

static struct {
    char *guest, *append, *output;
    gint ram_mib, cuts, warm_up;
    gdouble interval_ms, harvest_ms;
    gboolean tsc;
} options = {.ram_mib = 1024, .cuts = 200, .warm_up = 20, .interval_ms = 100, .harvest_ms = 20};

static const GOptionEntry entries[] = {
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &options.guest, "the tiny guest", "ELF"},
    {"append", 0, 0, G_OPTION_ARG_STRING, &options.append, "its command line", "TEXT"},
    {"output", 0, 0, G_OPTION_ARG_FILENAME, &options.output, "what the guest prints goes there",
     "FILE"},
    {"ram", 0, 0, G_OPTION_ARG_INT, &options.ram_mib, "MiB, 64 to 16384", "N"},
    {"cuts", 0, 0, G_OPTION_ARG_INT, &options.cuts, "that are measured, up to 9999", "N"},
    {"warm-up", 0, 0, G_OPTION_ARG_INT, &options.warm_up, "cuts before these", "N"},
    {"interval", 0, 0, G_OPTION_ARG_DOUBLE, &options.interval_ms, "between cuts", "MS"},
    {"tsc", 0, 0, G_OPTION_ARG_NONE, &options.tsc, "print how many kHz the TSC has, no more", NULL},
    {"harvest", 0, 0, G_OPTION_ARG_DOUBLE, &options.harvest_ms, "between harvests", "MS"},
    {0},
};

typedef struct Floor {
    RawVm *vm;
    uint64_t n_pages;
    uint8_t *copy; /* of RAM: where pages go */
    uint64_t *bits;
    uint64_t dirtied; /* pages found since the last cut */
    Histogram pause, kick, log, residue, dirty;
} Floor;

/* Take and re-protect one slot's log, and copy what it has. -1 with errno set if KVM fails. */
static int64_t
floor_slot(Floor *f, uint32_t slot, uint64_t first, uint64_t pages, int64_t *log_ns)
{
    int64_t begun = clock_monotonic_ns();
    struct kvm_dirty_log get = {.slot = slot, .dirty_bitmap = f->bits};
    struct kvm_clear_dirty_log clear = {
        .slot = slot, .num_pages = (uint32_t)pages, .dirty_bitmap = f->bits};
    int64_t found = 0;

    if (ioctl(rawvm_fd(f->vm), KVM_GET_DIRTY_LOG, &get) < 0 ||
        ioctl(rawvm_fd(f->vm), KVM_CLEAR_DIRTY_LOG, &clear) < 0)
        return -1;
    *log_ns += clock_monotonic_ns() - begun;
    for (uint64_t w = 0; w < (pages + 63) / 64; w++) {
        for (uint64_t bits = f->bits[w]; bits != 0; bits &= bits - 1) {
            uint64_t page = first + w * 64 + (uint64_t)__builtin_ctzll(bits);
            memcpy(f->copy + page * PAGE, rawvm_ram(f->vm) + page * PAGE, PAGE);
            found++;
        }
    }
    return found;
}

/* One harvest: how many pages, or -1. */
static int64_t
floor_harvest(Floor *f, int64_t *log_ns)
{
    int64_t low = floor_slot(f, RAWVM_SLOT0, 0, RAWVM_SLOT0_PAGES, log_ns);
    int64_t high =
        floor_slot(f, RAWVM_SLOT1, RAWVM_SLOT0_PAGES, f->n_pages - RAWVM_SLOT0_PAGES, log_ns);

    if (low < 0 || high < 0)
        return -1;
    f->dirtied += (uint64_t)(low + high);
    return low + high;
}

static bool
floor_precut(Floor *f)
{
    int64_t pages, before = INT64_MAX, ns = 0;

    for (int i = 0; i < PRECUT_HARVESTS_MAX; i++) {
        pages = floor_harvest(f, &ns);
        if (pages < 0)
            return false;
        if (pages <= PRECUT_PAGES_ENOUGH || pages > before / 4 * 3)
            break;
        before = pages;
    }
    return true;
}

static bool
floor_cut(Floor *f, bool measured)
{
    int64_t log_ns = 0;

    if (!floor_precut(f))
        return false;
    int64_t asked = clock_monotonic_ns();
    rawvm_pause(f->vm);
    int64_t out = clock_monotonic_ns();
    int64_t residue = floor_harvest(f, &log_ns);
    rawvm_resume(f->vm);
    int64_t resumed = clock_monotonic_ns();
    if (residue < 0)
        return false;
    if (measured) {
        histogram_add(&f->pause, (uint64_t)(resumed - asked));
        histogram_add(&f->kick, (uint64_t)(out - asked));
        histogram_add(&f->log, (uint64_t)log_ns);
        histogram_add(&f->residue, (uint64_t)residue);
        histogram_add(&f->dirty, f->dirtied);
    }
    f->dirtied = 0;
    return true;
}

static void
sleep_until(int64_t when)
{
    int64_t left = when - clock_monotonic_ns();

    if (left > 0)
        g_usleep((gulong)(left / NS_PER_US));
}

static bool
floor_run(Floor *f)
{
    int64_t interval = (int64_t)(options.interval_ms * NS_PER_MS);
    int64_t harvest = (int64_t)(options.harvest_ms * NS_PER_MS);
    int64_t cut_at = clock_monotonic_ns() + interval, ns = 0;

    rawvm_resume(f->vm);
    for (int i = 0; i < options.warm_up + options.cuts; cut_at += interval) {
        for (int64_t at = cut_at - interval + harvest; at < cut_at; at += harvest) {
            sleep_until(at);
            if (floor_harvest(f, &ns) < 0)
                return false;
        }
        sleep_until(cut_at);
        if (!floor_cut(f, i++ >= options.warm_up))
            return false;
        /* Harvests that take longer than an interval would pile up. */
        cut_at = MAX(cut_at, clock_monotonic_ns() - interval);
    }
    rawvm_pause(f->vm);
    return true;
}

static void
floor_print(const Floor *f)
{
    JsonObject *object = json_object_new();

    figures_add(object, "pause_ns", &f->pause);
    figures_add(object, "kick_ns", &f->kick);
    figures_add(object, "log_ns", &f->log);
    figures_add(object, "residue_pages", &f->residue);
    figures_add(object, "dirty_pages", &f->dirty);
    figures_print(object);
}

#define TSC_WATCH_US 50000

static void
print_tsc_khz(void)
{
    int64_t begun = clock_monotonic_ns();
    uint64_t tsc = __rdtsc();

    g_usleep(TSC_WATCH_US);
    uint64_t ticks = __rdtsc() - tsc;
    printf("%.0f\n", (double)ticks * 1e6 / (double)(clock_monotonic_ns() - begun));
}

static int
fail(const char *what)
{
    fprintf(stderr, "bench-floor: %s\n", what);
    return 1;
}

static bool
options_good(void)
{
    return options.guest && options.append && options.ram_mib >= 64 && options.ram_mib <= 16384 &&
           options.cuts > 0 && options.cuts <= CUTS_MAX && options.warm_up >= 0 &&
           options.interval_ms >= 1 && options.harvest_ms >= 0.1;
}

int
main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    Floor *f = g_new0(Floor, 1);

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        return fail(error->message);
    if (options.tsc) {
        print_tsc_khz();
        return 0;
    }
    if (!options_good())
        return fail("give --guest and --append, and numbers in their ranges: see --help");
    f->n_pages = (uint64_t)options.ram_mib * MIB_PAGES;
    f->bits = g_new0(uint64_t, f->n_pages / 64);
    f->copy = mmap(NULL, f->n_pages * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->copy == MAP_FAILED)
        return fail(g_strerror(errno));
    const RawVmConfig config = {.n_vcpus = 1,
                                .source = DIRTYLOG_BITMAP,
                                .elf = options.guest,
                                .command_line = options.append,
                                .ram_pages = f->n_pages};
    f->vm = rawvm_new(&config, &error);
    if (!f->vm)
        return fail(error->message);
    if (!floor_run(f))
        return fail(g_strerror(errno));
    g_autofree char *text = rawvm_output(f->vm);
    if (options.output && !g_file_set_contents(options.output, text, -1, &error))
        return fail(error->message);
    floor_print(f);
    rawvm_free(f->vm);
    munmap(f->copy, f->n_pages * PAGE);
    g_free(f->bits);
    g_free(f);
    return 0;
}
