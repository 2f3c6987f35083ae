/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-net (virtio 1.2 §5.1): receive queue 0, transmit queue 1, no offloads, no control queue.
 * The MTU is 1500 and says so, because without mergeable buffers drivers put up buffers for that.
 *
 * Frames are never dropped to keep up. Sending stops taking requests while the socket is full or
 * there is no connection; they wait in the ring. Receiving stops reading the socket while the
 * driver puts up no buffers and the backlog is full. Frames for a driver that is not there are
 * dropped, as a NIC does before it is set up. The link always looks up, so that a guest notices no
 * failover.
 *
 * At a stop all that the guest has made available goes to the socket as far as that takes it, and
 * all that is in the socket goes to the backlog, until that has BACKLOG_BYTES_SAVED; frame_link.h
 * says what becomes of half frames and of what is left.
 */
#include "vmm/devices/frame_link.h"
#include "vmm/devices/state.h"
#include "vmm/devices/virtio_pci.h"

#include <string.h>
#include <sys/un.h>

#define QUEUE_RECEIVE 0
#define QUEUE_TRANSMIT 1
#define NET_QUEUE_SIZE 256
#define NET_HEADER_BYTES 12 /* §5.1.6; num_buffers is always there with VERSION_1 */
#define NET_HEADER_NUM_BUFFERS 10
#define NET_FRAME_MIN 14
#define NET_MTU 1500

/* Feature bits (§5.1.3) and configuration (§5.1.4). */
#define NET_F_MTU 3
#define NET_F_MAC 5
#define NET_F_STATUS 16
#define CONFIG_MAC 0
#define CONFIG_STATUS 6
#define CONFIG_MTU 10
#define CONFIG_BYTES 12
#define STATUS_LINK_UP 1

/* The socket is read no further while the backlog has this much. */
#define BACKLOG_FRAMES 1024
#define BACKLOG_BYTES (2 * 1024 * 1024)
/*
 * Most that a backlog can have grown to by stops, however many there are while a guest puts up no
 * buffers. No more is ever saved, and no more taken back.
 */
#define BACKLOG_FRAMES_SAVED (4 * BACKLOG_FRAMES)
#define BACKLOG_BYTES_SAVED (4 * BACKLOG_BYTES)

typedef struct VirtioNet {
    Device device;
    VirtioDevice virtio;
    FrameLink *link;
    GQueue backlog; /* of GBytes, oldest first */
    size_t backlog_bytes;
    VirtChain chain;
} VirtioNet;

/* ---- Transmit ---- */

/* Append the frame of the current chain to the link; what cannot be a frame is dropped. */
static void
transmit(VirtioNet *net)
{
    uint64_t len = net->chain.out_len;

    if (len < NET_HEADER_BYTES + NET_FRAME_MIN || len > NET_HEADER_BYTES + FRAME_MAX)
        return;
    len -= NET_HEADER_BYTES;
    virtchain_read(&net->chain, NET_HEADER_BYTES, frame_link_frame(net->link, len), len);
}

static bool
link_has_room(VirtioNet *net)
{
    if (frame_link_can_send(net->link))
        return true;
    frame_link_flush(net->link);
    return frame_link_can_send(net->link);
}

static void
serve_transmit(VirtioNet *net)
{
    VirtQueue *queue = virtio_queue(&net->virtio, QUEUE_TRANSMIT);
    unsigned budget = queue->size;

    while (budget > 0 && link_has_room(net) &&
           virtqueue_pop(queue, &net->chain) == VIRTQUEUE_CHAIN) {
        transmit(net);
        virtqueue_push(queue, &net->chain, 0);
        budget--;
    }
    frame_link_flush(net->link);
    virtio_queue_done(&net->virtio, QUEUE_TRANSMIT);
    if (budget == 0)
        virtio_again(&net->virtio, QUEUE_TRANSMIT);
}

static void
link_writable(void *opaque)
{
    VirtioNet *net = opaque;

    if (virtio_ready(&net->virtio) && net->virtio.running)
        serve_transmit(net);
}

/* ---- Receive ---- */

static void
backlog_clear(VirtioNet *net)
{
    g_queue_clear_full(&net->backlog, (GDestroyNotify)g_bytes_unref);
    net->backlog_bytes = 0;
}

static void
backlog_add(VirtioNet *net, const uint8_t *frame, size_t len)
{
    g_queue_push_tail(&net->backlog, g_bytes_new(frame, len));
    net->backlog_bytes += len;
}

/* Put a frame into the next receive buffer. False: there is none, keep the frame. */
static bool
place_frame(VirtioNet *net, const uint8_t *frame, size_t len)
{
    VirtQueue *queue = virtio_queue(&net->virtio, QUEUE_RECEIVE);
    uint8_t header[NET_HEADER_BYTES] = {[NET_HEADER_NUM_BUFFERS] = 1};

    if (virtqueue_pop(queue, &net->chain) != VIRTQUEUE_CHAIN)
        return false;
    if (net->chain.in_len < NET_HEADER_BYTES + len) {
        virtqueue_unpop(queue, 1); /* longer than the driver's MTU: dropped, the buffer stays */
        return true;
    }
    virtchain_write(&net->chain, 0, header, sizeof header);
    virtchain_write(&net->chain, sizeof header, frame, len);
    virtqueue_push(queue, &net->chain, sizeof header + len);
    return true;
}

static bool
link_can_receive(void *opaque)
{
    VirtioNet *net = opaque;

    return !virtio_ready(&net->virtio) ||
           (net->backlog.length < BACKLOG_FRAMES && net->backlog_bytes < BACKLOG_BYTES);
}

static bool
link_can_keep(void *opaque)
{
    VirtioNet *net = opaque;

    return !virtio_ready(&net->virtio) || (net->backlog.length < BACKLOG_FRAMES_SAVED &&
                                           net->backlog_bytes <= BACKLOG_BYTES_SAVED - FRAME_MAX);
}

static void
link_receive(void *opaque, const uint8_t *frame, size_t len)
{
    VirtioNet *net = opaque;

    if (!virtio_ready(&net->virtio))
        return;
    if (net->virtio.running && g_queue_is_empty(&net->backlog) && place_frame(net, frame, len))
        return;
    backlog_add(net, frame, len);
}

static void
link_received(void *opaque)
{
    VirtioNet *net = opaque;

    if (net->virtio.running && virtio_ready(&net->virtio))
        virtio_queue_done(&net->virtio, QUEUE_RECEIVE);
}

static const FrameLinkOps link_ops = {
    .can_receive = link_can_receive,
    .can_keep = link_can_keep,
    .receive = link_receive,
    .received = link_received,
    .writable = link_writable,
};

static void
serve_receive(VirtioNet *net)
{
    while (!g_queue_is_empty(&net->backlog)) {
        GBytes *frame = g_queue_peek_head(&net->backlog);
        gsize len;
        const uint8_t *data = g_bytes_get_data(frame, &len);

        if (!place_frame(net, data, len))
            break;
        net->backlog_bytes -= len;
        g_queue_pop_head(&net->backlog);
        g_bytes_unref(frame);
    }
    virtio_queue_done(&net->virtio, QUEUE_RECEIVE);
    frame_link_receive_resume(net->link);
}

/* ---- The device ---- */

static void
net_serve(VirtioDevice *virtio, unsigned index)
{
    VirtioNet *net = virtio->opaque;

    if (index == QUEUE_TRANSMIT)
        serve_transmit(net);
    else
        serve_receive(net);
}

static void
net_reset(VirtioDevice *virtio)
{
    VirtioNet *net = virtio->opaque;

    backlog_clear(net);
    frame_link_receive_resume(net->link);
}

static const VirtioOps net_virtio_ops = {
    .kind = "virtio-net",
    .id = VIRTIO_ID_NET,
    .class_code = 0x020000,
    .features = 1u << NET_F_MAC | 1u << NET_F_STATUS | 1u << NET_F_MTU,
    .n_queues = 2,
    .queue_size = NET_QUEUE_SIZE,
    .config_len = CONFIG_BYTES,
    .serve = net_serve,
    .reset = net_reset,
};

static void
net_stop(Device *device)
{
    VirtioNet *net = device->opaque;

    virtio_stop(&net->virtio);
    if (virtio_ready(&net->virtio))
        serve_transmit(net);
    frame_link_stop(net->link);
    if (!g_queue_is_empty(&net->backlog))
        net->virtio.queues[QUEUE_RECEIVE].kicked = true;
}

static void
net_start(Device *device)
{
    VirtioNet *net = device->opaque;

    virtio_start(&net->virtio);
    frame_link_start(net->link);
}

static void
net_dump(Device *device, GByteArray *out)
{
    VirtioNet *net = device->opaque;
    District__VirtioNetState state = DISTRICT__VIRTIO_NET_STATE__INIT;
    g_autofree ProtobufCBinaryData *frames =
        g_new(ProtobufCBinaryData, MAX(net->backlog.length, 1));
    VirtioDump dump;
    size_t pending;

    virtio_dump(&net->virtio, &dump);
    state.virtio = &dump.state;
    state.mac.data = net->virtio.config + CONFIG_MAC;
    state.mac.len = 6;
    state.rx_backlog = frames;
    for (GList *at = net->backlog.head; at; at = at->next) {
        ProtobufCBinaryData *frame = &frames[state.n_rx_backlog++];

        frame->data = (uint8_t *)g_bytes_get_data(at->data, &frame->len);
    }
    state.tx_backlog.data = (uint8_t *)frame_link_pending(net->link, &pending);
    state.tx_backlog.len = pending;
    state_append(out, &state.base);
}

static gboolean
check_state(const VirtioNet *net, const District__VirtioNetState *state, GError **error)
{
    const char *kind = net_virtio_ops.kind;
    size_t total = 0;

    if (state->mac.len != 6 || memcmp(state->mac.data, net->virtio.config + CONFIG_MAC, 6) != 0)
        return state_refuse(error, kind,
                            "it is of a device with another MAC address; start the member with "
                            "the address it was saved with");
    if (state->n_rx_backlog > BACKLOG_FRAMES_SAVED)
        return state_refuse(error, kind, "%zu received frames", state->n_rx_backlog);
    for (size_t i = 0; i < state->n_rx_backlog; i++) {
        size_t len = state->rx_backlog[i].len;

        total += len;
        if (len == 0 || len > FRAME_MAX || total > BACKLOG_BYTES_SAVED)
            return state_refuse(error, kind, "received frames of impossible length");
    }
    if (!frame_link_pending_valid(state->tx_backlog.data, state->tx_backlog.len))
        return state_refuse(error, kind, "frames to send are of impossible length");
    return virtio_check_state(&net->virtio, state->virtio, NULL, error);
}

STATE_DEFINE_AUTOPTR(District__VirtioNetState)

static gboolean
net_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    VirtioNet *net = device->opaque;
    g_autoptr(District__VirtioNetState) state = (District__VirtioNetState *)state_parse(
        net_virtio_ops.kind, &district__virtio_net_state__descriptor, data, len, error);

    if (!state || !check_state(net, state, error))
        return FALSE;
    virtio_restore(&net->virtio, state->virtio);
    backlog_clear(net);
    for (size_t i = 0; i < state->n_rx_backlog; i++)
        backlog_add(net, state->rx_backlog[i].data, state->rx_backlog[i].len);
    frame_link_set_pending(net->link, state->tx_backlog.data, state->tx_backlog.len);
    return TRUE;
}

static const DeviceOps net_ops = {
    .kind = "virtio-net",
    .version = 1,
    .stop = net_stop,
    .dump = net_dump,
    .restore = net_restore,
    .start = net_start,
};

gboolean
virtio_net_init(Machine *m, PciHost *pci, const uint8_t mac[6], const char *socket_path,
                GError **error)
{
    static uint32_t instances;
    VirtioNet *net;

    if (strlen(socket_path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "virtio-net: socket path %s is too long; use a shorter directory name",
                    socket_path);
        return FALSE;
    }
    net = g_new0(VirtioNet, 1);
    net->device.ops = &net_ops;
    net->device.opaque = net;
    net->device.instance = instances;
    g_queue_init(&net->backlog);
    memcpy(net->virtio.config + CONFIG_MAC, mac, 6);
    net->virtio.config[CONFIG_STATUS] = STATUS_LINK_UP;
    net->virtio.config[CONFIG_MTU] = NET_MTU & 0xFF;
    net->virtio.config[CONFIG_MTU + 1] = NET_MTU >> 8;
    net->link = frame_link_new(m, socket_path, &link_ops, net);
    if (!virtio_init(&net->virtio, pci, &net_virtio_ops, net, error))
        return FALSE; /* sources refer to it: it stays; the process ends */
    instances++;
    machine_add_device(m, &net->device);
    return TRUE;
}
