/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk: what each request does, with an overlay and without. */
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCKS 64
#define SIZE ((uint64_t)BLOCKS * PAGE_BYTES)

static Rig *
rig_overlay(void)
{
    return rig_new(SIZE, g_get_tmp_dir());
}

static void
home_check(Rig *rig, uint64_t offset, size_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);

    g_assert_cmpint(rig_read(rig, offset, buf, len), ==, 0);
    g_assert_cmpmem(buf, len, rig->home_bytes + offset, len);
}

/* ---- Without overlay ---- */

static void
test_pass_through(void)
{
    g_autoptr(Rig) rig = rig_new(SIZE, NULL);
    Wait wait = {0};

    g_assert_false(disk_has_overlay(rig->disk));
    g_assert_cmpuint(disk_bytes(rig->disk), ==, SIZE);
    g_assert_cmpstr(disk_home(rig->disk), ==, "raw:/fake");
    g_assert_cmpint(rig_fill(rig, SECTOR_BYTES, SECTOR_BYTES, 9), ==, 0);
    g_assert_cmpuint(rig->home_bytes[SECTOR_BYTES], ==, 9);
    rig_check(rig, SECTOR_BYTES, SECTOR_BYTES, 9);
    g_assert_cmpint(rig_zero(rig, 0, SECTOR_BYTES), ==, 0);
    g_assert_cmpuint(rig->home_bytes[0], ==, 0);
    g_assert_cmpint(rig_discard(rig, PAGE_BYTES, PAGE_BYTES), ==, 0);
    g_assert_cmpuint(rig->home_bytes[PAGE_BYTES], ==, 0xdd);
    disk_flush(rig->disk, wait_done, &wait);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    g_assert_cmpuint(rig->home->flushes, ==, 1);
    rig->home->error = EIO;
    g_assert_cmpint(rig_fill(rig, 0, SECTOR_BYTES, 9), ==, EIO);
}

static void
test_read_only(void)
{
    g_autoptr(Rig) plain = rig_new(SIZE, NULL);
    g_autoptr(Rig) overlay = rig_overlay();

    g_assert_false(disk_read_only(plain->disk));
    plain->home->backend.read_only = true;
    overlay->home->backend.read_only = true;
    g_assert_true(disk_read_only(plain->disk));
    g_assert_false(disk_read_only(overlay->disk));
}

static void
test_no_directory(void)
{
    g_autoptr(GError) error = NULL;
    bool closed = false;
    uint8_t bytes[SECTOR_BYTES];
    FakeHome *home = fake_home_new(bytes, sizeof bytes);

    home->closed = &closed;
    g_assert_null(disk_new("db/0", &home->backend, "/nowhere/at/all", &error));
    g_assert_nonnull(strstr(error->message, "db/0"));
    g_assert_nonnull(strstr(error->message, "/nowhere/at/all"));
    g_assert_true(closed);
}

/* ---- With overlay ---- */

static void
test_home_untouched(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    Wait wait = {0};

    home_check(rig, 0, SIZE);
    g_assert_cmpint(rig_fill(rig, 0, SIZE, 7), ==, 0);
    g_assert_cmpint(rig_zero(rig, PAGE_BYTES, 3 * PAGE_BYTES), ==, 0);
    g_assert_cmpint(rig_discard(rig, 5 * PAGE_BYTES, PAGE_BYTES), ==, 0);
    disk_flush(rig->disk, wait_done, &wait);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    rig_check(rig, 0, PAGE_BYTES, 7);
    rig_check(rig, PAGE_BYTES, 3 * PAGE_BYTES, 0);
    g_assert_cmpuint(rig->home->changes + rig->home->flushes, ==, 0);
}

static void
test_sectors(void)
{
    g_autoptr(Rig) rig = rig_overlay();

    /* The end of a block, a whole one, the beginning of one. */
    g_assert_cmpint(rig_fill(rig, 2 * PAGE_BYTES - SECTOR_BYTES, PAGE_BYTES + 2 * SECTOR_BYTES, 5),
                    ==, 0);
    home_check(rig, 0, 2 * PAGE_BYTES - SECTOR_BYTES);
    rig_check(rig, 2 * PAGE_BYTES - SECTOR_BYTES, PAGE_BYTES + 2 * SECTOR_BYTES, 5);
    home_check(rig, 3 * PAGE_BYTES + SECTOR_BYTES, PAGE_BYTES);
    /* The middle of a block that the overlay has. */
    g_assert_cmpint(rig_fill(rig, 2 * PAGE_BYTES + SECTOR_BYTES, SECTOR_BYTES, 6), ==, 0);
    rig_check(rig, 2 * PAGE_BYTES, SECTOR_BYTES, 5);
    rig_check(rig, 2 * PAGE_BYTES + SECTOR_BYTES, SECTOR_BYTES, 6);
    rig_check(rig, 2 * PAGE_BYTES + 2 * SECTOR_BYTES, SECTOR_BYTES, 5);
    /* Zeros in the middle of a block that the home has. */
    g_assert_cmpint(rig_zero(rig, 9 * PAGE_BYTES + SECTOR_BYTES, SECTOR_BYTES), ==, 0);
    home_check(rig, 9 * PAGE_BYTES, SECTOR_BYTES);
    rig_check(rig, 9 * PAGE_BYTES + SECTOR_BYTES, SECTOR_BYTES, 0);
    home_check(rig, 9 * PAGE_BYTES + 2 * SECTOR_BYTES, PAGE_BYTES - 2 * SECTOR_BYTES);
}

static void
test_short_block(void)
{
    uint64_t size = 2 * PAGE_BYTES + 3 * SECTOR_BYTES, end;
    g_autoptr(Rig) rig = rig_new(size, g_get_tmp_dir());
    uint8_t block[PAGE_BYTES], expected[PAGE_BYTES] = {0};
    DiskIndexEntry entry;

    home_check(rig, 0, size);
    /* Whole as far as the disk goes, so nothing is read; then in part. */
    g_assert_cmpint(rig_fill(rig, 2 * PAGE_BYTES, 3 * SECTOR_BYTES, 4), ==, 0);
    g_assert_cmpuint(rig->home->reads, ==, 1);
    g_assert_cmpint(rig_fill(rig, 2 * PAGE_BYTES, SECTOR_BYTES, 3), ==, 0);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 2);
    entry = rig_entry(rig, 1);
    g_assert_cmpuint(entry.block, ==, 2);
    rig_entry_data(rig, &entry, block);
    memset(expected, 4, 3 * SECTOR_BYTES);
    memset(expected, 3, SECTOR_BYTES);
    g_assert_cmpmem(block, sizeof block, expected, sizeof expected);
    g_assert_cmpint(rig_zero(rig, 2 * PAGE_BYTES, 3 * SECTOR_BYTES), ==, 0);
    g_assert_cmpuint(rig_entry(rig, 2).offset, ==, DISK_INDEX_ZERO);
}

static void
test_index(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t block[PAGE_BYTES];
    uint64_t end;

    g_assert_cmpint(rig_fill(rig, 4 * PAGE_BYTES, 2 * PAGE_BYTES, 8), ==, 0);
    g_assert_cmpuint(disk_cut(rig->disk, &end), ==, 1);
    g_assert_cmpuint(end, ==, 2);
    for (unsigned i = 0; i < 2; i++) {
        DiskIndexEntry entry = rig_entry(rig, i);

        g_assert_cmpuint(entry.block, ==, 4 + i);
        rig_entry_data(rig, &entry, block);
        g_assert_cmpuint(block[0], ==, 8);
        g_assert_cmpmem(block, PAGE_BYTES - 1, block + 1, PAGE_BYTES - 1);
    }
    g_assert_cmpuint(disk_cut(rig->disk, &end), ==, 2);
    g_assert_cmpuint(end, ==, 2);
}

static void
test_zero_data(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint64_t end;

    g_assert_cmpint(rig_fill(rig, 0, 8 * PAGE_BYTES, 0), ==, 0);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 8);
    for (uint64_t i = 0; i < end; i++)
        g_assert_cmpuint(rig_entry(rig, i).offset, ==, DISK_INDEX_ZERO);
    rig_check(rig, 0, 8 * PAGE_BYTES, 0);
    g_assert_cmpuint(rig_data_space(rig), ==, 0);
}

static void
test_discard(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint64_t end;

    g_assert_cmpint(rig_fill(rig, 2 * PAGE_BYTES, PAGE_BYTES, 1), ==, 0);
    g_assert_cmpint(rig_discard(rig, SECTOR_BYTES, 10 * PAGE_BYTES), ==, 0);
    /* Only the block that took room has an entry. */
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 2);
    g_assert_cmpuint(rig_entry(rig, 1).block, ==, 2);
    g_assert_cmpuint(rig_entry(rig, 1).offset, ==, DISK_INDEX_ZERO);
    home_check(rig, 0, PAGE_BYTES);
    g_assert_cmpint(rig_discard(rig, SECTOR_BYTES, SECTOR_BYTES), ==, 0);
    home_check(rig, 0, PAGE_BYTES);
}

static void
test_long_zero(void)
{
    uint64_t size = (uint64_t)40000 * PAGE_BYTES + SECTOR_BYTES, end;
    g_autoptr(Rig) rig = rig_new(size, g_get_tmp_dir());

    g_assert_cmpint(rig_zero(rig, SECTOR_BYTES, size - SECTOR_BYTES), ==, 0);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 40001);
    home_check(rig, 0, SECTOR_BYTES);
    rig_check(rig, SECTOR_BYTES, size - SECTOR_BYTES, 0);
    /* It is zero already. */
    g_assert_cmpint(rig_zero(rig, PAGE_BYTES, size - PAGE_BYTES), ==, 0);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 40001);
}

static void
test_read_error(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t buf[2 * PAGE_BYTES];
    uint64_t end;

    g_assert_cmpint(rig_fill(rig, 0, PAGE_BYTES, 1), ==, 0);
    rig->home->error = EIO;
    rig_check(rig, 0, PAGE_BYTES, 1);
    g_assert_cmpint(rig_read(rig, 0, buf, sizeof buf), ==, EIO);
    /* What cannot be read cannot be written in part. */
    g_assert_cmpint(rig_fill(rig, PAGE_BYTES, SECTOR_BYTES, 2), ==, EIO);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 1);
    rig->home->error = 0;
    home_check(rig, PAGE_BYTES, PAGE_BYTES);
}

static void
test_write_error(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    struct rlimit old, limit;
    uint64_t end;

    g_assert_cmpint(rig_fill(rig, 0, PAGE_BYTES, 1), ==, 0);
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    limit = (struct rlimit){PAGE_BYTES, old.rlim_max};
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    g_assert_cmpint(rig_fill(rig, 0, 4 * PAGE_BYTES, 2), ==, EFBIG);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    g_assert_null(disk_waiting(rig->disk));
    rig_check(rig, 0, PAGE_BYTES, 1);
    home_check(rig, PAGE_BYTES, 3 * PAGE_BYTES);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 1);
}

/* ---- At the same time ---- */

static void
test_partial_writes(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t sectors[8][SECTOR_BYTES];
    Wait waits[8] = {{0}};

    fake_home_hold(rig->home, true);
    for (unsigned i = 0; i < 8; i++) {
        memset(sectors[i], (int)(10 + i), SECTOR_BYTES);
        disk_write(rig->disk, i * SECTOR_BYTES, sectors[i], SECTOR_BYTES, wait_done, &waits[i]);
    }
    rig_turn();
    /* One read of the block, for the first; the others wait for it. */
    g_assert_cmpuint(fake_home_waiting(rig->home), ==, 1);
    fake_home_hold(rig->home, false);
    for (unsigned i = 0; i < 8; i++)
        g_assert_cmpint(wait_end(&waits[i]), ==, 0);
    for (unsigned i = 0; i < 8; i++)
        rig_check(rig, i * SECTOR_BYTES, SECTOR_BYTES, (uint8_t)(10 + i));
}

static void
test_partial_then_whole(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t sector[SECTOR_BYTES], block[PAGE_BYTES], other[PAGE_BYTES];
    Wait partial = {0}, whole = {0}, elsewhere = {0};

    memset(sector, 1, sizeof sector);
    memset(block, 2, sizeof block);
    memset(other, 3, sizeof other);
    fake_home_hold(rig->home, true);
    disk_write(rig->disk, 0, sector, sizeof sector, wait_done, &partial);
    disk_write(rig->disk, 0, block, sizeof block, wait_done, &whole);
    disk_write(rig->disk, PAGE_BYTES, other, sizeof other, wait_done, &elsewhere);
    g_assert_cmpint(wait_end(&elsewhere), ==, 0);
    g_assert_false(whole.ended);
    fake_home_hold(rig->home, false);
    g_assert_cmpint(wait_end(&whole), ==, 0);
    g_assert_true(partial.ended);
    rig_check(rig, 0, PAGE_BYTES, 2);
}

static void
test_failed_partial(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t sector[SECTOR_BYTES], block[PAGE_BYTES];
    Wait partial = {0}, whole = {0};

    memset(sector, 1, sizeof sector);
    memset(block, 2, sizeof block);
    rig->home->error = EIO;
    disk_write(rig->disk, 0, sector, sizeof sector, wait_done, &partial);
    disk_write(rig->disk, 0, block, sizeof block, wait_done, &whole);
    g_assert_cmpint(wait_end(&partial), ==, EIO);
    g_assert_cmpint(wait_end(&whole), ==, 0);
    rig_check(rig, 0, PAGE_BYTES, 2);
}

static void
test_not_ended(void)
{
    g_autoptr(Rig) rig = rig_overlay();
    uint8_t bytes[PAGE_BYTES + SECTOR_BYTES];
    Wait wait = {0};
    uint64_t end;

    memset(bytes, 1, sizeof bytes);
    fake_home_hold(rig->home, true);
    disk_write(rig->disk, 0, bytes, sizeof bytes, wait_done, &wait);
    rig_turn();
    /* The whole block could be there, but the request has not ended. */
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 0);
    fake_home_hold(rig->home, false);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(end, ==, 2);
}

/* How often the place of the first write is used again while its block is written again. */
static unsigned
place_used_again(Rig *rig)
{
    unsigned again = 0;

    for (unsigned i = 1; i < 1000; i++) {
        g_assert_cmpint(rig_fill(rig, 0, PAGE_BYTES, 2), ==, 0);
        again += rig_entry(rig, i).offset == rig_entry(rig, 0).offset;
    }
    return again;
}

static void
test_read_keeps_places(void)
{
    g_autoptr(Rig) idle = rig_overlay();
    g_autoptr(Rig) rig = rig_overlay();
    g_autofree uint8_t *buf = g_malloc(2 * PAGE_BYTES);
    Wait wait = {0};

    g_assert_cmpint(rig_fill(idle, 0, PAGE_BYTES, 1), ==, 0);
    g_assert_cmpuint(place_used_again(idle), >, 0);
    /* A read of this block, and of one that it has to wait for. */
    g_assert_cmpint(rig_fill(rig, 0, PAGE_BYTES, 1), ==, 0);
    fake_home_hold(rig->home, true);
    disk_read(rig->disk, 0, buf, 2 * PAGE_BYTES, wait_done, &wait);
    g_assert_cmpuint(place_used_again(rig), ==, 0);
    fake_home_hold(rig->home, false);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    g_assert_cmpuint(buf[0], ==, 1);
}

typedef struct FreeCall {
    Rig *rig;
    Wait wait;
} FreeCall;

static void
free_disk(void *opaque, int error)
{
    FreeCall *call = opaque;

    disk_free(call->rig->disk);
    call->rig->disk = NULL;
    wait_done(&call->wait, error);
}

static void
test_freed_inside(void)
{
    for (unsigned kind = 0; kind < 4; kind++) {
        g_autoptr(Rig) rig = rig_overlay();
        FreeCall call = {.rig = rig};
        uint8_t block[PAGE_BYTES] = {1};

        if (kind == 0)
            disk_write(rig->disk, 0, block, sizeof block, free_disk, &call);
        else if (kind == 1)
            disk_zero(rig->disk, 0, PAGE_BYTES, true, free_disk, &call);
        else if (kind == 2)
            disk_read(rig->disk, 0, block, sizeof block, free_disk, &call);
        else
            disk_flush(rig->disk, free_disk, &call);
        g_assert_cmpint(wait_end(&call.wait), ==, 0);
        g_assert_null(rig->disk);
        rig_turn();
    }
}

/* ---- Room ---- */

/* Fill so many MiB from the beginning of the disk. */
static void
fill_mib(Rig *rig, unsigned mib, uint8_t value)
{
    for (unsigned i = 0; i < mib; i++)
        g_assert_cmpint(rig_fill(rig, (uint64_t)i << 20, 1 << 20, value), ==, 0);
}

static void
settle(void)
{
    for (unsigned i = 0; i < 50; i++) {
        rig_turn();
        g_usleep(2000);
    }
}

static void
test_space_given_back(void)
{
    g_autoptr(Rig) rig = rig_new((uint64_t)160 << 20, g_get_tmp_dir());
    uint64_t end;

    fill_mib(rig, 160, 3);
    disk_cut(rig->disk, &end);
    g_assert_cmpuint(rig_data_space(rig), >=, (uint64_t)160 << 20);
    disk_released_below(rig->disk, 2);
    settle();
    g_assert_cmpuint(rig_data_space(rig), >=, (uint64_t)160 << 20);
    memset(rig->home_bytes, 4, rig->size);
    disk_home_below(rig->disk, 2);
    rig_check(rig, (uint64_t)80 << 20, PAGE_BYTES, 4);
    settle();
    g_assert_cmpuint(rig_data_space(rig), <=, (uint64_t)80 << 20);
    g_assert_cmpuint(rig_index_space(rig), <=, 65536 + PAGE_BYTES);
    fill_mib(rig, 160, 5);
    rig_check(rig, 0, (size_t)160 << 20, 5);
}

static void
test_space_bounded(void)
{
    g_autoptr(Rig) rig = rig_new((uint64_t)8 << 20, g_get_tmp_dir());
    uint64_t end;

    for (unsigned i = 1; i < 60; i++) {
        fill_mib(rig, 8, (uint8_t)i);
        g_assert_cmpuint(disk_cut(rig->disk, &end), ==, i);
        if (i > 2)
            disk_released_below(rig->disk, i - 1);
    }
    settle();
    rig_check(rig, 0, 8 << 20, 59);
    g_assert_cmpuint(rig_data_space(rig), <=, (uint64_t)96 << 20);
    g_assert_cmpuint(rig_index_space(rig), <, end * sizeof(DiskIndexEntry) / 4);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disk/without overlay all requests go to the home", test_pass_through);
    g_test_add_func("/disk/only a disk without overlay is read-only", test_read_only);
    g_test_add_func("/disk/a missing directory is named", test_no_directory);
    g_test_add_func("/disk/the home below an overlay is not touched", test_home_untouched);
    g_test_add_func("/disk/sectors are written into blocks", test_sectors);
    g_test_add_func("/disk/a short last block is filled up with zeros", test_short_block);
    g_test_add_func("/disk/the index tells what was written", test_index);
    g_test_add_func("/disk/zeros take no room", test_zero_data);
    g_test_add_func("/disk/a discard gives back what took room", test_discard);
    g_test_add_func("/disk/a long range is zeroed", test_long_zero);
    g_test_add_func("/disk/an error of the home is passed on", test_read_error);
    g_test_add_func("/disk/a write that fails changes nothing", test_write_error);
    g_test_add_func("/disk/writes into one block wait for each other", test_partial_writes);
    g_test_add_func("/disk/a whole block waits for a part of it", test_partial_then_whole);
    g_test_add_func("/disk/a failed write lets the next one go on", test_failed_partial);
    g_test_add_func("/disk/a cut has nothing of a request that has not ended", test_not_ended);
    g_test_add_func("/disk/a place that is being read is not used again", test_read_keeps_places);
    g_test_add_func("/disk/a completion may free the disk", test_freed_inside);
    g_test_add_func("/disk/space is given back when the home has the data", test_space_given_back);
    g_test_add_func("/disk/overwriting takes bounded space", test_space_bounded);
    return g_test_run();
}
