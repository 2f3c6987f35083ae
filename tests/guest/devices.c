/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * op=devices of the tiny guest: exercises virtio-net, console, rng and (disk.c) blk.
 *
 * Network: raw Ethernet frames (EtherType 0x88B5, for local experiments) numbered from 1. The
 * sender first says HELLO until its peer answers, then sends numbered DATA frames; an echoing peer
 * returns each as ECHO. Nothing is ever sent again, so over a reliable network each side sees every
 * number exactly once, in order, and a frame that a cut lost or doubled shows at once in lost= or
 * dup=. Each frame's content follows from its number; one that does not counts in bad=.
 */
#include "virtio.h"

#define ETHERTYPE_HIGH 0x88
#define ETHERTYPE_LOW 0xB5
#define FRAME_MAGIC 0x454d41524654494eULL
#define NET_HEADER_BYTES 12 /* virtio_net_hdr with VERSION_1 (virtio 1.2 §5.1.6) */
#define ETHERNET_BYTES 14
#define HELLO_POLLS 20000

typedef enum FrameKind { FRAME_HELLO = 1, FRAME_WELCOME, FRAME_DATA, FRAME_ECHO } FrameKind;

/* After the Ethernet header. */
typedef struct __attribute__((packed)) Frame {
    uint64_t magic;
    uint64_t kind;
    uint64_t number;
    uint8_t fill[];
} Frame;

static Vq net_rx, net_tx, console_tx, rng_queue;
static VirtioDevice net, console, rng;
static uint8_t own_mac[6];
static unsigned net_tx_free; /* buffers of net_tx never used yet */
static uint64_t net_sent;    /* highest DATA number sent */
static uint64_t net_seen;    /* highest DATA or ECHO number received */
static bool net_peer_ready;
static bool has_disk;

static void
report_devices(uint64_t round)
{
    const GuestDeviceState *s = &header->devices;

    out_begin();
    out_text("devices round=");
    out_number(round);
    out_text(" rng=");
    out_number(s->rng_bytes);
    out_text(" console=");
    out_number(s->console_bytes);
    out_end();
    disk_report();
    if (net.address == 0)
        return;
    out_begin();
    out_text("net tx=");
    out_number(s->net_tx);
    out_text(" rx=");
    out_number(s->net_rx);
    out_text(" lost=");
    out_number(s->net_lost);
    out_text(" dup=");
    out_number(s->net_dup);
    out_text(" bad=");
    out_number(s->net_bad);
    out_end();
}

/* Fill a buffer with random bytes; all equal cannot be. */
static void
rng_exercise(void)
{
    unsigned slot;
    uint32_t len;
    bool all_equal = true;

    if (rng.address == 0)
        return;
    virtio_send(&rng_queue, 0, 64, true);
    while (!virtio_poll(&rng_queue, &slot, &len))
        ;
    for (uint32_t i = 1; i < len && i < 64; i++)
        all_equal &= rng_queue.buffer[0][i] == rng_queue.buffer[0][0];
    if (len == 0 || len > 64 || (len >= 16 && all_equal))
        guest_fail("virtio-rng gave no random bytes");
    header->devices.rng_bytes += len;
}

static uint32_t
append_number(uint8_t *to, uint64_t n)
{
    uint8_t digits[20];
    uint32_t len = 0;

    do {
        digits[len++] = (uint8_t)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    for (uint32_t i = 0; i < len; i++)
        to[i] = digits[len - 1 - i];
    return len;
}

/* "console NUMBER", NUMBER being how many bytes were written before. */
static void
console_exercise(void)
{
    static const char text[] = "console ";
    uint8_t *line = console_tx.buffer[0];
    uint32_t len = 0;
    unsigned slot;
    uint32_t used;

    if (console.address == 0)
        return;
    for (; text[len] != '\0'; len++)
        line[len] = (uint8_t)text[len];
    len += append_number(line + len, header->devices.console_bytes);
    line[len++] = '\n';
    virtio_send(&console_tx, 0, len, false);
    while (!virtio_poll(&console_tx, &slot, &used))
        ;
    header->devices.console_bytes += len;
}

static uint8_t
fill_byte(uint64_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i * 7 + (number >> 8));
}

static unsigned
tx_slot(void)
{
    unsigned slot;
    uint32_t len;

    if (net_tx_free < net_tx.size)
        return net_tx_free++;
    while (!virtio_poll(&net_tx, &slot, &len))
        ;
    return slot;
}

static void
net_send(FrameKind kind, uint64_t number, const uint8_t to[6])
{
    unsigned slot = tx_slot();
    uint8_t *at = net_tx.buffer[slot];
    Frame *frame = (Frame *)(at + NET_HEADER_BYTES + ETHERNET_BYTES);
    uint32_t fill = header->params.bytes - (uint32_t)sizeof(Frame);

    for (unsigned i = 0; i < NET_HEADER_BYTES; i++)
        at[i] = 0;
    for (unsigned i = 0; i < 6; i++) {
        at[NET_HEADER_BYTES + i] = to[i];
        at[NET_HEADER_BYTES + 6 + i] = own_mac[i];
    }
    at[NET_HEADER_BYTES + 12] = ETHERTYPE_HIGH;
    at[NET_HEADER_BYTES + 13] = ETHERTYPE_LOW;
    frame->magic = FRAME_MAGIC;
    frame->kind = kind;
    frame->number = number;
    for (uint32_t i = 0; i < fill; i++)
        frame->fill[i] = fill_byte(number, i);
    virtio_send(&net_tx, slot, NET_HEADER_BYTES + ETHERNET_BYTES + header->params.bytes, false);
}

/* Count a numbered frame: the next one is right. */
static void
count_number(uint64_t number)
{
    GuestDeviceState *s = &header->devices;

    s->net_rx++;
    if (number <= net_seen) {
        s->net_dup++;
        return;
    }
    s->net_lost += number - net_seen - 1;
    net_seen = number;
}

static void
handle_frame(const Frame *frame, uint32_t len, const uint8_t from[6])
{
    uint32_t mode = header->params.net;

    for (uint32_t i = 0; i < len - sizeof(Frame); i++) {
        if (frame->fill[i] != fill_byte(frame->number, i)) {
            header->devices.net_bad++;
            return;
        }
    }
    if (frame->kind == FRAME_HELLO && mode != GUEST_NET_SEND)
        net_send(FRAME_WELCOME, 0, from);
    if (frame->kind == FRAME_WELCOME)
        net_peer_ready = true;
    if (frame->kind == FRAME_DATA && mode != GUEST_NET_SEND)
        count_number(frame->number);
    if (frame->kind == FRAME_ECHO && mode == GUEST_NET_SEND)
        count_number(frame->number);
    if (frame->kind == FRAME_DATA && mode == GUEST_NET_ECHO) {
        net_send(FRAME_ECHO, frame->number, from);
        header->devices.net_tx++;
    }
}

/* Take one frame, if there is one. Frames of other protocols are none of ours. */
static bool
net_receive(void)
{
    const uint32_t least = NET_HEADER_BYTES + ETHERNET_BYTES + sizeof(Frame);
    unsigned slot;
    uint32_t len;
    const uint8_t *at;
    const Frame *frame;

    if (!virtio_poll(&net_rx, &slot, &len))
        return false;
    at = net_rx.buffer[slot] + NET_HEADER_BYTES;
    frame = (const Frame *)(at + ETHERNET_BYTES);
    if (len >= least && len <= VQ_BUFFER_BYTES && at[12] == ETHERTYPE_HIGH &&
        at[13] == ETHERTYPE_LOW && frame->magic == FRAME_MAGIC)
        handle_frame(frame, len - NET_HEADER_BYTES - ETHERNET_BYTES, at + 6);
    virtio_send(&net_rx, slot, VQ_BUFFER_BYTES, true);
    return true;
}

static void
net_meet_peer(void)
{
    for (uint64_t polls = 0; !net_peer_ready; polls++) {
        if (polls % HELLO_POLLS == 0)
            net_send(FRAME_HELLO, 0, header->params.peer);
        net_receive();
    }
    out_begin();
    out_text("net peer is there");
    out_end();
}

/* One turn: send what the window allows, take what has come. Returns frames done in all. */
static uint64_t
net_turn(void)
{
    const GuestParams *params = &header->params;
    bool sends = params->net == GUEST_NET_SEND;
    bool may_send = params->rounds == 0 || net_sent < params->rounds;

    if (sends && may_send && (params->window == 0 || net_sent - net_seen < params->window)) {
        net_send(FRAME_DATA, ++net_sent, params->peer);
        header->devices.net_tx++;
    }
    while (net_receive())
        ;
    return sends && params->window == 0 ? net_sent : net_seen;
}

static void
net_open(void)
{
    volatile uint8_t *config;

    if (!virtio_find(&net, VIRTIO_ID_NET, 0))
        guest_fail("no virtio-net on PCI bus 0");
    config = (volatile uint8_t *)net.config;
    for (unsigned i = 0; i < 6; i++)
        own_mac[i] = config[i];
    virtio_queue_setup(&net, &net_rx, 0);
    virtio_queue_setup(&net, &net_tx, 1);
    virtio_driver_ok(&net);
    for (unsigned slot = 0; slot < net_rx.size; slot++)
        virtio_send(&net_rx, slot, VQ_BUFFER_BYTES, true);
}

static void
devices_open(void)
{
    if (header->params.net != GUEST_NET_NONE)
        net_open();
    if (virtio_find(&console, VIRTIO_ID_CONSOLE, 0)) {
        virtio_queue_setup(&console, &console_tx, 1);
        virtio_driver_ok(&console);
    }
    if (virtio_find(&rng, VIRTIO_ID_RNG, 0)) {
        virtio_queue_setup(&rng, &rng_queue, 0);
        virtio_driver_ok(&rng);
    }
    has_disk = disk_open();
}

static void
report_found(void)
{
    out_begin();
    out_text("ready op=devices");
    out_text(net.address ? " net" : "");
    out_text(console.address ? " console" : "");
    out_text(rng.address ? " rng" : "");
    out_text(has_disk ? " disk" : "");
    out_end();
}

void
devices_run(void)
{
    const GuestParams *params = &header->params;
    uint64_t reported = 0;

    devices_open();
    report_found();
    if (params->net == GUEST_NET_SEND)
        net_meet_peer();
    for (uint64_t round = 0; params->rounds == 0 || round < params->rounds;) {
        round = params->net != GUEST_NET_NONE ? net_turn() : round + 1;
        if (params->report != 0 && round / params->report != reported) {
            reported = round / params->report;
            rng_exercise();
            console_exercise();
            disk_exercise();
            report_devices(round);
        }
        busy_wait(params->delay);
    }
    if (params->end != GUEST_END_RESET_WRITING)
        return;
    disk_leave();
    rng_exercise(); /* when it is done, the disk has been given its request, too */
}
