/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-blk (virtio 1.2 §5.2) on a disk of disk/disk.h.
 *
 * Theory of operation. Data goes through a buffer of the request's own: the disk never has guest
 * memory in hand. So a stop does not wait for a disk. A request whose disk part ends while the
 * device is stopped is returned to the guest at the next start. Requests that have not been
 * returned are saved by the head of their chain; a restored device reads the chains again and
 * begins them anew. That they may have been done before, whole or in part, does no harm: the guest
 * has not been told, and a write has the same data in guest memory still.
 *
 * A driver that resets the device loses its requests; those that are with the disk end without
 * anyone being told. Until they have, no new one is begun: an old write must not overtake a new one.
 *
 * Memory for requests is bounded by CHARGE_LIMIT. When it is used up, queues are not served until
 * requests have ended.
 *
 * A journal is a disk that a restore does not take back to what it was at the cut. There, a request
 * that was under way at the cut must not be begun anew: it may have ended since, and others, of
 * which somebody has been told, may have been written over it. Nor may a guest that goes on from the
 * cut write what it has decided before it knew of them. So a journal that is restored is stale:
 * writes, those under way at the cut too, end with an I/O error until the guest has read the first
 * sector. Only where no guest has gone on from the state (a hand-over) is nothing stale, and requests
 * are begun anew as on any disk. It knows neither discard nor write-zeroes.
 *
 * Every request is with the main thread, except that a reset may come from a vCPU's.
 */
#include "vmm/devices/virtio_blk.h"

#include "vmm/devices/devices.h"
#include "vmm/devices/state.h"

#include <string.h>

#define BLK_QUEUE_SIZE 256

/* More feature bits (§5.2.3) and configuration (§5.2.4). */
#define BLK_F_SIZE_MAX 1
#define BLK_F_SEG_MAX 2
#define BLK_F_RO 5
#define BLK_F_BLK_SIZE 6
#define BLK_F_TOPOLOGY 10
#define BLK_F_MQ 12
#define BLK_F_DISCARD 13
#define BLK_F_WRITE_ZEROES 14
#define CONFIG_CAPACITY 0
#define CONFIG_SIZE_MAX 8
#define CONFIG_SEG_MAX 12
#define CONFIG_BLK_SIZE 20
#define CONFIG_PHYSICAL_EXPONENT 24
#define CONFIG_MIN_IO 26
#define CONFIG_NUM_QUEUES 34
#define CONFIG_DISCARD_SECTORS 36
#define CONFIG_DISCARD_SEGMENTS 40
#define CONFIG_DISCARD_ALIGNMENT 44
#define CONFIG_ZEROES_SECTORS 48
#define CONFIG_ZEROES_SEGMENTS 52
#define CONFIG_ZEROES_MAY_UNMAP 56
#define CONFIG_BYTES 60
/* Header and status take two descriptors of a chain. Together the limits keep requests below
 * BLK_DATA_MAX. */
#define SEGMENTS_MAX (BLK_QUEUE_SIZE - 2)
#define SEGMENT_BYTES_MAX PAGE_BYTES
#define BLOCK_SECTORS (PAGE_BYTES / SECTOR_BYTES)

/* ---- The device ---- */

static void
blk_stop(Device *device)
{
    VirtioBlk *blk = device->opaque;

    virtio_stop(&blk->virtio);
}

static void
blk_start(Device *device)
{
    VirtioBlk *blk = device->opaque;

    virtio_start(&blk->virtio);
    blk_resume(blk);
}

/* Heads of requests that the guest has not got back. */
typedef struct BlkDump {
    District__VirtioBlkQueueState queues[VIRTIO_QUEUES_MAX];
    District__VirtioBlkQueueState *list[VIRTIO_QUEUES_MAX];
    uint32_t heads[VIRTIO_QUEUES_MAX][BLK_QUEUE_SIZE];
} BlkDump;

static void
dump_heads(BlkDump *dump, const GQueue *list)
{
    for (const GList *at = list->head; at != NULL; at = at->next) {
        const BlkRequest *r = at->data;

        /* A queue gives no more chains than it has descriptors. */
        dump->heads[r->queue][dump->queues[r->queue].n_heads++] = r->head;
    }
}

static void
blk_dump(Device *device, GByteArray *out)
{
    VirtioBlk *blk = device->opaque;
    District__VirtioBlkState state = DISTRICT__VIRTIO_BLK_STATE__INIT;
    BlkDump dump;
    VirtioDump virtio;

    virtio_dump(&blk->virtio, &virtio);
    state.virtio = &virtio.state;
    state.sectors = disk_bytes(blk->disk) / SECTOR_BYTES;
    state.stale = blk->stale;
    for (unsigned i = 0; i < blk->ops.n_queues; i++) {
        district__virtio_blk_queue_state__init(&dump.queues[i]);
        dump.queues[i].heads = dump.heads[i];
        dump.list[i] = &dump.queues[i];
    }
    dump_heads(&dump, &blk->waiting);
    dump_heads(&dump, &blk->held);
    state.queues = dump.list;
    state.n_queues = blk->ops.n_queues;
    state_append(out, &state.base);
}

static gboolean
check_state(const VirtioBlk *blk, const District__VirtioBlkState *state, GError **error)
{
    uint64_t sectors = disk_bytes(blk->disk) / SECTOR_BYTES;
    size_t in_flight[VIRTIO_QUEUES_MAX];

    if (state->sectors != sectors)
        return state_refuse(error, blk->ops.kind,
                            "its disk has %" G_GUINT64_FORMAT
                            " sectors, this one %" G_GUINT64_FORMAT
                            "; start the member with the disk it was saved with",
                            (guint64)state->sectors, (guint64)sectors);
    if (state->stale && !blk->journal)
        return state_refuse(error, blk->ops.kind, "only a journal can be stale");
    if (state->n_queues != blk->ops.n_queues)
        return state_refuse(error, blk->ops.kind, "%zu queues, not %u", state->n_queues,
                            blk->ops.n_queues);
    for (size_t i = 0; i < state->n_queues; i++)
        in_flight[i] = state->queues[i]->n_heads;
    if (!virtio_check_state(&blk->virtio, state->virtio, in_flight, error))
        return FALSE;
    for (size_t i = 0; i < state->n_queues; i++) {
        for (size_t k = 0; k < in_flight[i]; k++) {
            if (state->queues[i]->heads[k] >= state->virtio->queues[i]->size)
                return state_refuse(error, blk->ops.kind, "request %u in a queue of %u",
                                    state->queues[i]->heads[k], state->virtio->queues[i]->size);
        }
    }
    return TRUE;
}

STATE_DEFINE_AUTOPTR(District__VirtioBlkState)

static gboolean
blk_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    VirtioBlk *blk = device->opaque;
    g_autoptr(District__VirtioBlkState) state = (District__VirtioBlkState *)state_parse(
        blk->ops.kind, &district__virtio_blk_state__descriptor, data, len, error);

    if (!state || !check_state(blk, state, error))
        return FALSE;
    blk_reset(&blk->virtio);
    blk->stale = state->stale || (blk->journal && machine_restore_goes_back(blk->virtio.machine));
    virtio_restore(&blk->virtio, state->virtio);
    for (unsigned i = 0; i < state->n_queues; i++) {
        for (size_t k = 0; k < state->queues[i]->n_heads; k++)
            blk_add_waiting(blk, i, (uint16_t)state->queues[i]->heads[k]);
    }
    return TRUE;
}

static const DeviceOps blk_ops = {
    .kind = "virtio-blk",
    .version = 1,
    .stop = blk_stop,
    .dump = blk_dump,
    .restore = blk_restore,
    .start = blk_start,
};

static const VirtioOps blk_virtio_ops = {
    .kind = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x010000,
    .features = 1u << BLK_F_SIZE_MAX | 1u << BLK_F_SEG_MAX | 1u << BLK_F_BLK_SIZE |
                1u << BLK_F_FLUSH | 1u << BLK_F_TOPOLOGY | 1u << BLK_F_MQ,
    .queue_size = BLK_QUEUE_SIZE,
    .config_len = CONFIG_BYTES,
    .serve = blk_serve,
    .reset = blk_reset,
};

static void
set_config(VirtioBlk *blk, unsigned offset, uint64_t value, unsigned bytes)
{
    memcpy(blk->virtio.config + offset, &value, bytes);
}

static void
init_config(VirtioBlk *blk)
{
    set_config(blk, CONFIG_CAPACITY, disk_bytes(blk->disk) / SECTOR_BYTES, 8);
    set_config(blk, CONFIG_SIZE_MAX, SEGMENT_BYTES_MAX, 4);
    set_config(blk, CONFIG_SEG_MAX, SEGMENTS_MAX, 4);
    set_config(blk, CONFIG_BLK_SIZE, SECTOR_BYTES, 4);
    /* Blocks of 4096 bytes are what the overlay keeps: parts of one cost a read. */
    set_config(blk, CONFIG_PHYSICAL_EXPONENT, PAGE_SHIFT_4K - 9, 1);
    set_config(blk, CONFIG_MIN_IO, BLOCK_SECTORS, 2);
    set_config(blk, CONFIG_NUM_QUEUES, blk->ops.n_queues, 2);
    if (disk_read_only(blk->disk) || blk->journal)
        return;
    set_config(blk, CONFIG_DISCARD_SECTORS, BLK_RANGE_SECTORS_MAX, 4);
    set_config(blk, CONFIG_DISCARD_SEGMENTS, 1, 4);
    set_config(blk, CONFIG_DISCARD_ALIGNMENT, BLOCK_SECTORS, 4);
    set_config(blk, CONFIG_ZEROES_SECTORS, BLK_RANGE_SECTORS_MAX, 4);
    set_config(blk, CONFIG_ZEROES_SEGMENTS, 1, 4);
    set_config(blk, CONFIG_ZEROES_MAY_UNMAP, 1, 1);
}

static uint64_t
more_features(const VirtioBlk *blk)
{
    if (disk_read_only(blk->disk))
        return 1u << BLK_F_RO;
    return blk->journal ? 0 : 1u << BLK_F_DISCARD | 1u << BLK_F_WRITE_ZEROES;
}

static gboolean
blk_init(Machine *m, PciHost *pci, Disk *disk, const char *id, unsigned n_queues, bool journal,
         GError **error)
{
    static uint32_t instances;
    VirtioBlk *blk = g_new0(VirtioBlk, 1);

    blk->device.ops = &blk_ops;
    blk->device.opaque = blk;
    blk->device.instance = instances;
    blk->disk = disk;
    blk->journal = journal;
    memcpy(blk->id, id, MIN(strlen(id), sizeof blk->id));
    g_queue_init(&blk->waiting);
    g_queue_init(&blk->held);
    blk->ops = blk_virtio_ops;
    blk->ops.n_queues = CLAMP(n_queues, 1, VIRTIO_QUEUES_MAX);
    blk->ops.features |= more_features(blk);
    init_config(blk);
    if (!virtio_init(&blk->virtio, pci, &blk->ops, blk, error))
        return FALSE; /* sources refer to it: it stays; the process ends */
    instances++;
    machine_add_device(m, &blk->device);
    return TRUE;
}

gboolean
virtio_blk_init(Machine *m, PciHost *pci, Disk *disk, const char *id, unsigned n_queues,
                GError **error)
{
    return blk_init(m, pci, disk, id, n_queues, false, error);
}

gboolean
virtio_blk_init_journal(Machine *m, PciHost *pci, Disk *disk, GError **error)
{
    return blk_init(m, pci, disk, "journal", 1, true, error);
}
