/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a virtio-blk request: from its queue to the disk and back to the guest. */
#include "vmm/devices/virtio_blk.h"

#include "vmm/devices/devices.h"

#include <string.h>

/* What a request may cost at most, and all of a device's. */
#define CHARGE_MAX (BLK_DATA_MAX + VIRTQUEUE_SIZE_MAX * sizeof(VirtBuffer) + sizeof(BlkRequest))
#define CHARGE_LIMIT (4 * (size_t)BLK_DATA_MAX)

/* Requests with any disk. */
static unsigned under_way;

bool
virtio_blk_idle(void)
{
    return under_way == 0;
}

static void blk_go_on(VirtioBlk *blk);

/* ---- Requests ---- */

static BlkRequest *
request_new(VirtioBlk *blk, unsigned queue, uint16_t head, BlkState state)
{
    BlkRequest *r = g_new0(BlkRequest, 1);

    r->link.data = r;
    r->blk = blk;
    r->state = state;
    r->queue = queue;
    r->head = head;
    r->charge = sizeof *r;
    blk->charged += r->charge;
    return r;
}

/* It is in no list. */
static void
request_free(BlkRequest *r)
{
    r->blk->charged -= r->charge;
    g_free(r->data);
    g_free(r->in);
    g_free(r);
}

static bool
carries_data(const BlkCommand *command)
{
    return command->op == BLK_OP_READ || command->op == BLK_OP_WRITE || command->op == BLK_OP_ID;
}

/* Return it to the guest, and forget it. */
static void
request_return(BlkRequest *r)
{
    VirtioBlk *blk = r->blk;
    VirtChain *chain = &blk->chain;
    const VirtBuffer *last = &r->in[r->n_in - 1];
    uint64_t written = 1;

    chain->head = r->head;
    chain->n_out = 0;
    chain->n_in = r->n_in;
    chain->in_len = 0;
    memcpy(chain->buffers, r->in, r->n_in * sizeof *r->in);
    for (unsigned i = 0; i < r->n_in; i++)
        chain->in_len += r->in[i].len;
    if (r->status == BLK_STATUS_OK && r->command.op != BLK_OP_WRITE && r->data != NULL)
        written += virtchain_write(chain, 0, r->data, r->command.len);
    virtchain_write(chain, chain->in_len - 1, &r->status, 1);
    machine_mark_dirty(blk->virtio.machine, last->gpa + last->len - 1, 1);
    /* What is said to be written is so from the start; the status alone is at the end. */
    virtqueue_push(virtio_queue(&blk->virtio, r->queue), chain,
                   written == chain->in_len ? written : 0);
    virtio_queue_done(&blk->virtio, r->queue);
    g_queue_unlink(&blk->held, &r->link);
    request_free(r);
}

static void
request_end(BlkRequest *r, uint8_t status)
{
    /* The guest knows now what is in a journal. */
    if (r->command.op == BLK_OP_READ && r->command.offset == 0 && r->command.len > 0 &&
        status == BLK_STATUS_OK)
        r->blk->stale = false;
    r->status = status;
    r->state = BLK_ENDED;
    if (r->blk->virtio.running)
        request_return(r);
}

static void request_done(void *opaque, int error);

/* A driver that has not negotiated FLUSH takes what has ended for durable (§5.2.6.2). */
static bool
request_must_flush(const BlkRequest *r)
{
    BlkOp op = r->command.op;

    return !r->flushed && !r->blk->journal &&
           (op == BLK_OP_WRITE || op == BLK_OP_ZERO || op == BLK_OP_DISCARD) &&
           !virtio_has_feature(&r->blk->virtio, BLK_F_FLUSH);
}

/* The disk has done it. From the main loop. */
static void
request_done(void *opaque, int error)
{
    BlkRequest *r = opaque;
    VirtioBlk *blk = r->blk;
    Machine *m = blk->virtio.machine;

    machine_lock(m);
    under_way--;
    if (r->state == BLK_ORPHAN) {
        blk->orphans--;
        request_free(r);
    } else if (error == 0 && request_must_flush(r)) {
        r->flushed = true;
        under_way++;
        disk_flush(blk->disk, request_done, r);
    } else {
        request_end(r, error == 0 ? BLK_STATUS_OK : BLK_STATUS_IOERR);
    }
    blk_go_on(blk);
    machine_unlock(m);
}

static void
request_start(BlkRequest *r)
{
    const BlkCommand *c = &r->command;
    Disk *disk = r->blk->disk;

    under_way++;
    switch (c->op) {
    case BLK_OP_READ:
        disk_read(disk, c->offset, r->data, c->len, request_done, r);
        break;
    case BLK_OP_WRITE:
        disk_write(disk, c->offset, r->data, c->len, request_done, r);
        break;
    case BLK_OP_FLUSH:
        disk_flush(disk, request_done, r);
        break;
    case BLK_OP_ZERO:
        disk_zero(disk, c->offset, c->len, c->unmap, request_done, r);
        break;
    case BLK_OP_DISCARD:
        disk_discard(disk, c->offset, c->len, request_done, r);
        break;
    case BLK_OP_ID:
    case BLK_OP_REFUSE:
        under_way--;
        request_end(r, c->op == BLK_OP_ID ? BLK_STATUS_OK : c->status);
    }
}

/* Take what is needed of the chain in blk->chain. */
static void
request_load(BlkRequest *r)
{
    VirtioBlk *blk = r->blk;
    const VirtChain *chain = &blk->chain;
    size_t charge = chain->n_in * sizeof(VirtBuffer);

    r->n_in = chain->n_in;
    r->in = g_memdup2(chain->buffers + chain->n_out, charge);
    if (carries_data(&r->command)) {
        charge += r->command.len;
        /* Filled as a whole here, or by a read that succeeds, before anyone else sees it. */
        r->data = r->command.op == BLK_OP_ID ? g_malloc0(r->command.len) : g_malloc(r->command.len);
    }
    if (r->command.op == BLK_OP_WRITE)
        virtchain_read(chain, chain->out_len - r->command.len, r->data, r->command.len);
    else if (r->command.op == BLK_OP_ID)
        memcpy(r->data, blk->id, MIN(r->command.len, sizeof blk->id));
    r->charge += charge;
    blk->charged += charge;
}

/* What a journal does not do, or not now. */
static void
request_check_journal(BlkRequest *r)
{
    BlkCommand *c = &r->command;

    if (c->op == BLK_OP_ZERO || c->op == BLK_OP_DISCARD)
        *c = (BlkCommand){.op = BLK_OP_REFUSE, .status = BLK_STATUS_UNSUPP};
    else if (c->op == BLK_OP_WRITE && r->blk->stale)
        *c = (BlkCommand){.op = BLK_OP_REFUSE, .status = BLK_STATUS_IOERR};
}

/* Begin the request whose chain is in blk->chain. False if that cannot be a request. */
static bool
request_begin(BlkRequest *r)
{
    VirtioBlk *blk = r->blk;

    if (!blk_command_parse(&blk->chain, disk_bytes(blk->disk) / SECTOR_BYTES,
                           disk_read_only(blk->disk), &r->command))
        return false;
    if (blk->journal)
        request_check_journal(r);
    request_load(r);
    r->state = BLK_UNDER_WAY;
    g_queue_push_tail_link(&blk->held, &r->link);
    request_start(r);
    return true;
}

/* ---- Queues ---- */

static bool
blk_has_room(const VirtioBlk *blk)
{
    return blk->orphans == 0 && blk->charged <= CHARGE_LIMIT - CHARGE_MAX;
}

/* Begin a restored request. */
static void
blk_begin_waiting(VirtioBlk *blk, BlkRequest *r)
{
    VirtQueue *queue = virtio_queue(&blk->virtio, r->queue);

    if (virtqueue_take_head(queue, &blk->chain, r->head) && request_begin(r))
        return;
    queue->broken = true;
    r->state = BLK_STUCK;
    g_queue_push_tail_link(&blk->held, &r->link);
    virtio_queue_done(&blk->virtio, r->queue);
}

/* There may be room again. */
static void
blk_go_on(VirtioBlk *blk)
{
    uint32_t starved = blk->starved;

    if (!blk->virtio.running)
        return;
    while (blk->waiting.length > 0 && blk_has_room(blk))
        blk_begin_waiting(blk, g_queue_pop_head_link(&blk->waiting)->data);
    if (starved == 0 || blk->waiting.length > 0 || !blk_has_room(blk))
        return;
    blk->starved = 0;
    for (unsigned i = 0; i < blk->ops.n_queues; i++) {
        if (starved >> i & 1)
            virtio_again(&blk->virtio, i);
    }
}

/* Begin one request of the queue. False: there is none, or it makes no sense. */
static bool
blk_serve_one(VirtioBlk *blk, VirtQueue *queue, unsigned index)
{
    BlkRequest *r;

    if (virtqueue_pop(queue, &blk->chain) != VIRTQUEUE_CHAIN)
        return false;
    r = request_new(blk, index, blk->chain.head, BLK_UNDER_WAY);
    if (request_begin(r))
        return true;
    request_free(r);
    virtqueue_unpop(queue, 1);
    queue->broken = true;
    return false;
}

void
blk_serve(VirtioDevice *virtio, unsigned index)
{
    VirtioBlk *blk = virtio->opaque;
    VirtQueue *queue = virtio_queue(virtio, index);
    unsigned budget = queue->size;

    while (budget > 0) {
        if (blk->waiting.length > 0 || !blk_has_room(blk)) {
            blk->starved |= 1u << index;
            break;
        }
        if (!blk_serve_one(blk, queue, index))
            break;
        budget--;
    }
    virtio_queue_done(virtio, index);
    if (budget == 0)
        virtio_again(virtio, index);
}

static void
blk_forget(GQueue *list)
{
    GList *link;

    while ((link = g_queue_pop_head_link(list)) != NULL) {
        BlkRequest *r = link->data;

        if (r->state == BLK_UNDER_WAY) {
            r->state = BLK_ORPHAN;
            r->blk->orphans++;
        } else {
            request_free(r);
        }
    }
}

void
blk_reset(VirtioDevice *virtio)
{
    VirtioBlk *blk = virtio->opaque;

    blk_forget(&blk->waiting);
    blk_forget(&blk->held);
    blk->starved = 0;
}

/* ---- Restore and start ---- */

void
blk_add_waiting(VirtioBlk *blk, unsigned queue, uint16_t head)
{
    BlkRequest *r = request_new(blk, queue, head, BLK_WAITING);

    g_queue_push_tail_link(&blk->waiting, &r->link);
}

void
blk_resume(VirtioBlk *blk)
{
    GList *next;

    for (GList *at = blk->held.head; at != NULL; at = next) {
        BlkRequest *r = at->data;

        next = at->next;
        if (r->state == BLK_ENDED)
            request_return(r);
    }
    blk_go_on(blk);
}
