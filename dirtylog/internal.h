/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the two sources share with the common part, dirtylog.c. Not for use outside this folder. */
#ifndef DISTRICT_DIRTYLOG_INTERNAL_H
#define DISTRICT_DIRTYLOG_INTERNAL_H

#include "dirtylog/dirtylog.h"

#include <linux/kvm.h>

#define DIRTYLOG_SLOTS_MAX 64

typedef struct LogSlot {
    DirtyLogSlot where;
    size_t words;      /* of each bitmap below */
    uint64_t *pending; /* dirty and not handed out yet; atomic access only */
    uint64_t *scratch; /* for the source alone, under the mutex */
    uint64_t *unsafe;  /* the same; only the ring has one, see there */
} LogSlot;

/* A source. All functions are called with the mutex held. */
typedef struct DirtyLogOps {
    const char *name;
    gboolean (*slot_added)(DirtyLog *log, LogSlot *slot, GError **error);
    gboolean (*vcpu_added)(DirtyLog *log, int vcpu_fd, GError **error);
    /*
     * OR what KVM logged into the slots' pending sets and re-protect it. On return with TRUE every
     * page whose log entry was consumed is protected again; with FALSE all that was consumed is in
     * the pending sets nevertheless.
     */
    gboolean (*collect)(DirtyLog *log, GError **error);
    void (*free)(void *state);
} DirtyLogOps;

struct DirtyLog {
    const DirtyLogOps *ops;
    void *state; /* the source's own */
    int kvm_fd;
    int vm_fd;
    GMutex mutex;
    guint n_slots; /* published with release: dirtylog_mark reads without the mutex */
    LogSlot slots[DIRTYLOG_SLOTS_MAX];
};

/* Enable a source on log->vm_fd and set ops and state. FALSE with error set if it is not offered.
 */
gboolean dirtylog_bitmap_enable(DirtyLog *log, GError **error);
gboolean dirtylog_ring_enable(DirtyLog *log, uint32_t entries, GError **error);

/* The slot KVM calls number, or NULL. */
LogSlot *dirtylog_slot_find(DirtyLog *log, uint32_t number);

/* An empty log on a source of the caller's: for the sources' own use and for unit tests. */
DirtyLog *dirtylog_alloc(int kvm_fd, int vm_fd);

/* Set error from errno: "dirty log: <what>: <reason>". Returns FALSE. */
gboolean dirtylog_fail_errno(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/*
 * Bitmap: the next run of pages that KVM_CLEAR_DIRTY_LOG should be given, starting the search at
 * word *pos, which is moved past the run. *first is a multiple of 64, and *count is too unless the
 * run ends with the slot (KVM API §4.117). FALSE if no bit is left.
 */
gboolean dirtylog_bitmap_next_run(const LogSlot *slot, size_t *pos, uint64_t *first,
                                  uint32_t *count);

/* Ring: one vCPU's ring, shared with KVM. */
typedef struct DirtyRing {
    struct kvm_dirty_gfn *entries;
    uint32_t n_entries; /* power of two */
    uint32_t next;      /* free-running index of the first entry not collected yet */
} DirtyRing;

/* KVM_RESET_DIRTY_RINGS: how many entries were reset, or -1 with errno. */
typedef int (*DirtyRingReset)(DirtyLog *log);

/* The ring as source of log, which is enabled already; reset stands in for KVM in unit tests. */
void dirtylog_ring_init(DirtyLog *log, uint32_t n_entries, DirtyRingReset reset);

/*
 * Move all published entries of a ring into the pending sets and flag them for reset. Returns how
 * many were taken. An entry for an unknown slot or a page beyond its slot is taken too, so that the
 * ring does not jam, and reported in error (the first one; error must not be NULL).
 */
uint32_t dirtylog_ring_collect(DirtyLog *log, DirtyRing *ring, GError **error);

#endif
