/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CMOS, ACPI PM, reset and debug console. */
#include "driver.h"

#include "common/clock.h"
#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/devices.h"

#include <glib/gstdio.h>
#include <string.h>
#include <time.h>

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

static Machine *
make_machine(void)
{
    Machine *m = fake_machine_new(1 << 16);

    g_assert_true(cmos_init(m, 512 * MIB, NULL));
    g_assert_true(reset_init(m, NULL));
    g_assert_true(acpi_pm_init(m, NULL));
    fake_start(m);
    return m;
}

/* ---- CMOS ---- */

static uint8_t
cmos_get(Machine *m, uint8_t reg)
{
    fake_out(m, 0x70, reg, 1);
    return (uint8_t)fake_in(m, 0x71, 1);
}

static void
cmos_put(Machine *m, uint8_t reg, uint8_t value)
{
    fake_out(m, 0x70, reg, 1);
    fake_out(m, 0x71, value, 1);
}

static int
decode(uint8_t value, bool binary)
{
    g_assert_true(binary || ((value & 0xF) < 10 && value >> 4 < 10));
    return binary ? value : (value >> 4) * 10 + (value & 0xF);
}

/* Read the clock as drivers do: outside of an update, twice the same second. */
static time_t
cmos_time(Machine *m, bool binary, bool hours24)
{
    for (;;) {
        uint8_t seconds = cmos_get(m, 0);
        uint8_t hours = cmos_get(m, 4);
        bool pm = !hours24 && (hours & 0x80);
        struct tm tm = {
            .tm_sec = decode(seconds, binary),
            .tm_min = decode(cmos_get(m, 2), binary),
            .tm_hour = decode(hours24 ? hours : hours & 0x7F, binary),
            .tm_mday = decode(cmos_get(m, 7), binary),
            .tm_mon = decode(cmos_get(m, 8), binary) - 1,
            .tm_year =
                decode(cmos_get(m, 9), binary) + 100 * decode(cmos_get(m, 0x32), binary) - 1900,
        };

        if (!hours24)
            tm.tm_hour = tm.tm_hour % 12 + (pm ? 12 : 0);
        if (!(cmos_get(m, 0x0A) & 0x80) && cmos_get(m, 0) == seconds)
            return timegm(&tm);
    }
}

static void
clock_shows_the_time(void)
{
    Machine *m = make_machine();

    for (unsigned mode = 0; mode < 4; mode++) {
        bool binary = mode & 1, hours24 = mode & 2;
        time_t now, read;

        cmos_put(m, 0x0B, (uint8_t)((binary ? 4 : 0) | (hours24 ? 2 : 0)));
        now = time(NULL);
        read = cmos_time(m, binary, hours24);
        g_assert_cmpint(read, >=, now);
        g_assert_cmpint(read, <=, time(NULL));
    }
}

static void
clock_cannot_be_set(void)
{
    Machine *m = make_machine();

    cmos_put(m, 0x0B, 0x86);
    for (uint8_t reg = 0; reg <= 9; reg++)
        if (reg % 2 == 0 || reg > 6)
            cmos_put(m, reg, 1);
    cmos_put(m, 0x0B, 0x06);
    g_assert_cmpint(ABS(cmos_time(m, true, true) - time(NULL)), <=, 1);
}

static void
update_comes_before_the_second(void)
{
    Machine *m = make_machine();
    uint8_t before;

    while (!(cmos_get(m, 0x0A) & 0x80))
        ;
    g_assert_cmpint(clock_realtime_ns() % NS_PER_S, >, NS_PER_S - 3 * NS_PER_MS);
    before = cmos_get(m, 0);
    while (cmos_get(m, 0x0A) & 0x80)
        ;
    if (clock_realtime_ns() % NS_PER_S < NS_PER_S / 2) /* unless we were not scheduled */
        g_assert_cmpint(cmos_get(m, 0), !=, before);
}

static void
fixed_registers(void)
{
    Machine *m = make_machine();

    g_assert_cmphex(cmos_get(m, 0x0A) & 0x7F, ==, 0x26);
    g_assert_cmphex(cmos_get(m, 0x0B), ==, 0x02);
    g_assert_cmphex(cmos_get(m, 0x0C), ==, 0);
    g_assert_cmphex(cmos_get(m, 0x0D), ==, 0x80);
    cmos_put(m, 0x0B, 0x72); /* no interrupts to be had */
    g_assert_cmphex(cmos_get(m, 0x0B), ==, 0x02);
    cmos_put(m, 0x0F, 0xA5); /* plain memory */
    g_assert_cmphex(cmos_get(m, 0x0F), ==, 0xA5);
    g_assert_cmphex(cmos_get(m, 0x8F), ==, 0xA5); /* bit 7 only masks NMI */
}

static void
ram_size_is_told(void)
{
    Machine *m = fake_machine_new(1 << 16);

    g_assert_true(cmos_init(m, 4 * GIB, NULL));
    g_assert_cmpuint(cmos_get(m, 0x17) | cmos_get(m, 0x18) << 8, ==, 0xFFFF);
    g_assert_cmpuint(cmos_get(m, 0x34) | cmos_get(m, 0x35) << 8, ==, (3 * GIB - 16 * MIB) >> 16);
    g_assert_cmpuint(cmos_get(m, 0x5B) | cmos_get(m, 0x5C) << 8, ==, GIB >> 16);
}

/* ---- ACPI PM ---- */

static void
timer_runs_at_its_rate(void)
{
    Machine *m = make_machine();
    int64_t start = clock_monotonic_ns(), ns;
    uint32_t first = fake_in(m, ACPI_PM_TMR_BLK, 4), ticks;

    g_usleep(50000);
    ticks = fake_in(m, ACPI_PM_TMR_BLK, 4) - first;
    ns = clock_monotonic_ns() - start;
    g_assert_cmpuint(ticks, >=, 50000 * 3.57);
    g_assert_cmpuint(ticks, <=, (uint32_t)(ns * 3.579545 / 1000) + 1);
}

static void
power_button_interrupts(void)
{
    Machine *m = make_machine();

    g_assert_false(acpi_pm_power_button(m));
    g_assert_false(fake_irq(m, GSI_SCI)); /* not enabled */
    fake_out(m, ACPI_PM1A_EVT_BLK + 2, 0x0100, 2);
    g_assert_true(fake_irq(m, GSI_SCI));
    g_assert_true(acpi_pm_power_button(m));
    g_assert_cmphex(fake_in(m, ACPI_PM1A_EVT_BLK, 2), ==, 0x0100);
    fake_out(m, ACPI_PM1A_EVT_BLK, 0x0001, 2); /* not this one */
    g_assert_true(fake_irq(m, GSI_SCI));
    fake_out(m, ACPI_PM1A_EVT_BLK, 0x0100, 2);
    g_assert_false(fake_irq(m, GSI_SCI));
}

static void
vmgenid_raises_its_gpe(void)
{
    Machine *m = make_machine();

    fake_out(m, ACPI_GPE0_BLK + 2, 1 << ACPI_PM_GPE_VMGENID, 1);
    acpi_pm_vmgenid_changed(m);
    g_assert_true(fake_irq(m, GSI_SCI));
    g_assert_cmphex(fake_in(m, ACPI_GPE0_BLK, 1), ==, 1 << ACPI_PM_GPE_VMGENID);
    fake_out(m, ACPI_GPE0_BLK, 1 << ACPI_PM_GPE_VMGENID, 1);
    g_assert_false(fake_irq(m, GSI_SCI));
}

static void
s5_powers_off(void)
{
    Machine *m = make_machine();

    g_assert_cmphex(fake_in(m, ACPI_PM1A_CNT_BLK, 2) & 1, ==, 1); /* ACPI mode */
    fake_out(m, ACPI_PM1A_CNT_BLK, 3 << 10 | 1 << 13, 2);         /* no S3 here */
    g_assert_cmpint(fake_exit_wanted(m), ==, -1);
    fake_out(m, ACPI_PM1A_CNT_BLK, ACPI_PM_SLP_TYP_S5 << 10, 2);
    g_assert_cmpint(fake_exit_wanted(m), ==, -1);
    fake_out(m, ACPI_PM1A_CNT_BLK, ACPI_PM_SLP_TYP_S5 << 10 | 1 << 13, 2);
    g_assert_cmpint(fake_exit_wanted(m), ==, MACHINE_EXIT_SHUTDOWN);
}

static void
acpi_state_goes_round(void)
{
    Machine *m = make_machine(), *other;
    uint32_t ticks, later;

    fake_out(m, ACPI_PM1A_EVT_BLK + 2, 0x0100, 2);
    acpi_pm_power_button(m);
    fake_out(m, ACPI_GPE0_BLK + 2, 0xFF, 1);
    g_usleep(20000);
    other = make_machine(); /* its timer starts at 0, 20 ms behind */
    fake_stop(other);
    ticks = fake_in(m, ACPI_PM_TMR_BLK, 4);
    fake_move(m, other);
    later = fake_in(other, ACPI_PM_TMR_BLK, 4);
    g_assert_cmpuint(later, >=, ticks);
    g_assert_cmpuint(later - ticks, <, ACPI_PM_TIMER_HZ);
    g_assert_true(fake_irq(other, GSI_SCI));
    g_assert_cmphex(fake_in(other, ACPI_PM1A_EVT_BLK, 4), ==, 0x01000100);
    g_assert_cmphex(fake_in(other, ACPI_GPE0_BLK + 2, 1), ==, 0xFF);
}

/* As TSC and kvmclock do. */
static void
timer_steps_over_a_restore(void)
{
    Machine *m = make_machine(), *other;
    uint32_t before, after;
    int64_t start;

    other = make_machine();
    fake_set_elapsed(other, 100 * UINT64_C(1000000000));
    start = clock_monotonic_ns();
    before = fake_in(m, ACPI_PM_TMR_BLK, 4);
    fake_move(m, other);
    g_usleep(20000);
    after = fake_in(other, ACPI_PM_TMR_BLK, 4);
    /* 100 s, and what has really passed, waiting for the start included */
    g_assert_cmpuint(after - before, >=, 100 * ACPI_PM_TIMER_HZ + ACPI_PM_TIMER_HZ / 50 - 2);
    g_assert_cmpuint(after - before, <=,
                     100 * ACPI_PM_TIMER_HZ +
                         (uint32_t)((double)(clock_monotonic_ns() - start) * 3.579545e-3) + 2);
}

/* ---- The rest ---- */

static void
keyboard_controller_resets(void)
{
    Machine *m = make_machine();

    g_assert_cmphex(fake_in(m, 0x64, 1), ==, 0xFF);
    fake_out(m, 0x64, 0xAA, 1);
    g_assert_cmpint(fake_exit_wanted(m), ==, -1);
    fake_out(m, 0x64, 0xFE, 1);
    g_assert_cmpint(fake_exit_wanted(m), ==, MACHINE_EXIT_RESET);
}

static void
debugcon_writes_a_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("district-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "debug", NULL);
    g_autofree char *text = NULL;
    Machine *m = fake_machine_new(1 << 16);

    g_assert_true(debugcon_init(m, path, NULL));
    g_assert_cmphex(fake_in(m, 0xE9, 1), ==, 0xE9);
    for (const char *c = "boot\n"; *c; c++)
        fake_out(m, 0xE9, (uint8_t)*c, 1);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "boot\n");
    fake_check_garbage(m, "debugcon");
    g_unlink(path);
    g_rmdir(dir);
}

static void
taken_ports_are_refused(void)
{
    Machine *m = make_machine();
    g_autoptr(GError) error = NULL;

    g_assert_false(cmos_init(m, GIB, &error));
    g_assert_true(strstr(error->message, "taken") != NULL);
}

static void
garbage_is_refused(void)
{
    Machine *m = make_machine();

    fake_stop(m);
    fake_check_garbage(m, "cmos");
    fake_check_garbage(m, "acpi-pm");
    fake_check_garbage(m, "reset");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cmos/the clock shows the time in all four modes", clock_shows_the_time);
    g_test_add_func("/cmos/the clock cannot be set", clock_cannot_be_set);
    g_test_add_func("/cmos/an update is announced before the second",
                    update_comes_before_the_second);
    g_test_add_func("/cmos/registers are as a guest expects", fixed_registers);
    g_test_add_func("/cmos/the RAM size is told", ram_size_is_told);
    g_test_add_func("/acpi/the timer runs at its rate", timer_runs_at_its_rate);
    g_test_add_func("/acpi/the power button interrupts", power_button_interrupts);
    g_test_add_func("/acpi/a new generation id raises its GPE", vmgenid_raises_its_gpe);
    g_test_add_func("/acpi/S5 powers off", s5_powers_off);
    g_test_add_func("/acpi/state goes round and the timer goes on", acpi_state_goes_round);
    g_test_add_func("/reset/the keyboard controller resets", keyboard_controller_resets);
    g_test_add_func("/acpi/the PM timer steps over a restore", timer_steps_over_a_restore);
    g_test_add_func("/debugcon/bytes go to the file", debugcon_writes_a_file);
    g_test_add_func("/platform/ports that are taken are refused", taken_ports_are_refused);
    g_test_add_func("/platform/garbage is refused", garbage_is_refused);
    return g_test_run();
}
