/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-net between a small driver and a switch that is a socket of this test. */
#include "driver.h"

#include "common/page.h"
#include "vmm/devices/devices.h"
#include "vmm/devices/frame_link.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RAM (2048 * PAGE_BYTES)
#define SLOT 1
#define RX 0
#define TX 1
#define RX_RINGS 0x10000
#define TX_RINGS 0x20000
#define BUFFERS 0x100000
#define BUFFER_BYTES 2048
#define HEADER 12
#define QUEUE 64
#define MSI 0x50
#define VERSION_1 (UINT64_C(1) << 32)
#define EVENT_IDX (UINT64_C(1) << 29)

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

typedef struct Fixture {
    char *dir;
    char *path;
    int listen_fd;
    int fd; /* the switch's end */
    Machine *m;
    Driver driver;
    DriverQueue rx, tx;
} Fixture;

static int
listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    return fd;
}

static bool
accepted(void *opaque)
{
    Fixture *f = opaque;

    f->fd = accept4(f->listen_fd, NULL, NULL, SOCK_NONBLOCK);
    return f->fd >= 0;
}

static Machine *
make_machine(const Fixture *f)
{
    Machine *m = fake_machine_new(RAM);
    g_autoptr(GError) error = NULL;
    PciHost *pci = pci_host_init(m, &error);

    g_assert_no_error(error);
    g_assert_true(virtio_net_init(m, pci, mac, f->path, &error));
    g_assert_no_error(error);
    return m;
}

static void
bring_up(Fixture *f, uint64_t features)
{
    driver_init(&f->driver, f->m, SLOT);
    driver_negotiate(&f->driver, features);
    driver_use_msix(&f->driver, 2, MSI);
    driver_queue_init(&f->rx, &f->driver, RX, QUEUE, RX_RINGS);
    driver_queue_init(&f->tx, &f->driver, TX, QUEUE, TX_RINGS);
    driver_ok(&f->driver);
}

static void
set_up_switch(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("district-test-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "switch", NULL);
    f->listen_fd = listen_at(f->path);
    f->fd = -1;
    f->m = make_machine(f);
    fake_start(f->m);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    set_up_switch(f, data);
    fake_wait(accepted, f);
    bring_up(f, VERSION_1);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(fake_unlogged_pages(f->m), ==, 0);
    fake_stop(f->m);
    if (f->fd >= 0)
        close(f->fd);
    close(f->listen_fd);
    g_unlink(f->path);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
}

/* ---- The guest sends and receives ---- */

/* A frame of len bytes that can be told from others by its number. */
static void
fill_frame(uint8_t *frame, size_t len, unsigned number)
{
    memset(frame, (int)(number & 0xFF), len);
    memcpy(frame, &number, sizeof number);
}

static void
guest_send(Fixture *f, size_t len, unsigned number)
{
    static uint8_t frame[FRAME_MAX];
    uint64_t at = BUFFERS + (f->tx.next_desc % QUEUE) * (uint64_t)BUFFER_BYTES;

    g_assert_cmpuint(len, <=, BUFFER_BYTES - HEADER);
    fill_frame(frame, len, number);
    fake_poke(f->m, at + HEADER, frame, len);
    driver_add(&f->tx, at, (uint32_t)(HEADER + len), false);
}

static uint64_t
rx_buffer(uint16_t i)
{
    return BUFFERS + (QUEUE + i) * (uint64_t)BUFFER_BYTES;
}

static void
guest_put_buffers(Fixture *f, unsigned n)
{
    while (n-- > 0)
        driver_add(&f->rx, rx_buffer(f->rx.next_desc % QUEUE), BUFFER_BYTES, true);
}

/* The guest's next received frame must be this one. */
static void
guest_expect(Fixture *f, size_t len, unsigned number)
{
    uint8_t want[BUFFER_BYTES], got[BUFFER_BYTES];
    uint16_t head;
    uint32_t used;

    g_assert_true(driver_used(&f->rx, &head, &used));
    g_assert_cmpuint(used, ==, HEADER + len);
    fake_peek(f->m, rx_buffer(head), got, used);
    g_assert_cmpuint(got[10] | got[11] << 8, ==, 1); /* num_buffers */
    fill_frame(want, len, number);
    g_assert_cmpmem(got + HEADER, len, want, len);
}

/* ---- The switch's end ---- */

static void
switch_send(Fixture *f, size_t len, unsigned number)
{
    static uint8_t bytes[4 + FRAME_MAX];

    bytes[0] = 0;
    bytes[1] = (uint8_t)(len >> 16);
    bytes[2] = (uint8_t)(len >> 8);
    bytes[3] = (uint8_t)len;
    fill_frame(bytes + 4, len, number);
    g_assert_cmpint(send(f->fd, bytes, len + 4, 0), ==, (gssize)(len + 4));
}

static bool
readable(void *opaque)
{
    Fixture *f = opaque;
    char byte;

    return recv(f->fd, &byte, 1, MSG_PEEK) == 1;
}

static void
read_all(Fixture *f, uint8_t *to, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n;

        fake_wait(readable, f);
        n = recv(f->fd, to + at, len - at, 0);
        g_assert_cmpint(n, >, 0);
        at += (size_t)n;
    }
}

static void
switch_expect(Fixture *f, size_t len, unsigned number)
{
    static uint8_t want[FRAME_MAX], got[FRAME_MAX];
    uint8_t header[4];

    read_all(f, header, 4);
    g_assert_cmpuint(header[0] << 24 | header[1] << 16 | header[2] << 8 | header[3], ==, len);
    read_all(f, got, len);
    fill_frame(want, len, number);
    g_assert_cmpmem(got, len, want, len);
}

static bool
frame_arrived(void *opaque)
{
    Fixture *f = opaque;
    return fake_peek16(f->m, f->rx.used + 2) != f->rx.last_used;
}

static bool
disconnected(void *opaque)
{
    Fixture *f = opaque;
    char byte;

    return recv(f->fd, &byte, 1, 0) == 0 || (errno != EAGAIN && errno != EINTR);
}

/* ---- Tests ---- */

static void
configuration_is_readable(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 6; i++)
        g_assert_cmphex(fake_mmio_read(f->m, f->driver.config + i, 1), ==, mac[i]);
    g_assert_cmphex(fake_mmio_read(f->m, f->driver.config + 6, 2), ==, 1); /* link up */
    g_assert_cmpuint(fake_mmio_read(f->m, f->driver.config + 10, 2), ==, 1500);
    g_assert_cmphex(fake_mmio_read(f->m, f->driver.config + 12, 2), ==, 0);
}

static void
features_must_be_offered(Fixture *f, gconstpointer data)
{
    uint64_t common = f->driver.common;

    fake_mmio_write(f->m, common + 0x14, 0, 1);
    fake_mmio_write(f->m, common + 0x08, 0, 4);
    fake_mmio_write(f->m, common + 0x0C, 1, 4); /* checksum offload: not offered */
    fake_mmio_write(f->m, common + 0x08, 1, 4);
    fake_mmio_write(f->m, common + 0x0C, 1, 4);
    fake_mmio_write(f->m, common + 0x14, 11, 1);
    g_assert_cmphex(driver_status(&f->driver), ==, 3);
    fake_mmio_write(f->m, common + 0x14, 15, 1); /* and no going on without */
    g_assert_cmphex(driver_status(&f->driver), ==, 3);
}

static void
legacy_drivers_are_turned_away(Fixture *f, gconstpointer data)
{
    driver_init(&f->driver, f->m, SLOT);
    driver_negotiate(&f->driver, 1 << 5);
    g_assert_cmphex(driver_status(&f->driver), ==, 3);
}

static void
frames_go_out(Fixture *f, gconstpointer data)
{
    uint16_t head;

    for (unsigned i = 0; i < 10; i++)
        guest_send(f, 60 + 100 * i, i);
    driver_kick(&f->tx);
    for (unsigned i = 0; i < 10; i++)
        switch_expect(f, 60 + 100 * i, i);
    for (uint16_t i = 0; i < 10; i++) {
        g_assert_true(driver_used(&f->tx, &head, NULL));
        g_assert_cmpuint(head, ==, i);
    }
    g_assert_cmpuint(fake_msi_count(f->m, MSI + TX), ==, 1);
}

static void
frames_come_in(Fixture *f, gconstpointer data)
{
    guest_put_buffers(f, 10);
    driver_kick(&f->rx);
    for (unsigned i = 0; i < 10; i++)
        switch_send(f, 60 + 100 * i, i);
    fake_wait(frame_arrived, f);
    fake_pump();
    for (unsigned i = 0; i < 10; i++)
        guest_expect(f, 60 + 100 * i, i);
    g_assert_cmpuint(fake_msi_count(f->m, MSI + RX), >=, 1);
}

static void
kernel_notifications_work(Fixture *f, gconstpointer data)
{
    fake_take_ioeventfds(f->m, true);
    pci_write(f->m, SLOT, 4, 0, 2); /* unmap and map again, so that they are asked for */
    pci_write(f->m, SLOT, 4, 6, 2);
    guest_send(f, 60, 1);
    driver_kick(&f->tx);
    g_assert_cmpuint(fake_ioeventfd_hits(f->m), ==, 1);
    switch_expect(f, 60, 1);
}

/* A BAR that is not mapped must not leave notifications behind at its old place. */
static void
kernel_notifications_are_unmapped(Fixture *f, gconstpointer data)
{
    fake_take_ioeventfds(f->m, true);
    pci_write(f->m, SLOT, 4, 0, 2);
    pci_write(f->m, SLOT, 4, 6, 2);
    pci_write(f->m, SLOT, 4, 0, 2);
    guest_send(f, 60, 1);
    driver_kick(&f->tx);
    g_assert_cmpuint(fake_ioeventfd_hits(f->m), ==, 0);
    pci_write(f->m, SLOT, 4, 6, 2);
    driver_kick(&f->tx);
    g_assert_cmpuint(fake_ioeventfd_hits(f->m), ==, 1);
    switch_expect(f, 60, 1);
}

static void
nonsense_requests_are_dropped(Fixture *f, gconstpointer data)
{
    driver_add(&f->tx, BUFFERS, 5, false);              /* not even a header */
    driver_add(&f->tx, BUFFERS, HEADER, false);         /* no frame */
    driver_add(&f->tx, BUFFERS, HEADER + 13, false);    /* less than an Ethernet header */
    driver_add(&f->tx, BUFFERS, HEADER + 65551, false); /* the switch would end the connection */
    driver_add(&f->tx, BUFFERS, 1000, true);            /* nothing to read */
    guest_send(f, 60, 7);
    driver_kick(&f->tx);
    switch_expect(f, 60, 7);
    for (int i = 0; i < 6; i++)
        g_assert_true(driver_used(&f->tx, NULL, NULL));
    g_assert_cmphex(driver_status(&f->driver), ==, 15);
}

static void
too_long_for_the_buffer_is_dropped(Fixture *f, gconstpointer data)
{
    guest_put_buffers(f, 2);
    driver_kick(&f->rx);
    switch_send(f, 60, 1);
    switch_send(f, BUFFER_BYTES, 2);
    switch_send(f, 60, 3);
    fake_wait(frame_arrived, f);
    fake_pump();
    guest_expect(f, 60, 1);
    guest_expect(f, 60, 3);
}

static void
wild_ring_needs_reset(Fixture *f, gconstpointer data)
{
    driver_add(&f->tx, RAM, 100, false);
    driver_kick(&f->tx);
    g_assert_cmphex(driver_status(&f->driver), ==, 15 | 64);
    g_assert_cmpuint(fake_msi_count(f->m, MSI + 2), ==, 1);
    bring_up(f, VERSION_1);
    guest_send(f, 60, 1);
    driver_kick(&f->tx);
    switch_expect(f, 60, 1);
}

static void
full_socket_holds_requests(Fixture *f, gconstpointer data)
{
    unsigned sent = 0, done = 0;

    /* Until neither the socket nor the link takes any more. */
    for (;;) {
        unsigned before = done;

        while (sent - done < QUEUE)
            guest_send(f, 1500, sent++);
        driver_kick(&f->tx);
        while (driver_used(&f->tx, NULL, NULL))
            done++;
        if (done == before)
            break;
        g_assert_cmpuint(sent, <, 100000);
    }
    g_assert_cmpuint(sent - done, ==, QUEUE); /* these wait in the ring; none was dropped */
    for (unsigned i = 0; i < sent; i++)
        switch_expect(f, 1500, i);
}

/*
 * Frames of 1500 bytes, numbered from first, until neither the device nor the socket takes any
 * more. Returns the number after the last one.
 */
static unsigned
switch_fill(Fixture *f, unsigned first)
{
    unsigned next = first;
    uint8_t frame[1504] = {0, 0, 0x05, 0xDC};

    for (int idle = 0; idle < 3;) {
        fill_frame(frame + 4, 1500, next);
        if (send(f->fd, frame, sizeof frame, 0) == (gssize)sizeof frame) {
            next++;
            idle = 0;
        } else {
            fake_pump();
            idle++;
        }
        g_assert_cmpuint(next, <, 20000);
    }
    return next;
}

/* The guest puts up buffers and gets frames first to end - 1 of switch_fill, or a few more. */
static unsigned
guest_take(Fixture *f, unsigned first, unsigned end)
{
    unsigned next = first;

    while (next < end) {
        guest_put_buffers(f, QUEUE / 2);
        driver_kick(&f->rx);
        g_assert_true(frame_arrived(f));
        while (frame_arrived(f))
            guest_expect(f, 1500, next++);
    }
    return next;
}

static void
no_buffers_hold_the_switch(Fixture *f, gconstpointer data)
{
    unsigned sent = switch_fill(f, 0);

    g_assert_cmpuint(sent, >=, 1024);
    guest_take(f, 0, sent);
}

static void
impossible_length_drops_the_connection(Fixture *f, gconstpointer data)
{
    static const uint8_t bad[][4] = {{0, 0, 0, 0}, {0xFF, 0xFF, 0xFF, 0xFF}, {0, 1, 0, 0x13}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*impossible length*");
        g_assert_cmpint(send(f->fd, bad[i], 4, 0), ==, 4);
        fake_wait(disconnected, f);
        g_test_assert_expected_messages();
        close(f->fd);
        fake_wait(accepted, f);
    }
    guest_send(f, 60, 1);
    driver_kick(&f->tx);
    switch_expect(f, 60, 1);
}

static void
connection_comes_back(Fixture *f, gconstpointer data)
{
    gint64 before = g_get_monotonic_time();

    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*closed by the switch*");
    close(f->fd);
    fake_pump();
    g_test_assert_expected_messages();
    guest_send(f, 60, 1); /* waits for the new connection */
    driver_kick(&f->tx);
    fake_wait(accepted, f);
    g_assert_cmpint(g_get_monotonic_time() - before, <, 1000000);
    switch_expect(f, 60, 1);
}

static void
frames_before_the_driver_are_dropped(Fixture *f, gconstpointer data)
{
    fake_wait(accepted, f);
    for (unsigned i = 0; i < 40; i++)
        switch_send(f, 1000, i);
    fake_pump();
    bring_up(f, VERSION_1);
    guest_put_buffers(f, 8);
    driver_kick(&f->rx);
    switch_send(f, 60, 1000);
    fake_wait(frame_arrived, f);
    guest_expect(f, 60, 1000);
}

static void
event_index_is_used(Fixture *f, gconstpointer data)
{
    bring_up(f, VERSION_1 | EVENT_IDX);
    for (unsigned i = 0; i < 200; i++) {
        /* Kick only if the device asks for this entry, as a real driver does. */
        uint16_t event = fake_peek16(f->m, f->tx.used + 4 + 8 * QUEUE);

        guest_send(f, 60, i);
        if (event == (uint16_t)(f->tx.avail_idx - 1))
            driver_kick(&f->tx);
        switch_expect(f, 60, i);
        g_assert_true(driver_used(&f->tx, NULL, NULL));
    }
}

/* ---- At a cut ---- */

/* What was made available before the stop is in the socket, and what is in the socket in the state.
 */
static void
stop_leaves_nothing_between(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 20; i++)
        guest_send(f, 1000, i); /* no kick served: the stop must find them */
    for (unsigned i = 0; i < 20; i++)
        switch_send(f, 900, i);
    fake_stop(f->m);
    for (unsigned i = 0; i < 20; i++)
        switch_expect(f, 1000, i);
    guest_put_buffers(f, 20);
    g_assert_false(frame_arrived(f)); /* at rest */
    fake_start(f->m);
    fake_pump();
    for (unsigned i = 0; i < 20; i++)
        guest_expect(f, 900, i);
}

static void
nothing_moves_while_stopped(Fixture *f, gconstpointer data)
{
    guest_put_buffers(f, 4);
    driver_kick(&f->rx);
    fake_stop(f->m);
    guest_send(f, 60, 1);
    driver_kick(&f->tx);
    switch_send(f, 60, 2);
    fake_pump();
    g_assert_cmpint(recv(f->fd, &(char){0}, 1, MSG_PEEK), ==, -1);
    g_assert_false(frame_arrived(f));
    fake_start(f->m);
    switch_expect(f, 60, 1);
    fake_wait(frame_arrived, f);
    guest_expect(f, 60, 2);
}

/* The same guest goes on in another process: new device, new connection. */
static void
move_guest(Fixture *f)
{
    Machine *other = make_machine(f);
    int old = f->fd;

    fake_move(f->m, other);
    f->m = f->driver.m = other;
    fake_wait(accepted, f);
    close(old);
}

static void
guest_goes_on_elsewhere(Fixture *f, gconstpointer data)
{
    guest_put_buffers(f, 8);
    driver_kick(&f->rx);
    for (unsigned i = 0; i < 5; i++) {
        guest_send(f, 60, i);
        driver_kick(&f->tx);
        switch_expect(f, 60, i);
        switch_send(f, 70, i);
        fake_wait(frame_arrived, f);
        guest_expect(f, 70, i);
        guest_put_buffers(f, 1);
        move_guest(f);
    }
    g_assert_cmphex(driver_status(&f->driver), ==, 15);
}

static void
backlog_moves_with_the_guest(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 30; i++)
        switch_send(f, 100 + i, i);
    move_guest(f);
    guest_put_buffers(f, 30);
    driver_kick(&f->rx);
    for (unsigned i = 0; i < 30; i++)
        guest_expect(f, 100 + i, i);
}

/* What waits is in three places, which here are all full: the backlog, the link, the socket. */
static void
all_that_waits_moves_with_the_guest(Fixture *f, gconstpointer data)
{
    unsigned sent = 0, before, got;

    /* Stops let the backlog grow to what may be saved, and then the link's buffer. */
    do {
        before = sent;
        sent = switch_fill(f, sent);
        fake_stop(f->m);
        fake_start(f->m);
    } while (sent > before);
    /* Room in the backlog for a stop, but not for the running device. */
    got = guest_take(f, 0, 3000);
    sent = switch_fill(f, sent);
    move_guest(f);
    guest_take(f, got, sent);
}

static unsigned
fill_socket(Fixture *f)
{
    unsigned sent = 0, before;

    do {
        before = f->tx.last_used;
        for (int i = 0; i < QUEUE / 2; i++)
            guest_send(f, 1501, sent++);
        driver_kick(&f->tx);
        while (driver_used(&f->tx, NULL, NULL))
            ;
    } while (f->tx.last_used != before && f->tx.last_used == f->tx.avail_idx);
    return sent;
}

/* Count the whole frames in the old connection; they must be in order. */
static unsigned
frames_in_socket(Fixture *f)
{
    static uint8_t bytes[4 << 20];
    size_t len = 0, at = 0;
    unsigned n = 0;
    ssize_t got;

    while ((got = recv(f->fd, bytes + len, sizeof bytes - len, 0)) > 0)
        len += (size_t)got;
    while (len - at >= 4 + 1501) {
        unsigned number;

        memcpy(&number, bytes + at + 4, sizeof number);
        g_assert_cmpuint(number, ==, n);
        n++;
        at += 4 + 1501;
    }
    g_assert_cmpuint(len - at, !=, 0); /* or this test would test nothing */
    return n;
}

static void
half_sent_frame_is_sent_whole_elsewhere(Fixture *f, gconstpointer data)
{
    unsigned sent = fill_socket(f);
    unsigned whole;
    Machine *other = make_machine(f);

    fake_stop(f->m);
    whole = frames_in_socket(f);
    g_assert_cmpuint(whole, <, sent);
    fake_move(f->m, other);
    f->m = f->driver.m = other;
    close(f->fd);
    fake_wait(accepted, f);
    for (unsigned i = whole; i < sent; i++)
        switch_expect(f, 1501, i);
}

static void
half_sent_frame_goes_on_here(Fixture *f, gconstpointer data)
{
    unsigned sent = fill_socket(f);

    fake_stop(f->m);
    fake_start(f->m);
    for (unsigned i = 0; i < sent; i++)
        switch_expect(f, 1501, i);
}

static void
half_sent_frame_is_sent_whole_after_reconnecting(Fixture *f, gconstpointer data)
{
    unsigned sent = fill_socket(f);
    unsigned whole;

    fake_stop(f->m);
    whole = frames_in_socket(f);
    close(f->fd);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*reconnecting*");
    fake_start(f->m);
    fake_wait(accepted, f);
    g_test_assert_expected_messages();
    for (unsigned i = whole; i < sent; i++)
        switch_expect(f, 1501, i);
}

/* The switch has it whole and sends it again on the new connection. */
static void
half_received_frame_is_forgotten_elsewhere(Fixture *f, gconstpointer data)
{
    uint8_t half[50] = {0, 0, 0, 100};

    guest_put_buffers(f, 4);
    driver_kick(&f->rx);
    g_assert_cmpint(send(f->fd, half, sizeof half, 0), ==, sizeof half);
    fake_pump();
    move_guest(f);
    switch_send(f, 100, 5);
    fake_wait(frame_arrived, f);
    guest_expect(f, 100, 5);
}

static void
half_received_frame_goes_on_here(Fixture *f, gconstpointer data)
{
    uint8_t frame[104] = {0, 0, 0, 100};

    fill_frame(frame + 4, 100, 6);
    guest_put_buffers(f, 4);
    driver_kick(&f->rx);
    g_assert_cmpint(send(f->fd, frame, 50, 0), ==, 50);
    fake_pump();
    fake_stop(f->m);
    fake_start(f->m);
    g_assert_cmpint(send(f->fd, frame + 50, 54, 0), ==, 54);
    fake_wait(frame_arrived, f);
    guest_expect(f, 100, 6);
}

static void
other_mac_is_refused(Fixture *f, gconstpointer data)
{
    static const uint8_t other_mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x57};
    Machine *m = fake_machine_new(RAM);
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(virtio_net_init(m, pci_host_init(m, NULL), other_mac, f->path, NULL));
    fake_stop(f->m);
    state = fake_dump(f->m, "virtio-net");
    g_assert_false(fake_restore(m, "virtio-net", state, &error));
    g_assert_true(strstr(error->message, "MAC") != NULL);
}

/* A frame that has only begun to arrive when sending finds the connection gone. */
static void
half_received_frame_is_forgotten_by_sending(Fixture *f, gconstpointer data)
{
    const uint8_t half[] = {0, 0, 0, 100, 'x', 'x', 'x'};

    guest_put_buffers(f, 1);
    driver_kick(&f->rx);
    g_assert_cmpint(send(f->fd, half, sizeof half, 0), ==, sizeof half);
    fake_pump();
    close(f->fd);
    guest_send(f, 60, 1);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*Broken pipe; reconnecting");
    fake_stop(f->m); /* sends before it receives */
    g_test_assert_expected_messages();
    fake_start(f->m);
    fake_wait(accepted, f);
    switch_expect(f, 60, 1);
    switch_send(f, 80, 2);
    fake_wait(frame_arrived, f);
    guest_expect(f, 80, 2);
}

/* As much as the switch can get rid of; returns the bytes. */
static size_t
switch_flood(Fixture *f)
{
    static const uint8_t frame[4 + 1500] = {0, 0, 1500 >> 8, 1500 & 0xFF};
    static size_t at; /* in the frame under way */
    size_t total = 0;

    for (;;) {
        ssize_t n = send(f->fd, frame + at, sizeof frame - at, 0);

        if (n < 0)
            return total;
        at = (at + (size_t)n) % sizeof frame;
        total += (size_t)n;
    }
}

/* Each stop takes what is in the socket; a guest that puts up no buffers lets it pile up. */
static void
many_stops_do_not_outgrow_the_state(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL;
    size_t total = 0, step;

    do {
        step = switch_flood(f);
        total += step;
        fake_stop(f->m);
        fake_start(f->m);
        fake_pump();
    } while (step > 0 && total < 64 << 20);
    g_assert_cmpuint(total, <, 64 << 20);
    fake_stop(f->m);
    state = fake_dump(f->m, "virtio-net");
    g_assert_cmpuint(state->len, <, 9 << 20);
    fake_restore(make_machine(f), "virtio-net", state, &error);
    g_assert_no_error(error);
}

static void
garbage_is_refused(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 3; i++)
        switch_send(f, 80, i);
    guest_send(f, 60, 1);
    fake_stop(f->m);
    fake_check_garbage(f->m, "virtio-net");
}

static void
long_paths_are_refused(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_strnfill(108, 'x');
    g_autoptr(GError) error = NULL;
    Machine *m = fake_machine_new(RAM);

    g_assert_false(virtio_net_init(m, pci_host_init(m, NULL), mac, path, &error));
    g_assert_true(strstr(error->message, "too long") != NULL);
}

#define ADD(name, function) g_test_add("/net/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("configuration is readable", configuration_is_readable);
    ADD("features must be offered to be used", features_must_be_offered);
    ADD("a legacy driver is turned away", legacy_drivers_are_turned_away);
    ADD("frames go out in order", frames_go_out);
    ADD("frames come in in order", frames_come_in);
    ADD("notifications through the kernel work", kernel_notifications_work);
    ADD("notifications through the kernel are unmapped", kernel_notifications_are_unmapped);
    ADD("requests that are no frames are dropped", nonsense_requests_are_dropped);
    ADD("a frame too long for the buffer is dropped", too_long_for_the_buffer_is_dropped);
    ADD("a wild ring needs a reset and survives it", wild_ring_needs_reset);
    ADD("a full socket holds requests in the ring", full_socket_holds_requests);
    ADD("no buffers hold the switch back", no_buffers_hold_the_switch);
    ADD("an impossible length drops the connection", impossible_length_drops_the_connection);
    ADD("a lost connection comes back", connection_comes_back);
    g_test_add("/net/frames before the driver are dropped", Fixture, NULL, set_up_switch,
               frames_before_the_driver_are_dropped, tear_down);
    ADD("the event index loses no frame", event_index_is_used);
    ADD("a stop leaves no frame between socket and state", stop_leaves_nothing_between);
    ADD("nothing moves while stopped", nothing_moves_while_stopped);
    ADD("the guest goes on elsewhere", guest_goes_on_elsewhere);
    ADD("the backlog moves with the guest", backlog_moves_with_the_guest);
    ADD("all that waits moves with the guest", all_that_waits_moves_with_the_guest);
    ADD("a half-sent frame is sent whole elsewhere", half_sent_frame_is_sent_whole_elsewhere);
    ADD("a half-sent frame goes on here", half_sent_frame_goes_on_here);
    ADD("a half-sent frame is sent whole after reconnecting",
        half_sent_frame_is_sent_whole_after_reconnecting);
    ADD("a half-received frame is forgotten elsewhere", half_received_frame_is_forgotten_elsewhere);
    ADD("a half-received frame goes on here", half_received_frame_goes_on_here);
    ADD("a half-received frame is forgotten when sending fails",
        half_received_frame_is_forgotten_by_sending);
    ADD("many stops do not outgrow the state", many_stops_do_not_outgrow_the_state);
    ADD("state of another MAC address is refused", other_mac_is_refused);
    ADD("garbage is refused", garbage_is_refused);
    ADD("a path too long for a socket is refused", long_paths_are_refused);
    return g_test_run();
}
