/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A redo log: one incoming epoch in a memfd, until its pages are in the images. */
#include "standby/redolog.h"

#include "common/memfd.h"
#include "standby/logindex.h"

#define XXH_STATIC_LINKING_ONLY
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

/* The memfd grows by this much at a time, and keeps this much between epochs. */
#define LOG_STEP ((uint64_t)8 * 1024 * 1024)
#define LOG_KEEP ((uint64_t)64 * 1024 * 1024)
/* Memory that growing leaves to the rest of the host. */
#define LOG_RESERVE ((uint64_t)64 * 1024 * 1024)

typedef enum { ENTRY_PAGES = 1, ENTRY_STATE = 2 } EntryKind;

typedef struct Entry {
    uint32_t kind;
    uint32_t image;
    uint32_t count;
    uint32_t reserved;
    uint64_t bytes;
} Entry;
static_assert(sizeof(Entry) == 24, "entry layout");

struct RedoLog {
    int fd;
    uint8_t *map;
    uint64_t limit; /* bytes mapped: the file may be shorter */
    uint64_t size;  /* of the file */
    uint64_t used;
    uint64_t state_offset;
    uint64_t state_len;
    XXH3_state_t *hash;
    LogIndex *index;
};

static uint64_t
pad8(uint64_t bytes)
{
    return (bytes + 7) & ~(uint64_t)7;
}

/* An epoch has each page at most about once, and a CutState. */
static uint64_t
log_limit(uint64_t image_bytes)
{
    uint64_t tables = image_bytes / 64; /* page tables and entries of one page each */
    uint64_t bytes = image_bytes + tables + CUT_STATE_BYTES_MAX + LOG_STEP;

    return (bytes + LOG_STEP - 1) / LOG_STEP * LOG_STEP;
}

RedoLog *
redolog_new(int fd, const Images *images, GError **error)
{
    uint64_t limit = log_limit(images_bytes(images));
    bool own = fd < 0;
    RedoLog *log;
    uint8_t *map;

    if (own)
        fd = memfd_create("district-log", MFD_CLOEXEC);
    if (fd < 0 || fcntl(fd, F_GET_SEALS) < 0) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN, "redo log: not a memfd: %s",
                    g_strerror(errno));
        return NULL;
    }
    map = memfd_map(fd, limit, TRUE, error);
    if (map == NULL) {
        if (own)
            close(fd);
        return NULL;
    }
    log = g_new0(RedoLog, 1);
    log->fd = fd;
    log->map = map;
    log->limit = limit;
    log->index = log_index_new(images->ram);
    log->size = memfd_size(fd);
    log->hash = XXH3_createState();
    if (log->hash == NULL)
        g_error("out of memory for a redo log");
    XXH3_64bits_reset(log->hash);
    return log;
}

void
redolog_free(RedoLog *log)
{
    if (log == NULL)
        return;
    munmap(log->map, log->limit);
    close(log->fd);
    XXH3_freeState(log->hash);
    log_index_free(log->index);
    g_free(log);
}

int
redolog_fd(const RedoLog *log)
{
    return log->fd;
}

void
redolog_reset(RedoLog *log)
{
    if (log->size > LOG_KEEP && ftruncate(log->fd, (off_t)LOG_KEEP) == 0)
        log->size = LOG_KEEP;
    log->used = 0;
    log->state_offset = 0;
    log->state_len = 0;
    XXH3_64bits_reset(log->hash);
    log_index_clear(log->index);
}

const uint8_t *
redolog_find(const RedoLog *log, uint32_t image, uint64_t page)
{
    static const uint8_t zeros[PAGE_BYTES];
    uint64_t offset;

    if (!log_index_get(log->index, image, page, &offset))
        return NULL;
    return offset == LOG_INDEX_ZERO ? zeros : log->map + offset;
}

/* ---- Writing ---- */

static gboolean
out_of_room(const RedoLog *log, uint64_t bytes, uint64_t available, GError **error)
{
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                "the epoch needs more than %" G_GUINT64_FORMAT
                " MiB to be staged, %" G_GUINT64_FORMAT " MiB are allowed and %" G_GUINT64_FORMAT
                " MiB available: free memory on this host",
                (log->used + bytes) >> 20, log->limit >> 20, available >> 20);
    return FALSE;
}

/* Make room for bytes more. */
static gboolean
reserve(RedoLog *log, uint64_t bytes, GError **error)
{
    uint64_t available, size;

    if (log->size - log->used >= bytes)
        return TRUE;
    available = memory_available();
    size = (log->used + bytes + LOG_STEP - 1) / LOG_STEP * LOG_STEP;
    if (size > log->limit || available < LOG_RESERVE + size - log->size ||
        ftruncate(log->fd, (off_t)size) != 0)
        return out_of_room(log, bytes, available, error);
    log->size = size;
    return TRUE;
}

/* Append the entry's head; returns where its body goes. Room has been made. */
static uint8_t *
append_entry(RedoLog *log, const Entry *entry)
{
    uint8_t *at = log->map + log->used;

    memcpy(at, entry, sizeof *entry);
    log->used += entry->bytes;
    return at + sizeof *entry;
}

gboolean
redolog_append_pages(RedoLog *log, uint32_t image, const DecodedPage *pages, uint32_t count,
                     GError **error)
{
    Entry entry = {.kind = ENTRY_PAGES, .image = image, .count = count};
    uint64_t table = count * sizeof(uint64_t), raw = 0;
    uint8_t *body, *data;

    for (uint32_t i = 0; i < count; i++)
        raw += pages[i].data != NULL;
    entry.bytes = sizeof entry + table + raw * PAGE_BYTES;
    if (!reserve(log, entry.bytes, error))
        return FALSE;
    body = append_entry(log, &entry);
    data = body + table;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = pages[i].index << 8 | (pages[i].data != NULL ? PAGE_RAW : PAGE_ZERO);

        memcpy(body + i * sizeof word, &word, sizeof word);
        if (pages[i].data == NULL) {
            log_index_set(log->index, image, pages[i].index, LOG_INDEX_ZERO);
            continue;
        }
        memcpy(data, pages[i].data, PAGE_BYTES);
        log_index_set(log->index, image, pages[i].index, (uint64_t)(data - log->map));
        data += PAGE_BYTES;
    }
    XXH3_64bits_update(log->hash, body - sizeof entry, sizeof entry + table);
    return TRUE;
}

gboolean
redolog_append_state(RedoLog *log, const uint8_t *packed, size_t len, GError **error)
{
    Entry entry = {.kind = ENTRY_STATE, .count = (uint32_t)len};
    uint8_t *body;

    entry.bytes = sizeof entry + pad8(len);
    if (!reserve(log, entry.bytes, error))
        return FALSE;
    body = append_entry(log, &entry);
    memcpy(body, packed, len);
    log->state_offset = (uint64_t)(body - log->map);
    log->state_len = len;
    XXH3_64bits_update(log->hash, body - sizeof entry, sizeof entry + len);
    return TRUE;
}

void
redolog_describe(const RedoLog *log, LedgerSlot *slot)
{
    slot->log_bytes = log->used;
    slot->log_checksum = XXH3_64bits_digest(log->hash);
    slot->state_offset = log->state_offset;
    slot->state_len = log->state_len;
}

/* ---- Reading ---- */

static gboolean
check_pages(const Entry *entry, const uint8_t *body, const Images *images)
{
    uint64_t left, n_pages;

    if (entry->image >= images_count(images) || entry->count == 0 ||
        entry->count > PAGES_PER_RECORD_MAX ||
        entry->bytes - sizeof *entry < entry->count * sizeof(uint64_t))
        return FALSE;
    n_pages = images_pages(images, entry->image);
    left = entry->bytes - sizeof *entry - entry->count * sizeof(uint64_t);
    for (uint32_t i = 0; i < entry->count; i++) {
        uint64_t word;

        memcpy(&word, body + i * sizeof word, sizeof word);
        if (word >> 8 >= n_pages || (word & 0xff) > PAGE_RAW)
            return FALSE;
        if ((word & 0xff) == PAGE_ZERO)
            continue;
        if (left < PAGE_BYTES)
            return FALSE;
        left -= PAGE_BYTES;
    }
    return left == 0;
}

/* Check the entry at offset; adds it to hash. */
static gboolean
check_entry(const RedoLog *log, const LedgerSlot *slot, uint64_t offset, const Images *images,
            Entry *entry, XXH3_state_t *hash)
{
    const uint8_t *at = log->map + offset;
    uint64_t left = slot->log_bytes - offset, covered;

    if (left < sizeof *entry)
        return FALSE;
    memcpy(entry, at, sizeof *entry);
    if (entry->bytes < sizeof *entry || entry->bytes > left || entry->bytes % 8 != 0)
        return FALSE;
    if (entry->kind == ENTRY_PAGES) {
        if (!check_pages(entry, at + sizeof *entry, images))
            return FALSE;
        covered = entry->count * sizeof(uint64_t);
    } else {
        if (entry->kind != ENTRY_STATE || slot->state_offset != offset + sizeof *entry ||
            slot->state_len != entry->count || entry->bytes != sizeof *entry + pad8(entry->count))
            return FALSE;
        covered = entry->count;
    }
    XXH3_64bits_update(hash, at, sizeof *entry + covered);
    return TRUE;
}

gboolean
redolog_check(const RedoLog *log, const LedgerSlot *slot, const Images *images, GError **error)
{
    XXH3_state_t *hash = XXH3_createState();
    gboolean good =
        hash != NULL && slot->log_bytes <= MIN(log->size, log->limit) && slot->state_len != 0;
    bool state = false;
    Entry entry = {0};

    if (hash != NULL)
        XXH3_64bits_reset(hash);
    for (uint64_t at = 0; good && at < slot->log_bytes; at += entry.bytes) {
        good = check_entry(log, slot, at, images, &entry, hash);
        state |= entry.kind == ENTRY_STATE;
    }
    good = good && state && XXH3_64bits_digest(hash) == slot->log_checksum;
    XXH3_freeState(hash);
    if (!good)
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "the redo log of epoch %" G_GUINT64_FORMAT
                    " is damaged: resynchronise from the primary",
                    slot->epoch);
    return good;
}

static gboolean
apply_pages(const Entry *entry, const uint8_t *body, Images *images, GError **error)
{
    const uint8_t *data = body + entry->count * sizeof(uint64_t);
    DecodedPage pages[PAGES_PER_RECORD_MAX];

    for (uint32_t i = 0; i < entry->count; i++) {
        uint64_t word;

        memcpy(&word, body + i * sizeof word, sizeof word);
        pages[i] = (DecodedPage){.index = word >> 8};
        if ((word & 0xff) == PAGE_ZERO)
            continue;
        pages[i].data = data;
        data += PAGE_BYTES;
    }
    return images_store(images, entry->image, pages, entry->count, error);
}

gboolean
redolog_apply(const RedoLog *log, const LedgerSlot *slot, Images *images, GError **error)
{
    Entry entry;

    for (uint64_t at = 0; at < slot->log_bytes; at += entry.bytes) {
        memcpy(&entry, log->map + at, sizeof entry);
        if (entry.kind == ENTRY_PAGES &&
            !apply_pages(&entry, log->map + at + sizeof entry, images, error))
            return FALSE;
    }
    return TRUE;
}

const uint8_t *
redolog_state(const RedoLog *log, const LedgerSlot *slot)
{
    return log->map + slot->state_offset;
}
