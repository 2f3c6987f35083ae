/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The shadow: the standby's copy of a district. */
#include "standby/shadow.h"

#include "ckpt/layout.h"
#include "common/fdmsg.h"
#include "common/memfd.h"
#include "standby/error.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Longest wait for a log to be applied. */
#define APPLY_TIMEOUT_MS 30000
/* Memory that a full epoch leaves to the rest of the host, and how often that is looked at. */
#define MEMORY_RESERVE ((uint64_t)64 * 1024 * 1024)
#define MEMORY_CHECK_PAGES 8192

typedef enum {
    EPOCH_NONE,
    EPOCH_FULL, /* pages go straight to RAM */
    EPOCH_LOG,  /* pages go to a log */
} EpochKind;

struct Shadow {
    int ledger_fd;
    Ledger *ledger;
    RedoLog *log[LEDGER_SLOTS];
    RamSet *ram;

    /* The open epoch; the writer's. */
    EpochKind open;
    unsigned open_log;
    LedgerSlot slot;
    uint64_t unchecked; /* pages of a full epoch since memory was last looked at */

    /* lock guards stop and goes with the condition; progress itself is in the ledger. */
    GThread *applier;
    GMutex lock;
    GCond cond; /* committed or applied has moved, or stop */
    bool stop;
};

/* ---- Applying ---- */

/* Apply all that is committed. Returns false if the ledger has a gap, which only damage makes. */
static bool
apply_committed(Shadow *shadow)
{
    const LedgerSlot *slot;

    while ((slot = ledger_next_to_apply(shadow->ledger)) != NULL) {
        uint64_t epoch = slot->epoch;

        redolog_apply(shadow->log[ledger_slot_index(shadow->ledger, slot)], slot, shadow->ram);
        ledger_set_applied(shadow->ledger, epoch);
        g_mutex_lock(&shadow->lock);
        g_cond_broadcast(&shadow->cond);
        g_mutex_unlock(&shadow->lock);
    }
    return ledger_applied(shadow->ledger) == ledger_committed(shadow->ledger);
}

static gpointer
applier_run(gpointer data)
{
    Shadow *shadow = data;

    g_mutex_lock(&shadow->lock);
    while (!shadow->stop) {
        if (ledger_next_to_apply(shadow->ledger) == NULL) {
            g_cond_wait(&shadow->cond, &shadow->lock);
            continue;
        }
        g_mutex_unlock(&shadow->lock);
        apply_committed(shadow);
        g_mutex_lock(&shadow->lock);
    }
    g_mutex_unlock(&shadow->lock);
    return NULL;
}

/* Wait until epoch is applied. */
static gboolean
wait_applied(Shadow *shadow, uint64_t epoch, int timeout_ms, GError **error)
{
    gint64 until = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    gboolean in_time = TRUE;

    g_mutex_lock(&shadow->lock);
    while (in_time && ledger_applied(shadow->ledger) < epoch)
        in_time = g_cond_wait_until(&shadow->cond, &shadow->lock, until);
    g_mutex_unlock(&shadow->lock);
    if (ledger_applied(shadow->ledger) >= epoch)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN,
                "epoch %" G_GUINT64_FORMAT
                " was not applied within %d ms: this host is overloaded or out of memory",
                epoch, timeout_ms);
    return FALSE;
}

gboolean
shadow_settle(Shadow *shadow, int timeout_ms, GError **error)
{
    return wait_applied(shadow, shadow_committed(shadow), timeout_ms, error);
}

/* ---- Coming and going ---- */

static Shadow *
shadow_alloc(void)
{
    Shadow *shadow = g_new0(Shadow, 1);

    shadow->ledger_fd = -1;
    g_mutex_init(&shadow->lock);
    g_cond_init(&shadow->cond);
    return shadow;
}

void
shadow_free(Shadow *shadow)
{
    if (shadow == NULL)
        return;
    if (shadow->applier != NULL) {
        g_mutex_lock(&shadow->lock);
        shadow->stop = true;
        g_cond_broadcast(&shadow->cond);
        g_mutex_unlock(&shadow->lock);
        g_thread_join(shadow->applier);
    }
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        redolog_free(shadow->log[i]);
    ram_set_free(shadow->ram);
    if (shadow->ledger != NULL)
        ledger_unmap(shadow->ledger);
    if (shadow->ledger_fd >= 0)
        close(shadow->ledger_fd);
    g_mutex_clear(&shadow->lock);
    g_cond_clear(&shadow->cond);
    g_free(shadow);
}

static gboolean
check_room(const District__StreamEpochBegin *begin, GError **error)
{
    uint64_t needed = 0, available = memory_available();

    if (begin->n_members + SHADOW_FDS_EXTRA > FDMSG_FDS_MAX) {
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "a district of %zu members cannot be protected: at most %d can",
                    begin->n_members, FDMSG_FDS_MAX - SHADOW_FDS_EXTRA);
        return FALSE;
    }
    for (size_t i = 0; i < begin->n_members; i++)
        needed += begin->members[i]->ram_size;
    if (needed <= available)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_FULL,
                "not enough memory on the standby host: %" G_GUINT64_FORMAT
                " MiB needed, %" G_GUINT64_FORMAT " MiB available: free some or use another host",
                needed >> 20, available >> 20);
    return FALSE;
}

static gboolean
shadow_make_logs(Shadow *shadow, int *fds, GError **error)
{
    for (unsigned i = 0; i < LEDGER_SLOTS; i++) {
        shadow->log[i] = redolog_new(fds != NULL ? fds[i] : -1, shadow_ram_bytes(shadow), error);
        if (shadow->log[i] == NULL)
            return FALSE;
        if (fds != NULL)
            fds[i] = -1;
    }
    return TRUE;
}

Shadow *
shadow_new(const char *district, uint64_t incarnation, const District__StreamEpochBegin *begin,
           GError **error)
{
    g_autoptr(Shadow) shadow = shadow_alloc();
    g_autofree uint64_t *sizes = g_new(uint64_t, begin->n_members);

    if (!check_room(begin, error))
        return NULL;
    shadow->ledger_fd = ledger_create(district, incarnation, begin, &shadow->ledger, error);
    if (shadow->ledger_fd < 0)
        return NULL;
    for (size_t i = 0; i < begin->n_members; i++)
        sizes[i] = begin->members[i]->ram_size;
    shadow->ram = ram_set_new(sizes, (uint32_t)begin->n_members, error);
    if (shadow->ram == NULL || !shadow_make_logs(shadow, NULL, error))
        return NULL;
    shadow->open = EPOCH_FULL;
    shadow->open_log = 0;
    shadow->slot = (LedgerSlot){.epoch = begin->epoch};
    shadow->applier = g_thread_new("applier", applier_run, shadow);
    return g_steal_pointer(&shadow);
}

/* ---- Adopting ---- */

/* The committed CutState must be one, and of the members whose RAM is here. */
static gboolean
check_state(const Shadow *shadow, const LedgerSlot *slot, const RedoLog *log, GError **error)
{
    ProtobufCMessage *message =
        /* Callers have found the slot. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        layout_unpack(&district__cut_state__descriptor, redolog_state(log, slot), slot->state_len,
                      "held cut state", error);
    District__CutState *cut = (District__CutState *)message;
    gboolean good;

    if (message == NULL)
        return FALSE;
    good = layout_check_cut(cut, error);
    if (good && (cut->epoch != slot->epoch || cut->n_members != shadow->ledger->n_members)) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "the held cut state does not belong to the held RAM");
        good = FALSE;
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return good;
}

static gboolean
shadow_check_logs(Shadow *shadow, GError **error)
{
    const LedgerSlot *committed = ledger_committed_slot(shadow->ledger);
    const LedgerSlot *next = ledger_next_to_apply(shadow->ledger);
    const LedgerSlot *slots[] = {committed, next};

    for (unsigned i = 0; i < G_N_ELEMENTS(slots); i++) {
        if (slots[i] != NULL &&
            !redolog_check(shadow->log[ledger_slot_index(shadow->ledger, slots[i])], slots[i],
                           shadow->ram, error))
            return FALSE;
    }
    return check_state(shadow, committed, shadow->log[ledger_slot_index(shadow->ledger, committed)],
                       error);
}

/* Map everything. Each descriptor that becomes the shadow's is set to -1 in fds. */
static gboolean
shadow_take(Shadow *shadow, int *fds, guint n_fds, GError **error)
{
    uint32_t n;
    g_autofree uint64_t *sizes = NULL;

    shadow->ledger = ledger_open(fds[0], error);
    if (shadow->ledger == NULL)
        return FALSE;
    shadow->ledger_fd = g_steal_fd(&fds[0]);
    n = shadow->ledger->n_members;
    if (n_fds != n + SHADOW_FDS_EXTRA) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "%u descriptors were held for a district of %u members", n_fds, n);
        return FALSE;
    }
    sizes = g_new(uint64_t, n);
    for (uint32_t i = 0; i < n; i++)
        sizes[i] = shadow->ledger->member[i].ram_size;
    shadow->ram = ram_set_adopt(fds + SHADOW_FDS_EXTRA, sizes, n, error);
    if (shadow->ram == NULL)
        return FALSE;
    for (uint32_t i = 0; i < n; i++)
        fds[SHADOW_FDS_EXTRA + i] = -1;
    return shadow_make_logs(shadow, fds + 1, error) && shadow_check_logs(shadow, error);
}

Shadow *
shadow_adopt(const int *fds, guint n_fds, GError **error)
{
    g_autofree int *own = g_new(int, MAX(n_fds, 1));
    g_autoptr(Shadow) shadow = shadow_alloc();
    gboolean good;

    if (n_fds <= SHADOW_FDS_EXTRA) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "%u descriptors are not what a standby holds", n_fds);
        return NULL;
    }
    for (guint i = 0; i < n_fds; i++)
        own[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
    good = shadow_take(shadow, own, n_fds, error);
    for (guint i = 0; i < n_fds; i++) {
        if (own[i] >= 0)
            close(own[i]);
    }
    if (!good)
        return NULL;
    if (!apply_committed(shadow)) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "a redo log between the held RAM and the committed epoch is missing: "
                    "resynchronise from the primary");
        return NULL;
    }
    shadow->applier = g_thread_new("applier", applier_run, shadow);
    return g_steal_pointer(&shadow);
}

gboolean
shadow_unspent(const Shadow *shadow, GError **error)
{
    for (uint32_t i = 0; i < shadow->ram->n; i++) {
        if (!memfd_is_spent(shadow->ram->fds[i]))
            continue;
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "its members have run from this copy already: protect it anew");
        return FALSE;
    }
    return TRUE;
}

/* ---- An epoch ---- */

static bool
same_members(const Shadow *shadow, const District__StreamEpochBegin *begin)
{
    if (begin->n_members != shadow->ledger->n_members)
        return false;
    for (uint32_t i = 0; i < begin->n_members; i++) {
        const LedgerMember *m = &shadow->ledger->member[i];
        if (strcmp(m->name, begin->members[i]->name) != 0 ||
            m->ram_size != begin->members[i]->ram_size)
            return false;
    }
    return true;
}

gboolean
shadow_begin(Shadow *shadow, const District__StreamEpochBegin *begin, GError **error)
{
    uint64_t committed = shadow_committed(shadow);
    const LedgerSlot *last = ledger_committed_slot(shadow->ledger);

    shadow_abandon(shadow);
    if (begin->base_epoch != committed || !same_members(shadow, begin)) {
        g_set_error(error, STANDBY_ERROR, STANDBY_DAMAGED,
                    "epoch %" G_GUINT64_FORMAT " builds on epoch %" G_GUINT64_FORMAT
                    " of these members, held is epoch %" G_GUINT64_FORMAT ": send a full epoch",
                    begin->epoch, begin->base_epoch, committed);
        return FALSE;
    }
    /* The other log held the epoch that the committed one builds on. */
    if (!wait_applied(shadow, last->base_epoch, APPLY_TIMEOUT_MS, error))
        return FALSE;
    shadow->open_log = 1 - ledger_slot_index(shadow->ledger, last);
    shadow->open = EPOCH_LOG;
    shadow->slot = (LedgerSlot){.epoch = begin->epoch, .base_epoch = begin->base_epoch};
    ledger_slot_clear(shadow->ledger, shadow->open_log);
    redolog_reset(shadow->log[shadow->open_log]);
    return TRUE;
}

/* Others take memory as well while a full epoch arrives, which may take minutes. */
static gboolean
check_memory(Shadow *shadow, uint32_t count, GError **error)
{
    uint64_t available;

    shadow->unchecked += count;
    if (shadow->unchecked < MEMORY_CHECK_PAGES)
        return TRUE;
    shadow->unchecked = 0;
    available = memory_available();
    if (available >= MEMORY_RESERVE)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, STANDBY_FULL,
                "not enough memory on the standby host: %" G_GUINT64_FORMAT
                " MiB of RAM arrive, and only %" G_GUINT64_FORMAT
                " MiB are left available: free some or use another host",
                shadow_ram_bytes(shadow) >> 20, available >> 20);
    return FALSE;
}

gboolean
shadow_pages(Shadow *shadow, uint32_t member, const DecodedPage *pages, uint32_t count,
             GError **error)
{
    if (shadow->open == EPOCH_LOG)
        return redolog_append_pages(shadow->log[shadow->open_log], member, pages, count, error);
    if (!check_memory(shadow, count, error))
        return FALSE;
    for (uint32_t i = 0; i < count; i++)
        ram_set_put(shadow->ram, member, pages[i].index, pages[i].data);
    return TRUE;
}

gboolean
shadow_state(Shadow *shadow, const uint8_t *packed, size_t len, int64_t realtime_ns, GError **error)
{
    shadow->slot.realtime_ns = realtime_ns;
    return redolog_append_state(shadow->log[shadow->open_log], packed, len, error);
}

void
shadow_commit(Shadow *shadow)
{
    g_return_if_fail(shadow->open != EPOCH_NONE);
    redolog_describe(shadow->log[shadow->open_log], &shadow->slot);
    if (shadow->open == EPOCH_FULL)
        ledger_set_applied(shadow->ledger, shadow->slot.epoch);
    ledger_commit(shadow->ledger, shadow->open_log, &shadow->slot);
    shadow->open = EPOCH_NONE;
    g_mutex_lock(&shadow->lock);
    g_cond_broadcast(&shadow->cond);
    g_mutex_unlock(&shadow->lock);
}

void
shadow_abandon(Shadow *shadow)
{
    shadow->open = EPOCH_NONE;
}

/* ---- What is there ---- */

uint64_t
shadow_committed(const Shadow *shadow)
{
    return ledger_committed(shadow->ledger);
}

uint64_t
shadow_incarnation(const Shadow *shadow)
{
    return shadow->ledger->incarnation;
}

const char *
shadow_district(const Shadow *shadow)
{
    return shadow->ledger->district;
}

int64_t
shadow_realtime_ns(const Shadow *shadow)
{
    const LedgerSlot *slot = ledger_committed_slot(shadow->ledger);

    return slot != NULL ? slot->realtime_ns : 0;
}

uint64_t
shadow_ram_bytes(const Shadow *shadow)
{
    return ram_set_bytes(shadow->ram);
}

int
shadow_state_memfd(const Shadow *shadow, uint64_t *len, GError **error)
{
    const LedgerSlot *slot = ledger_committed_slot(shadow->ledger);
    const RedoLog *log;

    if (slot == NULL) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED, "nothing is committed");
        return -1;
    }
    log = shadow->log[ledger_slot_index(shadow->ledger, slot)];
    *len = slot->state_len;
    return memfd_from_data("district-cut-state", redolog_state(log, slot), slot->state_len, error);
}

const RamSet *
shadow_ram(const Shadow *shadow)
{
    return shadow->ram;
}

guint
shadow_fds(const Shadow *shadow, int *fds)
{
    guint n = 0;

    fds[n++] = shadow->ledger_fd;
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        fds[n++] = redolog_fd(shadow->log[i]);
    for (uint32_t i = 0; i < shadow->ram->n; i++)
        fds[n++] = shadow->ram->fds[i];
    return n;
}
