/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Split virtqueues; virtqueue.h has the contract. Section numbers are of virtio 1.2. */
#include "vmm/devices/virtqueue.h"
#include "vmm/devices/state.h"

#include <string.h>

/* Descriptors (§2.7.5). */
#define DESC_BYTES 16
#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
/* Available ring (§2.7.6): flags, idx, ring[size], used_event. */
#define AVAIL_NO_INTERRUPT 1
#define AVAIL_IDX 2
#define AVAIL_RING 4
/* Used ring (§2.7.8): flags, idx, ring[size] of {id, len}, avail_event. */
#define USED_IDX 2
#define USED_RING 4
#define USED_ELEMENT 8

typedef struct Descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} Descriptor;

/* x86-64 is little-endian as virtio is, so fields are read as they lie. */
static uint16_t
load16(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)at, __ATOMIC_RELAXED);
}

static void
store16(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)at, value, __ATOMIC_RELAXED);
}

void
virtqueue_init(VirtQueue *queue, Machine *m, uint16_t size_max)
{
    g_assert(size_max > 0 && size_max <= VIRTQUEUE_SIZE_MAX && (size_max & (size_max - 1)) == 0);
    *queue = (VirtQueue){.machine = m, .size_max = size_max, .size = size_max};
}

void
virtqueue_reset(VirtQueue *queue)
{
    virtqueue_init(queue, queue->machine, queue->size_max);
}

/* Find the rings in RAM, with the alignment of §2.7. */
static bool
virtqueue_map(VirtQueue *queue)
{
    uint64_t size = queue->size;

    if ((queue->desc_gpa & 15) || (queue->avail_gpa & 1) || (queue->used_gpa & 3))
        return false;
    queue->desc = machine_ram(queue->machine, queue->desc_gpa, size * DESC_BYTES);
    queue->avail = machine_ram(queue->machine, queue->avail_gpa, AVAIL_RING + 2 * size + 2);
    queue->used = machine_ram(queue->machine, queue->used_gpa, USED_RING + USED_ELEMENT * size + 2);
    return queue->desc && queue->avail && queue->used;
}

static bool
virtqueue_usable(VirtQueue *queue)
{
    if (!queue->enabled || queue->broken)
        return false;
    if (!(queue->desc && queue->avail && queue->used) && !virtqueue_map(queue))
        queue->broken = true;
    return !queue->broken;
}

static Descriptor
load_descriptor(const uint8_t *at)
{
    return (Descriptor){
        .addr = __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED),
        .len = __atomic_load_n((const uint32_t *)(at + 8), __ATOMIC_RELAXED),
        .flags = load16(at + 12),
        .next = load16(at + 14),
    };
}

/* Append one buffer; false if it cannot be right. */
static bool
chain_add(const VirtQueue *queue, VirtChain *chain, const Descriptor *d)
{
    VirtBuffer *buffer = &chain->buffers[chain->n_out + chain->n_in];

    if (chain->n_out + chain->n_in >= queue->size)
        return false; /* longer than the queue: a loop (§2.7.5.3.1) */
    buffer->gpa = d->addr;
    buffer->len = d->len;
    buffer->data = machine_ram(queue->machine, d->addr, d->len);
    if (!buffer->data)
        return false;
    if (d->flags & DESC_WRITE) {
        chain->n_in++;
        chain->in_len += d->len;
    } else {
        if (chain->n_in > 0)
            return false; /* §2.7.4.2: readable ones come first */
        chain->n_out++;
        chain->out_len += d->len;
    }
    return true;
}

/* A table of descriptors elsewhere in RAM (§2.7.5.3). Taken as a copy: it has no alignment. */
static bool
chain_add_indirect(const VirtQueue *queue, VirtChain *chain, const Descriptor *d)
{
    Descriptor table[VIRTQUEUE_SIZE_MAX];
    uint32_t n = d->len / DESC_BYTES;
    uint16_t i = 0;

    if (!queue->indirect || (d->flags & DESC_NEXT) || d->len % DESC_BYTES || n == 0 ||
        n > queue->size || !machine_ram_read(queue->machine, d->addr, table, d->len))
        return false;
    for (;;) {
        if ((table[i].flags & DESC_INDIRECT) || !chain_add(queue, chain, &table[i]))
            return false;
        if (!(table[i].flags & DESC_NEXT))
            return true;
        i = table[i].next;
        if (i >= n)
            return false;
    }
}

static bool
chain_load(const VirtQueue *queue, VirtChain *chain, uint16_t head)
{
    uint16_t i = head;

    chain->head = head;
    chain->n_out = chain->n_in = 0;
    chain->out_len = chain->in_len = 0;
    for (;;) {
        Descriptor d;

        if (i >= queue->size)
            return false;
        d = load_descriptor(queue->desc + (size_t)i * DESC_BYTES);
        if (d.flags & DESC_INDIRECT)
            return chain_add_indirect(queue, chain, &d);
        if (!chain_add(queue, chain, &d))
            return false;
        if (!(d.flags & DESC_NEXT))
            return true;
        i = d.next;
    }
}

static uint16_t
avail_count(const VirtQueue *queue)
{
    /* Acquire: ring entries and descriptors are read after the index that announced them. */
    uint16_t idx = __atomic_load_n((const uint16_t *)(queue->avail + AVAIL_IDX), __ATOMIC_ACQUIRE);

    return (uint16_t)(idx - queue->last_avail);
}

/* The ring is empty: ask to be notified of the next entry, then look again (§2.7.10). */
static uint16_t
avail_arm(VirtQueue *queue)
{
    size_t at = USED_RING + (size_t)USED_ELEMENT * queue->size;

    if (!queue->event_idx || load16(queue->used + at) == queue->last_avail)
        return 0;
    store16(queue->used + at, queue->last_avail);
    machine_mark_dirty(queue->machine, queue->used_gpa + at, 2);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return avail_count(queue);
}

VirtQueueResult
virtqueue_pop(VirtQueue *queue, VirtChain *chain)
{
    uint16_t count, slot;

    if (!virtqueue_usable(queue))
        return VIRTQUEUE_STOP;
    count = avail_count(queue);
    if (count == 0)
        count = avail_arm(queue);
    if (count == 0)
        return VIRTQUEUE_EMPTY;
    slot = queue->last_avail & (queue->size - 1);
    /* More at once, or more not returned, than there are descriptors for. */
    if (count > queue->size || (uint16_t)(queue->last_avail - queue->used_idx) >= queue->size ||
        !chain_load(queue, chain, load16(queue->avail + AVAIL_RING + 2 * (size_t)slot))) {
        queue->broken = true;
        return VIRTQUEUE_STOP;
    }
    queue->last_avail++;
    return VIRTQUEUE_CHAIN;
}

bool
virtqueue_take_head(VirtQueue *queue, VirtChain *chain, uint16_t head)
{
    if (!virtqueue_usable(queue))
        return false;
    queue->broken = !chain_load(queue, chain, head);
    return !queue->broken;
}

void
virtqueue_unpop(VirtQueue *queue, unsigned n_chains)
{
    queue->last_avail = (uint16_t)(queue->last_avail - n_chains);
}

static void
mark_written(Machine *m, const VirtChain *chain, uint64_t written)
{
    for (unsigned i = 0; i < chain->n_in && written > 0; i++) {
        const VirtBuffer *buffer = &chain->buffers[chain->n_out + i];
        uint64_t n = MIN(written, buffer->len);

        machine_mark_dirty(m, buffer->gpa, n);
        written -= n;
    }
}

void
virtqueue_push(VirtQueue *queue, const VirtChain *chain, uint64_t written)
{
    size_t slot = queue->used_idx & (queue->size - 1u);
    size_t at = USED_RING + USED_ELEMENT * slot;
    uint32_t element[2] = {chain->head, (uint32_t)written};

    g_return_if_fail(written <= chain->in_len);
    mark_written(queue->machine, chain, written);
    memcpy(queue->used + at, element, sizeof element);
    queue->used_idx++;
    /* Release: data and element are seen before the index. */
    __atomic_store_n((uint16_t *)(queue->used + USED_IDX), queue->used_idx, __ATOMIC_RELEASE);
    machine_mark_dirty(queue->machine, queue->used_gpa + at, USED_ELEMENT);
    machine_mark_dirty(queue->machine, queue->used_gpa + USED_IDX, 2);
}

bool
virtqueue_interrupt_needed(VirtQueue *queue)
{
    uint16_t old = queue->signalled, event;

    if (!virtqueue_usable(queue) || old == queue->used_idx)
        return false;
    /* The used index must be out before the driver's wish is read, or both sides could wait. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    queue->signalled = queue->used_idx;
    if (!queue->event_idx)
        return !(load16(queue->avail) & AVAIL_NO_INTERRUPT);
    event = load16(queue->avail + AVAIL_RING + 2 * (size_t)queue->size);
    /* §2.7.7.2, by how far each is behind the new index. */
    return (uint16_t)(queue->used_idx - event - 1) < (uint16_t)(queue->used_idx - old);
}

/* Copy between buf and buffers [first, first + n) of the chain, skipping offset bytes. */
static size_t
chain_copy(const VirtChain *chain, unsigned first, unsigned n, uint64_t offset, uint8_t *buf,
           size_t len, bool to_guest)
{
    size_t done = 0;

    for (unsigned i = first; i < first + n && done < len; i++) {
        const VirtBuffer *buffer = &chain->buffers[i];
        size_t step;

        if (offset >= buffer->len) {
            offset -= buffer->len;
            continue;
        }
        step = MIN(len - done, buffer->len - (size_t)offset);
        if (to_guest)
            memcpy(buffer->data + offset, buf + done, step);
        else
            memcpy(buf + done, buffer->data + offset, step);
        done += step;
        offset = 0;
    }
    return done;
}

size_t
virtchain_read(const VirtChain *chain, uint64_t offset, void *to, size_t len)
{
    return chain_copy(chain, 0, chain->n_out, offset, to, len, false);
}

size_t
virtchain_write(const VirtChain *chain, uint64_t offset, const void *from, size_t len)
{
    return chain_copy(chain, chain->n_out, chain->n_in, offset, (uint8_t *)from, len, true);
}

void
virtqueue_dump(const VirtQueue *queue, District__VirtQueueState *state)
{
    district__virt_queue_state__init(state);
    state->size = queue->size;
    state->enabled = queue->enabled;
    state->desc = queue->desc_gpa;
    state->avail = queue->avail_gpa;
    state->used = queue->used_gpa;
    state->last_avail = queue->last_avail;
    state->used_idx = queue->used_idx;
    state->signalled = queue->signalled;
    state->broken = queue->broken;
}

gboolean
virtqueue_check_state(const VirtQueue *queue, const District__VirtQueueState *state,
                      size_t in_flight, const char *kind, GError **error)
{
    uint32_t taken = (state->last_avail - state->used_idx) & UINT16_MAX;

    if (state->size == 0 || state->size > queue->size_max || (state->size & (state->size - 1)))
        return state_refuse(error, kind, "a queue of size %u", state->size);
    if (state->last_avail > UINT16_MAX || state->used_idx > UINT16_MAX ||
        state->signalled > UINT16_MAX)
        return state_refuse(error, kind, "a ring index does not fit 16 bits");
    if (taken != in_flight || taken > state->size || (taken > 0 && !state->enabled))
        return state_refuse(error, kind,
                            "%u requests were in flight (taken %u, returned %u), it has %zu", taken,
                            state->last_avail, state->used_idx, in_flight);
    return TRUE;
}

void
virtqueue_restore(VirtQueue *queue, const District__VirtQueueState *state)
{
    virtqueue_reset(queue);
    queue->size = (uint16_t)state->size;
    queue->enabled = state->enabled;
    queue->broken = state->broken;
    queue->desc_gpa = state->desc;
    queue->avail_gpa = state->avail;
    queue->used_gpa = state->used;
    queue->last_avail = (uint16_t)state->last_avail;
    queue->used_idx = (uint16_t)state->used_idx;
    queue->signalled = (uint16_t)state->signalled;
}
