/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk in memory, for testing devices: disk/disk.h without files, whose requests end when the
 * test says so. It checks what callers must have checked. Disks live until the test process ends.
 */
#ifndef DISTRICT_TESTS_FAKE_DISK_H
#define DISTRICT_TESTS_FAKE_DISK_H

#include "disk/disk.h"

Disk *fake_disk_new(uint64_t bytes, bool read_only);
uint8_t *fake_disk_data(Disk *disk);
/* Hold: requests wait for fake_disk_end. Else each ends by itself from the main loop. */
void fake_disk_hold(Disk *disk, bool hold);
/* Requests that have not ended, and the bytes of their buffers. */
unsigned fake_disk_pending(const Disk *disk);
size_t fake_disk_pending_bytes(const Disk *disk);
/* End the oldest n with this error (0: do them). */
void fake_disk_end(Disk *disk, unsigned n, int error);
/* How many flushes, zero requests with unmap, and discards there were. */
unsigned fake_disk_flushes(const Disk *disk);
unsigned fake_disk_unmaps(const Disk *disk);
unsigned fake_disk_discards(const Disk *disk);

#endif
