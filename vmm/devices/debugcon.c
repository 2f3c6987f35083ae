/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Debug console: port 0xE9 writes a byte to a file and reads as 0xE9, as QEMU's isa-debugcon. */
#include "vmm/devices/devices.h"
#include "vmm/devices/outfile.h"
#include "vmm/devices/state.h"

#include "devices.pb-c.h"

#define DEBUGCON_PORT 0xE9

typedef struct Debugcon {
    Device device;
    OutFile *file;
} Debugcon;

static void
debugcon_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write_)
{
    Debugcon *con = opaque;

    if (!write_) {
        data[0] = DEBUGCON_PORT;
        return;
    }
    outfile_write(con->file, data, len);
}

static void
debugcon_nothing(Device *device)
{
}

static void
debugcon_dump(Device *device, GByteArray *out)
{
    District__DebugconState state = DISTRICT__DEBUGCON_STATE__INIT;
    state_append(out, &state.base);
}

static gboolean
debugcon_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    ProtobufCMessage *state =
        state_parse("debugcon", &district__debugcon_state__descriptor, data, len, error);

    if (!state)
        return FALSE;
    protobuf_c_message_free_unpacked(state, NULL);
    return TRUE;
}

static const DeviceOps debugcon_ops = {
    .kind = "debugcon",
    .version = 1,
    .stop = debugcon_nothing,
    .dump = debugcon_dump,
    .restore = debugcon_restore,
    .start = debugcon_nothing,
};

gboolean
debugcon_init(Machine *m, const char *path, GError **error)
{
    Debugcon *con = g_new0(Debugcon, 1);

    con->device.ops = &debugcon_ops;
    con->device.opaque = con;
    con->file = outfile_open(path, error);
    if (!con->file) {
        g_prefix_error(error, "debug console: ");
        g_free(con);
        return FALSE;
    }
    if (!machine_io_add(m, IO_PORT, DEBUGCON_PORT, 1, debugcon_access, con)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "debug console: port 0x%x is taken by another device", DEBUGCON_PORT);
        outfile_free(con->file);
        g_free(con);
        return FALSE;
    }
    machine_add_device(m, &con->device);
    return TRUE;
}
