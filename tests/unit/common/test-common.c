/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptor-passing messages, sealed memfds and page bitmaps. */
#include "common/fdmsg.h"
#include "common/lazydisk.h"
#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"

#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void
make_pair(int fds[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), ==, 0);
}

static void
test_message_carries_fds(void)
{
    int pair[2], got[4];
    guint n = G_N_ELEMENTS(got);
    char buf[64];
    g_autoptr(GError) error = NULL;

    make_pair(pair);
    int memfd = memfd_from_data("t", "hello", 5, &error);
    g_assert_no_error(error);
    g_assert_true(fdmsg_send(pair[0], "abc", 3, &memfd, 1, 100, &error));
    g_assert_cmpint(fdmsg_recv(pair[1], buf, sizeof(buf), got, &n, 100, &error), ==, 3);
    g_assert_cmpuint(n, ==, 1);
    g_assert_cmpint(pread(got[0], buf, 5, 0), ==, 5);
    g_assert_cmpmem(buf, 5, "hello", 5);
    fdmsg_close_fds(got, n);
    close(memfd);
    close(pair[0]);
    close(pair[1]);
}

static void
test_unwanted_fds_are_closed(void)
{
    int pair[2];
    char buf[64];
    g_autoptr(GError) error = NULL;

    make_pair(pair);
    int probe = dup(0);
    close(probe);
    int extra = memfd_create_sealed("t", PAGE_BYTES, &error);
    g_assert_true(fdmsg_send(pair[0], "abc", 3, &extra, 1, 100, &error));
    close(extra);
    g_assert_cmpint(fdmsg_recv(pair[1], buf, sizeof(buf), NULL, NULL, 100, &error), ==, 3);
    int after = dup(0);
    g_assert_cmpint(after, ==, probe);
    close(after);
    close(pair[0]);
    close(pair[1]);
}

static void
test_longer_message_is_refused(void)
{
    int pair[2];
    char buf[8], big[16] = {0};
    g_autoptr(GError) error = NULL;

    make_pair(pair);
    g_assert_true(fdmsg_send(pair[0], big, sizeof(big), NULL, 0, 100, &error));
    g_assert_cmpint(fdmsg_recv(pair[1], buf, sizeof(buf), NULL, NULL, 100, &error), ==, -1);
    g_assert_error(error, FDMSG_ERROR, FDMSG_ERROR_TOO_BIG);
    close(pair[0]);
    close(pair[1]);
}

static void
test_closed_peer_is_reported(void)
{
    int pair[2];
    char buf[8];
    g_autoptr(GError) error = NULL;

    make_pair(pair);
    close(pair[0]);
    g_assert_cmpint(fdmsg_recv(pair[1], buf, sizeof(buf), NULL, NULL, 100, &error), ==, -1);
    g_assert_error(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED);
    close(pair[1]);
}

static void
test_receive_ends_at_its_time_limit(void)
{
    int pair[2];
    char buf[8];
    g_autoptr(GError) error = NULL;

    make_pair(pair);
    g_assert_cmpint(fdmsg_recv(pair[1], buf, sizeof(buf), NULL, NULL, 20, &error), ==, -1);
    g_assert_error(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT);
    close(pair[0]);
    close(pair[1]);
}

static void
test_memfd_cannot_shrink(void)
{
    g_autoptr(GError) error = NULL;
    int fd = memfd_create_sealed("t", 2 * PAGE_BYTES, &error);

    g_assert_no_error(error);
    g_assert_cmpint(ftruncate(fd, PAGE_BYTES), ==, -1);
    g_assert_true(memfd_check(fd, 2 * PAGE_BYTES, "t", &error));
    g_assert_false(memfd_check(fd, 3 * PAGE_BYTES, "t", &error));
    close(fd);
}

static void
test_unsealed_memfd_is_refused(void)
{
    g_autoptr(GError) error = NULL;
    int fd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    g_assert_cmpint(ftruncate(fd, PAGE_BYTES), ==, 0);
    g_assert_false(memfd_check(fd, PAGE_BYTES, "RAM of member db", &error));
    g_assert_true(g_str_has_prefix(error->message, "RAM of member db: "));
    close(fd);
}

static void
test_range_sets_exactly_its_bits(void)
{
    uint64_t bits[8];

    for (uint64_t first = 0; first < 130; first += 13) {
        for (uint64_t count = 0; count < 200; count += 7) {
            memset(bits, 0, sizeof(bits));
            pagebits_set_range(bits, first, count);
            for (uint64_t p = 0; p < 512; p++)
                g_assert_cmpint(pagebits_test(bits, p), ==, p >= first && p < first + count);
            g_assert_cmpuint(pagebits_count(bits, 8), ==, count);
        }
    }
}

/* Every set of words, also where groups of them do not begin or end with the bitmap. */
static void
test_next_word_is_found(void)
{
    uint64_t bits[40] = {0};

    for (size_t words = 0; words <= G_N_ELEMENTS(bits); words++) {
        g_assert_cmpuint(pagebits_next(bits, 0, words), ==, words);
        for (size_t set = 0; set < words; set++) {
            bits[set] = UINT64_C(1) << (set % 64);
            for (size_t from = 0; from < words; from++)
                g_assert_cmpuint(pagebits_next(bits, from, words), ==, from <= set ? set : words);
            g_assert_cmpuint(pagebits_next(bits + 1, 0, words - 1), ==,
                             set == 0 ? words - 1 : set - 1);
            bits[set] = 0;
        }
    }
}

static void
test_taken_word_is_clear(void)
{
    uint64_t bits[2] = {0, 0};

    pagebits_set(bits, 64);
    pagebits_set(bits, 127);
    g_assert_cmpuint(pagebits_take_word(bits, 1), ==, 1ULL | 1ULL << 63);
    g_assert_cmpuint(pagebits_take_word(bits, 1), ==, 0);
}

/* ---- lazydisk ---- */

static const uint64_t lazy_blocks[] = {7, 3, 200};

static bool
is_readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};

    return poll(&one, 1, 0) == 1;
}

static LazyDisk *
lazy_new(LazyDisk **engine)
{
    g_autoptr(GError) error = NULL;
    LazyDisk *client = lazydisk_new(lazy_blocks, G_N_ELEMENTS(lazy_blocks), &error);

    g_assert_no_error(error);
    *engine = lazydisk_open(lazydisk_fds(client), &error);
    g_assert_no_error(error);
    return client;
}

static void
test_lazy_sides(void)
{
    g_autoptr(LazyDisk) engine = NULL;
    g_autoptr(LazyDisk) client = lazy_new(&engine);
    uint64_t at = 0;

    g_assert_cmpuint(lazydisk_places(engine), ==, G_N_ELEMENTS(lazy_blocks));
    for (uint64_t i = 0; i < G_N_ELEMENTS(lazy_blocks); i++)
        g_assert_cmpuint(lazydisk_block(engine, i), ==, lazy_blocks[i]);
    g_assert_false(lazydisk_want(engine, 1, 2));
    g_assert_true(is_readable(lazydisk_fds(client)[1]));
    lazydisk_woken(client, false);
    g_assert_false(is_readable(lazydisk_fds(client)[1]));
    g_assert_true(lazydisk_wanted(client, &at));
    g_assert_cmpuint(at, ==, 1);
    lazydisk_put(client, 1);
    g_assert_true(is_readable(lazydisk_fds(engine)[2]));
    g_assert_true(lazydisk_has(engine, 1, 1));
    g_assert_false(lazydisk_has(engine, 1, 2));
    at = 0;
    g_assert_true(lazydisk_wanted(client, &at));
    g_assert_cmpuint(at, ==, 2);
}

static void
test_lazy_nobody_waits(void)
{
    g_autoptr(LazyDisk) engine = NULL;
    g_autoptr(LazyDisk) client = lazy_new(&engine);

    lazydisk_put(client, 0);
    g_assert_false(is_readable(lazydisk_fds(engine)[2]));
    g_assert_true(lazydisk_want(engine, 0, 1));
    g_assert_false(is_readable(lazydisk_fds(client)[1]));
    g_assert_true(lazydisk_want(engine, G_N_ELEMENTS(lazy_blocks), 5)); /* beyond the end */
    g_assert_false(lazydisk_done(engine));
    lazydisk_finish(client);
    g_assert_true(lazydisk_done(engine));
    g_assert_true(is_readable(lazydisk_fds(engine)[2]));
}

static void
lazy_refused(const uint64_t *words, size_t n, uint64_t bytes)
{
    g_autoptr(GError) error = NULL;
    int fd = memfd_create_sealed("lazy", bytes, &error);
    int fds[LAZYDISK_FDS] = {fd, fd, fd};

    g_assert_no_error(error);
    g_assert_cmpint(pwrite(fd, words, n * sizeof *words, 0), ==, (ssize_t)(n * sizeof *words));
    g_assert_null(lazydisk_open(fds, &error));
    g_assert_nonnull(strstr(error->message, "an overlay that is being read"));
    close(fd);
}

static void
test_lazy_foreign(void)
{
    g_autoptr(LazyDisk) engine = NULL;
    g_autoptr(LazyDisk) client = lazy_new(&engine);
    uint64_t head[2], size = memfd_size(lazydisk_fds(client)[0]);

    g_assert_cmpint(pread(lazydisk_fds(client)[0], head, sizeof head, 0), ==, sizeof head);
    lazy_refused(head, 2, size + PAGE_BYTES);
    lazy_refused(head, 2, PAGE_BYTES);
    head[1] = UINT64_MAX; /* places */
    lazy_refused(head, 2, size);
    head[1] = 0;
    lazy_refused(head, 2, size);
    head[1] = 3;
    head[0]++;
    lazy_refused(head, 2, size);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fdmsg/a message carries descriptors", test_message_carries_fds);
    g_test_add_func("/fdmsg/descriptors nobody asked for are closed", test_unwanted_fds_are_closed);
    g_test_add_func("/fdmsg/a message longer than the buffer is refused",
                    test_longer_message_is_refused);
    g_test_add_func("/fdmsg/a closed peer is reported as closed", test_closed_peer_is_reported);
    g_test_add_func("/fdmsg/a receive ends at its time limit", test_receive_ends_at_its_time_limit);
    g_test_add_func("/memfd/a sealed memfd cannot shrink", test_memfd_cannot_shrink);
    g_test_add_func("/memfd/an unsealed memfd is refused by name", test_unsealed_memfd_is_refused);
    g_test_add_func("/pagebits/a range sets exactly its bits", test_range_sets_exactly_its_bits);
    g_test_add_func("/pagebits/a word that was taken is clear", test_taken_word_is_clear);
    g_test_add_func("/pagebits/the next word that is not clear is found", test_next_word_is_found);
    g_test_add_func("/lazydisk/who waits is heard, and woken", test_lazy_sides);
    g_test_add_func("/lazydisk/nobody is woken who does not wait", test_lazy_nobody_waits);
    g_test_add_func("/lazydisk/what does not add up is refused", test_lazy_foreign);
    return g_test_run();
}
