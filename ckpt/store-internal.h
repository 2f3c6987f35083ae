/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the store share (store.h). */
#ifndef DISTRICT_CKPT_STORE_INTERNAL_H
#define DISTRICT_CKPT_STORE_INTERNAL_H

#include "ckpt/ramset.h"
#include "ckpt/receive.h"
#include "ckpt/store-ram.h"

#include <sqlite3.h>

#define STORE_LABEL_CHARS_MAX 64
#define STORE_BASE_DIR "base"
#define STORE_INDEX_DIR "index"
#define CATALOG_FILE "catalog.db"

typedef struct MergeJob MergeJob;
typedef struct FoldJob FoldJob;
typedef struct IndexJob IndexJob;

/* A file that is on its way out. */
typedef struct CatalogGone {
    uint64_t id;
    uint32_t generation;
} CatalogGone;

struct CkptStore {
    char *path;
    char *district;
    int dir_fd;
    int base_fd; /* -1: a reader of a store that has none yet */
    int lock_fd; /* -1: a reader */

    GMutex lock; /* protects the following */
    sqlite3 *db;
    uint64_t next_id;
    GHashTable *prepared; /* id -> PreparedState */

    GMutex work; /* one of merge, prune, load, check at a time; taken before lock */
    MergeJob *merge;
    FoldJob *fold;
    IndexJob *index;
    bool index_off; /* until the next open: one could not be made */
    GArray *limbo;  /* of CatalogGone: files of swaps that have failed, not to be removed before the
                      catalog is settled */
};

/* In CkptStore.prepared. */
typedef enum { PREPARED_NEW = 1, PREPARED_COMMIT_TRIED = 2 } PreparedState;

static inline bool
store_is_writer(const CkptStore *store)
{
    return store->lock_fd >= 0;
}

/* Until a writer that was at it when the hold began is likely done. */
#define STORE_READ_AGAIN_US 50000

/* ---- Errors (store.c) ---- */

/* FALSE with "STORE/object: what: strerror(err)" and a remedy. object NULL: the store itself. */
gboolean store_fail_errno(const CkptStore *store, const char *object, const char *what, int err,
                          GError **error);
gboolean store_fail(const CkptStore *store, CkptStoreError code, GError **error, const char *format,
                    ...) G_GNUC_PRINTF(4, 5);
gboolean store_sync_dir(CkptStore *store, int fd, GError **error);
gboolean store_check_writer(const CkptStore *store, GError **error);

/* ---- The catalog (store-catalog.c) ---- */

typedef struct CatalogRow {
    uint64_t id;
    uint64_t parent;
    uint32_t generation; /* of its file */
    bool full;
    uint64_t epoch;
    uint64_t base_epoch; /* 0: full */
    uint64_t incarnation;
    int64_t realtime_ns;
    uint64_t bytes;
    uint64_t ram_pages;
    uint64_t disk_blocks;
    uint64_t layout; /* storefile_layout_sum */
    char *label;     /* owned, or NULL */
} CatalogRow;

typedef struct CatalogPin {
    uint64_t id;
    char *owner; /* owned */
} CatalogPin;

/* All of the catalog at one moment. */
typedef struct Catalog {
    char *district;
    uint64_t head; /* 0: the store is empty */
    uint64_t root;
    bool merged;
    uint64_t next_id;
    uint64_t changes; /* grows with every change of what is below */
    GArray *rows;     /* of CatalogRow, by id */
    GArray *gone;     /* of CatalogGone */
    GArray *pins;     /* of CatalogPin */
} Catalog;

/* store-catalog-open.c: opens or creates (a writer; the directory is locked). */
gboolean catalog_open(CkptStore *store, GError **error);
void catalog_close(CkptStore *store);

/* NULL with error set. */
Catalog *catalog_read(CkptStore *store, GError **error);
void catalog_free(Catalog *catalog);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Catalog, catalog_free)

/*
 * One transaction: change is called with what the catalog has, changes it by the calls below, and
 * may set head, root, merged and next_id, which are saved too. FALSE from it or any failure: as if
 * nothing had happened, except that a transaction whose commit has failed may still come to light
 * after a crash, until the next one has succeeded. durable: synced, with all before it. Takes the
 * store's lock.
 */
typedef gboolean (*CatalogChange)(CkptStore *store, Catalog *catalog, void *opaque, GError **error);
gboolean catalog_change(CkptStore *store, bool durable, CatalogChange change, void *opaque,
                        GError **error);
/* A change that changes nothing: durable, it settles whatever a failed commit has left. */
gboolean catalog_settle(CkptStore *store, GError **error);
gboolean catalog_put(CkptStore *store, const CatalogRow *row, GError **error);
gboolean catalog_drop(CkptStore *store, uint64_t id, GError **error);
gboolean catalog_put_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error);
gboolean catalog_drop_gone(CkptStore *store, uint64_t id, uint32_t generation, GError **error);
gboolean catalog_put_pin(CkptStore *store, uint64_t id, const char *owner, GError **error);
gboolean catalog_drop_pin(CkptStore *store, uint64_t id, const char *owner, GError **error);
/* Text of what SQLite finds wrong in its file, or NULL. */
char *catalog_integrity(CkptStore *store);

/* For store-catalog-open.c: statements without parameters or results; the one value of a query,
 * UINT64_MAX if there is none; the first state of a new store, inside a transaction. */
gboolean catalog_exec(CkptStore *store, const char *sql, GError **error);
uint64_t catalog_value(CkptStore *store, const char *sql);
gboolean catalog_put_state(CkptStore *store, Catalog *catalog, GError **error);
gboolean catalog_damaged(const CkptStore *store, GError **error, const char *what);
gboolean catalog_fail(const CkptStore *store, int rc, GError **error);

/* ---- The tree (store-tree.c) ---- */

CatalogRow *catalog_find(const Catalog *catalog, uint64_t id);
/* The same, with an error that names the checkpoint. */
CatalogRow *catalog_get(const CkptStore *store, const Catalog *catalog, uint64_t id,
                        GError **error);
bool catalog_pinned(const Catalog *catalog, uint64_t id);
unsigned catalog_children(const Catalog *catalog, uint64_t id);
/* Is a the same as b, or an ancestor of it? */
bool catalog_is_ancestor(const Catalog *catalog, uint64_t a, uint64_t b);
/* Ids from the root to id; NULL with error set if the chain is broken. */
GArray *catalog_chain(const CkptStore *store, const Catalog *catalog, uint64_t id, GError **error);
uint64_t catalog_incarnation(const Catalog *catalog);
CatalogRow catalog_row_copy(const CatalogRow *row);
void catalog_row_clear(CatalogRow *row);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CatalogRow, catalog_row_clear)

/* ---- Checkpoint files (store-file.c) ---- */

/* "checkpoint-ID-GENERATION.dcp"; caller frees. */
char *storefile_name(uint64_t id, uint32_t generation);
bool storefile_parse_name(const char *name, uint64_t *id, uint32_t *generation);
/* XXH3-64 of what must be the same in a checkpoint and one that builds on its RAM. */
uint64_t storefile_layout_sum(const District__StreamEpochBegin *begin);

/* Who looks at a file's content; all are optional. Nothing is verified as a whole before the end.
 */
typedef struct StoreVisitor {
    gboolean (*begin)(void *opaque, const District__StreamEpochBegin *begin, GError **error);
    gboolean (*pages)(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count,
                      GError **error);
    gboolean (*state)(void *opaque, const uint8_t *packed, size_t len, GError **error);
} StoreVisitor;

typedef struct StoreReader StoreReader;

/*
 * Read row's file. Only its id and generation need be known; with known set everything that the
 * file says of itself is compared with row. NULL with error set; ENOENT is NOT_FOUND.
 */
StoreReader *storefile_open(CkptStore *store, const CatalogRow *row, bool known,
                            const StoreVisitor *visitor, void *opaque, GError **error);
void storefile_close(StoreReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreReader, storefile_close)
/* One record. *more FALSE: the file has ended as it must. Errors name the file. */
gboolean storefile_step(StoreReader *reader, gboolean *more, GError **error);
/* All of it. */
gboolean storefile_read(StoreReader *reader, GError **error);
/* Bytes of records read. */
uint64_t storefile_bytes(const StoreReader *reader);
/* What the file has said of itself; complete after the end. The reader's. */
const CatalogRow *storefile_row(const StoreReader *reader);
/* HELLO and EPOCH_BEGIN have been read. */
bool storefile_begun(const StoreReader *reader);
int storefile_fd(const StoreReader *reader);

/* ---- Images of a checkpoint, by what they are ---- */

/* A table of what is known per image, where members and disks may have other places in another
 * file: RAM by the member's name, disks by name, place and size. */
typedef struct StoreImage {
    char *member; /* owned */
    int disk;     /* -1: RAM */
    uint64_t bytes;
} StoreImage;

/* Of begin's images, in order (layout_image_count of them). */
GArray *storefile_images(const District__StreamEpochBegin *begin);
bool storefile_image_equal(const StoreImage *a, const StoreImage *b);

/* Pages one after the other that are alike: count from first on. data NULL: they are zero. */
typedef gboolean (*StoreRun)(void *opaque, uint64_t first, uint32_t count, const uint8_t *data,
                             GError **error);
gboolean storefile_runs(const DecodedPage *pages, uint32_t count, StoreRun func, void *opaque,
                        GError **error);

/* A sparse map of so many bytes, zero filled. NULL with error set. */
void *storefile_map(uint64_t bytes, GError **error);
void storefile_unmap(void *map, uint64_t bytes);

/* pwrite(2) of all of it; 0 or an errno value. */
int store_write_all(int fd, const void *data, size_t len, uint64_t offset);

/* ---- The overlay of a disk that is loaded (store-disk.c) ---- */

typedef struct StoreDisk StoreDisk;
/* dir stays the caller's, and valid; NULL: no files are made. NULL with error set. */
StoreDisk *storedisk_new(CkptStore *store, const StoreImage *what, const char *dir, GError **error);
void storedisk_free(StoreDisk *overlay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreDisk, storedisk_free)
const StoreImage *storedisk_image(const StoreDisk *overlay);
/* These blocks replace what came before. */
gboolean storedisk_put(StoreDisk *overlay, const DecodedPage *pages, uint32_t count,
                       GError **error);
/* In place of all storedisk_put: these blocks (of uint64_t) will have data, in this order, at places
 * from 0 on. storedisk_put may still bring them. */
void storedisk_give_places(StoreDisk *overlay, const GArray *blocks);
/* All of their room is taken. false: it cannot be. */
bool storedisk_take_room(StoreDisk *overlay);
/* Everything has come: write the index. */
gboolean storedisk_finish(StoreDisk *overlay, GError **error);
/* Its files, once. */
ImageDisk storedisk_take(StoreDisk *overlay);

/* ---- Base images (store-base.c) ---- */

typedef struct BaseImage BaseImage;

typedef enum {
    BASE_READ,
    BASE_WRITE,
    BASE_NEW, /* all zeros; made if missing */
} BaseMode;

/* The base image of a member's RAM. Its size is checked. NULL with error set. */
BaseImage *base_open(CkptStore *store, const char *member, uint64_t bytes, BaseMode mode,
                     GError **error);
void base_close(BaseImage *base);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BaseImage, base_close)
gboolean base_write(BaseImage *base, const DecodedPage *pages, uint32_t count, GError **error);
gboolean base_sync(BaseImage *base, GError **error);
/* Every page that is not zero or should not be. data NULL: zero. good: it is what was written. */
typedef gboolean (*BasePage)(void *opaque, uint64_t page, const uint8_t *data, bool good,
                             GError **error);
gboolean base_read(BaseImage *base, BasePage func, void *opaque, GError **error);
/* The same for count pages (at most 512, and of buffer) from first on. */
gboolean base_read_some(BaseImage *base, uint64_t first, uint64_t count, uint8_t *buffer,
                        BasePage func, void *opaque, GError **error);
/* All pages from from to *next (UINT64_MAX: the end) are zero, and should be. */
gboolean base_next(BaseImage *base, uint64_t from, uint64_t *next, GError **error);
/* Remove those of members that are not among images. */
gboolean base_remove_others(CkptStore *store, const GArray *images, GError **error);
/* Bytes that it takes on the disk, 0 if that cannot be told. */
uint64_t base_allocated(const BaseImage *base);
/* "base/ram-MEMBER.img" */
const char *base_name(const BaseImage *base);

/* ---- Indexes of checkpoint files (store-index.c) ---- */

typedef struct StoreIndexRun {
    uint64_t first; /* page */
    uint32_t count;
} StoreIndexRun;

typedef struct StoreIndexRecord {
    uint64_t offset; /* of a PAGES record in the file */
    uint32_t image;  /* as in EPOCH_BEGIN; not checked */
    guint first_run; /* in runs; pages are not checked */
    uint32_t n_runs;
} StoreIndexRecord;

typedef struct StoreIndex {
    GArray *records; /* of StoreIndexRecord, in the order of the file */
    GArray *runs;    /* of StoreIndexRun */
    uint64_t state_at;
} StoreIndex;

/* That of row's file. If there is none, the file is read whole. NULL with error set. */
StoreIndex *storeindex_get(CkptStore *store, const CatalogRow *row, GError **error);
void storeindex_free(StoreIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreIndex, storeindex_free)
/* The file has gone. */
void storeindex_remove(CkptStore *store, uint64_t id, uint32_t generation);
/* Remove those of files that the catalog does not have. */
void storeindex_sweep(CkptStore *store, const Catalog *catalog);
void index_job_free(IndexJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IndexJob, index_job_free)

/* ---- RAM that is read page by page (store-ram.c) ---- */

StoreRam *storeram_new(CkptStore *store);
/* The members of begin, in order; RAM that builds on base images has these opened. Once. */
gboolean storeram_set_members(StoreRam *ram, CkptStore *store,
                              const District__StreamEpochBegin *begin, GError **error);
/* Another disk, numbered from 0 as they come; and: disk seen is the next one of the image. */
gboolean storeram_see_disk(StoreRam *ram, uint64_t bytes, GError **error);
void storeram_use_disk(StoreRam *ram, guint seen);
/* Of uint64_t: the block at each place. */
const GArray *storeram_blocks(const StoreRam *ram, uint32_t disk);
/*
 * What is in a file replaces what came before. fd: of the file, duplicated; of each of its n_images
 * images n_pages_of, and seen_of: the disk, or one of the below.
 */
#define STORERAM_IS_RAM (-1)
#define STORERAM_NOT_WANTED (-2)
gboolean storeram_add(StoreRam *ram, const char *name, int fd, const StoreIndex *index,
                      const uint64_t *n_pages_of, uint32_t n_images, const int *seen_of,
                      GError **error);
/* Is there memory for it, in the worst case? */
gboolean storeram_check_room(const StoreRam *ram, GError **error);
/* One record of the file behind fd, verified; the caller's until the next call with payload. */
gboolean storeram_read_record(int fd, uint64_t offset, RecordType type, GByteArray *payload,
                              GError **error);

/* ---- Jobs ---- */

/* store-recover.c: bring directory and catalog together; a writer, at open. */
gboolean store_recover(CkptStore *store, GError **error);
/* Unlink what the catalog lists as gone, and forget about it. */
gboolean store_remove_gone(CkptStore *store, GError **error);
/* Remove what is in limbo. */
gboolean store_clear_limbo(CkptStore *store, GError **error);
/* Calls func for every checkpoint file in the directory. */
typedef gboolean (*StoreFileFunc)(CkptStore *store, uint64_t id, uint32_t generation, void *opaque,
                                  GError **error);
gboolean store_foreach_file(CkptStore *store, StoreFileFunc func, void *opaque, GError **error);

/* row is what a whole file says of itself, and the catalog does not have it: must the catalog have
 * lost what was written to it, so that nothing can be told from it? */
bool store_has_forgotten(const CkptStore *store, const Catalog *catalog, const CatalogRow *row);

/* FALSE with error set: the catalog is empty, but must have had something. */
gboolean store_check_emptied(CkptStore *store, const Catalog *catalog, GError **error);

/* Would row fit behind its parent in the catalog? FALSE with error set. */
gboolean store_check_place(const CkptStore *store, const Catalog *catalog, const CatalogRow *row,
                           GError **error);

void merge_job_free(MergeJob *job);

/* ---- store-policy.c: pure ---- */
/* keep[i] for each row of the catalog. */
void policy_select(const Catalog *catalog, const CkptStorePolicy *policy, bool *keep);
typedef enum {
    PRUNE_NOTHING,
    PRUNE_WAIT,   /* for the root to be merged */
    PRUNE_DELETE, /* a leaf */
    PRUNE_ROOT,   /* the root's only child becomes the root */
    PRUNE_FOLD,   /* into its only child */
} PruneAction;
/* What to do next, and with which checkpoint. */
PruneAction policy_next(const Catalog *catalog, const CkptStorePolicy *policy, const bool *keep,
                        uint64_t *id);

/* ---- store-fold.c ---- */
/* Fold parent into its only child. NULL with error set. */
FoldJob *fold_begin(CkptStore *store, const Catalog *catalog, uint64_t parent, GError **error);
/* Removes the new file if it has not been swapped in. NULL is allowed. */
void fold_free(FoldJob *job);
/* Work for about budget bytes, which *spent grows by. *done: the new file is complete and durable.
 */
gboolean fold_some(FoldJob *job, uint64_t budget, uint64_t *spent, gboolean *done, GError **error);
/* Swap the new file in. *swapped FALSE: something has changed, and the fold is not wanted so. */
gboolean fold_swap(FoldJob *job, const CkptStorePolicy *policy, gboolean *swapped, GError **error);

#endif
