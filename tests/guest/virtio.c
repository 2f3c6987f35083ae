/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PCI and virtio 1.x driver of the tiny guest; virtio.h describes it. */
#include "virtio.h"

#define PCI_ADDRESS 0xCF8
#define PCI_DATA 0xCFC
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY_MASTER 6
#define PCI_BAR0 0x10
#define PCI_CAPABILITIES 0x34
#define PCI_CAP_VENDOR 0x09
#define PCI_VENDOR_VIRTIO 0x1AF4
#define PCI_DEVICE_VIRTIO 0x1040 /* plus the virtio id */
/* BARs that nobody has placed, or out of reach, go here. */
#define PCI_WINDOW 0xC4000000U

/* virtio 1.2 §4.1.4 */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_DEVICE 4
/* Offsets in the common configuration, §4.1.4.3 */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE 0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE 0x0C
#define COMMON_STATUS 0x14
#define COMMON_QUEUE_SELECT 0x16
#define COMMON_QUEUE_SIZE 0x18
#define COMMON_QUEUE_ENABLE 0x1C
#define COMMON_QUEUE_NOTIFY_OFF 0x1E
#define COMMON_QUEUE_DESC 0x20
#define COMMON_QUEUE_DRIVER 0x28
#define COMMON_QUEUE_DEVICE 0x30
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define FEATURE_VERSION_1_HIGH 1 /* bit 32 */
#define DESC_NEXT 1
#define DESC_WRITE 2
#define AVAIL_NO_INTERRUPT 1

static uint32_t next_window = PCI_WINDOW;

static uint32_t
pci_read(uint16_t address, unsigned reg)
{
    port_out32(PCI_ADDRESS, 0x80000000U | (uint32_t)address << 8 | (reg & 0xFC));
    return port_in32(PCI_DATA);
}

static void
pci_write(uint16_t address, unsigned reg, uint32_t value)
{
    port_out32(PCI_ADDRESS, 0x80000000U | (uint32_t)address << 8 | (reg & 0xFC));
    port_out32(PCI_DATA, value);
}

static uint8_t
pci_read8(uint16_t address, unsigned reg)
{
    return (uint8_t)(pci_read(address, reg) >> (reg % 4 * 8));
}

/* Address of a memory BAR, which is given one if need be. 0 if it is none. */
static uint64_t
bar_address(uint16_t address, unsigned bar)
{
    unsigned reg = PCI_BAR0 + bar * 4;
    uint32_t low = pci_read(address, reg);
    bool is_wide = (low & 6) == 4;
    uint32_t high = is_wide ? pci_read(address, reg + 4) : 0;
    uint32_t size;

    if (low & 1)
        return 0;
    if ((low & ~0xFU) != 0 && high == 0)
        return low & ~0xFU;
    pci_write(address, reg, 0xFFFFFFFF);
    size = ~(pci_read(address, reg) & ~0xFU) + 1;
    if (size == 0)
        return 0;
    next_window = (next_window + size - 1) & ~(size - 1);
    pci_write(address, reg, next_window);
    if (is_wide)
        pci_write(address, reg + 4, 0);
    next_window += size;
    return next_window - size;
}

static void
read_capability(VirtioDevice *device, unsigned cap)
{
    uint8_t type = pci_read8(device->address, cap + 3);
    uint8_t bar = pci_read8(device->address, cap + 4);
    uint64_t at;

    if (bar > 5 || (type != CAP_COMMON && type != CAP_NOTIFY && type != CAP_DEVICE))
        return;
    at = bar_address(device->address, bar) + pci_read(device->address, cap + 8);
    if (type == CAP_COMMON && device->common == 0)
        device->common = at;
    if (type == CAP_DEVICE && device->config == 0)
        device->config = at;
    if (type == CAP_NOTIFY && device->notify == 0) {
        device->notify = at;
        device->notify_multiplier = pci_read(device->address, cap + 16);
    }
}

static bool
probe(VirtioDevice *device)
{
    unsigned cap = pci_read8(device->address, PCI_CAPABILITIES);

    /* 48 capabilities fit: more is a loop. */
    for (unsigned i = 0; cap >= 0x40 && i < 48; i++) {
        if (pci_read8(device->address, cap) == PCI_CAP_VENDOR)
            read_capability(device, cap);
        cap = pci_read8(device->address, cap + 1);
    }
    pci_write(device->address, PCI_COMMAND,
              pci_read(device->address, PCI_COMMAND) | PCI_COMMAND_MEMORY_MASTER);
    return device->common != 0 && device->notify != 0;
}

static volatile uint8_t *
common8(VirtioDevice *device, unsigned offset)
{
    return (volatile uint8_t *)(device->common + offset);
}

static volatile uint16_t *
common16(VirtioDevice *device, unsigned offset)
{
    return (volatile uint16_t *)(device->common + offset);
}

static volatile uint32_t *
common32(VirtioDevice *device, unsigned offset)
{
    return (volatile uint32_t *)(device->common + offset);
}

/* Initialisation up to FEATURES_OK (virtio 1.2 §3.1.1). */
static bool
negotiate(VirtioDevice *device, uint32_t features)
{
    *common8(device, COMMON_STATUS) = 0;
    while (*common8(device, COMMON_STATUS) != 0)
        ;
    *common8(device, COMMON_STATUS) = STATUS_ACKNOWLEDGE;
    *common8(device, COMMON_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    *common32(device, COMMON_DEVICE_FEATURE_SELECT) = 0;
    *common32(device, COMMON_DRIVER_FEATURE_SELECT) = 0;
    *common32(device, COMMON_DRIVER_FEATURE) = *common32(device, COMMON_DEVICE_FEATURE) & features;
    *common32(device, COMMON_DRIVER_FEATURE_SELECT) = 1;
    *common32(device, COMMON_DRIVER_FEATURE) = FEATURE_VERSION_1_HIGH;
    *common8(device, COMMON_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    return (*common8(device, COMMON_STATUS) & STATUS_FEATURES_OK) != 0;
}

bool
virtio_find(VirtioDevice *device, unsigned id, uint32_t features)
{
    for (uint16_t slot = 0; slot < 32; slot++) {
        uint32_t wanted = PCI_VENDOR_VIRTIO | (PCI_DEVICE_VIRTIO + id) << 16;

        *device = (VirtioDevice){.address = (uint16_t)(slot << 3)};
        if (pci_read(device->address, 0) == wanted)
            return probe(device) && negotiate(device, features);
    }
    device->address = 0;
    return false;
}

static void
common64_write(VirtioDevice *device, unsigned offset, const void *value)
{
    *common32(device, offset) = (uint32_t)(uint64_t)value;
    *common32(device, offset + 4) = (uint32_t)((uint64_t)value >> 32);
}

void
virtio_queue_place(VirtioDevice *device, VqPlace *place)
{
    uint16_t max;

    *common16(device, COMMON_QUEUE_SELECT) = place->number;
    max = *common16(device, COMMON_QUEUE_SIZE);
    if (max == 0)
        guest_fail("a virtio device lacks a queue");
    place->size = max < place->size ? max : place->size;
    place->notify = device->notify + (uint64_t)*common16(device, COMMON_QUEUE_NOTIFY_OFF) *
                                         device->notify_multiplier;
    *common16(device, COMMON_QUEUE_SIZE) = place->size;
    common64_write(device, COMMON_QUEUE_DESC, place->desc);
    common64_write(device, COMMON_QUEUE_DRIVER, place->avail);
    common64_write(device, COMMON_QUEUE_DEVICE, place->used);
    *common16(device, COMMON_QUEUE_ENABLE) = 1;
}

void
virtio_queue_setup(VirtioDevice *device, Vq *vq, uint16_t number)
{
    VqPlace place = {.number = number,
                     .size = VQ_SIZE,
                     .desc = vq->desc,
                     .avail = &vq->avail_flags,
                     .used = &vq->used_flags};

    vq->avail_flags = AVAIL_NO_INTERRUPT;
    virtio_queue_place(device, &place);
    vq->size = place.size;
    vq->number = number;
    vq->notify = place.notify;
}

void
virtio_driver_ok(VirtioDevice *device)
{
    *common8(device, COMMON_STATUS) =
        STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
}

static void
offer(Vq *vq, unsigned slot)
{
    vq->avail_ring[vq->avail_index % vq->size] = (uint16_t)slot;
    __atomic_store_n(&vq->avail_index, vq->avail_index + 1, __ATOMIC_SEQ_CST);
    *(volatile uint16_t *)vq->notify = vq->number;
}

void
virtio_send(Vq *vq, unsigned slot, uint32_t len, bool device_writes)
{
    vq->desc[slot] = (VqDesc){
        .address = (uint64_t)vq->buffer[slot], .len = len, .flags = device_writes ? DESC_WRITE : 0};
    offer(vq, slot);
}

void
virtio_send_parts(Vq *vq, const VqPart *parts, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        vq->desc[i] = (VqDesc){.address = (uint64_t)parts[i].at,
                               .len = parts[i].len,
                               .flags = (uint16_t)((parts[i].device_writes ? DESC_WRITE : 0) |
                                                   (i + 1 < n ? DESC_NEXT : 0)),
                               .next = (uint16_t)(i + 1)};
    offer(vq, 0);
}

bool
virtio_poll(Vq *vq, unsigned *slot, uint32_t *len)
{
    const VqUsedElem *used;

    if (__atomic_load_n(&vq->used_index, __ATOMIC_ACQUIRE) == vq->seen)
        return false;
    used = &vq->used_ring[vq->seen % vq->size];
    *slot = used->id;
    *len = used->len;
    vq->seen++;
    if (*slot >= vq->size)
        guest_fail("a virtio device returned a buffer it was never given");
    return true;
}
