/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks of a shadow: taking room for blocks, storing them, giving room back. */
#include "standby/diskset.h"
#include "standby/error.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static gboolean
failed(const DiskSet *set, uint32_t disk, int err, GError **error)
{
    g_autofree char *name = disk_set_name(set, disk);
    bool full = err == ENOSPC || err == EDQUOT;

    g_set_error(error, STANDBY_ERROR,
                full ? STANDBY_FULL : DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN,
                "%s cannot be written in %s on the standby host: %s%s", name, set->dir,
                g_strerror(err), full ? ": free some room there" : "");
    return FALSE;
}

/* ---- Filters ---- */

static size_t
filter_bit(uint32_t disk, uint64_t block)
{
    const uint64_t spread = UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / golden ratio */

    return (size_t)((block * spread + disk * (spread << 1)) >> 44) % DISK_FILTER_BITS;
}

/* Does a log have, or seem to have, data for the block? With the lock. */
static bool
is_reserved(const DiskSet *set, uint32_t disk, uint64_t block)
{
    size_t bit = filter_bit(disk, block);

    for (unsigned i = 0; i < LEDGER_SLOTS; i++) {
        if (set->filter[i][bit / 64] & UINT64_C(1) << bit % 64)
            return true;
    }
    return false;
}

static void
filter_fill(DiskSet *set, unsigned i, uint64_t word)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&set->lock);

    for (size_t at = 0; set->n > 0 && at < DISK_FILTER_BITS / 64; at++)
        set->filter[i][at] = word;
}

void
disk_set_unreserve(DiskSet *set, unsigned i)
{
    filter_fill(set, i, 0);
}

void
disk_set_reserve_all(DiskSet *set, unsigned i)
{
    filter_fill(set, i, UINT64_MAX);
}

/* ---- Runs of blocks ---- */

/* Blocks from the first one on that follow each other on the disk and in memory, all with data or
 * all without. */
static uint32_t
run_length(const DecodedPage *blocks, uint32_t count)
{
    uint32_t n = 1;

    while (n < count && blocks[n].index == blocks[0].index + n &&
           (blocks[0].data == NULL ? blocks[n].data == NULL
                                   : blocks[n].data == blocks[0].data + n * PAGE_BYTES))
        n++;
    return n;
}

static int
allocate(int fd, int mode, uint64_t first, uint32_t n)
{
    int done;

    do {
        done = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE_BYTES),
                         (off_t)(n * PAGE_BYTES));
    } while (done != 0 && errno == EINTR);
    return done == 0 ? 0 : errno;
}

gboolean
disk_set_reserve(DiskSet *set, unsigned i, uint32_t disk, const DecodedPage *blocks, uint32_t count,
                 GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&set->lock);
    uint32_t run;

    for (uint32_t at = 0; at < count; at += run) {
        int err;

        run = run_length(blocks + at, count - at);
        if (blocks[at].data == NULL)
            continue;
        for (uint32_t k = 0; k < run; k++) {
            size_t bit = filter_bit(disk, blocks[at + k].index);
            set->filter[i][bit / 64] |= UINT64_C(1) << bit % 64;
        }
        err = allocate(set->files[disk].fd, 0, blocks[at].index, run);
        if (err != 0 && err != EOPNOTSUPP)
            return failed(set, disk, err, error);
    }
    return TRUE;
}

/* ---- Storing ---- */

/* Write n blocks, as far as the disk reaches. */
static int
write_blocks(const DiskFile *file, uint64_t first, uint32_t n, const uint8_t *data)
{
    uint64_t offset = first * PAGE_BYTES;
    size_t len = (size_t)MIN(n * PAGE_BYTES, file->bytes - offset);

    for (size_t done = 0; done < len;) {
        ssize_t put = pwrite(file->fd, data + done, len - done, (off_t)(offset + done));

        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? errno : EIO;
        done += (size_t)put;
    }
    return 0;
}

static int
write_zeros(const DiskFile *file, uint64_t first, uint32_t n)
{
    static const uint8_t zeros[PAGE_BYTES];
    int err = 0;

    for (uint32_t i = 0; err == 0 && i < n; i++)
        err = write_blocks(file, first + i, 1, zeros);
    return err;
}

/* Make n blocks zero, and give their room back unless a log needs it. */
static int
zero_blocks(DiskSet *set, uint32_t disk, uint64_t first, uint32_t n)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&set->lock);
    const DiskFile *file = &set->files[disk];
    int err = 0;

    for (uint32_t at = 0, run; err == 0 && at < n; at += run) {
        bool keep = is_reserved(set, disk, first + at);

        run = 1;
        while (at + run < n && is_reserved(set, disk, first + at + run) == keep)
            run++;
        if (!keep)
            err = allocate(file->fd, FALLOC_FL_PUNCH_HOLE, first + at, run);
        if (keep || err == EOPNOTSUPP)
            err = write_zeros(file, first + at, run);
    }
    return err;
}

gboolean
disk_set_store(DiskSet *set, uint32_t disk, const DecodedPage *blocks, uint32_t count,
               GError **error)
{
    uint32_t run;

    for (uint32_t at = 0; at < count; at += run) {
        const DecodedPage *first = &blocks[at];
        int err;

        run = run_length(first, count - at);
        if (first->data != NULL)
            err = write_blocks(&set->files[disk], first->index, run, first->data);
        else
            err = zero_blocks(set, disk, first->index, run);
        if (err != 0)
            return failed(set, disk, err, error);
    }
    return TRUE;
}
