/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PCI functions (PCI Local Bus 3.0) on bus 0 behind the host bridge. A function has 256 bytes of
 * configuration space, up to six memory BARs and a list of capabilities; no I/O BARs, no bridges.
 *
 * What a guest may change in configuration space is a mask, one bit per bit. BAR sizing (§6.2.5.1)
 * follows from the mask: address bits below the size cannot be written.
 *
 * BARs are decoded only while the command register enables memory and only inside the window that
 * the bridge forwards, MAP_PCI_MMIO32_BASE; a BAR placed elsewhere, or on top of another one, is
 * simply not there. Addresses are assigned at start-up, so a guest need not do it.
 */
#ifndef DISTRICT_VMM_DEVICES_PCI_H
#define DISTRICT_VMM_DEVICES_PCI_H

#include "vmm/devices/devices.h"

#include "devices.pb-c.h"

#define PCI_CONFIG_BYTES 256
#define PCI_BARS 6
#define PCI_SLOTS 32

/* Configuration space offsets (§6.1) and bits used outside pci_function.c. */
#define PCI_VENDOR_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_INTX_OFF 0x0400
#define PCI_STATUS 0x06
#define PCI_STATUS_INTX 0x08

typedef struct PciFunction PciFunction;

typedef struct PciFunctionOps {
    /* Bytes [offset, offset + len) are about to be read or have been written. May be NULL. */
    void (*config_read)(PciFunction *function, unsigned offset, unsigned len);
    void (*config_written)(PciFunction *function, unsigned offset, unsigned len);
    /* BAR index is now decoded at address, or (mapped false) no longer. May be NULL. */
    void (*bar_moved)(PciFunction *function, unsigned bar, uint64_t address, bool mapped);
} PciFunctionOps;

typedef struct PciBar {
    uint64_t size; /* power of two, at least 4 KiB; 0: no such BAR */
    bool wide;     /* 64-bit: takes the next BAR register too */
    IoHandler handler;
    bool mapped;
    uint64_t address; /* while mapped */
} PciBar;

struct PciFunction {
    const PciFunctionOps *ops;
    void *opaque;
    PciHost *host; /* NULL until added */
    uint8_t slot;
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES];
    PciBar bars[PCI_BARS];
    uint8_t last_capability; /* offset, 0 for none yet */
    unsigned config_end;     /* first free byte for capabilities */
    bool intx;               /* INTA# asserted */
};

typedef struct PciIds {
    uint16_t vendor;
    uint16_t device;
    uint16_t subsystem_vendor;
    uint16_t subsystem;
    uint32_t class_code; /* base class, subclass, interface: 24 bits */
    uint8_t revision;
    bool has_intx; /* interrupt pin INTA# */
} PciIds;

/* ---- pci_function.c: one function ---- */
void pci_function_init(PciFunction *function, const PciIds *ids, const PciFunctionOps *ops,
                       void *opaque);
/* Declare a memory BAR. handler is called with the function's opaque. */
void pci_function_add_bar(PciFunction *function, unsigned index, uint64_t size, bool wide,
                          IoHandler handler);
/* Append a capability of len bytes (with its two header bytes); returns its offset. */
unsigned pci_function_add_capability(PciFunction *function, uint8_t id, unsigned len);
/* Little-endian fields of configuration space, not subject to the mask. */
uint16_t pci_config_get16(const PciFunction *function, unsigned offset);
uint32_t pci_config_get32(const PciFunction *function, unsigned offset);
void pci_config_set16(PciFunction *function, unsigned offset, uint16_t value);
void pci_config_set32(PciFunction *function, unsigned offset, uint32_t value);
/* A guest's access; any offset and length. Bytes beyond 256 read 0 and ignore writes. */
void pci_function_config_access(PciFunction *function, unsigned offset, uint8_t *data, unsigned len,
                                bool write);
/* Access BAR contents as the guest would; false if [offset, offset + len) is not inside. */
bool pci_function_bar_access(PciFunction *function, unsigned bar, uint64_t offset, uint8_t *data,
                             unsigned len, bool write);
/* Where the guest wants BAR index; false if it is not to be decoded. */
bool pci_function_bar_wanted(const PciFunction *function, unsigned index, uint64_t *address);
/* Check and take over saved configuration space; read-only bits must be as they are here. */
gboolean pci_function_check_state(const PciFunction *function,
                                  const District__PciFunctionState *state, GError **error);

/* ---- pci_host.c: the bus ---- */
/* Put function into the next free slot and give its BARs addresses. */
gboolean pci_host_add_function(PciHost *host, PciFunction *function, GError **error);
/* Map and unmap BARs as registers say now. */
void pci_host_update_bars(PciHost *host);
/* Drive INTA# of a function; the GSI is GSI_PCI_BASE + slot % 4, shared and level triggered. */
void pci_host_set_intx(PciHost *host, PciFunction *function, bool level);
Machine *pci_host_machine(PciHost *host);

#endif
