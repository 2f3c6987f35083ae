/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile guest, and a hostile switch, against virtio-net, -rng, -console and -blk on the PCI bus.
 *
 * The input is a list of operations: writes to configuration space, BARs and RAM, descriptors,
 * notifications, bytes from the switch, ends of disk requests, save and restore. Beside what the sanitizers see, devices
 * must have marked every page dirty that they wrote. Before each input the devices are restored to
 * their state after power-on, so a finding can be repeated from its input alone.
 */
#include "driver.h"
#include "fake-disk.h"

#include "common/page.h"
#include "vmm/devices/devices.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RAM (64 * PAGE_BYTES)
#define SLOTS 5 /* bridge, net, rng, console, blk */
#define QUEUES 7
#define BLK_QUEUES 2
#define DISK (1024 * 1024)
#define QUEUE_SIZE 16
#define OPERATIONS_MAX 512

typedef struct Input {
    const uint8_t *data;
    size_t len;
} Input;

static const char *const kinds[] = {"pci", "virtio-net", "virtio-rng", "virtio-console",
                                    "virtio-blk"};
static const struct {
    unsigned slot;
    unsigned index;
} queue_of[QUEUES] = {{1, 0}, {1, 1}, {2, 0}, {3, 0}, {3, 1}, {4, 0}, {4, 1}};

static Machine *m;
static Disk *disk;
static GByteArray *power_on[SLOTS];
static Driver drivers[SLOTS];
static DriverQueue queues[QUEUES];
static int listen_fd, switch_fd = -1;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* ---- Input ---- */

static uint64_t
take(Input *in, unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)MIN(bytes, in->len);
    memcpy(&value, in->data, bytes);
    in->data += bytes;
    in->len -= bytes;
    return value;
}

static unsigned
take_width(Input *in)
{
    return 1u << (take(in, 1) & 3);
}

/* ---- Set-up ---- */

static void
quiet(const char *domain, GLogLevelFlags level, const char *message, gpointer opaque)
{
}

static void
listen_as_switch(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    g_assert(bind(listen_fd, (struct sockaddr *)&address, sizeof address) == 0);
    g_assert(listen(listen_fd, 64) == 0);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    g_autofree char *dir = g_dir_make_tmp("district-fuzz-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "switch", NULL);
    PciHost *pci;

    g_log_set_default_handler(quiet, NULL);
    listen_as_switch(path);
    m = fake_machine_new(RAM);
    fake_take_ioeventfds(m, true);
    pci = pci_host_init(m, NULL);
    g_assert(virtio_net_init(m, pci, mac, path, NULL));
    g_assert(virtio_rng_init(m, pci, NULL));
    g_assert(virtio_console_init(m, pci, "pty", NULL));
    disk = fake_disk_new(DISK, false);
    g_assert(virtio_blk_init(m, pci, disk, "disk0", BLK_QUEUES, NULL));
    fake_start(m);
    unlink(path);
    rmdir(dir);
    fake_stop(m);
    for (unsigned i = 0; i < SLOTS; i++)
        power_on[i] = fake_dump(m, kinds[i]);
    fake_start(m);
    return 0;
}

static void
power_cycle(void)
{
    static const uint8_t zero[RAM];

    fake_stop(m);
    for (unsigned i = 0; i < SLOTS; i++)
        g_assert(fake_restore(m, kinds[i], power_on[i], NULL));
    fake_disk_hold(disk, false);
    fake_disk_end(disk, fake_disk_pending(disk), 0);
    memset(fake_disk_data(disk), 0, DISK);
    fake_poke(m, 0, zero, RAM);
    fake_start(m);
}

/* What a good driver does first, so that inputs start where it gets interesting. */
static void
bring_up(uint64_t features)
{
    for (unsigned slot = 1; slot < SLOTS; slot++) {
        driver_init(&drivers[slot], m, slot);
        driver_negotiate(&drivers[slot], features);
        driver_use_msix(&drivers[slot], slot == 2 ? 1 : 2, 0x40);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        driver_queue_init(&queues[i], &drivers[queue_of[i].slot], queue_of[i].index, QUEUE_SIZE,
                          i * 4 * PAGE_BYTES);
    for (unsigned slot = 1; slot < SLOTS; slot++)
        driver_ok(&drivers[slot]);
}

/* ---- Operations ---- */

static void
save_and_restore(void)
{
    GByteArray *saved[SLOTS];

    fake_stop(m);
    for (unsigned i = 0; i < SLOTS; i++)
        saved[i] = fake_dump(m, kinds[i]);
    for (unsigned i = 0; i < SLOTS; i++) {
        /* What we have saved, we must take back. */
        g_assert(fake_restore(m, kinds[i], saved[i], NULL));
        g_byte_array_unref(saved[i]);
    }
    fake_start(m);
}

static void
poke(Input *in)
{
    uint64_t gpa = take(in, 4) % RAM;
    size_t len = take(in, 1);

    len = MIN(len, MIN(in->len, RAM - gpa));
    if (len > 0)
        fake_poke(m, gpa, in->data, len);
    in->data += len;
    in->len -= len;
}

static void
describe(Input *in)
{
    DriverQueue *queue = &queues[take(in, 1) % QUEUES];
    uint16_t i = (uint16_t)(take(in, 1) % QUEUE_SIZE);
    uint8_t how = (uint8_t)take(in, 1);
    uint64_t gpa = how & 0x80 ? take(in, 8) : take(in, 3);
    uint32_t len = (uint32_t)(how & 0x40 ? take(in, 4) : take(in, 2));

    if (!queue->driver)
        return;
    driver_describe(queue, i, gpa, len, how & 7, (uint16_t)(take(in, 1) % (QUEUE_SIZE + 1)));
    if (how & 0x20)
        driver_offer(queue, i);
}

static void
switch_sends(Input *in)
{
    size_t len = take(in, 2);
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK);

    len = MIN(len, in->len);
    if (fd >= 0) {
        if (switch_fd >= 0)
            close(switch_fd);
        switch_fd = fd;
    }
    if (switch_fd >= 0 && len > 0 && send(switch_fd, in->data, len, MSG_NOSIGNAL) < 0) {
        close(switch_fd);
        switch_fd = -1;
    }
    in->data += len;
    in->len -= len;
}

static void
switch_reads(void)
{
    static uint8_t sink[65536];

    while (switch_fd >= 0 && recv(switch_fd, sink, sizeof sink, 0) > 0)
        ;
}

static void
write_register(Input *in)
{
    Driver *driver = &drivers[1 + take(in, 1) % (SLOTS - 1)];
    uint64_t offset = take(in, 2) % 0x4000;
    unsigned len = take_width(in);

    fake_mmio_write(m, driver->common + (offset & ~(uint64_t)(len - 1)), take(in, len), len);
}

static void
read_register(Input *in)
{
    Driver *driver = &drivers[1 + take(in, 1) % (SLOTS - 1)];
    uint64_t offset = take(in, 2) % 0x4000;
    unsigned len = take_width(in);

    fake_mmio_read(m, driver->common + (offset & ~(uint64_t)(len - 1)), len);
}

static void
configure(Input *in)
{
    unsigned slot = take(in, 1) % (SLOTS + 1), reg = take(in, 2) & 0xFFF;
    unsigned len = take_width(in);

    pci_write(m, slot, reg, (uint32_t)take(in, len), MIN(len, 4));
    pci_read(m, slot, reg, MIN(len, 4));
}

static void
vector(Input *in)
{
    Driver *driver = &drivers[1 + take(in, 1) % (SLOTS - 1)];
    uint64_t offset = take(in, 2) & 0xFFC;

    fake_mmio_write(m, driver->msix + offset, take(in, 4), 4);
    fake_mmio_read(m, driver->msix + offset, 4);
}

static void
notify(Input *in)
{
    DriverQueue *queue = &queues[take(in, 1) % QUEUES];

    if (queue->driver)
        driver_kick(queue);
}

/* Let some end, or none for now. */
static void
disk_turn(Input *in)
{
    uint8_t how = (uint8_t)take(in, 1);

    fake_disk_hold(disk, how & 1);
    fake_disk_end(disk, MIN(how >> 4, fake_disk_pending(disk)), how & 2 ? EIO : 0);
}

static void
operate(Input *in)
{
    switch (take(in, 1) % 13) {
    case 0:
        configure(in);
        break;
    case 1:
        write_register(in);
        break;
    case 2:
        read_register(in);
        break;
    case 3:
        poke(in);
        break;
    case 4:
    case 5:
        describe(in);
        break;
    case 6:
        notify(in);
        break;
    case 7:
        switch_sends(in);
        break;
    case 8:
        switch_reads();
        break;
    case 9:
        vector(in);
        break;
    case 10:
        save_and_restore();
        break;
    case 11:
        disk_turn(in);
        break;
    default:
        fake_pump();
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    Input in = {data, len};
    uint8_t mode = (uint8_t)take(&in, 1);

    power_cycle();
    if (mode & 1)
        bring_up(UINT64_C(1) << 32 | (mode & 2 ? 1u << 29 : 0) | (mode & 4 ? 1u << 28 : 0));
    for (int i = 0; i < OPERATIONS_MAX && in.len > 0; i++)
        operate(&in);
    fake_pump();
    g_assert(fake_unlogged_pages(m) == 0);
    switch_reads();
    return 0;
}
