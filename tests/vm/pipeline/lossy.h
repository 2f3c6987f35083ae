/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file system that can lose its power: ext4 in a file, by way of a loop device, and the ioctl that
 * shuts an ext4 down without writing its journal (FS_IOC_SHUTDOWN, GOING_FLAGS_NOLOGFLUSH). From then
 * on everything fails with EIO, and mounted again it has what had been synced, and of the rest what
 * the kernel had happened to write.
 *
 * Mounts are those of a mount namespace that lossy_own_mounts makes, and of its children, so none
 * outlives the test.
 */
#ifndef DISTRICT_TESTS_VM_PIPELINE_LOSSY_H
#define DISTRICT_TESTS_VM_PIPELINE_LOSSY_H

#include <glib.h>

typedef struct Lossy Lossy;

/* Before anything else, in a process with one thread. FALSE: we have no right to. */
gboolean lossy_own_mounts(void);

/* Make a file system of so many MiB in the file IMAGE and mount it at the directory path, which is
 * made. NULL: that is not possible here, *why says so (caller frees). */
Lossy *lossy_new(const char *image, const char *path, guint mib, char **why);
/* Nothing of it is in use. */
void lossy_free(Lossy *lossy);
const char *lossy_path(const Lossy *lossy);

/* Everything that has not been synced is gone; nothing works until lossy_mount. */
void lossy_cut_power(Lossy *lossy);
/* Mount it again once it is free. options: of mount(8), "": the usual ones. */
void lossy_mount(Lossy *lossy, const char *options);
/* Hand some of the pages that wait to be written to the disk now, at random. */
void lossy_write_some(Lossy *lossy);

/* Fill it but for so many KiB; give the room back. */
void lossy_fill(Lossy *lossy, guint leave_kib);
void lossy_make_room(Lossy *lossy);

/* All that writes hangs until it is thawed. */
void lossy_freeze(Lossy *lossy);
void lossy_thaw(Lossy *lossy);

#endif
