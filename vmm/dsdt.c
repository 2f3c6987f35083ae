/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The DSDT: PCI root with its windows and interrupts, ECAM area, serial port, RTC, VM generation
 * id, S5. The power button is the fixed one (FADT).
 */
#include "vmm/dsdt.h"

#include "vmm/aml.h"
#include "vmm/devices/acpi_pm.h"
#include "vmm/machine.h"
#include "vmm/vmgenid.h"

#define PCI_SLOTS 32
#define PCI_PINS 4
/* INTA# of slot n is GSI_PCI_BASE + n % 4 (devices/pci.h); the other pins follow as on any bridge.
 */
#define PCI_ROUTE_GSI(slot, pin) (GSI_PCI_BASE + ((slot) + (pin)) % PCI_PINS)

/* _PRT (ACPI 6.4 §6.2.13): pin of each slot straight to a GSI, no link devices. */
static void
dsdt_pci_routes(GByteArray *aml)
{
    guint routes;

    aml_name(aml, "_PRT");
    routes = aml_open_package(aml, PCI_SLOTS * PCI_PINS);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < PCI_PINS; pin++) {
            guint route = aml_open_package(aml, 4);

            aml_integer(aml, slot << 16 | 0xFFFF);
            aml_integer(aml, pin);
            aml_integer(aml, 0);
            aml_integer(aml, PCI_ROUTE_GSI(slot, pin));
            aml_close(aml, route);
        }
    }
    aml_close(aml, routes);
}

static void
dsdt_pci_root(GByteArray *aml)
{
    guint device = aml_open_device(aml, "PCI0"), resources;

    aml_name(aml, "_HID");
    aml_eisaid(aml, "PNP0A08");
    aml_name(aml, "_CID");
    aml_eisaid(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_SEG");
    aml_integer(aml, 0);
    aml_name(aml, "_BBN");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_resource_bus_range(aml, 0, 0xFF);
    aml_resource_io(aml, 0xCF8, 8);
    aml_resource_io_range(aml, 0x1000, 0xFFFF);
    aml_resource_memory_range(aml, MAP_PCI_MMIO32_BASE,
                              MAP_PCI_MMIO32_BASE + MAP_PCI_MMIO32_SIZE - 1);
    aml_close_resources(aml, resources);
    dsdt_pci_routes(aml);
    aml_close(aml, device);
}

/* The ECAM area must be reserved by a motherboard device (PCI firmware 3.2 §4.1.2). */
static void
dsdt_ecam(GByteArray *aml)
{
    guint device = aml_open_device(aml, "ECAM"), resources;

    aml_name(aml, "_HID");
    aml_eisaid(aml, "PNP0C02");
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_resource_memory(aml, MAP_ECAM_BASE, MAP_ECAM_SIZE);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

static void
dsdt_isa_device(GByteArray *aml, const char *name, const char *id, uint16_t port, uint8_t ports,
                unsigned irq)
{
    guint device = aml_open_device(aml, name), resources;

    aml_name(aml, "_HID");
    aml_eisaid(aml, id);
    aml_name(aml, "_UID");
    aml_integer(aml, 1);
    aml_name(aml, "_CRS");
    resources = aml_open_resources(aml);
    aml_resource_io(aml, port, ports);
    aml_resource_irq(aml, irq);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

/* "Virtual Machine Generation ID", Microsoft 2012: _CID or _DDN, and ADDR with the address. */
static void
dsdt_vmgenid(GByteArray *aml)
{
    guint device = aml_open_device(aml, "VGEN"), address;

    aml_name(aml, "_HID");
    aml_string(aml, "DSTR0001");
    aml_name(aml, "_CID");
    aml_string(aml, "VM_Gen_Counter");
    aml_name(aml, "_DDN");
    aml_string(aml, "VM_Gen_Counter");
    aml_name(aml, "ADDR");
    address = aml_open_package(aml, 2);
    aml_integer(aml, (uint32_t)MAP_VMGENID);
    aml_integer(aml, MAP_VMGENID >> 32);
    aml_close(aml, address);
    aml_close(aml, device);
}

static void
dsdt_events(GByteArray *aml)
{
    g_autofree char *name = g_strdup_printf("_E%02X", ACPI_PM_GPE_VMGENID);
    guint scope = aml_open_scope(aml, "\\_GPE"), method;

    method = aml_open_method(aml, name, 0);
    aml_notify(aml, "\\_SB_.VGEN", 0x80);
    aml_close(aml, method);
    aml_close(aml, scope);
}

static void
dsdt_sleep(GByteArray *aml)
{
    guint package;

    aml_name(aml, "\\_S5_");
    package = aml_open_package(aml, 4);
    aml_integer(aml, ACPI_PM_SLP_TYP_S5);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_close(aml, package);
}

void
dsdt_append(GByteArray *aml)
{
    guint scope = aml_open_scope(aml, "\\_SB_");

    dsdt_pci_root(aml);
    dsdt_ecam(aml);
    dsdt_isa_device(aml, "COM1", "PNP0501", 0x3F8, 8, GSI_SERIAL);
    dsdt_isa_device(aml, "RTC_", "PNP0B00", 0x70, 2, GSI_RTC);
    dsdt_vmgenid(aml);
    aml_close(aml, scope);
    dsdt_events(aml);
    dsdt_sleep(aml);
}
