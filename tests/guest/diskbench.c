/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * op=disk: how fast the first virtio-blk is. Jobs (io=) run one after the other, for so long each
 * (time=), or until there is no room for more samples; the list is run so many times (rounds=).
 *
 * The loop runs in ring 3, which is native code where ring 0 is emulated. It polls the used ring; the
 * device is never asked for an interrupt, and notified only when it wants to be (EVENT_IDX). Requests
 * have one data descriptor each. What is written comes from the working set, a stretch further each
 * time, and no block is ever the same twice: whoever finds zeros or repetitions gains nothing. Reads
 * go to the same few places.
 *
 * Time is the TSC, whose frequency is kvmclock's. A request's time is from before it is queued until
 * it is seen to have ended; those of a batch are queued before the device is notified.
 */
#include "virtio.h"

#define F_FLUSH (1U << 9)
#define F_EVENT_IDX (1U << 29)
#define BLK_IN 0
#define BLK_OUT 1
#define BLK_FLUSH 4
#define BLK_ID 8
#define ID_BYTES 20
#define SECTOR_BYTES 512
#define DESC_NEXT 1
#define DESC_WRITE 2
#define PARTS 3
#define IO_QUEUE_SIZE 64
/* The indices count to 65536: an event this far ahead does not come. */
#define EVENT_NEVER 0x8000
#define SAMPLES_MAX (1U << 17)
#define SAMPLE_BYTES (SAMPLES_MAX * sizeof(uint32_t))
#define MSR_KVMCLOCK 0x4b564d01
#define CLOCK_WAIT_LOOPS 100000

_Static_assert(GUEST_IO_DEPTH_MAX *PARTS <= IO_QUEUE_SIZE, "each slot has its own descriptors");

/* As the host fills it in (Linux arch/x86/include/asm/pvclock-abi.h). */
typedef struct ClockInfo {
    uint32_t version;
    uint32_t pad;
    uint64_t tsc;
    uint64_t ns;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags;
    uint8_t pad2[2];
} ClockInfo;

typedef struct IoHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
} IoHeader;

typedef struct IoQueue {
    VqDesc desc[IO_QUEUE_SIZE] __attribute__((aligned(16)));
    uint16_t avail_flags;
    uint16_t avail_index;
    uint16_t avail_ring[IO_QUEUE_SIZE];
    uint16_t used_event;
    uint16_t used_flags __attribute__((aligned(16)));
    uint16_t used_index;
    VqUsedElem used_ring[IO_QUEUE_SIZE];
    uint16_t avail_event;
} IoQueue;

typedef struct IoSlot {
    IoHeader head;
    volatile uint8_t status;
    uint64_t began;
} IoSlot;

typedef struct IoRun {
    const GuestIoJob *job;
    uint64_t units; /* of job->bytes on the disk */
    uint64_t next;  /* the next one in order */
    uint64_t limit; /* TSC: nothing is begun any more */
    unsigned under_way;
    uint16_t told; /* avail_index that the device has been notified of */
    uint16_t seen; /* of used_index */
    uint64_t took; /* TSC cycles, all in all */
    uint32_t n_samples;
    uint32_t errors;
    bool foreign; /* the device returned what it was never given */
} IoRun;

static IoQueue queue;
static IoSlot slots[GUEST_IO_DEPTH_MAX];
static IoRun run;
static VirtioDevice disk;
static VqPlace place;
static uint64_t khz;
static uint64_t random_state = 0x9E3779B97F4A7C15ULL;
static uint64_t written; /* blocks so far, and the next one's stamp */
static uint64_t cursor;  /* in the pool */
static volatile ClockInfo clock_info __attribute__((aligned(32)));

static inline uint64_t
tsc_read(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static uint64_t
random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* ---- The working set: samples, and a pool of what is written or has been read ---- */

static uint32_t *
samples(void)
{
    return (uint32_t *)header->params.base;
}

static uint64_t
pool(void)
{
    return header->params.base + SAMPLE_BYTES;
}

static uint64_t
pool_bytes(void)
{
    return header->params.pages * GUEST_PAGE_BYTES - SAMPLE_BYTES;
}

/* In ring 3. */
static void
fill_pool(unsigned unused)
{
    uint64_t *word = (uint64_t *)pool();

    (void)unused;
    for (uint64_t n = pool_bytes() / sizeof *word; n > 0; n--)
        *word++ = random_next();
}

/* What to write next, new in each block. */
static uint64_t
write_data(uint32_t bytes)
{
    uint64_t at;

    if (cursor + bytes > pool_bytes())
        cursor = 0;
    at = pool() + cursor;
    cursor += bytes;
    for (uint64_t block = at; block < at + bytes; block += GUEST_PAGE_BYTES)
        *(uint64_t *)block = ++written;
    return at;
}

/* ---- Requests: in ring 3 ---- */

static uint64_t
next_sector(void)
{
    uint64_t unit = run.next;

    if (run.job->mode >= GUEST_IO_RANDREAD)
        unit = (random_next() >> 32) * run.units >> 32;
    else
        run.next = unit + 1 < run.units ? unit + 1 : 0;
    return unit * run.job->bytes / SECTOR_BYTES;
}

static void
queue_slot(unsigned slot, uint32_t type)
{
    queue.desc[slot * PARTS].next = (uint16_t)(slot * PARTS + (type == BLK_FLUSH ? 2 : 1));
    slots[slot].head.type = type;
    slots[slot].status = 0xFF;
    queue.avail_ring[queue.avail_index % IO_QUEUE_SIZE] = (uint16_t)(slot * PARTS);
    __atomic_store_n(&queue.avail_index, (uint16_t)(queue.avail_index + 1), __ATOMIC_RELEASE);
    run.under_way++;
}

static void
begin(unsigned slot)
{
    VqDesc *data = &queue.desc[slot * PARTS + 1];
    uint32_t bytes = run.job->bytes;

    slots[slot].began = tsc_read();
    slots[slot].head.sector = next_sector();
    switch (run.job->mode) {
    case GUEST_IO_WRITE:
    case GUEST_IO_RANDWRITE:
    case GUEST_IO_SYNC:
        *data = (VqDesc){write_data(bytes), bytes, DESC_NEXT, data->next};
        queue_slot(slot, BLK_OUT);
        break;
    case GUEST_IO_ID:
        slots[slot].head.sector = 0;
        *data =
            (VqDesc){pool() + (uint64_t)slot * bytes, ID_BYTES, DESC_NEXT | DESC_WRITE, data->next};
        queue_slot(slot, BLK_ID);
        break;
    default:
        *data =
            (VqDesc){pool() + (uint64_t)slot * bytes, bytes, DESC_NEXT | DESC_WRITE, data->next};
        queue_slot(slot, BLK_IN);
    }
}

static void
ended(unsigned slot, uint64_t now)
{
    uint64_t cycles = now - slots[slot].began;

    run.under_way--;
    if (slots[slot].status != 0)
        run.errors++;
    else if (run.job->mode == GUEST_IO_SYNC && slots[slot].head.type == BLK_OUT) {
        slots[slot].head.sector = 0;
        queue_slot(slot, BLK_FLUSH);
        return;
    }
    samples()[run.n_samples++] = cycles < UINT32_MAX ? (uint32_t)cycles : UINT32_MAX;
    if (now < run.limit && run.n_samples + run.under_way < SAMPLES_MAX)
        begin(slot);
}

/* Notify the device if it has not seen all and waits for it (virtio 1.2 §2.7.10). */
static void
notify(void)
{
    uint16_t now = queue.avail_index;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((uint16_t)(now - queue.avail_event - 1) < (uint16_t)(now - run.told))
        *(volatile uint16_t *)place.notify = place.number;
    run.told = now;
}

static void
reap(void)
{
    uint16_t index = __atomic_load_n(&queue.used_index, __ATOMIC_ACQUIRE);
    uint64_t now;

    if (index == run.seen) {
        __asm__ volatile("pause" ::: "memory");
        return;
    }
    now = tsc_read();
    for (; run.seen != index; run.seen++) {
        uint32_t id = queue.used_ring[run.seen % IO_QUEUE_SIZE].id;

        if (id % PARTS != 0 || id / PARTS >= run.job->depth || run.under_way == 0) {
            run.foreign = true;
            return;
        }
        ended(id / PARTS, now);
    }
    queue.used_event = (uint16_t)(run.seen + EVENT_NEVER);
    notify();
}

static void
do_job(unsigned unused)
{
    uint64_t start = tsc_read();

    (void)unused;
    run.limit = start + khz * header->params.io_ms;
    for (unsigned slot = 0; slot < run.job->depth; slot++)
        begin(slot);
    notify();
    while (run.under_way > 0 && !run.foreign)
        reap();
    run.took = tsc_read() - start;
}

/* ---- What came of it ---- */

/* Let the value at i sink in a heap of n: the greatest is at 0. */
static void
sink(uint32_t *v, uint32_t i, uint32_t n)
{
    uint32_t value = v[i], child;

    for (; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && v[child + 1] > v[child])
            child++;
        if (v[child] <= value)
            break;
        v[i] = v[child];
    }
    v[i] = value;
}

/* In ring 3. */
static void
sort_samples(unsigned unused)
{
    uint32_t *v = samples(), n = run.n_samples;

    (void)unused;
    for (uint32_t i = n / 2; i > 0; i--)
        sink(v, i - 1, n);
    while (n > 1) {
        uint32_t greatest = v[0];

        v[0] = v[--n];
        v[n] = greatest;
        sink(v, 0, n);
    }
}

static void
say(const char *what, uint64_t number)
{
    out_text(what);
    out_number(number);
}

static void
report(uint64_t round, unsigned job)
{
    static const char *const modes[] = {"read", "write", "randread", "randwrite", "sync", "id"};
    const uint32_t *v = samples();
    uint32_t n = run.n_samples;

    out_begin();
    say("io round=", round);
    say(" job=", job);
    out_text(" mode=");
    out_text(modes[run.job->mode]);
    say(" bytes=", run.job->bytes);
    say(" depth=", run.job->depth);
    say(" requests=", n);
    say(" us=", run.took * 1000 / khz);
    say(" p50=", v[n / 2] * 1000000ULL / khz);
    say(" p99=", v[(uint64_t)n * 99 / 100] * 1000000ULL / khz);
    say(" worst=", v[n - 1] * 1000000ULL / khz);
    say(" errors=", run.errors);
    out_end();
}

static void
job_run(uint64_t round, unsigned number)
{
    const GuestIoJob *job = &header->params.io[number];
    uint64_t units = *(volatile uint32_t *)disk.config * (uint64_t)SECTOR_BYTES / job->bytes;

    if (units == 0 || pool_bytes() < 2ULL * job->depth * job->bytes)
        guest_fail("pages= or the disk is too small for what io= asks for");
    run = (IoRun){.job = job, .units = units, .told = run.told, .seen = run.seen};
    cpu_call_ring3(do_job, 0);
    if (run.foreign)
        guest_fail("the disk returned a request that it was never given");
    cpu_call_ring3(sort_samples, 0);
    report(round, number);
}

/* ---- Set-up ---- */

static void
clock_write(uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(MSR_KVMCLOCK), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static void
clock_measure(void)
{
    uint64_t wide;

    clock_write((uint64_t)&clock_info | 1);
    for (unsigned i = 0; i < CLOCK_WAIT_LOOPS && clock_info.multiplier == 0; i++)
        __asm__ volatile("pause" ::: "memory");
    clock_write(0);
    if (clock_info.multiplier == 0)
        guest_fail("no kvmclock: op=disk needs it to know how long a second is");
    wide = (1000000ULL << 32) / clock_info.multiplier;
    khz = clock_info.shift < 0 ? wide << -clock_info.shift : wide >> clock_info.shift;
    if (khz == 0)
        guest_fail("kvmclock says that the TSC stands still");
}

static void
slots_setup(void)
{
    for (unsigned slot = 0; slot < GUEST_IO_DEPTH_MAX; slot++) {
        VqDesc *desc = &queue.desc[slot * PARTS];

        desc[0] = (VqDesc){(uint64_t)&slots[slot].head, sizeof(IoHeader), DESC_NEXT, 0};
        desc[1].next = (uint16_t)(slot * PARTS + 2);
        desc[2] = (VqDesc){(uint64_t)&slots[slot].status, 1, DESC_WRITE, 0};
    }
}

void
diskbench_run(void)
{
    const GuestParams *params = &header->params;

    if (params->pages * GUEST_PAGE_BYTES <= SAMPLE_BYTES)
        guest_fail("op=disk needs pages= of more than 128");
    if (!virtio_find(&disk, VIRTIO_ID_BLOCK, F_FLUSH | F_EVENT_IDX))
        guest_fail("no virtio-blk on PCI bus 0");
    place = (VqPlace){.size = IO_QUEUE_SIZE,
                      .desc = queue.desc,
                      .avail = &queue.avail_flags,
                      .used = &queue.used_flags};
    queue.used_event = EVENT_NEVER;
    virtio_queue_place(&disk, &place);
    if (place.size != IO_QUEUE_SIZE)
        guest_fail("the disk's queue has less than 64 places");
    virtio_driver_ok(&disk);
    clock_measure();
    slots_setup();
    cpu_call_ring3(fill_pool, 0);
    out_begin();
    say("ready op=disk khz=", khz);
    say(" sectors=", *(volatile uint32_t *)disk.config);
    out_end();
    for (uint64_t round = 1; params->rounds == 0 || round <= params->rounds; round++) {
        for (unsigned job = 0; job < params->n_io; job++)
            job_run(round, job);
        busy_wait(params->delay);
    }
}
