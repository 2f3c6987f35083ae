/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cuts and places of an overlay.
 *
 * Theory of operation: a place is written once, before any block is there. It belongs to the cut
 * that was running when its block was set; cuts are numbered from 1, and 0 stands for what was
 * taken over. When its block is set anew, or the home has its data, a place is in nobody's way any
 * more except
 *
 *   - the client's, if its cut has been made and is not released yet: it is held, and freed by
 *     overlay_released_below. After a resend the client needs all places of that moment until the
 *     cut with the resent entries is released. That holds before that cut is made, too: what the home
 *     gets meanwhile, on behalf of another client, is no entry that would replace the resent one;
 *   - a read's that has looked it up already: it waits at the newest pin there is, and is free when
 *     that pin and all older ones have ended. Reads share a pin until something waits there.
 *
 * A place that was overwritten in its own cut is needed by no client: whoever reads it meanwhile
 * will find a later entry for the block in the same cut.
 *
 * What the home has is not found from the moment of overlay_home_below; the map forgets it step by
 * step (overlay_sweep), so that no call takes long.
 */
#include "disk/overlay-internal.h"

/* Map entries looked at by one step of sweeping. */
#define SWEEP_ENTRIES 16384

/* Reads that began while the same places were in use, and what was freed since. */
struct OverlayPin {
    GList link;
    unsigned reads;
    GArray *waiting; /* places; NULL: none, and reads may still join */
};

static int
cut_compare(const void *a, const void *b, void *opaque)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void
places_array_free(void *array)
{
    g_array_free(array, TRUE);
}

/*
 * All blocks, three times over for cuts that are not released, and some for small disks. Reached
 * only where a client releases nothing for long: writes wait then, as if the file system were full.
 */
uint64_t
overlay_places_limit(uint64_t n_blocks)
{
    return n_blocks * 4 + ((uint64_t)1 << 20);
}

Overlay *
overlay_new(uint64_t n_blocks)
{
    Overlay *overlay = g_new0(Overlay, 1);
    uint64_t none = 0;

    overlay->n_blocks = n_blocks;
    overlay->map = blockmap_new();
    overlay->places = places_new(overlay_places_limit(n_blocks));
    overlay->running = 1;
    overlay->held = g_tree_new_full(cut_compare, NULL, g_free, places_array_free);
    overlay->ends = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_array_append_val(overlay->ends, none); /* of cut 0 */
    g_queue_init(&overlay->pins);
    return overlay;
}

void
overlay_free(Overlay *overlay)
{
    g_assert(overlay->pins.length == 0);
    g_array_free(overlay->ends, TRUE);
    g_tree_destroy(overlay->held);
    places_free(overlay->places);
    blockmap_free(overlay->map);
    g_free(overlay);
}

uint64_t
overlay_blocks(const Overlay *overlay)
{
    return overlay->n_blocks;
}

Places *
overlay_places(Overlay *overlay)
{
    return overlay->places;
}

uint64_t
overlay_find(const Overlay *overlay, uint64_t block)
{
    BlockValue value;

    if (!blockmap_find(overlay->map, block, &value) || value.cut < overlay->home_below)
        return PLACE_NONE;
    return value.place;
}

/* Free a place, once no read can be at it. */
static void
overlay_give(Overlay *overlay, uint64_t place)
{
    OverlayPin *newest = g_queue_peek_tail(&overlay->pins);

    if (newest == NULL) {
        places_give(overlay->places, place);
        return;
    }
    if (newest->waiting == NULL)
        newest->waiting = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_array_append_val(newest->waiting, place);
}

void
overlay_hold(Overlay *overlay, uint64_t cut, uint64_t place)
{
    GArray *held = g_tree_lookup(overlay->held, &cut);

    if (held == NULL) {
        held = g_array_new(FALSE, FALSE, sizeof(uint64_t));
        g_tree_insert(overlay->held, g_memdup2(&cut, sizeof cut), held);
    }
    g_array_append_val(held, place);
}

/* No block is at this place any more. */
static void
overlay_retire(Overlay *overlay, BlockValue value)
{
    uint64_t cut = MAX(value.cut, overlay->resent);

    if (value.place == PLACE_ZERO)
        return;
    /* value.cut may be the running one, resent never is. */
    if (cut >= overlay->released_below && value.cut < overlay->running)
        overlay_hold(overlay, cut, value.place);
    else
        overlay_give(overlay, value.place);
}

void
overlay_set(Overlay *overlay, uint64_t block, uint64_t place)
{
    BlockValue old;

    if (blockmap_set(overlay->map, block, (BlockValue){place, overlay->running}, &old))
        overlay_retire(overlay, old);
}

OverlayPin *
overlay_pin(Overlay *overlay)
{
    OverlayPin *pin = g_queue_peek_tail(&overlay->pins);

    if (pin == NULL || pin->waiting != NULL) {
        pin = g_new0(OverlayPin, 1);
        pin->link.data = pin;
        g_queue_push_tail_link(&overlay->pins, &pin->link);
    }
    pin->reads++;
    return pin;
}

void
overlay_unpin(Overlay *overlay, OverlayPin *pin)
{
    pin->reads--;
    while ((pin = g_queue_peek_head(&overlay->pins)) != NULL && pin->reads == 0) {
        for (guint i = 0; pin->waiting != NULL && i < pin->waiting->len; i++)
            places_give(overlay->places, g_array_index(pin->waiting, uint64_t, i));
        g_clear_pointer(&pin->waiting, g_array_unref);
        g_queue_unlink(&overlay->pins, &pin->link);
        g_free(pin);
    }
}

uint64_t
overlay_index_end(const Overlay *overlay)
{
    return overlay->index_end;
}

uint64_t
overlay_index_released(const Overlay *overlay)
{
    return overlay->index_released;
}

void
overlay_index_add(Overlay *overlay, uint64_t entries)
{
    overlay->index_end += entries;
}

uint64_t
overlay_cuts(const Overlay *overlay)
{
    return overlay->running - 1;
}

uint64_t
overlay_cut(Overlay *overlay, uint64_t *index_end)
{
    g_assert(overlay->running < CUTS_MAX - 1);
    if (overlay->resending)
        overlay->resent = overlay->running;
    overlay->resending = false;
    g_array_append_val(overlay->ends, overlay->index_end);
    *index_end = overlay->index_end;
    return overlay->running++;
}

void
overlay_released_below(Overlay *overlay, uint64_t cut)
{
    GTreeNode *node;
    uint64_t n;

    cut = MIN(cut, overlay->running);
    if (cut <= overlay->released_below)
        return;
    n = cut - overlay->released_below;
    overlay->index_released = g_array_index(overlay->ends, uint64_t, n - 1);
    g_array_remove_range(overlay->ends, 0, (guint)n);
    overlay->released_below = cut;
    while ((node = g_tree_node_first(overlay->held)) != NULL) {
        const uint64_t *held_cut = g_tree_node_key(node);
        GArray *held = g_tree_node_value(node);

        if (*held_cut >= cut)
            break;
        for (guint i = 0; i < held->len; i++)
            overlay_give(overlay, g_array_index(held, uint64_t, i));
        g_tree_remove(overlay->held, held_cut);
    }
}

void
overlay_home_below(Overlay *overlay, uint64_t cut)
{
    cut = MIN(cut, overlay->running);
    if (cut <= overlay->home_below)
        return;
    overlay->home_below = cut;
    overlay->to_sweep = BLOCKMAP_SEGMENTS;
}

static void
on_dropped(void *opaque, uint64_t block, BlockValue value)
{
    Overlay *overlay = opaque;

    if (overlay->resending && value.cut >= overlay->resent_from && value.place != PLACE_ZERO)
        overlay_hold(overlay, overlay->running, value.place);
    else
        overlay_retire(overlay, value);
}

bool
overlay_sweep(Overlay *overlay)
{
    uint64_t seen = 0;

    while (overlay->to_sweep > 0 && seen < SWEEP_ENTRIES)
        seen += blockmap_drop_below(overlay->map, --overlay->to_sweep, overlay->home_below,
                                    on_dropped, overlay);
    return overlay->to_sweep > 0;
}

typedef struct EachCall {
    uint64_t home_below;
    BlockMapFunc func;
    void *opaque;
} EachCall;

static void
each_not_home(void *opaque, uint64_t block, BlockValue value)
{
    const EachCall *call = opaque;

    if (value.cut >= call->home_below)
        call->func(call->opaque, block, value);
}

void
overlay_each(const Overlay *overlay, BlockMapFunc func, void *opaque)
{
    EachCall call = {overlay->home_below, func, opaque};

    for (unsigned i = 0; i < BLOCKMAP_SEGMENTS; i++)
        blockmap_each(overlay->map, i, each_not_home, &call);
}

uint64_t
overlay_count(const Overlay *overlay)
{
    return blockmap_count(overlay->map);
}

void
overlay_resent(Overlay *overlay)
{
    if (!overlay->resending)
        overlay->resent_from = overlay->home_below;
    overlay->resending = true;
}
