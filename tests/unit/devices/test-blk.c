/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-blk on a disk in memory. */
#include "driver.h"
#include "fake-disk.h"

#include "vmm/devices/devices.h"

#include "devices.pb-c.h"

#include <errno.h>
#include <string.h>

#define VERSION_1 (UINT64_C(1) << 32)
#define INDIRECT (UINT64_C(1) << 28)
#define EVENT_IDX (UINT64_C(1) << 29)
#define FLUSH (UINT64_C(1) << 9)
#define MQ (UINT64_C(1) << 12)
#define MIB (1024 * 1024)
#define RAM (16 * MIB)
#define DISK (8 * MIB)
#define SECTORS (DISK / SECTOR_BYTES)
#define RINGS 0x10000
#define RINGS_STEP 0x4000
#define QUEUES 4
#define SIZE 64
/* Each request has its own header, data and status. */
#define HEADERS 0x80000
#define STATUSES 0x90000
#define DATA 0x200000
#define UNTOUCHED 0xEE /* a status byte that the device has not written */

enum { IN = 0, OUT = 1, T_FLUSH = 4, GET_ID = 8, T_DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

typedef struct Fixture {
    Machine *m;
    Disk *disk;
    Driver blk;
    DriverQueue queues[QUEUES];
    unsigned n_requests;
} Fixture;

static Machine *
make_machine(Disk *disk)
{
    Machine *m = fake_machine_new(RAM);
    g_autoptr(GError) error = NULL;

    virtio_blk_init(m, pci_host_init(m, NULL), disk, "serial-0123456789abcdef", QUEUES, &error);
    g_assert_no_error(error);
    return m;
}

static void
bring_up(Fixture *f, uint64_t features)
{
    driver_init(&f->blk, f->m, 1);
    driver_negotiate(&f->blk, features);
    driver_use_msix(&f->blk, QUEUES, 0x40);
    for (unsigned i = 0; i < QUEUES; i++)
        driver_queue_init(&f->queues[i], &f->blk, i, SIZE, RINGS + i * RINGS_STEP);
    driver_ok(&f->blk);
}

static void
set_up_with(Fixture *f, bool read_only, uint64_t features)
{
    f->disk = fake_disk_new(DISK, read_only);
    f->m = make_machine(f->disk);
    fake_start(f->m);
    bring_up(f, features);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    set_up_with(f, false, VERSION_1 | FLUSH | MQ);
}

static void
set_up_read_only(Fixture *f, gconstpointer data)
{
    set_up_with(f, true, VERSION_1 | FLUSH | MQ);
}

static void
set_up_without_flush(Fixture *f, gconstpointer data)
{
    set_up_with(f, false, VERSION_1);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(fake_unlogged_pages(f->m), ==, 0);
    if (fake_disk_pending(f->disk) > 0)
        fake_disk_end(f->disk, fake_disk_pending(f->disk), 0);
    fake_disk_hold(f->disk, false);
    fake_pump();
    g_assert_true(virtio_blk_idle());
}

/* ---- Requests: three descriptors, header, data, status ---- */

/* The number of the request: its status is at STATUSES + number. */
static unsigned
put_header(Fixture *f, uint32_t type, uint64_t sector)
{
    unsigned n = f->n_requests++;
    uint8_t untouched = UNTOUCHED;

    fake_poke64(f->m, HEADERS + 16 * n, type);
    fake_poke64(f->m, HEADERS + 16 * n + 8, sector);
    fake_poke(f->m, STATUSES + n, &untouched, 1);
    return n;
}

static unsigned
offer_on(Fixture *f, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
    DriverQueue *q = &f->queues[queue];
    unsigned n = put_header(f, type, sector);
    uint16_t head = (uint16_t)(n * 3 % (SIZE - 2));
    bool in = type == IN || type == GET_ID;

    driver_describe(q, head, HEADERS + 16 * n, 16, DRIVER_DESC_NEXT,
                    (uint16_t)(len > 0 ? head + 1 : head + 2));
    if (len > 0)
        driver_describe(q, (uint16_t)(head + 1), gpa, len,
                        DRIVER_DESC_NEXT | (in ? DRIVER_DESC_WRITE : 0), (uint16_t)(head + 2));
    driver_describe(q, (uint16_t)(head + 2), STATUSES + n, 1, DRIVER_DESC_WRITE, 0);
    driver_offer(q, head);
    return n;
}

static unsigned
offer(Fixture *f, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
    return offer_on(f, 0, type, sector, gpa, len);
}

static uint8_t
status_of(Fixture *f, unsigned n)
{
    uint8_t status;

    fake_peek(f->m, STATUSES + n, &status, 1);
    return status;
}

/* One request from beginning to end; its status. */
static uint8_t
ask(Fixture *f, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
    unsigned n = offer(f, type, sector, gpa, len);

    driver_kick(&f->queues[0]);
    fake_pump();
    g_assert_true(driver_used(&f->queues[0], NULL, NULL));
    return status_of(f, n);
}

static uint8_t
ask_range(Fixture *f, uint32_t type, uint64_t sector, uint32_t n_sectors, uint32_t flags)
{
    fake_poke64(f->m, DATA, sector);
    fake_poke64(f->m, DATA + 8, (uint64_t)flags << 32 | n_sectors);
    return ask(f, type, 0, DATA, 16);
}

static void
fill(Fixture *f, uint64_t gpa, uint8_t byte, size_t len)
{
    g_autofree uint8_t *data = g_malloc(len);

    memset(data, byte, len);
    fake_poke(f->m, gpa, data, len);
}

static bool
ram_is(Fixture *f, uint64_t gpa, uint8_t byte, size_t len)
{
    g_autofree uint8_t *data = g_malloc(len);

    fake_peek(f->m, gpa, data, len);
    for (size_t i = 0; i < len; i++) {
        if (data[i] != byte)
            return false;
    }
    return true;
}

static bool
disk_is(Fixture *f, uint64_t sector, uint8_t byte, size_t len)
{
    const uint8_t *data = fake_disk_data(f->disk) + sector * SECTOR_BYTES;

    for (size_t i = 0; i < len; i++) {
        if (data[i] != byte)
            return false;
    }
    return true;
}

/* ---- Each request type ---- */

static void
writes_and_reads(Fixture *f, gconstpointer data)
{
    uint32_t len;
    unsigned n;

    fill(f, DATA, 0x5A, 8192);
    g_assert_cmpuint(ask(f, OUT, 16, DATA, 8192), ==, OK);
    g_assert_true(disk_is(f, 16, 0x5A, 8192));
    g_assert_true(disk_is(f, 15, 0, 512));
    g_assert_true(disk_is(f, 32, 0, 512));
    n = offer(f, IN, 17, DATA + 0x10000, 4096);
    driver_kick(&f->queues[0]);
    fake_pump();
    g_assert_true(driver_used(&f->queues[0], NULL, &len));
    g_assert_cmpuint(len, ==, 4097);
    g_assert_cmpuint(status_of(f, n), ==, OK);
    g_assert_true(ram_is(f, DATA + 0x10000, 0x5A, 4096));
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 2);
    g_assert_cmpuint(fake_disk_flushes(f->disk), ==, 0);
}

static void
flushes(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask(f, T_FLUSH, 0, 0, 0), ==, OK);
    g_assert_cmpuint(fake_disk_flushes(f->disk), ==, 1);
}

static void
writes_are_durable_without_flush(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask(f, OUT, 0, DATA, 512), ==, OK);
    g_assert_cmpuint(fake_disk_flushes(f->disk), ==, 1);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 512), ==, OK);
    g_assert_cmpuint(fake_disk_flushes(f->disk), ==, 1);
}

static void
zeroes(Fixture *f, gconstpointer data)
{
    memset(fake_disk_data(f->disk), 0xEE, DISK);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 8, 8, 0), ==, OK);
    g_assert_true(disk_is(f, 7, 0xEE, 512));
    g_assert_true(disk_is(f, 8, 0, 4096));
    g_assert_true(disk_is(f, 16, 0xEE, 512));
    g_assert_cmpuint(fake_disk_unmaps(f->disk), ==, 0);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 0, 8, 1), ==, OK);
    g_assert_cmpuint(fake_disk_unmaps(f->disk), ==, 1);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 0, 8, 2), ==, UNSUPP);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, SECTORS, 1, 0), ==, IOERR);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 0, UINT32_MAX, 0), ==, IOERR);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 0, 0, 0), ==, IOERR);
    g_assert_cmpuint(ask(f, WRITE_ZEROES, 0, DATA, 32), ==, IOERR); /* two segments */
    g_assert_cmpuint(ask(f, WRITE_ZEROES, 0, DATA, 15), ==, IOERR);
}

static void
discards(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask_range(f, T_DISCARD, 8, 8, 0), ==, OK);
    g_assert_cmpuint(fake_disk_discards(f->disk), ==, 1);
    g_assert_cmpuint(ask_range(f, T_DISCARD, 8, 8, 1), ==, UNSUPP);
    g_assert_cmpuint(ask_range(f, T_DISCARD, UINT64_MAX, 8, 0), ==, IOERR);
    g_assert_cmpuint(fake_disk_discards(f->disk), ==, 1);
}

static void
tells_its_serial(Fixture *f, gconstpointer data)
{
    char id[21] = "";

    g_assert_cmpuint(ask(f, GET_ID, 0, DATA, 20), ==, OK);
    fake_peek(f->m, DATA, id, 20);
    g_assert_cmpstr(id, ==, "serial-0123456789abc"); /* cut to 20, no NUL */
    fill(f, DATA, 0xEE, 64);
    g_assert_cmpuint(ask(f, GET_ID, 0, DATA, 4), ==, OK);
    g_assert_true(ram_is(f, DATA + 4, 0xEE, 60));
    g_assert_cmpuint(ask(f, GET_ID, 0, DATA, 64), ==, OK);
    g_assert_true(ram_is(f, DATA + 20, 0, 44));
}

static void
unknown_types_are_unsupported(Fixture *f, gconstpointer data)
{
    static const uint32_t types[] = {2, 3, 5, 10, 14, UINT32_MAX};

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++)
        g_assert_cmpuint(ask(f, types[i], 0, DATA, 512), ==, UNSUPP);
}

static void
describes_itself(Fixture *f, gconstpointer data)
{
    uint64_t config = f->blk.config;
    uint64_t segments = fake_mmio_read(f->m, config + 12, 4);
    uint64_t segment = fake_mmio_read(f->m, config + 8, 4);

    g_assert_cmpuint(fake_mmio_read(f->m, config, 4), ==, SECTORS);
    g_assert_cmpuint(segments * segment, <=, MIB); /* no more than is taken at once */
    g_assert_cmpuint(segments * segment, >=, 512 * 1024);
    g_assert_cmpuint(fake_mmio_read(f->m, config + 20, 4), ==, 512);
    g_assert_cmpuint(fake_mmio_read(f->m, config + 24, 1), ==, 3);
    g_assert_cmpuint(fake_mmio_read(f->m, config + 34, 2), ==, QUEUES);
    g_assert_cmpuint(pci_read(f->m, 1, 2, 2), ==, 0x1042);
}

static void
read_only_disk_takes_no_writes(Fixture *f, gconstpointer data)
{
    fake_mmio_write(f->m, f->blk.common, 0, 4);
    g_assert_cmphex(fake_mmio_read(f->m, f->blk.common + 4, 4) & (1u << 5 | 1u << 13 | 1u << 14),
                    ==, 1u << 5);
    g_assert_cmpuint(ask(f, OUT, 0, DATA, 512), ==, IOERR);
    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 0, 8, 0), ==, IOERR);
    g_assert_cmpuint(ask_range(f, T_DISCARD, 0, 8, 0), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 512), ==, OK);
    g_assert_cmpuint(ask(f, T_FLUSH, 0, 0, 0), ==, OK);
}

static void
all_queues_work(Fixture *f, gconstpointer data)
{
    unsigned n[QUEUES];

    for (unsigned i = 0; i < QUEUES; i++) {
        fill(f, DATA + i * 4096, (uint8_t)(i + 1), 4096);
        n[i] = offer_on(f, i, OUT, 8 * i, DATA + i * 4096, 4096);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        driver_kick(&f->queues[i]);
    fake_pump();
    for (unsigned i = 0; i < QUEUES; i++) {
        g_assert_cmpuint(status_of(f, n[i]), ==, OK);
        g_assert_true(disk_is(f, 8 * i, (uint8_t)(i + 1), 4096));
        g_assert_cmpuint(fake_msi_count(f->m, 0x40 + i), ==, 1);
    }
}

static void
any_layout_is_taken(Fixture *f, gconstpointer data)
{
    DriverQueue *q = &f->queues[0];
    unsigned n = put_header(f, OUT, 1);

    /* Header and data in pieces that have nothing to do with the fields (§2.7.4.1). */
    fake_poke64(f->m, DATA, OUT);
    fake_poke64(f->m, DATA + 8, 1);
    fill(f, DATA + 16, 0x77, 512);
    driver_describe(q, 0, DATA, 5, DRIVER_DESC_NEXT, 1);
    driver_describe(q, 1, DATA + 5, 100, DRIVER_DESC_NEXT, 2);
    driver_describe(q, 2, DATA + 105, 423, DRIVER_DESC_NEXT, 3);
    driver_describe(q, 3, STATUSES + n, 1, DRIVER_DESC_WRITE, 0);
    driver_offer(q, 0);
    driver_kick(q);
    g_assert_cmpuint(status_of(f, n), ==, OK);
    g_assert_true(disk_is(f, 1, 0x77, 512));
}

/* ---- Errors and hostile requests ---- */

static void
errors_reach_the_guest(Fixture *f, gconstpointer data)
{
    unsigned n = offer(f, IN, 0, DATA, 4096);
    uint32_t len;

    fill(f, DATA, 0xAA, 4096);
    fake_disk_hold(f->disk, true);
    driver_kick(&f->queues[0]);
    fake_disk_end(f->disk, 1, EIO);
    g_assert_cmpuint(status_of(f, n), ==, IOERR);
    g_assert_true(ram_is(f, DATA, 0xAA, 4096)); /* nothing is made up */
    g_assert_true(driver_used(&f->queues[0], NULL, &len));
    g_assert_cmpuint(len, ==, 0);
}

static void
ranges_off_the_disk_are_refused(Fixture *f, gconstpointer data)
{
    static const uint64_t sectors[] = {SECTORS,          SECTORS - 7,      UINT64_MAX,
                                       UINT64_MAX - 7,   UINT64_MAX / 512, UINT64_C(1) << 55,
                                       UINT64_C(1) << 63};

    for (size_t i = 0; i < G_N_ELEMENTS(sectors); i++) {
        g_assert_cmpuint(ask(f, OUT, sectors[i], DATA, 4096), ==, IOERR);
        g_assert_cmpuint(ask(f, IN, sectors[i], DATA, 4096), ==, IOERR);
    }
    g_assert_cmpuint(ask(f, IN, SECTORS - 8, DATA, 4096), ==, OK);
}

static void
odd_lengths_are_refused(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask(f, OUT, 0, DATA, 511), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 513), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, 0, 0), ==, IOERR);
    g_assert_cmpuint(ask(f, OUT, 0, DATA, MIB), ==, OK);
    g_assert_cmpuint(ask(f, OUT, 0, DATA, MIB + 512), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, DATA, MIB + 512), ==, IOERR);
    g_assert_cmpuint(ask(f, GET_ID, 0, DATA, MIB + 1), ==, IOERR);
}

static void
expect_broken(Fixture *f)
{
    driver_kick(&f->queues[0]);
    g_assert_cmpuint(driver_status(&f->blk) & 64, ==, 64); /* NEEDS_RESET */
    g_assert_false(driver_used(&f->queues[0], NULL, NULL));
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 0);
}

static void
no_header_breaks_the_queue(Fixture *f, gconstpointer data)
{
    DriverQueue *q = &f->queues[0];

    driver_describe(q, 0, DATA, 15, DRIVER_DESC_NEXT, 1);
    driver_describe(q, 1, DATA + 0x1000, 513, DRIVER_DESC_WRITE, 0);
    driver_offer(q, 0);
    expect_broken(f);
}

static void
no_status_breaks_the_queue(Fixture *f, gconstpointer data)
{
    driver_describe(&f->queues[0], 0, DATA, 528, 0, 0);
    driver_offer(&f->queues[0], 0);
    expect_broken(f);
}

/* The same chain over and over, without waiting for its return. */
static void
more_requests_than_descriptors_break_the_queue(Fixture *f, gconstpointer data)
{
    fake_disk_hold(f->disk, true);
    offer(f, IN, 0, DATA, 512);
    driver_kick(&f->queues[0]);
    for (unsigned i = 1; i < 4 * SIZE; i++) {
        driver_offer(&f->queues[0], 0);
        driver_kick(&f->queues[0]);
    }
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, SIZE);
    g_assert_cmpuint(driver_status(&f->blk) & 64, ==, 64);
    fake_stop(f->m);
    fake_check_garbage(f->m, "virtio-blk");
    fake_start(f->m);
}

static void
memory_in_flight_is_bounded(Fixture *f, gconstpointer data)
{
    unsigned n[16], done = 0;

    fake_disk_hold(f->disk, true);
    for (unsigned i = 0; i < 16; i++)
        n[i] = offer_on(f, i % QUEUES, IN, 0, DATA, MIB);
    for (unsigned i = 0; i < QUEUES; i++)
        driver_kick(&f->queues[i]);
    while (done < 16) {
        g_assert_cmpuint(fake_disk_pending(f->disk), >, 0);
        g_assert_cmpuint(fake_disk_pending_bytes(f->disk), <=, 4 * MIB);
        fake_disk_end(f->disk, 1, 0);
        done++;
        fake_pump();
    }
    for (unsigned i = 0; i < 16; i++)
        g_assert_cmpuint(status_of(f, n[i]), ==, OK);
}

/* ---- Stop, save, restore ---- */

static void
stop_waits_for_no_disk(Fixture *f, gconstpointer data)
{
    unsigned n = offer(f, IN, 0, DATA, 4096);

    memset(fake_disk_data(f->disk), 0x33, 4096);
    fake_disk_hold(f->disk, true);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    fake_unlogged_pages(f->m);
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 1);
    fake_disk_end(f->disk, 1, 0);
    fake_pump();
    /* At rest, guest memory stays as it is. */
    g_assert_cmpuint(status_of(f, n), ==, UNTOUCHED);
    g_assert_true(ram_is(f, DATA, 0, 4096));
    g_assert_false(driver_used(&f->queues[0], NULL, NULL));
    fake_start(f->m);
    g_assert_cmpuint(status_of(f, n), ==, OK);
    g_assert_true(ram_is(f, DATA, 0x33, 4096));
    g_assert_true(driver_used(&f->queues[0], NULL, NULL));
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 1);
}

static Machine *
move_to(Fixture *f, Disk *disk)
{
    Machine *other = make_machine(disk);

    fake_move(f->m, other);
    f->m = f->blk.m = other;
    return other;
}

/* One with the disk, one that has ended at the disk but was not returned: both are begun anew. */
static void
requests_in_flight_begin_anew_after_a_restore(Fixture *f, gconstpointer data)
{
    Disk *copy = fake_disk_new(DISK, false), *old = f->disk;
    Machine *first = f->m;
    unsigned write, read, flush;

    fill(f, DATA, 0x42, 4096);
    memset(fake_disk_data(copy) + 8 * SECTOR_BYTES, 0x99, 4096);
    fake_disk_hold(old, true);
    write = offer_on(f, 1, OUT, 0, DATA, 4096);
    read = offer_on(f, 2, IN, 8, DATA + 0x10000, 4096);
    flush = offer_on(f, 2, T_FLUSH, 0, 0, 0);
    driver_kick(&f->queues[1]);
    driver_kick(&f->queues[2]);
    g_assert_cmpuint(fake_disk_pending(old), ==, 3);
    fake_stop(f->m);
    fake_disk_end(old, 1, 0);
    move_to(f, copy);
    f->disk = copy;
    fake_pump();
    g_assert_cmpuint(status_of(f, write), ==, OK);
    g_assert_cmpuint(status_of(f, read), ==, OK);
    g_assert_cmpuint(status_of(f, flush), ==, OK);
    g_assert_true(disk_is(f, 0, 0x42, 4096));
    g_assert_true(ram_is(f, DATA + 0x10000, 0x99, 4096));
    g_assert_cmpuint(fake_disk_flushes(copy), ==, 1);
    /* The first machine, too, goes on. */
    fake_disk_end(old, 2, 0);
    fake_start(first);
    g_assert_cmpuint(fake_peek16(first, f->queues[2].used + 2), ==, 2);
    g_assert_cmpuint(fake_unlogged_pages(first), ==, 0);
}

/* ---- A journal ---- */

static Machine *
make_journal(Disk *disk)
{
    Machine *m = fake_machine_new(RAM);
    g_autoptr(GError) error = NULL;

    virtio_blk_init_journal(m, pci_host_init(m, NULL), disk, &error);
    g_assert_no_error(error);
    return m;
}

static void
set_up_journal(Fixture *f, gconstpointer data)
{
    f->disk = fake_disk_new(DISK, false);
    f->m = make_journal(f->disk);
    fake_start(f->m);
    driver_init(&f->blk, f->m, 1);
    driver_negotiate(&f->blk, VERSION_1 | MQ);
    driver_use_msix(&f->blk, 1, 0x40);
    driver_queue_init(&f->queues[0], &f->blk, 0, SIZE, RINGS);
    driver_ok(&f->blk);
}

/* The same guest goes on over the same journal, in another process. */
static void
restore_journal(Fixture *f, bool goes_back)
{
    Machine *other = make_journal(f->disk);

    fake_set_goes_back(other, goes_back);
    fake_move(f->m, other);
    f->m = f->blk.m = other;
}

static void
journal_offers_no_ranges(Fixture *f, gconstpointer data)
{
    char id[21] = "";

    g_assert_cmpuint(ask_range(f, WRITE_ZEROES, 8, 8, 0), ==, UNSUPP);
    g_assert_cmpuint(ask_range(f, T_DISCARD, 8, 8, 0), ==, UNSUPP);
    g_assert_cmpuint(ask(f, GET_ID, 0, DATA, 20), ==, OK);
    fake_peek(f->m, DATA, id, 20);
    g_assert_cmpstr(id, ==, "journal");
    g_assert_cmpuint(fake_mmio_read(f->m, f->blk.config + 34, 2), ==, 1);
    g_assert_cmpuint(ask(f, OUT, 0, DATA, 512), ==, OK);
    g_assert_cmpuint(fake_disk_flushes(f->disk), ==, 0);
    fake_mmio_write(f->m, f->blk.common, 0, 4);
    g_assert_cmphex(fake_mmio_read(f->m, f->blk.common + 4, 4) & (1u << 13 | 1u << 14), ==, 0);
}

/* A write that was under way at the cut has ended since, and others have gone over it. */
static void
journal_goes_back(Fixture *f, gconstpointer data)
{
    Machine *first = f->m;
    unsigned n;

    fill(f, DATA, 0x11, 512);
    fake_disk_hold(f->disk, true);
    n = offer(f, OUT, 4, DATA, 512);
    driver_kick(&f->queues[0]);
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 1);
    fake_stop(f->m);
    fake_disk_end(f->disk, 1, 0);
    memset(fake_disk_data(f->disk) + 4 * SECTOR_BYTES, 0x22, 512);
    fake_disk_hold(f->disk, false);
    restore_journal(f, true);
    fake_pump();
    g_assert_true(driver_used(&f->queues[0], NULL, NULL));
    g_assert_cmpuint(status_of(f, n), ==, IOERR);
    g_assert_true(disk_is(f, 4, 0x22, 512));
    /* Nor is anything new written, until the guest has read what is there. */
    g_assert_cmpuint(ask(f, OUT, 5, DATA, 512), ==, IOERR);
    g_assert_cmpuint(ask(f, T_FLUSH, 0, 0, 0), ==, OK);
    g_assert_cmpuint(ask(f, IN, 4, DATA, 512), ==, OK);
    g_assert_true(ram_is(f, DATA, 0x22, 512));
    g_assert_cmpuint(ask(f, OUT, 5, DATA, 512), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 512), ==, OK);
    g_assert_cmpuint(ask(f, OUT, 5, DATA, 512), ==, OK);
    fake_start(first);
}

static void
journal_stays_stale_over_a_move(Fixture *f, gconstpointer data)
{
    restore_journal(f, true);
    restore_journal(f, false);
    g_assert_cmpuint(ask(f, OUT, 5, DATA, 512), ==, IOERR);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 1024), ==, OK);
    restore_journal(f, false);
    g_assert_cmpuint(ask(f, OUT, 5, DATA, 512), ==, OK);
}

static void
journal_moves(Fixture *f, gconstpointer data)
{
    Machine *first = f->m;
    unsigned n;

    fill(f, DATA, 0x11, 512);
    fake_disk_hold(f->disk, true);
    n = offer(f, OUT, 4, DATA, 512);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    fake_disk_end(f->disk, 1, 0);
    fake_disk_hold(f->disk, false);
    restore_journal(f, false);
    fake_pump();
    g_assert_cmpuint(status_of(f, n), ==, OK);
    g_assert_true(disk_is(f, 4, 0x11, 512));
    fake_start(first);
}

static void
only_a_journal_is_stale(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    Machine *other = make_machine(fake_disk_new(DISK, false));
    g_autoptr(GByteArray) state = NULL;

    restore_journal(f, true);
    fake_stop(f->m);
    state = fake_dump(f->m, "virtio-blk");
    g_assert_false(fake_restore(other, "virtio-blk", state, &error));
    g_assert_nonnull(strstr(error->message, "journal"));
}

/* Saved again before it was ever started: nothing is lost. */
static void
restored_requests_survive_another_save(Fixture *f, gconstpointer data)
{
    Disk *copy = fake_disk_new(DISK, false);
    Machine *between = make_machine(fake_disk_new(DISK, false));
    unsigned n;

    fill(f, DATA, 0x42, 512);
    fake_disk_hold(f->disk, true);
    n = offer(f, OUT, 3, DATA, 512);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    for (int i = 0; i < 2; i++) {
        const char *kind = i ? "virtio-blk" : "pci";
        g_autoptr(GByteArray) state = fake_dump(f->m, kind);

        g_assert_true(fake_restore(between, kind, state, NULL));
    }
    uint8_t *ram = g_malloc(RAM);
    fake_peek(f->m, 0, ram, RAM);
    fake_poke(between, 0, ram, RAM);
    g_free(ram);
    fake_disk_end(f->disk, 1, 0);
    f->m = between;
    fake_stop(between);
    move_to(f, copy);
    f->disk = copy;
    fake_pump();
    g_assert_cmpuint(status_of(f, n), ==, OK);
    g_assert_true(disk_is(f, 3, 0x42, 512));
}

/* The guest changed the chain of a request in flight: only it is hurt. */
static void
changed_chain_breaks_its_queue(Fixture *f, gconstpointer data)
{
    Disk *copy = fake_disk_new(DISK, false), *old = f->disk;
    unsigned spoilt, good;

    fake_disk_hold(old, true);
    spoilt = offer_on(f, 0, IN, 0, DATA, 512);
    good = offer_on(f, 1, IN, 0, DATA, 512);
    driver_kick(&f->queues[0]);
    driver_kick(&f->queues[1]);
    fake_stop(f->m);
    driver_describe(&f->queues[0], 0, UINT64_MAX - 4, 16, 0, 0);
    move_to(f, copy);
    fake_disk_end(old, 2, 0);
    f->disk = copy;
    fake_pump();
    g_assert_cmpuint(status_of(f, good), ==, OK);
    g_assert_cmpuint(status_of(f, spoilt), ==, UNTOUCHED);
    g_assert_cmpuint(driver_status(&f->blk) & 64, ==, 64);
    /* It can be saved like that, and loaded. */
    move_to(f, fake_disk_new(DISK, false));
    /* A reset makes all good. */
    bring_up(f, VERSION_1 | FLUSH | MQ);
    g_assert_cmpuint(ask(f, IN, 0, DATA, 512), ==, OK);
}

/* A restore must not begin more at once than a device ever does. */
static void
restored_requests_keep_to_the_bound(Fixture *f, gconstpointer data)
{
    enum { N = 20 };
    Disk *copy = fake_disk_new(DISK, false), *old = f->disk;
    unsigned n[N];

    fake_disk_hold(old, true);
    fake_disk_hold(copy, true);
    for (unsigned i = 0; i < N; i++)
        n[i] = offer(f, IN, 0, DATA + 512 * i, 512);
    driver_kick(&f->queues[0]);
    g_assert_cmpuint(fake_disk_pending(old), ==, N);
    fake_stop(f->m);
    for (unsigned i = 0; i < N; i++) /* grown while in flight */
        driver_describe(&f->queues[0], (uint16_t)(n[i] * 3 % (SIZE - 2) + 1), DATA, MIB,
                        DRIVER_DESC_NEXT | DRIVER_DESC_WRITE,
                        (uint16_t)(n[i] * 3 % (SIZE - 2) + 2));
    move_to(f, copy);
    fake_disk_end(old, N, 0);
    f->disk = copy;
    for (unsigned done = 0; done < N; done++) {
        g_assert_cmpuint(fake_disk_pending(copy), >, 0);
        g_assert_cmpuint(fake_disk_pending_bytes(copy), <=, 4 * MIB);
        fake_disk_end(copy, 1, 0);
        fake_pump();
    }
    for (unsigned i = 0; i < N; i++)
        g_assert_cmpuint(status_of(f, n[i]), ==, OK);
}

static void
another_disk_is_refused(Fixture *f, gconstpointer data)
{
    Machine *other = make_machine(fake_disk_new(DISK + 512, false));
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL;

    fake_stop(f->m);
    state = fake_dump(f->m, "virtio-blk");
    g_assert_false(fake_restore(other, "virtio-blk", state, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "sectors"));
}

static void
impossible_heads_are_refused(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL;
    District__VirtioBlkState *parsed;
    GByteArray packed;

    fake_disk_hold(f->disk, true);
    offer(f, IN, 0, DATA, 512);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    state = fake_dump(f->m, "virtio-blk");
    parsed = district__virtio_blk_state__unpack(NULL, state->len, state->data);
    g_assert_cmpuint(parsed->queues[0]->n_heads, ==, 1);
    parsed->queues[0]->heads[0] = SIZE;
    packed.len = (guint)district__virtio_blk_state__get_packed_size(parsed);
    packed.data = g_malloc(packed.len);
    district__virtio_blk_state__pack(parsed, packed.data);
    g_assert_false(fake_restore(f->m, "virtio-blk", &packed, &error));
    g_test_message("%s", error->message);
    district__virtio_blk_state__free_unpacked(parsed, NULL);
    g_free(packed.data);
}

static void
garbage_is_refused(Fixture *f, gconstpointer data)
{
    fake_disk_hold(f->disk, true);
    offer(f, IN, 0, DATA, 512);
    offer(f, OUT, 0, DATA, 512);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    fake_check_garbage(f->m, "virtio-blk");
}

/* ---- Reset ---- */

static void
reset_drops_what_is_in_flight(Fixture *f, gconstpointer data)
{
    unsigned old = offer(f, OUT, 0, DATA, 4096), new;

    fill(f, DATA, 1, 4096);
    fill(f, DATA + 4096, 2, 4096);
    fake_disk_hold(f->disk, true);
    driver_kick(&f->queues[0]);
    bring_up(f, VERSION_1 | FLUSH | MQ);
    new = offer(f, OUT, 0, DATA + 4096, 4096);
    driver_kick(&f->queues[0]);
    /* The old write is still with the disk: the new one must not pass it. */
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 1);
    fake_disk_end(f->disk, 1, 0);
    g_assert_cmpuint(status_of(f, old), ==, UNTOUCHED);
    g_assert_false(driver_used(&f->queues[0], NULL, NULL));
    fake_pump();
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 1);
    fake_disk_end(f->disk, 1, 0);
    g_assert_cmpuint(status_of(f, new), ==, OK);
    g_assert_true(disk_is(f, 0, 2, 4096));
}

static void
reset_of_a_stopped_request_is_clean(Fixture *f, gconstpointer data)
{
    unsigned n = offer(f, IN, 0, DATA, 4096);

    fake_disk_hold(f->disk, true);
    driver_kick(&f->queues[0]);
    fake_stop(f->m);
    fake_disk_end(f->disk, 1, 0);
    fake_mmio_write(f->m, f->blk.common + 0x14, 0, 1);
    fake_start(f->m);
    fake_pump();
    g_assert_cmpuint(status_of(f, n), ==, UNTOUCHED);
}

static void
kick_during_stop_is_kept(Fixture *f, gconstpointer data)
{
    unsigned n = offer(f, IN, 0, DATA, 512);

    fake_mmio_write(f->m, f->blk.notify, 0, 2); /* the main loop does not run */
    fake_stop(f->m);
    g_assert_cmpuint(fake_disk_pending(f->disk), ==, 0);
    fake_start(f->m);
    fake_pump();
    g_assert_cmpuint(status_of(f, n), ==, OK);
}

#define ADD_WITH(name, set, function)                                                              \
    g_test_add("/blk/" name, Fixture, NULL, set, function, tear_down)
#define ADD(name, function) ADD_WITH(name, set_up, function)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("what was written is read", writes_and_reads);
    ADD("a flush reaches the disk", flushes);
    ADD_WITH("writes of a driver without flush are flushed", set_up_without_flush,
             writes_are_durable_without_flush);
    ADD("zeroes are written within limits", zeroes);
    ADD("a discard reaches the disk", discards);
    ADD("the serial number is told, and no more than fits", tells_its_serial);
    ADD("unknown types are unsupported", unknown_types_are_unsupported);
    ADD("the configuration tells the limits", describes_itself);
    ADD_WITH("a read-only disk takes no writes", set_up_read_only, read_only_disk_takes_no_writes);
    ADD("every queue works", all_queues_work);
    ADD("header and data may be cut anyhow", any_layout_is_taken);
    ADD("errors of the disk reach the guest", errors_reach_the_guest);
    ADD("ranges off the disk are refused", ranges_off_the_disk_are_refused);
    ADD("odd lengths are refused", odd_lengths_are_refused);
    ADD("a request without a header breaks the queue", no_header_breaks_the_queue);
    ADD("a request without a status breaks the queue", no_status_breaks_the_queue);
    ADD("more requests than descriptors break the queue",
        more_requests_than_descriptors_break_the_queue);
    ADD("memory in flight is bounded", memory_in_flight_is_bounded);
    ADD("a stop waits for no disk, and memory stays still", stop_waits_for_no_disk);
    ADD("requests in flight begin anew after a restore",
        requests_in_flight_begin_anew_after_a_restore);
    ADD_WITH("a journal offers neither discard nor zeroes", set_up_journal,
             journal_offers_no_ranges);
    ADD_WITH("a journal of a guest that goes back takes no writes until it is read", set_up_journal,
             journal_goes_back);
    ADD_WITH("a journal that is stale stays so over a move", set_up_journal,
             journal_stays_stale_over_a_move);
    ADD_WITH("a journal that moves has its requests begun anew", set_up_journal, journal_moves);
    ADD_WITH("only a journal can be stale", set_up_journal, only_a_journal_is_stale);
    ADD("restored requests survive another save", restored_requests_survive_another_save);
    ADD("a chain changed in flight breaks its queue alone", changed_chain_breaks_its_queue);
    ADD("restored requests keep to the bound", restored_requests_keep_to_the_bound);
    ADD("a state of another disk is refused", another_disk_is_refused);
    ADD("impossible heads are refused", impossible_heads_are_refused);
    ADD("garbage is refused", garbage_is_refused);
    ADD("a reset drops what is in flight, and waits for it", reset_drops_what_is_in_flight);
    ADD("a reset while stopped forgets what has ended", reset_of_a_stopped_request_is_clean);
    ADD("a notification during a stop is kept", kick_during_stop_is_kept);
    return g_test_run();
}
