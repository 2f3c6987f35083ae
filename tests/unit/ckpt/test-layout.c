/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Layouts with disks: which are possible, and which images they make. */
#include "ckpt/layout.h"

#include <string.h>

#define N_MEMBERS 2

/* An EPOCH_BEGIN and the CutState to it, of members "db" and "web", each with up to 9 disks. */
typedef struct Fixture {
    District__StreamEpochBegin begin;
    District__CutState cut;
    District__StreamMember members[N_MEMBERS], *member_list[N_MEMBERS];
    District__CutMember cut_members[N_MEMBERS], *cut_list[N_MEMBERS];
    District__StreamDisk disks[N_MEMBERS][DISKS_MAX + 1], *disk_list[N_MEMBERS][DISKS_MAX + 1];
    District__StreamDisk cut_disks[N_MEMBERS][DISKS_MAX + 1];
    District__StreamDisk *cut_disk_list[N_MEMBERS][DISKS_MAX + 1];
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    static char *const names[N_MEMBERS] = {(char *)"db", (char *)"web"};

    district__stream_epoch_begin__init(&f->begin);
    district__cut_state__init(&f->cut);
    for (size_t i = 0; i < N_MEMBERS; i++) {
        district__stream_member__init(&f->members[i]);
        district__cut_member__init(&f->cut_members[i]);
        f->members[i].name = f->cut_members[i].name = names[i];
        f->members[i].ram_size = f->cut_members[i].ram_size = 16 * PAGE_BYTES;
        for (size_t k = 0; k <= DISKS_MAX; k++) {
            district__stream_disk__init(&f->disks[i][k]);
            district__stream_disk__init(&f->cut_disks[i][k]);
            f->disks[i][k].size = f->cut_disks[i][k].size = (i * 10 + k + 1) * PAGE_BYTES;
            f->disk_list[i][k] = &f->disks[i][k];
            f->cut_disk_list[i][k] = &f->cut_disks[i][k];
        }
        f->members[i].disks = f->disk_list[i];
        f->cut_members[i].disks = f->cut_disk_list[i];
        f->member_list[i] = &f->members[i];
        f->cut_list[i] = &f->cut_members[i];
    }
    f->begin.epoch = f->cut.epoch = 1;
    f->begin.n_members = f->cut.n_members = N_MEMBERS;
    f->begin.members = f->member_list;
    f->cut.members = f->cut_list;
    f->cut.version = CUT_STATE_VERSION;
    f->cut.district = (char *)"shop";
}

static void
tear_down(Fixture *f, gconstpointer data)
{
}

static void
set_disks(Fixture *f, size_t member, size_t n)
{
    f->members[member].n_disks = f->cut_members[member].n_disks = n;
}

static void
assert_begin_refused(Fixture *f, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(layout_check_begin(&f->begin, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    g_assert_nonnull(strstr(error->message, word));
}

static void
test_images(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree uint64_t *pages = NULL, *bytes = NULL;

    set_disks(f, 0, 2);
    set_disks(f, 1, 1);
    f->disks[0][1].size = 7 * PAGE_BYTES + SECTOR_BYTES;
    g_assert_true(layout_check_begin(&f->begin, &error));
    g_assert_cmpuint(layout_image_count(&f->begin), ==, 5);
    pages = layout_image_pages(&f->begin);
    bytes = layout_image_bytes(&f->begin);
    g_assert_cmpuint(pages[1], ==, 16);
    g_assert_cmpuint(pages[2], ==, 1);
    g_assert_cmpuint(pages[3], ==, 8);
    g_assert_cmpuint(bytes[3], ==, 7 * PAGE_BYTES + SECTOR_BYTES);
    g_assert_cmpuint(pages[4], ==, 11);
}

static void
test_names(Fixture *f, gconstpointer data)
{
    static const char *const names[] = {
        "RAM of member db",    "RAM of member web",    "disk 0 of member db",
        "disk 1 of member db", "disk 0 of member web", "image 5, which does not exist",
    };

    set_disks(f, 0, 2);
    set_disks(f, 1, 1);
    for (uint32_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *name = layout_image_name(&f->begin, i);
        g_assert_cmpstr(name, ==, names[i]);
    }
}

static void
test_sizes(Fixture *f, gconstpointer data)
{
    static const uint64_t bad[] = {
        0, 1, SECTOR_BYTES - 1, PAGE_BYTES + 1, DISK_BYTES_MAX + SECTOR_BYTES, UINT64_MAX};
    static const uint64_t good[] = {SECTOR_BYTES, PAGE_BYTES + SECTOR_BYTES, DISK_BYTES_MAX};

    set_disks(f, 1, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        f->disks[1][0].size = f->cut_disks[1][0].size = bad[i];
        assert_begin_refused(f, "member web");
        g_assert_false(layout_check_cut(&f->cut, &error));
        g_assert_nonnull(strstr(error->message, "not a possible disk size"));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        f->disks[1][0].size = f->cut_disks[1][0].size = good[i];
        g_assert_true(layout_check_begin(&f->begin, NULL));
        g_assert_true(layout_check_cut(&f->cut, NULL));
    }
}

static void
test_too_many(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    set_disks(f, 0, DISKS_MAX);
    g_assert_true(layout_check_begin(&f->begin, NULL));
    set_disks(f, 0, DISKS_MAX + 1);
    assert_begin_refused(f, "9 disks");
    g_assert_false(layout_check_cut(&f->cut, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
}

static void
test_match(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) fewer = NULL;
    g_autoptr(GError) other = NULL;

    set_disks(f, 0, 1);
    set_disks(f, 1, 2);
    f->disks[1][1].data = 1000; /* says nothing of the layout */
    g_assert_true(layout_check_match(&f->begin, &f->cut, NULL));
    f->cut_members[1].n_disks = 1;
    g_assert_false(layout_check_match(&f->begin, &f->cut, &fewer));
    g_assert_nonnull(strstr(fewer->message, "member web"));
    f->cut_members[1].n_disks = 2;
    f->cut_disks[1][1].size += SECTOR_BYTES;
    g_assert_false(layout_check_match(&f->begin, &f->cut, &other));
    g_assert_nonnull(strstr(other->message, "disks"));
}

/* ---- JOURNAL records ---- */

static uint8_t journal_data[JOURNAL_DATA_MAX + SECTOR_BYTES];

#define JOURNAL(k, name, bytes, at, n)                                                             \
    {                                                                                              \
        .base = PROTOBUF_C_MESSAGE_INIT(&district__stream_journal__descriptor),                    \
        .kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_##k, .member = (char *)(name),       \
        .size = (bytes), .offset = (at), .data = {                                                 \
            .len = (n),                                                                            \
            .data = journal_data                                                                   \
        }                                                                                          \
    }

static void
test_journal_records(Fixture *f, gconstpointer data)
{
    const District__StreamJournal good[] = {
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MIN, 0, 0),
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MAX, 0, 0),
        JOURNAL(DATA, "db", 0, 0, SECTOR_BYTES),
        JOURNAL(DATA, "db", 0, JOURNAL_BYTES_MAX - JOURNAL_DATA_MAX, JOURNAL_DATA_MAX),
        JOURNAL(PUBLISH, "", 0, 0, 0),
    };
    const District__StreamJournal bad[] = {
        JOURNAL(UNKNOWN, "db", 0, 0, 0),
        JOURNAL(BEGIN, "../db", JOURNAL_BYTES_MIN, 0, 0),
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MIN - PAGE_BYTES, 0, 0),
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MAX + PAGE_BYTES, 0, 0),
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MIN + SECTOR_BYTES, 0, 0),
        JOURNAL(BEGIN, "db", JOURNAL_BYTES_MIN, 0, SECTOR_BYTES),
        JOURNAL(DATA, "", 0, 0, SECTOR_BYTES),
        JOURNAL(DATA, "db", 0, 0, 0),
        JOURNAL(DATA, "db", 0, 0, 511),
        JOURNAL(DATA, "db", 0, 1, SECTOR_BYTES),
        JOURNAL(DATA, "db", 0, 0, JOURNAL_DATA_MAX + SECTOR_BYTES),
        JOURNAL(DATA, "db", 0, JOURNAL_BYTES_MAX, SECTOR_BYTES),
        JOURNAL(DATA, "db", 0, UINT64_MAX - 511, SECTOR_BYTES),
        JOURNAL(PUBLISH, "db", 0, 0, 0),
        JOURNAL(PUBLISH, "", 0, 0, SECTOR_BYTES),
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(layout_check_journal(&good[i], NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(layout_check_journal(&bad[i], &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    }
}

#define ADD(path, function) g_test_add(path, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/layout/images are all RAM, then the disks of each member", test_images);
    ADD("/layout/every image has a name", test_names);
    ADD("/layout/a disk is of whole sectors and not too big", test_sizes);
    ADD("/layout/a member has at most 8 disks", test_too_many);
    ADD("/layout/a JOURNAL record has the fields of its kind, in range", test_journal_records);
    ADD("/layout/the cut's disks must be those of the epoch", test_match);
    return g_test_run();
}
