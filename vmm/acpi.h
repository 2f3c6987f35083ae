/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ACPI tables (ACPI 6.4) that describe the machine to the guest. */
#ifndef DISTRICT_VMM_ACPI_H
#define DISTRICT_VMM_ACPI_H

#include "vmm/machine_priv.h"

/* Where they lie: in the BIOS area, reserved in the memory map. */
#define MAP_ACPI 0xE0000ULL
#define MAP_ACPI_SIZE 0x10000ULL

/*
 * All tables, laid out to be copied to guest-physical address MAP_ACPI; the RSDP comes first.
 * Owner: the caller. Pure.
 */
GByteArray *acpi_tables_build(unsigned n_vcpus);

/* Put them into guest RAM. */
gboolean acpi_tables_place(Machine *m, unsigned n_vcpus, GError **error);

#endif
