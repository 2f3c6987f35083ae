/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM generation id in guest memory. */
#include "vmm/vmgenid.h"

#include "vmm/devices/devices.h"

#include <string.h>

gboolean
vmgenid_parse(const char *uuid, uint8_t id[VMGENID_BYTES], GError **error)
{
    /* Where each byte of the text goes: a GUID stores its first three fields little-endian. */
    static const uint8_t place[VMGENID_BYTES] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                 8, 9, 10, 11, 12, 13, 14, 15};
    size_t n = 0;

    if (!g_uuid_string_is_valid(uuid)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "--vmgenid %s: not a UUID such as 324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87", uuid);
        return FALSE;
    }
    for (const char *p = uuid; *p != '\0'; p++) {
        if (*p == '-')
            continue;
        id[place[n++]] = (uint8_t)(g_ascii_xdigit_value(p[0]) << 4 | g_ascii_xdigit_value(p[1]));
        p++;
    }
    return TRUE;
}

void
vmgenid_place(Machine *m, const uint8_t id[VMGENID_BYTES])
{
    memcpy(m->vmgenid, id, VMGENID_BYTES);
    machine_ram_write(m, MAP_VMGENID, id, VMGENID_BYTES);
}

void
vmgenid_change(Machine *m, const uint8_t id[VMGENID_BYTES])
{
    vmgenid_place(m, id);
    machine_lock(m);
    acpi_pm_vmgenid_changed(m);
    machine_unlock(m);
}
