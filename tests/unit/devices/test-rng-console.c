/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-rng and virtio-console. */
#include "driver.h"

#include "common/page.h"
#include "vmm/devices/devices.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define VERSION_1 (UINT64_C(1) << 32)
#define RAM (512 * PAGE_BYTES)
#define RINGS 0x10000
#define BUFFERS 0x80000

typedef struct Fixture {
    char *dir;
    char *link;
    Machine *m;
    Driver rng, con;
    DriverQueue bytes, in, out;
    int fd; /* reader of the console's pty */
} Fixture;

static Machine *
make_machine(const char *spec)
{
    Machine *m = fake_machine_new(RAM);
    PciHost *pci = pci_host_init(m, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_true(virtio_rng_init(m, pci, &error));
    virtio_console_init(m, pci, spec, &error);
    g_assert_no_error(error);
    return m;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = NULL;

    f->dir = g_dir_make_tmp("district-test-XXXXXX", NULL);
    f->link = g_build_filename(f->dir, "console", NULL);
    spec = g_strconcat("pty:", f->link, NULL);
    f->m = make_machine(spec);
    fake_start(f->m);
    driver_init(&f->rng, f->m, 1);
    driver_negotiate(&f->rng, VERSION_1);
    driver_use_msix(&f->rng, 1, 0x40);
    driver_queue_init(&f->bytes, &f->rng, 0, 8, RINGS);
    driver_ok(&f->rng);
    driver_init(&f->con, f->m, 2);
    driver_negotiate(&f->con, VERSION_1);
    driver_use_msix(&f->con, 2, 0x50);
    driver_queue_init(&f->in, &f->con, 0, 8, RINGS + 0x10000);
    driver_queue_init(&f->out, &f->con, 1, 8, RINGS + 0x20000);
    driver_ok(&f->con);
    f->fd = open(f->link, O_RDWR | O_NOCTTY | O_NONBLOCK);
    g_assert_cmpint(f->fd, >=, 0);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(fake_unlogged_pages(f->m), ==, 0);
    close(f->fd);
    g_unlink(f->link);
    g_rmdir(f->dir);
    g_free(f->link);
    g_free(f->dir);
}

static void
rng_gives_bytes(Fixture *f, gconstpointer data)
{
    uint8_t first[64], second[64], zero[64] = {0};
    uint32_t len;

    driver_add(&f->bytes, BUFFERS, 64, true);
    driver_add(&f->bytes, BUFFERS + 64, 64, true);
    driver_kick(&f->bytes);
    g_assert_true(driver_used(&f->bytes, NULL, &len));
    g_assert_cmpuint(len, ==, 64);
    fake_peek(f->m, BUFFERS, first, 64);
    fake_peek(f->m, BUFFERS + 64, second, 64);
    g_assert_true(memcmp(first, second, 64) != 0);
    g_assert_true(memcmp(first, zero, 64) != 0);
    g_assert_cmpuint(fake_msi_count(f->m, 0x40), ==, 1);
}

static void
rng_is_bounded(Fixture *f, gconstpointer data)
{
    uint32_t len;

    driver_add(&f->bytes, BUFFERS, 1 << 20, true);
    driver_kick(&f->bytes);
    g_assert_true(driver_used(&f->bytes, NULL, &len));
    g_assert_cmpuint(len, >=, 1);
    g_assert_cmpuint(len, <=, 4096);
}

static void
rng_without_room_gives_nothing(Fixture *f, gconstpointer data)
{
    uint32_t len;

    driver_add(&f->bytes, BUFFERS, 64, false);
    driver_kick(&f->bytes);
    g_assert_true(driver_used(&f->bytes, NULL, &len));
    g_assert_cmpuint(len, ==, 0);
}

static void
rng_differs_after_restore(Fixture *f, gconstpointer data)
{
    Machine *other = make_machine("none");
    uint8_t here[32], there[32];

    fake_move(f->m, other);
    fake_start(f->m);
    for (int i = 0; i < 2; i++) {
        DriverQueue queue = f->bytes;
        Driver driver = f->rng;

        driver.m = i ? other : f->m;
        queue.driver = &driver;
        driver_add(&queue, BUFFERS, 32, true);
        driver_kick(&queue);
        g_assert_true(driver_used(&queue, NULL, NULL));
        fake_peek(driver.m, BUFFERS, i ? there : here, 32);
    }
    g_assert_true(memcmp(here, there, 32) != 0);
}

static bool
pty_readable(void *opaque)
{
    Fixture *f = opaque;
    struct pollfd p = {.fd = f->fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void
console_prints(Fixture *f, gconstpointer data)
{
    char text[16] = "";

    fake_poke(f->m, BUFFERS, "hi there\n", 9);
    driver_add(&f->out, BUFFERS, 9, false);
    driver_kick(&f->out);
    g_assert_true(driver_used(&f->out, NULL, NULL));
    fake_wait(pty_readable, f);
    g_assert_cmpint(read(f->fd, text, sizeof text), ==, 9);
    g_assert_cmpstr(text, ==, "hi there\n");
}

static bool
input_arrived(void *opaque)
{
    Fixture *f = opaque;
    return fake_peek16(f->m, f->in.used + 2) != f->in.last_used;
}

static void
console_reads(Fixture *f, gconstpointer data)
{
    char text[16] = "";
    uint32_t len;

    /* Typed before there is a buffer: it waits. */
    g_assert_cmpint(write(f->fd, "abcdef", 6), ==, 6);
    fake_pump();
    g_assert_false(input_arrived(f));
    driver_add(&f->in, BUFFERS, 4, true);
    driver_kick(&f->in);
    fake_wait(input_arrived, f);
    g_assert_true(driver_used(&f->in, NULL, &len));
    g_assert_cmpuint(len, ==, 4);
    driver_add(&f->in, BUFFERS + 4, 4, true);
    driver_kick(&f->in);
    fake_wait(input_arrived, f);
    g_assert_true(driver_used(&f->in, NULL, &len));
    g_assert_cmpuint(len, ==, 2);
    fake_peek(f->m, BUFFERS, text, 6);
    g_assert_cmpstr(text, ==, "abcdef");
}

/* Eight descriptors of the same megabyte: work must stay bounded. */
static void
console_output_is_bounded(Fixture *f, gconstpointer data)
{
    for (uint16_t i = 0; i < 8; i++)
        driver_describe(&f->out, i, 0, RAM, i < 7 ? DRIVER_DESC_NEXT : 0, (uint16_t)(i + 1));
    driver_offer(&f->out, 0);
    driver_kick(&f->out);
    g_assert_true(driver_used(&f->out, NULL, NULL));
}

/* Many such requests leave the main loop its turns, and are all done in the end. */
static void
console_output_takes_turns(Fixture *f, gconstpointer data)
{
    unsigned n = 0;

    for (uint16_t i = 0; i < 8; i++) {
        driver_describe(&f->out, i, 0, RAM, 0, 0);
        driver_offer(&f->out, i);
    }
    fake_mmio_write(f->m, f->con.notify + 1 * f->con.notify_multiplier, 1, 2);
    while (!driver_used(&f->out, NULL, NULL))
        g_main_context_iteration(NULL, TRUE);
    g_assert_false(driver_used(&f->out, NULL, NULL));
    fake_pump();
    while (driver_used(&f->out, NULL, NULL))
        n++;
    g_assert_cmpuint(n, ==, 7);
}

static void
console_goes_on_elsewhere(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = g_strconcat("pty:", f->link, NULL);
    Machine *other = make_machine(spec);

    driver_add(&f->in, BUFFERS, 4, true);
    driver_kick(&f->in);
    fake_move(f->m, other);
    f->m = f->con.m = other;
    close(f->fd);
    f->fd = open(f->link, O_RDWR | O_NOCTTY | O_NONBLOCK);
    g_assert_cmpint(write(f->fd, "x", 1), ==, 1);
    fake_wait(input_arrived, f);
    console_prints(f, NULL);
}

static void
kick_during_stop_is_kept(Fixture *f, gconstpointer data)
{
    driver_add(&f->bytes, BUFFERS, 64, true);
    fake_mmio_write(f->m, f->rng.notify, 0, 2); /* the main loop does not run */
    fake_stop(f->m);
    g_assert_false(driver_used(&f->bytes, NULL, NULL));
    fake_start(f->m);
    fake_pump();
    g_assert_true(driver_used(&f->bytes, NULL, NULL));
}

static void
garbage_is_refused(Fixture *f, gconstpointer data)
{
    fake_stop(f->m);
    fake_check_garbage(f->m, "virtio-rng");
    fake_check_garbage(f->m, "virtio-console");
}

#define ADD(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/rng/gives random bytes", rng_gives_bytes);
    ADD("/rng/a large request is answered in part", rng_is_bounded);
    ADD("/rng/a request without room gets nothing", rng_without_room_gives_nothing);
    ADD("/rng/two lives get different numbers", rng_differs_after_restore);
    ADD("/rng/a notification during a stop is kept", kick_during_stop_is_kept);
    ADD("/console/prints to the pty", console_prints);
    ADD("/console/input waits for buffers", console_reads);
    ADD("/console/overlapping output is bounded", console_output_is_bounded);
    ADD("/console/much output takes turns with the rest", console_output_takes_turns);
    ADD("/console/goes on elsewhere", console_goes_on_elsewhere);
    ADD("/virtio/garbage is refused", garbage_is_refused);
    return g_test_run();
}
