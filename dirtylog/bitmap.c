/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty source: the KVM bitmap with manual protect.
 *
 * Without manual protect KVM_GET_DIRTY_LOG clears the whole log and write-protects under the MMU
 * lock in one go. With it, GET only copies the bitmap, and KVM_CLEAR_DIRTY_LOG clears and protects
 * the ranges it is given (KVM API §4.117, §7.18). Order here: GET, then CLEAR exactly the bits that
 * GET returned. A bit that KVM sets in between is either one that we know already (the page is
 * dirty and will be copied after the harvest) or one that we do not clear (the next GET returns
 * it).
 *
 * KVM_DIRTY_LOG_INITIALLY_SET makes a new memslot's log all ones, and leaves its pages writable
 * until their first CLEAR: a guest boots without dirty faults until its first harvest.
 */
#include "dirtylog/internal.h"

#include "common/pagebits.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <sys/ioctl.h>

#define WORD_BITS 64
/* Words per CLEAR: 1 GiB of guest RAM. Bounds how long KVM holds its MMU lock against vCPU faults.
 */
#define CLEAR_WORDS_MAX 4096

static size_t
run_trim(const LogSlot *slot, size_t from, size_t to)
{
    while (to > from + 1 && slot->scratch[to - 1] == 0)
        to--;
    return to;
}

gboolean
dirtylog_bitmap_next_run(const LogSlot *slot, size_t *pos, uint64_t *first, uint32_t *count)
{
    size_t from = *pos;
    size_t to;

    while (from < slot->words && slot->scratch[from] == 0)
        from++;
    if (from >= slot->words)
        return FALSE;
    /*
     * Clean words inside a run cost KVM next to nothing, another ioctl costs a TLB flush on all
     * vCPUs: so runs are as long as allowed.
     */
    to = run_trim(slot, from, MIN(from + CLEAR_WORDS_MAX, slot->words));
    *pos = to;
    *first = (uint64_t)from * WORD_BITS;
    *count = (uint32_t)(MIN((uint64_t)to * WORD_BITS, slot->where.n_pages) - *first);
    return TRUE;
}

static gboolean
slot_get(DirtyLog *log, LogSlot *slot, GError **error)
{
    struct kvm_dirty_log get = {.slot = slot->where.slot, .dirty_bitmap = slot->scratch};
    unsigned tail = slot->where.n_pages % WORD_BITS;

    if (ioctl(log->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0)
        return dirtylog_fail_errno(error, "KVM_GET_DIRTY_LOG of memslot %u", slot->where.slot);
    if (tail)
        slot->scratch[slot->words - 1] &= ((uint64_t)1 << tail) - 1;
    return TRUE;
}

static gboolean
slot_clear(DirtyLog *log, LogSlot *slot, GError **error)
{
    struct kvm_clear_dirty_log clear = {.slot = slot->where.slot};
    uint64_t first;
    uint32_t count;

    for (size_t pos = 0; dirtylog_bitmap_next_run(slot, &pos, &first, &count);) {
        clear.first_page = first;
        clear.num_pages = count;
        /* KVM indexes this bitmap from first_page, not from the start of the slot. */
        clear.dirty_bitmap = slot->scratch + first / WORD_BITS;
        if (ioctl(log->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
            return dirtylog_fail_errno(error,
                                       "KVM_CLEAR_DIRTY_LOG of memslot %u, pages %" PRIu64 "+%u",
                                       slot->where.slot, first, count);
    }
    return TRUE;
}

static gboolean
bitmap_collect(DirtyLog *log, GError **error)
{
    for (guint i = 0; i < log->n_slots; i++) {
        LogSlot *slot = &log->slots[i];
        gboolean ok;

        if (!slot_get(log, slot, error))
            return FALSE;
        ok = slot_clear(log, slot, error);
        /* A CLEAR that failed half-way has cleared some bits: none of them may be forgotten. */
        pagebits_or(slot->pending, slot->scratch, slot->words);
        if (!ok)
            return FALSE;
    }
    return TRUE;
}

/* Reading the log once finds out early that the slot is missing or is not logged. */
static gboolean
bitmap_slot_added(DirtyLog *log, LogSlot *slot, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (slot_get(log, slot, &why))
        return TRUE;
    g_set_error(error, why->domain, why->code, "%s; set it with KVM_MEM_LOG_DIRTY_PAGES first",
                why->message);
    return FALSE;
}

static gboolean
bitmap_vcpu_added(DirtyLog *log, int vcpu_fd, GError **error)
{
    return TRUE;
}

static void
bitmap_free(void *state)
{
}

static const DirtyLogOps bitmap_ops = {
    .name = "bitmap",
    .slot_added = bitmap_slot_added,
    .vcpu_added = bitmap_vcpu_added,
    .collect = bitmap_collect,
    .free = bitmap_free,
};

gboolean
dirtylog_bitmap_enable(DirtyLog *log, GError **error)
{
    const int wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    int offered = ioctl(log->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};

    if (offered < 0)
        return dirtylog_fail_errno(error, "KVM_CHECK_EXTENSION");
    if (!(offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "dirty log: this kernel's KVM has no manual dirty log protect; Linux 5.2 has");
        return FALSE;
    }
    cap.args[0] = (uint64_t)(offered & wanted);
    if (ioctl(log->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
        return dirtylog_fail_errno(error, "enabling KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
    log->ops = &bitmap_ops;
    return TRUE;
}
