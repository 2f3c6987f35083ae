/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ethernet frames and bounded queues of them. */
#include "netproxy/frame.h"

#include <string.h>

Frame *
frame_new(const guint8 *data, gsize len, guint64 colour)
{
    Frame *frame = g_malloc(sizeof(Frame) + FRAME_PREFIX_BYTES + len);
    guint32 prefix = GUINT32_TO_BE((guint32)len);

    frame->refs = 1;
    frame->len = (guint32)len;
    frame->colour = colour;
    memcpy(frame->wire, &prefix, sizeof(prefix));
    memcpy(frame->wire + FRAME_PREFIX_BYTES, data, len);
    return frame;
}

Frame *
frame_ref(Frame *frame)
{
    frame->refs++;
    return frame;
}

void
frame_unref(Frame *frame)
{
    if (--frame->refs == 0)
        g_free(frame);
}

/* What a frame costs, with its place in the queue. */
static gsize
frame_bytes(const Frame *frame)
{
    return sizeof(Frame) + FRAME_PREFIX_BYTES + frame->len + sizeof(GList);
}

void
frame_queue_init(FrameQueue *queue, gsize bytes_max, guint frames_max)
{
    g_queue_init(&queue->frames);
    queue->bytes = 0;
    queue->bytes_max = bytes_max;
    queue->frames_max = frames_max;
}

gboolean
frame_queue_push(FrameQueue *queue, Frame *frame)
{
    gsize bytes = frame_bytes(frame);

    if (queue->frames.length >= queue->frames_max || bytes > queue->bytes_max - queue->bytes)
        return FALSE;
    queue->bytes += bytes;
    g_queue_push_tail(&queue->frames, frame_ref(frame));
    return TRUE;
}

Frame *
frame_queue_peek(const FrameQueue *queue)
{
    return queue->frames.head ? queue->frames.head->data : NULL;
}

Frame *
frame_queue_pop(FrameQueue *queue)
{
    Frame *frame = g_queue_pop_head(&queue->frames);

    if (frame)
        queue->bytes -= frame_bytes(frame);
    return frame;
}

void
frame_queue_clear(FrameQueue *queue)
{
    for (Frame *frame = frame_queue_pop(queue); frame; frame = frame_queue_pop(queue))
        frame_unref(frame);
}
