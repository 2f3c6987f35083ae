/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * op=journal: numbered records on the first virtio-blk, which is a journal (journalwork.h). Each is
 * told once both of its writes have ended. What the guest remembers of the numbers may be older than
 * the journal, after a rollback; it learns that by a write that fails, and reads the head anew.
 */
#include "journalwork.h"
#include "virtio.h"

#define BLK_IN 0
#define BLK_OUT 1
#define STATUS_AT 16
#define DATA_BUFFER 1

typedef struct BlkHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} BlkHeader;

static Vq queue;
static VirtioDevice disk;

static uint64_t *
data(void)
{
    return (uint64_t *)queue.buffer[DATA_BUFFER];
}

/* Move a sector; false: it failed. */
static bool
request(uint32_t type, uint64_t sector)
{
    BlkHeader *head = (BlkHeader *)queue.buffer[0];
    volatile uint8_t *status = queue.buffer[0] + STATUS_AT;
    VqPart parts[3] = {{head, sizeof *head, false},
                       {data(), GUEST_SECTOR_BYTES, type == BLK_IN},
                       {queue.buffer[0] + STATUS_AT, 1, true}};
    unsigned slot;
    uint32_t len;

    head->type = type;
    head->reserved = 0;
    head->sector = sector;
    *status = 0xFF;
    virtio_send_parts(&queue, parts, 3);
    while (!virtio_poll(&queue, &slot, &len))
        ;
    return *status == 0;
}

static void
say(const char *what, uint64_t number)
{
    out_begin();
    out_text(what);
    out_number(number);
    out_end();
}

static uint64_t
head_read(void)
{
    uint64_t number;

    if (!request(BLK_IN, 0))
        guest_fail("the journal cannot be read");
    number = data()[0];
    if (number != 0 && !guest_journal_is(data(), number))
        guest_fail("the head of the journal is torn");
    return number;
}

static bool
sector_write(uint64_t sector, uint64_t number)
{
    for (uint64_t i = 0; i < GUEST_SECTOR_WORDS; i++)
        data()[i] = guest_disk_word(number, i);
    return request(BLK_OUT, sector);
}

void
journal_run(void)
{
    const GuestParams *params = &header->params;
    uint64_t last, done = 0;

    if (!virtio_find(&disk, VIRTIO_ID_BLOCK, 0))
        guest_fail("no virtio-blk on PCI bus 0");
    virtio_queue_setup(&disk, &queue, 0);
    virtio_driver_ok(&disk);
    last = head_read();
    say("ready op=journal last=", last);
    while (params->rounds == 0 || done < params->rounds) {
        if (sector_write(guest_journal_sector(last + 1), last + 1) && sector_write(0, last + 1)) {
            last++;
            done++;
            say("journal ", last);
        } else {
            last = head_read();
            say("journal goes on after ", last);
        }
        busy_wait(params->delay);
    }
}
