/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shadow: the standby's copy of a district, RAM images kept hot, disks in files (diskset.h), and
 * the CutState beside them.
 *
 * Theory of operation. A shadow is born by a full epoch, whose pages go straight into new images:
 * nothing is committed in them yet. Every later epoch is written to one of two redo logs and leaves
 * the images alone until it is verified; committing it is one store in the ledger. Then the applier
 * thread copies its pages into the images, while the next epoch is received into the other log. A
 * log is written again only once its epoch is in the images.
 *
 * All of it (ledger, logs, RAM, disks) has descriptors that districtd holds as well. After a kill at
 * any instant a new process adopts them and applies what was committed and not yet applied: applying
 * twice does no harm. An epoch that was being received is gone, as if it had never been sent.
 *
 * A disk that cannot be written, or not be made durable, breaks the shadow: that is noted in the
 * ledger, further epochs are refused, and so is activation. Only a full epoch helps.
 *
 * Memory: the RAM once, as far as it is not zero, and two logs of at most one epoch each, blocks of
 * disks included. While a full epoch is received there are two shadows: the committed one is kept
 * until the other one has committed and districtd holds it.
 *
 * Threads: one writer at a time (the stream's receive thread, or the main thread once that has
 * ended); the applier is the shadow's own; the getters may be called by anyone.
 */
#ifndef DISTRICT_STANDBY_SHADOW_H
#define DISTRICT_STANDBY_SHADOW_H

#include "standby/redolog.h"

typedef struct Shadow Shadow;

/* Descriptors beside the images: ledger and two logs. */
#define SHADOW_FDS_EXTRA (1 + LEDGER_SLOTS)

/* A new shadow for a full epoch, which is open then. disk_dir: where disks go, NULL: nowhere.
 * STANDBY_ERROR FULL if there is not enough memory or room, REFUSED if members and disks are too
 * many to be handed over. */
Shadow *shadow_new(const char *district, uint64_t incarnation, const char *disk_dir,
                   const District__StreamEpochBegin *begin, GError **error);

/* Take over what a predecessor held, in the order of shadow_fds; finish applying. The descriptors
 * are duplicated and stay the caller's. */
Shadow *shadow_adopt(const char *disk_dir, const int *fds, guint n_fds, GError **error);

/* It is held: give its disks their last names, in place of old's (may be NULL). If that fails the
 * shadow is broken. */
void shadow_publish(Shadow *shadow, const Shadow *old);
/* FALSE with error set if the shadow is broken. */
gboolean shadow_usable(Shadow *shadow, GError **error);

/* FALSE with error set if the committed RAM has been run (memfd_is_spent): no checkpoint any more. */
gboolean shadow_unspent(const Shadow *shadow, GError **error);

void shadow_free(Shadow *shadow);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Shadow, shadow_free)

/* Open an epoch that builds on the committed one: members must be the same. Waits, bounded, for the
 * log of the last but one epoch to be applied. An epoch left open earlier is forgotten. */
gboolean shadow_begin(Shadow *shadow, const District__StreamEpochBegin *begin, GError **error);
/* What an epoch that comes now finds of a page of RAM: of the open epoch, else of the committed one. An
 * epoch is open. Valid until the next epoch begins, unless the page comes again. The writer's. */
const uint8_t *shadow_content(const Shadow *shadow, uint32_t image, uint64_t page);
/* STANDBY_ERROR FULL if memory or room for disks runs out: the epoch can only be dropped then. */
gboolean shadow_pages(Shadow *shadow, uint32_t image, const DecodedPage *pages, uint32_t count,
                      GError **error);
gboolean shadow_state(Shadow *shadow, const uint8_t *packed, size_t len, int64_t realtime_ns,
                      GError **error);
/* The epoch is verified: commit it. After this it is what shadow_state_memfd hands out. */
void shadow_commit(Shadow *shadow);
/* Forget the open epoch. */
void shadow_abandon(Shadow *shadow);

/* Wait until the committed epoch is in the images and the disks are durable; FALSE with error set
 * after timeout_ms, or if the shadow is broken. */
gboolean shadow_settle(Shadow *shadow, int timeout_ms, GError **error);

uint64_t shadow_committed(const Shadow *shadow);
uint64_t shadow_incarnation(const Shadow *shadow);
const char *shadow_district(const Shadow *shadow);
int64_t shadow_realtime_ns(const Shadow *shadow);
uint64_t shadow_ram_bytes(const Shadow *shadow);

/* The committed CutState as a new sealed memfd (caller owns); *len: bytes valid. -1: error set. */
int shadow_state_memfd(const Shadow *shadow, uint64_t *len, GError **error);

/* The RAM images, one per member, and the disks. */
const RamSet *shadow_ram(const Shadow *shadow);
const DiskSet *shadow_disks(const Shadow *shadow);
/* All descriptors that must outlive this process: ledger, logs, RAM, disks. Returns how many; they stay
 * the shadow's. fds has room for FDMSG_FDS_MAX. */
guint shadow_fds(const Shadow *shadow, int *fds);

#endif
