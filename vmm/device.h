/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every device of district-vmm has in common.
 *
 * Each device lives in its own file and owns the same five functions: x_init (its own signature),
 * x_dump, x_restore, x_stop, x_start. x_init registers the device with machine_add_device.
 *
 * Threads: every callback of a device runs with the machine lock held (machine_lock), either on a
 * vCPU thread (port and MMIO accesses) or on the main thread (GLib sources, which take the lock
 * themselves first thing). A device therefore needs no lock of its own.
 *
 * Time of life: init, then any number of stop/dump/start rounds; restore only after init and before
 * the first start, in place of the guest's own set-up.
 */
#ifndef DISTRICT_VMM_DEVICE_H
#define DISTRICT_VMM_DEVICE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Device Device;

typedef struct DeviceOps {
    /* Unique per kind; with the instance number it names the device in the state blob. */
    const char *kind;
    /* Version of what dump writes. restore is only ever given the same version. */
    uint32_t version;
    /*
     * Come to rest: when this returns no access to guest memory is under way or will be started,
     * and all that the device has accepted from outside is in its state. vCPUs are already out.
     * Kicks raised by ioeventfd before the stop and not served yet must be served here or be part
     * of the state. May write guest memory (machine_mark_dirty applies).
     */
    void (*stop)(Device *device);
    /* Append the serialised (protobuf) state to out. Only between stop and start. */
    void (*dump)(Device *device, GByteArray *out);
    /* Take the state over. FALSE: refused, error says why; the machine is then not started. */
    gboolean (*restore)(Device *device, const uint8_t *data, size_t len, GError **error);
    /* Go on. After a restore this also tells interrupt lines and sets timers. */
    void (*start)(Device *device);
} DeviceOps;

struct Device {
    const DeviceOps *ops;
    uint32_t instance; /* among devices of the same kind */
    void *opaque;      /* the device's own struct */
};

#endif
