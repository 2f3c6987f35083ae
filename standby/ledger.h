/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ledger: one sealed memfd that says what is committed. It outlives a crash of
 * district-standby, because districtd holds its descriptor too, so it is read by other processes
 * and described fully:
 *
 *   head      written once, before anything is committed; head_checksum covers it and the members
 *   commit    0: nothing is committed. Else epoch << 1 | slot. THE commit point: one aligned 8-byte
 *             store with release order, so it is never seen torn or before what it speaks of.
 *   applied   the epoch whose pages are all in the images; behind commit while a log is applied
 *   broken    not 0: a disk could not be written. What is held is no checkpoint any more.
 *   slot[2]   slot i describes redo log i. A slot is written only while commit does not name it and
 *             its log has been applied; its epoch is set to 0 first and its checksum last.
 *   member[]  one per RAM image, in the order of CutState.members
 *   disk[]    behind the members: one per disk, in the order of the images
 *
 * All integers are native (little-endian), all fields 8-byte aligned.
 */
#ifndef DISTRICT_STANDBY_LEDGER_H
#define DISTRICT_STANDBY_LEDGER_H

#include "common/page.h"
#include "stream.pb-c.h"

#include <glib.h>
#include <stdint.h>

#define LEDGER_MAGIC 0x3147444c52545344ULL /* "DSTRLDG1" */
#define LEDGER_VERSION 2
#define LEDGER_NAME_BYTES 48
#define LEDGER_SLOTS 2

typedef struct LedgerSlot {
    uint64_t epoch; /* 0: the slot is free */
    uint64_t base_epoch;
    uint64_t log_bytes;    /* valid bytes of the log */
    uint64_t log_checksum; /* XXH3-64 over all of the log but page data */
    uint64_t state_offset; /* the packed CutState in the log */
    uint64_t state_len;
    int64_t realtime_ns; /* CutState.realtime_ns */
    uint64_t checksum;   /* XXH3-64 of the fields above */
} LedgerSlot;

typedef struct LedgerMember {
    char name[LEDGER_NAME_BYTES];
    uint64_t ram_size; /* bytes */
    uint64_t reserved;
} LedgerMember;

typedef struct LedgerDisk {
    char file[LEDGER_NAME_BYTES]; /* its name in --disk-dir once it is published */
    uint32_t member;              /* index in member[] */
    uint32_t index;               /* of the member's disks */
    uint64_t size;                /* bytes */
} LedgerDisk;

typedef struct Ledger {
    uint64_t magic;
    uint32_t version;
    uint32_t n_members;
    uint64_t incarnation;
    char district[LEDGER_NAME_BYTES];
    uint32_t n_disks;
    uint32_t reserved;
    uint64_t born;          /* the full epoch that all of it came with */
    uint64_t head_checksum; /* XXH3-64 of the fields above, the members and the disks */
    uint64_t commit;
    uint64_t applied;
    uint64_t broken;
    LedgerSlot slot[LEDGER_SLOTS];
    LedgerMember member[];
} Ledger;

/* Size of the memfd. */
size_t ledger_bytes(uint32_t n_members, uint32_t n_disks);
/* n_disks of them. */
const LedgerDisk *ledger_disks(const Ledger *ledger);
/* The file of a disk; caller frees. */
char *ledger_disk_file(const char *member, uint32_t index);

/* A new memfd with head and members filled in and nothing committed; mapped. -1: error set. */
int ledger_create(const char *district, uint64_t incarnation,
                  const District__StreamEpochBegin *begin, Ledger **ledger, GError **error);

/* Check and map a ledger from another process: head, members, and that commit names a good slot.
 * NULL with error set. */
Ledger *ledger_open(int fd, GError **error);

void ledger_unmap(Ledger *ledger);

/* What is committed: 0 for nothing. */
uint64_t ledger_committed(const Ledger *ledger);
/* The slot that commit names, NULL if nothing is committed. */
const LedgerSlot *ledger_committed_slot(const Ledger *ledger);
uint64_t ledger_applied(const Ledger *ledger);
void ledger_set_applied(Ledger *ledger, uint64_t epoch);

/* What is held can not be used any more, also by who adopts it. */
void ledger_set_broken(Ledger *ledger);

/* Set slot free, before its log is written again. */
void ledger_slot_clear(Ledger *ledger, unsigned slot);
/* Fill slot i in from *content (its checksum is computed), then commit it. */
void ledger_commit(Ledger *ledger, unsigned i, const LedgerSlot *content);
/* The filled slot that builds on what is applied and is not beyond commit; NULL if there is none.
 */
const LedgerSlot *ledger_next_to_apply(const Ledger *ledger);
unsigned ledger_slot_index(const Ledger *ledger, const LedgerSlot *slot);

#endif
