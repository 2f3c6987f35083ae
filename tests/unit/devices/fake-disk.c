/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk in memory; see fake-disk.h. */
#include "fake-disk.h"

#include <string.h>

typedef enum FakeOp { FAKE_READ, FAKE_WRITE, FAKE_FLUSH, FAKE_ZERO, FAKE_DISCARD } FakeOp;

typedef struct FakeRequest {
    FakeOp op;
    uint64_t offset, len;
    uint8_t *buf;
    DiskDone done;
    void *opaque;
} FakeRequest;

struct Disk {
    uint64_t bytes;
    bool read_only, hold;
    uint8_t *data;
    GQueue pending; /* of FakeRequest */
    guint source;
    unsigned flushes, unmaps, discards;
};

/* Keeps all disks reachable, for the leak checker. */
static GPtrArray *disks;

Disk *
fake_disk_new(uint64_t bytes, bool read_only)
{
    Disk *disk = g_new0(Disk, 1);

    disk->bytes = bytes;
    disk->read_only = read_only;
    disk->data = g_malloc0(bytes);
    g_queue_init(&disk->pending);
    if (!disks)
        disks = g_ptr_array_new();
    g_ptr_array_add(disks, disk);
    return disk;
}

uint8_t *
fake_disk_data(Disk *disk)
{
    return disk->data;
}

unsigned
fake_disk_pending(const Disk *disk)
{
    return disk->pending.length;
}

size_t
fake_disk_pending_bytes(const Disk *disk)
{
    size_t bytes = 0;

    for (const GList *at = disk->pending.head; at != NULL; at = at->next) {
        const FakeRequest *r = at->data;

        bytes += r->buf != NULL ? r->len : 0;
    }
    return bytes;
}

unsigned
fake_disk_flushes(const Disk *disk)
{
    return disk->flushes;
}

unsigned
fake_disk_unmaps(const Disk *disk)
{
    return disk->unmaps;
}

unsigned
fake_disk_discards(const Disk *disk)
{
    return disk->discards;
}

static void
carry_out(Disk *disk, const FakeRequest *r)
{
    switch (r->op) {
    case FAKE_READ:
        memcpy(r->buf, disk->data + r->offset, r->len);
        break;
    case FAKE_WRITE:
        memcpy(disk->data + r->offset, r->buf, r->len);
        break;
    case FAKE_ZERO:
        memset(disk->data + r->offset, 0, r->len);
        break;
    default:
        break;
    }
}

void
fake_disk_end(Disk *disk, unsigned n, int error)
{
    for (; n > 0; n--) {
        FakeRequest *r = g_queue_pop_head(&disk->pending);

        g_assert_nonnull(r);
        if (error == 0)
            carry_out(disk, r);
        r->done(r->opaque, error);
        g_free(r);
    }
}

static gboolean
end_all(gpointer opaque)
{
    Disk *disk = opaque;

    disk->source = 0;
    if (!disk->hold)
        fake_disk_end(disk, disk->pending.length, 0);
    return G_SOURCE_REMOVE;
}

static void
wake(Disk *disk)
{
    if (!disk->hold && disk->source == 0 && disk->pending.length > 0)
        disk->source = g_idle_add(end_all, disk);
}

void
fake_disk_hold(Disk *disk, bool hold)
{
    disk->hold = hold;
    wake(disk);
}

static void
request(Disk *disk, FakeOp op, uint64_t offset, void *buf, uint64_t len, DiskDone done,
        void *opaque)
{
    FakeRequest *r = g_new(FakeRequest, 1);

    *r = (FakeRequest){op, offset, len, buf, done, opaque};
    if (op != FAKE_FLUSH) {
        g_assert_cmpuint(len, >, 0);
        g_assert_cmpuint((offset | len) % SECTOR_BYTES, ==, 0);
        g_assert_true(offset <= disk->bytes && len <= disk->bytes - offset);
    }
    g_assert_false(disk->read_only && op != FAKE_READ && op != FAKE_FLUSH);
    g_queue_push_tail(&disk->pending, r);
    wake(disk);
}

/* ---- disk/disk.h, as much of it as devices use ---- */

uint64_t
disk_bytes(const Disk *disk)
{
    return disk->bytes;
}

bool
disk_read_only(const Disk *disk)
{
    return disk->read_only;
}

void
disk_read(Disk *disk, uint64_t offset, void *buf, size_t len, DiskDone done, void *opaque)
{
    request(disk, FAKE_READ, offset, buf, len, done, opaque);
}

void
disk_write(Disk *disk, uint64_t offset, const void *buf, size_t len, DiskDone done, void *opaque)
{
    request(disk, FAKE_WRITE, offset, (void *)buf, len, done, opaque);
}

void
disk_flush(Disk *disk, DiskDone done, void *opaque)
{
    disk->flushes++;
    request(disk, FAKE_FLUSH, 0, NULL, 0, done, opaque);
}

void
disk_zero(Disk *disk, uint64_t offset, uint64_t len, bool unmap, DiskDone done, void *opaque)
{
    disk->unmaps += unmap;
    request(disk, FAKE_ZERO, offset, NULL, len, done, opaque);
}

void
disk_discard(Disk *disk, uint64_t offset, uint64_t len, DiskDone done, void *opaque)
{
    disk->discards++;
    request(disk, FAKE_DISCARD, offset, NULL, len, done, opaque);
}
