/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest RAM: one sealed memfd, mapped once, shown to the guest by one or two memslots (below the
 * PCI hole and from 4 GiB up). District-ckpt and, after a failover, the standby map the same memfd,
 * so RAM is never copied between processes.
 */
#include "vmm/machine_priv.h"

#include "common/memfd.h"
#include "common/page.h"
#include "vmm/lazy_ram.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

unsigned
machine_ram_layout(uint64_t size, RamSlot slots[MACHINE_RAM_SLOTS])
{
    uint64_t low = MIN(size, MAP_RAM_LOW_MAX);

    slots[0] = (RamSlot){.gpa = 0, .size = low, .offset = 0};
    if (size == low)
        return 1;
    slots[1] = (RamSlot){.gpa = MAP_RAM_HIGH, .size = size - low, .offset = low};
    return 2;
}

static gboolean
memory_slot_set(Machine *m, uint32_t number, const RamSlot *slot, GError **error)
{
    struct kvm_userspace_memory_region region = {
        .slot = number,
        .flags = KVM_MEM_LOG_DIRTY_PAGES,
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->size,
        .userspace_addr = (uint64_t)(uintptr_t)(m->ram + slot->offset),
    };
    DirtyLogSlot logged = {
        .slot = number,
        .first_page = page_count(slot->offset),
        .n_pages = page_count(slot->size),
    };

    return machine_ioctl(m, KVM_SET_USER_MEMORY_REGION, &region, "give the guest its RAM", error) &&
           dirtylog_add_slot(m->dirty, &logged, error);
}

gboolean
machine_ram_attach(Machine *m, int ram_fd, GError **error)
{
    g_assert(m->ram == NULL && m->dirty != NULL);
    if (!memfd_check(ram_fd, m->ram_size, "guest RAM", error))
        return FALSE;
    m->ram = memfd_map(ram_fd, m->ram_size, TRUE, error);
    if (m->ram == NULL)
        return FALSE;
    m->ram_fd = ram_fd;
    if (m->lazy_fd >= 0 && !lazy_ram_register(m, error))
        return FALSE;
    /* Guest RAM in a core dump would be a leak, and big. */
    madvise(m->ram, m->ram_size, MADV_DONTDUMP);
    m->n_slots = machine_ram_layout(m->ram_size, m->slots);
    for (unsigned i = 0; i < m->n_slots; i++) {
        if (!memory_slot_set(m, i, &m->slots[i], error))
            return FALSE;
    }
    return TRUE;
}

/* The slot that holds all of [gpa, gpa + len). */
static const RamSlot *
memory_slot_find(const Machine *m, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < m->n_slots; i++) {
        const RamSlot *slot = &m->slots[i];

        if (gpa >= slot->gpa && gpa - slot->gpa < slot->size &&
            len <= slot->size - (gpa - slot->gpa))
            return slot;
    }
    return NULL;
}

void *
machine_ram(Machine *m, uint64_t gpa, uint64_t len)
{
    const RamSlot *slot = len == 0 ? NULL : memory_slot_find(m, gpa, len);

    return slot == NULL ? NULL : m->ram + slot->offset + (gpa - slot->gpa);
}

void
machine_mark_dirty(Machine *m, uint64_t gpa, uint64_t len)
{
    const RamSlot *slot = len == 0 ? NULL : memory_slot_find(m, gpa, len);
    uint64_t offset, first;

    if (slot == NULL)
        return;
    offset = slot->offset + (gpa - slot->gpa);
    first = page_count(offset);
    dirtylog_mark(m->dirty, first, page_count(offset + len - 1) - first + 1);
}

bool
machine_ram_read(Machine *m, uint64_t gpa, void *buf, size_t len)
{
    const void *from = machine_ram(m, gpa, len);

    if (from == NULL)
        return len == 0;
    memcpy(buf, from, len);
    return true;
}

bool
machine_ram_write(Machine *m, uint64_t gpa, const void *buf, size_t len)
{
    void *to = machine_ram(m, gpa, len);

    if (to == NULL)
        return len == 0;
    memcpy(to, buf, len);
    machine_mark_dirty(m, gpa, len);
    return true;
}
