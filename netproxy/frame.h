/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ethernet frames in the switch: shared between queues by reference, never changed once made. */
#ifndef DISTRICT_NETPROXY_FRAME_H
#define DISTRICT_NETPROXY_FRAME_H

#include <glib.h>

/* Shortest and longest frame accepted anywhere, bytes: an Ethernet header; 64 KiB plus one. */
#define FRAME_BYTES_MIN 14
#define FRAME_BYTES_MAX 65550
/* QEMU's `-netdev stream` puts the length before each frame, 32 bits, big-endian. */
#define FRAME_PREFIX_BYTES 4

/* Colour of a frame that no member sent: from the outside, or made by the switch itself. */
#define FRAME_COLOUR_NONE G_MAXUINT64

typedef struct Frame {
    guint refs;
    guint32 len;    /* bytes of the frame, without the prefix */
    guint64 colour; /* number of the last cut its sender had undergone; FRAME_COLOUR_NONE */
    guint8 wire[];  /* prefix and frame, as they go to a member's socket */
} Frame;

/* A copy of data (len within the limits above), with one reference. */
Frame *frame_new(const guint8 *data, gsize len, guint64 colour);
Frame *frame_ref(Frame *frame);
void frame_unref(Frame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Frame, frame_unref)

static inline const guint8 *
frame_data(const Frame *frame)
{
    return frame->wire + FRAME_PREFIX_BYTES;
}

/* First in, first out, bounded in bytes and in frames. Holds a reference to each frame. */
typedef struct FrameQueue {
    GQueue frames;
    gsize bytes; /* memory of the frames in it */
    gsize bytes_max;
    guint frames_max;
} FrameQueue;

void frame_queue_init(FrameQueue *queue, gsize bytes_max, guint frames_max);
/* Append, taking a reference of its own. FALSE: full, nothing was done. */
gboolean frame_queue_push(FrameQueue *queue, Frame *frame);
/* The oldest frame, still owned by the queue; NULL if empty. */
Frame *frame_queue_peek(const FrameQueue *queue);
/* Remove the oldest frame; the reference passes to the caller. NULL if empty. */
Frame *frame_queue_pop(FrameQueue *queue);
void frame_queue_clear(FrameQueue *queue);

#endif
