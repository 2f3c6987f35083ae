/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Configuration space of a PCI function: identity, mask of writable bits, BARs, capabilities. */
#include "vmm/devices/pci.h"
#include "vmm/devices/state.h"

#include <string.h>

#define PCI_DEVICE_ID 0x02
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09
#define PCI_CACHE_LINE 0x0C
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR 0x2C
#define PCI_SUBSYSTEM 0x2E
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3C
#define PCI_INTERRUPT_PIN 0x3D
#define PCI_HEADER_BYTES 0x40

#define PCI_COMMAND_MASTER 0x0004
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_BAR_WIDE 0x04

uint16_t
pci_config_get16(const PciFunction *function, unsigned offset)
{
    return (uint16_t)(function->config[offset] | function->config[offset + 1] << 8);
}

uint32_t
pci_config_get32(const PciFunction *function, unsigned offset)
{
    return pci_config_get16(function, offset) | (uint32_t)pci_config_get16(function, offset + 2)
                                                    << 16;
}

static void
put16(uint8_t *bytes, unsigned offset, uint16_t value)
{
    bytes[offset] = (uint8_t)value;
    bytes[offset + 1] = (uint8_t)(value >> 8);
}

static void
put32(uint8_t *bytes, unsigned offset, uint32_t value)
{
    put16(bytes, offset, (uint16_t)value);
    put16(bytes, offset + 2, (uint16_t)(value >> 16));
}

void
pci_config_set16(PciFunction *function, unsigned offset, uint16_t value)
{
    put16(function->config, offset, value);
}

void
pci_config_set32(PciFunction *function, unsigned offset, uint32_t value)
{
    put32(function->config, offset, value);
}

void
pci_function_init(PciFunction *function, const PciIds *ids, const PciFunctionOps *ops, void *opaque)
{
    *function = (PciFunction){.ops = ops, .opaque = opaque, .config_end = PCI_HEADER_BYTES};
    pci_config_set16(function, PCI_VENDOR_ID, ids->vendor);
    pci_config_set16(function, PCI_DEVICE_ID, ids->device);
    pci_config_set16(function, PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
    pci_config_set16(function, PCI_SUBSYSTEM, ids->subsystem);
    function->config[PCI_REVISION] = ids->revision;
    pci_config_set16(function, PCI_CLASS, (uint16_t)ids->class_code);
    function->config[PCI_CLASS + 2] = (uint8_t)(ids->class_code >> 16);
    put16(function->writable, PCI_COMMAND,
          PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    function->writable[PCI_CACHE_LINE] = 0xFF;
    function->writable[PCI_INTERRUPT_LINE] = 0xFF;
    function->config[PCI_INTERRUPT_PIN] = ids->has_intx ? 1 : 0;
}

void
pci_function_add_bar(PciFunction *function, unsigned index, uint64_t size, bool wide,
                     IoHandler handler)
{
    unsigned offset = PCI_BAR0 + 4 * index;
    uint64_t mask = ~(size - 1);

    g_assert(index + wide < PCI_BARS && size >= 4096 && (size & (size - 1)) == 0);
    function->bars[index] = (PciBar){.size = size, .wide = wide, .handler = handler};
    put32(function->writable, offset, (uint32_t)mask);
    if (wide) {
        function->config[offset] = PCI_BAR_WIDE;
        put32(function->writable, offset + 4, (uint32_t)(mask >> 32));
    }
}

unsigned
pci_function_add_capability(PciFunction *function, uint8_t id, unsigned len)
{
    unsigned offset = function->config_end;
    unsigned link = function->last_capability ? function->last_capability + 1u : PCI_CAPABILITIES;

    g_assert(offset + len <= PCI_CONFIG_BYTES);
    function->config[link] = (uint8_t)offset;
    function->config[offset] = id;
    function->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    function->last_capability = (uint8_t)offset;
    function->config_end = (offset + len + 3) & ~3u;
    return offset;
}

static uint8_t
config_byte(const PciFunction *function, unsigned offset)
{
    uint8_t byte = function->config[offset];

    if (offset == PCI_STATUS && function->intx)
        byte |= PCI_STATUS_INTX;
    return byte;
}

void
pci_function_config_access(PciFunction *function, unsigned offset, uint8_t *data, unsigned len,
                           bool write)
{
    if (!write && function->ops->config_read)
        function->ops->config_read(function, offset, len);
    for (unsigned i = 0; i < len; i++) {
        unsigned at = offset + i;

        if (at >= PCI_CONFIG_BYTES) {
            data[i] = write ? data[i] : 0;
        } else if (write) {
            uint8_t mask = function->writable[at];
            function->config[at] = (uint8_t)((function->config[at] & ~mask) | (data[i] & mask));
        } else {
            data[i] = config_byte(function, at);
        }
    }
    if (write && function->ops->config_written)
        function->ops->config_written(function, offset, len);
    /* Command register or a BAR. */
    if (write && offset < PCI_BAR0 + 4 * PCI_BARS && offset + len > PCI_COMMAND) {
        pci_host_update_bars(function->host);
        pci_host_set_intx(function->host, function, function->intx);
    }
}

bool
pci_function_bar_access(PciFunction *function, unsigned bar, uint64_t offset, uint8_t *data,
                        unsigned len, bool write)
{
    const PciBar *b;

    if (bar >= PCI_BARS)
        return false;
    b = &function->bars[bar];
    if (offset >= b->size || len > b->size - offset)
        return false;
    b->handler(function->opaque, offset, data, len, write);
    return true;
}

bool
pci_function_bar_wanted(const PciFunction *function, unsigned index, uint64_t *address)
{
    const PciBar *bar = &function->bars[index];
    unsigned offset = PCI_BAR0 + 4 * index;

    if (bar->size == 0 || !(pci_config_get16(function, PCI_COMMAND) & PCI_COMMAND_MEMORY))
        return false;
    *address = pci_config_get32(function, offset) & ~UINT32_C(0xF);
    if (bar->wide)
        *address |= (uint64_t)pci_config_get32(function, offset + 4) << 32;
    return *address >= MAP_PCI_MMIO32_BASE &&
           *address - MAP_PCI_MMIO32_BASE <= MAP_PCI_MMIO32_SIZE - bar->size;
}

gboolean
pci_function_check_state(const PciFunction *function, const District__PciFunctionState *state,
                         GError **error)
{
    if (state->config.len != PCI_CONFIG_BYTES)
        return state_refuse(error, "pci", "slot %u: %zu bytes of configuration space, not %u",
                            state->slot, state->config.len, PCI_CONFIG_BYTES);
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
        if ((state->config.data[i] ^ function->config[i]) & ~function->writable[i])
            return state_refuse(error, "pci",
                                "slot %u: byte 0x%02x of configuration space is 0x%02x, which "
                                "this device cannot be; start the member with the devices it "
                                "was saved with",
                                state->slot, i, state->config.data[i]);
    }
    return TRUE;
}
