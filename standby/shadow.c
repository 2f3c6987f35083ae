/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The shadow: the standby's copy of a district. */
#include "standby/shadow.h"

#include "ckpt/layout.h"
#include "common/clock.h"
#include "common/fdmsg.h"
#include "common/memfd.h"
#include "common/trace.h"
#include "standby/disksync.h"
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
    EPOCH_FULL, /* pages go straight to the images */
    EPOCH_LOG,  /* pages go to a log */
} EpochKind;

struct Shadow {
    int ledger_fd;
    Ledger *ledger;
    RedoLog *log[LEDGER_SLOTS];
    Images images;
    DiskSync *sync;

    /* The open epoch; the writer's. */
    EpochKind open;
    unsigned open_log;
    LedgerSlot slot;
    uint64_t unchecked; /* pages of a full epoch since memory was last looked at */

    /* lock guards stop and broken and goes with the condition; progress itself is in the ledger. */
    GThread *applier;
    GMutex lock;
    GCond cond; /* committed or applied has moved, or stop, or broken */
    bool stop;
    GError *broken; /* why it can not be used any more */
};

/* ---- Breaking ---- */

/* The first reason counts; takes error over. */
static void
shadow_break(Shadow *shadow, GError *error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shadow->lock);

    if (shadow->broken != NULL) {
        g_error_free(error);
        return;
    }
    g_warning("epoch %" G_GUINT64_FORMAT " can not be activated any more: %s",
              ledger_committed(shadow->ledger), error->message);
    shadow->broken = error;
    ledger_set_broken(shadow->ledger);
    g_cond_broadcast(&shadow->cond);
}

/* With the lock. */
static gboolean
usable_locked(const Shadow *shadow, GError **error)
{
    if (shadow->broken == NULL)
        return TRUE;
    g_set_error(error, STANDBY_ERROR, shadow->broken->code,
                "%s; what is held is not whole any more: send a full epoch",
                shadow->broken->message);
    return FALSE;
}

gboolean
shadow_usable(Shadow *shadow, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = NULL;
    GError *why = NULL;

    if (!disk_sync_good(shadow->sync, &why))
        shadow_break(shadow, why);
    locker = g_mutex_locker_new(&shadow->lock);
    return usable_locked(shadow, error);
}

/* ---- Applying ---- */

/* Apply one epoch. */
static gboolean
apply_slot(Shadow *shadow, const LedgerSlot *slot, GError **error)
{
    unsigned i = ledger_slot_index(shadow->ledger, slot);
    uint64_t epoch = slot->epoch;
    int64_t start = clock_monotonic_ns();

    if (!redolog_apply(shadow->log[i], slot, &shadow->images, error))
        return FALSE;
    disk_set_unreserve(shadow->images.disks, i);
    disk_sync_note(shadow->sync);
    ledger_set_applied(shadow->ledger, epoch);
    trace_standby_applied(epoch, clock_monotonic_ns() - start);
    g_mutex_lock(&shadow->lock);
    g_cond_broadcast(&shadow->cond);
    g_mutex_unlock(&shadow->lock);
    return TRUE;
}

/* Apply all that is committed. */
static gboolean
apply_committed(Shadow *shadow, GError **error)
{
    const LedgerSlot *slot;

    while ((slot = ledger_next_to_apply(shadow->ledger)) != NULL) {
        if (!apply_slot(shadow, slot, error))
            return FALSE;
    }
    return TRUE;
}

static gpointer
applier_run(gpointer data)
{
    Shadow *shadow = data;

    g_mutex_lock(&shadow->lock);
    while (!shadow->stop && shadow->broken == NULL) {
        GError *error = NULL;

        if (ledger_next_to_apply(shadow->ledger) == NULL) {
            g_cond_wait(&shadow->cond, &shadow->lock);
            continue;
        }
        g_mutex_unlock(&shadow->lock);
        if (!apply_committed(shadow, &error))
            shadow_break(shadow, error);
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
    gboolean in_time = TRUE, usable;

    g_mutex_lock(&shadow->lock);
    while (in_time && shadow->broken == NULL && ledger_applied(shadow->ledger) < epoch)
        in_time = g_cond_wait_until(&shadow->cond, &shadow->lock, until);
    usable = usable_locked(shadow, error);
    g_mutex_unlock(&shadow->lock);
    if (!usable)
        return FALSE;
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
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    gint64 left_ms;

    if (!wait_applied(shadow, shadow_committed(shadow), timeout_ms, error))
        return FALSE;
    left_ms = (until - g_get_monotonic_time()) / G_TIME_SPAN_MILLISECOND;
    return disk_sync_wait(shadow->sync, (int)MAX(left_ms, 0), error) &&
           shadow_usable(shadow, error);
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
    disk_sync_free(shadow->sync);
    images_clear(&shadow->images);
    g_clear_error(&shadow->broken);
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

    uint32_t n_images = layout_image_count(begin);

    if (n_images + SHADOW_FDS_EXTRA > FDMSG_FDS_MAX) {
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "a district of %zu members with %zu disks cannot be protected: at most %d "
                    "members and disks together can",
                    begin->n_members, n_images - begin->n_members,
                    FDMSG_FDS_MAX - SHADOW_FDS_EXTRA);
        return FALSE;
    }
    /* Disks take room in files, not memory. */
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
        shadow->log[i] = redolog_new(fds != NULL ? fds[i] : -1, &shadow->images, error);
        if (shadow->log[i] == NULL)
            return FALSE;
        if (fds != NULL)
            fds[i] = -1;
    }
    return TRUE;
}

static gboolean
shadow_make_sync(Shadow *shadow, GError **error)
{
    shadow->sync = disk_sync_new(shadow->images.disks, error);
    return shadow->sync != NULL || shadow->images.disks->n == 0;
}

Shadow *
shadow_new(const char *district, uint64_t incarnation, const char *disk_dir,
           const District__StreamEpochBegin *begin, GError **error)
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
    shadow->images.ram = ram_set_new(sizes, (uint32_t)begin->n_members, error);
    if (shadow->images.ram == NULL)
        return NULL;
    shadow->images.disks = disk_set_new(disk_dir, begin, error);
    if (shadow->images.disks == NULL || !shadow_make_logs(shadow, NULL, error) ||
        !shadow_make_sync(shadow, error))
        return NULL;
    shadow->open = EPOCH_FULL;
    shadow->open_log = 0;
    shadow->slot = (LedgerSlot){.epoch = begin->epoch};
    shadow->applier = g_thread_new("applier", applier_run, shadow);
    return g_steal_pointer(&shadow);
}

/* ---- Adopting ---- */

/* Are the cut's disks the ones held? */
static bool
same_cut_disks(const Ledger *ledger, const District__CutState *cut)
{
    const LedgerDisk *disks = ledger_disks(ledger);
    uint32_t n = 0;

    for (uint32_t i = 0; i < cut->n_members; i++) {
        for (uint32_t k = 0; k < cut->members[i]->n_disks; k++, n++) {
            if (n >= ledger->n_disks || disks[n].member != i || disks[n].index != k ||
                disks[n].size != cut->members[i]->disks[k]->size)
                return false;
        }
    }
    return n == ledger->n_disks;
}

/* The committed CutState must be one, and of the members whose images are here. */
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
    if (good && (cut->epoch != slot->epoch || cut->n_members != shadow->ledger->n_members ||
                 !same_cut_disks(shadow->ledger, cut))) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "the held cut state does not belong to the held images");
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
                           &shadow->images, error))
            return FALSE;
    }
    return check_state(shadow, committed, shadow->log[ledger_slot_index(shadow->ledger, committed)],
                       error);
}

/* Take the images in fds over: RAM, then disks. */
static gboolean
take_images(Shadow *shadow, const char *disk_dir, int *fds, GError **error)
{
    uint32_t n = shadow->ledger->n_members;
    g_autofree uint64_t *sizes = g_new(uint64_t, n);

    for (uint32_t i = 0; i < n; i++)
        sizes[i] = shadow->ledger->member[i].ram_size;
    shadow->images.ram = ram_set_adopt(fds, sizes, n, error);
    if (shadow->images.ram == NULL)
        return FALSE;
    for (uint32_t i = 0; i < n; i++)
        fds[i] = -1;
    shadow->images.disks = disk_set_adopt(disk_dir, fds + n, shadow->ledger, error);
    if (shadow->images.disks == NULL)
        return FALSE;
    for (uint32_t i = 0; i < shadow->ledger->n_disks; i++)
        fds[n + i] = -1;
    return TRUE;
}

/* Map everything. Each descriptor that becomes the shadow's is set to -1 in fds. */
static gboolean
shadow_take(Shadow *shadow, const char *disk_dir, int *fds, guint n_fds, GError **error)
{

    shadow->ledger = ledger_open(fds[0], error);
    if (shadow->ledger == NULL)
        return FALSE;
    shadow->ledger_fd = g_steal_fd(&fds[0]);
    if (n_fds != shadow->ledger->n_members + shadow->ledger->n_disks + SHADOW_FDS_EXTRA) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "%u descriptors were held for a district of %u members with %u disks", n_fds,
                    shadow->ledger->n_members, shadow->ledger->n_disks);
        return FALSE;
    }
    return take_images(shadow, disk_dir, fds + SHADOW_FDS_EXTRA, error) &&
           shadow_make_logs(shadow, fds + 1, error) && shadow_check_logs(shadow, error) &&
           shadow_make_sync(shadow, error);
}

/* Finish applying. It is not known what the logs have room for. */
static gboolean
apply_adopted(Shadow *shadow, GError **error)
{
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        disk_set_reserve_all(shadow->images.disks, i);
    if (!apply_committed(shadow, error))
        return FALSE;
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        disk_set_unreserve(shadow->images.disks, i);
    disk_sync_note(shadow->sync);
    if (ledger_applied(shadow->ledger) == ledger_committed(shadow->ledger))
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "a redo log between the held images and the committed epoch is missing: "
                "resynchronise from the primary");
    return FALSE;
}

Shadow *
shadow_adopt(const char *disk_dir, const int *fds, guint n_fds, GError **error)
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
    good = shadow_take(shadow, disk_dir, own, n_fds, error);
    for (guint i = 0; i < n_fds; i++) {
        if (own[i] >= 0)
            close(own[i]);
    }
    if (!good || !apply_adopted(shadow, error))
        return NULL;
    shadow->applier = g_thread_new("applier", applier_run, shadow);
    return g_steal_pointer(&shadow);
}

gboolean
shadow_unspent(const Shadow *shadow, GError **error)
{
    for (uint32_t i = 0; i < shadow->images.ram->n; i++) {
        if (!memfd_is_spent(shadow->images.ram->fds[i]))
            continue;
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "its members have run from this copy already: protect it anew");
        return FALSE;
    }
    return TRUE;
}

void
shadow_publish(Shadow *shadow, const Shadow *old)
{
    GError *error = NULL;

    if (!disk_set_publish(shadow->images.disks, old != NULL ? old->images.disks : NULL, &error))
        shadow_break(shadow, error);
}

/* ---- An epoch ---- */

static bool
same_disks(const Shadow *shadow, const District__StreamEpochBegin *begin)
{
    g_autofree uint64_t *bytes = NULL;
    const DiskSet *disks = shadow->images.disks;
    const LedgerDisk *held = ledger_disks(shadow->ledger);

    if (layout_image_count(begin) != images_count(&shadow->images))
        return false;
    bytes = layout_image_bytes(begin);
    for (uint32_t i = 0; i < disks->n; i++) {
        if (held[i].index >= begin->members[held[i].member]->n_disks ||
            held[i].size != bytes[begin->n_members + i])
            return false;
    }
    return true;
}

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
    return same_disks(shadow, begin);
}

gboolean
shadow_begin(Shadow *shadow, const District__StreamEpochBegin *begin, GError **error)
{
    uint64_t committed = shadow_committed(shadow);
    const LedgerSlot *last = ledger_committed_slot(shadow->ledger);

    shadow_abandon(shadow);
    if (!shadow_usable(shadow, error))
        return FALSE;
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
    disk_set_unreserve(shadow->images.disks, shadow->open_log);
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
shadow_pages(Shadow *shadow, uint32_t image, const DecodedPage *pages, uint32_t count,
             GError **error)
{
    uint32_t n_ram = shadow->images.ram->n;

    if (shadow->open == EPOCH_FULL) {
        if (!check_memory(shadow, count, error))
            return FALSE;
        if (image >= n_ram)
            disk_sync_note(shadow->sync);
        return images_store(&shadow->images, image, pages, count, error);
    }
    if (image >= n_ram && !disk_set_reserve(shadow->images.disks, shadow->open_log, image - n_ram,
                                            pages, count, error))
        return FALSE;
    return redolog_append_pages(shadow->log[shadow->open_log], image, pages, count, error);
}

/*
 * The applier may be copying the other log to the images right now. But what it touches is in that log,
 * where it is found first; and a log is not written again before its epoch is in the images.
 */
const uint8_t *
shadow_content(const Shadow *shadow, uint32_t image, uint64_t page)
{
    const uint8_t *content = NULL;

    if (shadow->open == EPOCH_LOG) {
        content = redolog_find(shadow->log[shadow->open_log], image, page);
        if (content == NULL)
            content = redolog_find(shadow->log[1 - shadow->open_log], image, page);
    }
    return content != NULL ? content : shadow->images.ram->maps[image] + page * PAGE_BYTES;
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
    return ram_set_bytes(shadow->images.ram);
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
    return shadow->images.ram;
}

const DiskSet *
shadow_disks(const Shadow *shadow)
{
    return shadow->images.disks;
}

guint
shadow_fds(const Shadow *shadow, int *fds)
{
    guint n = 0;

    fds[n++] = shadow->ledger_fd;
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        fds[n++] = redolog_fd(shadow->log[i]);
    for (uint32_t i = 0; i < shadow->images.ram->n; i++)
        fds[n++] = shadow->images.ram->fds[i];
    for (uint32_t i = 0; i < shadow->images.disks->n; i++)
        fds[n++] = shadow->images.disks->files[i].fd;
    return n;
}
