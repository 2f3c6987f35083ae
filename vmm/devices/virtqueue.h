/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Split virtqueues, device side (virtio 1.2 §2.7).
 *
 * A device takes a chain of buffers (virtqueue_pop), reads its `out` part and writes its `in` part,
 * and gives it back (virtqueue_push) with the count of bytes written, which are marked dirty then.
 * Several chains may be out at a time and come back in any order. Then it asks whether to interrupt
 * (virtqueue_interrupt_needed).
 *
 * Rings and descriptors are in guest memory and the guest may change them at any moment: each field
 * is read once, checked, and only the copy used. What cannot be right (an index out of range, a
 * buffer that is not RAM, a chain longer than the queue) makes the queue broken; it then gives no
 * more chains until reset, and the transport tells the driver with NEEDS_RESET. Memory that is
 * handed out stays mapped, so a late guest write can spoil its own data and nothing else.
 *
 * All calls with the machine lock held.
 */
#ifndef DISTRICT_VMM_DEVICES_VIRTQUEUE_H
#define DISTRICT_VMM_DEVICES_VIRTQUEUE_H

#include "vmm/machine.h"

#include "devices.pb-c.h"

/* Largest queue offered, and so the longest chain. Power of two. */
#define VIRTQUEUE_SIZE_MAX 256

typedef struct VirtBuffer {
    uint64_t gpa;
    uint8_t *data; /* the same in this process */
    uint32_t len;  /* never 0 */
} VirtBuffer;

/* One request. About 6 KiB: belongs into the device or on the stack once, not into a list. */
typedef struct VirtChain {
    uint16_t head;
    unsigned n_out; /* device-readable buffers, first in the array */
    unsigned n_in;  /* device-writable buffers, after them */
    uint64_t out_len;
    uint64_t in_len;
    VirtBuffer buffers[VIRTQUEUE_SIZE_MAX];
} VirtChain;

typedef struct VirtQueue {
    Machine *machine;
    uint16_t size_max; /* offered */
    uint16_t size;     /* chosen by the driver, power of two */
    bool enabled;
    bool broken;
    bool event_idx; /* VIRTIO_RING_F_EVENT_IDX was negotiated */
    bool indirect;  /* VIRTIO_RING_F_INDIRECT_DESC was negotiated */
    uint64_t desc_gpa, avail_gpa, used_gpa;
    /* The rings in this process; NULL until first use. */
    uint8_t *desc, *avail, *used;
    uint16_t last_avail; /* next index to take from the available ring */
    uint16_t used_idx;   /* as published in the used ring */
    uint16_t signalled;  /* used_idx when an interrupt was last decided on */
} VirtQueue;

typedef enum {
    VIRTQUEUE_CHAIN, /* chain is filled in */
    VIRTQUEUE_EMPTY, /* nothing available; the driver will notify when there is */
    VIRTQUEUE_STOP,  /* not enabled, or broken */
} VirtQueueResult;

void virtqueue_init(VirtQueue *queue, Machine *m, uint16_t size_max);
/* As after power-on. */
void virtqueue_reset(VirtQueue *queue);

VirtQueueResult virtqueue_pop(VirtQueue *queue, VirtChain *chain);
/*
 * Load the chain with this head again, that was popped before a save and not returned. False: the
 * queue is not in use, or what is there now cannot be right; then the queue is broken.
 */
bool virtqueue_take_head(VirtQueue *queue, VirtChain *chain, uint16_t head);
/* Put the chain popped last back, as if it had not been taken; n_chains undoes that many. */
void virtqueue_unpop(VirtQueue *queue, unsigned n_chains);
/* Return the chain with this head; the first written bytes of its in buffers hold data. */
void virtqueue_push(VirtQueue *queue, const VirtChain *chain, uint64_t written);
/* §2.7.7: must the driver be interrupted for what was pushed since the last call? */
bool virtqueue_interrupt_needed(VirtQueue *queue);

/* Copy up to len bytes, starting offset bytes into the chain's out or in part; returns the count.
 */
size_t virtchain_read(const VirtChain *chain, uint64_t offset, void *to, size_t len);
size_t virtchain_write(const VirtChain *chain, uint64_t offset, const void *from, size_t len);

void virtqueue_dump(const VirtQueue *queue, District__VirtQueueState *state);
/* Only ranges are checked here; ring addresses are when they are used. in_flight: chains that had
 * been taken and not returned. */
gboolean virtqueue_check_state(const VirtQueue *queue, const District__VirtQueueState *state,
                               size_t in_flight, const char *kind, GError **error);
void virtqueue_restore(VirtQueue *queue, const District__VirtQueueState *state);

#endif
