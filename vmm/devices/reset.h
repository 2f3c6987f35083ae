/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reset ports. The ACPI reset register (FADT RESET_REG, ACPI 6.4 §4.8.3.6) is the I/O port
 * RESET_ACPI_PORT; RESET_VALUE is RESET_ACPI_VALUE. That port lies inside the PCI configuration
 * address register, which is four bytes wide at 0xCF8, so the PCI host bridge owns it and passes
 * byte accesses on.
 */
#ifndef DISTRICT_VMM_DEVICES_RESET_H
#define DISTRICT_VMM_DEVICES_RESET_H

#include "vmm/machine.h"

#define RESET_ACPI_PORT 0xCF9
#define RESET_ACPI_VALUE 0x06

/* A byte access to port 0xCF9: bit 2 set resets the machine. */
void reset_cf9_access(Machine *m, uint8_t *data, bool write);

#endif
