/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ethernet frames over a stream unix socket, framed as QEMU's "-netdev stream": a 32-bit big-endian
 * length, then the frame. The link connects by itself and keeps trying every FRAME_LINK_RETRY_MS.
 *
 * At a cut (frame_link_stop) every frame is in exactly one place. Sending: a frame is either in the
 * socket whole, or in the pending part that the device saves. A frame that the socket has taken
 * half of is pending: a new connection sends it again from its first byte, the old one only the
 * rest. Receiving: the socket is read until it is empty; what is then half there belongs to the
 * sender, who by the same rule still has it whole. Only what a device that is full may not keep
 * stays unread: the guest gets it later, but not from this checkpoint, where it counts as lost on
 * the wire.
 *
 * All functions are called with the machine lock held; so are the callbacks, on the main thread.
 */
#ifndef DISTRICT_VMM_DEVICES_FRAME_LINK_H
#define DISTRICT_VMM_DEVICES_FRAME_LINK_H

#include "vmm/machine.h"

#include <glib.h>
#include <sys/uio.h>

#define FRAME_LINK_RETRY_MS 100
/* Largest frame: 64 KiB and an Ethernet header, what the switch takes too. */
#define FRAME_MAX (65536 + 14)
#define FRAME_HEADER_BYTES 4
/* No more frames are accepted while this much is waiting to be sent. */
#define FRAME_LINK_PENDING_MAX (128 * 1024)

typedef struct FrameLink FrameLink;

typedef struct FrameLinkOps {
    /* Will receive take another frame? */
    bool (*can_receive)(void *opaque);
    /* May one more frame be kept at a stop, when can_receive is not asked? */
    bool (*can_keep)(void *opaque);
    /* A frame of 1 to FRAME_MAX bytes. */
    void (*receive)(void *opaque, const uint8_t *frame, size_t len);
    /* After one or more receive calls: a good moment for one interrupt. */
    void (*received)(void *opaque);
    /* frame_link_send will accept again after it has refused. */
    void (*writable)(void *opaque);
} FrameLinkOps;

/* Does not connect before frame_link_start. Lives as long as the process; free is for tests. */
FrameLink *frame_link_new(Machine *m, const char *path, const FrameLinkOps *ops, void *opaque);
void frame_link_free(FrameLink *link);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FrameLink, frame_link_free)

/* Is there room for one more frame? If not, writable will be called when there is. */
bool frame_link_can_send(FrameLink *link);
/* Room for a frame of len bytes (1 to FRAME_MAX), to be filled at once. Sent by the next flush. */
uint8_t *frame_link_frame(FrameLink *link, size_t len);
/* Hand to the socket as much as it takes. */
void frame_link_flush(FrameLink *link);

/* can_receive has become true. */
void frame_link_receive_resume(FrameLink *link);

void frame_link_stop(FrameLink *link);
void frame_link_start(FrameLink *link);

/* While stopped: whole frames with their headers that are not in the socket. Owned by the link. */
const uint8_t *frame_link_pending(const FrameLink *link, size_t *len);
/* Check that data is such frames, and no more than can have been pending. */
bool frame_link_pending_valid(const uint8_t *data, size_t len);
void frame_link_set_pending(FrameLink *link, const uint8_t *data, size_t len);

bool frame_link_connected(const FrameLink *link);

#endif
