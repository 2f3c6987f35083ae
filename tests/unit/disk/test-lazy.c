/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk whose overlay came without its data: what waits for it, and what does not. */
#include "rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS 64
#define SIZE ((uint64_t)BLOCKS * PAGE_BYTES)
/* Block FIRST + i is at place i. */
#define FIRST 8
#define PLACES 6

typedef struct Fixture {
    Rig *rig;
    LazyDisk *client; /* the other end */
    int data_fd;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    int data_fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int index_fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    uint64_t blocks[PLACES];
    g_autoptr(GError) error = NULL;

    f->rig = rig_new(SIZE, g_get_tmp_dir());
    g_assert_cmpint(ftruncate(data_fd, PLACES * PAGE_BYTES), ==, 0);
    for (uint64_t i = 0; i < PLACES; i++) {
        DiskIndexEntry entry = {FIRST + i, i * PAGE_BYTES};
        blocks[i] = FIRST + i;
        g_assert_cmpint(pwrite(index_fd, &entry, sizeof entry, (off_t)(i * sizeof entry)), ==,
                        sizeof entry);
    }
    f->data_fd = dup(data_fd);
    disk_restore(f->rig->disk, data_fd, index_fd, PLACES, &error);
    g_assert_no_error(error);
    f->client = lazydisk_new(blocks, PLACES, &error);
    g_assert_no_error(error);
    disk_lazy_begin(f->rig->disk, lazydisk_fds(f->client), &error);
    g_assert_no_error(error);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    rig_free(f->rig);
    lazydisk_free(f->client);
    close(f->data_fd);
}

static void
put(Fixture *f, uint64_t place, uint8_t fill)
{
    uint8_t data[PAGE_BYTES];

    memset(data, fill, sizeof data);
    g_assert_cmpint(pwrite(f->data_fd, data, sizeof data, (off_t)(place * PAGE_BYTES)), ==,
                    sizeof data);
    lazydisk_put(f->client, place);
}

/* The engine has asked for this place, and for none before it. */
static void
assert_wanted(Fixture *f, uint64_t place)
{
    uint64_t at = 0;

    g_assert_true(lazydisk_wanted(f->client, &at));
    g_assert_cmpuint(at, ==, place);
}

static void
assert_nothing_wanted(Fixture *f)
{
    uint64_t at = 0;

    g_assert_false(lazydisk_wanted(f->client, &at));
}

static void
start_read(Fixture *f, uint64_t offset, void *buf, size_t len, Wait *wait)
{
    *wait = (Wait){0};
    disk_read(f->rig->disk, offset, buf, len, wait_done, wait);
    rig_turn();
}

static void
assert_all(const uint8_t *data, size_t len, uint8_t fill)
{
    for (size_t i = 0; i < len; i++)
        g_assert_cmpuint(data[i], ==, fill);
}

static void
test_read_waits(Fixture *f, gconstpointer data)
{
    uint8_t buf[SECTOR_BYTES];
    Wait wait;

    assert_nothing_wanted(f);
    start_read(f, (FIRST + 2) * PAGE_BYTES + SECTOR_BYTES, buf, sizeof buf, &wait);
    g_assert_false(wait.ended);
    assert_wanted(f, 2);
    put(f, 3, 0x33); /* another one */
    rig_turn();
    g_assert_false(wait.ended);
    put(f, 2, 0x22);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    assert_all(buf, sizeof buf, 0x22);
    assert_nothing_wanted(f);
}

static void
test_read_of_several(Fixture *f, gconstpointer data)
{
    uint8_t buf[4 * PAGE_BYTES];
    Wait wait;

    /* Two blocks that are in the home, and two that are to come. */
    start_read(f, (FIRST - 2) * PAGE_BYTES, buf, sizeof buf, &wait);
    put(f, 1, 0x11);
    rig_turn();
    g_assert_false(wait.ended);
    put(f, 0, 0x10);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    g_assert_cmpmem(buf, 2 * PAGE_BYTES, f->rig->home_bytes + (FIRST - 2) * PAGE_BYTES,
                    2 * PAGE_BYTES);
    assert_all(buf + 2 * PAGE_BYTES, PAGE_BYTES, 0x10);
    assert_all(buf + 3 * PAGE_BYTES, PAGE_BYTES, 0x11);
}

static void
test_no_wait(Fixture *f, gconstpointer data)
{
    put(f, 4, 0x44);
    rig_check(f->rig, (FIRST + 4) * PAGE_BYTES, PAGE_BYTES, 0x44);
    rig_fill(f->rig, 0, PAGE_BYTES, 0x77);
    rig_check(f->rig, 0, PAGE_BYTES, 0x77);
    assert_nothing_wanted(f);
}

/* All of a block: what it was is of no interest. */
static void
test_whole_write(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(rig_fill(f->rig, (FIRST + 1) * PAGE_BYTES, PAGE_BYTES, 0x77), ==, 0);
    assert_nothing_wanted(f);
    rig_check(f->rig, (FIRST + 1) * PAGE_BYTES, PAGE_BYTES, 0x77);
    /* And what comes of it later changes nothing. */
    put(f, 1, 0x11);
    rig_check(f->rig, (FIRST + 1) * PAGE_BYTES, PAGE_BYTES, 0x77);
}

static void
test_partial_write(Fixture *f, gconstpointer data)
{
    uint8_t sector[SECTOR_BYTES];
    Wait wait = {0};

    memset(sector, 0x77, sizeof sector);
    disk_write(f->rig->disk, (FIRST + 1) * PAGE_BYTES, sector, sizeof sector, wait_done, &wait);
    rig_turn();
    g_assert_false(wait.ended);
    assert_wanted(f, 1);
    put(f, 1, 0x11);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    rig_check(f->rig, (FIRST + 1) * PAGE_BYTES, SECTOR_BYTES, 0x77);
    rig_check(f->rig, (FIRST + 1) * PAGE_BYTES + SECTOR_BYTES, PAGE_BYTES - SECTOR_BYTES, 0x11);
}

/* A place whose block is elsewhere now is given to no other before all has come: it is still to be
 * filled in. */
static void
test_places_stay(Fixture *f, gconstpointer data)
{
    uint64_t end = 0;

    for (int round = 0; round < 20; round++) {
        for (uint64_t block = 0; block < BLOCKS; block++)
            g_assert_cmpint(rig_fill(f->rig, block * PAGE_BYTES, PAGE_BYTES, 0x70), ==, 0);
        disk_cut(f->rig->disk, &end);
        disk_released_below(f->rig->disk, UINT64_MAX);
        rig_turn();
    }
    for (uint64_t place = 0; place < PLACES; place++)
        put(f, place, 0x10);
    rig_check(f->rig, 0, SIZE, 0x70);
}

static void
test_done(Fixture *f, gconstpointer data)
{
    for (uint64_t place = 0; place < PLACES; place++)
        put(f, place, 0x10);
    rig_turn();
    g_assert_true(disk_is_lazy(f->rig->disk));
    lazydisk_finish(f->client);
    rig_turn();
    g_assert_false(disk_is_lazy(f->rig->disk));
    rig_check(f->rig, FIRST * PAGE_BYTES, PLACES * PAGE_BYTES, 0x10);
    /* As any other disk: it goes over a reset of the guest. */
    rig_hand_on(f->rig);
    rig_check(f->rig, FIRST * PAGE_BYTES, PLACES * PAGE_BYTES, 0x10);
}

/* Before a reset, which cannot have it: it does not wait until it is told that all is there. */
static void
test_hurry(Fixture *f, gconstpointer data)
{
    disk_lazy_hurry(f->rig->disk);
    for (uint64_t place = 0; place < PLACES; place++) {
        assert_wanted(f, place);
        g_assert_true(disk_is_lazy(f->rig->disk));
        put(f, place, 0x10);
        rig_turn();
    }
    g_assert_false(disk_is_lazy(f->rig->disk));
    rig_hand_on(f->rig);
    rig_check(f->rig, FIRST * PAGE_BYTES, PLACES * PAGE_BYTES, 0x10);
}

/* Of a client that was killed, and put nothing: it finds all there is to know. */
static void
test_next_client(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    uint8_t buf[PAGE_BYTES];
    Wait wait;

    start_read(f, (FIRST + 5) * PAGE_BYTES, buf, sizeof buf, &wait);
    g_clear_pointer(&f->client, lazydisk_free);
    f->client = lazydisk_open(disk_lazy_fds(f->rig->disk), &error);
    g_assert_no_error(error);
    assert_wanted(f, 5);
    g_assert_cmpuint(lazydisk_block(f->client, 5), ==, FIRST + 5);
    put(f, 5, 0x55);
    g_assert_cmpint(wait_end(&wait), ==, 0);
    assert_all(buf, sizeof buf, 0x55);
}

static void
test_foreign(Fixture *f, gconstpointer data)
{
    int fds[LAZYDISK_FDS] = {memfd_create("foreign", MFD_CLOEXEC), 0, 0};
    g_autoptr(Rig) rig = rig_new(SIZE, g_get_tmp_dir());
    g_autoptr(GError) error = NULL;

    fds[1] = fds[2] = fds[0];
    g_assert_cmpint(ftruncate(fds[0], 1 << 20), ==, 0);
    g_assert_false(disk_lazy_begin(rig->disk, fds, &error));
    g_assert_nonnull(strstr(error->message, "not a memfd sealed"));
    g_assert_false(disk_is_lazy(rig->disk));
    close(fds[0]);
}

#define ADD(name, function)                                                                        \
    g_test_add("/disk-lazy/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("a read waits for what is not there", test_read_waits);
    ADD("a read of several blocks waits for all of them", test_read_of_several);
    ADD("what is there, or was never to come, is not waited for", test_no_wait);
    ADD("a write of a whole block does not wait", test_whole_write);
    ADD("a write of a part of a block waits for the rest", test_partial_write);
    ADD("a place is not given to another block before all is there", test_places_stay);
    ADD("when all is there it is a disk as any other", test_done);
    ADD("all of it can be had in a hurry", test_hurry);
    ADD("the next client finds what the last one has left", test_next_client);
    ADD("what is not what it should be is refused", test_foreign);
    return g_test_run();
}
