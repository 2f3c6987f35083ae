/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Virtio over PCI, modern only (virtio 1.2 §4.1): what all our virtio devices share.
 *
 * BAR 0 (64-bit, 16 KiB) has the common, ISR, device and notify structures, one page each; BAR 2
 * (32-bit, 4 KiB) the MSI-X table. Notifications go to one eventfd per queue: by ioeventfd where
 * the kernel takes it, else by the MMIO handler. Queues are served on the main thread.
 *
 * A device embeds a VirtioDevice, gives it a VirtioOps and calls virtio_* from its own five
 * functions. Everything runs with the machine lock held.
 */
#ifndef DISTRICT_VMM_DEVICES_VIRTIO_PCI_H
#define DISTRICT_VMM_DEVICES_VIRTIO_PCI_H

#include "vmm/devices/msix.h"
#include "vmm/devices/virtqueue.h"

#define VIRTIO_QUEUES_MAX 16
#define VIRTIO_CONFIG_MAX 64

typedef enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
} VirtioId;

/* Device status (§2.1). */
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_DRIVER_OK 4
#define VIRTIO_STATUS_NEEDS_RESET 64

#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32

typedef struct VirtioDevice VirtioDevice;

typedef struct VirtioOps {
    const char *kind; /* for errors */
    VirtioId id;
    uint32_t class_code;
    uint64_t features; /* of the device type; those of ring and transport are added */
    unsigned n_queues;
    uint16_t queue_size;
    unsigned config_len; /* bytes of VirtioDevice.config; read-only to the driver */
    /* Serve queue index. Bound the work done; call virtio_again to go on later. */
    void (*serve)(VirtioDevice *device, unsigned index);
    /* The driver has reset the device: forget its buffers. May be NULL. */
    void (*reset)(VirtioDevice *device);
} VirtioOps;

typedef struct VirtioQueueSlot {
    VirtQueue ring;
    VirtioDevice *device;
    uint16_t vector;
    int kick_fd;    /* eventfd, non-blocking */
    bool ioeventfd; /* the kernel writes kick_fd for us */
    bool kicked;    /* notification taken and not served yet */
} VirtioQueueSlot;

struct VirtioDevice {
    PciFunction function;
    Machine *machine;
    const VirtioOps *ops;
    void *opaque; /* the device's own struct */
    Msix msix;
    bool running; /* between start and stop */
    uint8_t status;
    uint64_t driver_features;
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint8_t config_generation;
    uint8_t isr;
    unsigned pci_cfg; /* offset of the configuration access capability */
    uint8_t config[VIRTIO_CONFIG_MAX];
    VirtioQueueSlot queues[VIRTIO_QUEUES_MAX];
};

/* Fill in config before. Lives as long as the process. */
gboolean virtio_init(VirtioDevice *device, PciHost *pci, const VirtioOps *ops, void *opaque,
                     GError **error);

/* The driver is up and nothing is broken: queues may be used. */
bool virtio_ready(const VirtioDevice *device);
bool virtio_has_feature(const VirtioDevice *device, unsigned bit);
VirtQueue *virtio_queue(VirtioDevice *device, unsigned index);

/* After work on a queue: interrupt the driver if it wants it, and report a broken ring. */
void virtio_queue_done(VirtioDevice *device, unsigned index);
/* Serve queue index again from the main loop. */
void virtio_again(VirtioDevice *device, unsigned index);

/* Take notifications that were not served into the state; go on and serve them. */
void virtio_stop(VirtioDevice *device);
void virtio_start(VirtioDevice *device);

/* Queue states for the packer, with the message that points to them. */
typedef struct VirtioDump {
    District__VirtioPciState state;
    District__MsixState msix;
    District__VirtQueueState queues[VIRTIO_QUEUES_MAX];
    District__VirtQueueState *list[VIRTIO_QUEUES_MAX];
} VirtioDump;

void virtio_dump(VirtioDevice *device, VirtioDump *dump);
/* in_flight: for each queue, how many chains had been taken and not returned; NULL: none. */
gboolean virtio_check_state(const VirtioDevice *device, const District__VirtioPciState *state,
                            const size_t *in_flight, GError **error);
/* Only after virtio_check_state, and after the PCI bus has been restored. */
void virtio_restore(VirtioDevice *device, const District__VirtioPciState *state);

#endif
