/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common configuration structure of a virtio PCI device: feature negotiation, status and queue
 * set-up. Out-of-order or nonsensical writes are ignored; the driver reads back what holds.
 */
#include "vmm/devices/virtio_common.h"

#include <string.h>

/* Offsets (§4.1.4.3). */
enum {
    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0C,
    CONFIG_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    DEVICE_STATUS = 0x14,
    CONFIG_GENERATION = 0x15,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_VECTOR = 0x1A,
    QUEUE_ENABLE = 0x1C,
    QUEUE_NOTIFY_OFF = 0x1E,
    QUEUE_DESC = 0x20,
    QUEUE_DRIVER = 0x28,
    QUEUE_DEVICE = 0x30,
    QUEUE_NOTIFY_DATA = 0x38,
};

uint64_t
virtio_offered_features(const VirtioDevice *device)
{
    return device->ops->features | UINT64_C(1) << VIRTIO_F_INDIRECT_DESC |
           UINT64_C(1) << VIRTIO_F_EVENT_IDX | UINT64_C(1) << VIRTIO_F_VERSION_1;
}

void
virtio_apply_features(VirtioDevice *device)
{
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        device->queues[i].ring.event_idx = virtio_has_feature(device, VIRTIO_F_EVENT_IDX);
        device->queues[i].ring.indirect = virtio_has_feature(device, VIRTIO_F_INDIRECT_DESC);
    }
}

void
virtio_reset(VirtioDevice *device)
{
    device->status = 0;
    device->driver_features = 0;
    device->device_feature_select = device->driver_feature_select = 0;
    device->queue_select = 0;
    device->config_vector = VIRTIO_NO_VECTOR;
    device->isr = 0;
    device->msix.pending = 0;
    virtio_update_intx(device);
    for (unsigned i = 0; i < device->ops->n_queues; i++) {
        virtqueue_reset(&device->queues[i].ring);
        device->queues[i].vector = VIRTIO_NO_VECTOR;
        device->queues[i].kicked = false;
    }
    if (device->ops->reset)
        device->ops->reset(device);
}

/* The queue that queue_select names, NULL if there is none such. */
static VirtioQueueSlot *
selected(VirtioDevice *device)
{
    return device->queue_select < device->ops->n_queues ? &device->queues[device->queue_select]
                                                        : NULL;
}

static void
put(uint8_t *image, unsigned offset, uint64_t value, unsigned bytes)
{
    memcpy(image + offset, &value, bytes);
}

/* The whole structure as it reads now. */
static void
common_image(VirtioDevice *device, uint8_t image[VIRTIO_COMMON_BYTES])
{
    const VirtioQueueSlot *slot = selected(device);
    uint64_t offered = virtio_offered_features(device);

    memset(image, 0, VIRTIO_COMMON_BYTES);
    put(image, DEVICE_FEATURE_SELECT, device->device_feature_select, 4);
    if (device->device_feature_select < 2)
        put(image, DEVICE_FEATURE, offered >> 32 * device->device_feature_select, 4);
    put(image, DRIVER_FEATURE_SELECT, device->driver_feature_select, 4);
    if (device->driver_feature_select < 2)
        put(image, DRIVER_FEATURE, device->driver_features >> 32 * device->driver_feature_select,
            4);
    put(image, CONFIG_VECTOR, device->config_vector, 2);
    put(image, NUM_QUEUES, device->ops->n_queues, 2);
    put(image, DEVICE_STATUS, device->status, 1);
    put(image, CONFIG_GENERATION, device->config_generation, 1);
    put(image, QUEUE_SELECT, device->queue_select, 2);
    if (!slot)
        return; /* queue_size 0: not available */
    put(image, QUEUE_SIZE, slot->ring.size, 2);
    put(image, QUEUE_VECTOR, slot->vector, 2);
    put(image, QUEUE_ENABLE, slot->ring.enabled, 2);
    put(image, QUEUE_NOTIFY_OFF, device->queue_select, 2);
    put(image, QUEUE_DESC, slot->ring.desc_gpa, 8);
    put(image, QUEUE_DRIVER, slot->ring.avail_gpa, 8);
    put(image, QUEUE_DEVICE, slot->ring.used_gpa, 8);
    put(image, QUEUE_NOTIFY_DATA, device->queue_select, 2);
}

static void
write_driver_feature(VirtioDevice *device, uint32_t value)
{
    unsigned shift = 32 * device->driver_feature_select;

    if (device->driver_feature_select > 1 || (device->status & VIRTIO_STATUS_FEATURES_OK))
        return;
    device->driver_features &= ~(UINT64_C(0xFFFFFFFF) << shift);
    device->driver_features |= (uint64_t)value << shift;
}

static bool
features_acceptable(const VirtioDevice *device)
{
    return !(device->driver_features & ~virtio_offered_features(device)) &&
           virtio_has_feature(device, VIRTIO_F_VERSION_1);
}

static void
write_status(VirtioDevice *device, uint8_t value)
{
    uint8_t set = value & (uint8_t)~device->status & (uint8_t)~VIRTIO_STATUS_NEEDS_RESET;

    if (value == 0) {
        virtio_reset(device);
        return;
    }
    if ((set & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(device))
        set &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if (!((device->status | set) & VIRTIO_STATUS_FEATURES_OK))
        set &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    device->status |= set;
    if (set & VIRTIO_STATUS_FEATURES_OK)
        virtio_apply_features(device);
    /* What the driver made available before it was up is served now. */
    for (unsigned i = 0; (set & VIRTIO_STATUS_DRIVER_OK) && i < device->ops->n_queues; i++)
        virtio_again(device, i);
}

static uint16_t
valid_vector(const VirtioDevice *device, uint16_t vector)
{
    return vector < device->msix.n_vectors ? vector : VIRTIO_NO_VECTOR;
}

static void
write_address(uint64_t *address, uint64_t offset, uint64_t value, unsigned len)
{
    if (len == 8)
        *address = value;
    else if (len == 4 && (offset & 4))
        *address = (*address & 0xFFFFFFFF) | value << 32;
    else if (len == 4)
        *address = (*address & ~UINT64_C(0xFFFFFFFF)) | value;
}

static void
write_queue(VirtioDevice *device, uint64_t offset, uint64_t value, unsigned len)
{
    VirtioQueueSlot *slot = selected(device);
    uint16_t size = (uint16_t)value;

    if (!slot)
        return;
    if (offset == QUEUE_VECTOR)
        slot->vector = valid_vector(device, (uint16_t)value);
    /* The rest is fixed once the queue is enabled (§4.1.4.3.2). */
    if (slot->ring.enabled)
        return;
    if (offset == QUEUE_SIZE && size > 0 && size <= slot->ring.size_max && !(size & (size - 1)))
        slot->ring.size = size;
    else if (offset == QUEUE_ENABLE && value == 1)
        slot->ring.enabled = true;
    else if (offset >= QUEUE_DESC && offset < QUEUE_DRIVER)
        write_address(&slot->ring.desc_gpa, offset, value, len);
    else if (offset >= QUEUE_DRIVER && offset < QUEUE_DEVICE)
        write_address(&slot->ring.avail_gpa, offset, value, len);
    else if (offset >= QUEUE_DEVICE && offset < QUEUE_NOTIFY_DATA)
        write_address(&slot->ring.used_gpa, offset, value, len);
}

static void
common_write(VirtioDevice *device, uint64_t offset, uint64_t value, unsigned len)
{
    switch (offset) {
    case DEVICE_FEATURE_SELECT:
        device->device_feature_select = (uint32_t)value;
        break;
    case DRIVER_FEATURE_SELECT:
        device->driver_feature_select = (uint32_t)value;
        break;
    case DRIVER_FEATURE:
        write_driver_feature(device, (uint32_t)value);
        break;
    case CONFIG_VECTOR:
        device->config_vector = valid_vector(device, (uint16_t)value);
        break;
    case DEVICE_STATUS:
        write_status(device, (uint8_t)value);
        break;
    case QUEUE_SELECT:
        device->queue_select = (uint16_t)value;
        break;
    default:
        write_queue(device, offset, value, len);
    }
}

void
virtio_common_access(VirtioDevice *device, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    uint8_t image[VIRTIO_COMMON_BYTES];
    uint64_t value = 0;

    if (len > sizeof value || (offset & (len - 1)) || offset + len > sizeof image)
        return; /* drivers must access fields by their own width (§4.1.3.1) */
    if (write) {
        memcpy(&value, data, len);
        common_write(device, offset, value, len);
    } else {
        common_image(device, image);
        memcpy(data, image + offset, len);
    }
}
