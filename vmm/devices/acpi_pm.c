/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ACPI fixed hardware (ACPI 6.4 §4.8): PM1a event and control blocks, PM timer, GPE0.
 *
 * The machine is always in ACPI mode. The SCI follows the status and enable registers as a level.
 * The PM timer counts at 3.579545 MHz from the moment of init, with the host's clock also while the
 * machine is stopped. Over a restore it steps by the real time that has passed since the save, as
 * TSC and kvmclock do: a guest that compares the three must not see one of them stand still.
 */
#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/devices.h"
#include "vmm/devices/state.h"

#include "common/clock.h"
#include "devices.pb-c.h"

/* PM1 status and enable (§4.8.3.1). */
#define PM1_TIMER (1u << 0)
#define PM1_GLOBAL (1u << 5)
#define PM1_POWER_BUTTON (1u << 8)
#define PM1_SLEEP_BUTTON (1u << 9)
#define PM1_RTC (1u << 10)
#define PM1_WAKE (1u << 15)
#define PM1_STATUS_BITS (PM1_ENABLE_BITS | PM1_WAKE)
/* Sleep button and RTC never happen, but drivers read back whether they could be enabled. */
#define PM1_ENABLE_BITS (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)
/* PM1 control (§4.8.3.2). */
#define PM1_SCI_EN (1u << 0)
#define PM1_BM_RLD (1u << 1)
#define PM1_SLP_TYP_SHIFT 10
#define PM1_SLP_TYP_MASK (7u << PM1_SLP_TYP_SHIFT)
#define PM1_SLP_EN (1u << 13)

/* All ports from ACPI_PM_BASE to the end of GPE0. */
#define ACPI_PM_PORTS (ACPI_GPE0_BLK + ACPI_GPE0_LEN - ACPI_PM_BASE)

typedef struct AcpiPm {
    Device device;
    Machine *machine;
    uint16_t pm1_status;
    uint16_t pm1_enable;
    uint16_t pm1_control;
    uint16_t gpe0_status;
    uint16_t gpe0_enable;
    int64_t timer_base_ns; /* CLOCK_MONOTONIC at which the timer was 0 */
} AcpiPm;

/* One process, one machine (machine.h); the button and the VMGENID event find it here. */
static AcpiPm *the_acpi_pm;

/* Seconds and the rest are scaled apart, so that nothing overflows in 64 bits. */
static uint64_t
timer_ticks(const AcpiPm *pm)
{
    uint64_t ns = (uint64_t)(clock_monotonic_ns() - pm->timer_base_ns);

    return ns / NS_PER_S * ACPI_PM_TIMER_HZ + ns % NS_PER_S * ACPI_PM_TIMER_HZ / NS_PER_S;
}

/* The base at which the timer shows ticks now; rounded so that it never runs back. */
static int64_t
timer_base_for(uint64_t ticks)
{
    uint64_t rest = ticks % ACPI_PM_TIMER_HZ * NS_PER_S;
    uint64_t ns = ticks / ACPI_PM_TIMER_HZ * NS_PER_S;

    ns += (rest + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;
    return clock_monotonic_ns() - (int64_t)ns;
}

static void
update_sci(AcpiPm *pm)
{
    bool level =
        (pm->pm1_status & pm->pm1_enable & PM1_ENABLE_BITS) || (pm->gpe0_status & pm->gpe0_enable);
    machine_irq_level(pm->machine, GSI_SCI, level);
}

static void
pm1_control_write(AcpiPm *pm, uint16_t value)
{
    pm->pm1_control = value & (PM1_BM_RLD | PM1_SLP_TYP_MASK);
    if (!(value & PM1_SLP_EN))
        return;
    if ((value & PM1_SLP_TYP_MASK) >> PM1_SLP_TYP_SHIFT == ACPI_PM_SLP_TYP_S5)
        machine_request_exit(pm->machine, MACHINE_EXIT_SHUTDOWN);
}

static uint8_t
read_byte(AcpiPm *pm, unsigned port, uint32_t timer)
{
    switch (port) {
    case ACPI_PM1A_EVT_BLK:
    case ACPI_PM1A_EVT_BLK + 1:
        return (uint8_t)(pm->pm1_status >> 8 * (port & 1));
    case ACPI_PM1A_EVT_BLK + 2:
    case ACPI_PM1A_EVT_BLK + 3:
        return (uint8_t)(pm->pm1_enable >> 8 * (port & 1));
    case ACPI_PM1A_CNT_BLK:
    case ACPI_PM1A_CNT_BLK + 1:
        return (uint8_t)((pm->pm1_control | PM1_SCI_EN) >> 8 * (port & 1));
    case ACPI_PM_TMR_BLK:
    case ACPI_PM_TMR_BLK + 1:
    case ACPI_PM_TMR_BLK + 2:
    case ACPI_PM_TMR_BLK + 3:
        return (uint8_t)(timer >> 8 * (port & 3));
    case ACPI_GPE0_BLK:
    case ACPI_GPE0_BLK + 1:
        return (uint8_t)(pm->gpe0_status >> 8 * (port & 1));
    case ACPI_GPE0_BLK + 2:
    case ACPI_GPE0_BLK + 3:
        return (uint8_t)(pm->gpe0_enable >> 8 * (port & 1));
    default:
        return 0;
    }
}

/* Replace byte `high` of a 16-bit register. */
static uint16_t
with_byte(uint16_t reg, unsigned high, uint8_t value)
{
    return high ? (uint16_t)((reg & 0x00FF) | value << 8) : (uint16_t)((reg & 0xFF00) | value);
}

static void
write_byte(AcpiPm *pm, unsigned port, uint8_t value)
{
    unsigned high = port & 1;

    switch (port) {
    case ACPI_PM1A_EVT_BLK:
    case ACPI_PM1A_EVT_BLK + 1:
        pm->pm1_status &= (uint16_t) ~(value << 8 * high);
        break;
    case ACPI_PM1A_EVT_BLK + 2:
    case ACPI_PM1A_EVT_BLK + 3:
        pm->pm1_enable = with_byte(pm->pm1_enable, high, value) & PM1_ENABLE_BITS;
        break;
    case ACPI_PM1A_CNT_BLK:
    case ACPI_PM1A_CNT_BLK + 1:
        pm1_control_write(pm, with_byte(pm->pm1_control, high, value));
        break;
    case ACPI_GPE0_BLK:
    case ACPI_GPE0_BLK + 1:
        pm->gpe0_status &= (uint16_t) ~(value << 8 * high);
        break;
    case ACPI_GPE0_BLK + 2:
    case ACPI_GPE0_BLK + 3:
        pm->gpe0_enable = with_byte(pm->gpe0_enable, high, value);
        break;
    default:
        break;
    }
}

static void
acpi_pm_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    AcpiPm *pm = opaque;
    unsigned port = ACPI_PM_BASE + (unsigned)offset;
    uint32_t timer = write ? 0 : (uint32_t)timer_ticks(pm); /* once: its bytes belong together */

    if (write && port == ACPI_PM1A_CNT_BLK && len >= 2) {
        pm1_control_write(pm, (uint16_t)(data[0] | data[1] << 8));
        return;
    }
    for (unsigned i = 0; i < len; i++) {
        if (write)
            write_byte(pm, port + i, data[i]);
        else
            data[i] = read_byte(pm, port + i, timer);
    }
    if (write)
        update_sci(pm);
}

bool
acpi_pm_power_button(Machine *m)
{
    g_return_val_if_fail(the_acpi_pm && the_acpi_pm->machine == m, false);
    the_acpi_pm->pm1_status |= PM1_POWER_BUTTON;
    update_sci(the_acpi_pm);
    return the_acpi_pm->pm1_enable & PM1_POWER_BUTTON;
}

void
acpi_pm_vmgenid_changed(Machine *m)
{
    g_return_if_fail(the_acpi_pm && the_acpi_pm->machine == m);
    the_acpi_pm->gpe0_status |= 1u << ACPI_PM_GPE_VMGENID;
    update_sci(the_acpi_pm);
}

static void
acpi_pm_stop(Device *device)
{
}

static void
acpi_pm_start(Device *device)
{
    AcpiPm *pm = device->opaque;

    update_sci(pm);
}

static void
acpi_pm_dump(Device *device, GByteArray *out)
{
    AcpiPm *pm = device->opaque;
    District__AcpiPmState state = DISTRICT__ACPI_PM_STATE__INIT;

    state.pm1_status = pm->pm1_status;
    state.pm1_enable = pm->pm1_enable;
    state.pm1_control = pm->pm1_control;
    state.gpe0_status = pm->gpe0_status;
    state.gpe0_enable = pm->gpe0_enable;
    state.timer_ticks = timer_ticks(pm);
    state_append(out, &state.base);
}

STATE_DEFINE_AUTOPTR(District__AcpiPmState)

static gboolean
acpi_pm_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    AcpiPm *pm = device->opaque;
    g_autoptr(District__AcpiPmState) state = (District__AcpiPmState *)state_parse(
        "acpi-pm", &district__acpi_pm_state__descriptor, data, len, error);

    if (!state)
        return FALSE;
    if ((state->pm1_status & ~PM1_STATUS_BITS) || (state->pm1_enable & ~PM1_ENABLE_BITS) ||
        (state->pm1_control & ~(PM1_BM_RLD | PM1_SLP_TYP_MASK)) ||
        state->gpe0_status > UINT16_MAX || state->gpe0_enable > UINT16_MAX)
        return state_refuse(error, "acpi-pm", "a register has bits that the hardware has not");
    /* A century of ticks, and another one since; more would not fit the clock arithmetic. */
    if (state->timer_ticks > (uint64_t)ACPI_PM_TIMER_HZ * 100 * 366 * 86400)
        return state_refuse(error, "acpi-pm", "timer at %" G_GUINT64_FORMAT, state->timer_ticks);
    pm->pm1_status = (uint16_t)state->pm1_status;
    pm->pm1_enable = (uint16_t)state->pm1_enable;
    pm->pm1_control = (uint16_t)state->pm1_control;
    pm->gpe0_status = (uint16_t)state->gpe0_status;
    pm->gpe0_enable = (uint16_t)state->gpe0_enable;
    pm->timer_base_ns =
        timer_base_for(state->timer_ticks) - (int64_t)machine_restore_elapsed_ns(pm->machine);
    return TRUE;
}

static const DeviceOps acpi_pm_ops = {
    .kind = "acpi-pm",
    .version = 1,
    .stop = acpi_pm_stop,
    .dump = acpi_pm_dump,
    .restore = acpi_pm_restore,
    .start = acpi_pm_start,
};

gboolean
acpi_pm_init(Machine *m, GError **error)
{
    AcpiPm *pm = g_new0(AcpiPm, 1);

    pm->device.ops = &acpi_pm_ops;
    pm->device.opaque = pm;
    pm->machine = m;
    pm->timer_base_ns = clock_monotonic_ns();
    if (!machine_io_add(m, IO_PORT, ACPI_PM_BASE, ACPI_PM_PORTS, acpi_pm_access, pm)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "acpi-pm: ports 0x%x-0x%x are taken by another device", ACPI_PM_BASE,
                    ACPI_PM_BASE + ACPI_PM_PORTS - 1);
        g_free(pm);
        return FALSE;
    }
    the_acpi_pm = pm;
    machine_add_device(m, &pm->device);
    return TRUE;
}
