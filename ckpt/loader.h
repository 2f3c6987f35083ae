/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling in the RAM of members that run already, and the overlays of their disks, from the store: a
 * thread that puts pages in place through the engines' userfaultfds (ioctl_userfaultfd(2)), and blocks
 * into the data files (common/lazydisk.h), those first that somebody waits for, then all others. Posts
 * INBOX_LOADED when all are there, or INBOX_LOAD_FAILED with the reason; after that whoever waits for a
 * page waits on.
 */
#ifndef DISTRICT_CKPT_LOADER_H
#define DISTRICT_CKPT_LOADER_H

#include "ckpt/inbox.h"
#include "ckpt/store-ram.h"

typedef struct Loader Loader;

typedef struct LoaderTarget {
    const char *name;
    int uffd;         /* taken */
    uint64_t address; /* of RAM, as faults have it */
    uint32_t member;  /* in the StoreRam */
} LoaderTarget;

typedef struct LoaderDisk {
    const char *name; /* of the member */
    uint32_t disk;    /* in the StoreRam: STORERAM_DISK */
    uint64_t bytes;
    LazyDisk *shared; /* taken */
    int data_fd;      /* taken */
    const char
        *home; /* for blocks at home (storeram_at_home), as MemberDisk.home; NULL: there are none */
} LoaderDisk;

/* Members and disks of ram (taken) without a target are left out. rate: bytes per second that are read when
 * nobody waits, 0: no limit. */
Loader *loader_new(StoreRam *ram, const LoaderTarget *targets, uint32_t n, const LoaderDisk *disks,
                   uint32_t n_disks, uint64_t rate, Inbox *inbox);
/* Have the thread end, which it does after one batch. False: it has not, and waits for the store's disk
 * perhaps; the loader has to be left as it is. NULL is allowed. */
bool loader_stop(Loader *loader, int timeout_ms);
/* Without a limit, unless it was stopped before. NULL is allowed. */
void loader_free(Loader *loader);

/* Why it has failed, once it has; NULL. The loader's. */
const char *loader_failure(const Loader *loader);

/* Pages that have been looked at, of how many. */
void loader_progress(const Loader *loader, uint64_t *done, uint64_t *total);

/* Pages of the memfd that are there need not be read. */
void loader_skip_present(StoreRam *ram, uint32_t member, int ram_fd);

#endif
