/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the disks of a shadow durable, on a thread of its own: while they are written, again and
 * again, so that little is left when somebody waits for it.
 */
#ifndef DISTRICT_STANDBY_DISKSYNC_H
#define DISTRICT_STANDBY_DISKSYNC_H

#include "standby/diskset.h"

typedef struct DiskSync DiskSync;

/* NULL if set has no disks, which the calls below accept. Descriptors are duplicated; NULL with
 * error set if that cannot be done. */
DiskSync *disk_sync_new(const DiskSet *set, GError **error);
/* Let go. The thread ends by itself, also if a disk that hangs keeps it for now. */
void disk_sync_free(DiskSync *sync);

/* Something has been written. */
void disk_sync_note(DiskSync *sync);
/* Wait, timeout_ms at most, until all that has been noted is durable, names of the files included.
 * FALSE with error set: it is not, in time or ever. */
gboolean disk_sync_wait(DiskSync *sync, int timeout_ms, GError **error);
/* Has it failed for good? FALSE with error set. */
gboolean disk_sync_good(DiskSync *sync, GError **error);

#endif
