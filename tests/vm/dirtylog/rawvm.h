/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM on the bare KVM API, just large enough to run the tiny guest while a test harvests its dirty
 * log: RAM in two memslots whose border is not on a 64-page multiple, in-kernel interrupt
 * controllers, PVH boot, debug console. No code shared with district-vmm.
 */
#ifndef DISTRICT_TESTS_VM_RAWVM_H
#define DISTRICT_TESTS_VM_RAWVM_H

#include "dirtylog/dirtylog.h"

#define RAWVM_RAM_BYTES (96ULL << 20)
#define RAWVM_RAM_PAGES (RAWVM_RAM_BYTES / 4096)
/* The first memslot's pages: the tiny guest's default working set begins in it, at page 4096. */
#define RAWVM_SLOT0_PAGES 5001ULL
#define RAWVM_SLOT0 0
#define RAWVM_SLOT1 5

typedef struct RawVm RawVm;

typedef struct RawVmConfig {
    unsigned n_vcpus;
    DirtyLogSource source;
    uint32_t ring_entries;
    const char *elf;          /* path of the tiny guest */
    const char *command_line; /* its options */
    /* Announce this many pages of the second memslot less than it has, to provoke odd entries. */
    uint64_t hide_pages;
    uint64_t ram_pages; /* 0: RAWVM_RAM_PAGES */
} RawVmConfig;

/* NULL with error set. The vCPUs are not running yet. */
RawVm *rawvm_new(const RawVmConfig *config, GError **error);
void rawvm_free(RawVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RawVm, rawvm_free)

void rawvm_resume(RawVm *vm);
/* Get all vCPUs out of KVM_RUN. */
void rawvm_pause(RawVm *vm);

uint8_t *rawvm_ram(RawVm *vm);
DirtyLog *rawvm_log(RawVm *vm);
int rawvm_fd(RawVm *vm);
/* Set one of the two memslots again, or with pages 0 delete it. 0 or -1 with errno. */
int rawvm_set_slot(RawVm *vm, uint32_t slot, uint64_t pages);
/* All that the guest printed so far, and an error line for a vCPU that had to stop; g_free. */
char *rawvm_output(RawVm *vm);
/* How often a vCPU left the guest because its ring was full. */
unsigned rawvm_ring_fulls(RawVm *vm);
/* Send all vCPU threads a signal, as a VMM that kicks them would. */
void rawvm_kick(RawVm *vm);

#endif
