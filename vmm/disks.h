/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks of this guest, as its options want them. Main thread only. */
#ifndef DISTRICT_VMM_DISKS_H
#define DISTRICT_VMM_DISKS_H

#include "disk/disk.h"
#include "vmm/journal.h"
#include "vmm/options.h"

typedef struct Disks {
    guint n;
    Disk *disk[DISKS_MAX];
    BlockBackend *home[DISKS_MAX]; /* theirs */
    Journal *journal;              /* NULL: none */
    char *own_dir; /* for sockets of qemu-nbd, if there is no better place; or NULL */
} Disks;

/* Open them. After an error, too, disks_close is due. */
gboolean disks_open(Disks *disks, const Options *options, GError **error);

/*
 * Close them, when what is under way has ended; devices must be at rest. If it does not end within
 * 2 s they are left to the end of the process.
 */
void disks_close(Disks *disks);

/* Is the data of an overlay still being put there? Then it is wanted at once. */
bool disks_lazy(const Disks *disks);

/* One line on what guest I/O waits for and what to do, or NULL. */
const char *disks_waiting(const Disks *disks);

/*
 * Over a guest reset, which is an execve(2): hand the overlays and the journal's link on in the
 * environment and close the homes; no request is under way, no overlay is without its data
 * (disks_lazy), and none can be made any more.
 * disks_inherit, after disks_open, takes them over in the next life.
 */
gboolean disks_hand_on(Disks *disks, GError **error);
gboolean disks_inherit(Disks *disks, GError **error);

#endif
