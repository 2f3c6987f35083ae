/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PCI and virtio 1.x driver of the tiny guest: polled, split queues, no interrupts. Guest side
 * only. */
#ifndef DISTRICT_TESTS_GUEST_VIRTIO_H
#define DISTRICT_TESTS_GUEST_VIRTIO_H

#include "cpu.h"

#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG 4
#define VQ_SIZE 16
#define VQ_BUFFER_BYTES 2048

/* Split virtqueue (virtio 1.2 §2.7). */
typedef struct VqDesc {
    uint64_t address;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} VqDesc;

typedef struct VqUsedElem {
    uint32_t id;
    uint32_t len;
} VqUsedElem;

typedef struct Vq {
    VqDesc desc[VQ_SIZE] __attribute__((aligned(16)));
    uint16_t avail_flags;
    uint16_t avail_index;
    uint16_t avail_ring[VQ_SIZE];
    uint16_t avail_event;
    uint16_t used_flags __attribute__((aligned(16)));
    uint16_t used_index;
    VqUsedElem used_ring[VQ_SIZE];
    uint16_t used_event;
    uint16_t seen; /* of used_index */
    uint16_t size;
    uint16_t number;
    uint64_t notify;
    uint8_t buffer[VQ_SIZE][VQ_BUFFER_BYTES];
} Vq;

typedef struct VirtioDevice {
    uint16_t address; /* bus, device, function; 0: none found */
    uint64_t common;  /* structures of virtio 1.2 §4.1.4, mapped */
    uint64_t notify;
    uint32_t notify_multiplier;
    uint64_t config;
} VirtioDevice;

/* Find the first device of this virtio id, reset it and negotiate nothing but VERSION_1 and, if it
 * is offered, what is in features (bits 0-31). */
bool virtio_find(VirtioDevice *device, unsigned id, uint32_t features);
void virtio_queue_setup(VirtioDevice *device, Vq *vq, uint16_t number);

/* Where a queue of the caller's own layout is (virtio 1.2 §2.7). */
typedef struct VqPlace {
    uint16_t number;
    uint16_t size; /* at most; then what it is */
    const void *desc;
    const void *avail;
    const void *used;
    uint64_t notify; /* where to write its number; set by virtio_queue_place */
} VqPlace;
void virtio_queue_place(VirtioDevice *device, VqPlace *place);
void virtio_driver_ok(VirtioDevice *device);

/*
 * Hand buffer slot to the device: len bytes for it to read, or write. The slot is the caller's
 * again when virtio_poll returns it.
 */
void virtio_send(Vq *vq, unsigned slot, uint32_t len, bool device_writes);
/* A request of several parts, by the first descriptors: one at a time. Its slot is 0. */
typedef struct VqPart {
    const void *at;
    uint32_t len;
    bool device_writes;
} VqPart;
void virtio_send_parts(Vq *vq, const VqPart *parts, unsigned n);
/* TRUE if the device has used a buffer: *slot, *len bytes written. */
bool virtio_poll(Vq *vq, unsigned *slot, uint32_t *len);

/* op=devices: the disk, in disk.c. */
bool disk_open(void);
void disk_exercise(void);
void disk_report(void);
/* Begin a write, and do not wait for its end. */
void disk_leave(void);

#endif
