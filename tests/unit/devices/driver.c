/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small virtio PCI driver; see driver.h. Offsets are those of virtio 1.2 §4.1.4. */
#include "driver.h"

#include "common/page.h"

static uint64_t
ecam(unsigned slot, unsigned reg)
{
    return MAP_ECAM_BASE + (slot << 15) + reg;
}

uint32_t
pci_read(Machine *m, unsigned slot, unsigned reg, unsigned len)
{
    return (uint32_t)fake_mmio_read(m, ecam(slot, reg), len);
}

void
pci_write(Machine *m, unsigned slot, unsigned reg, uint32_t value, unsigned len)
{
    fake_mmio_write(m, ecam(slot, reg), value, len);
}

unsigned
pci_capability(Machine *m, unsigned slot, uint8_t id, uint8_t cfg_type)
{
    unsigned at = pci_read(m, slot, 0x34, 1);

    for (int i = 0; at != 0 && i < 48; i++) {
        if (pci_read(m, slot, at, 1) == id && (id != 9 || pci_read(m, slot, at + 3, 1) == cfg_type))
            return at;
        at = pci_read(m, slot, at + 1, 1);
    }
    return 0;
}

static uint64_t
bar_address(Driver *driver, unsigned bar)
{
    uint32_t low = pci_read(driver->m, driver->slot, 0x10 + 4 * bar, 4);
    uint64_t address = low & ~0xFu;

    if (low & 4)
        address |= (uint64_t)pci_read(driver->m, driver->slot, 0x14 + 4 * bar, 4) << 32;
    return address;
}

static uint64_t
structure(Driver *driver, uint8_t cfg_type)
{
    unsigned cap = pci_capability(driver->m, driver->slot, 9, cfg_type);

    if (cap == 0)
        return 0;
    return bar_address(driver, pci_read(driver->m, driver->slot, cap + 4, 1)) +
           pci_read(driver->m, driver->slot, cap + 8, 4);
}

void
driver_init(Driver *driver, Machine *m, unsigned slot)
{
    unsigned cap;

    *driver = (Driver){.m = m, .slot = slot};
    pci_write(m, slot, 4, 0x0006, 2);
    driver->common = structure(driver, 1);
    driver->notify = structure(driver, 2);
    driver->isr = structure(driver, 3);
    driver->config = structure(driver, 4);
    cap = pci_capability(m, slot, 9, 2);
    driver->notify_multiplier = pci_read(m, slot, cap + 16, 4);
    cap = pci_capability(m, slot, 0x11, 0);
    driver->msix = bar_address(driver, pci_read(m, slot, cap + 4, 4) & 7);
    fake_mmio_write(m, driver->common + 0x14, 0, 1);
}

void
driver_negotiate(Driver *driver, uint64_t wanted)
{
    Machine *m = driver->m;

    fake_mmio_write(m, driver->common + 0x14, 3, 1);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t offered, take;

        fake_mmio_write(m, driver->common + 0x00, i, 4);
        offered = (uint32_t)fake_mmio_read(m, driver->common + 0x04, 4);
        take = offered & (uint32_t)(wanted >> 32 * i);
        fake_mmio_write(m, driver->common + 0x08, i, 4);
        fake_mmio_write(m, driver->common + 0x0C, take, 4);
        driver->features |= (uint64_t)take << 32 * i;
    }
    fake_mmio_write(m, driver->common + 0x14, 3 | 8, 1);
}

void
driver_use_msix(Driver *driver, unsigned n_queues, uint32_t base)
{
    Machine *m = driver->m;
    unsigned cap = pci_capability(m, driver->slot, 0x11, 0);

    pci_write(m, driver->slot, cap + 2, 0x8000, 2);
    for (unsigned i = 0; i <= n_queues; i++) {
        fake_mmio_write(m, driver->msix + 16 * i, 0xFEE00000, 4);
        fake_mmio_write(m, driver->msix + 16 * i + 4, 0, 4);
        fake_mmio_write(m, driver->msix + 16 * i + 8, base + i, 4);
        fake_mmio_write(m, driver->msix + 16 * i + 12, 0, 4);
    }
    for (unsigned i = 0; i < n_queues; i++) {
        fake_mmio_write(m, driver->common + 0x16, i, 2);
        fake_mmio_write(m, driver->common + 0x1A, i, 2);
    }
    fake_mmio_write(m, driver->common + 0x10, n_queues, 2);
}

static void
write_address(Driver *driver, unsigned reg, uint64_t gpa)
{
    fake_mmio_write(driver->m, driver->common + reg, (uint32_t)gpa, 4);
    fake_mmio_write(driver->m, driver->common + reg + 4, gpa >> 32, 4);
}

void
driver_queue_init(DriverQueue *queue, Driver *driver, unsigned index, uint16_t size, uint64_t gpa)
{
    static const uint8_t zero[3 * PAGE_BYTES];

    *queue = (DriverQueue){.driver = driver, .index = index, .size = size};
    fake_poke(driver->m, gpa, zero, sizeof zero);
    queue->desc = gpa;
    queue->avail = gpa + PAGE_BYTES;
    queue->used = gpa + 2 * PAGE_BYTES;
    fake_mmio_write(driver->m, driver->common + 0x16, index, 2);
    fake_mmio_write(driver->m, driver->common + 0x18, size, 2);
    write_address(driver, 0x20, queue->desc);
    write_address(driver, 0x28, queue->avail);
    write_address(driver, 0x30, queue->used);
    fake_mmio_write(driver->m, driver->common + 0x1C, 1, 2);
}

void
driver_ok(Driver *driver)
{
    fake_mmio_write(driver->m, driver->common + 0x14, 3 | 8 | 4, 1);
    fake_pump();
}

uint8_t
driver_status(Driver *driver)
{
    return (uint8_t)fake_mmio_read(driver->m, driver->common + 0x14, 1);
}

void
driver_describe(DriverQueue *queue, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                uint16_t next)
{
    Machine *m = queue->driver->m;
    uint64_t at = queue->desc + 16u * i;

    fake_poke64(m, at, gpa);
    fake_poke(m, at + 8, &len, sizeof len);
    fake_poke16(m, at + 12, flags);
    fake_poke16(m, at + 14, next);
}

void
driver_offer(DriverQueue *queue, uint16_t head)
{
    Machine *m = queue->driver->m;

    fake_poke16(m, queue->avail + 4 + 2u * (queue->avail_idx % queue->size), head);
    fake_poke16(m, queue->avail + 2, ++queue->avail_idx);
}

void
driver_kick(DriverQueue *queue)
{
    Driver *driver = queue->driver;

    fake_mmio_write(driver->m, driver->notify + driver->notify_multiplier * queue->index,
                    queue->index, 2);
    fake_pump();
}

uint16_t
driver_add(DriverQueue *queue, uint64_t gpa, uint32_t len, bool device_writes)
{
    uint16_t i = queue->next_desc++ % queue->size;

    driver_describe(queue, i, gpa, len, device_writes ? DRIVER_DESC_WRITE : 0, 0);
    driver_offer(queue, i);
    return i;
}

bool
driver_used(DriverQueue *queue, uint16_t *head, uint32_t *len)
{
    Machine *m = queue->driver->m;
    uint64_t at = queue->used + 4 + 8u * (queue->last_used % queue->size);

    if (fake_peek16(m, queue->used + 2) == queue->last_used)
        return false;
    queue->last_used++;
    if (head)
        *head = (uint16_t)fake_peek32(m, at);
    if (len)
        *len = fake_peek32(m, at + 4);
    return true;
}
