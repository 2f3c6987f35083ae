/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district doctor: what this machine can really do.
 *
 * A KVM that offers every capability may still be unable to run a kernel: software KVMs emulate
 * kernel-mode code and lack instructions that Linux needs. So the checks run guest code
 * (control/kvmprobe.h): a long-mode ring-0 snippet per instruction, a loop for the speed, and a
 * loop of writes whose dirty log must name exactly the pages written.
 */
#include "control/doctor.h"

#include "common/clock.h"
#include "common/taskclock.h"
#include "control/kvmprobe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Guests slower than this, in loop iterations per second, boot Linux in minutes. */
#define DOCTOR_SLOW_LOOPS 50e6
#define DOCTOR_DIRTY_PAGES 64

static void
doctor_check_free(gpointer data)
{
    DoctorCheck *c = data;

    g_free(c->found);
    g_free(c->remedy);
    g_free(c);
}

static void
doctor_add(GPtrArray *checks, const char *name, DoctorVerdict verdict, char *found,
           const char *remedy)
{
    DoctorCheck *c = g_new0(DoctorCheck, 1);

    c->name = name;
    c->verdict = verdict;
    c->found = found;
    c->remedy = verdict == DOCTOR_OK ? NULL : g_strdup(remedy);
    g_ptr_array_add(checks, c);
}

/* ---- KVM ---- */

static const struct {
    int cap;
    const char *name;
} doctor_caps[] = {
    {KVM_CAP_USER_MEMORY, "USER_MEMORY"},
    {KVM_CAP_IRQCHIP, "IRQCHIP"},
    {KVM_CAP_PIT2, "PIT2"},
    {KVM_CAP_IRQFD, "IRQFD"},
    {KVM_CAP_IOEVENTFD, "IOEVENTFD"},
    {KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI"},
    {KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING"},
    {KVM_CAP_MP_STATE, "MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "DEBUGREGS"},
    {KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
    {KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"},
    {KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "EXT_CPUID"},
    {KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ"},
};

static void
doctor_kvm_caps(GPtrArray *checks, int kvm)
{
    g_autoptr(GString) missing = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(doctor_caps); i++) {
        if (ioctl(kvm, KVM_CHECK_EXTENSION, doctor_caps[i].cap) <= 0)
            g_string_append_printf(missing, " KVM_CAP_%s", doctor_caps[i].name);
    }
    if (missing->len > 0)
        doctor_add(checks, "kvm-capabilities", DOCTOR_FAIL,
                   g_strdup_printf("missing:%s", missing->str),
                   "use a kernel of 5.10 or later with its own kvm module");
    else
        doctor_add(checks, "kvm-capabilities", DOCTOR_OK,
                   g_strdup_printf("all %zu needed are there", G_N_ELEMENTS(doctor_caps)), NULL);

    int ring = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    int manual = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    doctor_add(
        checks, "dirty-log", ring > 0 || manual > 0 ? DOCTOR_OK : DOCTOR_FAIL,
        g_strdup_printf("ring of %d entries, manual protect %d", MAX(ring, 0) / 16, MAX(manual, 0)),
        "use a kernel of 5.4 or later");
}

static void
doctor_guest_instructions(GPtrArray *checks)
{
    g_autoptr(GString) lacking = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    guint ran = 0;

    if (!kvmprobe_instructions(lacking, &ran, &error))
        doctor_add(checks, "guest-kernel-code", DOCTOR_FAIL, g_strdup(error->message),
                   "check the kernel log for KVM errors");
    else if (lacking->len > 0)
        doctor_add(checks, "guest-kernel-code", DOCTOR_FAIL,
                   g_strdup_printf("a guest kernel cannot run:%s", lacking->str),
                   "this KVM runs no stock Linux: use a machine with VT-x or AMD-V, or the lab "
                   "(docs/lab.md)");
    else
        doctor_add(checks, "guest-kernel-code", DOCTOR_OK,
                   g_strdup_printf("%u of %u instructions a kernel needs were run", ran, ran),
                   NULL);
}

static void
doctor_guest_speed(GPtrArray *checks)
{
    g_autoptr(GError) error = NULL;
    double loops = kvmprobe_speed(&error);

    if (loops <= 0)
        doctor_add(checks, "guest-speed", DOCTOR_FAIL, g_strdup(error->message),
                   "check the kernel log for KVM errors");
    else
        doctor_add(
            checks, "guest-speed", loops < DOCTOR_SLOW_LOOPS ? DOCTOR_WARN : DOCTOR_OK,
            g_strdup_printf("%.1f million loops a second in guest kernel mode", loops / 1e6),
            "guest kernel code is emulated here: expect boots to take minutes; use a machine "
            "with hardware virtualization");
}

static void
doctor_guest_dirty(GPtrArray *checks)
{
    g_autoptr(GError) error = NULL;
    int pages = kvmprobe_dirty(DOCTOR_DIRTY_PAGES, &error);

    if (pages == DOCTOR_DIRTY_PAGES)
        doctor_add(checks, "dirty-tracking", DOCTOR_OK,
                   g_strdup_printf("%d pages written, exactly these logged", pages), NULL);
    else
        doctor_add(checks, "dirty-tracking", DOCTOR_FAIL,
                   pages < 0 ? g_strdup(error->message)
                             : g_strdup_printf("%d pages written, %d of them logged",
                                               DOCTOR_DIRTY_PAGES, pages),
                   "checkpoints would miss memory: use another kernel");
}

static void
doctor_kvm(GPtrArray *checks)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version = kvm < 0 ? -1 : ioctl(kvm, KVM_GET_API_VERSION, 0);

    if (kvm < 0) {
        doctor_add(checks, "kvm-device", DOCTOR_FAIL,
                   g_strdup_printf("/dev/kvm: %s", g_strerror(errno)),
                   errno == EACCES ? "run as root or join group kvm"
                                   : "enable virtualization in the firmware, then modprobe "
                                     "kvm_intel or kvm_amd");
        return;
    }
    doctor_add(checks, "kvm-device", version == KVM_API_VERSION ? DOCTOR_OK : DOCTOR_FAIL,
               g_strdup_printf("/dev/kvm, API version %d", version),
               "use a kernel of this century");
    doctor_kvm_caps(checks, kvm);
    close(kvm);
    doctor_guest_instructions(checks);
    doctor_guest_speed(checks);
    doctor_guest_dirty(checks);
}

/* ---- The rest of the machine ---- */

static void
doctor_kernel(GPtrArray *checks)
{
    struct utsname u;
    int major = 0, minor = 0;

    uname(&u);
    gboolean parsed = sscanf(u.release, "%d.%d", &major, &minor) == 2;
    gboolean good = parsed && (major > 5 || (major == 5 && minor >= 10));
    doctor_add(checks, "kernel", good ? DOCTOR_OK : DOCTOR_FAIL, g_strdup(u.release),
               "use Linux 5.10 or later");
}

static void
doctor_tun(GPtrArray *checks)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    doctor_add(checks, "tap-devices", fd >= 0 ? DOCTOR_OK : DOCTOR_WARN,
               fd >= 0 ? g_strdup("/dev/net/tun")
                       : g_strdup_printf("/dev/net/tun: %s", g_strerror(errno)),
               "modprobe tun; without it districts are cut off from the outside");
    if (fd >= 0)
        close(fd);
}

static void
doctor_memory(GPtrArray *checks)
{
    g_autofree char *text = NULL;
    guint64 available = 0;

    if (g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        const char *line = strstr(text, "MemAvailable:");
        if (line)
            available = g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10);
    }
    doctor_add(checks, "memory", available >= 512 * 1024 ? DOCTOR_OK : DOCTOR_WARN,
               g_strdup_printf("%" G_GUINT64_FORMAT " MiB available", available / 1024),
               "a standby holds all of its districts' RAM: add memory");
}

static void
doctor_limits(GPtrArray *checks)
{
    struct rlimit files = {0};

    getrlimit(RLIMIT_NOFILE, &files);
    doctor_add(checks, "open-files", files.rlim_max >= 4096 ? DOCTOR_OK : DOCTOR_WARN,
               g_strdup_printf("limit of %" G_GUINT64_FORMAT, (guint64)files.rlim_max),
               "raise it: LimitNOFILE=65536 in the unit of districtd");
}

static void
doctor_idle(GPtrArray *checks)
{
    int clock = task_clock_open(0, NS_PER_MS);

    doctor_add(checks, "idle-guests", clock >= 0 ? DOCTOR_OK : DOCTOR_WARN,
               clock >= 0
                   ? g_strdup("watched, and not cut while they do nothing")
                   : g_strdup_printf("cut as often as busy ones: no clock of what a vCPU uses: %s",
                                     g_strerror(errno)),
               "give districtd CAP_PERFMON, or set kernel.perf_event_paranoid to 1");
    if (clock >= 0)
        close(clock);
}

GPtrArray *
doctor_run(void)
{
    GPtrArray *checks = g_ptr_array_new_with_free_func(doctor_check_free);

    doctor_kernel(checks);
    doctor_kvm(checks);
    doctor_tun(checks);
    doctor_memory(checks);
    doctor_limits(checks);
    doctor_idle(checks);
    return checks;
}
