/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ACPI tables: RSDP, XSDT, FADT, FACS, MADT, MCFG. The DSDT is in dsdt.c.
 *
 * Fields are written one after the other, in the order of the tables of ACPI 6.4 §5.2, so that the
 * code can be read beside the specification; numbers in comments are byte offsets there.
 */
#include "vmm/acpi.h"

#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/reset.h"
#include "vmm/dsdt.h"

#include <string.h>

/* value in little-endian order, zero-extended to any number of bytes. */
static void
put(GByteArray *table, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t byte = i < sizeof(value) ? (uint8_t)(value >> (8 * i)) : 0;

        g_byte_array_append(table, &byte, 1);
    }
}

static void
put_text(GByteArray *table, const char *text, guint bytes)
{
    g_assert(strlen(text) == bytes);
    g_byte_array_append(table, (const uint8_t *)text, bytes);
}

static uint8_t
checksum(const uint8_t *data, guint len)
{
    uint8_t sum = 0;

    for (guint i = 0; i < len; i++)
        sum = (uint8_t)(sum + data[i]);
    return (uint8_t)-sum;
}

/* §5.2.6: length and checksum are filled in by table_end. */
static GByteArray *
table_begin(const char *signature, uint8_t revision)
{
    GByteArray *table = g_byte_array_new();

    put_text(table, signature, 4);
    put(table, 0, 4); /* length */
    put(table, revision, 1);
    put(table, 0, 1); /* checksum */
    put_text(table, "DSTRCT", 6);
    put_text(table, "DISTRICT", 8);
    put(table, 1, 4);
    put_text(table, "DSTR", 4);
    put(table, 1, 4);
    return table;
}

static void
table_end(GByteArray *table)
{
    for (guint i = 0; i < 4; i++)
        table->data[4 + i] = (uint8_t)(table->len >> (8 * i));
    table->data[9] = checksum(table->data, table->len);
}

/* Append table at the next 64-byte boundary; returns its guest-physical address. */
static uint64_t
area_add(GByteArray *area, GByteArray *table)
{
    guint at = (area->len + 63) & ~63u;
    guint gap = at - area->len;

    g_byte_array_set_size(area, at);
    memset(area->data + at - gap, 0, gap);
    g_byte_array_append(area, table->data, table->len);
    g_byte_array_unref(table);
    return MAP_ACPI + at;
}

/* Generic address structure, I/O space (§5.2.3.2). access: 1 byte, 2 word, 3 dword. */
static void
put_gas_io(GByteArray *table, uint16_t port, uint8_t bits, uint8_t access)
{
    put(table, 1, 1);
    put(table, bits, 1);
    put(table, 0, 1);
    put(table, access, 1);
    put(table, port, 8);
}

static void
put_gas_none(GByteArray *table)
{
    put(table, 0, 4);
    put(table, 0, 8);
}

/* §5.2.10. No firmware waking vector, no hardware signature: only there because §5.2.9 asks for it.
 */
static GByteArray *
facs_build(void)
{
    GByteArray *facs = g_byte_array_new();

    put_text(facs, "FACS", 4);
    put(facs, 64, 4);
    put(facs, 0, 24);
    put(facs, 2, 1); /* 32: version */
    put(facs, 0, 31);
    return facs;
}

/* Fixed feature flags, §5.2.9 table 5.10. */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLP_BUTTON (1u << 5)
#define FADT_FIX_RTC (1u << 6)
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
/* IA-PC boot flags, table 5.11: there are devices on the ISA bus; there is no VGA. */
#define FADT_IAPC_BOOT 0x0005

static void
fadt_put_blocks(GByteArray *fadt)
{
    put(fadt, ACPI_PM1A_EVT_BLK, 4); /* 56 */
    put(fadt, 0, 4);
    put(fadt, ACPI_PM1A_CNT_BLK, 4); /* 64 */
    put(fadt, 0, 4);
    put(fadt, 0, 4);
    put(fadt, ACPI_PM_TMR_BLK, 4); /* 76 */
    put(fadt, ACPI_GPE0_BLK, 4);
    put(fadt, 0, 4);
    put(fadt, ACPI_PM1_EVT_LEN, 1); /* 88 */
    put(fadt, ACPI_PM1_CNT_LEN, 1);
    put(fadt, 0, 1);
    put(fadt, ACPI_PM_TMR_LEN, 1);
    put(fadt, ACPI_GPE0_LEN, 1);
    put(fadt, 0, 3);
    put(fadt, 0xFFFF, 2); /* 96: C2 and C3 latency: not there */
    put(fadt, 0xFFFF, 2);
    put(fadt, 0, 4); /* 100: flush size and stride, duty cycle */
    put(fadt, 0, 5); /* 104: duty, alarm, century */
}

static void
fadt_put_extended(GByteArray *fadt, uint64_t facs, uint64_t dsdt)
{
    put(fadt, facs, 8); /* 132 */
    put(fadt, dsdt, 8);
    put_gas_io(fadt, ACPI_PM1A_EVT_BLK, ACPI_PM1_EVT_LEN * 8, 2); /* 148 */
    put_gas_none(fadt);
    put_gas_io(fadt, ACPI_PM1A_CNT_BLK, ACPI_PM1_CNT_LEN * 8, 2); /* 172 */
    put_gas_none(fadt);
    put_gas_none(fadt);
    put_gas_io(fadt, ACPI_PM_TMR_BLK, ACPI_PM_TMR_LEN * 8, 3); /* 208 */
    put_gas_io(fadt, ACPI_GPE0_BLK, ACPI_GPE0_LEN * 8, 1);
    put_gas_none(fadt);
    put_gas_none(fadt); /* 244: sleep control and status: hardware-reduced only */
    put_gas_none(fadt);
    put(fadt, 0, 8); /* 268: hypervisor vendor */
}

static GByteArray *
fadt_build(uint64_t facs, uint64_t dsdt)
{
    GByteArray *fadt = table_begin("FACP", 6);

    put(fadt, 0, 4); /* 36: FACS, given below with 64 bits */
    put(fadt, dsdt, 4);
    put(fadt, 0, 1);
    put(fadt, 4, 1); /* 45: preferred profile: enterprise server */
    put(fadt, GSI_SCI, 2);
    put(fadt, 0, 4); /* 48: SMI command: none, always in ACPI mode */
    put(fadt, 0, 4); /* 52: enable, disable, S4, P-state */
    fadt_put_blocks(fadt);
    put(fadt, FADT_IAPC_BOOT, 2); /* 109 */
    put(fadt, 0, 1);
    put(fadt,
        FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT |
            FADT_RESET_REG_SUP,
        4);                                  /* 112 */
    put_gas_io(fadt, RESET_ACPI_PORT, 8, 1); /* 116 */
    put(fadt, RESET_ACPI_VALUE, 1);
    put(fadt, 0, 2);
    put(fadt, 4, 1); /* 131: minor version */
    fadt_put_extended(fadt, facs, dsdt);
    g_assert(fadt->len == 276);
    table_end(fadt);
    return fadt;
}

/* §5.2.12: APIC ids up to 254 only, which MACHINE_VCPUS_MAX keeps. */
static GByteArray *
madt_build(unsigned n_vcpus)
{
    GByteArray *madt = table_begin("APIC", 5);

    put(madt, MAP_LAPIC_BASE, 4);
    put(madt, 1, 4); /* dual 8259 present */
    for (unsigned i = 0; i < n_vcpus; i++) {
        put(madt, 0, 1); /* processor local APIC */
        put(madt, 8, 1);
        put(madt, i, 1);
        put(madt, i, 1);
        put(madt, 1, 4); /* enabled */
    }
    put(madt, 1, 1); /* IOAPIC */
    put(madt, 12, 1);
    put(madt, 0, 2);
    put(madt, MAP_IOAPIC_BASE, 4);
    put(madt, 0, 4);
    put(madt, 2, 1); /* override: PIT is on pin 2 */
    put(madt, 10, 1);
    put(madt, 0, 2);
    put(madt, 2, 4);
    put(madt, 0, 2);
    put(madt, 2, 1); /* override: SCI is level triggered */
    put(madt, 10, 1);
    put(madt, 0, 1);
    put(madt, GSI_SCI, 1);
    put(madt, GSI_SCI, 4);
    put(madt, ACPI_PM_MADT_SCI_FLAGS, 2);
    put(madt, 4, 1); /* NMI on LINT1 of all */
    put(madt, 6, 1);
    put(madt, 0xFF, 1);
    put(madt, 0, 2);
    put(madt, 1, 1);
    table_end(madt);
    return madt;
}

/* PCI firmware specification 3.2 §4.1.2. */
static GByteArray *
mcfg_build(void)
{
    GByteArray *mcfg = table_begin("MCFG", 1);

    put(mcfg, 0, 8);
    put(mcfg, MAP_ECAM_BASE, 8);
    put(mcfg, 0, 2);   /* segment */
    put(mcfg, 0, 1);   /* first bus */
    put(mcfg, 255, 1); /* last bus */
    put(mcfg, 0, 4);
    table_end(mcfg);
    return mcfg;
}

static GByteArray *
xsdt_build(const uint64_t *tables, unsigned n)
{
    GByteArray *xsdt = table_begin("XSDT", 1);

    for (unsigned i = 0; i < n; i++)
        put(xsdt, tables[i], 8);
    table_end(xsdt);
    return xsdt;
}

/* §5.2.5.3: the first 20 bytes have a checksum of their own. */
static void
rsdp_fill(GByteArray *area, uint64_t xsdt)
{
    g_autoptr(GByteArray) rsdp = g_byte_array_new();

    put_text(rsdp, "RSD PTR ", 8);
    put(rsdp, 0, 1);
    put_text(rsdp, "DSTRCT", 6);
    put(rsdp, 2, 1);
    put(rsdp, 0, 4); /* no RSDT */
    put(rsdp, 36, 4);
    put(rsdp, xsdt, 8);
    put(rsdp, 0, 4);
    rsdp->data[8] = checksum(rsdp->data, 20);
    rsdp->data[32] = checksum(rsdp->data, 36);
    memcpy(area->data, rsdp->data, rsdp->len);
}

GByteArray *
acpi_tables_build(unsigned n_vcpus)
{
    GByteArray *area = g_byte_array_new();
    uint64_t facs, dsdt, xsdt, tables[3];
    GByteArray *code = table_begin("DSDT", 2);

    g_byte_array_set_size(area, 64);
    memset(area->data, 0, 64);
    dsdt_append(code);
    table_end(code);
    facs = area_add(area, facs_build());
    dsdt = area_add(area, code);
    tables[0] = area_add(area, fadt_build(facs, dsdt));
    tables[1] = area_add(area, madt_build(n_vcpus));
    tables[2] = area_add(area, mcfg_build());
    xsdt = area_add(area, xsdt_build(tables, G_N_ELEMENTS(tables)));
    rsdp_fill(area, xsdt);
    g_assert(area->len <= MAP_ACPI_SIZE);
    return area;
}

gboolean
acpi_tables_place(Machine *m, unsigned n_vcpus, GError **error)
{
    g_autoptr(GByteArray) area = acpi_tables_build(n_vcpus);

    if (machine_ram_write(m, MAP_ACPI, area->data, area->len))
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "%s: no room for ACPI tables", m->name);
    return FALSE;
}
