/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of virtio-blk: virtio_blk.c has the device and its theory of operation, virtio_blk_request.c
 * the life of a request, virtio_blk_command.c what one asks for (virtio 1.2 §5.2.6).
 */
#ifndef DISTRICT_VMM_DEVICES_VIRTIO_BLK_H
#define DISTRICT_VMM_DEVICES_VIRTIO_BLK_H

#include "disk/disk.h"
#include "vmm/devices/virtio_pci.h"

/* Status byte. */
#define BLK_STATUS_OK 0
#define BLK_STATUS_IOERR 1
#define BLK_STATUS_UNSUPP 2

/* Most data of one request, bytes. Drivers are told less (SEG_MAX, SIZE_MAX). */
#define BLK_DATA_MAX (1024 * 1024)
/* Most sectors that one discard or write-zeroes covers: 64 MiB, which a disk does at once. */
#define BLK_RANGE_SECTORS_MAX (64 * 2048)

typedef enum BlkOp {
    BLK_OP_REFUSE, /* nothing to do: status says why */
    BLK_OP_READ,
    BLK_OP_WRITE,
    BLK_OP_FLUSH,
    BLK_OP_ID,
    BLK_OP_ZERO,
    BLK_OP_DISCARD,
} BlkOp;

/* What a request asks for, checked. */
typedef struct BlkCommand {
    BlkOp op;
    uint8_t status;  /* of BLK_OP_REFUSE */
    bool unmap;      /* of BLK_OP_ZERO */
    uint64_t offset; /* on the disk, bytes */
    uint64_t len;    /* of the range on the disk; of BLK_OP_ID: of the answer */
} BlkCommand;

#define BLK_ID_BYTES 20
#define BLK_F_FLUSH 9 /* §5.2.3 */

typedef struct VirtioBlk VirtioBlk;

/* The life of a request. */
typedef enum BlkState {
    BLK_WAITING,   /* restored, not begun yet; in blk->waiting */
    BLK_UNDER_WAY, /* with the disk; in blk->held as the two below */
    BLK_ENDED,     /* to be returned to the guest at the next start */
    BLK_STUCK,     /* its chain makes no sense any more: stays until a reset */
    BLK_ORPHAN,    /* with the disk, of a driver that is gone; in no list */
} BlkState;

typedef struct BlkRequest {
    GList link;
    VirtioBlk *blk;
    BlkState state;
    unsigned queue;
    uint16_t head;
    BlkCommand command;
    uint8_t status;
    bool flushed; /* a write that is durable, for a driver that knows no flushes */
    size_t charge;
    uint8_t *data;  /* command.len bytes, for those that carry data */
    VirtBuffer *in; /* the chain's device-writable part */
    unsigned n_in;
} BlkRequest;

struct VirtioBlk {
    Device device;
    VirtioDevice virtio;
    VirtioOps ops;
    Disk *disk;
    char id[BLK_ID_BYTES]; /* padded with NUL */
    bool journal;
    bool stale; /* a journal: no writes before its first sector has been read */
    GQueue waiting;
    GQueue held;
    unsigned orphans;
    size_t charged;
    uint32_t starved; /* queues left alone for want of room, one bit each */
    VirtChain chain;
};

/* ---- virtio_blk_command.c ---- */
/* False if the chain has no header, or no place for the status: it cannot even be refused. */
bool blk_command_parse(const VirtChain *chain, uint64_t sectors, bool read_only,
                       BlkCommand *command);

/* ---- virtio_blk_request.c: main thread, machine lock held; blk_reset on any ---- */
/* A request that is saved in a state, to be begun when the device starts. */
void blk_add_waiting(VirtioBlk *blk, unsigned queue, uint16_t head);
/* Return what has ended while the device was stopped, and begin what waits. */
void blk_resume(VirtioBlk *blk);
/* VirtioOps. */
void blk_serve(VirtioDevice *virtio, unsigned index);
void blk_reset(VirtioDevice *virtio);

#endif
