/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Home images as district-ckpt reads and writes them, beside an engine that has them open. */
#include "image.h"

#include "disk/home.h"

#include <dlfcn.h>
#include <libnbd.h>
#include <signal.h>
#include <string.h>

#define MIB (1024 * 1024)
#define SIZE (64 * MIB)

typedef struct Fixture {
    Image image;
    BlockBackend *engine;
    Home *home;
    uint8_t *buf;
} Fixture;

/* ---- What the server is asked ---- */

static unsigned status_asked;

int64_t
nbd_aio_block_status(struct nbd_handle *nbd, uint64_t count, uint64_t offset,
                     nbd_extent_callback extent, nbd_completion_callback completion, uint32_t flags)
{
    int64_t (*real)(struct nbd_handle *, uint64_t, uint64_t, nbd_extent_callback,
                    nbd_completion_callback, uint32_t);

    *(void **)&real = dlsym(RTLD_NEXT, "nbd_aio_block_status");
    status_asked++;
    return real(nbd, count, offset, extent, completion, flags);
}

static void
set_up(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;

    image_make(&f->image, format, SIZE);
    f->engine = image_open(&f->image, BLOCK_WRITE);
    f->home = home_open(f->engine->home, SIZE, true, &error);
    g_assert_no_error(error);
    f->buf = g_malloc(MIB);
}

static void
tear_down(Fixture *f, gconstpointer format)
{
    home_close(f->home);
    image_close(f->engine);
    image_remove(&f->image);
    g_free(f->buf);
}

static void
both_see_what_the_other_wrote(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;

    memset(f->buf, 0x11, 8192);
    home_write(f->home, 12 * MIB, f->buf, 8192, &error);
    g_assert_no_error(error);
    memset(f->buf, 0, 8192);
    g_assert_cmpint(block_read(f->engine, 12 * MIB, f->buf, 8192), ==, 0);
    g_assert_true(all_bytes(f->buf, 8192, 0x11));
    memset(f->buf, 0x22, 4096);
    g_assert_cmpint(block_write(f->engine, 12 * MIB, f->buf, 4096), ==, 0);
    home_flush(f->home, &error);
    g_assert_no_error(error);
    home_read(f->home, 12 * MIB, f->buf, 8192, &error);
    g_assert_no_error(error);
    g_assert_true(all_bytes(f->buf, 4096, 0x22));
    g_assert_true(all_bytes(f->buf + 4096, 4096, 0x11));
    home_zero(f->home, 12 * MIB, 4096, &error);
    g_assert_no_error(error);
    g_assert_cmpint(block_read(f->engine, 12 * MIB, f->buf, 8192), ==, 0);
    g_assert_true(all_bytes(f->buf, 4096, 0));
    g_assert_true(all_bytes(f->buf + 4096, 4096, 0x11));
}

static void
finds_data(Fixture *f, gconstpointer format)
{
    const uint64_t wrote[] = {0, 20 * MIB, SIZE - MIB};
    g_autoptr(GError) error = NULL;
    uint64_t start, end = 0;
    unsigned found = 0;

    memset(f->buf, 1, MIB);
    for (size_t i = 0; i < G_N_ELEMENTS(wrote); i++) {
        home_write(f->home, wrote[i], f->buf, MIB, &error);
        g_assert_no_error(error);
    }
    home_flush(f->home, &error);
    for (;;) {
        home_next_data(f->home, end, &start, &end, &error);
        g_assert_no_error(error);
        if (start == SIZE)
            break;
        g_test_message("data from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT, start, end);
        g_assert_cmpuint(found, <, G_N_ELEMENTS(wrote));
        g_assert_cmpuint(start, ==, wrote[found]);
        g_assert_cmpuint(end, ==, wrote[found] + MIB);
        found++;
    }
    g_assert_cmpuint(found, ==, G_N_ELEMENTS(wrote));
    /* From the middle of a range: what is left of it. */
    home_next_data(f->home, 20 * MIB + 4096, &start, &end, &error);
    g_assert_cmpuint(start, ==, 20 * MIB + 4096);
    g_assert_cmpuint(end, ==, 21 * MIB);
}

/* 64 KiB are a cluster of qcow2. */
static void
fragments_are_asked_for_once(Fixture *f, gconstpointer format)
{
    const uint64_t cluster = 64 * 1024;
    g_autoptr(GError) error = NULL;
    uint64_t start, end = 0, found = 0;

    memset(f->buf, 1, cluster);
    for (uint64_t at = 0; at < SIZE; at += 2 * cluster)
        g_assert_true(home_write(f->home, at, f->buf, cluster, NULL));
    status_asked = 0;
    for (;; found++) {
        home_next_data(f->home, end, &start, &end, &error);
        g_assert_no_error(error);
        if (start == SIZE)
            break;
        g_assert_cmpuint(start, ==, found * 2 * cluster);
        g_assert_cmpuint(end, ==, start + cluster);
    }
    g_assert_cmpuint(found, ==, SIZE / cluster / 2);
    g_test_message("%u requests", status_asked);
    g_assert_cmpuint(status_asked, <, 20);
}

static void
empty_image_has_no_data(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;
    uint64_t start = 0, end = 0;

    home_next_data(f->home, 0, &start, &end, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(start, ==, SIZE);
}

static void
another_size_is_refused(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(home_open(f->engine->home, SIZE + 512, false, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, f->image.dir));
}

static void
unknown_kind_is_refused(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(home_open("floppy:/a", SIZE, false, &error));
    g_assert_nonnull(strstr(error->message, "floppy:/a"));
}

static void
reader_does_not_write(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;
    Home *reader = home_open(f->engine->home, SIZE, false, &error);

    g_assert_no_error(error);
    home_read(reader, 0, f->buf, 4096, &error);
    g_assert_no_error(error);
    home_close(reader);
}

static void
killed_server_fails_calls(Fixture *f, gconstpointer format)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) again = NULL;
    uint64_t start, end;

    kill(image_server(f->engine), SIGKILL);
    g_assert_false(home_write(f->home, 0, f->buf, MIB, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "nbd:"));
    g_assert_false(home_read(f->home, 0, f->buf, 4096, NULL));
    g_assert_false(home_flush(f->home, NULL));
    g_assert_false(home_next_data(f->home, 0, &start, &end, NULL));
    g_assert_null(home_open(f->engine->home, SIZE, false, &again));
}

/* ---- Without an engine ---- */

static Home *
own_open(const Image *image, bool write, GError **error)
{
    g_autofree char *home = g_strdup_printf("image:%s:%s", image->format, image->path);

    return home_open(home, SIZE, write, error);
}

static void
image_is_served(void)
{
    g_autofree uint8_t *buf = g_malloc(MIB);
    g_autoptr(GError) error = NULL;
    Home *writer, *reader;
    Image image;

    image_make(&image, "qcow2", SIZE);
    writer = own_open(&image, true, &error);
    g_assert_no_error(error);
    reader = own_open(&image, false, &error);
    g_assert_no_error(error);
    memset(buf, 0x11, MIB);
    g_assert_true(home_write(writer, 3 * MIB, buf, MIB, NULL));
    home_close(writer);
    memset(buf, 0, MIB);
    g_assert_true(home_read(reader, 3 * MIB, buf, MIB, NULL));
    g_assert_true(all_bytes(buf, MIB, 0x11));
    home_close(reader);
    /* It is free for an engine now, with all that was written. */
    BlockBackend *engine = image_open(&image, BLOCK_WRITE);
    memset(buf, 0, MIB);
    g_assert_cmpint(block_read(engine, 3 * MIB, buf, MIB), ==, 0);
    g_assert_true(all_bytes(buf, MIB, 0x11));
    image_close(engine);
    image_remove(&image);
}

static void
image_in_use_is_refused(void)
{
    g_autoptr(GError) error = NULL;
    Image image;

    image_make(&image, "qcow2", SIZE);
    BlockBackend *engine = image_open(&image, BLOCK_WRITE);
    g_assert_null(own_open(&image, true, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, image.path));
    image_close(engine);
    Home *home = own_open(&image, true, NULL);
    g_assert_nonnull(home);
    home_close(home);
    image_remove(&image);
}

#define RAW(name, function) g_test_add("/raw/" name, Fixture, "raw", set_up, function, tear_down)
#define NBD(name, function)                                                                        \
    g_test_add("/qcow2/" name, Fixture, "qcow2", set_up, function, tear_down)
#define BOTH(name, function)                                                                       \
    RAW(name, function);                                                                           \
    NBD(name, function)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    BOTH("engine and client see what the other wrote", both_see_what_the_other_wrote);
    BOTH("ranges with data are found", finds_data);
    NBD("many ranges with data are few requests", fragments_are_asked_for_once);
    BOTH("an empty image has no data", empty_image_has_no_data);
    BOTH("an image of another size is refused", another_size_is_refused);
    BOTH("several may have it open", reader_does_not_write);
    RAW("an unknown kind of home is refused", unknown_kind_is_refused);
    NBD("a killed qemu-nbd fails every call", killed_server_fails_calls);
    g_test_add_func("/qcow2/an image that no engine has is served to all who open it",
                    image_is_served);
    g_test_add_func("/qcow2/an image that an engine has is not served to others",
                    image_in_use_is_refused);
    return g_test_run();
}
