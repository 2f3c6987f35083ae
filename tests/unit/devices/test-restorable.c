/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a guest does to its devices, the state they are in then can be loaded again. A state
 * that its own restore refuses would mean a guest lost at failover.
 */
#include "driver.h"
#include "fake-disk.h"

#include "vmm/devices/devices.h"

#define RAM (1 << 20)
#define FUNCTIONS 5 /* the bridge and four virtio devices */
#define BLOCK_SLOT 4
#define BLOCK_REQUEST 0x2000
#define QUEUES 2
#define RINGS 0x10000
#define ROUNDS 40
#define ACCESSES 4000

static const char *const kinds[] = {"cmos",      "reset",      "acpi-pm",    "serial",
                                    "pci",       "virtio-net", "virtio-rng", "virtio-console",
                                    "virtio-blk"};

static Machine *
make_machine(Disk *disk)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    Machine *m = fake_machine_new(RAM);
    PciHost *pci;

    g_assert_true(cmos_init(m, RAM, NULL));
    g_assert_true(reset_init(m, NULL));
    g_assert_true(acpi_pm_init(m, NULL));
    g_assert_true(serial_init(m, "none", NULL, NULL));
    pci = pci_host_init(m, NULL);
    g_assert_true(virtio_net_init(m, pci, mac, "/nonexistent/switch", NULL));
    g_assert_true(virtio_console_init(m, pci, "none", NULL));
    g_assert_true(virtio_rng_init(m, pci, NULL));
    g_assert_true(virtio_blk_init(m, pci, disk, "disk0", QUEUES, NULL));
    return m;
}

/* ---- A guest that makes no sense ---- */

static uint64_t
odd_value(GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        return g_rand_int_range(rand, 0, 16);
    case 1:
        return UINT64_C(1) << g_rand_int_range(rand, 0, 64);
    case 2:
        return UINT64_MAX;
    default:
        return (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
    }
}

static void
odd_port(Machine *m, GRand *rand)
{
    static const struct {
        uint16_t first, n;
    } ports[] = {{0x64, 1}, {0x70, 2}, {0x3F8, 8}, {0x600, 0x14}, {0xCF8, 8}};
    unsigned i = (unsigned)g_rand_int_range(rand, 0, G_N_ELEMENTS(ports));
    uint16_t port = (uint16_t)(ports[i].first + g_rand_int_range(rand, 0, ports[i].n));
    unsigned len = 1u << g_rand_int_range(rand, 0, 3);

    if (g_rand_boolean(rand))
        fake_out(m, port, (uint32_t)odd_value(rand), len);
    else
        fake_in(m, port, len);
}

static void
odd_mmio(Machine *m, GRand *rand, uint64_t address)
{
    unsigned len = (unsigned)g_rand_int_range(rand, 1, 9); /* KVM splits accesses anyhow */

    if (g_rand_boolean(rand))
        fake_mmio_write(m, address, odd_value(rand), len);
    else
        fake_mmio_read(m, address, len);
}

static void
odd_access(Machine *m, GRand *rand)
{
    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
    case 1:
        odd_port(m, rand);
        break;
    case 2: /* configuration space; mostly not the command register, which unmaps everything */
        odd_mmio(
            m, rand,
            MAP_ECAM_BASE + ((uint64_t)g_rand_int_range(rand, 0, FUNCTIONS) << 15) +
                (uint64_t)g_rand_int_range(rand, g_rand_int_range(rand, 0, 50) ? 0x40 : 0, 0x110));
        break;
    case 3: /* rings and descriptors */
        fake_poke64(m, RINGS + 8 * (uint64_t)g_rand_int_range(rand, 0, 0x8000), odd_value(rand));
        break;
    default: /* the first page of a BAR, and sometimes any */
        odd_mmio(m, rand,
                 MAP_PCI_MMIO32_BASE + ((uint64_t)g_rand_int_range(rand, 0, 24) << 12) +
                     (uint64_t)g_rand_int_range(rand, 0, g_rand_boolean(rand) ? 0x40 : 0x1000));
    }
}

/* A read of a sector. */
static void
offer_block_read(DriverQueue *queue)
{
    driver_describe(queue, 0, BLOCK_REQUEST, 16, DRIVER_DESC_NEXT, 1);
    driver_describe(queue, 1, BLOCK_REQUEST + 16, 513, DRIVER_DESC_WRITE, 0);
    driver_offer(queue, 0);
}

/* Bring all virtio devices up, so that what follows meets devices at work. */
static void
sane_start(Machine *m)
{
    for (unsigned slot = 1; slot < FUNCTIONS; slot++) {
        Driver driver;
        DriverQueue queue;

        driver_init(&driver, m, slot);
        driver_negotiate(&driver, UINT64_MAX);
        driver_use_msix(&driver, QUEUES, 0x50);
        for (unsigned i = 0; i < QUEUES; i++) {
            driver_queue_init(&queue, &driver, i, 64, RINGS + (slot * QUEUES + i) * 0x4000);
            if (slot == BLOCK_SLOT)
                offer_block_read(&queue);
            else
                driver_add(&queue, 0x1000, 64, i == 0);
        }
        driver_ok(&driver);
        fake_pump();
    }
}

/* ---- The test ---- */

static void
any_state_can_be_loaded(void)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(round);
        Disk *disk = fake_disk_new(RAM, false);
        Machine *m = make_machine(disk), *other = make_machine(fake_disk_new(RAM, false));

        fake_disk_hold(disk, round % 2);
        fake_start(m);
        if (round % 4 != 0)
            sane_start(m);
        for (unsigned i = 0; i < ACCESSES; i++) {
            odd_access(m, rand);
            if (i % 64 == 0)
                fake_pump();
        }
        fake_stop(m);
        g_test_message("round %u", round);
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
            g_autoptr(GByteArray) state = fake_dump(m, kinds[i]);
            g_autoptr(GError) error = NULL;

            fake_restore(other, kinds[i], state, &error);
            g_assert_no_error(error);
        }
        g_assert_cmpuint(fake_unlogged_pages(m), ==, 0);
        fake_disk_hold(disk, false);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restorable/any state a guest can make can be loaded",
                    any_state_can_be_loaded);
    return g_test_run();
}
