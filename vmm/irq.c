/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupts. The kernel holds a table of routes from GSIs to pins of the PICs and the IOAPIC (KVM
 * API §4.52): GSI 0-15 are the ISA interrupts, on both PICs and the IOAPIC, with the PIT's GSI 0 on
 * IOAPIC pin 2 as on every PC (the MADT has the override); 16-23 are IOAPIC only. MSIs are sent
 * without a route.
 */
#include "vmm/machine_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/ioctl.h>

typedef struct RouteTable {
    struct kvm_irq_routing head;
    struct kvm_irq_routing_entry entries[KVM_IOAPIC_NUM_PINS + 16]; /* its pins and the PICs' */
} RouteTable;

static void
route_add_pin(RouteTable *table, uint32_t gsi, uint32_t chip, uint32_t pin)
{
    table->entries[table->head.nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
}

static void
route_add_chips(RouteTable *table)
{
    for (uint32_t gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
        if (gsi < 8 && gsi != 2)
            route_add_pin(table, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
        else if (gsi >= 8 && gsi < 16)
            route_add_pin(table, gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8);
        if (gsi != 2)
            route_add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
    }
}

gboolean
machine_irq_init(Machine *m, GError **error)
{
    RouteTable table = {0};

    route_add_chips(&table);
    return machine_ioctl(m, KVM_SET_GSI_ROUTING, &table, "set the interrupt routes", error);
}

void
machine_irq_level(Machine *m, uint32_t gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};

    if (ioctl(m->vm_fd, KVM_IRQ_LINE, &line) < 0)
        g_warning("interrupt line %u: %s", gsi, g_strerror(errno));
}

void
machine_msi_send(Machine *m, uint64_t address, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address,
        .address_hi = (uint32_t)(address >> 32),
        .data = data,
    };

    /* 0 means that the guest has blocked it; an error, that its address means nothing. */
    if (ioctl(m->vm_fd, KVM_SIGNAL_MSI, &msi) < 0)
        g_debug("MSI to 0x%" PRIx64 ": %s", address, g_strerror(errno));
}

bool
machine_ioeventfd(Machine *m, IoSpace space, uint64_t address, unsigned len, int eventfd,
                  bool assign)
{
    struct kvm_ioeventfd event = {
        .addr = address,
        .len = len,
        .fd = eventfd,
        .flags = (space == IO_PORT ? (uint32_t)KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (assign ? 0 : (uint32_t)KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return ioctl(m->vm_fd, KVM_IOEVENTFD, &event) == 0;
}
