/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM generation id ("Virtual Machine Generation ID", Microsoft 2012): 128 bits that change when
 * the guest finds itself in the past or cloned, so that it reseeds its random numbers and renews
 * its leases. It lies at a fixed guest-physical address in reserved memory, which the DSDT
 * announces.
 */
#ifndef DISTRICT_VMM_VMGENID_H
#define DISTRICT_VMM_VMGENID_H

#include "vmm/machine_priv.h"

#define MAP_VMGENID 0xF0000ULL

/* Parse a UUID into the bytes of a GUID in memory (little-endian first three fields). */
gboolean vmgenid_parse(const char *uuid, uint8_t id[VMGENID_BYTES], GError **error);

/* Before boot: put the id in place. */
void vmgenid_place(Machine *m, const uint8_t id[VMGENID_BYTES]);

/* After a restore: write the new id and tell the guest. Main thread. */
void vmgenid_change(Machine *m, const uint8_t id[VMGENID_BYTES]);

#endif
