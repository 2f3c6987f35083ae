/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A machine without a VM, for testing devices: vmm/machine.h on a plain buffer of RAM from address
 * 0, with a record of what devices did. Machines and their devices live until the test process
 * ends.
 */
#ifndef DISTRICT_TESTS_FAKE_MACHINE_H
#define DISTRICT_TESTS_FAKE_MACHINE_H

#include "vmm/machine.h"

Machine *fake_machine_new(size_t ram_size);

/* The guest's side. Reads of nothing give all ones. */
uint32_t fake_in(Machine *m, uint16_t port, unsigned len);
void fake_out(Machine *m, uint16_t port, uint32_t value, unsigned len);
uint64_t fake_mmio_read(Machine *m, uint64_t address, unsigned len);
void fake_mmio_write(Machine *m, uint64_t address, uint64_t value, unsigned len);
bool fake_mmio_mapped(Machine *m, uint64_t address);
/* Guest writes to RAM; these need not be marked dirty. */
void fake_poke(Machine *m, uint64_t gpa, const void *data, size_t len);
void fake_poke16(Machine *m, uint64_t gpa, uint16_t value);
void fake_poke64(Machine *m, uint64_t gpa, uint64_t value);
uint16_t fake_peek16(Machine *m, uint64_t gpa);
uint32_t fake_peek32(Machine *m, uint64_t gpa);
void fake_peek(Machine *m, uint64_t gpa, void *data, size_t len);

/* Pages that changed since the last call and were neither poked nor marked dirty. */
unsigned fake_unlogged_pages(Machine *m);

/* What devices did. */
unsigned fake_msi_count(Machine *m, uint32_t data);
bool fake_irq(Machine *m, uint32_t gsi);
int fake_exit_wanted(Machine *m); /* MachineExit, -1 for none */
/* Refuse ioeventfds (the default) or take them; then fake_mmio_write signals them, and no handler
 * sees the write. */
void fake_take_ioeventfds(Machine *m, bool take);
/* How many writes have signalled one. */
unsigned fake_ioeventfd_hits(Machine *m);

/* All devices, in the order they were added. */
void fake_start(Machine *m);
void fake_stop(Machine *m);
Device *fake_device(Machine *m, const char *kind);
GByteArray *fake_dump(Machine *m, const char *kind);
gboolean fake_restore(Machine *m, const char *kind, const GByteArray *state, GError **error);
/* For restores from now on: how long ago the state was saved. */
void fake_set_elapsed(Machine *m, uint64_t ns);
/* The same: whether a guest may have gone on from it before. No, at first. */
void fake_set_goes_back(Machine *m, bool goes_back);
/* Stop from unless it is, copy RAM and all devices' state to the devices of to, start to. */
void fake_move(Machine *from, Machine *to);
/* Every truncation of a device's state, and many damaged ones, must be refused or taken whole. */
void fake_check_garbage(Machine *m, const char *kind);

/* Run the main loop until it has nothing to do; or until done(opaque), at most 5 s: then fails. */
void fake_pump(void);
void fake_wait(bool (*done)(void *opaque), void *opaque);

#endif
