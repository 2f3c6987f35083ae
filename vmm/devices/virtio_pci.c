/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Virtio over PCI: capabilities, BARs, notifications, interrupts, save and restore. */
#include "vmm/devices/virtio_pci.h"
#include "vmm/devices/state.h"
#include "vmm/devices/virtio_common.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VIRTIO_VENDOR 0x1AF4
#define VIRTIO_DEVICE_BASE 0x1040
#define VIRTIO_SUBSYSTEM_BASE 0x0040

#define BAR_REGISTERS 0
#define BAR_MSIX 2
#define PAGE 0x1000u
enum { REGION_COMMON, REGION_ISR, REGION_DEVICE, REGION_NOTIFY, REGIONS };
#define NOTIFY_BYTES 4 /* notify_off_multiplier */

/* Vendor capability (§4.1.4). */
#define CAP_VENDOR 0x09
#define CAP_BYTES 16
#define CAP_BYTES_MORE 20 /* with one more word */
#define CAP_LEN 2
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_MORE 16 /* notify multiplier, or pci_cfg_data */
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_PCI = 5 };

#define ISR_QUEUE 1
#define ISR_CONFIG 2

bool
virtio_has_feature(const VirtioDevice *device, unsigned bit)
{
    return device->driver_features >> bit & 1;
}

bool
virtio_ready(const VirtioDevice *device)
{
    return (device->status & VIRTIO_STATUS_DRIVER_OK) &&
           !(device->status & VIRTIO_STATUS_NEEDS_RESET);
}

VirtQueue *
virtio_queue(VirtioDevice *device, unsigned index)
{
    return &device->queues[index].ring;
}

/* ---- Interrupts ---- */

void
virtio_update_intx(VirtioDevice *device)
{
    pci_host_set_intx(device->function.host, &device->function,
                      device->isr != 0 && !msix_enabled(&device->msix));
}

static void
raise_interrupt(VirtioDevice *device, uint8_t isr, uint16_t vector)
{
    if (msix_enabled(&device->msix)) {
        msix_notify(&device->msix, vector);
        return;
    }
    device->isr |= isr;
    virtio_update_intx(device);
}

void
virtio_queue_done(VirtioDevice *device, unsigned index)
{
    VirtioQueueSlot *slot = &device->queues[index];

    if (slot->ring.broken && virtio_ready(device)) {
        device->status |= VIRTIO_STATUS_NEEDS_RESET;
        raise_interrupt(device, ISR_CONFIG, device->config_vector);
    } else if (virtqueue_interrupt_needed(&slot->ring)) {
        raise_interrupt(device, ISR_QUEUE, slot->vector);
    }
}

/* ---- Notifications ---- */

void
virtio_again(VirtioDevice *device, unsigned index)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then it is readable anyway. */
    if (write(device->queues[index].kick_fd, &one, sizeof one) < 0)
        g_debug("%s: %s", device->ops->kind, g_strerror(errno));
}

static bool
take_kick(VirtioQueueSlot *slot)
{
    uint64_t count;

    return read(slot->kick_fd, &count, sizeof count) == sizeof count;
}

static gboolean
queue_kicked(gint fd, GIOCondition condition, gpointer opaque)
{
    VirtioQueueSlot *slot = opaque;
    VirtioDevice *device = slot->device;

    machine_stirs(device->machine);
    machine_lock(device->machine);
    if (take_kick(slot)) {
        if (!device->running)
            slot->kicked = true;
        else if (virtio_ready(device))
            device->ops->serve(device, (unsigned)(slot - device->queues));
    }
    machine_unlock(device->machine);
    return G_SOURCE_CONTINUE;
}

static void
set_ioeventfds(VirtioDevice *device, uint64_t bar, bool assign)
{
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        VirtioQueueSlot *slot = &device->queues[i];
        uint64_t address = bar + REGION_NOTIFY * PAGE + NOTIFY_BYTES * i;

        if (assign)
            slot->ioeventfd =
                machine_ioeventfd(device->machine, IO_MMIO, address, 0, slot->kick_fd, true);
        else if (slot->ioeventfd)
            machine_ioeventfd(device->machine, IO_MMIO, address, 0, slot->kick_fd, false);
        slot->ioeventfd = slot->ioeventfd && assign;
    }
}

/* ---- BARs and configuration space ---- */

static void
isr_access(VirtioDevice *device, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    if (write)
        return;
    memset(data, 0, len);
    if (offset != 0)
        return;
    data[0] = device->isr; /* reading acknowledges (§4.1.4.5) */
    device->isr = 0;
    virtio_update_intx(device);
}

static void
device_config_access(VirtioDevice *device, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    for (unsigned i = 0; i < len && !write; i++)
        data[i] = offset + i < device->ops->config_len ? device->config[offset + i] : 0;
}

static void
registers_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    VirtioDevice *device = opaque;
    uint64_t at = offset % PAGE;

    switch (offset / PAGE) {
    case REGION_COMMON:
        virtio_common_access(device, at, data, len, write);
        break;
    case REGION_ISR:
        isr_access(device, at, data, len, write);
        break;
    case REGION_DEVICE:
        device_config_access(device, at, data, len, write);
        break;
    case REGION_NOTIFY:
        if (write && at / NOTIFY_BYTES < device->ops->n_queues)
            virtio_again(device, (unsigned)(at / NOTIFY_BYTES));
        break;
    default:
        break;
    }
}

static void
msix_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    VirtioDevice *device = opaque;
    msix_bar_access(&device->msix, offset, data, len, write);
}

/* Access a BAR through pci_cfg_data (§4.1.4.9); what the driver has set up there is checked. */
static void
pci_cfg_access(VirtioDevice *device, bool write)
{
    PciFunction *function = &device->function;
    uint8_t *cap = function->config + device->pci_cfg;
    uint32_t offset = pci_config_get32(function, device->pci_cfg + CAP_OFFSET);
    uint32_t len = pci_config_get32(function, device->pci_cfg + CAP_LENGTH);

    if ((len != 1 && len != 2 && len != 4) || offset % len)
        return;
    pci_function_bar_access(function, cap[CAP_BAR], offset, cap + CAP_MORE, len, write);
}

static bool
touches_pci_cfg_data(const VirtioDevice *device, unsigned offset, unsigned len)
{
    unsigned data = device->pci_cfg + CAP_MORE;
    return offset < data + 4 && offset + len > data;
}

static void
config_read(PciFunction *function, unsigned offset, unsigned len)
{
    VirtioDevice *device = function->opaque;

    if (touches_pci_cfg_data(device, offset, len))
        pci_cfg_access(device, false);
}

static void
config_written(PciFunction *function, unsigned offset, unsigned len)
{
    VirtioDevice *device = function->opaque;

    if (touches_pci_cfg_data(device, offset, len))
        pci_cfg_access(device, true);
    msix_config_written(&device->msix);
    virtio_update_intx(device);
}

static void
bar_moved(PciFunction *function, unsigned bar, uint64_t address, bool mapped)
{
    if (bar == BAR_REGISTERS)
        set_ioeventfds(function->opaque, address, mapped);
}

static const PciFunctionOps virtio_function_ops = {
    .config_read = config_read,
    .config_written = config_written,
    .bar_moved = bar_moved,
};

static unsigned
add_virtio_capability(PciFunction *function, uint8_t type, unsigned bytes, uint32_t offset,
                      uint32_t length)
{
    unsigned cap = pci_function_add_capability(function, CAP_VENDOR, bytes);

    function->config[cap + CAP_LEN] = (uint8_t)bytes;
    function->config[cap + CAP_TYPE] = type;
    function->config[cap + CAP_BAR] = BAR_REGISTERS;
    pci_config_set32(function, cap + CAP_OFFSET, offset);
    pci_config_set32(function, cap + CAP_LENGTH, length);
    return cap;
}

static void
add_capabilities(VirtioDevice *device)
{
    PciFunction *function = &device->function;
    unsigned cap;

    add_virtio_capability(function, CFG_COMMON, CAP_BYTES, REGION_COMMON * PAGE,
                          VIRTIO_COMMON_BYTES);
    add_virtio_capability(function, CFG_ISR, CAP_BYTES, REGION_ISR * PAGE, 1);
    if (device->ops->config_len > 0)
        add_virtio_capability(function, CFG_DEVICE, CAP_BYTES, REGION_DEVICE * PAGE,
                              device->ops->config_len);
    cap = add_virtio_capability(function, CFG_NOTIFY, CAP_BYTES_MORE, REGION_NOTIFY * PAGE,
                                NOTIFY_BYTES * device->ops->n_queues);
    pci_config_set32(function, cap + CAP_MORE, NOTIFY_BYTES);
    cap = add_virtio_capability(function, CFG_PCI, CAP_BYTES_MORE, 0, 0);
    device->pci_cfg = cap;
    function->writable[cap + CAP_BAR] = 0xFF;
    memset(function->writable + cap + CAP_OFFSET, 0xFF, 12); /* offset, length, data */
}

/* Nothing runs the main loop from within a call. Of a source that must not recurse GLib takes the
 * descriptor out of the loop for each call, and wakes the loop twice for that. */
static void
watch_kicks(VirtioQueueSlot *slot)
{
    g_autoptr(GSource) source = g_unix_fd_source_new(slot->kick_fd, G_IO_IN);

    g_source_set_can_recurse(source, TRUE);
    g_source_set_callback(source, G_SOURCE_FUNC(queue_kicked), slot, NULL);
    g_source_attach(source, NULL);
}

static gboolean
init_queues(VirtioDevice *device, GError **error)
{
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        VirtioQueueSlot *slot = &device->queues[i];

        slot->device = device;
        slot->vector = VIRTIO_NO_VECTOR;
        virtqueue_init(&slot->ring, device->machine, device->ops->queue_size);
        slot->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (slot->kick_fd < 0) {
            g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_SYSTEM, "%s: cannot make an eventfd: %s",
                        device->ops->kind, g_strerror(errno));
            return FALSE;
        }
        watch_kicks(slot);
    }
    return TRUE;
}

gboolean
virtio_init(VirtioDevice *device, PciHost *pci, const VirtioOps *ops, void *opaque, GError **error)
{
    PciIds ids = {
        .vendor = VIRTIO_VENDOR,
        .device = (uint16_t)(VIRTIO_DEVICE_BASE + ops->id),
        .subsystem_vendor = VIRTIO_VENDOR,
        .subsystem = (uint16_t)(VIRTIO_SUBSYSTEM_BASE + ops->id),
        .class_code = ops->class_code,
        .revision = 1,
        .has_intx = true,
    };

    g_assert(ops->n_queues <= VIRTIO_QUEUES_MAX && ops->config_len <= VIRTIO_CONFIG_MAX);
    device->machine = pci_host_machine(pci);
    device->ops = ops;
    device->opaque = opaque;
    device->config_vector = VIRTIO_NO_VECTOR;
    if (!init_queues(device, error))
        return FALSE;
    pci_function_init(&device->function, &ids, &virtio_function_ops, device);
    pci_function_add_bar(&device->function, BAR_REGISTERS, REGIONS * PAGE, true, registers_access);
    pci_function_add_bar(&device->function, BAR_MSIX, MSIX_BAR_BYTES, false, msix_access);
    add_capabilities(device);
    msix_init(&device->msix, &device->function, BAR_MSIX, ops->n_queues + 1);
    return pci_host_add_function(pci, &device->function, error);
}

/* ---- Stop, start, save, restore ---- */

void
virtio_stop(VirtioDevice *device)
{
    device->running = false;
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        if (take_kick(&device->queues[i]))
            device->queues[i].kicked = true;
    }
}

void
virtio_start(VirtioDevice *device)
{
    device->running = true;
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        if (device->queues[i].kicked)
            virtio_again(device, i);
        device->queues[i].kicked = false;
    }
}

void
virtio_dump(VirtioDevice *device, VirtioDump *dump)
{
    District__VirtioPciState *state = &dump->state;

    district__virtio_pci_state__init(state);
    state->status = device->status;
    state->driver_features = device->driver_features;
    state->device_feature_select = device->device_feature_select;
    state->driver_feature_select = device->driver_feature_select;
    state->queue_select = device->queue_select;
    state->config_vector = device->config_vector;
    state->config_generation = device->config_generation;
    state->isr = device->isr;
    msix_dump(&device->msix, &dump->msix);
    state->msix = &dump->msix;
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        virtqueue_dump(&device->queues[i].ring, &dump->queues[i]);
        dump->queues[i].vector = device->queues[i].vector;
        dump->queues[i].kicked = device->queues[i].kicked;
        dump->list[i] = &dump->queues[i];
    }
    state->queues = dump->list;
    state->n_queues = device->ops->n_queues;
}

static bool
vector_possible(const VirtioDevice *device, uint32_t vector)
{
    return vector == VIRTIO_NO_VECTOR || vector < device->msix.n_vectors;
}

gboolean
virtio_check_state(const VirtioDevice *device, const District__VirtioPciState *state,
                   const size_t *in_flight, GError **error)
{
    const char *kind = device->ops->kind;

    if (!state)
        return state_refuse(error, kind, "the part common to virtio devices is missing");
    if (state->n_queues != device->ops->n_queues)
        return state_refuse(error, kind, "%zu queues, not %u", state->n_queues,
                            device->ops->n_queues);
    if (state->status > UINT8_MAX || state->isr > (ISR_QUEUE | ISR_CONFIG) ||
        state->queue_select > UINT16_MAX || state->config_generation > UINT8_MAX ||
        !vector_possible(device, state->config_vector))
        return state_refuse(error, kind, "a register has bits that the hardware has not");
    if ((state->status & VIRTIO_STATUS_DRIVER_OK) && !(state->status & VIRTIO_STATUS_FEATURES_OK))
        return state_refuse(error, kind, "a driver without features");
    if ((state->status & VIRTIO_STATUS_FEATURES_OK) &&
        (state->driver_features & ~virtio_offered_features(device)))
        return state_refuse(error, kind,
                            "features 0x%" G_GINT64_MODIFIER "x are in use that this version "
                            "does not offer",
                            state->driver_features & ~virtio_offered_features(device));
    for (size_t i = 0; i < state->n_queues; i++) {
        if (!vector_possible(device, state->queues[i]->vector))
            return state_refuse(error, kind, "vector %u", state->queues[i]->vector);
        if (!virtqueue_check_state(&device->queues[i].ring, state->queues[i],
                                   in_flight != NULL ? in_flight[i] : 0, kind, error))
            return FALSE;
    }
    return msix_check_state(&device->msix, state->msix, kind, error);
}

void
virtio_restore(VirtioDevice *device, const District__VirtioPciState *state)
{
    device->status = (uint8_t)state->status;
    device->driver_features = state->driver_features;
    device->device_feature_select = state->device_feature_select;
    device->driver_feature_select = state->driver_feature_select;
    device->queue_select = (uint16_t)state->queue_select;
    device->config_vector = (uint16_t)state->config_vector;
    device->config_generation = (uint8_t)state->config_generation;
    device->isr = (uint8_t)state->isr;
    msix_restore(&device->msix, state->msix);
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        VirtioQueueSlot *slot = &device->queues[i];

        virtqueue_restore(&slot->ring, state->queues[i]);
        slot->vector = (uint16_t)state->queues[i]->vector;
        take_kick(slot);
        /* One notification more is harmless; one less could stall a queue for good. */
        slot->kicked = true;
    }
    virtio_apply_features(device);
    virtio_update_intx(device);
}
