/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bookkeeping of an overlay, without any file. */
#include "disk/overlay.h"

#include <string.h>

#define BLOCKS 100000

/* ---- The map ---- */

static void
count_call(void *opaque, uint64_t block, BlockValue value)
{
    ++*(uint64_t *)opaque;
}

static void
test_map_model(void)
{
    g_autoptr(BlockMap) map = blockmap_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    g_autofree BlockValue *model = g_new0(BlockValue, BLOCKS);
    uint64_t count = 0, seen = 0;

    for (unsigned i = 0; i < 300000; i++) {
        uint64_t n = (uint64_t)g_rand_int_range(rand, 0, BLOCKS);
        uint64_t block = n * ((DISK_BYTES_MAX / PAGE_BYTES - 1) / BLOCKS);
        BlockValue value = {g_rand_int(rand), (uint64_t)g_rand_int(rand) << 17 | 1}, old;
        bool found = blockmap_set(map, block, value, &old);

        g_assert_cmpint(found, ==, model[n].cut != 0);
        if (found)
            g_assert_cmpmem(&old, sizeof old, &model[n], sizeof old);
        count += !found;
        model[n] = value;
    }
    g_assert_cmpuint(blockmap_count(map), ==, count);
    for (uint64_t n = 0; n < BLOCKS; n++) {
        uint64_t block = n * ((DISK_BYTES_MAX / PAGE_BYTES - 1) / BLOCKS);
        BlockValue value;

        g_assert_cmpint(blockmap_find(map, block, &value), ==, model[n].cut != 0);
        if (model[n].cut != 0)
            g_assert_cmpmem(&value, sizeof value, &model[n], sizeof value);
    }
    for (unsigned i = 0; i < BLOCKMAP_SEGMENTS; i++)
        blockmap_each(map, i, count_call, &seen);
    g_assert_cmpuint(seen, ==, count);
}

static void
test_map_extremes(void)
{
    g_autoptr(BlockMap) map = blockmap_new();
    BlockValue value = {PLACE_ZERO, CUTS_MAX - 1}, other = {PLACES_MAX - 1, 0}, back;
    uint64_t last = DISK_BYTES_MAX / PAGE_BYTES - 1;

    g_assert_false(blockmap_find(map, last, &back));
    blockmap_set(map, last, value, &back);
    blockmap_set(map, 0, other, &back);
    g_assert_true(blockmap_find(map, last, &back));
    g_assert_cmpmem(&value, sizeof value, &back, sizeof back);
    g_assert_true(blockmap_find(map, 0, &back));
    g_assert_cmpmem(&other, sizeof other, &back, sizeof back);
    g_assert_false(blockmap_find(map, 1, &back));
}

static void
test_map_drop(void)
{
    g_autoptr(BlockMap) map = blockmap_new();
    uint64_t dropped = 0;
    BlockValue value;

    for (uint64_t block = 0; block < BLOCKS; block++)
        blockmap_set(map, block, (BlockValue){block, block % 10}, &value);
    for (unsigned i = 0; i < BLOCKMAP_SEGMENTS; i++)
        blockmap_drop_below(map, i, 4, count_call, &dropped);
    g_assert_cmpuint(dropped, ==, BLOCKS / 10 * 4);
    g_assert_cmpuint(blockmap_count(map), ==, BLOCKS / 10 * 6);
    for (uint64_t block = 0; block < BLOCKS; block++)
        g_assert_cmpint(blockmap_find(map, block, &value), ==, block % 10 >= 4);
}

/* ---- Places ---- */

static void
test_places_model(void)
{
    g_autoptr(Places) places = places_new(UINT64_C(1) << 20);
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);
    g_autoptr(GArray) taken = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GHashTable) used = g_hash_table_new(g_direct_hash, g_direct_equal);

    for (unsigned i = 0; i < 200000; i++) {
        if (taken->len < 3000 && g_rand_boolean(rand)) {
            uint64_t want = (uint64_t)g_rand_int_range(rand, 1, 40), got;
            uint64_t first = places_take(places, want, &got);

            g_assert_cmpuint(got, >=, 1);
            g_assert_cmpuint(got, <=, want);
            for (uint64_t place = first; place < first + got; place++) {
                g_assert_true(g_hash_table_add(used, (gpointer)(place + 1)));
                g_array_append_val(taken, place);
            }
        } else if (taken->len > 0) {
            guint n = (guint)g_rand_int_range(rand, 0, (gint)taken->len);
            uint64_t place = g_array_index(taken, uint64_t, n);

            g_array_remove_index_fast(taken, n);
            g_hash_table_remove(used, (gpointer)(place + 1));
            places_give(places, place);
        }
        g_assert_cmpuint(places_used(places), ==, taken->len);
    }
}

static void
test_places_limit(void)
{
    g_autoptr(Places) places = places_new((uint64_t)4 * CHUNK_PLACES);
    uint64_t total = 0, got, first;

    while ((first = places_take(places, 100, &got)) != PLACE_NONE)
        total += got;
    g_assert_cmpuint(total, ==, 4 * CHUNK_PLACES);
    /* A chunk is looked at again when it is half free. */
    for (uint64_t place = 0; place < CHUNK_PLACES / 2; place++)
        places_give(places, place);
    g_assert_cmpuint(places_take(places, 1000, &got), ==, 0);
    g_assert_cmpuint(got, ==, CHUNK_PLACES / 2);
}

static void
test_places_bounded(void)
{
    g_autoptr(Places) places = places_new(UINT64_C(1) << 30);
    uint64_t got, highest = 0;

    for (unsigned i = 0; i < 100000; i++) {
        uint64_t first = places_take(places, 32, &got);

        highest = MAX(highest, first + got);
        for (uint64_t place = first; place < first + got; place++)
            places_give(places, place);
    }
    g_assert_cmpuint(highest, <=, 4 * CHUNK_PLACES);
}

static void
test_places_punch(void)
{
    g_autoptr(Places) places = places_new(UINT64_C(1) << 30);
    uint64_t n = (uint64_t)(CHUNKS_KEPT + 10) * CHUNK_PLACES, got, first, count, punched = 0;

    for (uint64_t place = 0; place < n; place += got)
        g_assert_cmpuint(places_take(places, CHUNK_PLACES, &got), ==, place);
    g_assert_false(places_punch(places, true, &first, &count));
    for (uint64_t place = 0; place < n - CHUNK_PLACES; place++)
        places_give(places, place);
    g_assert_true(places_spare(places));
    g_assert_true(places_punch(places, false, &first, &count));
    g_assert_false(places_spare(places));
    /* What is being punched is not handed out. */
    for (uint64_t i = 0; i < n; i += got) {
        uint64_t place = places_take(places, CHUNK_PLACES, &got);

        g_assert_true(place >= first + count || place + got <= first);
    }
    places_punched(places, first, count);
    while (punched < count) {
        g_assert_cmpuint(places_take(places, CHUNK_PLACES, &got), <, first + count);
        punched += got;
    }
}

static void
test_places_gaps(void)
{
    g_autoptr(Places) places = places_new(UINT64_C(1) << 30);
    uint64_t n = (uint64_t)4 * CHUNK_PLACES, got, first, count;

    for (uint64_t place = 0; place < n; place += got)
        places_take(places, CHUNK_PLACES, &got);
    for (uint64_t place = 10; place < 20; place++)
        places_give(places, place);
    places_give(places, 300);
    /* A chunk without any place in use is no gap. */
    for (uint64_t place = 2 * CHUNK_PLACES; place < 3 * CHUNK_PLACES; place++)
        places_give(places, place);
    g_assert_true(places_take_gap(places, 0, &first, &count));
    g_assert_cmpuint(first, ==, 10);
    g_assert_cmpuint(count, ==, 10);
    g_assert_true(places_take_gap(places, 20, &first, &count));
    g_assert_cmpuint(first, ==, 300);
    g_assert_cmpuint(count, ==, 1);
    g_assert_false(places_take_gap(places, 301, &first, &count));
    g_assert_cmpuint(places_used(places), ==, n - CHUNK_PLACES);
    places_give(places, 300);
    g_assert_cmpuint(places_used(places), ==, n - CHUNK_PLACES - 1);
}

/* ---- Cuts ---- */

/* Put block at a new place. */
static uint64_t
put(Overlay *overlay, uint64_t block)
{
    uint64_t got, place = places_take(overlay_places(overlay), 1, &got);

    g_assert_cmpuint(place, !=, PLACE_NONE);
    overlay_set(overlay, block, place);
    overlay_index_add(overlay, 1);
    return place;
}

static bool
is_used(Overlay *overlay, uint64_t place)
{
    if (!places_claim(overlay_places(overlay), place))
        return true;
    places_give(overlay_places(overlay), place);
    return false;
}

static void
sweep(Overlay *overlay)
{
    while (overlay_sweep(overlay))
        continue;
}

static void
test_same_cut(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t first = put(overlay, 3), second = put(overlay, 3);

    g_assert_false(is_used(overlay, first));
    g_assert_true(is_used(overlay, second));
    g_assert_cmpuint(overlay_find(overlay, 3), ==, second);
    g_assert_cmpuint(overlay_find(overlay, 4), ==, PLACE_NONE);
}

static void
test_frozen(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    g_assert_cmpuint(overlay_cut(overlay, &end), ==, 1);
    g_assert_cmpuint(end, ==, 1);
    put(overlay, 3);
    g_assert_true(is_used(overlay, place));
    g_assert_cmpuint(overlay_cut(overlay, &end), ==, 2);
    g_assert_cmpuint(end, ==, 2);
    overlay_released_below(overlay, 1);
    g_assert_true(is_used(overlay, place));
    g_assert_cmpuint(overlay_index_released(overlay), ==, 0);
    overlay_released_below(overlay, 2);
    g_assert_false(is_used(overlay, place));
    g_assert_cmpuint(overlay_index_released(overlay), ==, 1);
}

static void
test_released_already(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    g_assert_true(is_used(overlay, place));
    put(overlay, 3);
    g_assert_false(is_used(overlay, place));
}

static void
test_beyond(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    overlay_released_below(overlay, UINT64_MAX);
    overlay_home_below(overlay, UINT64_MAX);
    sweep(overlay);
    g_assert_cmpuint(overlay_find(overlay, 3), ==, place);
    overlay_cut(overlay, &end);
    put(overlay, 3);
    g_assert_true(is_used(overlay, place));
    overlay_released_below(overlay, 0);
    overlay_home_below(overlay, 0);
    g_assert_true(is_used(overlay, place));
}

static void
test_home(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t old = put(overlay, 3), end, new;

    overlay_set(overlay, 5, PLACE_ZERO);
    overlay_cut(overlay, &end);
    new = put(overlay, 4);
    overlay_cut(overlay, &end);
    overlay_home_below(overlay, 2);
    g_assert_cmpuint(overlay_find(overlay, 3), ==, PLACE_NONE);
    g_assert_cmpuint(overlay_find(overlay, 5), ==, PLACE_NONE);
    g_assert_cmpuint(overlay_find(overlay, 4), ==, new);
    sweep(overlay);
    g_assert_cmpuint(overlay_count(overlay), ==, 1);
    g_assert_true(is_used(overlay, old));
    overlay_released_below(overlay, 2);
    g_assert_false(is_used(overlay, old));
    g_assert_true(is_used(overlay, new));
}

static void
test_written_before_the_sweep(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t old = put(overlay, 3), end, new;

    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    overlay_home_below(overlay, 2);
    new = put(overlay, 3);
    g_assert_false(is_used(overlay, old));
    sweep(overlay);
    g_assert_cmpuint(overlay_find(overlay, 3), ==, new);
}

static void
test_resend(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    overlay_resent(overlay);
    g_assert_cmpuint(overlay_cut(overlay, &end), ==, 2);
    put(overlay, 3);
    g_assert_true(is_used(overlay, place));
    overlay_released_below(overlay, 3);
    g_assert_false(is_used(overlay, place));
}

/* The home gets a block between the resend and the cut with it, as another client has merged it. */
static void
test_resend_and_home(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    overlay_resent(overlay);
    overlay_home_below(overlay, 2);
    sweep(overlay);
    g_assert_cmpuint(overlay_find(overlay, 3), ==, PLACE_NONE);
    g_assert_true(is_used(overlay, place));
    g_assert_cmpuint(overlay_cut(overlay, &end), ==, 2);
    overlay_released_below(overlay, 2);
    g_assert_true(is_used(overlay, place));
    overlay_released_below(overlay, 3);
    g_assert_false(is_used(overlay, place));
}

/* What the home had before the resend is in nobody's way, also if it is swept only after it. */
static void
test_home_and_resend(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t place = put(overlay, 3), end;

    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    overlay_home_below(overlay, 2);
    overlay_resent(overlay);
    sweep(overlay);
    g_assert_false(is_used(overlay, place));
}

static void
test_pins(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t first = put(overlay, 3), second;
    OverlayPin *a = overlay_pin(overlay), *b = overlay_pin(overlay), *c;

    second = put(overlay, 3);
    g_assert_true(is_used(overlay, first));
    c = overlay_pin(overlay);
    put(overlay, 3);
    overlay_unpin(overlay, a);
    g_assert_true(is_used(overlay, first));
    overlay_unpin(overlay, b);
    g_assert_false(is_used(overlay, first));
    g_assert_true(is_used(overlay, second));
    overlay_unpin(overlay, c);
    g_assert_false(is_used(overlay, second));
}

static void
test_pins_out_of_order(void)
{
    g_autoptr(Overlay) overlay = overlay_new(10);
    uint64_t first = put(overlay, 3), second;
    OverlayPin *old = overlay_pin(overlay), *new;

    second = put(overlay, 3);
    new = overlay_pin(overlay);
    put(overlay, 3);
    overlay_unpin(overlay, new);
    /* The old read may be at first only, but it began before second was freed, too. */
    g_assert_true(is_used(overlay, first));
    g_assert_true(is_used(overlay, second));
    overlay_unpin(overlay, old);
    g_assert_false(is_used(overlay, first));
    g_assert_false(is_used(overlay, second));
}

static void
test_millions(void)
{
    g_autoptr(Overlay) overlay = overlay_new(UINT64_C(1) << 32);
    uint64_t n = g_test_slow() ? 10000000 : 1000000, end, steps = 0;

    for (uint64_t i = 0; i < n; i++)
        put(overlay, i * 311 % (UINT64_C(1) << 32));
    g_assert_cmpuint(overlay_count(overlay), ==, n);
    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    overlay_home_below(overlay, 2);
    while (overlay_sweep(overlay))
        steps++;
    g_assert_cmpuint(steps, >, 10);
    g_assert_cmpuint(overlay_count(overlay), ==, 0);
    g_assert_cmpuint(places_used(overlay_places(overlay)), ==, 0);
}

/* ---- Saved and loaded ---- */

/* Cuts 1 and 2, a resend in 2, a place held, zeros, the home up to cut 1. */
static Overlay *
eventful(uint64_t *held)
{
    Overlay *overlay = overlay_new(1000);
    uint64_t end;

    for (uint64_t block = 0; block < 900; block += 3)
        put(overlay, block);
    overlay_cut(overlay, &end);
    overlay_released_below(overlay, 2);
    *held = overlay_find(overlay, 30);
    overlay_resent(overlay);
    overlay_cut(overlay, &end);
    put(overlay, 30);
    overlay_set(overlay, 31, PLACE_ZERO);
    return overlay;
}

static uint8_t *
save(Overlay *overlay, size_t *len)
{
    uint8_t *data;

    sweep(overlay);
    *len = overlay_save_size(overlay);
    data = g_malloc(*len);
    overlay_save(overlay, data);
    return data;
}

static void
test_saved(void)
{
    uint64_t held, end;
    g_autoptr(Overlay) before = eventful(&held), after = NULL;
    g_autoptr(GError) error = NULL;
    size_t len;
    g_autofree uint8_t *data = save(before, &len);

    after = overlay_load(data, len, 1000, 4096, &error);
    g_assert_no_error(error);
    for (uint64_t block = 0; block < 1000; block++)
        g_assert_cmpuint(overlay_find(after, block), ==, overlay_find(before, block));
    g_assert_cmpuint(overlay_index_end(after), ==, overlay_index_end(before));
    g_assert_cmpuint(places_used(overlay_places(after)), ==, places_used(overlay_places(before)));
    /* Block 33 is held for the resend; held is, too, already. */
    uint64_t place = overlay_find(after, 33);
    put(after, 33);
    g_assert_true(is_used(after, place));
    g_assert_cmpuint(overlay_cut(after, &end), ==, 3);
    overlay_released_below(after, 3);
    g_assert_false(is_used(after, place));
    g_assert_false(is_used(after, held));
    g_assert_cmpuint(overlay_index_released(after), ==, 300);
}

static void
test_saved_resending(void)
{
    g_autoptr(Overlay) before = overlay_new(1000), after = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t place = put(before, 3), end;
    g_autofree uint8_t *data = NULL;
    size_t len;

    overlay_cut(before, &end);
    overlay_released_below(before, 2);
    overlay_resent(before);
    overlay_home_below(before, 2);
    data = save(before, &len);
    after = overlay_load(data, len, 1000, 4096, &error);
    g_assert_no_error(error);
    g_assert_true(is_used(after, place));
    overlay_cut(after, &end);
    overlay_released_below(after, 3);
    g_assert_false(is_used(after, place));
}

static void
test_saved_damage(void)
{
    uint64_t held;
    g_autoptr(Overlay) before = eventful(&held);
    size_t len;
    g_autofree uint8_t *data = save(before, &len);

    for (size_t at = 0; at < len; at += at < 200 ? 1 : 37) {
        g_autoptr(GError) error = NULL;

        data[at] ^= 0x10;
        g_assert_null(overlay_load(data, len, 1000, 4096, &error));
        g_assert_nonnull(error);
        data[at] ^= 0x10;
    }
    for (size_t n = 0; n < len; n += n < 200 ? 1 : 37)
        g_assert_null(overlay_load(data, n, 1000, 4096, NULL));
    g_assert_null(overlay_load(data, len, 1001, 4096, NULL));
    g_assert_null(overlay_load(data, len, 1000, 10, NULL));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/blockmap/it is as a table of all blocks", test_map_model);
    g_test_add_func("/blockmap/the largest numbers come back", test_map_extremes);
    g_test_add_func("/blockmap/what was written before a cut is dropped", test_map_drop);
    g_test_add_func("/places/none is handed out twice", test_places_model);
    g_test_add_func("/places/the limit is kept", test_places_limit);
    g_test_add_func("/places/what is free is used again", test_places_bounded);
    g_test_add_func("/places/free chunks are punched, and used after that", test_places_punch);
    g_test_add_func("/places/gaps are found, and are not handed out meanwhile", test_places_gaps);
    g_test_add_func("/overlay/a place overwritten in its own cut is free", test_same_cut);
    g_test_add_func("/overlay/a frozen place is free when its cut is released", test_frozen);
    g_test_add_func("/overlay/a place of a released cut is free at once", test_released_already);
    g_test_add_func("/overlay/the running cut cannot be released", test_beyond);
    g_test_add_func("/overlay/what the home has is dropped", test_home);
    g_test_add_func("/overlay/what the home has may be written again before it is dropped",
                    test_written_before_the_sweep);
    g_test_add_func("/overlay/resent places stay until their second cut is released", test_resend);
    g_test_add_func("/overlay/resent places stay when the home gets their blocks",
                    test_resend_and_home);
    g_test_add_func("/overlay/places of what the home has are not kept by a resend",
                    test_home_and_resend);
    g_test_add_func("/overlay/places that are kept for a resend outlive the program",
                    test_saved_resending);
    g_test_add_func("/overlay/a place stays while reads are at it", test_pins);
    g_test_add_func("/overlay/an older read keeps what a newer one leaves", test_pins_out_of_order);
    g_test_add_func("/overlay/millions of blocks are dropped in steps", test_millions);
    g_test_add_func("/overlay/saved and loaded it is the same", test_saved);
    g_test_add_func("/overlay/damage of what was saved is found", test_saved_damage);
    return g_test_run();
}
