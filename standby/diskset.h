/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks of a shadow: one raw sparse file each, in the directory of --disk-dir.
 *
 * Names. While its full epoch is received a file is MEMBER-K.raw.sync-EPOCH. Once that has
 * committed and districtd has the descriptors, it is renamed to MEMBER-K.raw, over the file of the
 * shadow before. That one has no name from then on, and goes with its last descriptor. A process
 * killed in between leaves a file that is held under its first name: who adopts it renames it.
 *
 * Space. An epoch that is committed must not fail for want of room when it is applied. So room for
 * its blocks is taken (fallocate(2)) when they are received; then there is none, and the epoch is
 * refused. Zero blocks give their room back, but not while a log still to be applied has data for
 * the block: which blocks that are is kept roughly, in one filter per log, where a wrong yes only
 * keeps some room longer. On a file system without fallocate nothing can be promised.
 *
 * Threads: as the shadow's: the writer reserves, the applier stores. The lock orders the two.
 */
#ifndef DISTRICT_STANDBY_DISKSET_H
#define DISTRICT_STANDBY_DISKSET_H

#include "ckpt/encode.h"
#include "standby/ledger.h"

/* Longest --disk-dir, bytes: the paths of all disks must fit one message. */
#define DISK_DIR_BYTES_MAX 128
/* Bits of a filter. */
#define DISK_FILTER_BITS ((size_t)1 << 20)

typedef struct DiskFile {
    char member[LEDGER_NAME_BYTES];
    uint32_t index; /* of the member's disks */
    uint64_t bytes;
    int fd;
} DiskFile;

typedef struct DiskSet {
    char *dir;
    int dir_fd;    /* -1: there are no disks */
    uint64_t born; /* the full epoch that the files came with */
    bool fresh;    /* never held: the files go with the set */
    uint32_t n;
    DiskFile *files;
    GMutex lock;                    /* guards filters; held while room is taken or given back */
    uint64_t *filter[LEDGER_SLOTS]; /* blocks that log i has room for */
} DiskSet;

/*
 * Files for the disks of a full epoch, all holes. dir: NULL if there is none. STANDBY_ERROR REFUSED
 * without a directory, FULL if its file system clearly cannot hold what is announced.
 */
DiskSet *disk_set_new(const char *dir, const District__StreamEpochBegin *begin, GError **error);
/* Take over the files that ledger lists. The descriptors pass on success only. Names that a killed
 * predecessor has not given are given now. */
DiskSet *disk_set_adopt(const char *dir, const int *fds, const Ledger *ledger, GError **error);
void disk_set_free(DiskSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskSet, disk_set_free)

/* The shadow is held now: give the files their last names and take them from old's (may be NULL).
 * FALSE: they have them in part. */
gboolean disk_set_publish(DiskSet *set, const DiskSet *old, GError **error);

/* Sum of the sizes, bytes. */
uint64_t disk_set_bytes(const DiskSet *set);
/* "disk 0 of member db", and the path under its last name; caller frees. */
char *disk_set_name(const DiskSet *set, uint32_t disk);
char *disk_set_path(const DiskSet *set, uint32_t disk);

/* ---- disk-room.c ---- */
/* Take room for blocks that log i is about to get. FALSE: STANDBY_ERROR FULL, or what else. */
gboolean disk_set_reserve(DiskSet *set, unsigned i, uint32_t disk, const DecodedPage *blocks,
                          uint32_t count, GError **error);
/* Log i is applied or dropped. */
void disk_set_unreserve(DiskSet *set, unsigned i);
/* What log i has is not known: give no room back until disk_set_unreserve. */
void disk_set_reserve_all(DiskSet *set, unsigned i);
/* Store blocks. FALSE: STANDBY_ERROR FULL if there is no room, or what else. Idempotent. */
gboolean disk_set_store(DiskSet *set, uint32_t disk, const DecodedPage *blocks, uint32_t count,
                        GError **error);

#endif
