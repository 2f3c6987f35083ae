/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The lab's exec channel: frames on a stream socket
 *
 * One connection carries one command.  A frame is a type byte, a 32-bit
 * little-endian payload length and the payload:
 *
 *   agent → client  HELLO    the host's name; sent as soon as it has accepted
 *   client → agent  REQUEST  NUL-terminated strings, each led by a tag:
 *                            'd' working directory, 'e' NAME=VALUE,
 *                            'a' an argument, 'D' detach
 *   client → agent  STDIN    data; an empty one is end of file
 *   agent → client  STDOUT, STDERR  data
 *   agent → client  EXIT     one byte: exit status, 128 + N if signal N killed it
 *
 * A client that goes away before EXIT takes its command with it.
 */

#ifndef LAB_CHANNEL_H
#define LAB_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Largest payload of a frame; longer data is sent as several frames. */
#define CHANNEL_PAYLOAD_MAX ((size_t)1 << 20)

/** Above this many queued bytes a pump stops reading its source. */
#define CHANNEL_HIGH_WATER ((size_t)256 << 10)

enum channel_frame_type {
    CHANNEL_HELLO = 'H',
    CHANNEL_REQUEST = 'R',
    CHANNEL_STDIN = '0',
    CHANNEL_STDOUT = '1',
    CHANNEL_STDERR = '2',
    CHANNEL_EXIT = 'X',
};

/** A byte queue: data[start..end) is waiting. */
struct channel_buffer {
    uint8_t *data;
    size_t start;
    size_t end;
    size_t size;
};

/** A non-blocking stream socket with a queue each way. */
struct channel {
    int fd;
    bool closed; /**< the peer is gone: no more reads or writes */
    struct channel_buffer in;
    struct channel_buffer out;
};

/** One received frame; the payload is valid until the next channel_*() call. */
struct channel_frame {
    enum channel_frame_type type;
    const uint8_t *payload;
    size_t length;
};

/** Bytes waiting in @buffer. */
static inline size_t
channel_buffer_length(const struct channel_buffer *buffer)
{
    return buffer->end - buffer->start;
}

/** Append @length bytes to @buffer. Exits the process if memory runs out. */
void channel_buffer_append(struct channel_buffer *buffer, const void *data, size_t length);

/** Write what a non-blocking @fd takes of @buffer. Returns false if @fd is broken. */
bool channel_buffer_write(struct channel_buffer *buffer, int fd);

/** Wrap the connected socket @fd and make it non-blocking. */
void channel_init(struct channel *channel, int fd);

/** Read what has arrived; sets channel->closed at end of file or error. */
void channel_fill(struct channel *channel);

/** Send what the socket takes; sets channel->closed on error. */
void channel_flush(struct channel *channel);

/** Queue a frame; sends nothing by itself. @length is at most CHANNEL_PAYLOAD_MAX. */
void channel_put(struct channel *channel, enum channel_frame_type type, const void *payload,
                 size_t length);

/**
 * Take the next complete frame off the input queue.
 *
 * Returns false if there is none yet. A frame longer than CHANNEL_PAYLOAD_MAX
 * is a foreign peer: the channel is then marked closed.
 */
bool channel_next(struct channel *channel, struct channel_frame *frame);

/** Milliseconds of CLOCK_MONOTONIC. */
int64_t channel_now_ms(void);

#endif /* LAB_CHANNEL_H */
