/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images: from checkpoint files and from descriptors; what is not whole is refused by name. */
#include "writer.h"

#include "ckpt/image.h"
#include "common/memfd.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_PAGES 16

/* A file with these bytes. */
static int
file_of(const void *data, size_t len)
{
    int fd = memfd_create("checkpoint", MFD_CLOEXEC);

    g_assert_cmpint(write(fd, data, len), ==, (gssize)len);
    return fd;
}

static Image *
load(const void *data, size_t len, GError **error)
{
    int fd = file_of(data, len);
    Image *image = image_load_file(fd, "shop.dcp", error);

    close(fd);
    g_assert_true((image == NULL) == (error != NULL && *error != NULL));
    if (image == NULL)
        g_assert_nonnull(strstr((*error)->message, "shop.dcp"));
    return image;
}

static void
assert_page(const Image *image, uint32_t member, uint64_t page, uint8_t fill)
{
    g_autofree uint8_t *expected = g_malloc(PAGE_BYTES), *found = g_malloc(PAGE_BYTES);

    memset(expected, fill, PAGE_BYTES);
    g_assert_cmpint(pread(image->ram_fds[member], found, PAGE_BYTES, (off_t)(page * PAGE_BYTES)),
                    ==, PAGE_BYTES);
    g_assert_cmpmem(found, PAGE_BYTES, expected, PAGE_BYTES);
}

/* Epoch 1 full of 0x11; epoch 2: pages 4 and 5 are 0x22, page 6 zero. */
static void
write_two_epochs(Writer *writer)
{
    writer_init(writer, 2, RAM_PAGES);
    writer_hello(writer);
    writer_epoch(writer, 1, 0, 0, RAM_PAGES, 0x11);
    writer_begin(writer, 2, 1);
    writer_page(writer, 0, 4, 0x22);
    writer_page(writer, 0, 5, 0x22);
    writer_page(writer, 0, 6, 0);
    writer_state(writer);
    writer_end(writer);
}

static void
test_disks(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;

    writer_init(&writer, 2, RAM_PAGES);
    writer_add_disk(&writer, 1, 4 * PAGE_BYTES);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, RAM_PAGES, 0x11);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT);
    g_assert_nonnull(strstr(error->message, "has disks; use district restart from the store"));
    writer_clear(&writer);
}

static void
test_load(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = NULL;
    Writer writer;

    write_two_epochs(&writer);
    image = load(writer.out->data, writer.out->len, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(image->cut->epoch, ==, 2);
    g_assert_cmpuint(image->n_members, ==, 2);
    g_assert_cmpstr(image->cut->members[1]->name, ==, "web");
    g_assert_true(memfd_check(image->ram_fds[0], RAM_PAGES * PAGE_BYTES, "RAM", &error));
    assert_page(image, 0, 3, 0x11);
    assert_page(image, 0, 4, 0x22);
    assert_page(image, 0, 6, 0);
    assert_page(image, 1, 4, 0x11);
    writer_clear(&writer);
}

static void
test_truncated(void)
{
    Writer writer;
    size_t first_epoch_end;

    write_two_epochs(&writer);
    /* HELLO, then BEGIN, 2 x PAGES, STATE, END: the sixth record starts epoch 2. */
    first_epoch_end = g_array_index(writer.starts, size_t, 6);
    for (size_t len = 0; len < writer.out->len; len++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Image) image = load(writer.out->data, len, &error);

        if (len == first_epoch_end) {
            g_assert_nonnull(image); /* a whole file, of the first epoch only */
            g_assert_cmpuint(image->cut->epoch, ==, 1);
            continue;
        }
        g_assert_null(image);
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED);
    }
    writer_clear(&writer);
}

/* Epoch 1, then epoch 2 as far as a page or its STATE, then BYE. */
static void
test_bye_in_an_epoch(void)
{
    for (int with_state = 0; with_state < 2; with_state++) {
        g_autoptr(GError) error = NULL;
        Writer writer;

        writer_init(&writer, 2, RAM_PAGES);
        writer_hello(&writer);
        writer_epoch(&writer, 1, 0, 0, RAM_PAGES, 0x11);
        writer_begin(&writer, 2, 1);
        writer_page(&writer, 0, 4, 0x22);
        if (with_state)
            writer_state(&writer);
        writer_record(&writer, RECORD_BYE, 0, NULL, 0, 0);
        g_assert_null(load(writer.out->data, writer.out->len, &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED);
        writer_clear(&writer);
    }
}

static void
test_bye_after_an_epoch(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = NULL;
    Writer writer;

    write_two_epochs(&writer);
    writer_record(&writer, RECORD_BYE, 0, NULL, 0, 0);
    image = load(writer.out->data, writer.out->len, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(image->cut->epoch, ==, 2);
    writer_clear(&writer);
}

static void
test_flipped(void)
{
    Writer writer;

    write_two_epochs(&writer);
    for (size_t at = 0; at < writer.out->len; at++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Image) image = NULL;

        writer.out->data[at] ^= 0x40;
        image = load(writer.out->data, writer.out->len, &error);
        g_assert_null(image);
        g_assert_true(error->domain == FORMAT_ERROR);
        writer.out->data[at] ^= 0x40;
    }
    writer_clear(&writer);
}

static void
test_foreign(void)
{
    static const char elf[] = "\177ELF this is something else, and longer than a record header";
    g_autoptr(GError) error = NULL;

    g_assert_null(load(elf, sizeof elf, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN);
}

static void
test_version(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;

    writer_init(&writer, 1, RAM_PAGES);
    writer.version = 99;
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 1, 1);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN);
    g_assert_nonnull(strstr(error->message, "99"));
    writer_clear(&writer);
}

static void
test_journal_in_file(void)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;
    g_autoptr(GError) error = NULL;
    Writer writer;

    writer_init(&writer, 1, RAM_PAGES);
    writer_hello(&writer);
    record.seq = 1;
    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH;
    writer_message(&writer, RECORD_JOURNAL, 0, &record.base);
    writer_epoch(&writer, 1, 0, 0, 1, 0x11);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_nonnull(strstr(error->message, "a journal is in no file"));
    writer_clear(&writer);
}

static void
test_trailing_garbage(void)
{
    static const uint8_t garbage[100] = "garbage";
    g_autoptr(GError) error = NULL;
    Writer writer;

    write_two_epochs(&writer);
    g_byte_array_append(writer.out, garbage, sizeof garbage);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    writer_clear(&writer);
}

static void
test_increment_without_base(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;

    writer_init(&writer, 1, RAM_PAGES);
    writer_hello(&writer);
    writer_epoch(&writer, 2, 1, 0, 1, 1);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    writer_clear(&writer);
}

/* Of the same number and sizes, but not the members whose RAM the file has. */
static void
test_increment_of_others(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;

    writer_init(&writer, 2, RAM_PAGES);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, RAM_PAGES, 0x11);
    writer.first_member = 1;
    writer_epoch(&writer, 2, 1, 0, 1, 0x22);
    g_assert_null(load(writer.out->data, writer.out->len, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    g_assert_nonnull(strstr(error->message, "members"));
    writer_clear(&writer);
}

static void
test_directory(void)
{
    g_autoptr(GError) error = NULL;
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    g_assert_null(image_load_file(fd, "/", &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_ISDIR);
    close(fd);
}

/* ---- From descriptors ---- */

static int
state_of(const District__CutState *cut, uint64_t *len)
{
    g_autofree uint8_t *packed = NULL;
    int fd;

    *len = protobuf_c_message_get_packed_size(&cut->base);
    packed = g_malloc(*len);
    protobuf_c_message_pack(&cut->base, packed);
    fd = memfd_from_data("state", packed, *len, NULL);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void
test_from_fds(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = NULL, again = NULL;
    Writer writer;
    uint64_t len;
    int fds[2], state;

    write_two_epochs(&writer);
    image = load(writer.out->data, writer.out->len, &error);
    state = state_of(image->cut, &len);
    fds[0] = dup(image->ram_fds[0]);
    fds[1] = dup(image->ram_fds[1]);
    again = image_from_fds(state, len, fds, 2, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(again->cut->epoch, ==, 2);
    assert_page(again, 0, 4, 0x22);

    /* One RAM image too few; one of the wrong size; a state longer than its memfd; no state. */
    fds[0] = dup(image->ram_fds[0]);
    g_assert_null(image_from_fds(state, len, fds, 1, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    g_clear_error(&error);
    g_assert_cmpint(fcntl(fds[0], F_GETFD), ==, -1); /* closed on failure too */

    fds[0] = dup(image->ram_fds[0]);
    fds[1] = memfd_create_sealed("small", PAGE_BYTES, NULL);
    g_assert_null(image_from_fds(state, len, fds, 2, &error));
    g_assert_nonnull(strstr(error->message, "web"));
    g_clear_error(&error);

    fds[0] = dup(image->ram_fds[0]);
    fds[1] = dup(image->ram_fds[1]);
    g_assert_null(image_from_fds(state, 1 << 20, fds, 2, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT);
    close(state);
    writer_clear(&writer);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/image/a file gives its last epoch", test_load);
    g_test_add_func("/image/a file with disks is refused by name", test_disks);
    g_test_add_func("/image/a file cut off anywhere is refused as truncated", test_truncated);
    g_test_add_func("/image/a file that says goodbye inside an epoch is truncated",
                    test_bye_in_an_epoch);
    g_test_add_func("/image/a goodbye after an epoch does no harm", test_bye_after_an_epoch);
    g_test_add_func("/image/a file with any byte changed is refused", test_flipped);
    g_test_add_func("/image/another kind of file is foreign", test_foreign);
    g_test_add_func("/image/another version is refused by its number", test_version);
    g_test_add_func("/image/a file that goes on with garbage is damaged", test_trailing_garbage);
    g_test_add_func("/image/a journal is in no file", test_journal_in_file);
    g_test_add_func("/image/an increment without its base is refused", test_increment_without_base);
    g_test_add_func("/image/an increment of other members is refused", test_increment_of_others);
    g_test_add_func("/image/a directory is refused", test_directory);
    g_test_add_func("/image/descriptors are taken over when they fit", test_from_fds);
    return g_test_run();
}
