/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk over a home in memory, and requests that are waited for. */
#ifndef DISTRICT_TESTS_DISK_RIG_H
#define DISTRICT_TESTS_DISK_RIG_H

#include "fake-home.h"

#include "common/diskindex.h"
#include "disk/disk.h"

typedef struct Rig {
    uint64_t size;
    uint8_t *home_bytes;
    FakeHome *home; /* the disk's */
    Disk *disk;
    char *dir;
} Rig;

/* One request's end. */
typedef struct Wait {
    bool ended;
    int error;
} Wait;

/* overlay_dir: as disk_new. The home's byte i is 1 + i % 251. */
Rig *rig_new(uint64_t size, const char *overlay_dir);
void rig_free(Rig *rig);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rig, rig_free)

/* The disk and its home, made anew; the bytes of the home stay. */
void rig_reopen(Rig *rig);
/* As rig_reopen, but the new disk inherits from the old one. */
void rig_hand_on(Rig *rig);
/* What disk_hand_on said, with duplicates of the descriptors that it names. Caller frees. */
char *rig_hand_on_text(Disk *disk);

void wait_done(void *opaque, int error);
/* Run the main loop until it has ended (within a time limit); returns its error. */
int wait_end(Wait *wait);
/* Run the main loop as long as it has something to do at once. */
void rig_turn(void);

/* Requests, waited for: errno. */
int rig_write(Rig *rig, uint64_t offset, const void *buf, size_t len);
int rig_fill(Rig *rig, uint64_t offset, size_t len, uint8_t value);
int rig_read(Rig *rig, uint64_t offset, void *buf, size_t len);
int rig_zero(Rig *rig, uint64_t offset, uint64_t len);
int rig_discard(Rig *rig, uint64_t offset, uint64_t len);
/* All bytes of the range read as value. */
void rig_check(Rig *rig, uint64_t offset, size_t len, uint8_t value);

/* Entry of the index; its block's data into buf (PAGE_BYTES). */
DiskIndexEntry rig_entry(Rig *rig, uint64_t index);
void rig_entry_data(Rig *rig, const DiskIndexEntry *entry, void *buf);
/* Bytes that the data or index file takes up. */
uint64_t rig_data_space(Rig *rig);
uint64_t rig_index_space(Rig *rig);

#endif
