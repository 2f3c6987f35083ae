/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What both boot protocols need: files, the memory map, initrd and command line. */
#include "vmm/boot.h"

#include "common/page.h"
#include "vmm/acpi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

gboolean
boot_refuse(GError **error, const BootFile *file, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "%s: %s", file->path, what);
    return FALSE;
}

unsigned
boot_memory_map(uint64_t ram_size, BootMem map[BOOT_MEM_MAX])
{
    RamSlot slots[MACHINE_RAM_SLOTS];
    unsigned n_slots = machine_ram_layout(ram_size, slots);
    unsigned n = 0;

    map[n++] = (BootMem){0, MAP_BOOT_RAM_END, BOOT_MEM_RAM};
    /* ACPI tables and VM generation id. */
    map[n++] = (BootMem){MAP_BOOT_RAM_END, MAP_BOOT_HIGH - MAP_BOOT_RAM_END, BOOT_MEM_RESERVED};
    map[n++] = (BootMem){MAP_BOOT_HIGH, slots[0].size - MAP_BOOT_HIGH, BOOT_MEM_RAM};
    map[n++] = (BootMem){MAP_ECAM_BASE, MAP_ECAM_SIZE, BOOT_MEM_RESERVED};
    if (n_slots > 1)
        map[n++] = (BootMem){slots[1].gpa, slots[1].size, BOOT_MEM_RAM};
    return n;
}

uint64_t
boot_low_ram_end(const Machine *m)
{
    return m->slots[0].size;
}

gboolean
boot_initrd_place(Machine *m, const BootFile *initrd, uint64_t floor, uint64_t limit, uint64_t *gpa,
                  GError **error)
{
    *gpa = 0;
    if (initrd->len == 0)
        return TRUE;
    limit = MIN(limit, boot_low_ram_end(m)) & ~(uint64_t)(PAGE_BYTES - 1);
    floor = (floor + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (initrd->len <= limit)
        *gpa = (limit - initrd->len) & ~(uint64_t)(PAGE_BYTES - 1);
    if (*gpa < floor || floor > limit)
        return boot_refuse(
            error, initrd,
            "an initrd of %zu MiB does not fit beside the kernel into %" G_GUINT64_FORMAT
            " MiB of memory; give the member more memory",
            (initrd->len >> 20) + 1, (guint64)(m->ram_size >> 20));
    if (machine_ram_write(m, *gpa, initrd->data, initrd->len))
        return TRUE;
    return boot_refuse(error, initrd, "initrd is outside of memory");
}

gboolean
boot_cmdline_place(Machine *m, const char *cmdline, size_t max, GError **error)
{
    size_t bytes = strlen(cmdline) + 1;

    if (bytes <= MIN(max, BOOT_CMDLINE_MAX) &&
        machine_ram_write(m, MAP_BOOT_CMDLINE, cmdline, bytes))
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                "%s: the kernel command line has %zu bytes, this kernel takes at most %zu", m->name,
                bytes - 1, MIN(max, BOOT_CMDLINE_MAX) - 1);
    return FALSE;
}

static GMappedFile *
boot_file_open(const char *path, const char *what, BootFile *file, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    GMappedFile *mapped = NULL;

    file->path = path;
    if (fd >= 0) {
        mapped = g_mapped_file_new_from_fd(fd, FALSE, NULL);
        close(fd);
    }
    if (mapped == NULL) {
        boot_refuse(error, file, "cannot open the %s: %s", what,
                    fd < 0 ? g_strerror(errno) : "not a file that can be mapped");
        return NULL;
    }
    file->data = (const uint8_t *)g_mapped_file_get_contents(mapped);
    file->len = g_mapped_file_get_length(mapped);
    return mapped;
}

static gboolean
boot_kernel_load(Machine *m, const BootConfig *config, const BootFile *kernel,
                 const BootFile *initrd, BootEntry *entry, GError **error)
{
    if (boot_linux_probe(kernel))
        return boot_linux_load(m, config, kernel, initrd, entry, error);
    if (boot_pvh_probe(kernel))
        return boot_pvh_load(m, config, kernel, initrd, entry, error);
    return boot_refuse(error, kernel, "not a kernel: neither a Linux bzImage nor an ELF file");
}

gboolean
boot_load(Machine *m, const BootConfig *config, GError **error)
{
    g_autoptr(GMappedFile) kernel_map = NULL;
    g_autoptr(GMappedFile) initrd_map = NULL;
    BootFile kernel = {0}, initrd = {0};
    BootEntry entry;

    kernel_map = boot_file_open(config->kernel, "kernel", &kernel, error);
    if (kernel_map == NULL)
        return FALSE;
    if (config->initrd != NULL) {
        initrd_map = boot_file_open(config->initrd, "initrd", &initrd, error);
        if (initrd_map == NULL)
            return FALSE;
        if (initrd.len == 0)
            return boot_refuse(error, &initrd, "the initrd is empty");
    }
    return boot_kernel_load(m, config, &kernel, &initrd, &entry, error) &&
           acpi_tables_place(m, config->n_vcpus, error) && boot_cpu_set(m, &entry, error);
}
