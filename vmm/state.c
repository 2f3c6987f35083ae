/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Saving and restoring the whole VM.
 *
 * Theory of operation. The blob is one VmState message made of pieces laid end to end; protobuf
 * merges concatenated messages. Each vCPU's thread packs its own piece as soon as all are out of the
 * guest, while the main thread brings the devices to rest and packs the head (chips, clock,
 * devices). Interrupt controllers are read before the local APICs, so that an interrupt that fires
 * in between is found in the local APIC rather than lost: these are read last, by the main thread.
 *
 * Devices are loaded after the vCPUs: one that drives its interrupt line then finds local APICs
 * that keep what they are sent.
 *
 * Restore has two halves. The first only checks: version, unknown fields, sizes, this machine's RAM
 * size, vCPUs and devices, this host's processor. It refuses without having changed anything. The
 * second loads; it fails only if the kernel or a device refuses a value.
 */
#include "vmm/state.h"

#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"
#include "vmm/devices/state.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"
#include "vmm/vmgenid.h"

#include <stdarg.h>
#include <string.h>

/* ---- Saving ---- */

/* Kept for the next save: no device is added once the machine has started. */
struct SaveFrame {
    ChipFrame chips;
    guint n; /* devices */
    District__DeviceState *devices;
    District__DeviceState **list;
    GByteArray **dumps;
};

#define DUMP_BYTES 1024

static SaveFrame *
save_frame_get(Machine *m)
{
    SaveFrame *f = m->save;

    if (f != NULL)
        return f;
    m->save = f = g_new0(SaveFrame, 1);
    f->n = m->devices->len;
    f->devices = g_new(District__DeviceState, f->n);
    f->list = g_new(District__DeviceState *, f->n);
    f->dumps = g_new(GByteArray *, f->n);
    for (guint i = 0; i < f->n; i++) {
        f->list[i] = &f->devices[i];
        f->dumps[i] = g_byte_array_sized_new(DUMP_BYTES);
    }
    return f;
}

static void
devices_dump(Machine *m, District__VmState *state, SaveFrame *f)
{
    for (guint i = 0; i < f->n; i++) {
        Device *device = m->devices->pdata[i];
        District__DeviceState *out = &f->devices[i];

        g_byte_array_set_size(f->dumps[i], 0);
        device->ops->dump(device, f->dumps[i]);
        district__device_state__init(out);
        out->kind = (char *)device->ops->kind;
        out->instance = device->instance;
        out->version = device->ops->version;
        out->state.data = f->dumps[i]->data;
        out->state.len = f->dumps[i]->len;
    }
    state->devices = f->list;
    state->n_devices = f->n;
}

static gboolean
state_assemble(Machine *m, const District__VmState *head, uint8_t *out, size_t capacity,
               size_t *len, GError **error)
{
    size_t at = district__vm_state__get_packed_size(head), need = at;

    for (unsigned i = 0; i < m->vcpus->n; i++)
        need += vcpu_state_bytes(&m->vcpus->vcpu[i]);
    if (need > capacity) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "%s: its state takes %zu bytes, more than the %zu there is room for", m->name,
                    need, capacity);
        return FALSE;
    }
    district__vm_state__pack(head, out);
    for (unsigned i = 0; i < m->vcpus->n; i++) {
        vcpu_state_put(&m->vcpus->vcpu[i], out + at);
        at += vcpu_state_bytes(&m->vcpus->vcpu[i]);
    }
    *len = need;
    return TRUE;
}

static gboolean
interrupts_save(Machine *m, GError **error)
{
    for (unsigned i = 0; i < m->vcpus->n; i++) {
        if (!vcpu_state_save_interrupts(&m->vcpus->vcpu[i], error))
            return FALSE;
    }
    return TRUE;
}

gboolean
state_save(Machine *m, uint8_t *out, size_t capacity, size_t *len, GError **error)
{
    District__VmState head = DISTRICT__VM_STATE__INIT;
    SaveFrame *f = save_frame_get(m);

    head.version = STATE_VERSION;
    head.ram_size = m->ram_size;
    head.vcpu_count = m->vcpus->n;
    head.vmgenid.data = m->vmgenid;
    head.vmgenid.len = sizeof(m->vmgenid);
    machine_lock(m);
    devices_dump(m, &head, f);
    machine_unlock(m);
    gboolean chips = chip_state_save(m, &head, &f->chips, error);
    return vcpus_job_finish(m->vcpus, chips ? error : NULL) && chips && interrupts_save(m, error) &&
           state_assemble(m, &head, out, capacity, len, error);
}

/* ---- Checking ---- */

static gboolean vm_state_refuse(const Machine *m, GError **error, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

static gboolean
vm_state_refuse(const Machine *m, GError **error, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "%s: saved state refused: %s", m->name,
                what);
    return FALSE;
}

static const District__DeviceState *
state_device_find(const District__VmState *state, const Device *device)
{
    for (size_t i = 0; i < state->n_devices; i++) {
        const District__DeviceState *found = state->devices[i];

        if (g_str_equal(found->kind, device->ops->kind) && found->instance == device->instance)
            return found;
    }
    return NULL;
}

static gboolean
state_devices_check(Machine *m, const District__VmState *state, GError **error)
{
    /* Every device of ours must be there once; equal counts then say that no other is. */
    for (guint i = 0; i < m->devices->len; i++) {
        const Device *device = m->devices->pdata[i];
        const District__DeviceState *saved = state_device_find(state, device);

        if (saved == NULL)
            return vm_state_refuse(
                m, error,
                "it has no device %s %u; start the member with the options it was "
                "saved with",
                device->ops->kind, device->instance);
        if (saved->version != device->ops->version)
            return vm_state_refuse(m, error, "device %s %u has version %u, this program reads %u",
                                   device->ops->kind, device->instance, saved->version,
                                   device->ops->version);
    }
    if (state->n_devices != m->devices->len)
        return vm_state_refuse(m, error,
                               "it has %zu devices, this member %u; start the member with the "
                               "options it was saved with",
                               state->n_devices, m->devices->len);
    return TRUE;
}

gboolean
state_check(Machine *m, const District__VmState *state, GError **error)
{
    const char *unknown;
    g_autoptr(GError) why = NULL;

    if (state->version != STATE_VERSION)
        return vm_state_refuse(m, error, "version %u, this program reads %u", state->version,
                               STATE_VERSION);
    unknown = state_unknown_in(&state->base);
    if (unknown != NULL)
        return vm_state_refuse(m, error, "%s has fields that this program does not know", unknown);
    if (state->ram_size != m->ram_size)
        return vm_state_refuse(
            m, error, "its RAM is %" G_GUINT64_FORMAT " bytes, this member's %" G_GUINT64_FORMAT,
            (guint64)state->ram_size, (guint64)m->ram_size);
    if (state->vcpu_count != m->vcpus->n || state->n_vcpus != m->vcpus->n)
        return vm_state_refuse(m, error, "it has %u vCPUs, this member %u", state->vcpu_count,
                               m->vcpus->n);
    if (state->vmgenid.len != VMGENID_BYTES)
        return vm_state_refuse(m, error, "its VM generation id is missing");
    if (!chip_state_check(state, &why))
        return vm_state_refuse(m, error, "%s", why->message);
    for (unsigned i = 0; i < m->vcpus->n; i++) {
        if (!vcpu_state_check(&m->vcpus->vcpu[i], state->vcpus[i], error))
            return FALSE;
    }
    return state_devices_check(m, state, error);
}

/* Parse and check; NULL if it is refused. */
static District__VmState *
state_parse_checked(Machine *m, const uint8_t *data, size_t len, GError **error)
{
    District__VmState *state =
        (District__VmState *)state_unpack(&district__vm_state__descriptor, data, len);

    if (state == NULL) {
        vm_state_refuse(m, error, "it is damaged (not a VmState message)");
    } else if (!state_check(m, state, error)) {
        district__vm_state__free_unpacked(state, NULL);
        state = NULL;
    }
    return state;
}

gboolean
state_check_blob(Machine *m, const uint8_t *data, size_t len, GError **error)
{
    District__VmState *state = state_parse_checked(m, data, len, error);

    if (state == NULL)
        return FALSE;
    district__vm_state__free_unpacked(state, NULL);
    return TRUE;
}

/* ---- Loading ---- */

static gboolean
state_devices_load(Machine *m, const District__VmState *state, GError **error)
{
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];
        const District__DeviceState *saved = state_device_find(state, device);

        if (!device->ops->restore(device, saved->state.data, saved->state.len, error)) {
            g_prefix_error(error, "%s: device %s %u: ", m->name, device->ops->kind,
                           device->instance);
            return FALSE;
        }
    }
    return TRUE;
}

bool
machine_restore_goes_back(Machine *m)
{
    return !m->journal_current;
}

/* Whoever gave us this RAM knows its content: what the log holds of it is no news. */
static gboolean
state_forget_dirty(Machine *m, GError **error)
{
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(m->ram_size)));

    return dirtylog_harvest(m->dirty, bits, NULL, error);
}

static gboolean
state_load(Machine *m, const District__VmState *state, const StateRestore *from, GError **error)
{
    gboolean loaded;

    if ((from->ram_fd >= 0 && !machine_ram_attach(m, from->ram_fd, error)) ||
        (from->ram_known && !state_forget_dirty(m, error)) ||
        !chip_state_restore(m, state, error) || !clock_state_restore(m, state->clock, error))
        return FALSE;
    memcpy(m->vmgenid, state->vmgenid.data, VMGENID_BYTES);
    m->saved_realtime_ns = state->clock->realtime_ns;
    m->journal_current = from->journal_current;
    vcpus_job_start(m->vcpus, vcpu_state_restore, (void *)state);
    if (!vcpus_job_finish(m->vcpus, error))
        return FALSE;
    machine_lock(m);
    loaded = state_devices_load(m, state, error);
    machine_unlock(m);
    if (loaded && from->vmgenid != NULL)
        vmgenid_change(m, from->vmgenid);
    return loaded;
}

gboolean
state_restore(Machine *m, const uint8_t *data, size_t len, const StateRestore *restore,
              GError **error)
{
    District__VmState *state;
    GError *why = NULL;
    gboolean done;

    g_return_val_if_fail(m->state == MACHINE_AWAITING_RESTORE, FALSE);
    g_return_val_if_fail((m->ram == NULL) == (restore->ram_fd >= 0), FALSE);
    if (restore->ram_fd >= 0 && !memfd_check(restore->ram_fd, m->ram_size, "guest RAM", &why)) {
        vm_state_refuse(m, error, "%s", why->message);
        g_error_free(why);
        return FALSE;
    }
    state = state_parse_checked(m, data, len, error);
    if (state == NULL)
        return FALSE;
    done = state_load(m, state, restore, &why);
    district__vm_state__free_unpacked(state, NULL);
    if (done)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s", why->message);
    g_error_free(why);
    return FALSE;
}
