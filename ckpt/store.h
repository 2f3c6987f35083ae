/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store of a district: its durable checkpoints, in a directory. store.c has the theory of
 * operation.
 *
 * Checkpoints are numbered from 1 and form a tree: each builds on its parent. The *head* is the one
 * that the district runs on from; what is not the head or one of its ancestors is *abandoned*. The
 * *root* is the oldest one, which everything else descends from.
 *
 * Errors are CKPT_STORE_ERROR; FORMAT_ERROR for what is wrong inside a checkpoint file, or where
 * memory is short; G_FILE_ERROR where a file cannot be read; and what a home's own functions say.
 * The message names the file or checkpoint and says what to do. After any error the store can be
 * used on, and the call can be made again.
 *
 * Threads: any thread may call anything at any time. ckpt_store_merge_some and ckpt_store_prune are
 * one at a time and meant for one background thread; loads and checks exclude them. Prepare,
 * commit, discard, list and the like wait for none of these, only for one short transaction (which
 * may include a sync of the catalog). Nothing here is for a thread that must not wait for a disk.
 */
#ifndef DISTRICT_CKPT_STORE_H
#define DISTRICT_CKPT_STORE_H

#include "ckpt/image.h"

typedef enum {
    CKPT_STORE_ERROR_BUSY,      /* another process writes to it */
    CKPT_STORE_ERROR_NOT_FOUND, /* no such store or checkpoint */
    CKPT_STORE_ERROR_REFUSED,   /* not possible as things are */
    CKPT_STORE_ERROR_FOREIGN,   /* another version, or another district's */
    CKPT_STORE_ERROR_DAMAGED,   /* the catalog or a base image is not what was written */
    CKPT_STORE_ERROR_FULL,      /* no space: free some */
    CKPT_STORE_ERROR_IO,        /* the operating system says no */
} CkptStoreError;

#define CKPT_STORE_ERROR (ckpt_store_error_quark())
GQuark ckpt_store_error_quark(void);

typedef struct CkptStore CkptStore;

typedef enum {
    CKPT_STORE_READ,   /* list, find, load and check only; any number, also beside a writer */
    CKPT_STORE_WRITE,  /* the only writer */
    CKPT_STORE_CREATE, /* the same; the directory is made if it is not there */
} CkptStoreMode;

/*
 * Open the store in directory path. district: whose it must be; NULL with CKPT_STORE_READ for any.
 * A writer finishes what a crash has interrupted: checkpoint files that are whole and unknown to
 * the catalog are taken into it, others removed. NULL with error set.
 */
CkptStore *ckpt_store_open(const char *path, const char *district, CkptStoreMode mode,
                           GError **error);
/* No other call is under way. NULL is allowed. */
void ckpt_store_close(CkptStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CkptStore, ckpt_store_close)

/* ---- Writing checkpoints ---- */

/*
 * A file for the next checkpoint, ahead of time: its name is durable when this returns. *id is the
 * checkpoint's number, for its HELLO. *fd is the caller's, open for reading and writing, empty.
 */
gboolean ckpt_store_prepare(CkptStore *store, uint64_t *id, int *fd, GError **error);

/* Path of a checkpoint's file as prepared, for messages; caller frees. */
char *ckpt_store_new_path(const CkptStore *store, uint64_t id);

typedef struct CkptStoreCommit {
    uint64_t parent_id; /* the head, which it builds on; 0: the first of the store */
    bool full;          /* its epoch is full: none of the parent's RAM is left */
    uint64_t epoch;
    uint64_t incarnation; /* not below that of any checkpoint in the store */
    int64_t realtime_ns;  /* CLOCK_REALTIME of the cut, as in its CutState */
    const char *label;    /* as in HELLO; NULL or empty: none */
    uint64_t ram_pages;   /* in the file; for the list only */
    uint64_t disk_blocks; /* the same */
} CkptStoreCommit;

/*
 * The file is complete, and fdatasync(2) or fsync(2) of it has returned success: it is a checkpoint
 * from here on, and the head. In truth it is one since the sync: if the catalog loses this, the
 * next open takes the file in again. The head of the file (HELLO, EPOCH_BEGIN) is compared with
 * what is said here; the rest is as trusted as the caller. On failure it may be tried again or
 * discarded.
 */
gboolean ckpt_store_commit(CkptStore *store, uint64_t id, const CkptStoreCommit *commit,
                           GError **error);
/* Give up a prepared file; durable. FALSE: it may come back as a checkpoint at the next open. */
gboolean ckpt_store_discard(CkptStore *store, uint64_t id, GError **error);

/* ---- Looking ---- */

typedef enum {
    CKPT_STORE_ROOT = 1 << 0,
    CKPT_STORE_MERGED = 1 << 1, /* the root, and base images and homes have all of it, durably */
    CKPT_STORE_HEAD = 1 << 2,
    CKPT_STORE_ABANDONED = 1 << 3, /* neither the head nor an ancestor of it */
    CKPT_STORE_PINNED = 1 << 4,
    CKPT_STORE_IS_FULL = 1 << 5, /* its file has all of the RAM */
} CkptStoreFlags;

typedef struct CkptStoreEntry {
    uint64_t id;
    uint64_t parent; /* 0: none (the root) */
    unsigned depth;  /* in the tree; 0: the root */
    uint64_t epoch;
    uint64_t incarnation;
    int64_t realtime_ns;
    uint64_t bytes; /* of its file */
    uint64_t ram_pages;
    uint64_t disk_blocks;
    unsigned flags;
    char *label; /* owned; NULL: none */
} CkptStoreEntry;

void ckpt_store_entry_free(CkptStoreEntry *entry);

/* All checkpoints (CkptStoreEntry, freed with the array): each before its children, children by
 * number. NULL with error set. */
GPtrArray *ckpt_store_list(CkptStore *store, GError **error);

/* "latest" (the head), a number, or a label (of several with one label the newest). *id is set. */
gboolean ckpt_store_find(CkptStore *store, const char *what, uint64_t *id, GError **error);

/* 0: the store is empty. */
gboolean ckpt_store_head(CkptStore *store, uint64_t *id, GError **error);
/* *merged: base images and homes have all of the root, durably. */
gboolean ckpt_store_root(CkptStore *store, uint64_t *id, gboolean *merged, GError **error);

typedef struct CkptStoreUsage {
    uint64_t checkpoints; /* bytes on the disk, of all checkpoint files */
    uint64_t base;        /* of the base images */
    uint64_t total;       /* all of the directory */
} CkptStoreUsage;
gboolean ckpt_store_usage(CkptStore *store, CkptStoreUsage *usage, GError **error);

/* ---- Durable changes (a writer only) ---- */

/* The district goes on from id: the next checkpoint builds on it. */
gboolean ckpt_store_set_head(CkptStore *store, uint64_t id, GError **error);

/* 1 to 64 printable characters, neither a number nor "latest"; NULL: none any more. */
gboolean ckpt_store_label(CkptStore *store, uint64_t id, const char *label, GError **error);
bool ckpt_store_label_good(const char *label);

/*
 * Keep id, whatever the policy, until every owner has unpinned it; and as long as anything is pinned,
 * base images and homes stay as they are, for others who read them: nothing is merged any more when
 * this returns. owner: a name (layout.h).
 */
gboolean ckpt_store_pin(CkptStore *store, uint64_t id, const char *owner, GError **error);
/* Of a checkpoint that is not pinned by owner: nothing happens. */
gboolean ckpt_store_unpin(CkptStore *store, uint64_t id, const char *owner, GError **error);

typedef struct CkptStorePin {
    uint64_t id;
    char *owner; /* owned */
} CkptStorePin;

/* *held: something is pinned. */
gboolean ckpt_store_is_held(CkptStore *store, gboolean *held, GError **error);
/* All pins (CkptStorePin, freed with the array), also at a reader. NULL with error set. */
GPtrArray *ckpt_store_pins(CkptStore *store, GError **error);

/* ---- Loading ---- */

/* The state of checkpoint id: members, devices, definition. Every byte of its own file is verified,
 * other files are not read. Free with district__cut_state__free_unpacked. NULL with error set. */
District__CutState *ckpt_store_state(CkptStore *store, uint64_t id, GError **error);

/*
 * Checkpoint id as an image: RAM as sealed memfds, and for each disk an overlay with what its home
 * may not have, in nameless files in overlay_dir. Every byte is verified. NULL with an error that
 * names the file and what is wrong with it; nothing is loaded in part.
 *
 * The homes must be at the store's root (that is, nobody but ckpt_store_merge_some has written to
 * them). They stay right for the image as long as id is neither pruned nor left behind by a merge:
 * the head and pinned checkpoints never are. So to go back to another checkpoint: pin it, load it,
 * set the head, unpin it.
 */
Image *ckpt_store_load(CkptStore *store, uint64_t id, const char *overlay_dir, GError **error);

/* ---- Merging (KeyKOS: migration) ---- */

/* The home of a disk. Called on the thread of ckpt_store_merge_some; the calls may block. Ranges
 * lie inside the disk and are multiples of SECTOR_BYTES. */
typedef struct CkptStoreHome {
    gboolean (*write)(void *opaque, uint64_t offset, const void *data, size_t len, GError **error);
    gboolean (*zero)(void *opaque, uint64_t offset, uint64_t len, GError **error);
    /* All that was written is durable when this returns. */
    gboolean (*flush)(void *opaque, GError **error);
    void *opaque;
} CkptStoreHome;

/* Finds the home of disk number disk (from 0, of those with an overlay) of a member; valid until
 * the merge is done. NULL: there is none, and the merge fails. */
typedef const CkptStoreHome *(*CkptStoreFindHome)(void *opaque, const char *member, uint32_t disk,
                                                  uint64_t bytes);

/*
 * Write about budget bytes of the root's pages to the base images and homes. *done: base images and
 * homes have all of the root, durably (at once if they had already). Killed or failed at any point,
 * it begins with the root's first page again, and all checkpoints stay what they are. While there are
 * pins nothing is written, and *done stays FALSE.
 */
gboolean ckpt_store_merge_some(CkptStore *store, uint64_t budget, CkptStoreFindHome find,
                               void *opaque, gboolean *done, GError **error);

/* ---- Retention ---- */

typedef struct CkptStorePolicy {
    unsigned keep_last;   /* so many of the newest */
    unsigned keep_hourly; /* the newest of each of so many hours (UTC) that have any, and */
    unsigned keep_daily;  /* of so many days (UTC) */
    bool keep_labelled;
    bool root_stays; /* it cannot be merged for now: nothing waits for that */
} CkptStorePolicy;

typedef struct CkptStorePruned {
    unsigned checkpoints; /* that have gone */
    uint64_t bytes;       /* that have been read and written */
    bool done;            /* nothing is left to do until something changes */
    bool needs_merge;     /* what is left waits for the root to be merged */
} CkptStorePruned;

/*
 * Remove what the policy does not keep. The head and pinned checkpoints are always kept. Works for
 * about budget bytes and can then be called again; what is half done is gone on with.
 */
gboolean ckpt_store_prune(CkptStore *store, const CkptStorePolicy *policy, uint64_t budget,
                          CkptStorePruned *pruned, GError **error);

/*
 * At a reader that reads for longer than one load or check, which do so by themselves: have the
 * writer neither merge nor prune until the descriptor is closed. It ends the step that it is at. -1:
 * it cannot be told.
 */
int ckpt_store_hold(CkptStore *store);

/*
 * At a writer: is another process loading a checkpoint, or checking? Then it wants neither merges
 * nor prunes, which would have it begin again.
 */
bool ckpt_store_is_read(const CkptStore *store);

/* ---- Indexes ---- */

/*
 * Read about budget bytes of checkpoint files that have no index yet, so that a lazy load
 * (store-ram.h) need not. *done: there is nothing left to do. A file that cannot be read is an
 * error once; after that there is nothing to do until the next open.
 */
gboolean ckpt_store_index_some(CkptStore *store, uint64_t budget, gboolean *done, GError **error);

/* ---- Checking ---- */

/* object: a path below the store. text: what is wrong with it and what that means. */
typedef void (*CkptStoreReport)(void *opaque, const char *object, const char *text);

/*
 * Verify every byte of every file, and that they belong together. Returns the number of faults,
 * each of which has been reported; -1 with error set: it could not be done.
 */
gint64 ckpt_store_check(CkptStore *store, CkptStoreReport report, void *opaque, GError **error);

#endif
