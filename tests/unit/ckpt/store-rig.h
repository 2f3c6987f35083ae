/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store, the homes of the disks in it, and a model of what every checkpoint must be.
 *
 * What checkpoint ID writes follows from ID alone, so the state at a checkpoint follows from the
 * parents that were planned for it and its ancestors: a process that was not there can tell.
 */
#ifndef DISTRICT_TESTS_UNIT_CKPT_STORE_RIG_H
#define DISTRICT_TESTS_UNIT_CKPT_STORE_RIG_H

#include "ckpt/store-ram.h"

#define RIG_MEMBERS 2
#define RIG_IMAGES 5 /* RAM of two members, two disks of the first, one of the second */
#define RIG_IDS_MAX 4096
#define RIG_DEFINITION "[District]\nName=shop\n"

typedef struct RigPlan {
    uint64_t parent;
    bool known;
    bool full;
} RigPlan;

typedef struct Rig {
    char *dir;  /* of everything */
    char *path; /* of the store */
    CkptStore *store;
    uint64_t incarnation;
    RigPlan plan[RIG_IDS_MAX];
    int homes[RIG_IMAGES]; /* of the disks; -1 for RAM */
    CkptStoreHome home_ops[RIG_IMAGES];
    int home_calls_left; /* then they fail; -1: never */
    bool no_homes;
} Rig;

/* State of all images; each is padded to whole pages. */
typedef struct RigState {
    uint8_t *of[RIG_IMAGES];
} RigState;

/* Make new directories where syncs cost nothing. */
extern bool rig_in_memory;

/* A new directory with homes of random content, and a store that is open for writing. */
void rig_init(Rig *rig);
/* Over the directory of another one: homes and store are as they are there; the store is not open.
 */
void rig_init_at(Rig *rig, const char *dir);
/* Closes, and removes the directory. */
void rig_clear(Rig *rig);
/* Closes only. */
void rig_leave(Rig *rig);
void rig_open(Rig *rig, CkptStoreMode mode);
void rig_reopen(Rig *rig);

/* A whole file for checkpoint id. */
GByteArray *rig_file(Rig *rig, uint64_t id, uint64_t parent, bool full, const char *label,
                     GArray **starts);
CkptStoreCommit rig_commit_of(const Rig *rig, uint64_t id, uint64_t parent, bool full,
                              const char *label);
/* Prepare, write, sync; the caller commits. */
uint64_t rig_write(Rig *rig, uint64_t parent, bool full, const char *label);
/* On the head. Asserts that it works. Returns the id. */
uint64_t rig_commit(Rig *rig, bool full, const char *label);
/* The same, FALSE where it does not. */
gboolean rig_try_commit(Rig *rig, bool full, const char *label, uint64_t *id, GError **error);

RigState *rig_model(const Rig *rig, uint64_t id);
void rig_state_free(RigState *state);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RigState, rig_state_free)

/* Is image, over the homes as they are now, checkpoint id? Says what is not. */
bool rig_image_is(Rig *rig, const Image *image, uint64_t id);
/* All that a lazy load has left out goes to image, by pages in random order. */
gboolean rig_read_lazy(StoreRam *ram, Image *image, GError **error);
/* What a lazy load comes to, by pages in random order. NULL with error set. */
Image *rig_load_lazy(Rig *rig, uint64_t id, GError **error);
/* Loaded whole, and by a writer lazily too, it is what it must be. */
void rig_assert_loads(Rig *rig, uint64_t id);
/* Every checkpoint that is listed loads and is what it must be. Returns how many. */
guint rig_assert_all(Rig *rig);
/* No fault is found. */
void rig_assert_clean(Rig *rig);
bool rig_has(Rig *rig, uint64_t id);
guint rig_count(Rig *rig);

const CkptStoreHome *rig_find_home(void *opaque, const char *member, uint32_t disk, uint64_t bytes);
/* Merge until it is done. */
void rig_merge(Rig *rig);
/* Prune, and merge where that is waited for, until it is done. */
void rig_prune(Rig *rig, const CkptStorePolicy *policy);

/* Names of all files of the store; free with the array. */
GPtrArray *rig_files(const Rig *rig);
/* Path below the store of the checkpoint's file as it is now; caller frees. */
char *rig_path_of(const Rig *rig, uint64_t id);
void rig_copy_tree(const char *from, const char *to);
void rig_remove_tree(const char *dir);

#endif
