/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MSI-X (PCI 3.0 §6.8.2): capability, vector table and pending bits of a function.
 *
 * Interrupts are raised with KVM_SIGNAL_MSI (machine_msi_send), from our own threads, and not
 * through irqfds. It is one system call either way, but this one is done when it returns: an irqfd
 * may leave the injection to a kernel worker, and one that is still under way at a cut would be in
 * neither the saved APIC nor the saved device. It also needs no GSI routes, of which a guest could
 * use up all.
 */
#ifndef DISTRICT_VMM_DEVICES_MSIX_H
#define DISTRICT_VMM_DEVICES_MSIX_H

#include "vmm/devices/pci.h"

#define MSIX_VECTORS_MAX 64
#define MSIX_ENTRY_BYTES 16
#define MSIX_BAR_BYTES 4096
#define MSIX_PBA_OFFSET 0x800

typedef struct Msix {
    PciFunction *function;
    unsigned capability; /* offset in configuration space */
    unsigned n_vectors;
    uint8_t table[MSIX_VECTORS_MAX * MSIX_ENTRY_BYTES];
    uint64_t pending; /* one bit per vector */
} Msix;

/* Add the capability, with table and pending bits in BAR index, which the caller declares with a
 * handler that ends up in msix_bar_access. */
void msix_init(Msix *msix, PciFunction *function, unsigned bar, unsigned n_vectors);
void msix_bar_access(Msix *msix, uint64_t offset, uint8_t *data, unsigned len, bool write);
/* Configuration space was written: vectors may have been unmasked. */
void msix_config_written(Msix *msix);

bool msix_enabled(const Msix *msix);
/* Raise vector, or mark it pending while masked. Only while enabled; unknown vectors are ignored.
 */
void msix_notify(Msix *msix, unsigned vector);

/* State points into msix. Restore comes after that of the PCI bus. */
void msix_dump(Msix *msix, District__MsixState *state);
gboolean msix_check_state(const Msix *msix, const District__MsixState *state, const char *kind,
                          GError **error);
void msix_restore(Msix *msix, const District__MsixState *state);

#endif
