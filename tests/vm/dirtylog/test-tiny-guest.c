/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tiny guest itself: on QEMU's emulator and on the bare KVM API its chain is the one the
 * checker computes, and a RAM image taken at any stop is exact.
 *
 * argv: path of the tiny guest, path of qemu-system-x86_64 (or "" if there is none).
 */
#include "check.h"
#include "rawvm.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#define WAIT_US (30 * G_USEC_PER_SEC)
/* Of a paced guest: ticks of a round, and pages written in it. */
#define PACE_PERIOD 100000000
#define PACE_DIRTY 64

static const char *elf_path;
static const char *qemu_path;

/* Wait for "done" in a growing file. NULL if it does not come in time. */
static char *
wait_for_done(const char *path)
{
    gint64 end = g_get_monotonic_time() + WAIT_US;

    while (g_get_monotonic_time() < end) {
        g_autofree char *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL) &&
            (strstr(text, "done\n") || strstr(text, "error")))
            return g_steal_pointer(&text);
        g_usleep(20000);
    }
    return NULL;
}

static GSubprocess *
qemu_start(const char *options, const char *log_path)
{
    g_autofree char *debugcon = g_strdup_printf("file:%s", log_path);
    g_autoptr(GError) error = NULL;
    GSubprocess *qemu = g_subprocess_new(
        G_SUBPROCESS_FLAGS_STDOUT_SILENCE, &error, qemu_path, "-accel", "tcg", "-machine", "q35",
        "-smp", "2", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot", "-kernel",
        elf_path, "-append", options, "-debugcon", debugcon, NULL);

    g_assert_no_error(error);
    return qemu;
}

static void
test_qemu(gconstpointer data)
{
    const char *options = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GuestChecker) checker = guest_checker_new(options, &error);
    g_autofree char *directory = g_dir_make_tmp("district-tiny-XXXXXX", NULL);
    g_autofree char *log_path = g_build_filename(directory, "log", NULL);
    g_autofree char *text = NULL;
    g_autoptr(GSubprocess) qemu = NULL;
    guint n;

    g_assert_no_error(error);
    if (qemu_path[0] == '\0') {
        g_test_skip("no qemu-system-x86_64 was found");
        return;
    }
    qemu = qemu_start(options, log_path);
    text = wait_for_done(log_path);
    g_subprocess_force_exit(qemu);
    g_subprocess_wait(qemu, NULL, NULL);
    g_unlink(log_path);
    g_rmdir(directory);
    g_assert_nonnull(text);
    guest_checker_output(checker, text, &n, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, 4 * guest_checker_params(checker)->cpus);
}

/* One end of a wire between two QEMUs, with a console and an rng. */
static GSubprocess *
qemu_start_wired(const char *options, const char *directory, const char *name, const char *peer)
{
    g_autofree char *wire =
        g_strdup_printf("dgram,id=n,local.type=unix,local.path=%s/%s.sock,remote.type=unix,"
                        "remote.path=%s/%s.sock",
                        directory, name, directory, peer);
    g_autofree char *nic =
        g_strdup_printf("virtio-net-pci,netdev=n,disable-legacy=on,mac=52:54:00:00:00:%s", name);
    g_autofree char *debugcon = g_strdup_printf("file:%s/%s.log", directory, name);
    g_autofree char *console = g_strdup_printf("file,id=c,path=%s/%s.console", directory, name);
    g_autoptr(GError) error = NULL;
    GSubprocess *qemu = g_subprocess_new(
        G_SUBPROCESS_FLAGS_STDOUT_SILENCE, &error, qemu_path, "-accel", "tcg", "-machine", "q35",
        "-m", "64", "-nodefaults", "-display", "none", "-no-reboot", "-kernel", elf_path, "-append",
        options, "-debugcon", debugcon, "-netdev", wire, "-device", nic, "-chardev", console,
        "-device", "virtio-serial-pci,disable-legacy=on", "-device", "virtconsole,chardev=c",
        "-device", "virtio-rng-pci,disable-legacy=on", NULL);

    g_assert_no_error(error);
    return qemu;
}

static void
remove_files(const char *directory)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(directory, name, NULL);
        g_unlink(path);
    }
    g_rmdir(directory);
}

static void
test_devices(void)
{
    g_autofree char *directory = g_dir_make_tmp("district-tiny-XXXXXX", NULL);
    g_autofree char *log_path = g_build_filename(directory, "01.log", NULL);
    g_autofree char *console_path = g_build_filename(directory, "01.console", NULL);
    g_autofree char *console = NULL;
    g_autofree char *text = NULL;
    g_autoptr(GSubprocess) echo = NULL;
    g_autoptr(GSubprocess) send = NULL;

    if (qemu_path[0] == '\0') {
        g_test_skip("no qemu-system-x86_64 was found");
        return;
    }
    echo = qemu_start_wired("op=devices net=echo report=100", directory, "02", "01");
    send = qemu_start_wired("op=devices net=send peer=52:54:00:00:00:02 report=200 rounds=200"
                            " window=4 bytes=1500",
                            directory, "01", "02");
    text = wait_for_done(log_path);
    g_subprocess_force_exit(send);
    g_subprocess_force_exit(echo);
    g_subprocess_wait(send, NULL, NULL);
    g_subprocess_wait(echo, NULL, NULL);
    g_file_get_contents(console_path, &console, NULL, NULL);
    remove_files(directory);
    g_assert_nonnull(text);
    g_assert_nonnull(strstr(text, "ready op=devices net console rng"));
    g_assert_nonnull(strstr(text, "net tx=200 rx=200 lost=0 dup=0 bad=0"));
    g_assert_nonnull(strstr(text, "devices round=200 rng=64 console=10"));
    g_assert_cmpstr(console, ==, "console 0\n");
}

static RawVm *
vm_start(const char *options)
{
    g_autoptr(GError) error = NULL;
    const RawVmConfig config = {
        .n_vcpus = 2, .source = DIRTYLOG_BITMAP, .elf = elf_path, .command_line = options};
    RawVm *vm = rawvm_new(&config, &error);

    g_assert_no_error(error);
    rawvm_resume(vm);
    return vm;
}

/* Stop at odd moments, check RAM and all output so far. */
static void
test_kvm(gconstpointer data)
{
    const char *options = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(GuestChecker) checker = guest_checker_new(options, &error);
    g_autoptr(RawVm) vm = vm_start(options);
    const GuestImage image = {.low = rawvm_ram(vm), .low_bytes = RAWVM_RAM_BYTES};
    gint64 end = g_get_monotonic_time() + WAIT_US;
    g_autofree char *output = NULL;
    ChainPos pos;
    guint n = 0;

    g_assert_no_error(error);
    for (unsigned stops = 0; stops < 20;) {
        g_usleep(3000 + stops * 777);
        rawvm_pause(vm);
        if (guest_image_position(&image, 0, &pos, NULL) &&
            guest_image_position(&image, 1, &pos, NULL)) {
            guest_checker_image(checker, &image, &error);
            g_assert_no_error(error);
            stops++;
        }
        rawvm_resume(vm);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    for (; n < 8 && g_get_monotonic_time() < end; g_usleep(10000)) {
        g_clear_pointer(&output, g_free);
        output = rawvm_output(vm);
        guest_checker_output(checker, output, &n, &error);
        g_assert_no_error(error);
    }
    g_assert_cmpuint(n, >=, 8);
}

/* The report of a round, ticks long and with so many of them lost at once and looks at the TSC. */
static void
check_pace(const char *line)
{
    guint64 ticks, gap, late, spins;

    g_assert_cmpint(sscanf(line,
                           "pace cpu=0 ticks=%" G_GUINT64_FORMAT " gap=%" G_GUINT64_FORMAT
                           " late=%" G_GUINT64_FORMAT " spins=%" G_GUINT64_FORMAT,
                           &ticks, &gap, &late, &spins),
                    ==, 4);
    /* A round begins while the report of the one before is still printed. */
    g_assert_cmpuint(ticks, >, 0);
    g_assert_cmpuint(ticks, <=, PACE_PERIOD + late);
    g_assert_cmpuint(gap, <=, ticks);
    /* Once at least for each eight pages, and at the end. */
    g_assert_cmpuint(spins, >=, PACE_DIRTY / 8 + 1);
}

/* Its writes are spread over a period of the TSC, and its chain is what it is without one. */
static void
test_pace(void)
{
    g_autofree char *options =
        g_strdup_printf("rounds=4 ring=3 dirty=%d period=%d", PACE_DIRTY, PACE_PERIOD);
    g_autoptr(GError) error = NULL;
    g_autoptr(GuestChecker) checker = guest_checker_new(options, &error);
    uint64_t begun = __rdtsc();
    g_autoptr(RawVm) vm = vm_start(options);
    gint64 end = g_get_monotonic_time() + WAIT_US;
    guint n = 0, reports = 0;

    g_assert_no_error(error);
    g_autofree char *text = rawvm_output(vm);
    while (!strstr(text, "done\n") && g_get_monotonic_time() < end) {
        g_usleep(10000);
        g_free(text);
        text = rawvm_output(vm);
    }
    g_assert_cmpuint(__rdtsc() - begun, >=, UINT64_C(4) * PACE_PERIOD);
    guest_checker_output(checker, text, &n, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, 4);
    for (const char *at = text; (at = strstr(at, "pace ")); at++, reports++)
        check_pace(at);
    g_assert_cmpuint(reports, ==, 4);
}

static void
add(const char *what, const char *options, GTestDataFunc function)
{
    g_autofree char *path = g_strdup_printf("/tiny guest/%s/%s", what, options);

    g_test_add_data_func(path, options, function);
}

int
main(int argc, char **argv)
{
    static const char *const once[] = {
        "rounds=4",
        "rounds=4 cpus=2 pattern=seq,zero verify=2 init=1",
        "rounds=4 cpus=2 pattern=hot,text ring=3 verify=1",
        "rounds=4 pattern=incompressible ring=3 seed=5 pages=1000",
    };
    static const char *const endless[] = {
        "cpus=2",
        "cpus=2 pattern=seq,zero verify=2 init=1 pages=512 report=2",
        "cpus=2 pattern=hot,text ring=3 verify=3 pages=2000",
        "cpus=2 pattern=random,incompressible ring=3 pages=4000 init=1",
    };

    g_test_init(&argc, &argv, NULL);
    if (argc < 3 || access("/dev/kvm", R_OK | W_OK) != 0) {
        fprintf(stderr, "this test needs /dev/kvm and the path of the tiny guest\n");
        return 77;
    }
    elf_path = argv[1];
    qemu_path = argv[2];
    for (size_t i = 0; i < G_N_ELEMENTS(once); i++)
        add("its chain is right on QEMU TCG", once[i], test_qemu);
    g_test_add_func("/tiny guest/two of them exchange numbered frames", test_devices);
    for (size_t i = 0; i < G_N_ELEMENTS(endless); i++)
        add("its RAM is exact at any stop on KVM", endless[i], test_kvm);
    g_test_add_func("/tiny guest/its rounds last a period of the TSC each", test_pace);
    return g_test_run();
}
