/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-vmm: runs one guest on KVM.
 *
 * The process lives as long as its guest. It ends with status 0 when the guest powers off, on QUIT
 * and on SIGTERM; 1 with one line on an error; 3 if the guest resets and cannot be booted here
 * because it was restored and no kernel was given.
 *
 * A guest reset starts the program anew in the same process (execve): VM, vCPUs and devices are
 * then as fresh as hardware after a reset. Guest RAM (emptied), the member socket and its
 * connection, and the overlays of disks are handed on, so that a client sees nothing but a guest
 * that rewrote its memory. Requests that are with the disks are waited for first, as hardware does.
 */
#include "vmm/machine_priv.h"

#include "common/log.h"
#include "common/page.h"
#include "vmm/boot.h"
#include "vmm/devices/devices.h"
#include "vmm/disks.h"
#include "vmm/lazy_ram.h"
#include "vmm/lifecycle.h"
#include "vmm/member_server.h"
#include "vmm/options.h"
#include "vmm/vcpu.h"
#include "vmm/vmgenid.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define STATUS_OK 0
#define STATUS_ERROR 1
#define STATUS_NO_RESET 3

/* What a reset hands on: the numbers of MemberHandover, in its order, and the VM generation id. */
#define INHERIT_ENV "DISTRICT_VMM_INHERIT"
#define INHERIT_VMGENID_ENV "DISTRICT_VMM_INHERIT_VMGENID"
/* How long a client may take to learn that the guest has powered off. */
#define SHUTDOWN_LINGER_MS 2000
/* While a reset waits for the disks. */
#define DRAIN_POLL_MS 1
#define DRAIN_NOTE_US (3 * G_USEC_PER_SEC)
/* Free memory that the heap keeps; larger pieces than the other are never part of it. */
#define HEAP_KEPT (4 * 1024 * 1024)
#define HEAP_PIECE_MAX (2 * 1024 * 1024)

typedef struct Vmm {
    Options options;
    char **argv;
    Machine *machine;
    Disks disks;
    gint64 drain_note;    /* when to say that a reset waits for the disks; G_MAXINT64: said */
    MemberServer *server; /* NULL without --member-socket */
    GMainLoop *loop;
    MemberHandover inherited;
    bool is_reset; /* this life of the process follows a guest reset */
    bool ends;
    int status;
} Vmm;

static void
vmm_quit(Vmm *vmm, int status)
{
    vmm->status = status;
    vmm->ends = true;
    g_main_loop_quit(vmm->loop);
}

/* ---- Reset ---- */

/* A reboot is no reason for another id, be it of the options or given at a restore. */
static void
vmgenid_inherit_read(Vmm *vmm)
{
    g_autofree guchar *id = NULL;
    const char *text = g_getenv(INHERIT_VMGENID_ENV);
    gsize len = 0;

    if (text != NULL)
        id = g_base64_decode(text, &len);
    if (len != VMGENID_BYTES)
        return;
    memcpy(vmm->options.vmgenid, id, VMGENID_BYTES);
    vmm->options.has_vmgenid = true;
}

static void
inherit_read(Vmm *vmm)
{
    const char *text = g_getenv(INHERIT_ENV);
    MemberHandover h = MEMBER_HANDOVER_NONE;
    int waits, save, hold, n;

    vmm->inherited = h;
    if (text == NULL)
        return;
    /* An older version of this program does not have the last one. */
    n = sscanf(text, "%d,%d,%d,%d,%d,%d,%d,%d,%" SCNu64 ",%d", &h.ram, &h.bitmap, &h.state,
               &h.listen, &h.client, &waits, &save, &hold, &h.pause_id, &h.stir);
    if (n == 9 || n == 10) {
        const int fds[] = {h.ram, h.bitmap, h.state, h.listen, h.client, h.stir};

        h.pause_waits = waits != 0;
        h.pause_save = save != 0;
        h.pause_hold = hold != 0;
        vmm->inherited = h;
        vmm->is_reset = true;
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
            fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    vmgenid_inherit_read(vmm);
    g_unsetenv(INHERIT_ENV);
    g_unsetenv(INHERIT_VMGENID_ENV);
}

static gboolean
inherit_write(const MemberHandover *h, const uint8_t vmgenid[VMGENID_BYTES])
{
    g_autofree char *id = g_base64_encode(vmgenid, VMGENID_BYTES);
    const int fds[] = {h->ram, h->bitmap, h->state, h->listen, h->client, h->stir};
    g_autofree char *text = g_strdup_printf(
        "%d,%d,%d,%d,%d,%d,%d,%d,%" PRIu64 ",%d", h->ram, h->bitmap, h->state, h->listen, h->client,
        h->pause_waits, h->pause_save, h->pause_hold, h->pause_id, h->stir);

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0 && fcntl(fds[i], F_SETFD, 0) < 0)
            return FALSE;
    }
    return g_setenv(INHERIT_VMGENID_ENV, id, TRUE) && g_setenv(INHERIT_ENV, text, TRUE);
}

/* Nothing is with the disks. Does not return if it works. */
static void
vmm_start_anew(Vmm *vmm)
{
    MemberHandover handover = MEMBER_HANDOVER_NONE;
    g_autoptr(GError) error = NULL;

    machine_shut_down(vmm->machine);
    /* From here on nobody fills in what the next life does not have. */
    if (!lazy_ram_end(vmm->machine, &error) || !disks_hand_on(&vmm->disks, &error)) {
        g_warning("cannot start anew after a guest reset: %s", error->message);
        vmm_quit(vmm, STATUS_NO_RESET);
        return;
    }
    if (vmm->server != NULL)
        handover = member_server_handover(vmm->server);
    handover.ram = vmm->machine->ram_fd;
    g_message("guest reset");
    /* Empty RAM: the kernel's own way of giving back all pages of a memfd. */
    if (fallocate(handover.ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  (off_t)vmm->machine->ram_size) == 0 &&
        inherit_write(&handover, vmm->machine->vmgenid))
        execv("/proc/self/exe", vmm->argv);
    g_warning("cannot start anew after a guest reset: %s", g_strerror(errno));
    vmm_quit(vmm, STATUS_NO_RESET);
}

static gboolean
vmm_drain(void *opaque)
{
    Vmm *vmm = opaque;
    const char *waiting;

    if (vmm->ends)
        return G_SOURCE_REMOVE;
    if (virtio_blk_idle() && !disks_lazy(&vmm->disks)) {
        vmm_start_anew(vmm);
        return G_SOURCE_REMOVE;
    }
    if (g_get_monotonic_time() > vmm->drain_note) {
        waiting = disks_lazy(&vmm->disks) ? "they are still being read from the store"
                                          : disks_waiting(&vmm->disks);
        g_warning("a guest reset waits for requests to its disks: %s",
                  waiting != NULL ? waiting : "they are slow");
        vmm->drain_note = G_MAXINT64;
    }
    return G_SOURCE_CONTINUE;
}

/*
 * The vCPUs stay out, but devices go on, so that what the guest has asked of its disks gets done.
 * There is no limit: a store that is full may have room again, and until then this guest is a
 * machine that does not come up.
 */
static void
vmm_reset(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;

    if (vmm->options.kernel == NULL) {
        g_message("the guest reset itself, but was restored without --kernel to boot it from");
        vmm_quit(vmm, STATUS_NO_RESET);
        return;
    }
    if (vmm->machine->state == MACHINE_RUNNING && !vcpus_stop(vmm->machine->vcpus, NULL, &error)) {
        g_warning("%s", error->message);
        vmm_quit(vmm, STATUS_NO_RESET);
        return;
    }
    vmm->drain_note = g_get_monotonic_time() + DRAIN_NOTE_US;
    if (vmm_drain(vmm))
        g_timeout_add(DRAIN_POLL_MS, vmm_drain, vmm);
}

/* ---- Ends ---- */

static gboolean
vmm_linger_over(void *opaque)
{
    vmm_quit(opaque, STATUS_OK);
    return G_SOURCE_REMOVE;
}

static void
vmm_guest_exit(Machine *m, void *opaque)
{
    Vmm *vmm = opaque;

    if (vmm->ends)
        return; /* on its way out already */
    switch (m->exit_wanted) {
    case EXIT_RESET:
        vmm_reset(vmm);
        return;
    case EXIT_FAILED:
        g_warning("%s", m->exit_reason);
        vmm_quit(vmm, STATUS_ERROR);
        return;
    default:
        g_message("guest powered off");
        machine_shut_down(m);
        if (vmm->server != NULL && member_server_has_client(vmm->server))
            g_timeout_add(SHUTDOWN_LINGER_MS, vmm_linger_over, vmm);
        else
            vmm_quit(vmm, STATUS_OK);
    }
}

static void
vmm_client_quit(void *opaque)
{
    Vmm *vmm = opaque;

    g_message("quit by request");
    vmm_quit(vmm, STATUS_OK);
}

static void
vmm_shutdown_seen(void *opaque)
{
    vmm_quit(opaque, STATUS_OK);
}

static gboolean
vmm_terminate(int fd, GIOCondition condition, void *opaque)
{
    Vmm *vmm = opaque;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof info) == sizeof info) {
        g_message("quit by signal");
        vmm_quit(vmm, STATUS_OK);
    }
    return G_SOURCE_CONTINUE;
}

static const char *
vmm_serial_path(void *opaque)
{
    return serial_pty_path(((Vmm *)opaque)->machine);
}

/* ---- Set-up ---- */

static gboolean
vmm_pci_devices_init(Vmm *vmm, GError **error)
{
    const Options *o = &vmm->options;
    Machine *m = vmm->machine;
    PciHost *pci = pci_host_init(m, error);

    if (pci == NULL)
        return FALSE;
    for (guint i = 0; i < o->n_nets; i++) {
        if (!virtio_net_init(m, pci, o->nets[i].mac, o->nets[i].socket, error))
            return FALSE;
    }
    if (o->console != NULL && !virtio_console_init(m, pci, o->console, error))
        return FALSE;
    if (o->rng && !virtio_rng_init(m, pci, error))
        return FALSE;
    for (guint i = 0; i < vmm->disks.n; i++) {
        if (!virtio_blk_init(m, pci, vmm->disks.disk[i], o->disks[i].id, (unsigned)o->cpus, error))
            return FALSE;
    }
    return vmm->disks.journal == NULL ||
           virtio_blk_init_journal(m, pci, journal_disk(vmm->disks.journal), error);
}

static gboolean
vmm_devices_init(Vmm *vmm, GError **error)
{
    const Options *o = &vmm->options;
    Machine *m = vmm->machine;

    return cmos_init(m, o->ram_size, error) && reset_init(m, error) && acpi_pm_init(m, error) &&
           serial_init(m, o->serial, o->serial_log, error) &&
           (o->debugcon == NULL || debugcon_init(m, o->debugcon, error)) &&
           vmm_pci_devices_init(vmm, error);
}

static gboolean
vmm_boot(Vmm *vmm, GError **error)
{
    Options *o = &vmm->options;
    BootConfig boot = {.kernel = o->kernel,
                       .initrd = o->initrd,
                       .cmdline = o->append,
                       .n_vcpus = (unsigned)o->cpus};

    if (!o->has_vmgenid && getrandom(o->vmgenid, sizeof(o->vmgenid), 0) < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "no random VM generation id: %s; give --vmgenid", g_strerror(errno));
        return FALSE;
    }
    vmgenid_place(vmm->machine, o->vmgenid);
    /* Whatever the client knew of RAM before a reset is wrong now. */
    if (vmm->is_reset)
        dirtylog_mark(vmm->machine->dirty, 0, page_count(o->ram_size));
    return boot_load(vmm->machine, &boot, error);
}

static gboolean
vmm_server_init(Vmm *vmm, GError **error)
{
    MemberServerHooks hooks = {.quit = vmm_client_quit,
                               .shutdown_seen = vmm_shutdown_seen,
                               .serial_path = vmm_serial_path,
                               .opaque = vmm};

    if (vmm->options.member_socket == NULL)
        return TRUE;
    vmm->server = member_server_new(vmm->machine, &vmm->disks, vmm->options.member_socket,
                                    &vmm->inherited, &hooks, error);
    return vmm->server != NULL;
}

static gboolean
vmm_init(Vmm *vmm, GError **error)
{
    const Options *o = &vmm->options;
    bool incoming = o->incoming && !vmm->is_reset;
    MachineConfig config = {.name = o->name,
                            .ram_size = o->ram_size,
                            .n_vcpus = (unsigned)MAX(o->cpus, 0),
                            .dirty_source = o->dirty_source,
                            .ram_fd = vmm->inherited.ram,
                            .stir_fd = vmm->inherited.stir,
                            .incoming = incoming};

    vmm->machine = machine_new(&config, error);
    if (vmm->machine == NULL)
        return FALSE;
    vmm->machine->exit_notify = vmm_guest_exit;
    vmm->machine->exit_opaque = vmm;
    if (!disks_open(&vmm->disks, o, error) || (vmm->is_reset && !disks_inherit(&vmm->disks, error)))
        return FALSE;
    if (!vmm_devices_init(vmm, error) || (!incoming && !vmm_boot(vmm, error)) ||
        !vmm_server_init(vmm, error))
        return FALSE;
    if (!incoming && (!o->paused || vmm->is_reset) && !machine_resume(vmm->machine, error))
        return FALSE;
    if (vmm->server != NULL)
        member_server_go_on(vmm->server);
    return TRUE;
}

/*
 * Signals that end the program stay blocked and are read from a descriptor. So one that comes in
 * the middle of a guest reset is pending still when the program has started anew.
 */
static void
vmm_signals_init(Vmm *vmm)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    else
        g_unix_fd_add_full(G_PRIORITY_HIGH, fd, G_IO_IN, vmm_terminate, vmm, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* outlives whoever started it */
}

/* Requests have buffers of their own (virtio_blk.h). By default the heap returns freed ones to the system, and
 * the next one faults its pages in again, 32 of them for 128 KiB. */
static void
vmm_heap_init(void)
{
    mallopt(M_MMAP_THRESHOLD, HEAP_PIECE_MAX);
    mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
}

int
main(int argc, char **argv)
{
    /* Static: vCPU threads may still read it while the process ends. */
    static Vmm vmm = {.status = STATUS_OK};
    g_autoptr(GError) error = NULL;

    vmm.argv = argv;
    vmm_heap_init();
    vmm_signals_init(&vmm);
    if (!options_parse(argc, argv, &vmm.options, &error)) {
        fprintf(stderr, "district-vmm: %s\n", error->message);
        return STATUS_ERROR;
    }
    if (vmm.options.version) {
        printf("district-vmm %s\n", DISTRICT_VERSION);
        return STATUS_OK;
    }
    log_init("district-vmm", vmm.options.name);
    inherit_read(&vmm);
    vmm.loop = g_main_loop_new(NULL, FALSE);
    if (!vmm_init(&vmm, &error)) {
        fprintf(stderr, "district-vmm: %s\n", error->message);
        disks_close(&vmm.disks);
        return STATUS_ERROR;
    }
    g_main_loop_run(vmm.loop);
    /* vmm_init has made it. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    if (vmm.machine->state != MACHINE_SHUTDOWN)
        machine_shut_down(vmm.machine);
    if (vmm.server != NULL)
        member_server_close(vmm.server, vmm.status == STATUS_OK);
    disks_close(&vmm.disks);
    /* vCPU threads are parked; nothing is left to flush but stdio. */
    return vmm.status;
}
