/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MSI-X vectors. msix.h says why they are not irqfds. */
#include "vmm/devices/msix.h"
#include "vmm/devices/state.h"

#include <string.h>

#define CAPABILITY_ID 0x11
#define CAPABILITY_BYTES 12
/* Message control, in the upper byte of the 16-bit field (§6.8.2.3). */
#define CONTROL 2
#define CONTROL_ENABLE 0x8000
#define CONTROL_MASK_ALL 0x4000
#define TABLE_BIR 4
#define PBA_BIR 8

#define ENTRY_CONTROL 12
#define ENTRY_MASKED 0x01

void
msix_init(Msix *msix, PciFunction *function, unsigned bar, unsigned n_vectors)
{
    unsigned cap = pci_function_add_capability(function, CAPABILITY_ID, CAPABILITY_BYTES);

    g_assert(n_vectors > 0 && n_vectors <= MSIX_VECTORS_MAX);
    *msix = (Msix){.function = function, .capability = cap, .n_vectors = n_vectors};
    pci_config_set16(function, cap + CONTROL, (uint16_t)(n_vectors - 1));
    function->writable[cap + CONTROL + 1] = (CONTROL_ENABLE | CONTROL_MASK_ALL) >> 8;
    pci_config_set32(function, cap + TABLE_BIR, bar);
    pci_config_set32(function, cap + PBA_BIR, MSIX_PBA_OFFSET | bar);
    for (unsigned i = 0; i < n_vectors; i++)
        msix->table[i * MSIX_ENTRY_BYTES + ENTRY_CONTROL] = ENTRY_MASKED;
}

static uint16_t
msix_control(const Msix *msix)
{
    return pci_config_get16(msix->function, msix->capability + CONTROL);
}

bool
msix_enabled(const Msix *msix)
{
    return msix_control(msix) & CONTROL_ENABLE;
}

static bool
vector_masked(const Msix *msix, unsigned vector)
{
    return (msix_control(msix) & CONTROL_MASK_ALL) ||
           (msix->table[vector * MSIX_ENTRY_BYTES + ENTRY_CONTROL] & ENTRY_MASKED);
}

static void
vector_send(Msix *msix, unsigned vector)
{
    const uint8_t *entry = msix->table + vector * MSIX_ENTRY_BYTES;
    uint64_t address;
    uint32_t data;

    memcpy(&address, entry, sizeof address);
    memcpy(&data, entry + 8, sizeof data);
    machine_msi_send(pci_host_machine(msix->function->host), address, data);
}

void
msix_notify(Msix *msix, unsigned vector)
{
    if (vector >= msix->n_vectors || !msix_enabled(msix))
        return;
    if (vector_masked(msix, vector))
        msix->pending |= UINT64_C(1) << vector;
    else
        vector_send(msix, vector);
}

static void
send_pending(Msix *msix)
{
    if (msix->pending == 0 || !msix_enabled(msix))
        return;
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        uint64_t bit = UINT64_C(1) << i;

        if (!(msix->pending & bit) || vector_masked(msix, i))
            continue;
        msix->pending &= ~bit;
        vector_send(msix, i);
    }
}

void
msix_config_written(Msix *msix)
{
    send_pending(msix);
}

void
msix_bar_access(Msix *msix, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    const uint8_t *pba = (const uint8_t *)&msix->pending;

    for (unsigned i = 0; i < len; i++) {
        uint64_t at = offset + i;

        if (at < (uint64_t)msix->n_vectors * MSIX_ENTRY_BYTES) {
            unsigned field = at % MSIX_ENTRY_BYTES;
            uint8_t mask = field < ENTRY_CONTROL ? 0xFF : field == ENTRY_CONTROL ? ENTRY_MASKED : 0;

            if (write)
                msix->table[at] = data[i] & mask;
            else
                data[i] = msix->table[at];
        } else if (!write) {
            bool in_pba = at >= MSIX_PBA_OFFSET && at < MSIX_PBA_OFFSET + sizeof msix->pending;

            data[i] = in_pba ? pba[at - MSIX_PBA_OFFSET] : 0;
        }
    }
    if (write)
        send_pending(msix);
}

void
msix_dump(Msix *msix, District__MsixState *state)
{
    district__msix_state__init(state);
    state->table.data = msix->table;
    state->table.len = (size_t)msix->n_vectors * MSIX_ENTRY_BYTES;
    state->pending = msix->pending;
}

gboolean
msix_check_state(const Msix *msix, const District__MsixState *state, const char *kind,
                 GError **error)
{
    uint64_t beyond = msix->n_vectors == 64 ? 0 : ~UINT64_C(0) << msix->n_vectors;

    if (!state || state->table.len != (size_t)msix->n_vectors * MSIX_ENTRY_BYTES ||
        (state->pending & beyond))
        return state_refuse(error, kind, "its MSI-X table is not one of %u vectors",
                            msix->n_vectors);
    for (size_t i = ENTRY_CONTROL; i < state->table.len; i++) {
        unsigned field = i % MSIX_ENTRY_BYTES;

        if ((field == ENTRY_CONTROL && (state->table.data[i] & ~ENTRY_MASKED)) ||
            (field > ENTRY_CONTROL && state->table.data[i]))
            return state_refuse(error, kind, "a vector control has bits that the hardware has not");
    }
    return TRUE;
}

void
msix_restore(Msix *msix, const District__MsixState *state)
{
    memcpy(msix->table, state->table.data, state->table.len);
    msix->pending = state->pending;
}
