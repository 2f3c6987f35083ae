/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The PCI bus as a guest sees it, with a virtio-rng on it. */
#include "driver.h"

#include "vmm/devices/devices.h"

#define BRIDGE 0
#define RNG 1
#define BAR0 0x10
#define BAR2 0x18

typedef struct Fixture {
    Machine *m;
    PciHost *pci;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->m = fake_machine_new(1 << 20);
    f->pci = pci_host_init(f->m, NULL);
    g_assert_nonnull(f->pci);
    g_assert_true(virtio_rng_init(f->m, f->pci, NULL));
    g_assert_true(virtio_rng_init(f->m, f->pci, NULL));
    fake_start(f->m);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
}

static uint32_t
port_read(Machine *m, unsigned slot, unsigned reg, unsigned len)
{
    fake_out(m, 0xCF8, 0x80000000 | slot << 11 | (reg & ~3u), 4);
    return fake_in(m, (uint16_t)(0xCFC + (reg & 3)), len);
}

static void
both_ways_see_the_same(Fixture *f, gconstpointer data)
{
    for (unsigned slot = 0; slot < 4; slot++) {
        for (unsigned reg = 0; reg < 256; reg += 4) {
            g_assert_cmphex(port_read(f->m, slot, reg, 4), ==, pci_read(f->m, slot, reg, 4));
            g_assert_cmphex(port_read(f->m, slot, reg + 1, 1), ==,
                            pci_read(f->m, slot, reg + 1, 1));
            g_assert_cmphex(port_read(f->m, slot, reg + 2, 2), ==,
                            pci_read(f->m, slot, reg + 2, 2));
        }
    }
    g_assert_cmphex(pci_read(f->m, BRIDGE, 0x08, 4) >> 8, ==, 0x060000);
    g_assert_cmphex(pci_read(f->m, RNG, 0, 4), ==, 0x10441AF4);
}

static void
nobody_reads_all_ones(Fixture *f, gconstpointer data)
{
    g_assert_cmphex(pci_read(f->m, 3, 0, 4), ==, 0xFFFFFFFF);
    /* Function 1 of slot 1, and bus 1. */
    g_assert_cmphex(fake_mmio_read(f->m, MAP_ECAM_BASE + (9 << 12), 4), ==, 0xFFFFFFFF);
    g_assert_cmphex(fake_mmio_read(f->m, MAP_ECAM_BASE + (1 << 20), 4), ==, 0xFFFFFFFF);
    fake_out(f->m, 0xCF8, 0x00000000, 4); /* not enabled */
    g_assert_cmphex(fake_in(f->m, 0xCFC, 4), ==, 0xFFFFFFFF);
    /* No extended capabilities. */
    g_assert_cmphex(pci_read(f->m, RNG, 0x100, 4), ==, 0);
    g_assert_cmphex(pci_read(f->m, RNG, 0xFFC, 4), ==, 0);
}

static void
address_register_is_a_dword(Fixture *f, gconstpointer data)
{
    fake_out(f->m, 0xCF8, 0x80001234, 4);
    fake_out(f->m, 0xCF8, 0, 2);
    fake_out(f->m, 0xCFA, 0, 1);
    g_assert_cmphex(fake_in(f->m, 0xCF8, 4), ==, 0x80001234);
}

static void
cf9_resets(Fixture *f, gconstpointer data)
{
    fake_out(f->m, 0xCF9, 0x02, 1);
    g_assert_cmpint(fake_exit_wanted(f->m), ==, -1);
    fake_out(f->m, 0xCF9, 0x06, 1);
    g_assert_cmpint(fake_exit_wanted(f->m), ==, MACHINE_EXIT_RESET);
}

static void
bars_tell_their_size(Fixture *f, gconstpointer data)
{
    uint32_t before = pci_read(f->m, RNG, BAR0, 4);

    g_assert_cmphex(before & 0xF, ==, 4); /* 64-bit memory */
    pci_write(f->m, RNG, BAR0, 0xFFFFFFFF, 4);
    pci_write(f->m, RNG, BAR0 + 4, 0xFFFFFFFF, 4);
    g_assert_cmphex(pci_read(f->m, RNG, BAR0, 4), ==, 0xFFFFC004);
    g_assert_cmphex(pci_read(f->m, RNG, BAR0 + 4, 4), ==, 0xFFFFFFFF);
    pci_write(f->m, RNG, BAR2, 0xFFFFFFFF, 4);
    g_assert_cmphex(pci_read(f->m, RNG, BAR2, 4), ==, 0xFFFFF000);
    /* There are no others. */
    for (unsigned reg = BAR2 + 4; reg <= 0x24; reg += 4) {
        pci_write(f->m, RNG, reg, 0xFFFFFFFF, 4);
        g_assert_cmphex(pci_read(f->m, RNG, reg, 4), ==, 0);
    }
    pci_write(f->m, RNG, 0x30, 0xFFFFFFFF, 4);
    g_assert_cmphex(pci_read(f->m, RNG, 0x30, 4), ==, 0);
}

static void
bars_are_decoded_when_enabled(Fixture *f, gconstpointer data)
{
    uint64_t bar = pci_read(f->m, RNG, BAR0, 4) & ~0xFu;

    g_assert_false(fake_mmio_mapped(f->m, bar));
    pci_write(f->m, RNG, 4, 2, 2);
    g_assert_true(fake_mmio_mapped(f->m, bar));
    g_assert_cmphex(fake_mmio_read(f->m, bar + 0x12, 2), ==, 1); /* num_queues */
    pci_write(f->m, RNG, 4, 0, 2);
    g_assert_false(fake_mmio_mapped(f->m, bar));
}

static void
bars_can_be_moved(Fixture *f, gconstpointer data)
{
    uint64_t old = pci_read(f->m, RNG, BAR0, 4) & ~0xFu;
    uint64_t moved = MAP_PCI_MMIO32_BASE + 0x1000000;

    pci_write(f->m, RNG, 4, 2, 2);
    pci_write(f->m, RNG, BAR0, (uint32_t)moved, 4);
    g_assert_false(fake_mmio_mapped(f->m, old));
    g_assert_cmphex(fake_mmio_read(f->m, moved + 0x12, 2), ==, 1);
}

static void
bars_elsewhere_are_not_decoded(Fixture *f, gconstpointer data)
{
    static const uint64_t wild[] = {
        0,
        MAP_PCI_MMIO32_BASE - 0x4000,
        MAP_ECAM_BASE,
        MAP_IOAPIC_BASE,
        MAP_LAPIC_BASE,
        0xFFFFC000,
        MAP_RAM_HIGH,
        UINT64_MAX & ~0x3FFFull,
    };

    fake_take_ioeventfds(f->m, true);
    pci_write(f->m, RNG, 4, 2, 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(wild); i++) {
        pci_write(f->m, RNG, BAR0, (uint32_t)wild[i], 4);
        pci_write(f->m, RNG, BAR0 + 4, (uint32_t)(wild[i] >> 32), 4);
        g_assert_cmphex(wild[i] == MAP_ECAM_BASE, ==, fake_mmio_mapped(f->m, wild[i]));
    }
    /* The window's last place still works. */
    pci_write(f->m, RNG, BAR0 + 4, 0, 4);
    pci_write(f->m, RNG, BAR0, MAP_ECAM_BASE - 0x4000, 4);
    g_assert_true(fake_mmio_mapped(f->m, MAP_ECAM_BASE - 1));
}

static void
bars_on_top_of_each_other(Fixture *f, gconstpointer data)
{
    uint32_t first = pci_read(f->m, 1, BAR0, 4), second = pci_read(f->m, 2, BAR0, 4);

    fake_take_ioeventfds(f->m, true);
    pci_write(f->m, 1, 4, 2, 2);
    pci_write(f->m, 2, 4, 2, 2);
    pci_write(f->m, 1, BAR0, second, 4); /* both there: the one that came first stays */
    g_assert_false(fake_mmio_mapped(f->m, first & ~0xFu));
    pci_write(f->m, 2, BAR0, first, 4); /* and now they have changed places */
    g_assert_true(fake_mmio_mapped(f->m, first & ~0xFu));
    g_assert_true(fake_mmio_mapped(f->m, second & ~0xFu));
}

static void
read_only_stays(Fixture *f, gconstpointer data)
{
    for (unsigned reg = 0; reg < 256; reg++) {
        uint32_t before = pci_read(f->m, BRIDGE, reg, 1);

        pci_write(f->m, BRIDGE, reg, ~before & 0xFF, 1);
        if (reg != 0x04 && reg != 0x05 && reg != 0x0C && reg != 0x3C)
            g_assert_cmphex(pci_read(f->m, BRIDGE, reg, 1), ==, before);
    }
}

static void
configuration_access_capability(Fixture *f, gconstpointer data)
{
    unsigned cap = pci_capability(f->m, RNG, 9, 5);

    g_assert_cmpuint(cap, !=, 0);
    pci_write(f->m, RNG, cap + 4, 0, 1);
    pci_write(f->m, RNG, cap + 8, 0x12, 4);
    pci_write(f->m, RNG, cap + 12, 2, 4);
    g_assert_cmphex(pci_read(f->m, RNG, cap + 16, 2), ==, 1); /* num_queues, memory not enabled */
    pci_write(f->m, RNG, cap + 8, 0x14, 4);
    pci_write(f->m, RNG, cap + 12, 1, 4);
    pci_write(f->m, RNG, cap + 16, 1, 1);
    g_assert_cmphex(pci_read(f->m, RNG, cap + 16, 1), ==, 1); /* device_status */
}

static void
configuration_access_out_of_range(Fixture *f, gconstpointer data)
{
    static const uint32_t wild[][3] = {
        {0, 0x4000, 4}, {0, 0x3FFE, 4}, {0, UINT32_MAX, 1}, {1, 0, 4},
        {6, 0, 4},      {255, 0, 4},    {0, 0, 0},          {0, 0, 3},
        {0, 0, 8},      {0, 1, 4},      {0, 0, UINT32_MAX}, {2, 0x1000, 4},
    };
    unsigned cap = pci_capability(f->m, RNG, 9, 5);

    for (unsigned i = 0; i < G_N_ELEMENTS(wild); i++) {
        pci_write(f->m, RNG, cap + 4, wild[i][0], 1);
        pci_write(f->m, RNG, cap + 8, wild[i][1], 4);
        pci_write(f->m, RNG, cap + 12, wild[i][2], 4);
        pci_write(f->m, RNG, cap + 16, 0x5A5A5A5A, 4);
        g_assert_cmphex(pci_read(f->m, RNG, cap + 16, 4), ==, 0x5A5A5A5A);
    }
}

static void
masked_vector_waits(Fixture *f, gconstpointer data)
{
    Driver driver;
    DriverQueue queue;

    driver_init(&driver, f->m, RNG);
    driver_negotiate(&driver, UINT64_C(1) << 32);
    driver_use_msix(&driver, 1, 0x40);
    driver_queue_init(&queue, &driver, 0, 8, 0x10000);
    driver_ok(&driver);
    fake_mmio_write(f->m, driver.msix + 12, 1, 4); /* mask vector 0 */
    driver_add(&queue, 0x20000, 16, true);
    driver_kick(&queue);
    g_assert_true(driver_used(&queue, NULL, NULL));
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 0);
    g_assert_cmphex(fake_mmio_read(f->m, driver.msix + 0x800, 8), ==, 1);
    fake_mmio_write(f->m, driver.msix + 12, 0, 4);
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 1);
    g_assert_cmphex(fake_mmio_read(f->m, driver.msix + 0x800, 8), ==, 0);
}

static void
function_mask_holds_all(Fixture *f, gconstpointer data)
{
    Driver driver;
    DriverQueue queue;
    unsigned cap;

    driver_init(&driver, f->m, RNG);
    driver_negotiate(&driver, UINT64_C(1) << 32);
    driver_use_msix(&driver, 1, 0x40);
    driver_queue_init(&queue, &driver, 0, 8, 0x10000);
    driver_ok(&driver);
    cap = pci_capability(f->m, RNG, 0x11, 0);
    pci_write(f->m, RNG, cap + 2, 0xC000, 2);
    driver_add(&queue, 0x20000, 16, true);
    driver_kick(&queue);
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 0);
    pci_write(f->m, RNG, cap + 2, 0x8000, 2);
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 1);
}

static void
interrupt_line_without_msix(Fixture *f, gconstpointer data)
{
    Driver driver;
    DriverQueue queue;

    driver_init(&driver, f->m, RNG);
    driver_negotiate(&driver, UINT64_C(1) << 32);
    driver_queue_init(&queue, &driver, 0, 8, 0x10000);
    driver_ok(&driver);
    driver_add(&queue, 0x20000, 16, true);
    driver_kick(&queue);
    g_assert_true(fake_irq(f->m, GSI_PCI_BASE + RNG));
    g_assert_cmphex(pci_read(f->m, RNG, 6, 2) & 8, ==, 8);
    g_assert_cmphex(fake_mmio_read(f->m, driver.isr, 1), ==, 1);
    g_assert_false(fake_irq(f->m, GSI_PCI_BASE + RNG));
    g_assert_cmphex(fake_mmio_read(f->m, driver.isr, 1), ==, 0);
    /* INTx disable holds the line down, not the status. */
    pci_write(f->m, RNG, 4, 0x406, 2);
    driver_add(&queue, 0x20000, 16, true);
    driver_kick(&queue);
    g_assert_false(fake_irq(f->m, GSI_PCI_BASE + RNG));
    pci_write(f->m, RNG, 4, 0x006, 2);
    g_assert_true(fake_irq(f->m, GSI_PCI_BASE + RNG));
}

static void
state_goes_round(Fixture *f, gconstpointer data)
{
    Fixture other;
    uint64_t moved = MAP_PCI_MMIO32_BASE + 0x1000000;

    pci_write(f->m, RNG, 4, 6, 2);
    pci_write(f->m, RNG, BAR0, (uint32_t)moved, 4);
    fake_out(f->m, 0xCF8, 0x80000808, 4);
    set_up(&other, NULL);
    fake_stop(other.m);
    fake_move(f->m, other.m);
    g_assert_cmphex(fake_in(other.m, 0xCF8, 4), ==, 0x80000808);
    g_assert_cmphex(fake_mmio_read(other.m, moved + 0x12, 2), ==, 1);
    for (unsigned slot = 0; slot < 3; slot++) {
        for (unsigned reg = 0; reg < 256; reg += 4)
            g_assert_cmphex(pci_read(other.m, slot, reg, 4), ==, pci_read(f->m, slot, reg, 4));
    }
}

static void
other_devices_are_refused(Fixture *f, gconstpointer data)
{
    Machine *m = fake_machine_new(1 << 20);
    g_autoptr(GByteArray) state = fake_dump(f->m, "pci");
    g_autoptr(GError) error = NULL;

    g_assert_nonnull(pci_host_init(m, NULL));
    g_assert_false(fake_restore(m, "pci", state, &error));
    g_assert_true(g_str_has_prefix(error->message, "pci: saved state refused: "));
}

static void
garbage_is_refused(Fixture *f, gconstpointer data)
{
    fake_take_ioeventfds(f->m, true);
    fake_stop(f->m);
    fake_check_garbage(f->m, "pci");
    fake_check_garbage(f->m, "virtio-rng");
}

#define ADD(name, function) g_test_add("/pci/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("ports and ECAM see the same registers", both_ways_see_the_same);
    ADD("where nobody is reads all ones", nobody_reads_all_ones);
    ADD("the address register takes only dwords", address_register_is_a_dword);
    ADD("port 0xCF9 resets the machine", cf9_resets);
    ADD("BARs tell their size", bars_tell_their_size);
    ADD("BARs are decoded when memory is enabled", bars_are_decoded_when_enabled);
    ADD("a BAR can be moved", bars_can_be_moved);
    ADD("a BAR outside the window is not decoded", bars_elsewhere_are_not_decoded);
    ADD("BARs can change places", bars_on_top_of_each_other);
    ADD("read-only registers stay as they are", read_only_stays);
    ADD("BARs can be reached through configuration space", configuration_access_capability);
    ADD("configuration space reaches nothing outside BARs", configuration_access_out_of_range);
    ADD("a masked vector is pending until unmasked", masked_vector_waits);
    ADD("the function mask holds all vectors", function_mask_holds_all);
    ADD("without MSI-X the interrupt line is used", interrupt_line_without_msix);
    ADD("state goes round", state_goes_round);
    ADD("state of other devices is refused", other_devices_are_refused);
    ADD("garbage is refused", garbage_is_refused);
    return g_test_run();
}
