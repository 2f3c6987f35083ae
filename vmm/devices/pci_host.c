/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PCI host bridge: one bus, reached by configuration mechanism #1 (PCI 3.0 §3.2.2.3.2, ports
 * 0xCF8-0xCFF) and by ECAM (PCI Express 3.0 §7.2.2, at MAP_ECAM_BASE). Slot 0 is the bridge itself.
 *
 * The state of all functions' configuration space is saved here, in one message; where BARs are
 * mapped follows from it. The device is registered before any function's, so it is restored first.
 */
#include "vmm/devices/pci.h"
#include "vmm/devices/reset.h"
#include "vmm/devices/state.h"

#include <string.h>

#define CONFIG_PORT 0xCF8
#define CONFIG_PORTS 8
#define CONFIG_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80FFFFFCu
#define PCI_BAR0 0x10
#define PCI_INTERRUPT_LINE 0x3C
#define INTX_LINES 4

struct PciHost {
    Device device;
    Machine *machine;
    uint32_t config_address;
    PciFunction bridge;
    PciFunction *slots[PCI_SLOTS];
    uint32_t intx[INTX_LINES]; /* slots that hold the line, one bit each */
    uint64_t next_bar;         /* next address to give to a BAR */
    bool restored;             /* and not started since */
};

Machine *
pci_host_machine(PciHost *host)
{
    return host->machine;
}

static void
config_access(PciHost *host, unsigned bus, unsigned devfn, unsigned reg, uint8_t *data,
              unsigned len, bool write)
{
    PciFunction *function = host->slots[devfn >> 3];

    if (bus != 0 || (devfn & 7) != 0 || !function)
        return; /* nobody there: reads stay all ones */
    pci_function_config_access(function, reg, data, len, write);
}

static void
config_port_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    PciHost *host = opaque;
    uint32_t address = host->config_address;

    if (offset == 1 && len == 1) {
        reset_cf9_access(host->machine, data, write);
    } else if (offset == 0 && len == 4) {
        if (write)
            memcpy(&host->config_address, data, 4);
        else
            memcpy(data, &host->config_address, 4);
        host->config_address &= CONFIG_ADDRESS_BITS;
    } else if (offset >= 4 && (address & CONFIG_ENABLE)) {
        config_access(host, address >> 16 & 0xFF, address >> 8 & 0xFF,
                      (address & 0xFC) + (unsigned)(offset - 4), data, len, write);
    }
}

static void
ecam_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    config_access(opaque, (unsigned)(offset >> 20) & 0xFF, (unsigned)(offset >> 12) & 0xFF,
                  (unsigned)offset & 0xFFF, data, len, write);
}

static void
unmap_bar(PciHost *host, PciFunction *function, unsigned index)
{
    PciBar *bar = &function->bars[index];

    bar->mapped = false;
    if (function->ops->bar_moved)
        function->ops->bar_moved(function, index, bar->address, false);
    machine_io_remove(host->machine, IO_MMIO, bar->address);
}

static void
map_bar(PciHost *host, PciFunction *function, unsigned index, uint64_t address)
{
    PciBar *bar = &function->bars[index];

    bar->mapped =
        machine_io_add(host->machine, IO_MMIO, address, bar->size, bar->handler, function->opaque);
    bar->address = address;
    if (bar->mapped && function->ops->bar_moved)
        function->ops->bar_moved(function, index, address, true);
}

/* First take away what has moved, then map: two BARs may have changed places. */
void
pci_host_update_bars(PciHost *host)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
            PciFunction *function = host->slots[i / PCI_BARS];
            PciBar *bar = function ? &function->bars[i % PCI_BARS] : NULL;
            uint64_t address = 0;
            bool wanted = bar && pci_function_bar_wanted(function, i % PCI_BARS, &address);

            if (!bar)
                continue;
            if (pass == 0 && bar->mapped && (!wanted || bar->address != address))
                unmap_bar(host, function, i % PCI_BARS);
            if (pass == 1 && wanted && !bar->mapped)
                map_bar(host, function, i % PCI_BARS, address);
        }
    }
}

void
pci_host_set_intx(PciHost *host, PciFunction *function, bool level)
{
    unsigned line = function->slot % INTX_LINES;
    uint32_t before = host->intx[line];
    bool off = pci_config_get16(function, PCI_COMMAND) & PCI_COMMAND_INTX_OFF;

    function->intx = level;
    if (level && !off)
        host->intx[line] |= 1u << function->slot;
    else
        host->intx[line] &= ~(1u << function->slot);
    if (!before != !host->intx[line])
        machine_irq_level(host->machine, GSI_PCI_BASE + line, host->intx[line] != 0);
}

static void
assign_bars(PciHost *host, PciFunction *function)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const PciBar *bar = &function->bars[i];
        uint32_t type = pci_config_get32(function, PCI_BAR0 + 4 * i) & 0xF;

        if (bar->size == 0)
            continue;
        host->next_bar = (host->next_bar + bar->size - 1) & ~(bar->size - 1);
        pci_config_set32(function, PCI_BAR0 + 4 * i, (uint32_t)host->next_bar | type);
        host->next_bar += bar->size;
    }
}

gboolean
pci_host_add_function(PciHost *host, PciFunction *function, GError **error)
{
    for (uint8_t slot = 0; slot < PCI_SLOTS; slot++) {
        if (host->slots[slot])
            continue;
        host->slots[slot] = function;
        function->host = host;
        function->slot = slot;
        function->config[PCI_INTERRUPT_LINE] = (uint8_t)(GSI_PCI_BASE + slot % INTX_LINES);
        assign_bars(host, function);
        return TRUE;
    }
    g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                "PCI bus: all %u slots are taken; configure fewer devices", PCI_SLOTS);
    return FALSE;
}

static void
pci_host_stop(Device *device)
{
}

/* Interrupt lines are levels: a machine that is new must be told them. */
static void
pci_host_start(Device *device)
{
    PciHost *host = device->opaque;

    if (!host->restored)
        return;
    host->restored = false;
    for (unsigned line = 0; line < INTX_LINES; line++)
        machine_irq_level(host->machine, GSI_PCI_BASE + line, host->intx[line] != 0);
}

static void
pci_host_dump(Device *device, GByteArray *out)
{
    PciHost *host = device->opaque;
    District__PciHostState state = DISTRICT__PCI_HOST_STATE__INIT;
    District__PciFunctionState functions[PCI_SLOTS];
    District__PciFunctionState *list[PCI_SLOTS];

    state.config_address = host->config_address;
    state.functions = list;
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        District__PciFunctionState *f = &functions[state.n_functions];

        if (!host->slots[slot])
            continue;
        district__pci_function_state__init(f);
        f->slot = slot;
        f->config.data = host->slots[slot]->config;
        f->config.len = PCI_CONFIG_BYTES;
        list[state.n_functions++] = f;
    }
    state_append(out, &state.base);
}

static gboolean
check_functions(PciHost *host, const District__PciHostState *state, GError **error)
{
    uint32_t seen = 0, present = 0;

    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        present |= host->slots[slot] ? 1u << slot : 0;
    for (size_t i = 0; i < state->n_functions; i++) {
        const District__PciFunctionState *f = state->functions[i];

        if (f->slot >= PCI_SLOTS || !host->slots[f->slot] || (seen & 1u << f->slot))
            return state_refuse(error, "pci", "slot %u has no device here, or comes twice",
                                f->slot);
        seen |= 1u << f->slot;
        if (!pci_function_check_state(host->slots[f->slot], f, error))
            return FALSE;
    }
    if (seen != present)
        return state_refuse(error, "pci",
                            "devices in slots 0x%x, but slots 0x%x are filled here; start the "
                            "member with the devices it was saved with",
                            seen, present);
    return TRUE;
}

STATE_DEFINE_AUTOPTR(District__PciHostState)

static gboolean
pci_host_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    PciHost *host = device->opaque;
    g_autoptr(District__PciHostState) state = (District__PciHostState *)state_parse(
        "pci", &district__pci_host_state__descriptor, data, len, error);

    if (!state || !check_functions(host, state, error))
        return FALSE;
    host->config_address = state->config_address & CONFIG_ADDRESS_BITS;
    for (size_t i = 0; i < state->n_functions; i++)
        memcpy(host->slots[state->functions[i]->slot]->config, state->functions[i]->config.data,
               PCI_CONFIG_BYTES);
    pci_host_update_bars(host);
    host->restored = true;
    return TRUE;
}

static const DeviceOps pci_host_ops = {
    .kind = "pci",
    .version = 1,
    .stop = pci_host_stop,
    .dump = pci_host_dump,
    .restore = pci_host_restore,
    .start = pci_host_start,
};

static const PciFunctionOps bridge_ops = {0};

/* A host bridge without registers of its own; the ids are those of QEMU's generic one. */
static const PciIds bridge_ids = {
    .vendor = 0x1B36,
    .device = 0x0008,
    .subsystem_vendor = 0x1AF4,
    .subsystem = 0x1100,
    .class_code = 0x060000,
};

PciHost *
pci_host_init(Machine *m, GError **error)
{
    g_autofree PciHost *host = g_new0(PciHost, 1);

    host->device.ops = &pci_host_ops;
    host->device.opaque = host;
    host->machine = m;
    host->next_bar = MAP_PCI_MMIO32_BASE;
    pci_function_init(&host->bridge, &bridge_ids, &bridge_ops, host);
    if (!pci_host_add_function(host, &host->bridge, error))
        return NULL;
    if (!machine_io_add(m, IO_PORT, CONFIG_PORT, CONFIG_PORTS, config_port_access, host)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "PCI host bridge: ports 0x%x-0x%x are taken by another device", CONFIG_PORT,
                    CONFIG_PORT + CONFIG_PORTS - 1);
        return NULL;
    }
    if (!machine_io_add(m, IO_MMIO, MAP_ECAM_BASE, MAP_ECAM_SIZE, ecam_access, host)) {
        machine_io_remove(m, IO_PORT, CONFIG_PORT);
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "PCI host bridge: the ECAM window is taken by another device");
        return NULL;
    }
    machine_add_device(m, &host->device);
    return g_steal_pointer(&host);
}
