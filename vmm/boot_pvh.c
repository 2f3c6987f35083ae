/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ELF kernels with a PVH entry: a note of name "Xen" and type XEN_ELFNOTE_PHYS32_ENTRY holds the
 * physical address of a 32-bit entry, called with EBX pointing at hvm_start_info (Xen,
 * public/arch-x86/hvm/start_info.h). 32-bit and 64-bit ELF files are both taken.
 */
#include "vmm/boot.h"

#include "vmm/acpi.h"

#include <elf.h>
#include <string.h>

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_MAGIC 0x336EC578u
#define SEGMENTS_MAX 64

/* hvm_start_info version 1, its module list and its memory map, in one piece of guest memory. */
typedef struct StartInfo {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modlist_paddr;
    uint64_t cmdline_paddr;
    uint64_t rsdp_paddr;
    uint64_t memmap_paddr;
    uint32_t memmap_entries;
    uint32_t reserved;
    struct {
        uint64_t paddr;
        uint64_t size;
        uint64_t cmdline_paddr;
        uint64_t reserved;
    } module;
    struct {
        uint64_t addr;
        uint64_t size;
        uint32_t type;
        uint32_t reserved;
    } memmap[BOOT_MEM_MAX];
} StartInfo;

/* A program header of either ELF class. */
typedef struct Segment {
    uint32_t type;
    uint64_t offset;
    uint64_t paddr;
    uint64_t filesz;
    uint64_t memsz;
    uint64_t align;
} Segment;

bool
boot_pvh_probe(const BootFile *kernel)
{
    return kernel->len >= EI_NIDENT && memcmp(kernel->data, ELFMAG, SELFMAG) == 0;
}

/* The part [offset, offset + len) of the file, or NULL if it is not all there. */
static const uint8_t *
elf_at(const BootFile *file, uint64_t offset, uint64_t len)
{
    if (offset > file->len || len > file->len - offset)
        return NULL;
    return file->data + offset;
}

static bool
elf_segment_read(const BootFile *file, bool is64, uint64_t offset, Segment *segment)
{
    const uint8_t *at = elf_at(file, offset, is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr));
    Elf64_Phdr p64;
    Elf32_Phdr p32;

    if (at == NULL)
        return false;
    if (is64) {
        memcpy(&p64, at, sizeof(p64));
        *segment = (Segment){p64.p_type,   p64.p_offset, p64.p_paddr,
                             p64.p_filesz, p64.p_memsz,  p64.p_align};
    } else {
        memcpy(&p32, at, sizeof(p32));
        *segment = (Segment){p32.p_type,   p32.p_offset, p32.p_paddr,
                             p32.p_filesz, p32.p_memsz,  p32.p_align};
    }
    return true;
}

/* All program headers; returns how many, 0 with error set if the file is not usable. */
static unsigned
elf_segments_read(const BootFile *file, Segment segments[SEGMENTS_MAX], GError **error)
{
    bool is64 = file->data[EI_CLASS] == ELFCLASS64;
    Elf64_Ehdr e64;
    Elf32_Ehdr e32;
    uint64_t offset;
    unsigned n, machine;

    if (file->len < sizeof(Elf64_Ehdr))
        return (unsigned)boot_refuse(error, file, "the ELF file is cut short");
    memcpy(&e64, file->data, sizeof(e64));
    memcpy(&e32, file->data, sizeof(e32));
    offset = is64 ? e64.e_phoff : e32.e_phoff;
    n = is64 ? e64.e_phnum : e32.e_phnum;
    machine = is64 ? e64.e_machine : e32.e_machine;
    if (machine != EM_X86_64 && machine != EM_386)
        return (unsigned)boot_refuse(error, file, "an ELF file, but not for x86");
    if (n == 0 || n > SEGMENTS_MAX)
        return (unsigned)boot_refuse(error, file, "an ELF file with %u program headers", n);
    for (unsigned i = 0; i < n; i++) {
        uint64_t step = is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

        if (offset > file->len || !elf_segment_read(file, is64, offset + i * step, &segments[i]))
            return (unsigned)boot_refuse(error, file, "the ELF file is cut short");
    }
    return n;
}

static bool
pvh_note_find(const BootFile *file, const Segment *notes, uint64_t *entry)
{
    const uint8_t *at = elf_at(file, notes->offset, notes->filesz);
    uint64_t left = notes->filesz, align = notes->align == 8 ? 8 : 4;
    Elf64_Nhdr note;

    if (at == NULL)
        return false;
    while (left >= sizeof(note)) {
        uint64_t name, desc;

        memcpy(&note, at, sizeof(note));
        name = ((uint64_t)note.n_namesz + align - 1) & ~(align - 1);
        desc = ((uint64_t)note.n_descsz + align - 1) & ~(align - 1);
        if (sizeof(note) + name + note.n_descsz > left)
            return false;
        if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
            memcmp(at + sizeof(note), "Xen", 4) == 0 && note.n_descsz >= 4) {
            *entry = 0;
            memcpy(entry, at + sizeof(note) + name, MIN(note.n_descsz, 8u));
            return true;
        }
        if (sizeof(note) + name + desc > left)
            return false;
        at += sizeof(note) + name + desc;
        left -= sizeof(note) + name + desc;
    }
    return false;
}

/* Load one segment; *end rises to the end of what is loaded. */
static gboolean
pvh_segment_load(Machine *m, const BootFile *file, const Segment *segment, uint64_t *end,
                 GError **error)
{
    const uint8_t *from = elf_at(file, segment->offset, segment->filesz);
    uint8_t *to;

    if (segment->memsz == 0)
        return TRUE;
    if (from == NULL || segment->filesz > segment->memsz)
        return boot_refuse(error, file, "the ELF file is cut short or damaged");
    to = machine_ram(m, segment->paddr, segment->memsz);
    if (to == NULL || segment->paddr < MAP_BOOT_HIGH)
        return boot_refuse(error, file,
                           "a segment goes to 0x%" G_GINT64_MODIFIER "x-0x%" G_GINT64_MODIFIER
                           "x: it must lie between 1 MiB and the end of memory",
                           (guint64)segment->paddr, (guint64)(segment->paddr + segment->memsz));
    memcpy(to, from, segment->filesz);
    memset(to + segment->filesz, 0, segment->memsz - segment->filesz);
    machine_mark_dirty(m, segment->paddr, segment->memsz);
    *end = MAX(*end, segment->paddr + segment->memsz);
    return TRUE;
}

static gboolean
pvh_segments_load(Machine *m, const BootFile *kernel, uint64_t *entry, uint64_t *end,
                  GError **error)
{
    Segment segments[SEGMENTS_MAX] = {0};
    unsigned n = elf_segments_read(kernel, segments, error);
    bool found = false;

    if (n == 0)
        return FALSE;
    *end = MAP_BOOT_HIGH;
    for (unsigned i = 0; i < n; i++) {
        if (segments[i].type == PT_NOTE)
            found = found || pvh_note_find(kernel, &segments[i], entry);
        else if (segments[i].type == PT_LOAD &&
                 !pvh_segment_load(m, kernel, &segments[i], end, error))
            return FALSE;
    }
    if (!found)
        return boot_refuse(error, kernel,
                           "an ELF file without a PVH entry note; Linux has one if "
                           "built with CONFIG_PVH, or use its bzImage");
    if (*entry > UINT32_MAX || machine_ram(m, *entry, 1) == NULL)
        return boot_refuse(error, kernel, "its PVH entry is outside of memory");
    return TRUE;
}

static void
pvh_start_info_place(Machine *m, uint64_t initrd_gpa, size_t initrd_len)
{
    BootMem map[BOOT_MEM_MAX];
    unsigned n = boot_memory_map(m->ram_size, map);
    StartInfo info = {
        .magic = START_MAGIC,
        .version = 1,
        .cmdline_paddr = MAP_BOOT_CMDLINE,
        .rsdp_paddr = MAP_ACPI,
        .memmap_paddr = MAP_BOOT_START_INFO + G_STRUCT_OFFSET(StartInfo, memmap),
        .memmap_entries = n,
    };

    if (initrd_len > 0) {
        info.nr_modules = 1;
        info.modlist_paddr = MAP_BOOT_START_INFO + G_STRUCT_OFFSET(StartInfo, module);
        info.module.paddr = initrd_gpa;
        info.module.size = initrd_len;
    }
    for (unsigned i = 0; i < n; i++) {
        info.memmap[i].addr = map[i].gpa;
        info.memmap[i].size = map[i].size;
        info.memmap[i].type = (uint32_t)map[i].type;
    }
    machine_ram_write(m, MAP_BOOT_START_INFO, &info, sizeof(info));
}

gboolean
boot_pvh_load(Machine *m, const BootConfig *config, const BootFile *kernel, const BootFile *initrd,
              BootEntry *entry, GError **error)
{
    uint64_t rip = 0, end = 0, initrd_gpa = 0;

    if (!pvh_segments_load(m, kernel, &rip, &end, error) ||
        !boot_initrd_place(m, initrd, end, UINT32_MAX, &initrd_gpa, error) ||
        !boot_cmdline_place(m, config->cmdline == NULL ? "" : config->cmdline, BOOT_CMDLINE_MAX,
                            error))
        return FALSE;
    pvh_start_info_place(m, initrd_gpa, initrd->len);
    *entry = (BootEntry){.mode = BOOT_PROTECTED_MODE, .rip = rip, .info = MAP_BOOT_START_INFO};
    return TRUE;
}
