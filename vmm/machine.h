/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine: one VM on the KVM API, as its devices see it. Everything here is for one process
 * with one VM; Machine owns the KVM fds, guest RAM, buses and devices, and frees nothing before
 * exit.
 */
#ifndef DISTRICT_VMM_MACHINE_H
#define DISTRICT_VMM_MACHINE_H

#include "vmm/device.h"

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Machine Machine;

/* ---- Guest-physical memory map (fixed) ---- */
#define MAP_RAM_LOW_MAX 0xC0000000ULL /* RAM below 4 GiB ends here at the latest */
#define MAP_ECAM_BASE 0xE0000000ULL   /* 256 MiB, buses 0-255 (MCFG) */
#define MAP_ECAM_SIZE 0x10000000ULL
#define MAP_PCI_MMIO32_BASE 0xC0000000ULL /* window for 32-bit BARs, announced in _CRS */
#define MAP_PCI_MMIO32_SIZE 0x20000000ULL
#define MAP_IOAPIC_BASE 0xFEC00000ULL
#define MAP_LAPIC_BASE 0xFEE00000ULL
#define MAP_RAM_HIGH 0x100000000ULL /* the rest of RAM starts here */

/* ---- GSIs (ISA numbering on PIC and IOAPIC) ---- */
#define GSI_SERIAL 4
#define GSI_RTC 8
#define GSI_SCI 9
#define GSI_PCI_BASE 16 /* INTA#-INTD# of the root bus: 16-19, IOAPIC only */

/* ---- Locking: see device.h ---- */
void machine_lock(Machine *m);
void machine_unlock(Machine *m);

/* ---- Devices ---- */
/* Register; the Device stays the caller's and must live as long as the process. */
void machine_add_device(Machine *m, Device *device);

/* ---- Guest memory. Every address and length from the guest goes through these. ---- */
/*
 * Pointer to [gpa, gpa + len) if that is entirely RAM and contiguous in this process, else NULL.
 * len 0 gives NULL. Writers must call machine_mark_dirty for what they wrote: KVM does not see it.
 */
void *machine_ram(Machine *m, uint64_t gpa, uint64_t len);
void machine_mark_dirty(Machine *m, uint64_t gpa, uint64_t len);
/* Copy from or to guest RAM; false if the range is not all RAM. write marks dirty. */
bool machine_ram_read(Machine *m, uint64_t gpa, void *buf, size_t len);
bool machine_ram_write(Machine *m, uint64_t gpa, const void *buf, size_t len);

/* ---- Buses ---- */
/*
 * Handle an access of len (1, 2, 4, 8) bytes at offset from the region's base. Reads fill data
 * (pre-set to all ones), writes find the value there, little-endian.
 */
typedef void (*IoHandler)(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write);

typedef enum { IO_PORT, IO_MMIO } IoSpace;

/*
 * Add or remove a region; accesses that fit in no region read all ones and ignore writes. An
 * overlap with an existing region is refused (false): PCI BARs may be moved anywhere by a hostile
 * guest.
 */
bool machine_io_add(Machine *m, IoSpace space, uint64_t base, uint64_t size, IoHandler handler,
                    void *opaque);
void machine_io_remove(Machine *m, IoSpace space, uint64_t base);

/* ---- Interrupts (KVM API §4.25, §4.52, §4.75) ---- */
void machine_irq_level(Machine *m, uint32_t gsi, bool level);
/* Send an MSI: done when it returns, so nothing is under way at a cut (devices/msix.h). */
void machine_msi_send(Machine *m, uint64_t address, uint32_t data);
/* Signal eventfd on a guest write of any value of size len (0: any length) at address. */
bool machine_ioeventfd(Machine *m, IoSpace space, uint64_t address, unsigned len, int eventfd,
                       bool assign);

/* ---- Life ---- */
/* The guest has given a device something to do; from any thread. */
void machine_stirs(Machine *m);
typedef enum { MACHINE_EXIT_SHUTDOWN, MACHINE_EXIT_RESET } MachineExit;
/*
 * The guest asked for power-off or reset; may be called from any thread with the lock held. Power
 * off ends the process with status 0 after devices have flushed; reset boots the guest anew from
 * its kernel in the same process or, if that is impossible (restored guest), ends with status 3.
 */
void machine_request_exit(Machine *m, MachineExit what);

/* While devices are restored: nanoseconds of real time since the state was saved. */
uint64_t machine_restore_elapsed_ns(Machine *m);
/* While devices are restored: a guest may have gone on from this state before, and have left what
 * this one does not know of where it is not undone. */
bool machine_restore_goes_back(Machine *m);

/* True while vCPUs may run (between start and stop). */
bool machine_running(Machine *m);

#endif
