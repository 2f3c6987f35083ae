/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first vCPU's registers at the kernel's entry. The others wait for INIT and SIPI, as KVM makes
 * them.
 */
#include "vmm/boot.h"

#include "common/page.h"
#include "vmm/vcpu.h"

/* Bits of Intel SDM vol. 3 §2.5, §2.2.1, §4.5. */
#define CR0_PE (1ULL << 0)
#define CR0_ET (1ULL << 4)
#define CR0_PG (1ULL << 31)
#define CR4_PAE (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)
#define MSR_MTRR_DEF_TYPE 0x2FF
#define MTRR_ENABLE (1ULL << 11)
#define MTRR_WRITE_BACK 6ULL
#define RFLAGS_RESERVED 0x2ULL
#define PAGE_PRESENT_WRITE 0x3ULL
#define PAGE_LARGE (1ULL << 7)

#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18
#define SELECTOR_TASK 0x20

/* Flat descriptors: null, unused, code, data, task. The boot protocol fixes the first two
 * selectors. */
static void
boot_gdt_place(Machine *m, BootMode mode)
{
    const uint64_t gdt[] = {
        0,
        0,
        mode == BOOT_LONG_MODE ? 0x00AF9B000000FFFFULL : 0x00CF9B000000FFFFULL,
        0x00CF93000000FFFFULL,
        0x00008B0000000067ULL,
    };

    machine_ram_write(m, MAP_BOOT_GDT, gdt, sizeof(gdt));
}

/* PML4, PDPT and four page directories of 2 MiB pages: 4 GiB mapped one to one. */
static void
boot_page_tables_place(Machine *m)
{
    const uint64_t pdpt = MAP_BOOT_PAGE_TABLES + PAGE_BYTES;
    uint64_t entry = pdpt | PAGE_PRESENT_WRITE;

    machine_ram_write(m, MAP_BOOT_PAGE_TABLES, &entry, sizeof(entry));
    for (uint64_t gib = 0; gib < 4; gib++) {
        uint64_t directory = pdpt + (gib + 1) * PAGE_BYTES;

        entry = directory | PAGE_PRESENT_WRITE;
        machine_ram_write(m, pdpt + gib * sizeof(entry), &entry, sizeof(entry));
        for (uint64_t i = 0; i < 512; i++) {
            entry = (gib << 30) | (i << 21) | PAGE_PRESENT_WRITE | PAGE_LARGE;
            machine_ram_write(m, directory + i * sizeof(entry), &entry, sizeof(entry));
        }
    }
}

static void
boot_segments_set(struct kvm_sregs *sregs, BootMode mode)
{
    struct kvm_segment code = {.limit = UINT32_MAX,
                               .selector = SELECTOR_CODE,
                               .type = 11,
                               .present = 1,
                               .s = 1,
                               .g = 1,
                               .l = mode == BOOT_LONG_MODE,
                               .db = mode != BOOT_LONG_MODE};
    struct kvm_segment data = {.limit = UINT32_MAX,
                               .selector = SELECTOR_DATA,
                               .type = 3,
                               .present = 1,
                               .s = 1,
                               .g = 1,
                               .db = 1};
    struct kvm_segment task = {.limit = 0x67, .selector = SELECTOR_TASK, .type = 11, .present = 1};

    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = task;
    sregs->gdt = (struct kvm_dtable){.base = MAP_BOOT_GDT, .limit = 5 * 8 - 1};
    sregs->idt = (struct kvm_dtable){0};
}

/* What firmware does on every processor: memory is write-back (SDM vol. 3 §12.11.2.1). */
static gboolean
boot_memory_types_set(Vcpu *vcpu, GError **error)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one = {
        .head.nmsrs = 1,
        .entry = {.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK},
    };

    return vcpu_ioctl(vcpu, KVM_SET_MSRS, &one, "set its memory types", error);
}

gboolean
boot_cpu_set(Machine *m, const BootEntry *entry, GError **error)
{
    Vcpu *vcpu = &m->vcpus->vcpu[0];
    struct kvm_regs regs = {.rip = entry->rip, .rflags = RFLAGS_RESERVED};
    struct kvm_sregs sregs = {0};

    if (!vcpu_ioctl(vcpu, KVM_GET_SREGS, &sregs, "read its system registers", error))
        return FALSE;
    for (unsigned i = 0; i < m->vcpus->n; i++) {
        if (!boot_memory_types_set(&m->vcpus->vcpu[i], error))
            return FALSE;
    }
    boot_gdt_place(m, entry->mode);
    boot_segments_set(&sregs, entry->mode);
    if (entry->mode == BOOT_LONG_MODE) {
        boot_page_tables_place(m);
        sregs.cr3 = MAP_BOOT_PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
        sregs.efer = EFER_LME | EFER_LMA;
        regs.rsi = entry->info;
    } else {
        sregs.cr0 = CR0_PE | CR0_ET;
        sregs.cr3 = sregs.cr4 = sregs.efer = 0;
        regs.rbx = entry->info;
    }
    return vcpu_ioctl(vcpu, KVM_SET_SREGS, &sregs, "set its system registers", error) &&
           vcpu_ioctl(vcpu, KVM_SET_REGS, &regs, "set its registers", error);
}
