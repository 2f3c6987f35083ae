/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupt routes. The kernel holds one table from GSIs to PIC pins, IOAPIC pins and MSI messages
 * (KVM API §4.52) that can only be replaced as a whole; the copy here is the master.
 *
 * GSI 0-15 are the ISA interrupts, on both PICs and the IOAPIC, with the PIT's GSI 0 on IOAPIC pin
 * 2 as on every PC (the MADT has the override); 16-23 are IOAPIC only; from 24 on come MSIs.
 */
#include "vmm/machine_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/ioctl.h>

typedef struct RouteTable {
    struct kvm_irq_routing head;
    struct kvm_irq_routing_entry entries[MACHINE_ROUTES_MAX + 16];
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

static gboolean
route_table_load(Machine *m, GError **error)
{
    g_autofree RouteTable *table = g_new0(RouteTable, 1);

    route_add_chips(table);
    for (uint32_t i = 0; i < G_N_ELEMENTS(m->msi); i++) {
        const MsiRoute *route = &m->msi[i];

        if (!route->set)
            continue;
        table->entries[table->head.nr++] = (struct kvm_irq_routing_entry){
            .gsi = GSI_MSI_BASE + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)route->address,
                      .address_hi = (uint32_t)(route->address >> 32),
                      .data = route->data,
                      .devid = route->devid},
        };
    }
    return machine_ioctl(m, KVM_SET_GSI_ROUTING, table, "set the interrupt routes", error);
}

gboolean
machine_irq_init(Machine *m, GError **error)
{
    return route_table_load(m, error);
}

void
machine_irq_level(Machine *m, uint32_t gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};

    if (ioctl(m->vm_fd, KVM_IRQ_LINE, &line) < 0)
        g_warning("interrupt line %u: %s", gsi, g_strerror(errno));
}

int
machine_msi_alloc(Machine *m)
{
    for (uint32_t i = 0; i < G_N_ELEMENTS(m->msi); i++) {
        if (!m->msi[i].used) {
            m->msi[i].used = true;
            return (int)(GSI_MSI_BASE + i);
        }
    }
    return -1;
}

void
machine_msi_set(Machine *m, int gsi, uint64_t address, uint32_t data, uint32_t devid)
{
    g_autoptr(GError) error = NULL;
    MsiRoute *route;

    g_return_if_fail(gsi >= GSI_MSI_BASE && gsi < MACHINE_ROUTES_MAX);
    route = &m->msi[gsi - GSI_MSI_BASE];
    if (route->set && route->address == address && route->data == data && route->devid == devid)
        return;
    route->set = true;
    route->address = address;
    route->data = data;
    route->devid = devid;
    /* The guest can write any address: one that KVM will not take simply raises no interrupt. */
    if (!route_table_load(m, &error)) {
        g_debug("MSI route %d to 0x%" PRIx64 ": %s", gsi, address, error->message);
        route->set = false;
    }
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
machine_irqfd(Machine *m, int gsi, int eventfd, bool assign)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)eventfd,
        .gsi = (uint32_t)gsi,
        .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };

    return ioctl(m->vm_fd, KVM_IRQFD, &irqfd) == 0;
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
