/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a virtio-blk request asks for. Everything in it is the guest's and may be anything. */
#include "vmm/devices/virtio_blk.h"

#include "common/page.h"

/* Request types (§5.2.6). */
enum {
    BLK_T_IN = 0,
    BLK_T_OUT = 1,
    BLK_T_FLUSH = 4,
    BLK_T_GET_ID = 8,
    BLK_T_DISCARD = 11,
    BLK_T_WRITE_ZEROES = 13,
};

/* The fixed part, device-readable; x86-64 is little-endian as virtio is. */
typedef struct BlkHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} BlkHeader;

/* Data of a discard or write-zeroes: one of these, as we offer one segment. */
typedef struct BlkRange {
    uint64_t sector;
    uint32_t n_sectors;
    uint32_t flags;
} BlkRange;
#define RANGE_UNMAP 1u

static void
refuse(BlkCommand *command, uint8_t status)
{
    command->op = BLK_OP_REFUSE;
    command->status = status;
}

/* Set the range if it lies on the disk, else refuse. */
static void
set_range(BlkCommand *command, BlkOp op, uint64_t sector, uint64_t n_sectors, uint64_t sectors)
{
    command->op = op;
    if (n_sectors == 0 || sector > sectors || n_sectors > sectors - sector) {
        refuse(command, BLK_STATUS_IOERR);
        return;
    }
    command->offset = sector * SECTOR_BYTES;
    command->len = n_sectors * SECTOR_BYTES;
}

static void
parse_transfer(BlkCommand *command, BlkOp op, uint64_t sector, uint64_t bytes, uint64_t sectors)
{
    if (bytes % SECTOR_BYTES != 0 || bytes > BLK_DATA_MAX)
        refuse(command, BLK_STATUS_IOERR);
    else
        set_range(command, op, sector, bytes / SECTOR_BYTES, sectors);
}

static void
parse_range(BlkCommand *command, const VirtChain *chain, BlkOp op, uint64_t sectors)
{
    BlkRange range;

    if (chain->out_len != sizeof(BlkHeader) + sizeof range) {
        refuse(command, BLK_STATUS_IOERR);
        return;
    }
    virtchain_read(chain, sizeof(BlkHeader), &range, sizeof range);
    if (range.flags & ~(op == BLK_OP_ZERO ? RANGE_UNMAP : 0)) {
        refuse(command, BLK_STATUS_UNSUPP); /* §5.2.6.2 */
        return;
    }
    command->unmap = range.flags & RANGE_UNMAP;
    if (range.n_sectors > BLK_RANGE_SECTORS_MAX)
        refuse(command, BLK_STATUS_IOERR);
    else
        set_range(command, op, range.sector, range.n_sectors, sectors);
}

static void
parse_id(BlkCommand *command, uint64_t bytes)
{
    command->op = BLK_OP_ID;
    command->len = bytes;
    if (bytes > BLK_DATA_MAX)
        refuse(command, BLK_STATUS_IOERR);
}

bool
blk_command_parse(const VirtChain *chain, uint64_t sectors, bool read_only, BlkCommand *command)
{
    BlkHeader header;

    *command = (BlkCommand){.op = BLK_OP_REFUSE, .status = BLK_STATUS_UNSUPP};
    if (chain->in_len < 1 || virtchain_read(chain, 0, &header, sizeof header) != sizeof header)
        return false;
    switch (header.type) {
    case BLK_T_IN:
        parse_transfer(command, BLK_OP_READ, header.sector, chain->in_len - 1, sectors);
        break;
    case BLK_T_OUT:
        parse_transfer(command, BLK_OP_WRITE, header.sector, chain->out_len - sizeof header,
                       sectors);
        break;
    case BLK_T_FLUSH:
        command->op = BLK_OP_FLUSH;
        break;
    case BLK_T_GET_ID:
        parse_id(command, chain->in_len - 1);
        break;
    case BLK_T_DISCARD:
        parse_range(command, chain, BLK_OP_DISCARD, sectors);
        break;
    case BLK_T_WRITE_ZEROES:
        parse_range(command, chain, BLK_OP_ZERO, sectors);
        break;
    default:
        break;
    }
    if (read_only && (command->op == BLK_OP_WRITE || command->op == BLK_OP_ZERO ||
                      command->op == BLK_OP_DISCARD))
        refuse(command, BLK_STATUS_IOERR);
    return true;
}
