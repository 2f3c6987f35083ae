/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The RAM of a checkpoint in the store that is read page by page, in any order, while those that
 * have been read are in use already (a lazy restore); and the blocks that the checkpoint has of disks,
 * which count as pages here.
 *
 * One thread. It holds all files open that it reads from, so what the store's writer does to them
 * meanwhile does not matter, as long as only this process writes to the store, or the checkpoint is
 * pinned, and nothing is merged. (A merge changes only
 * pages of the base images that are read from newer files here; a prune removes names. Base images
 * are replaced as a whole only by a checkpoint of all RAM, and one is not made before all has been
 * read.)
 *
 * Every page is verified when it is read: FORMAT_ERROR or CKPT_STORE_ERROR, with the file's name.
 */
#ifndef DISTRICT_CKPT_STORE_RAM_H
#define DISTRICT_CKPT_STORE_RAM_H

#include "ckpt/store.h"

#include "ckpt/encode.h"

typedef struct StoreRam StoreRam;

/* How much is left for later, beside RAM. */
typedef enum {
    STORE_LAZY_RAM, /* blocks of disks are in the overlays */
    STORE_LAZY_DISKS, /* and these, if their room can be taken: the image's ImageDisk.lazy are set then */
    STORE_LAZY_ADOPT, /* there are overlays already (storeram_adopt_disk): none are made */
} StoreLazy;

/*
 * As ckpt_store_load, but the RAM of the image is empty, and *ram (the caller's) knows where it is.
 * The store stays open for as long as *ram is there; a reader's checkpoint must be pinned for that long.
 * What it costs hardly grows with the size of RAM, or with what the checkpoints hold
 * of disks: 4 bytes of address space for a page, the indexes of the files, and about 24 bytes for a
 * block.
 */
Image *ckpt_store_load_lazy(CkptStore *store, uint64_t id, const char *overlay_dir, StoreLazy lazy,
                            StoreRam **ram, GError **error);
void storeram_free(StoreRam *ram);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreRam, storeram_free)

/* Members are numbered as in the image. Disk k of the image counts as another member: */
#define STORERAM_DISK(k) (MEMBERS_MAX + (k))
uint32_t storeram_members(const StoreRam *ram);
uint32_t storeram_disks(const StoreRam *ram);
uint64_t storeram_pages(const StoreRam *ram, uint32_t member);

/* These pages of a member need not be read: they are there already. In range. */
void storeram_have(StoreRam *ram, uint32_t member, uint64_t first, uint64_t count);

/* Disks. Place in the data file of the overlay; UINT64_MAX: this block has none. */
uint64_t storeram_place(const StoreRam *ram, uint32_t disk, uint64_t block);
/*
 * Of STORE_LAZY_ADOPT: the overlay is this one, and what is not there yet is to be read. FALSE with error
 * set: it cannot be one of that disk. Blocks that no file has any more are in the home.
 */
gboolean storeram_adopt_disk(StoreRam *ram, uint32_t disk, const LazyDisk *overlay, GError **error);
bool storeram_at_home(const StoreRam *ram, uint32_t disk, uint64_t block);

/* Nobody wants its blocks. */
void storeram_skip_disk(StoreRam *ram, uint32_t disk);

/* Called with pages that have been read, each once in the life of a StoreRam (data NULL: zeros). */
typedef gboolean (*StoreRamPut)(void *opaque, uint32_t member, const DecodedPage *pages,
                                uint32_t count, GError **error);

/* Read this page (in range), and what comes with it, unless it has been read. */
gboolean storeram_fetch(StoreRam *ram, uint32_t member, uint64_t page, StoreRamPut put,
                        void *opaque, GError **error);

/* Read some of what has not been read; pages of zeros are left out, but not of disks. *done: there is nothing left. */
gboolean storeram_next(StoreRam *ram, StoreRamPut put, void *opaque, gboolean *done,
                       GError **error);

/* How far storeram_next is, in pages, of how many. */
void storeram_progress(const StoreRam *ram, uint64_t *done, uint64_t *total);

#endif
