/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ways to reset a PC: the reset line of the keyboard controller (command 0xFE at port 0x64) and the
 * reset control register at 0xCF9. There is no keyboard: the status port reads 0xFF, from which
 * drivers see at once that no controller is there.
 */
#include "vmm/devices/devices.h"
#include "vmm/devices/reset.h"
#include "vmm/devices/state.h"

#include "devices.pb-c.h"

#define KBD_COMMAND_PORT 0x64
#define KBD_COMMAND_RESET 0xFE
#define CF9_RESET 0x04

void
reset_cf9_access(Machine *m, uint8_t *data, bool write)
{
    if (!write)
        data[0] = 0;
    else if (data[0] & CF9_RESET)
        machine_request_exit(m, MACHINE_EXIT_RESET);
}

static void
kbd_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    if (write && offset == 0 && data[0] == KBD_COMMAND_RESET)
        machine_request_exit(opaque, MACHINE_EXIT_RESET);
}

static void
reset_nothing(Device *device)
{
}

static void
reset_dump(Device *device, GByteArray *out)
{
    District__ResetState state = DISTRICT__RESET_STATE__INIT;
    state_append(out, &state.base);
}

static gboolean
reset_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    ProtobufCMessage *state =
        state_parse("reset", &district__reset_state__descriptor, data, len, error);

    if (!state)
        return FALSE;
    protobuf_c_message_free_unpacked(state, NULL);
    return TRUE;
}

static const DeviceOps reset_ops = {
    .kind = "reset",
    .version = 1,
    .stop = reset_nothing,
    .dump = reset_dump,
    .restore = reset_restore,
    .start = reset_nothing,
};

gboolean
reset_init(Machine *m, GError **error)
{
    Device *device = g_new0(Device, 1);

    device->ops = &reset_ops;
    device->opaque = m;
    if (!machine_io_add(m, IO_PORT, KBD_COMMAND_PORT, 1, kbd_access, m)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "reset: port 0x%x is taken by another device", KBD_COMMAND_PORT);
        g_free(device);
        return FALSE;
    }
    machine_add_device(m, device);
    return TRUE;
}
