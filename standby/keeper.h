/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper: which shadow is the committed one, and which incarnations may still change it.
 *
 * Threads: the receive thread of the one stream that has its turn writes; the main thread takes or
 * puts a shadow only while no stream has its turn. The lock is for readers beside them.
 */
#ifndef DISTRICT_STANDBY_KEEPER_H
#define DISTRICT_STANDBY_KEEPER_H

#include "standby/shadow.h"

typedef struct Keeper Keeper;

/* Called with the keeper's lock held, on any thread: give these to districtd before the first
 * commit of a shadow is acknowledged. FALSE if it did not take them. */
typedef gboolean (*KeeperHold)(const int *fds, guint n_fds, uint64_t epoch, uint64_t incarnation,
                               gpointer opaque);

/* disk_dir: where disks go, NULL: nowhere. */
Keeper *keeper_new(const char *district, const char *disk_dir, KeeperHold hold, gpointer opaque);
void keeper_free(Keeper *keeper);

const char *keeper_district(const Keeper *keeper);
const char *keeper_disk_dir(const Keeper *keeper);

/* Streams of an incarnation below least are refused; newest is the one they are told of. Never
 * lowers what was set before. */
void keeper_require(Keeper *keeper, uint64_t least, uint64_t newest);

/* May a stream of this incarnation come? Else STANDBY_ERROR SUPERSEDED. */
gboolean keeper_admit(Keeper *keeper, uint64_t incarnation, GError **error);
/* The newest incarnation known of. */
uint64_t keeper_newest(Keeper *keeper);

/* The committed shadow, NULL if there is none. For the writer. */
Shadow *keeper_shadow(Keeper *keeper);
/* Has districtd been given what is committed? Until then it would have a successor of ours adopt the
 * shadow before, which is kept: the committed one is neither replaced nor activated. */
gboolean keeper_held(Keeper *keeper, GError **error);
/* fresh has committed its first epoch, and the shadow before is held: hold it, and then, now or in a
 * later keeper_hold_again, name its disks and drop the one before. */
void keeper_publish(Keeper *keeper, Shadow *fresh);
/* Take over an adopted shadow, which is held already. */
void keeper_put(Keeper *keeper, Shadow *shadow);
/* Give the shadow away; the caller frees it. */
Shadow *keeper_take(Keeper *keeper);
/* Send what is to be held, to a new client. */
void keeper_hold_again(Keeper *keeper);

/* Tells the primary that epoch is safe; must not block. Called with the keeper's lock held. */
typedef void (*KeeperAcknowledge)(uint64_t epoch, gpointer opaque);
/* Acknowledge epoch, which has committed, as soon as the shadow is held: now, or in a later
 * keeper_hold_again. One waits at a time: epoch takes the place of an earlier one. */
void keeper_acknowledge(Keeper *keeper, uint64_t epoch, KeeperAcknowledge acknowledge,
                        gpointer opaque);
/* opaque goes: whatever is to be acknowledged to it is not any more. */
void keeper_forget(Keeper *keeper, gpointer opaque);

typedef struct KeeperStatus {
    uint64_t committed_epoch;
    uint64_t incarnation;
    uint64_t ram_bytes;
    int64_t realtime_ns;
} KeeperStatus;

/* The disks of the committed shadow: an array of KeeperDisk, empty if there are none; *born: the
 * full epoch that they came with. The caller unrefs it. */
typedef struct KeeperDisk {
    char *member;
    uint32_t index;
    uint64_t bytes;
    char *path;
} KeeperDisk;
GPtrArray *keeper_disks(Keeper *keeper, uint64_t *born);

/* All zero if nothing is committed. */
KeeperStatus keeper_status(Keeper *keeper);

#endif
