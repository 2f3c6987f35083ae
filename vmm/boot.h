/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting a kernel into guest RAM and the first vCPU at its entry. Two kinds of kernel: bzImage by
 * the 64-bit boot protocol (Documentation/arch/x86/boot.rst) and ELF with a PVH entry
 * (xen/include/public/arch-x86/hvm/start_info.h).
 *
 * Memory below 1 MiB while booting:
 *     0x500    GDT              0x7000   zero page (Linux)
 *     0x6000   start_info (PVH) 0x9000   page tables: identity map of 4 GiB
 *     0x20000  command line     0xE0000  ACPI tables       0xF0000  VM generation id
 */
#ifndef DISTRICT_VMM_BOOT_H
#define DISTRICT_VMM_BOOT_H

#include "vmm/machine_priv.h"

#define MAP_BOOT_GDT 0x500ULL
#define MAP_BOOT_START_INFO 0x6000ULL
#define MAP_BOOT_ZERO_PAGE 0x7000ULL
#define MAP_BOOT_PAGE_TABLES 0x9000ULL
#define MAP_BOOT_CMDLINE 0x20000ULL
#define BOOT_CMDLINE_MAX 0x10000u   /* bytes with the final NUL */
#define MAP_BOOT_RAM_END 0x9FC00ULL /* end of RAM below the reserved area that ends at 1 MiB */
#define MAP_BOOT_HIGH 0x100000ULL

typedef struct BootConfig {
    const char *kernel;  /* path */
    const char *initrd;  /* path or NULL */
    const char *cmdline; /* or NULL */
    unsigned n_vcpus;
} BootConfig;

typedef enum { BOOT_LONG_MODE, BOOT_PROTECTED_MODE } BootMode;

/* Where and how the first vCPU starts. */
typedef struct BootEntry {
    BootMode mode;
    uint64_t rip;
    uint64_t info; /* guest-physical; RSI in long mode, EBX in protected mode */
} BootEntry;

/* Types of memory: e820 and PVH memory map use the same numbers. */
typedef enum { BOOT_MEM_RAM = 1, BOOT_MEM_RESERVED = 2 } BootMemType;
typedef struct BootMem {
    uint64_t gpa;
    uint64_t size;
    BootMemType type;
} BootMem;
#define BOOT_MEM_MAX 8

/* Load everything; guest RAM must be zero. The error names the file and what is wrong with it. */
gboolean boot_load(Machine *m, const BootConfig *config, GError **error);

/* ---- Inside boot*.c ---- */

/* A file to load. */
typedef struct BootFile {
    const char *path;
    const uint8_t *data;
    size_t len;
} BootFile;

unsigned boot_memory_map(uint64_t ram_size, BootMem map[BOOT_MEM_MAX]);
/* End of the RAM that starts at 1 MiB and lies below 4 GiB. */
uint64_t boot_low_ram_end(const Machine *m);
/*
 * Place the initrd at the highest page-aligned address with its end not above limit, and its start
 * not below floor (the end of the kernel). No initrd: *gpa 0.
 */
gboolean boot_initrd_place(Machine *m, const BootFile *initrd, uint64_t floor, uint64_t limit,
                           uint64_t *gpa, GError **error);
gboolean boot_cmdline_place(Machine *m, const char *cmdline, size_t max, GError **error);
gboolean boot_refuse(GError **error, const BootFile *file, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

bool boot_linux_probe(const BootFile *kernel);
gboolean boot_linux_load(Machine *m, const BootConfig *config, const BootFile *kernel,
                         const BootFile *initrd, BootEntry *entry, GError **error);
bool boot_pvh_probe(const BootFile *kernel);
gboolean boot_pvh_load(Machine *m, const BootConfig *config, const BootFile *kernel,
                       const BootFile *initrd, BootEntry *entry, GError **error);

/* boot_cpu.c: put vCPU 0 at the entry. */
gboolean boot_cpu_set(Machine *m, const BootEntry *entry, GError **error);

#endif
