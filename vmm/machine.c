/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM: KVM's part of it, the bus, the list of devices, the lock.
 *
 * Theory of operation. One process has one VM. The main thread owns its life: it creates the
 * machine, starts and stops vCPUs (lifecycle.c), saves and restores (state.c). vCPU threads only
 * run the guest and hand port and MMIO accesses to devices under the machine lock. KVM has the
 * APICs, IOAPIC, PICs and the PIT in the kernel; everything else is in devices/.
 */
#include "vmm/machine_priv.h"

#include "common/memfd.h"
#include "common/page.h"
#include "vmm/stir.h"
#include "vmm/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

/* Three pages and one that KVM wants for itself on some processors (KVM API §4.36, §4.94). */
#define MAP_KVM_IDENTITY 0xFEFFC000ULL
#define MAP_KVM_TSS 0xFEFFD000ULL

G_DEFINE_QUARK(machine - error - quark, machine_error)

static const struct {
    int cap;
    const char *name;
} caps_needed[] = {
    {KVM_CAP_IRQCHIP, "in-kernel interrupt controllers"},
    {KVM_CAP_PIT2, "PIT"},
    {KVM_CAP_PIT_STATE2, "PIT state"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_SIGNAL_MSI, "MSI injection"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_ADJUST_CLOCK, "clock adjustment"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_GET_MSR_FEATURES, "MSR features"},
};

gboolean
machine_ioctl(Machine *m, unsigned long request, const void *arg, const char *what, GError **error)
{
    if (ioctl(m->vm_fd, request, arg) >= 0)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot %s: %s", m->name, what,
                g_strerror(errno));
    return FALSE;
}

static gboolean
machine_kvm_open(Machine *m, GError **error)
{
    m->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (m->kvm_fd < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                    "/dev/kvm: %s; load the kvm module for this processor and join the kvm group",
                    g_strerror(errno));
        return FALSE;
    }
    if (ioctl(m->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                    "/dev/kvm speaks another API version than %d", KVM_API_VERSION);
        return FALSE;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(caps_needed); i++) {
        if (ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, caps_needed[i].cap) > 0)
            continue;
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                    "/dev/kvm lacks what District needs: %s; a newer kernel may have it",
                    caps_needed[i].name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
machine_vm_create(Machine *m, GError **error)
{
    const uint64_t identity = MAP_KVM_IDENTITY;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0);
    if (m->vm_fd < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot create the VM: %s",
                    m->name, g_strerror(errno));
        return FALSE;
    }
    if (!machine_ioctl(m, KVM_SET_IDENTITY_MAP_ADDR, &identity, "place the identity map", error) ||
        !machine_ioctl(m, KVM_SET_TSS_ADDR, (const void *)MAP_KVM_TSS, "place the TSS", error) ||
        !machine_ioctl(m, KVM_CREATE_IRQCHIP, NULL, "create interrupt controllers", error) ||
        !machine_ioctl(m, KVM_CREATE_PIT2, &pit, "create the PIT", error))
        return FALSE;
    return machine_irq_init(m, error);
}

static gboolean
machine_config_check(const MachineConfig *config, GError **error)
{
    if (config->n_vcpus < 1 || config->n_vcpus > MACHINE_VCPUS_MAX) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "%s: %u CPUs asked for; give between 1 and %d", config->name, config->n_vcpus,
                    MACHINE_VCPUS_MAX);
        return FALSE;
    }
    if (config->ram_size < MACHINE_RAM_MIN || config->ram_size > RAM_BYTES_MAX ||
        config->ram_size % PAGE_BYTES != 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "%s: memory must be between 2M and 1T and whole pages of 4K", config->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
machine_ram_create(Machine *m, const MachineConfig *config, GError **error)
{
    int fd = config->ram_fd;

    if (config->incoming)
        return TRUE;
    if (fd < 0)
        fd = memfd_create_sealed("guest-ram", m->ram_size, error);
    return fd >= 0 && machine_ram_attach(m, fd, error);
}

Machine *
machine_new(const MachineConfig *config, GError **error)
{
    Machine *m;

    if (!machine_config_check(config, error))
        return NULL;
    m = g_new0(Machine, 1);
    m->name = g_strdup(config->name);
    m->kvm_fd = m->vm_fd = m->ram_fd = m->lazy_fd = -1;
    m->ram_size = config->ram_size;
    m->state = config->incoming ? MACHINE_AWAITING_RESTORE : MACHINE_PAUSED;
    m->devices = g_ptr_array_new();
    g_mutex_init(&m->lock);
    bus_init(&m->ports);
    bus_init(&m->mmio);
    if (!machine_kvm_open(m, error) || !machine_vm_create(m, error))
        return NULL;
    m->dirty = dirtylog_new(m->kvm_fd, m->vm_fd, config->dirty_source, 0, error);
    if (m->dirty == NULL || !machine_ram_create(m, config, error))
        return NULL;
    m->stir = stir_new(config->stir_fd, error);
    if (m->stir == NULL)
        return NULL;
    m->vcpus = vcpus_new(m, config->n_vcpus, error);
    return m->vcpus == NULL ? NULL : m;
}

void
machine_lock(Machine *m)
{
    g_mutex_lock(&m->lock);
}

void
machine_unlock(Machine *m)
{
    g_mutex_unlock(&m->lock);
}

void
machine_add_device(Machine *m, Device *device)
{
    g_ptr_array_add(m->devices, device);
}

static Bus *
machine_bus(Machine *m, IoSpace space)
{
    return space == IO_PORT ? &m->ports : &m->mmio;
}

bool
machine_io_add(Machine *m, IoSpace space, uint64_t base, uint64_t size, IoHandler handler,
               void *opaque)
{
    if (space == IO_PORT && (size > 0x10000 || base > 0x10000 - size))
        return false;
    return bus_add(machine_bus(m, space), base, size, handler, opaque);
}

void
machine_io_remove(Machine *m, IoSpace space, uint64_t base)
{
    bus_remove(machine_bus(m, space), base);
}

bool
machine_running(Machine *m)
{
    return m->state == MACHINE_RUNNING;
}

const char *
machine_state_name(MachineState state)
{
    static const char *const names[] = {
        [MACHINE_AWAITING_RESTORE] = "awaiting restore",
        [MACHINE_PAUSED] = "paused",
        [MACHINE_RUNNING] = "running",
        [MACHINE_SHUTDOWN] = "shut down",
    };

    return names[state];
}

/* ---- What the guest does ---- */

void
machine_stirs(Machine *m)
{
    stir_now(m->stir);
}

static gboolean
machine_exit_dispatch(void *opaque)
{
    Machine *m = opaque;

    if (m->exit_notify != NULL)
        m->exit_notify(m, m->exit_opaque);
    return G_SOURCE_REMOVE;
}

/* The first wish counts. */
static void
machine_exit_set(Machine *m, ExitWanted what)
{
    if (m->exit_wanted != EXIT_NONE)
        return;
    m->exit_wanted = what;
    stir_now(m->stir);
    g_idle_add_full(G_PRIORITY_HIGH, machine_exit_dispatch, m, NULL);
}

void
machine_request_exit(Machine *m, MachineExit what)
{
    machine_exit_set(m, what == MACHINE_EXIT_SHUTDOWN ? EXIT_SHUTDOWN : EXIT_RESET);
}

void
machine_fail(Machine *m, const char *format, ...)
{
    va_list args;

    if (m->exit_wanted == EXIT_NONE) {
        va_start(args, format);
        m->exit_reason = g_strdup_vprintf(format, args);
        va_end(args);
    }
    machine_exit_set(m, EXIT_FAILED);
}
