/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty source: the KVM dirty ring (KVM API §8.29).
 *
 * KVM gives each vCPU a ring of (memslot, page) entries, mapped here. An entry goes through three
 * states by its flags: 0, free; DIRTY, published by KVM with release; RESET, collected by us with
 * release. KVM_RESET_DIRTY_RINGS makes all collected entries free again, protects their pages and
 * flushes translations.
 *
 * Since Linux 6.17 that call stops early, without an error, when a signal is pending for the
 * caller; and then it has freed, and counted, up to 64 neighbouring pages that it has not
 * protected. Their next writes would go unseen. So signals are blocked during the call. A stop
 * signal or a debugger cannot be blocked, but shows in a count that is too low: then all pages of
 * this collection join the slots' unsafe sets, which are reported with every harvest. A page leaves
 * the unsafe set when it appears in a ring again, as it is then reset again, completely or not.
 *
 * KVM stops a vCPU (KVM_EXIT_DIRTY_RING_FULL) while some entries of its ring are still free, so a
 * ring never gets quite full. Should it do so nevertheless, KVM has overrun it: entries are lost,
 * and their pages stay unprotected for good. That is an error for the rest of the log's life. A KVM
 * that emulates kernel-mode guest code (PVM) can do this, as it logs each store of a string
 * instruction by itself; there the automatic choice is the bitmap.
 *
 * The rings hold what is written on behalf of a vCPU: by the guest, and by KVM for it (kvmclock,
 * steal time, async page faults, emulated stores). Writes by KVM outside of any vCPU would be in no
 * ring. Only arm64's GIC tables are saved that way, and only arm64 therefore needs
 * KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP; on x86 KVM has none for a VM without Xen emulation, and warns
 * (kvm_arch_allow_write_without_running_vcpu) should one appear. Devices in the host kernel such as
 * vhost would be a third writer; District uses none. What the VMM writes is marked by
 * dirtylog_mark.
 */
#include "dirtylog/internal.h"

#include "common/pagebits.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RING_ENTRIES_DEFAULT 65536
/* Calls of KVM_RESET_DIRTY_RINGS in a row that reset nothing before we give up. */
#define RESET_TRIES_MAX 1000

typedef struct RingState {
    GArray *rings; /* of DirtyRing, one per vCPU */
    uint32_t n_entries;
    DirtyRingReset reset;
    uint64_t unreset; /* entries collected and not reset by KVM yet */
    gboolean overrun; /* a ring was quite full once */
    gboolean unsafe;  /* some slot's unsafe set is not empty */
} RingState;

static void
entry_take(DirtyLog *log, const struct kvm_dirty_gfn *entry, GError **error)
{
    uint32_t number = entry->slot;
    uint64_t offset = entry->offset;
    LogSlot *slot = dirtylog_slot_find(log, number);

    if (slot && offset < slot->where.n_pages) {
        uint64_t bit = (uint64_t)1 << (offset % 64);

        pagebits_set(slot->pending, offset);
        slot->scratch[offset / 64] |= bit;
        slot->unsafe[offset / 64] &= ~bit;
        return;
    }
    if (!*error)
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "dirty log: ring entry for memslot %u, page %" PRIu64
                    ", which is not watched; announce it with dirtylog_add_slot",
                    number, offset);
}

uint32_t
dirtylog_ring_collect(DirtyLog *log, DirtyRing *ring, GError **error)
{
    uint32_t n = 0;

    for (; n < ring->n_entries; n++) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->next & (ring->n_entries - 1)];
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);

        if ((flags & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        entry_take(log, entry, error);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        ring->next++;
    }
    return n;
}

/* KVM_RESET_DIRTY_RINGS with signals blocked: the number of entries reset, or -1 with errno. */
static int
reset_call(DirtyLog *log)
{
    sigset_t all;
    sigset_t before;
    int saved;
    int n;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    n = ioctl(log->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
    saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return n;
}

/* Have KVM reset all that was collected. *complete: in one go; else some pages may be unprotected.
 */
static gboolean
rings_reset(DirtyLog *log, RingState *state, gboolean *complete, GError **error)
{
    *complete = TRUE;
    for (unsigned tries = 0; state->unreset > 0 && tries < RESET_TRIES_MAX; tries++) {
        int n = state->reset(log);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return dirtylog_fail_errno(error, "KVM_RESET_DIRTY_RINGS");
        if (n > 0) {
            state->unreset -= MIN((uint64_t)n, state->unreset);
            tries = 0;
        }
        *complete &= state->unreset == 0;
    }
    if (state->unreset == 0)
        return TRUE;
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                "dirty log: KVM_RESET_DIRTY_RINGS left %" PRIu64 " pages unprotected",
                state->unreset);
    return FALSE;
}

/* After a reset: forget this collection's pages, or if the reset was not complete, distrust them.
 */
static void
slots_settle(DirtyLog *log, RingState *state, gboolean complete)
{
    state->unsafe |= !complete;
    for (guint i = 0; i < log->n_slots; i++) {
        LogSlot *slot = &log->slots[i];

        if (!complete)
            pagebits_or(slot->unsafe, slot->scratch, slot->words);
        if (state->unsafe)
            pagebits_or(slot->pending, slot->unsafe, slot->words);
        memset(slot->scratch, 0, slot->words * sizeof(uint64_t));
    }
}

static gboolean
ring_collect(DirtyLog *log, GError **error)
{
    RingState *state = log->state;
    g_autoptr(GError) odd = NULL;
    gboolean complete;
    gboolean ok;

    for (guint i = 0; i < state->rings->len; i++) {
        uint32_t n = dirtylog_ring_collect(log, &g_array_index(state->rings, DirtyRing, i), &odd);

        state->unreset += n;
        state->overrun |= n == state->n_entries;
    }
    if (state->overrun) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                    "dirty log: KVM overran a ring of %u entries; use the bitmap instead",
                    state->n_entries);
        return FALSE;
    }
    ok = rings_reset(log, state, &complete, error);
    slots_settle(log, state, ok && complete);
    if (!ok)
        return FALSE;
    if (odd) {
        g_propagate_error(error, g_steal_pointer(&odd));
        return FALSE;
    }
    return TRUE;
}

static gboolean
ring_slot_added(DirtyLog *log, LogSlot *slot, GError **error)
{
    slot->unsafe = g_try_new0(uint64_t, slot->words);
    if (slot->unsafe)
        return TRUE;
    errno = ENOMEM;
    return dirtylog_fail_errno(error, "bitmap of memslot %u", slot->where.slot);
}

static gboolean
ring_vcpu_added(DirtyLog *log, int vcpu_fd, GError **error)
{
    RingState *state = log->state;
    DirtyRing ring = {.n_entries = state->n_entries};
    size_t bytes = (size_t)state->n_entries * sizeof(struct kvm_dirty_gfn);
    off_t offset = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE);
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, offset);

    if (map == MAP_FAILED)
        return dirtylog_fail_errno(error, "mapping the dirty ring of vCPU fd %d", vcpu_fd);
    ring.entries = map;
    g_array_append_val(state->rings, ring);
    return TRUE;
}

static void
ring_free(void *opaque)
{
    RingState *state = opaque;

    for (guint i = 0; i < state->rings->len; i++) {
        DirtyRing *ring = &g_array_index(state->rings, DirtyRing, i);

        munmap(ring->entries, (size_t)ring->n_entries * sizeof(struct kvm_dirty_gfn));
    }
    g_array_unref(state->rings);
    g_free(state);
}

static const DirtyLogOps ring_ops = {
    .name = "ring",
    .slot_added = ring_slot_added,
    .vcpu_added = ring_vcpu_added,
    .collect = ring_collect,
    .free = ring_free,
};

/* How many entries to ask for, or 0 with error set. */
static uint32_t
ring_entries_choose(DirtyLog *log, uint32_t wanted, GError **error)
{
    int max_bytes = ioctl(log->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    uint32_t max = max_bytes > 0 ? (uint32_t)max_bytes / sizeof(struct kvm_dirty_gfn) : 0;

    if (max == 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "dirty log: this kernel's KVM has no dirty ring (ACQ_REL); Linux 6.1 has");
        return 0;
    }
    if (wanted == 0)
        return MIN(RING_ENTRIES_DEFAULT, max);
    if (wanted > max || (wanted & (wanted - 1)) != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "dirty log: ring of %u entries: must be a power of two, at most %u", wanted,
                    max);
        return 0;
    }
    return wanted;
}

void
dirtylog_ring_init(DirtyLog *log, uint32_t n_entries, DirtyRingReset reset)
{
    RingState *state = g_new0(RingState, 1);

    state->rings = g_array_new(FALSE, FALSE, sizeof(DirtyRing));
    state->n_entries = n_entries;
    state->reset = reset;
    log->state = state;
    log->ops = &ring_ops;
}

gboolean
dirtylog_ring_enable(DirtyLog *log, uint32_t entries, GError **error)
{
    uint32_t n = ring_entries_choose(log, entries, error);
    struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL};

    if (n == 0)
        return FALSE;
    cap.args[0] = (uint64_t)n * sizeof(struct kvm_dirty_gfn);
    if (ioctl(log->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
        return dirtylog_fail_errno(error, "enabling a dirty ring of %u entries", n);
    dirtylog_ring_init(log, n, reset_call);
    return TRUE;
}
