/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-console (virtio 1.2 §5.3): one port, receive queue 0, transmit queue 1, no features.
 * Output goes out at once or is dropped as chardev.h says; input waits in the pty until the driver
 * has put up a buffer.
 */
#include "vmm/devices/chardev.h"
#include "vmm/devices/state.h"
#include "vmm/devices/virtio_pci.h"

#include <string.h>

#define QUEUE_RECEIVE 0
#define QUEUE_TRANSMIT 1
#define CONSOLE_QUEUE_SIZE 64
/*
 * Most bytes taken from one request, and about the most before the main loop gets its turn.
 * Descriptors may overlap, so a request can name any amount.
 */
#define TRANSMIT_MAX (64 * 1024)

typedef struct VirtioConsole {
    Device device;
    VirtioDevice virtio;
    Chardev *chardev;
    VirtChain chain;
} VirtioConsole;

/* Returns the count of bytes that went out. */
static uint64_t
transmit(VirtioConsole *con)
{
    uint64_t len = MIN(con->chain.out_len, TRANSMIT_MAX);
    uint8_t bytes[4096];

    for (uint64_t at = 0; at < len;) {
        size_t n = virtchain_read(&con->chain, at, bytes, MIN(sizeof bytes, len - at));

        chardev_write(con->chardev, bytes, n);
        at += n;
    }
    return len;
}

static void
serve_transmit(VirtioConsole *con)
{
    VirtQueue *queue = virtio_queue(&con->virtio, QUEUE_TRANSMIT);
    unsigned budget = queue->size;
    uint64_t sent = 0;

    while (budget > 0 && sent < TRANSMIT_MAX &&
           virtqueue_pop(queue, &con->chain) == VIRTQUEUE_CHAIN) {
        sent += transmit(con);
        virtqueue_push(queue, &con->chain, 0);
        budget--;
    }
    virtio_queue_done(&con->virtio, QUEUE_TRANSMIT);
    if (budget == 0 || sent >= TRANSMIT_MAX)
        virtio_again(&con->virtio, QUEUE_TRANSMIT);
}

static void
console_serve(VirtioDevice *virtio, unsigned index)
{
    VirtioConsole *con = virtio->opaque;

    if (index == QUEUE_TRANSMIT)
        serve_transmit(con);
    else
        chardev_input_resume(con->chardev);
}

static const VirtioOps console_virtio_ops = {
    .kind = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000,
    .n_queues = 2,
    .queue_size = CONSOLE_QUEUE_SIZE,
    .config_len = 12, /* cols, rows, max_nr_ports, emerg_wr: none is offered, all read 0 */
    .serve = console_serve,
};

/* Looks at the next receive buffer and leaves it where it is. */
static size_t
console_room(void *opaque)
{
    VirtioConsole *con = opaque;
    VirtQueue *queue = virtio_queue(&con->virtio, QUEUE_RECEIVE);

    if (!virtio_ready(&con->virtio))
        return 0;
    if (virtqueue_pop(queue, &con->chain) != VIRTQUEUE_CHAIN) {
        virtio_queue_done(&con->virtio, QUEUE_RECEIVE);
        return 0;
    }
    virtqueue_unpop(queue, 1);
    /* A request without room for data would never be used up. */
    return (size_t)MAX(con->chain.in_len, 1);
}

static void
console_input(void *opaque, const uint8_t *data, size_t len)
{
    VirtioConsole *con = opaque;
    VirtQueue *queue = virtio_queue(&con->virtio, QUEUE_RECEIVE);

    /* The guest may have changed the descriptor since console_room: what does not fit is lost. */
    if (virtqueue_pop(queue, &con->chain) == VIRTQUEUE_CHAIN)
        virtqueue_push(queue, &con->chain, virtchain_write(&con->chain, 0, data, len));
    virtio_queue_done(&con->virtio, QUEUE_RECEIVE);
}

static const ChardevOps console_chardev_ops = {.room = console_room, .input = console_input};

static void
console_stop(Device *device)
{
    VirtioConsole *con = device->opaque;

    virtio_stop(&con->virtio);
    chardev_stop(con->chardev);
}

static void
console_start(Device *device)
{
    VirtioConsole *con = device->opaque;

    virtio_start(&con->virtio);
    chardev_start(con->chardev);
}

static void
console_dump(Device *device, GByteArray *out)
{
    VirtioConsole *con = device->opaque;
    District__VirtioConsoleState state = DISTRICT__VIRTIO_CONSOLE_STATE__INIT;
    VirtioDump dump;

    virtio_dump(&con->virtio, &dump);
    state.virtio = &dump.state;
    state_append(out, &state.base);
}

STATE_DEFINE_AUTOPTR(District__VirtioConsoleState)

static gboolean
console_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    VirtioConsole *con = device->opaque;
    g_autoptr(District__VirtioConsoleState) state = (District__VirtioConsoleState *)state_parse(
        console_virtio_ops.kind, &district__virtio_console_state__descriptor, data, len, error);

    if (!state || !virtio_check_state(&con->virtio, state->virtio, NULL, error))
        return FALSE;
    virtio_restore(&con->virtio, state->virtio);
    return TRUE;
}

static const DeviceOps console_ops = {
    .kind = "virtio-console",
    .version = 1,
    .stop = console_stop,
    .dump = console_dump,
    .restore = console_restore,
    .start = console_start,
};

gboolean
virtio_console_init(Machine *m, PciHost *pci, const char *spec, GError **error)
{
    static uint32_t instances;
    VirtioConsole *con = g_new0(VirtioConsole, 1);

    con->device.ops = &console_ops;
    con->device.opaque = con;
    con->device.instance = instances;
    con->chardev = chardev_open(m, spec, NULL, &console_chardev_ops, con, error);
    if (!con->chardev) {
        g_prefix_error(error, "virtio-console: ");
        g_free(con);
        return FALSE;
    }
    if (!virtio_init(&con->virtio, pci, &console_virtio_ops, con, error))
        return FALSE; /* sources refer to it: it stays; the process ends */
    instances++;
    machine_add_device(m, &con->device);
    return TRUE;
}
