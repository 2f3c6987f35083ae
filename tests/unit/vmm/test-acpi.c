/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ACPI tables: structure, checksums, and what iasl thinks of them. */
#include "vmm/acpi.h"
#include "vmm/aml.h"
#include "vmm/vmgenid.h"

#include <string.h>
#include <unistd.h>

static uint64_t
le(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint8_t
sum(const uint8_t *at, size_t len)
{
    uint8_t total = 0;

    while (len-- > 0)
        total = (uint8_t)(total + *at++);
    return total;
}

/* The table at gpa, checked to be inside the area with a right checksum. */
static const uint8_t *
table_at(const GByteArray *area, uint64_t gpa, const char *signature)
{
    const uint8_t *table;

    g_assert_cmphex(gpa, >=, MAP_ACPI);
    g_assert_cmphex(gpa - MAP_ACPI + 36, <=, area->len);
    table = area->data + (gpa - MAP_ACPI);
    g_assert_cmpmem(table, 4, signature, 4);
    g_assert_cmphex(gpa - MAP_ACPI + le(table + 4, 4), <=, area->len);
    if (!g_str_equal(signature, "FACS"))
        g_assert_cmphex(sum(table, le(table + 4, 4)), ==, 0);
    return table;
}

static const uint8_t *
table_find(const GByteArray *area, const char *signature)
{
    const uint8_t *xsdt = table_at(area, le(area->data + 24, 8), "XSDT");

    for (uint64_t at = 36; at + 8 <= le(xsdt + 4, 4); at += 8) {
        uint64_t gpa = le(xsdt + at, 8);

        if (memcmp(area->data + (gpa - MAP_ACPI), signature, 4) == 0)
            return table_at(area, gpa, signature);
    }
    g_error("no table %s", signature);
}

static void
test_tables_hang_together(void)
{
    g_autoptr(GByteArray) area = acpi_tables_build(4);
    const uint8_t *fadt;

    g_assert_cmpmem(area->data, 8, "RSD PTR ", 8);
    g_assert_cmphex(sum(area->data, 20), ==, 0);
    g_assert_cmphex(sum(area->data, 36), ==, 0);
    fadt = table_find(area, "FACP");
    table_at(area, le(fadt + 140, 8), "DSDT");
    table_at(area, le(fadt + 132, 8), "FACS");
    g_assert_cmphex(le(fadt + 40, 4), ==, le(fadt + 140, 8));
    table_find(area, "MCFG");
}

static void
test_madt_has_all_cpus(void)
{
    g_autoptr(GByteArray) area = acpi_tables_build(MACHINE_VCPUS_MAX);
    const uint8_t *madt = table_find(area, "APIC");
    uint64_t len = le(madt + 4, 4);
    unsigned cpus = 0, ioapics = 0;

    for (uint64_t at = 44; at + 2 <= len; at += madt[at + 1]) {
        g_assert_cmpuint(madt[at + 1], >=, 2);
        if (madt[at] == 0) {
            g_assert_cmpuint(madt[at + 3], ==, cpus);
            cpus++;
        }
        ioapics += madt[at] == 1;
    }
    g_assert_cmpuint(cpus, ==, MACHINE_VCPUS_MAX);
    g_assert_cmpuint(ioapics, ==, 1);
    g_assert_cmpuint(area->len, <=, MAP_VMGENID - MAP_ACPI);
}

/* PkgLength at its steps: the length counts itself. */
static void
test_package_lengths(void)
{
    static const guint bodies[] = {1, 62, 63, 64, 4000, 4093, 4094, 4095, 70000, 2000000};

    for (size_t i = 0; i < G_N_ELEMENTS(bodies); i++) {
        g_autoptr(GByteArray) aml = g_byte_array_new();
        guint mark = aml_open_package(aml, 1), more, length;

        g_byte_array_set_size(aml, mark + bodies[i]);
        memset(aml->data + mark, 0, bodies[i]);
        aml_close(aml, mark);
        more = aml->data[mark] >> 6;
        length = more == 0 ? aml->data[mark] : aml->data[mark] & 0xF;
        for (guint j = 0; j < more; j++)
            length |= (guint)aml->data[mark + 1 + j] << (4 + 8 * j);
        g_assert_cmpuint(length, ==, aml->len - mark);
        g_assert_cmpuint(length, ==, bodies[i] + 1 + more);
    }
}

static char *
iasl_disassemble(const GByteArray *area)
{
    const uint8_t *fadt = table_find(area, "FACP");
    const uint8_t *dsdt = table_at(area, le(fadt + 140, 8), "DSDT");
    g_autofree char *directory = g_dir_make_tmp("test-acpi-XXXXXX", NULL);
    g_autofree char *aml = g_build_filename(directory, "dsdt.aml", NULL);
    g_autofree char *dsl = g_build_filename(directory, "dsdt.dsl", NULL);
    char *argv[] = {(char *)"iasl", (char *)"-d", aml, NULL};
    char *text = NULL;
    int status;

    g_assert_true(g_file_set_contents(aml, (const char *)dsdt, (gssize)le(dsdt + 4, 4), NULL));
    g_assert_true(
        g_spawn_sync(NULL, argv, NULL,
                     G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                     NULL, NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    g_assert_true(g_file_get_contents(dsl, &text, NULL, NULL));
    unlink(aml);
    unlink(dsl);
    rmdir(directory);
    return text;
}

static void
test_iasl_reads_dsdt(void)
{
    g_autoptr(GByteArray) area = acpi_tables_build(2);
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *text = NULL;
    static const char *const parts[] = {
        "EisaId (\"PNP0A08\")", "WordBusNumber",        "DWordMemory",
        "0xC0000000",           "0xDFFFFFFF",           "_PRT",
        "EisaId (\"PNP0501\")", "EisaId (\"PNP0B00\")", "VM_Gen_Counter",
        "0x000F0000",           "Method (_E05",         "Notify (\\_SB.VGEN, 0x80)",
        "Name (\\_S5, Package",
    };

    if (iasl == NULL) {
        g_test_skip("iasl is not installed (acpica-tools)");
        return;
    }
    text = iasl_disassemble(area);
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (strstr(text, parts[i]) == NULL)
            g_error("the disassembly lacks %s:\n%s", parts[i], text);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/acpi/tables hang together and their checksums are right",
                    test_tables_hang_together);
    g_test_add_func("/acpi/the MADT has all vCPUs", test_madt_has_all_cpus);
    g_test_add_func("/acpi/AML lengths count themselves", test_package_lengths);
    g_test_add_func("/acpi/iasl reads the DSDT", test_iasl_reads_dsdt);
    return g_test_run();
}
