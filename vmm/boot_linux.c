/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT
 * PROTOCOL", protocol 2.12 and later: Linux 3.8). The file is setup sectors, which we only take the
 * header from, and the kernel proper, whose 64-bit entry is 0x200 after its load address.
 */
#include "vmm/boot.h"

#include "vmm/acpi.h"

#include <asm/bootparam.h>
#include <stddef.h>
#include <string.h>

#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define PROTOCOL_MIN 0x020C
#define SECTOR_BYTES 512u
#define ENTRY_64 0x200u
#define LOADER_UNDEFINED 0xFF

/* Header as in the file; false if the file has none. */
static bool
linux_header_read(const BootFile *kernel, struct setup_header *header)
{
    const size_t at = offsetof(struct boot_params, hdr);
    const size_t magic_end = offsetof(struct setup_header, header) + 4;
    size_t declared;

    memset(header, 0, sizeof(*header));
    if (kernel->len < at + magic_end)
        return false;
    /* The byte after the jump says where the header ends, counted from 0x202. */
    declared = 0x202u + kernel->data[0x201] - at;
    memcpy(header, kernel->data + at, MIN(MIN(declared, sizeof(*header)), kernel->len - at));
    return header->header == HEADER_MAGIC;
}

bool
boot_linux_probe(const BootFile *kernel)
{
    struct setup_header header;

    return linux_header_read(kernel, &header);
}

static gboolean
linux_header_check(const BootFile *kernel, const struct setup_header *header, GError **error)
{
    if (header->version < PROTOCOL_MIN)
        return boot_refuse(error, kernel, "boot protocol %u.%02u is too old (Linux before 3.8)",
                           header->version >> 8, header->version & 0xFF);
    if ((header->xloadflags & XLF_KERNEL_64) == 0)
        return boot_refuse(error, kernel, "not a 64-bit kernel");
    return TRUE;
}

/* The kernel proper within the file. */
static gboolean
linux_payload(const BootFile *kernel, const struct setup_header *header, BootFile *payload,
              GError **error)
{
    size_t sectors = header->setup_sects == 0 ? 4 : header->setup_sects;
    size_t offset = (sectors + 1) * SECTOR_BYTES;

    if (kernel->len <= offset + ENTRY_64)
        return boot_refuse(error, kernel, "the kernel is cut short");
    *payload = (BootFile){kernel->path, kernel->data + offset, kernel->len - offset};
    return TRUE;
}

/* Where it wants to be; it needs init_size bytes from there while it unpacks itself. */
static gboolean
linux_load_address(const Machine *m, const BootFile *payload, const struct setup_header *header,
                   uint64_t *gpa, uint64_t *end, GError **error)
{
    uint64_t need = MAX(header->init_size, (uint64_t)payload->len);
    uint64_t align = MAX(header->kernel_alignment, 1u);
    uint64_t candidates[] = {header->pref_address, (MAP_BOOT_HIGH + align - 1) / align * align};

    for (size_t i = 0; i < G_N_ELEMENTS(candidates); i++) {
        if (i > 0 && !header->relocatable_kernel)
            break;
        if (candidates[i] < MAP_BOOT_HIGH || candidates[i] >= boot_low_ram_end(m) ||
            need > boot_low_ram_end(m) - candidates[i])
            continue;
        *gpa = candidates[i];
        *end = candidates[i] + need;
        return TRUE;
    }
    return boot_refuse(error, payload,
                       "the kernel needs %" G_GUINT64_FORMAT " MiB at %" G_GUINT64_FORMAT
                       " MiB; give the member more memory",
                       (guint64)(need >> 20) + 1, (guint64)(header->pref_address >> 20));
}

static void
linux_e820_fill(const Machine *m, struct boot_params *params)
{
    BootMem map[BOOT_MEM_MAX];
    unsigned n = boot_memory_map(m->ram_size, map);

    for (unsigned i = 0; i < n; i++)
        params->e820_table[i] = (struct boot_e820_entry){
            .addr = map[i].gpa, .size = map[i].size, .type = (uint32_t)map[i].type};
    params->e820_entries = (uint8_t)n;
}

static void
linux_params_fill(const Machine *m, const struct setup_header *header, uint64_t initrd_gpa,
                  size_t initrd_len, struct boot_params *params)
{
    params->hdr = *header;
    params->hdr.type_of_loader = LOADER_UNDEFINED;
    params->hdr.loadflags |= LOADED_HIGH;
    params->hdr.cmd_line_ptr = (uint32_t)MAP_BOOT_CMDLINE;
    params->hdr.ramdisk_image = (uint32_t)initrd_gpa;
    params->hdr.ramdisk_size = (uint32_t)initrd_len;
    params->acpi_rsdp_addr = MAP_ACPI;
    linux_e820_fill(m, params);
}

gboolean
boot_linux_load(Machine *m, const BootConfig *config, const BootFile *kernel,
                const BootFile *initrd, BootEntry *entry, GError **error)
{
    g_autofree struct boot_params *params = g_new0(struct boot_params, 1);
    struct setup_header header;
    BootFile payload = {0};
    uint64_t gpa = 0, end = 0, initrd_gpa = 0;

    linux_header_read(kernel, &header);
    if (!linux_header_check(kernel, &header, error) ||
        !linux_payload(kernel, &header, &payload, error) ||
        !linux_load_address(m, &payload, &header, &gpa, &end, error))
        return FALSE;
    if (!machine_ram_write(m, gpa, payload.data, payload.len))
        return boot_refuse(error, kernel, "the kernel does not fit into memory");
    if (!boot_initrd_place(m, initrd, end, (uint64_t)header.initrd_addr_max + 1, &initrd_gpa,
                           error) ||
        !boot_cmdline_place(m, config->cmdline == NULL ? "" : config->cmdline,
                            (size_t)header.cmdline_size + 1, error))
        return FALSE;
    linux_params_fill(m, &header, initrd_gpa, initrd->len, params);
    machine_ram_write(m, MAP_BOOT_ZERO_PAGE, params, sizeof(*params));
    *entry = (BootEntry){.mode = BOOT_LONG_MODE, .rip = gpa + ENTRY_64, .info = MAP_BOOT_ZERO_PAGE};
    return TRUE;
}
