/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Address spaces, RAM layout and the memory map. */
#include "vmm/boot.h"
#include "vmm/bus.h"

#include <string.h>

#define GIB (1ULL << 30)

typedef struct Hit {
    uint64_t offset;
    unsigned len;
    int n;
} Hit;

static void
hit_handler(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    Hit *hit = opaque;

    hit->offset = offset;
    hit->len = len;
    hit->n++;
    if (!write)
        memset(data, 0x5A, len);
}

static void
test_access_in_region(void)
{
    Bus bus;
    Hit low = {0}, high = {0};
    uint8_t data[4];

    bus_init(&bus);
    g_assert_true(bus_add(&bus, 0x2000, 0x10, hit_handler, &high));
    g_assert_true(bus_add(&bus, 0x1000, 0x10, hit_handler, &low));
    g_assert_true(bus_access(&bus, 0x100C, data, 4, false));
    g_assert_cmpint(low.n, ==, 1);
    g_assert_cmpuint(low.offset, ==, 0xC);
    g_assert_cmphex(data[3], ==, 0x5A);
    g_assert_true(bus_access(&bus, 0x2000, data, 1, true));
    g_assert_cmpint(high.n, ==, 1);
    bus_clear(&bus);
}

static void
test_access_nowhere(void)
{
    Bus bus;
    Hit hit = {0};
    uint8_t data[4] = {0};

    bus_init(&bus);
    g_assert_true(bus_add(&bus, 0x1000, 0x10, hit_handler, &hit));
    g_assert_false(bus_access(&bus, 0x100E, data, 4, false)); /* half in */
    g_assert_cmphex(data[0], ==, 0xFF);
    g_assert_false(bus_access(&bus, 0xFFF, data, 1, false));
    g_assert_false(bus_access(&bus, 0x1010, data, 1, false));
    g_assert_false(bus_access(&bus, UINT64_MAX, data, 4, true));
    g_assert_cmpint(hit.n, ==, 0);
    bus_clear(&bus);
}

static void
test_overlap_refused(void)
{
    Bus bus;
    Hit hit = {0};

    bus_init(&bus);
    g_assert_true(bus_add(&bus, 0x1000, 0x1000, hit_handler, &hit));
    g_assert_false(bus_add(&bus, 0x1800, 0x10, hit_handler, &hit));
    g_assert_false(bus_add(&bus, 0x0800, 0x801, hit_handler, &hit));
    g_assert_false(bus_add(&bus, 0x1000, 1, hit_handler, &hit));
    g_assert_false(bus_add(&bus, 0x5000, 0, hit_handler, &hit));
    g_assert_false(bus_add(&bus, UINT64_MAX - 3, 8, hit_handler, &hit));
    g_assert_true(bus_add(&bus, 0x0800, 0x800, hit_handler, &hit));
    g_assert_true(bus_add(&bus, 0x2000, 1, hit_handler, &hit));
    bus_remove(&bus, 0x1000);
    g_assert_true(bus_add(&bus, 0x1800, 0x10, hit_handler, &hit));
    bus_clear(&bus);
}

static void
test_ram_around_the_hole(void)
{
    RamSlot slots[MACHINE_RAM_SLOTS];

    g_assert_cmpuint(machine_ram_layout(512 << 20, slots), ==, 1);
    g_assert_cmpuint(slots[0].size, ==, 512 << 20);
    g_assert_cmpuint(machine_ram_layout(3 * GIB, slots), ==, 1);
    g_assert_cmpuint(machine_ram_layout(64 * GIB, slots), ==, 2);
    g_assert_cmphex(slots[1].gpa, ==, MAP_RAM_HIGH);
    g_assert_cmphex(slots[1].offset, ==, 3 * GIB);
    g_assert_cmphex(slots[0].size + slots[1].size, ==, 64 * GIB);
}

static void
test_memory_map_adds_up(void)
{
    static const uint64_t sizes[] = {32ULL << 20, 3 * GIB, 5 * GIB, 64 * GIB};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        BootMem map[BOOT_MEM_MAX];
        unsigned n = boot_memory_map(sizes[i], map);
        uint64_t ram = 0, reserved_low = 0;

        for (unsigned j = 0; j < n; j++) {
            g_assert_true(j == 0 || map[j - 1].gpa + map[j - 1].size <= map[j].gpa);
            if (map[j].type == BOOT_MEM_RAM)
                ram += map[j].size;
            else if (map[j].gpa < MAP_BOOT_HIGH)
                reserved_low += map[j].size;
        }
        g_assert_cmpuint(ram + reserved_low, ==, sizes[i]);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bus/an access goes to the region that holds it", test_access_in_region);
    g_test_add_func("/bus/an access outside of all regions reads ones", test_access_nowhere);
    g_test_add_func("/bus/overlapping regions are refused", test_overlap_refused);
    g_test_add_func("/memory/RAM goes around the PCI hole", test_ram_around_the_hole);
    g_test_add_func("/memory/the memory map has all RAM once", test_memory_map_adds_up);
    return g_test_run();
}
