/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where dirty pages come from, behind one interface: the KVM bitmap with manual protect
 * (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM API §7.18 and §4.40, §4.117) and the KVM dirty ring
 * (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, §8.29), plus what the VMM itself writes, which KVM does not see.
 *
 * Promise: a page written before dirtylog_harvest is called, and not reported by an earlier
 * harvest, is reported by it; a page written while it runs is reported by it or by the next. So a
 * page copied after the harvest that reported it can only be stale if a later harvest reports it
 * again. The first harvest after a slot was added reports all of its pages, with every source.
 *
 * What a *running* vCPU wrote just before a harvest may come with a later one, as CPUs log in
 * batches (ring, KVM API §8.29). With all vCPUs out of KVM_RUN a harvest is exact.
 *
 * Threads: dirtylog_mark from any thread; dirtylog_collect from vCPU threads; everything else
 * from one thread at a time. An internal mutex serialises the ring.
 */
#ifndef DISTRICT_DIRTYLOG_DIRTYLOG_H
#define DISTRICT_DIRTYLOG_DIRTYLOG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct DirtyLog DirtyLog;

typedef enum {
    DIRTYLOG_AUTO, /* ring where the kernel has a usable one, else bitmap */
    DIRTYLOG_BITMAP,
    DIRTYLOG_RING,
} DirtyLogSource;

/* A memslot to watch. Page first_page of the harvest bitmap is its first page. */
typedef struct DirtyLogSlot {
    uint32_t slot;       /* KVM memslot number */
    uint64_t first_page; /* index in the RAM memfd, pages */
    uint64_t n_pages;
} DirtyLogSlot;

/*
 * Create for a VM, before any vCPU exists (the ring must be enabled first; KVM API §8.29) and
 * before memslots are set: they need KVM_MEM_LOG_DIRTY_PAGES from the start. ring_entries: power of
 * two, 0 for the default of 65536. NULL with error set if the wanted source is not offered. The fds
 * stay the caller's and must outlive the log.
 */
DirtyLog *dirtylog_new(int kvm_fd, int vm_fd, DirtyLogSource source, uint32_t ring_entries,
                       GError **error);
void dirtylog_free(DirtyLog *log);

/* What it became: "bitmap" or "ring". */
const char *dirtylog_source_name(const DirtyLog *log);

/* Announce each memslot, after it is set; then each vCPU, after it is created. */
gboolean dirtylog_add_slot(DirtyLog *log, const DirtyLogSlot *slot, GError **error);
gboolean dirtylog_add_vcpu(DirtyLog *log, int vcpu_fd, GError **error);

/*
 * The VMM wrote pages [first_page, first_page + count) of the RAM memfd: call it after the write.
 * Atomic, never blocks. Pages of no slot are ignored.
 */
void dirtylog_mark(DirtyLog *log, uint64_t first_page, uint64_t count);

/*
 * Take what KVM has logged since the last time, re-protect it, and keep it for the next hand-out.
 * Any thread; on KVM_EXIT_DIRTY_RING_FULL it is what lets the vCPU go on. FALSE with error set if
 * KVM fails: what it had given away already is kept.
 */
gboolean dirtylog_collect(DirtyLog *log, GError **error);

/*
 * OR what has been collected and marked since the last hand-out into bits (page indices of the RAM
 * memfd; common/pagebits.h; may be shared memory). Returns the number of pages.
 */
uint64_t dirtylog_hand_out(DirtyLog *log, uint64_t *bits);

/*
 * Collect and hand out: what was dirtied since the last harvest. *n_pages, if not NULL: its pages.
 * FALSE with error set if KVM fails: then bits is as it was and nothing may be taken as clean.
 */
gboolean dirtylog_harvest(DirtyLog *log, uint64_t *bits, uint64_t *n_pages, GError **error);

#endif
