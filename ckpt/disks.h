/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks in cuts: which disks there are, how far each consumer of their indexes is, and what engines
 * may be told of that. Coordinator thread only, but for disk_hold_done.
 *
 * Two consumers read what an overlay has: durable checkpoints, and the stream to the standby. Each
 * takes the entries of the index since the ones it took last, up to the cut. The data behind them
 * must not be released before they have been read: by the store's writer, which is done with its
 * commit, and by the workers of a sink, who say so one by one (DiskHold).
 */
#ifndef DISTRICT_CKPT_DISKS_H
#define DISTRICT_CKPT_DISKS_H

#include "ckpt/disk-sync.h"
#include "ckpt/durable.h"

/* An engine that cannot list what its overlays have needs room on the store's file system. */
#define DISKS_RESEND_AGAIN_NS NS_PER_S

struct Coordinator;
struct Target;

typedef struct CutDisk {
    uint32_t member;
    unsigned index;  /* among the member's disks */
    unsigned number; /* among those with an overlay */
    /* Durable checkpoints */
    uint64_t stored;      /* entries taken, committed or on their way */
    bool stored_whole;    /* what the store does not have is among the entries after these */
    uint64_t writing_cut; /* the cut they end with */
    uint64_t durable_cut; /* the same, of those that are committed */
    uint64_t stored_end;  /* entries behind these are only for the stream */
    /* The stream */
    uint64_t streamed; /* entries taken */
    uint64_t streamed_cut;
    bool streamed_whole; /* all that the overlay has is among the entries after these */
    GQueue holds;        /* of DiskHold, oldest first */
    /* Its member is off: whether all that the overlay has is among the entries from there on. */
    bool listed;
    uint64_t listed_from;
    /* What the engine was told. */
    uint64_t released_below;
    uint64_t home_below;
} CutDisk;

/* List the members' disks: they run from now on. */
void disks_begin(struct Coordinator *c);
void disks_free(struct Coordinator *c);

MemberDisk *disks_member_disk(const struct Coordinator *c, uint32_t i);

/* Index of disk i on the wire, as freeze_pack_begin lists images; its member must be listed. */
uint32_t disks_image(const struct Coordinator *c, uint32_t i);

/* The entries since the last durable checkpoint or epoch of the stream, up to the last cut, of each
 * disk; they are taken. Caller frees. */
DurableRange *disks_stored_ranges(struct Coordinator *c);
DurableRange *disks_streamed_ranges(struct Coordinator *c);

/* Queue what the ranges have on target's sink. FALSE with error set: an index cannot be read. */
gboolean disks_queue(struct Coordinator *c, struct Target *target, uint64_t number,
                     const DurableRange *ranges, GError **error);

/* Durable checkpoints go on from what the store has. known: that is all that overlays have now. */
void disks_begin_stored(struct Coordinator *c, bool known);
/* The durable checkpoint that took ranges has failed: the next one takes them again. */
void disks_untake_stored(struct Coordinator *c, const DurableRange *ranges);
/* Has every engine listed what the store may lack? */
bool disks_stored_whole(const struct Coordinator *c);
/* Have those that have not list it. Once for each: it takes room in the index. */
void disks_resend_stored(struct Coordinator *c);

/* Another stream: it has nothing yet. */
void disks_begin_streamed(struct Coordinator *c);
/* Have the engines that have not done so for this stream list all that overlays have. FALSE: not all
 * have, or there was trouble with a member, which has been dealt with. */
bool disks_resend_streamed(struct Coordinator *c);

/* The guest of a member has powered itself off, and its engine is about to end: have it list all that
 * its overlays have. */
void disks_member_off(struct Coordinator *c, uint32_t member);
/* Its engine has ended, and what it had for its homes with it. */
void disks_own_homes(struct Coordinator *c, uint32_t member);
/* The name of a member that is off without having listed that, so that no full sync is possible; or
 * NULL. */
const char *disks_unlisted(const struct Coordinator *c);

/* Start reading the homes, for a full sync; NULL: there are no disks. */
DiskSync *disks_sync_homes(struct Coordinator *c);

/* About how many bytes disk i has, of whose home so many are known to be data: at least what either
 * home or overlay has. */
uint64_t disks_data(const struct Coordinator *c, uint32_t i, uint64_t home);

/* Tell engines what they need not keep, and what homes have, if that has changed. */
void disks_tick(struct Coordinator *c, int64_t now);

#endif
