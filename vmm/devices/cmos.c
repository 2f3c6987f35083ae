/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CMOS memory and clock, MC146818 at ports 0x70/0x71.
 *
 * The clock registers always show the host's wall clock (UTC), in BCD or binary and in 12 or 24
 * hours as register B says. The guest cannot set it: writes to clock registers are ignored, as the
 * host's clock is the better one. There are no alarms and no interrupts; register C reads 0. So
 * nothing here drifts over save and restore: a restored guest that asks reads the time it is now.
 *
 * A reader sees update-in-progress for the last UPDATE_NS of each second, and the second changes
 * only after that, so the usual protocol (wait until it is clear, read all, check again) is sound.
 */
#include "vmm/devices/devices.h"
#include "vmm/devices/state.h"

#include "common/clock.h"
#include "devices.pb-c.h"

#include <string.h>
#include <time.h>

#define CMOS_PORT 0x70
#define CMOS_BYTES 128

/* Buffered update (244 us) and the update cycle itself (1984 us), MC146818A data sheet. */
#define UPDATE_NS (2228 * NS_PER_US)

enum {
    REG_SECONDS = 0x00,
    REG_MINUTES = 0x02,
    REG_HOURS = 0x04,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0A,
    REG_B = 0x0B,
    REG_C = 0x0C,
    REG_D = 0x0D,
    REG_BASE_KB = 0x15, /* RAM below 640 KiB, KiB, two bytes */
    REG_EXT_KB = 0x17,  /* from 1 MiB up, KiB, at most 65535 */
    REG_EXT_KB_COPY = 0x30,
    REG_CENTURY = 0x32,
    REG_ABOVE_16M = 0x34, /* below 4 GiB, in 64 KiB */
    REG_ABOVE_4G = 0x5B,  /* in 64 KiB, three bytes */
};

#define A_UPDATE_IN_PROGRESS 0x80
#define A_DEFAULT 0x26 /* 32768 Hz time base, 1024 Hz rate */
#define B_24_HOURS 0x02
#define B_BINARY 0x04
#define B_INTERRUPTS 0x70
#define D_VALID 0x80
#define HOURS_PM 0x80

typedef struct Cmos {
    Device device;
    uint8_t index;
    uint8_t ram[CMOS_BYTES];
} Cmos;

static uint8_t
cmos_number(const Cmos *cmos, int value)
{
    if (cmos->ram[REG_B] & B_BINARY)
        return (uint8_t)value;
    return (uint8_t)(value / 10 << 4 | value % 10);
}

static uint8_t
cmos_hours(const Cmos *cmos, int hour)
{
    if (cmos->ram[REG_B] & B_24_HOURS)
        return cmos_number(cmos, hour);
    return (uint8_t)(cmos_number(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0));
}

static uint8_t
cmos_read(const Cmos *cmos)
{
    int64_t now = clock_realtime_ns();
    time_t seconds = (time_t)(now / NS_PER_S);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    switch (cmos->index) {
    case REG_SECONDS:
        return cmos_number(cmos, MIN(tm.tm_sec, 59));
    case REG_MINUTES:
        return cmos_number(cmos, tm.tm_min);
    case REG_HOURS:
        return cmos_hours(cmos, tm.tm_hour);
    case REG_WEEKDAY:
        return cmos_number(cmos, tm.tm_wday + 1);
    case REG_DAY:
        return cmos_number(cmos, tm.tm_mday);
    case REG_MONTH:
        return cmos_number(cmos, tm.tm_mon + 1);
    case REG_YEAR:
        return cmos_number(cmos, tm.tm_year % 100);
    case REG_CENTURY:
        return cmos_number(cmos, (tm.tm_year + 1900) / 100);
    case REG_A:
        return cmos->ram[REG_A] |
               (now % NS_PER_S >= NS_PER_S - UPDATE_NS ? A_UPDATE_IN_PROGRESS : 0);
    case REG_C:
        return 0;
    case REG_D:
        return D_VALID;
    default:
        return cmos->ram[cmos->index];
    }
}

static void
cmos_write(Cmos *cmos, uint8_t value)
{
    switch (cmos->index) {
    case REG_SECONDS:
    case REG_MINUTES:
    case REG_HOURS:
    case REG_WEEKDAY:
    case REG_DAY:
    case REG_MONTH:
    case REG_YEAR:
    case REG_CENTURY:
    case REG_C:
    case REG_D:
        return;
    case REG_A:
        cmos->ram[REG_A] = value & (uint8_t)~A_UPDATE_IN_PROGRESS;
        return;
    case REG_B:
        cmos->ram[REG_B] = value & (uint8_t)~B_INTERRUPTS;
        return;
    default:
        cmos->ram[cmos->index] = value;
    }
}

static void
cmos_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    Cmos *cmos = opaque;

    if (offset == 0) {
        if (write)
            cmos->index = data[0] & 0x7F; /* bit 7 is the NMI mask */
        if (write && len > 1)
            cmos_write(cmos, data[1]);
        return;
    }
    if (write)
        cmos_write(cmos, data[0]);
    else
        data[0] = cmos_read(cmos);
}

static void
cmos_set(Cmos *cmos, unsigned reg, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        cmos->ram[reg + i] = (uint8_t)(value >> (8 * i));
}

static void
cmos_set_ram_size(Cmos *cmos, uint64_t ram_size)
{
    const uint64_t mib = 1 << 20;
    uint64_t low = MIN(ram_size, MAP_RAM_LOW_MAX);
    uint64_t high = ram_size - low;
    uint64_t ext_kb = low > mib ? (low - mib) >> 10 : 0;

    cmos_set(cmos, REG_BASE_KB, 640, 2);
    cmos_set(cmos, REG_EXT_KB, MIN(ext_kb, 0xFFFF), 2);
    cmos_set(cmos, REG_EXT_KB_COPY, MIN(ext_kb, 0xFFFF), 2);
    cmos_set(cmos, REG_ABOVE_16M, low > 16 * mib ? (low - 16 * mib) >> 16 : 0, 2);
    cmos_set(cmos, REG_ABOVE_4G, MIN(high >> 16, 0xFFFFFF), 3);
}

static void
cmos_nothing(Device *device)
{
}

static void
cmos_dump(Device *device, GByteArray *out)
{
    Cmos *cmos = device->opaque;
    District__CmosState state = DISTRICT__CMOS_STATE__INIT;

    state.index = cmos->index;
    state.ram.data = cmos->ram;
    state.ram.len = CMOS_BYTES;
    state_append(out, &state.base);
}

STATE_DEFINE_AUTOPTR(District__CmosState)

static gboolean
cmos_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    Cmos *cmos = device->opaque;
    g_autoptr(District__CmosState) state = (District__CmosState *)state_parse(
        "cmos", &district__cmos_state__descriptor, data, len, error);

    if (!state)
        return FALSE;
    if (state->index >= CMOS_BYTES)
        return state_refuse(error, "cmos", "index %u is not below %u", state->index, CMOS_BYTES);
    if (state->ram.len != CMOS_BYTES)
        return state_refuse(error, "cmos", "%zu bytes of memory, not %u", state->ram.len,
                            CMOS_BYTES);
    memcpy(cmos->ram, state->ram.data, CMOS_BYTES);
    cmos->ram[REG_A] &= (uint8_t)~A_UPDATE_IN_PROGRESS;
    cmos->ram[REG_B] &= (uint8_t)~B_INTERRUPTS;
    cmos->index = (uint8_t)state->index;
    return TRUE;
}

static const DeviceOps cmos_ops = {
    .kind = "cmos",
    .version = 1,
    .stop = cmos_nothing,
    .dump = cmos_dump,
    .restore = cmos_restore,
    .start = cmos_nothing,
};

gboolean
cmos_init(Machine *m, uint64_t ram_size, GError **error)
{
    Cmos *cmos = g_new0(Cmos, 1);

    cmos->device.ops = &cmos_ops;
    cmos->device.opaque = cmos;
    cmos->ram[REG_A] = A_DEFAULT;
    cmos->ram[REG_B] = B_24_HOURS;
    cmos_set_ram_size(cmos, ram_size);
    if (!machine_io_add(m, IO_PORT, CMOS_PORT, 2, cmos_access, cmos)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "cmos: port 0x%x is taken by another device", CMOS_PORT);
        g_free(cmos);
        return FALSE;
    }
    machine_add_device(m, &cmos->device);
    return TRUE;
}
