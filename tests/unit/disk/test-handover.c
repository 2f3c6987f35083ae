/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Overlays from a client, hostile ones too, and from a former life. */
#include "rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS 64
#define SIZE ((uint64_t)BLOCKS * PAGE_BYTES)
#define DATA_BLOCKS 16

/* Two files as a client makes them: block n of the data file is filled with 100 + n. */
typedef struct Fixture {
    Rig *rig;
    int data_fd, index_fd;
    uint64_t entries;
    bool taken; /* the descriptors are the disk's */
} Fixture;

static int
temporary_file(void)
{
    int fd = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    uint8_t block[PAGE_BYTES];

    f->rig = rig_new(SIZE, g_get_tmp_dir());
    f->data_fd = temporary_file();
    f->index_fd = temporary_file();
    for (unsigned i = 0; i < DATA_BLOCKS; i++) {
        memset(block, (int)(100 + i), sizeof block);
        g_assert_cmpint(pwrite(f->data_fd, block, sizeof block, (off_t)(i * PAGE_BYTES)), ==,
                        sizeof block);
    }
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    /* A disk works, whatever it has refused. */
    g_assert_cmpint(rig_fill(f->rig, 20 * PAGE_BYTES, PAGE_BYTES, 1), ==, 0);
    rig_check(f->rig, 20 * PAGE_BYTES, PAGE_BYTES, 1);
    rig_free(f->rig);
    if (!f->taken) {
        close(f->data_fd);
        close(f->index_fd);
    }
}

static void
add_entry(Fixture *f, uint64_t block, uint64_t offset)
{
    DiskIndexEntry entry = {block, offset};

    g_assert_cmpint(pwrite(f->index_fd, &entry, sizeof entry, (off_t)(f->entries++ * sizeof entry)),
                    ==, sizeof entry);
}

/* The disk is its home. */
static void
check_home(Fixture *f)
{
    uint8_t sector[SECTOR_BYTES];

    g_assert_cmpint(rig_read(f->rig, 0, sector, sizeof sector), ==, 0);
    g_assert_cmpmem(sector, sizeof sector, f->rig->home_bytes, sizeof sector);
}

static void
restore_good(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    disk_restore(f->rig->disk, f->data_fd, f->index_fd, f->entries, &error);
    g_assert_no_error(error);
    f->taken = true;
}

static void
restore_bad(Fixture *f, const char *says)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(disk_restore(f->rig->disk, f->data_fd, f->index_fd, f->entries, &error));
    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "disk db/0"));
    g_assert_nonnull(strstr(error->message, says));
}

static void
test_restore(Fixture *f, gconstpointer data)
{
    uint64_t end;

    add_entry(f, 3, 0);
    add_entry(f, 4, DISK_INDEX_ZERO);
    add_entry(f, 5, 2 * PAGE_BYTES);
    add_entry(f, 3, 7 * PAGE_BYTES);
    restore_good(f);
    rig_check(f->rig, 3 * PAGE_BYTES, PAGE_BYTES, 107);
    rig_check(f->rig, 4 * PAGE_BYTES, PAGE_BYTES, 0);
    rig_check(f->rig, 5 * PAGE_BYTES, PAGE_BYTES, 102);
    g_assert_cmpint(rig_fill(f->rig, 5 * PAGE_BYTES, SECTOR_BYTES, 9), ==, 0);
    rig_check(f->rig, 5 * PAGE_BYTES + SECTOR_BYTES, PAGE_BYTES - SECTOR_BYTES, 102);
    g_assert_cmpuint(disk_cut(f->rig->disk, &end), ==, 1);
    g_assert_cmpuint(end, ==, 5);
    g_assert_cmpuint(rig_entry(f->rig, 4).block, ==, 5);
}

static void
test_restored_are_cut_0(Fixture *f, gconstpointer data)
{
    uint8_t block[PAGE_BYTES];
    uint64_t end;

    add_entry(f, 3, 7 * PAGE_BYTES);
    add_entry(f, 4, 8 * PAGE_BYTES);
    restore_good(f);
    /* Written again, but not released. */
    for (unsigned i = 0; i < 1000; i++)
        g_assert_cmpint(rig_fill(f->rig, 3 * PAGE_BYTES, PAGE_BYTES, 5), ==, 0);
    g_assert_cmpint(pread(f->data_fd, block, sizeof block, (off_t)(7 * PAGE_BYTES)), ==,
                    sizeof block);
    g_assert_cmpuint(block[0], ==, 107);
    disk_cut(f->rig->disk, &end);
    memset(f->rig->home_bytes, 77, SIZE);
    disk_home_below(f->rig->disk, 1);
    rig_check(f->rig, 3 * PAGE_BYTES, PAGE_BYTES, 5);
    rig_check(f->rig, 4 * PAGE_BYTES, PAGE_BYTES, 77);
}

static void
test_empty(Fixture *f, gconstpointer data)
{
    restore_good(f);
    check_home(f);
}

static void
test_bad_block(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, 0);
    add_entry(f, BLOCKS, PAGE_BYTES);
    restore_bad(f, "entry 1");
}

static void
test_huge_block(Fixture *f, gconstpointer data)
{
    add_entry(f, UINT64_MAX, 0);
    restore_bad(f, "entry 0");
}

static void
test_odd_offset(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, PAGE_BYTES + 512);
    restore_bad(f, "entry 0");
}

static void
test_offset_beyond(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, DATA_BLOCKS * PAGE_BYTES);
    restore_bad(f, "entry 0");
}

static void
test_half_a_block(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(ftruncate(f->data_fd, (off_t)(DATA_BLOCKS * PAGE_BYTES + 100)), ==, 0);
    add_entry(f, 3, DATA_BLOCKS * PAGE_BYTES);
    restore_bad(f, "entry 0");
}

static void
test_shared_place(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, PAGE_BYTES);
    add_entry(f, 4, PAGE_BYTES);
    restore_bad(f, "place of another block");
}

static void
test_shared_once(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, PAGE_BYTES);
    add_entry(f, 3, 2 * PAGE_BYTES);
    add_entry(f, 4, PAGE_BYTES);
    restore_good(f);
    rig_check(f->rig, 3 * PAGE_BYTES, PAGE_BYTES, 102);
    rig_check(f->rig, 4 * PAGE_BYTES, PAGE_BYTES, 101);
}

static void
test_far_out(Fixture *f, gconstpointer data)
{
    /* A hole of 8 TiB must not cost memory in proportion. */
    g_assert_cmpint(ftruncate(f->data_fd, (off_t)1 << 43), ==, 0);
    add_entry(f, 3, ((uint64_t)1 << 43) - PAGE_BYTES);
    restore_bad(f, "too far out");
}

static void
test_too_few_entries(Fixture *f, gconstpointer data)
{
    add_entry(f, 3, 0);
    f->entries = 2;
    restore_bad(f, "too few");
    f->entries = UINT64_MAX / 16 + 2;
    restore_bad(f, "too few");
}

static void
test_not_files(Fixture *f, gconstpointer data)
{
    int ends[2], index_fd = f->index_fd;

    g_assert_cmpint(pipe(ends), ==, 0);
    f->index_fd = ends[0];
    restore_bad(f, "index");
    f->index_fd = -1;
    restore_bad(f, "index");
    f->index_fd = index_fd;
    close(ends[0]);
    close(ends[1]);
}

static void
test_in_use(Fixture *f, gconstpointer data)
{
    check_home(f);
    restore_bad(f, "in use");
}

static void
test_random_indexes(Fixture *f, gconstpointer data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    unsigned good = 0;

    for (unsigned round = 0; round < 300; round++) {
        g_autoptr(GError) error = NULL;
        int data_fd = dup(f->data_fd), index_fd = dup(f->index_fd);

        f->entries = 0;
        for (unsigned i = 0; i < 4; i++) {
            uint64_t block = (uint64_t)g_rand_int_range(rand, 0, BLOCKS + 8);
            uint64_t page = (uint64_t)g_rand_int_range(rand, 0, DATA_BLOCKS + 2);

            add_entry(f, block, g_rand_int_range(rand, 0, 9) == 0 ? page * 4000 : page * 4096);
        }
        if (disk_restore(f->rig->disk, data_fd, index_fd, f->entries, &error)) {
            g_autofree uint8_t *all = g_malloc(SIZE);

            good++;
            g_assert_cmpint(rig_read(f->rig, 0, all, SIZE), ==, 0);
            rig_reopen(f->rig);
        } else {
            g_assert_nonnull(error);
            close(data_fd);
            close(index_fd);
        }
    }
    g_assert_cmpuint(good, >, 10);
    g_assert_cmpuint(good, <, 290);
}

/* ---- A former life ---- */

static void
test_next_life(Fixture *f, gconstpointer data)
{
    uint64_t end;

    g_assert_cmpint(rig_fill(f->rig, 0, 2 * PAGE_BYTES, 1), ==, 0);
    g_assert_cmpuint(disk_cut(f->rig->disk, &end), ==, 1);
    g_assert_cmpint(rig_fill(f->rig, 0, PAGE_BYTES, 2), ==, 0);
    rig_hand_on(f->rig);
    rig_check(f->rig, 0, PAGE_BYTES, 2);
    rig_check(f->rig, PAGE_BYTES, PAGE_BYTES, 1);
    g_assert_cmpuint(disk_cut(f->rig->disk, &end), ==, 2);
    g_assert_cmpuint(end, ==, 3);
}

static void
test_next_life_keeps_frozen(Fixture *f, gconstpointer data)
{
    uint8_t block[PAGE_BYTES];
    DiskIndexEntry entry;
    uint64_t end;

    g_assert_cmpint(rig_fill(f->rig, 0, PAGE_BYTES, 1), ==, 0);
    disk_cut(f->rig->disk, &end);
    g_assert_cmpint(rig_fill(f->rig, 0, PAGE_BYTES, 2), ==, 0);
    rig_hand_on(f->rig);
    for (unsigned i = 0; i < 2000; i++)
        g_assert_cmpint(rig_fill(f->rig, PAGE_BYTES, PAGE_BYTES, 3), ==, 0);
    entry = rig_entry(f->rig, 0);
    rig_entry_data(f->rig, &entry, block);
    g_assert_cmpuint(block[0], ==, 1);
    g_assert_cmpmem(block, PAGE_BYTES - 1, block + 1, PAGE_BYTES - 1);
    rig_check(f->rig, 0, PAGE_BYTES, 2);
}

static void
inherit_bad(Fixture *f, const char *text, const char *says)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(disk_inherit(f->rig->disk, text, &error));
    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "disk db/0"));
    g_assert_nonnull(strstr(error->message, says));
}

static void
test_inherit_nonsense(Fixture *f, gconstpointer data)
{
    g_autofree char *no_state =
        g_strdup_printf("overlay-1 data=%d index=%d state=%d", f->data_fd, f->index_fd, f->data_fd);

    inherit_bad(f, "", "does not say");
    inherit_bad(f, "overlay-1 data=1 index=2", "does not say");
    inherit_bad(f, "overlay-1 data=1 index=2 state=3 more", "does not say");
    inherit_bad(f, "overlay-1 data=-1 index=-1 state=-1", "data file");
    inherit_bad(f, no_state, "state");
    check_home(f);
}

static void
test_inherit_damage(Fixture *f, gconstpointer data)
{
    g_autofree char *text = NULL;
    int data_fd, index_fd, state_fd;
    uint8_t byte;

    g_assert_cmpint(rig_fill(f->rig, 0, 2 * PAGE_BYTES, 1), ==, 0);
    text = rig_hand_on_text(f->rig->disk);
    rig_reopen(f->rig);
    sscanf(text, "overlay-1 data=%d index=%d state=%d", &data_fd, &index_fd, &state_fd);
    g_assert_cmpint(pread(state_fd, &byte, 1, 130), ==, 1);
    byte ^= 1;
    g_assert_cmpint(pwrite(state_fd, &byte, 1, 130), ==, 1);
    inherit_bad(f, text, "damaged");
    byte ^= 1;
    g_assert_cmpint(pwrite(state_fd, &byte, 1, 130), ==, 1);
    g_assert_cmpint(ftruncate(index_fd, 16), ==, 0);
    inherit_bad(f, text, "cut short");
    g_assert_cmpint(ftruncate(index_fd, 32), ==, 0);
    g_assert_cmpint(ftruncate(data_fd, PAGE_BYTES), ==, 0);
    inherit_bad(f, text, "out of range");
    close(data_fd);
    close(index_fd);
    close(state_fd);
}

#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/restore/the last entry of a block holds", test_restore);
    ADD("/restore/entries count as written in cut 0", test_restored_are_cut_0);
    ADD("/restore/an empty overlay is one", test_empty);
    ADD("/restore/a block beyond the disk is refused", test_bad_block);
    ADD("/restore/the largest number is refused", test_huge_block);
    ADD("/restore/an offset inside a block is refused", test_odd_offset);
    ADD("/restore/an offset beyond the data is refused", test_offset_beyond);
    ADD("/restore/half a block of data is refused", test_half_a_block);
    ADD("/restore/two blocks at one place are refused", test_shared_place);
    ADD("/restore/a place may have had another block before", test_shared_once);
    ADD("/restore/a place beyond all bounds is refused", test_far_out);
    ADD("/restore/an index that is too short is refused", test_too_few_entries);
    ADD("/restore/what is not a file is refused", test_not_files);
    ADD("/restore/a disk in use is refused", test_in_use);
    ADD("/restore/indexes of nonsense are refused or read", test_random_indexes);
    ADD("/hand-on/the next life goes on", test_next_life);
    ADD("/hand-on/the next life keeps what is frozen", test_next_life_keeps_frozen);
    ADD("/hand-on/nonsense is refused", test_inherit_nonsense);
    ADD("/hand-on/damage is refused", test_inherit_damage);
    return g_test_run();
}
