/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* State on disk: whole or not at all. */
#include "control/error.h"
#include "control/store.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIMIT_US (5 * G_USEC_PER_SEC)
#define UUID "0b2d3c4e-5f60-4718-8293-a4b5c6d7e8f9"

typedef struct Fixture {
    char *dir;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("store-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    char *argv[] = {(char *)"rm", (char *)"-rf", f->dir, NULL};

    g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_free(f->dir);
}

static void
destroy(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *left = store_destroy(f->dir, "shop", &error);

    g_assert_no_error(error);
    g_assert_true(store_remove_tree(left, NULL));
}

static char *
path_of(Fixture *f, const char *file)
{
    return g_build_filename(f->dir, "districts", "shop", file, NULL);
}

static void
create(Fixture *f, const Record *record, uint64_t incarnation)
{
    g_autoptr(GError) error = NULL;

    store_create(f->dir, "shop", "[District]\n", record, incarnation, &error);
    g_assert_no_error(error);
}

static void
test_round_trip(Fixture *f, gconstpointer data)
{
    Record in = {.role = ROLE_STANDBY,
                 .uuid = (char *)UUID,
                 .protect = TRUE,
                 .stopped = TRUE,
                 .failover_wanted = TRUE,
                 .resume = TRUE,
                 .home_stopped = TRUE,
                 .pacing = {.interval_us = PACING_AUTO, .max_slowdown = 7, .max_lag_us = 20000},
                 .home_incarnation = 5,
                 .superseded_incarnation = 6,
                 .ended_incarnation = 7,
                 .peer = (char *)"h2",
                 .superseded_by = (char *)"h3",
                 .handing_to = (char *)"h4"};
    Record out;
    uint64_t incarnation = 0;

    create(f, &in, 9);
    g_assert_true(store_load_record(f->dir, "shop", &out, NULL));
    g_assert_true(store_load_incarnation(f->dir, "shop", &incarnation, NULL));
    g_assert_cmpint(out.role, ==, ROLE_STANDBY);
    g_assert_true(out.protect && out.stopped && out.failover_wanted && out.resume &&
                  out.home_stopped && !out.output_commit);
    g_assert_cmpuint(out.pacing.interval_us, ==, PACING_AUTO);
    g_assert_cmpuint(out.pacing.max_slowdown, ==, 7);
    g_assert_cmpuint(out.pacing.max_lag_us, ==, 20000);
    g_assert_cmpuint(out.home_incarnation, ==, 5);
    g_assert_cmpuint(out.superseded_incarnation, ==, 6);
    g_assert_cmpuint(out.ended_incarnation, ==, 7);
    g_assert_cmpstr(out.uuid, ==, UUID);
    g_assert_cmpstr(out.peer, ==, "h2");
    g_assert_cmpstr(out.superseded_by, ==, "h3");
    g_assert_cmpstr(out.handing_to, ==, "h4");
    g_assert_cmpuint(incarnation, ==, 9);
    record_clear(&out);
}

static void
test_clone(Fixture *f, gconstpointer data)
{
    Record in = {.role = ROLE_HOME,
                 .uuid = (char *)UUID,
                 .lineage = 2,
                 .clone_of = (char *)"books",
                 .clone_id = 17};
    Record out;

    create(f, &in, 1);
    g_assert_true(store_load_record(f->dir, "shop", &out, NULL));
    g_assert_cmpstr(out.clone_of, ==, "books");
    g_assert_cmpuint(out.clone_id, ==, 17);
    g_assert_cmpuint(out.lineage, ==, 2);
    record_clear(&out);
}

static void
test_torn_write(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME};
    g_autofree char *torn = path_of(f, "incarnation.tmp");
    uint64_t incarnation = 0;

    create(f, &record, 3);
    g_assert_true(g_file_set_contents(torn, "9", 1, NULL));
    g_assert_true(store_load_incarnation(f->dir, "shop", &incarnation, NULL));
    g_assert_cmpuint(incarnation, ==, 3);
    g_assert_true(store_save_incarnation(f->dir, "shop", 4, NULL));
    g_assert_true(store_load_incarnation(f->dir, "shop", &incarnation, NULL));
    g_assert_cmpuint(incarnation, ==, 4);
    g_assert_false(g_file_test(torn, G_FILE_TEST_EXISTS));
}

static void
test_failed_write_keeps_old(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME};
    g_autofree char *in_the_way = path_of(f, "incarnation.tmp");
    g_autoptr(GError) error = NULL;
    uint64_t incarnation = 0;

    create(f, &record, 3);
    g_assert_cmpint(g_mkdir(in_the_way, 0700), ==, 0);
    g_assert_false(store_save_incarnation(f->dir, "shop", 4, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED);
    g_assert_true(store_load_incarnation(f->dir, "shop", &incarnation, NULL));
    g_assert_cmpuint(incarnation, ==, 3);
}

/* What was being made or removed is cleared away. */
static void
test_half_way(Fixture *f, gconstpointer data)
{
    const char *const left[] = {".new-shop", ".destroyed-shop-0", ".import-x2f4Gz"};

    for (gsize i = 0; i < G_N_ELEMENTS(left); i++) {
        g_autofree char *dir = store_district_dir(f->dir, left[i]);
        g_autofree char *inner = g_build_filename(dir, "checkpoints", NULL);
        g_assert_cmpint(g_mkdir_with_parents(inner, 0700), ==, 0);
        g_auto(GStrv) names = store_list(f->dir);
        g_assert_cmpuint(g_strv_length(names), ==, 0);
        g_assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
    }
}

static void
test_import(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME, .uuid = (char *)UUID, .lineage = 1, .resume = TRUE};
    g_autofree char *first = store_import_begin(f->dir, NULL);
    g_autofree char *second = store_import_begin(f->dir, NULL);
    g_autofree char *disk = g_build_filename(first, "lineage-1", "disks", "db-0.raw", NULL);
    g_autofree char *there = path_of(f, "lineage-1/disks/db-0.raw");
    g_autoptr(GError) error = NULL;
    uint64_t incarnation = 0;

    g_assert_true(g_file_set_contents(disk, "x", 1, NULL));
    g_assert_false(store_exists(f->dir, "shop"));
    store_create_finish(f->dir, first, "shop", "[District]\n", &record, 8, &error);
    g_assert_no_error(error);
    g_assert_true(g_file_test(there, G_FILE_TEST_EXISTS));
    g_assert_true(store_load_incarnation(f->dir, "shop", &incarnation, NULL));
    g_assert_cmpuint(incarnation, ==, 8);
    /* Another one does not take its place. */
    g_assert_false(store_create_finish(f->dir, second, "shop", "", &record, 9, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS);
    g_assert_true(g_file_test(there, G_FILE_TEST_EXISTS));
    g_auto(GStrv) names = store_list(f->dir);
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    g_assert_false(g_file_test(second, G_FILE_TEST_EXISTS));
}

/* A district whose state has gone is damaged. Its checkpoints are all that is left: they stay. */
static void
test_lost_state(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME, .uuid = (char *)UUID};
    g_autofree char *state = path_of(f, "state.json");
    g_autofree char *checkpoint = path_of(f, "checkpoints/1.dckpt");
    g_autoptr(GError) error = NULL;
    Record out;

    create(f, &record, 3);
    g_assert_true(g_file_set_contents(checkpoint, "x", 1, NULL));
    g_assert_cmpint(g_unlink(state), ==, 0);
    g_auto(GStrv) names = store_list(f->dir);
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    g_assert_false(store_load_record(f->dir, "shop", &out, NULL));
    g_assert_true(g_file_test(checkpoint, G_FILE_TEST_EXISTS));
    /* Nor does a new district take its place. */
    g_assert_false(store_create(f->dir, "shop", "[District]\n", &record, 1, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS);
    g_assert_true(g_file_test(checkpoint, G_FILE_TEST_EXISTS));
    destroy(f);
    g_assert_false(store_exists(f->dir, "shop"));
    create(f, &record, 1);
}

static void
test_destroy(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME};
    g_autofree char *link = path_of(f, "checkpoints/1.dckpt");
    g_autofree char *outside = g_build_filename(f->dir, "outside", NULL);

    create(f, &record, 3);
    g_assert_true(g_file_set_contents(outside, "x", 1, NULL));
    g_assert_cmpint(symlink(outside, link), ==, 0);
    destroy(f);
    g_auto(GStrv) names = store_list(f->dir);
    g_assert_cmpuint(g_strv_length(names), ==, 0);
    g_assert_true(g_file_test(outside, G_FILE_TEST_EXISTS));
}

/* Files that are still being removed are in nobody's way. */
static void
test_destroy_again(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME, .uuid = (char *)UUID};

    create(f, &record, 3);
    g_autofree char *first = store_destroy(f->dir, "shop", NULL);
    g_assert_true(g_file_test(first, G_FILE_TEST_IS_DIR));
    g_assert_false(store_exists(f->dir, "shop"));
    create(f, &record, 3);
    g_autofree char *second = store_destroy(f->dir, "shop", NULL);
    g_assert_nonnull(second);
    g_assert_true(g_file_test(second, G_FILE_TEST_IS_DIR));
    g_assert_cmpstr(first, !=, second);
}

static void
test_destroy_retried(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME, .uuid = (char *)UUID};
    g_autoptr(GError) error = NULL;

    create(f, &record, 3);
    destroy(f);
    g_autofree char *left = store_destroy(f->dir, "shop", &error);
    g_assert_no_error(error);
    g_assert_true(store_remove_tree(left, NULL));
}

static void
on_removed(gpointer data)
{
    *(gboolean *)data = TRUE;
}

static void
test_remove_later(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME, .uuid = (char *)UUID};
    gint64 end = g_get_monotonic_time() + LIMIT_US;
    gboolean removed = FALSE;

    create(f, &record, 3);
    char *left = store_destroy(f->dir, "shop", NULL);
    g_autofree char *path = g_strdup(left);
    store_remove_later(left, on_removed, &removed);
    while (!removed) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(500);
    }
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void
test_private(Fixture *f, gconstpointer data)
{
    const Record record = {.role = ROLE_HOME};
    g_autofree char *state = path_of(f, "state.json");
    struct stat st;

    create(f, &record, 3);
    g_assert_cmpint(stat(state, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
}

static void
test_damaged(Fixture *f, gconstpointer data)
{
    const char *const texts[] = {
        "",
        "{",
        "{\"version\":1,\"role\":\"home\",\"uuid\":\"" UUID "\"}",
        "{\"version\":2,\"role\":\"home\"}",
        "{\"version\":2,\"role\":\"home\",\"uuid\":\"x\"}",
        "{\"version\":2,\"role\":\"king\",\"uuid\":\"" UUID "\"}",
        "{\"version\":2,\"role\":\"home\",\"uuid\":\"" UUID "\",\"clone_of\":\"books\"}",
        "{\"version\":3,\"role\":\"home\",\"uuid\":\"" UUID "\",\"clone_of\":\"../books\"}",
        "{\"version\":3,\"role\":\"home\",\"uuid\":\"" UUID "\"}"};
    const Record record = {.role = ROLE_HOME};
    g_autofree char *state = path_of(f, "state.json");

    create(f, &record, 3);
    for (gsize i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        Record out;
        g_assert_true(g_file_set_contents(state, texts[i], -1, NULL));
        g_assert_false(store_load_record(f->dir, "shop", &out, &error));
        g_assert_nonnull(strstr(error->message, "state.json"));
        record_clear(&out);
    }
}

#define ADD(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/store/what is saved is loaded", test_round_trip);
    ADD("/store/what a clone is of is saved with it", test_clone);
    ADD("/store/a write that was cut short changes nothing", test_torn_write);
    ADD("/store/a write that fails keeps what was there", test_failed_write_keeps_old);
    ADD("/store/what was being made or removed is cleared away", test_half_way);
    ADD("/store/what has been imported is there whole and takes nobody's place", test_import);
    ADD("/store/a district whose state is lost keeps its checkpoints", test_lost_state);
    ADD("/store/destroying follows no links", test_destroy);
    ADD("/store/what is being removed is in nobody's way", test_destroy_again);
    ADD("/store/a district can be destroyed once more after that failed half-way",
        test_destroy_retried);
    ADD("/store/files are removed while the loop goes on", test_remove_later);
    ADD("/store/state is for the owner only", test_private);
    ADD("/store/damaged state is refused by name", test_damaged);
    return g_test_run();
}
