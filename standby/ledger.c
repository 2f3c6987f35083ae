/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger: what is committed, in a memfd that outlives this process. */
#include "standby/ledger.h"

#include "ckpt/layout.h"
#include "common/memfd.h"

#define XXH_STATIC_LINKING_ONLY
#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

static_assert(sizeof(LedgerSlot) == 64, "slot layout");
static_assert(sizeof(LedgerMember) == 64, "member layout");
static_assert(sizeof(LedgerDisk) == sizeof(LedgerMember), "disks lie behind members");
static_assert(offsetof(Ledger, commit) == 96 && offsetof(Ledger, slot) == 120, "ledger layout");
static_assert(LEDGER_NAME_BYTES > NAME_BYTES_MAX, "a name and its NUL fit");

size_t
ledger_bytes(uint32_t n_members, uint32_t n_disks)
{
    size_t bytes = sizeof(Ledger) + (size_t)n_members * sizeof(LedgerMember) +
                   (size_t)n_disks * sizeof(LedgerDisk);

    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

const LedgerDisk *
ledger_disks(const Ledger *ledger)
{
    return (const LedgerDisk *)(const void *)(ledger->member + ledger->n_members);
}

char *
ledger_disk_file(const char *member, uint32_t index)
{
    return g_strdup_printf("%s-%u.raw", member, index);
}

static uint64_t
head_checksum(const Ledger *ledger)
{
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, ledger, offsetof(Ledger, head_checksum));
    XXH3_64bits_update(&state, ledger->member, ledger->n_members * sizeof(LedgerMember));
    XXH3_64bits_update(&state, ledger_disks(ledger), ledger->n_disks * sizeof(LedgerDisk));
    return XXH3_64bits_digest(&state);
}

static uint64_t
slot_checksum(const LedgerSlot *slot)
{
    return XXH3_64bits(slot, offsetof(LedgerSlot, checksum));
}

static void
fill_disks(Ledger *ledger, const District__StreamEpochBegin *begin)
{
    LedgerDisk *disk = (LedgerDisk *)(void *)(ledger->member + ledger->n_members);

    for (uint32_t i = 0; i < ledger->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        for (uint32_t k = 0; k < m->n_disks; k++, disk++) {
            g_autofree char *file = ledger_disk_file(m->name, k);

            g_strlcpy(disk->file, file, sizeof disk->file);
            disk->member = i;
            disk->index = k;
            disk->size = m->disks[k]->size;
        }
    }
}

int
ledger_create(const char *district, uint64_t incarnation, const District__StreamEpochBegin *begin,
              Ledger **ledger, GError **error)
{
    uint32_t n_disks = layout_image_count(begin) - (uint32_t)begin->n_members;
    size_t bytes = ledger_bytes((uint32_t)begin->n_members, n_disks);
    int fd = memfd_create_sealed("district-ledger", bytes, error);
    Ledger *l = fd < 0 ? NULL : memfd_map(fd, bytes, TRUE, error);

    if (l == NULL) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    l->magic = LEDGER_MAGIC;
    l->version = LEDGER_VERSION;
    l->n_members = (uint32_t)begin->n_members;
    l->n_disks = n_disks;
    l->born = begin->epoch;
    l->incarnation = incarnation;
    g_strlcpy(l->district, district, sizeof l->district);
    for (size_t i = 0; i < begin->n_members; i++) {
        g_strlcpy(l->member[i].name, begin->members[i]->name, sizeof l->member[i].name);
        l->member[i].ram_size = begin->members[i]->ram_size;
    }
    fill_disks(l, begin);
    l->head_checksum = head_checksum(l);
    *ledger = l;
    return fd;
}

static gboolean
foreign(GError **error, const char *why)
{
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN,
                "the held standby state cannot be used: %s: resynchronise from the primary", why);
    return FALSE;
}

static gboolean
check_members(const Ledger *ledger, GError **error)
{
    for (uint32_t i = 0; i < ledger->n_members; i++) {
        const LedgerMember *m = &ledger->member[i];
        if (memchr(m->name, '\0', sizeof m->name) == NULL || !layout_name_good(m->name) ||
            m->ram_size == 0 || m->ram_size > RAM_BYTES_MAX || m->ram_size % PAGE_BYTES != 0)
            return foreign(error, "a member of its ledger is damaged");
    }
    return TRUE;
}

static gboolean
check_disks(const Ledger *ledger, GError **error)
{
    const LedgerDisk *disks = ledger_disks(ledger);

    for (uint32_t i = 0; i < ledger->n_disks; i++) {
        const LedgerDisk *d = &disks[i];
        g_autofree char *file = NULL;

        if (d->member >= ledger->n_members || d->index >= DISKS_MAX || d->size == 0 ||
            d->size > DISK_BYTES_MAX || d->size % SECTOR_BYTES != 0)
            return foreign(error, "a disk of its ledger is damaged");
        file = ledger_disk_file(ledger->member[d->member].name, d->index);
        if (strncmp(file, d->file, sizeof d->file) != 0)
            return foreign(error, "a disk of its ledger has another file's name");
    }
    return TRUE;
}

static gboolean
check_ledger(const Ledger *ledger, uint64_t bytes, GError **error)
{
    if (ledger->magic != LEDGER_MAGIC)
        return foreign(error, "it has no ledger");
    if (ledger->version != LEDGER_VERSION)
        return foreign(error, "its ledger is of another version");
    if (ledger->n_members == 0 || ledger->n_members > MEMBERS_MAX ||
        ledger->n_disks > ledger->n_members * DISKS_MAX ||
        bytes != ledger_bytes(ledger->n_members, ledger->n_disks))
        return foreign(error, "its ledger is of the wrong size");
    if (head_checksum(ledger) != ledger->head_checksum ||
        memchr(ledger->district, '\0', sizeof ledger->district) == NULL)
        return foreign(error, "its ledger is damaged");
    if (!check_members(ledger, error) || !check_disks(ledger, error))
        return FALSE;
    if (ledger->broken != 0)
        return foreign(error, "a disk could not be written");
    if (ledger_committed(ledger) == 0)
        return foreign(error, "nothing was committed");
    if (ledger_committed_slot(ledger) == NULL)
        return foreign(error, "its committed slot is damaged");
    return TRUE;
}

Ledger *
ledger_open(int fd, GError **error)
{
    uint64_t bytes = memfd_size(fd);
    Ledger *ledger;

    if (!memfd_check(fd, 0, "standby ledger", error))
        return NULL;
    if (bytes < sizeof(Ledger)) {
        foreign(error, "its ledger is too short");
        return NULL;
    }
    ledger = memfd_map(fd, bytes, TRUE, error);
    if (ledger != NULL && !check_ledger(ledger, bytes, error)) {
        munmap(ledger, bytes);
        return NULL;
    }
    return ledger;
}

void
ledger_unmap(Ledger *ledger)
{
    munmap(ledger, ledger_bytes(ledger->n_members, ledger->n_disks));
}

/* ---- Commit ---- */

static uint64_t
load_acquire(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void
store_release(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

uint64_t
ledger_committed(const Ledger *ledger)
{
    return load_acquire(&ledger->commit) >> 1;
}

static bool
slot_good(const LedgerSlot *slot)
{
    return load_acquire(&slot->epoch) != 0 && slot->checksum == slot_checksum(slot);
}

const LedgerSlot *
ledger_committed_slot(const Ledger *ledger)
{
    uint64_t commit = load_acquire(&ledger->commit);
    const LedgerSlot *slot = &ledger->slot[commit & 1];

    return commit != 0 && slot_good(slot) && slot->epoch == commit >> 1 ? slot : NULL;
}

uint64_t
ledger_applied(const Ledger *ledger)
{
    return load_acquire(&ledger->applied);
}

void
ledger_set_applied(Ledger *ledger, uint64_t epoch)
{
    store_release(&ledger->applied, epoch);
}

void
ledger_set_broken(Ledger *ledger)
{
    store_release(&ledger->broken, 1);
}

void
ledger_slot_clear(Ledger *ledger, unsigned slot)
{
    store_release(&ledger->slot[slot].epoch, 0);
    /* The log's first bytes must not be seen changed while the slot still looks filled. */
    atomic_thread_fence(memory_order_seq_cst);
}

void
ledger_commit(Ledger *ledger, unsigned i, const LedgerSlot *content)
{
    LedgerSlot *slot = &ledger->slot[i];
    uint64_t epoch = content->epoch;

    *slot = *content;
    slot->checksum = slot_checksum(slot);
    store_release(&ledger->commit, epoch << 1 | i);
}

const LedgerSlot *
ledger_next_to_apply(const Ledger *ledger)
{
    uint64_t committed = ledger_committed(ledger), applied = ledger_applied(ledger);

    for (unsigned i = 0; i < LEDGER_SLOTS; i++) {
        const LedgerSlot *slot = &ledger->slot[i];
        if (slot_good(slot) && slot->base_epoch == applied && slot->epoch > applied &&
            slot->epoch <= committed)
            return slot;
    }
    return NULL;
}

unsigned
ledger_slot_index(const Ledger *ledger, const LedgerSlot *slot)
{
    return (unsigned)(slot - ledger->slot);
}
