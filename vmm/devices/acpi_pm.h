/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ACPI fixed hardware (ACPI 6.4 §4.8): what FADT, MADT and DSDT must say.
 *
 *   FADT   SMI_CMD 0 (always in ACPI mode, SCI_EN reads 1), SCI_INT GSI_SCI,
 *          PM1a_EVT_BLK/LEN, PM1a_CNT_BLK/LEN, PM_TMR_BLK/LEN, GPE0_BLK/LEN below,
 *          flags: WBINVD, TMR_VAL_EXT (32-bit timer), RESET_REG_SUP with devices/reset.h,
 *          power button fixed (PWR_BUTTON 0), SLP_BUTTON 1 (none), FIX_RTC 1 (none).
 *   MADT   interrupt source override: bus ISA, source GSI_SCI, GSI GSI_SCI, flags 0x000D
 *          (level triggered, active high), as QEMU's pc and q35 have it.
 *   DSDT   \_S5 package (ACPI_PM_SLP_TYP_S5, 0, 0, 0); GPE ACPI_PM_GPE_VMGENID is an edge method
 *          (_Exx) that notifies the VMGENID device with 0x80.
 */
#ifndef DISTRICT_VMM_DEVICES_ACPI_PM_H
#define DISTRICT_VMM_DEVICES_ACPI_PM_H

#define ACPI_PM_BASE 0x600
#define ACPI_PM1A_EVT_BLK (ACPI_PM_BASE + 0x00)
#define ACPI_PM1_EVT_LEN 4
#define ACPI_PM1A_CNT_BLK (ACPI_PM_BASE + 0x04)
#define ACPI_PM1_CNT_LEN 2
#define ACPI_PM_TMR_BLK (ACPI_PM_BASE + 0x08)
#define ACPI_PM_TMR_LEN 4
#define ACPI_GPE0_BLK (ACPI_PM_BASE + 0x10)
#define ACPI_GPE0_LEN 4 /* two status bytes, two enable bytes: GPE 0-15 */

#define ACPI_PM_TIMER_HZ 3579545
#define ACPI_PM_SLP_TYP_S5 5
#define ACPI_PM_GPE_VMGENID 5 /* bit in GPE0 */
#define ACPI_PM_MADT_SCI_FLAGS 0x000D

#endif
