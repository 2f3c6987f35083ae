/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-blk of op=devices: one request at a time, polled. A turn reads the place that it is about
 * to write, and compares it with what it wrote there last: a write that a cut lost, or brought back
 * from another time, shows as bad=.
 */
#include "diskwork.h"
#include "virtio.h"

#define BLK_F_FLUSH (1U << 9)
#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define FLUSH_EACH 16
/* In the queue's buffers. */
#define STATUS_AT 16
#define DATA_BUFFER 2

typedef struct BlkHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} BlkHeader;

static Vq queue;
static VirtioDevice disk;
static volatile uint8_t *const status = queue.buffer[0] + STATUS_AT;

bool
disk_open(void)
{
    if (!virtio_find(&disk, VIRTIO_ID_BLOCK, BLK_F_FLUSH))
        return false;
    if (*(volatile uint32_t *)disk.config < GUEST_DISK_BYTES_MIN / 512)
        guest_fail("the disk is smaller than 1 MiB");
    virtio_queue_setup(&disk, &queue, 0);
    virtio_driver_ok(&disk);
    return true;
}

static void
request_begin(uint32_t type, unsigned unit)
{
    BlkHeader *head = (BlkHeader *)queue.buffer[0];
    VqPart parts[3] = {{head, sizeof *head, false}};
    unsigned n = 1;

    head->type = type;
    head->reserved = 0;
    head->sector = type == BLK_FLUSH ? 0 : guest_disk_offset(unit) / 512;
    *status = 0xFF;
    if (type != BLK_FLUSH)
        parts[n++] =
            (VqPart){queue.buffer[DATA_BUFFER], (uint32_t)guest_disk_bytes(unit), type == BLK_IN};
    parts[n++] = (VqPart){queue.buffer[0] + STATUS_AT, 1, true};
    virtio_send_parts(&queue, parts, n);
}

static void
request(uint32_t type, unsigned unit)
{
    unsigned slot;
    uint32_t len;

    request_begin(type, unit);
    while (!virtio_poll(&queue, &slot, &len))
        ;
    if (*status != 0)
        header->devices.disk_errors++;
}

static void
verify(unsigned unit)
{
    uint64_t number = header->devices.disk_number[unit];

    if (number == 0)
        return; /* who knows what is there */
    request(BLK_IN, unit);
    header->devices.disk_reads++;
    if (!guest_disk_is((const uint64_t *)queue.buffer[DATA_BUFFER], unit, number))
        header->devices.disk_bad++;
}

static void
fill(uint64_t number, unsigned unit)
{
    uint64_t *words = (uint64_t *)queue.buffer[DATA_BUFFER];

    for (uint64_t i = 0; i < guest_disk_bytes(unit) / 8; i++)
        words[i] = guest_disk_word(number, i);
}

void
disk_exercise(void)
{
    uint64_t number = header->devices.disk_writes + 1;
    unsigned unit = guest_disk_unit(number);

    if (disk.address == 0)
        return;
    verify(unit);
    fill(number, unit);
    __atomic_store_n(&header->devices.disk_writing, number, __ATOMIC_SEQ_CST);
    request(BLK_OUT, unit);
    __atomic_store_n(&header->devices.disk_number[unit], number, __ATOMIC_SEQ_CST);
    __atomic_store_n(&header->devices.disk_writing, 0, __ATOMIC_SEQ_CST);
    header->devices.disk_writes = number;
    if (number % FLUSH_EACH == 0)
        request(BLK_FLUSH, 0);
}

void
disk_leave(void)
{
    uint64_t number = header->devices.disk_writes + 1;
    unsigned unit = guest_disk_unit(number);

    if (disk.address == 0)
        return;
    fill(number, unit);
    request_begin(BLK_OUT, unit);
}

void
disk_report(void)
{
    const GuestDeviceState *s = &header->devices;

    if (disk.address == 0)
        return;
    out_begin();
    out_text("disk writes=");
    out_number(s->disk_writes);
    out_text(" reads=");
    out_number(s->disk_reads);
    out_text(" bad=");
    out_number(s->disk_bad);
    out_text(" errors=");
    out_number(s->disk_errors);
    out_end();
}
