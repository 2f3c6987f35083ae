/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Overlays from elsewhere: from the index of a client, which is not trusted in anything, and from
 * the former life of this program, which is trusted to be itself but checked all the same.
 *
 * The state of a former life: StateHead, then n_map StateBlock, n_held StateHeld, n_ends uint64_t.
 */
#include "disk/overlay-internal.h"

#include "common/diskindex.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <xxhash.h>

#define STATE_MAGIC UINT64_C(0x79616c7265766f64) /* "doverlay" */
#define STATE_VERSION 1

typedef struct StateHead {
    uint64_t magic, version, checksum; /* of all that follows */
    uint64_t n_blocks;
    uint64_t running, released_below, home_below;
    uint64_t resent, resending;
    uint64_t index_end, index_released;
    uint64_t n_map, n_held, n_ends;
} StateHead;

typedef struct StateBlock {
    uint64_t block, place, cut;
} StateBlock;

typedef struct StateHeld {
    uint64_t cut, place;
} StateHeld;

#define CHECKSUM_FROM (offsetof(StateHead, checksum) + sizeof(uint64_t))

static gboolean G_GNUC_PRINTF(2, 3) state_bad(GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, text);
    return FALSE;
}

gboolean
overlay_restore_entry(Overlay *overlay, uint64_t block, uint64_t offset, uint64_t data_places,
                      GError **error)
{
    uint64_t place = offset == DISK_INDEX_ZERO ? PLACE_ZERO : offset / PAGE_BYTES;
    BlockValue old;

    if (block >= overlay->n_blocks)
        return state_bad(error, "block %" PRIu64 " of a disk of %" PRIu64 " blocks", block,
                         overlay->n_blocks);
    if (place != PLACE_ZERO && (offset % PAGE_BYTES != 0 || place >= data_places))
        return state_bad(
            error, "block %" PRIu64 " at offset %" PRIu64 " of a data file of %" PRIu64 " blocks",
            block, offset, data_places);
    blockmap_set(overlay->map, block, (BlockValue){place, 0}, &old);
    return TRUE;
}

/* For claiming the places of a map; bad: one that cannot be claimed. */
typedef struct Claim {
    Overlay *overlay;
    bool failed;
    uint64_t bad;
} Claim;

static void
claim_place(void *opaque, uint64_t block, BlockValue value)
{
    Claim *claim = opaque;

    if (claim->failed || value.place == PLACE_ZERO)
        return;
    if (!places_claim(claim->overlay->places, value.place)) {
        claim->failed = true;
        claim->bad = block;
    }
}

static gboolean
overlay_claim_map(Overlay *overlay, GError **error)
{
    Claim claim = {.overlay = overlay};

    overlay_each(overlay, claim_place, &claim);
    if (claim.failed)
        return state_bad(
            error, "block %" PRIu64 " is at the place of another block, or too far out", claim.bad);
    return TRUE;
}

gboolean
overlay_restore_end(Overlay *overlay, uint64_t entries, GError **error)
{
    overlay->index_end = entries;
    g_array_index(overlay->ends, uint64_t, 0) = entries;
    return overlay_claim_map(overlay, error);
}

/* ---- Saving ---- */

static void
save_record(uint8_t **at, const void *record, size_t len)
{
    memcpy(*at, record, len);
    *at += len;
}

static void
save_block(void *opaque, uint64_t block, BlockValue value)
{
    StateBlock record = {block, value.place, value.cut};

    save_record(opaque, &record, sizeof record);
}

static gboolean
save_held(void *key, void *value, void *opaque)
{
    const GArray *held = value;

    for (guint i = 0; i < held->len; i++) {
        StateHeld record = {*(uint64_t *)key, g_array_index(held, uint64_t, i)};

        save_record(opaque, &record, sizeof record);
    }
    return FALSE;
}

static gboolean
count_held(void *key, void *value, void *opaque)
{
    *(uint64_t *)opaque += ((const GArray *)value)->len;
    return FALSE;
}

static StateHead
save_head(const Overlay *overlay)
{
    StateHead head = {
        .magic = STATE_MAGIC,
        .version = STATE_VERSION,
        .n_blocks = overlay->n_blocks,
        .running = overlay->running,
        .released_below = overlay->released_below,
        .home_below = overlay->home_below,
        .resent = overlay->resent,
        .resending = overlay->resending,
        .index_end = overlay->index_end,
        .index_released = overlay->index_released,
        .n_map = blockmap_count(overlay->map),
        .n_ends = overlay->ends->len,
    };

    g_tree_foreach(overlay->held, count_held, &head.n_held);
    return head;
}

size_t
overlay_save_size(const Overlay *overlay)
{
    StateHead head = save_head(overlay);

    return sizeof head + head.n_map * sizeof(StateBlock) + head.n_held * sizeof(StateHeld) +
           head.n_ends * sizeof(uint64_t);
}

void
overlay_save(const Overlay *overlay, uint8_t *out)
{
    StateHead head = save_head(overlay);
    uint8_t *at = out;

    g_assert(overlay->to_sweep == 0 && overlay->pins.length == 0);
    save_record(&at, &head, sizeof head);
    overlay_each(overlay, save_block, &at);
    g_tree_foreach(overlay->held, save_held, &at);
    save_record(&at, overlay->ends->data, overlay->ends->len * sizeof(uint64_t));
    head.checksum = XXH3_64bits(out + CHECKSUM_FROM, (size_t)(at - out) - CHECKSUM_FROM);
    memcpy(out, &head, sizeof head);
}

/* ---- Loading ---- */

static gboolean
load_head(StateHead *head, const uint8_t *data, size_t len, uint64_t n_blocks, GError **error)
{
    size_t rest;

    if (len < sizeof *head)
        return state_bad(error, "the state of the overlay is cut short");
    memcpy(head, data, sizeof *head);
    if (head->magic != STATE_MAGIC || head->version != STATE_VERSION)
        return state_bad(error, "this is not the state of an overlay of this version");
    if (head->checksum != XXH3_64bits(data + CHECKSUM_FROM, len - CHECKSUM_FROM))
        return state_bad(error, "the state of the overlay is damaged");
    rest = len - sizeof *head;
    if (head->n_map > rest / sizeof(StateBlock) || head->n_held > rest / sizeof(StateHeld) ||
        head->n_ends > rest / sizeof(uint64_t) ||
        rest != head->n_map * sizeof(StateBlock) + head->n_held * sizeof(StateHeld) +
                    head->n_ends * sizeof(uint64_t))
        return state_bad(error, "the parts of the state of the overlay do not add up");
    if (head->n_blocks != n_blocks)
        return state_bad(error, "the overlay is of a disk of %" PRIu64 " blocks, not %" PRIu64,
                         head->n_blocks, n_blocks);
    if (head->running == 0 || head->running >= CUTS_MAX || head->released_below > head->running ||
        head->home_below > head->running || head->resent >= head->running || head->resending > 1 ||
        head->n_ends != head->running - head->released_below ||
        head->index_released > head->index_end)
        return state_bad(error, "the numbers of the overlay's cuts contradict each other");
    return TRUE;
}

static gboolean
load_map(Overlay *overlay, const uint8_t *data, uint64_t n, uint64_t data_places, GError **error)
{
    for (uint64_t i = 0; i < n; i++) {
        StateBlock record;
        BlockValue old;

        memcpy(&record, data + i * sizeof record, sizeof record);
        if (record.block >= overlay->n_blocks || record.cut > overlay->running ||
            record.cut < overlay->home_below ||
            (record.place != PLACE_ZERO && record.place >= data_places))
            return state_bad(error, "block %" PRIu64 " of the overlay is out of range",
                             record.block);
        if (blockmap_set(overlay->map, record.block, (BlockValue){record.place, record.cut}, &old))
            return state_bad(error, "block %" PRIu64 " is twice in the overlay", record.block);
    }
    return overlay_claim_map(overlay, error);
}

static gboolean
load_held(Overlay *overlay, const uint8_t *data, uint64_t n, uint64_t data_places, GError **error)
{
    for (uint64_t i = 0; i < n; i++) {
        StateHeld record;

        memcpy(&record, data + i * sizeof record, sizeof record);
        if (record.cut < overlay->released_below || record.cut > overlay->running ||
            (record.cut == overlay->running && !overlay->resending) ||
            record.place >= data_places || !places_claim(overlay->places, record.place))
            return state_bad(error, "place %" PRIu64 " cannot be held for cut %" PRIu64,
                             record.place, record.cut);
        overlay_hold(overlay, record.cut, record.place);
    }
    return TRUE;
}

static gboolean
load_ends(Overlay *overlay, const uint8_t *data, uint64_t n, GError **error)
{
    uint64_t last = overlay->index_released;

    g_array_set_size(overlay->ends, 0);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t end;

        memcpy(&end, data + i * sizeof end, sizeof end);
        if (end < last || end > overlay->index_end)
            return state_bad(error, "the index of cut %" PRIu64 " ends at no possible entry",
                             overlay->released_below + i);
        g_array_append_val(overlay->ends, end);
        last = end;
    }
    return TRUE;
}

Overlay *
overlay_load(const uint8_t *data, size_t len, uint64_t n_blocks, uint64_t data_places,
             GError **error)
{
    StateHead head = {0};
    g_autoptr(Overlay) overlay = NULL;
    const uint8_t *held, *ends;

    if (!load_head(&head, data, len, n_blocks, error))
        return NULL;
    overlay = overlay_new(n_blocks);
    overlay->running = head.running;
    overlay->released_below = head.released_below;
    overlay->home_below = head.home_below;
    overlay->resent = head.resent;
    overlay->resending = head.resending != 0;
    overlay->index_end = head.index_end;
    overlay->index_released = head.index_released;
    data += sizeof head;
    held = data + head.n_map * sizeof(StateBlock);
    ends = held + head.n_held * sizeof(StateHeld);
    if (!load_map(overlay, data, head.n_map, data_places, error) ||
        !load_held(overlay, held, head.n_held, data_places, error) ||
        !load_ends(overlay, ends, head.n_ends, error))
        return NULL;
    return g_steal_pointer(&overlay);
}
