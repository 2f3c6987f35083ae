/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty logging: the part common to all sources.
 *
 * Theory of operation
 *
 * Each memslot has a pending set: the pages known to be dirty and not handed out yet. It starts
 * full, so the first harvest reports every page, whatever the source. Three parties add to it: the
 * source, when it collects what KVM logged; dirtylog_mark, for what the VMM wrote; and nobody else.
 * One party empties it: dirtylog_harvest, word by word with an atomic exchange, and only after the
 * source has collected *and re-protected* with success.
 *
 * That order carries the promise in dirtylog.h. Say page P is handed out by harvest H. P was
 * protected again, and stale translations flushed from all vCPUs, before H handed it out. A write
 * to P after that point faults, or sets a D bit, and is logged anew for a later harvest. A write
 * before that point happened before H returned, so a copy made after H contains it. The same holds
 * when another process watches the target bitmap while H runs: a bit appears there only after its
 * page is protected.
 *
 * A harvest that fails hands out nothing and forgets nothing: what the source consumed stays in the
 * pending sets, and the next harvest that succeeds hands it out.
 *
 * What a running vCPU wrote can come late, never be lost: with page-modification logging (Intel SDM
 * vol. 3, "Page-Modification Logging") the CPU keeps up to 512 entries to itself until the next VM
 * exit. KVM_GET_DIRTY_LOG forces these exits, ring harvesting does not (KVM API §8.29). The harvest
 * of a cut runs with all vCPUs out of KVM_RUN, and is exact with either source.
 */
#include "dirtylog/internal.h"

#include "common/page.h"
#include "common/pagebits.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <unistd.h>

#define WORD_BITS 64

gboolean
dirtylog_fail_errno(GError **error, const char *format, ...)
{
    int saved = errno;
    va_list args;
    g_autofree char *what = NULL;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, (gint)g_io_error_from_errno(saved), "dirty log: %s: %s", what,
                g_strerror(saved));
    return FALSE;
}

DirtyLog *
dirtylog_alloc(int kvm_fd, int vm_fd)
{
    DirtyLog *log = g_new0(DirtyLog, 1);

    log->kvm_fd = kvm_fd;
    log->vm_fd = vm_fd;
    g_mutex_init(&log->mutex);
    return log;
}

/* Prefer the ring: its cost follows the pages dirtied, the bitmap's the size of RAM. */
static gboolean
enable_best(DirtyLog *log, uint32_t ring_entries, GError **error)
{
    g_autoptr(GError) why = NULL;

    /* With PVM a ring works but fills with every store, and may be overrun; see ring.c. */
    if (access("/sys/module/kvm_pvm", F_OK) == 0)
        return dirtylog_bitmap_enable(log, error);
    if (dirtylog_ring_enable(log, ring_entries, &why))
        return TRUE;
    g_debug("%s; using the bitmap", why->message);
    return dirtylog_bitmap_enable(log, error);
}

static gboolean
enable_source(DirtyLog *log, DirtyLogSource source, uint32_t ring_entries, GError **error)
{
    switch (source) {
    case DIRTYLOG_BITMAP:
        return dirtylog_bitmap_enable(log, error);
    case DIRTYLOG_RING:
        return dirtylog_ring_enable(log, ring_entries, error);
    case DIRTYLOG_AUTO:
        return enable_best(log, ring_entries, error);
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "dirty log: no such source: %d",
                (int)source);
    return FALSE;
}

DirtyLog *
dirtylog_new(int kvm_fd, int vm_fd, DirtyLogSource source, uint32_t ring_entries, GError **error)
{
    DirtyLog *log = dirtylog_alloc(kvm_fd, vm_fd);

    if (!enable_source(log, source, ring_entries, error)) {
        dirtylog_free(log);
        return NULL;
    }
    return log;
}

void
dirtylog_free(DirtyLog *log)
{
    if (!log)
        return;
    if (log->ops)
        log->ops->free(log->state);
    for (guint i = 0; i < log->n_slots; i++) {
        g_free(log->slots[i].pending);
        g_free(log->slots[i].scratch);
        g_free(log->slots[i].unsafe);
    }
    g_mutex_clear(&log->mutex);
    g_free(log);
}

const char *
dirtylog_source_name(const DirtyLog *log)
{
    return log->ops->name;
}

LogSlot *
dirtylog_slot_find(DirtyLog *log, uint32_t number)
{
    for (guint i = 0; i < log->n_slots; i++)
        if (log->slots[i].where.slot == number)
            return &log->slots[i];
    return NULL;
}

static gboolean
slot_check(DirtyLog *log, const DirtyLogSlot *where, GError **error)
{
    const uint64_t max = page_count(RAM_BYTES_MAX);

    if (where->n_pages == 0 || where->n_pages > max || where->first_page > max - where->n_pages) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "dirty log: memslot %u: pages %" PRIu64 "+%" PRIu64 " are not within 1 TiB",
                    where->slot, where->first_page, where->n_pages);
        return FALSE;
    }
    if (log->n_slots == DIRTYLOG_SLOTS_MAX || dirtylog_slot_find(log, where->slot)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                    "dirty log: memslot %u: watched already, or more than %d memslots", where->slot,
                    DIRTYLOG_SLOTS_MAX);
        return FALSE;
    }
    return TRUE;
}

static gboolean
slot_alloc(LogSlot *slot, const DirtyLogSlot *where, GError **error)
{
    *slot = (LogSlot){.where = *where, .words = pagebits_words(where->n_pages)};
    slot->pending = g_try_new0(uint64_t, slot->words);
    slot->scratch = g_try_new0(uint64_t, slot->words);
    if (!slot->pending || !slot->scratch) {
        errno = ENOMEM;
        return dirtylog_fail_errno(error, "bitmaps of memslot %u", where->slot);
    }
    pagebits_set_range(slot->pending, 0, where->n_pages);
    return TRUE;
}

gboolean
dirtylog_add_slot(DirtyLog *log, const DirtyLogSlot *where, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&log->mutex);
    LogSlot *slot;

    if (!slot_check(log, where, error))
        return FALSE;
    slot = &log->slots[log->n_slots];
    if (!slot_alloc(slot, where, error) || !log->ops->slot_added(log, slot, error)) {
        g_clear_pointer(&slot->pending, g_free);
        g_clear_pointer(&slot->scratch, g_free);
        g_clear_pointer(&slot->unsafe, g_free);
        return FALSE;
    }
    __atomic_store_n(&log->n_slots, log->n_slots + 1, __ATOMIC_RELEASE);
    return TRUE;
}

gboolean
dirtylog_add_vcpu(DirtyLog *log, int vcpu_fd, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&log->mutex);

    return log->ops->vcpu_added(log, vcpu_fd, error);
}

void
dirtylog_mark(DirtyLog *log, uint64_t first_page, uint64_t count)
{
    guint n = __atomic_load_n(&log->n_slots, __ATOMIC_ACQUIRE);
    uint64_t end = count > UINT64_MAX - first_page ? UINT64_MAX : first_page + count;

    /* Pages of no slot are ignored: a slot added later starts with all its pages pending. */
    for (guint i = 0; i < n; i++) {
        const DirtyLogSlot *where = &log->slots[i].where;
        uint64_t from = MAX(first_page, where->first_page);
        uint64_t to = MIN(end, where->first_page + where->n_pages);

        if (from < to)
            pagebits_set_range(log->slots[i].pending, from - where->first_page, to - from);
    }
}

gboolean
dirtylog_collect(DirtyLog *log, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&log->mutex);

    return log->ops->collect(log, error);
}

/* Move a slot's pending set into bits, which may be shared. Returns the number of pages moved. */
static uint64_t
slot_hand_out(LogSlot *slot, uint64_t *bits)
{
    size_t base = slot->where.first_page / WORD_BITS;
    unsigned shift = slot->where.first_page % WORD_BITS;
    uint64_t n = 0;

    for (size_t i = pagebits_next(slot->pending, 0, slot->words); i < slot->words;
         i = pagebits_next(slot->pending, i + 1, slot->words)) {
        uint64_t word = pagebits_take_word(slot->pending, i);
        uint64_t carry = shift ? word >> (WORD_BITS - shift) : 0;

        n += (uint64_t)__builtin_popcountll(word);
        __atomic_fetch_or(&bits[base + i], word << shift, __ATOMIC_ACQ_REL);
        if (carry)
            __atomic_fetch_or(&bits[base + i + 1], carry, __ATOMIC_ACQ_REL);
    }
    return n;
}

uint64_t
dirtylog_hand_out(DirtyLog *log, uint64_t *bits)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&log->mutex);
    uint64_t n = 0;

    for (guint i = 0; i < log->n_slots; i++)
        n += slot_hand_out(&log->slots[i], bits);
    return n;
}

gboolean
dirtylog_harvest(DirtyLog *log, uint64_t *bits, uint64_t *n_pages, GError **error)
{
    if (!dirtylog_collect(log, error))
        return FALSE;
    uint64_t n = dirtylog_hand_out(log, bits);
    if (n_pages)
        *n_pages = n;
    return TRUE;
}
