/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The lab's exec channel: framing and buffering shared by lab-agent and lab-on
 */

#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME_HEADER_SIZE ((size_t)5)
#define READ_SIZE ((size_t)64 << 10)

/** Make room for @length more bytes at the end of @buffer. */
static void
channel_buffer_reserve(struct channel_buffer *buffer, size_t length)
{
    size_t used = channel_buffer_length(buffer);

    if (used == 0)
        buffer->start = buffer->end = 0;
    if (buffer->size - buffer->end >= length)
        return;
    if (buffer->start) {
        memmove(buffer->data, buffer->data + buffer->start, used);
        buffer->start = 0;
        buffer->end = used;
    }
    if (buffer->size - used < length) {
        size_t size = 2 * (used + length);
        uint8_t *data = realloc(buffer->data, size);

        if (!data) {
            fprintf(stderr, "lab: out of memory for a buffer of %zu bytes\n", size);
            exit(255);
        }
        buffer->data = data;
        buffer->size = size;
    }
}

void
channel_buffer_append(struct channel_buffer *buffer, const void *data, size_t length)
{
    if (!length)
        return;
    channel_buffer_reserve(buffer, length);
    memcpy(buffer->data + buffer->end, data, length);
    buffer->end += length;
}

bool
channel_buffer_write(struct channel_buffer *buffer, int fd)
{
    while (channel_buffer_length(buffer)) {
        ssize_t n = write(fd, buffer->data + buffer->start, channel_buffer_length(buffer));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        buffer->start += (size_t)n;
    }
    return true;
}

void
channel_init(struct channel *channel, int fd)
{
    *channel = (struct channel){.fd = fd};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void
channel_fill(struct channel *channel)
{
    ssize_t n;

    channel_buffer_reserve(&channel->in, READ_SIZE);
    n = recv(channel->fd, channel->in.data + channel->in.end, READ_SIZE, 0);
    if (n > 0)
        channel->in.end += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        channel->closed = true;
}

void
channel_flush(struct channel *channel)
{
    struct channel_buffer *out = &channel->out;

    while (channel_buffer_length(out) && !channel->closed) {
        ssize_t n =
            send(channel->fd, out->data + out->start, channel_buffer_length(out), MSG_NOSIGNAL);

        if (n >= 0)
            out->start += (size_t)n;
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR)
            channel->closed = true;
    }
}

void
channel_put(struct channel *channel, enum channel_frame_type type, const void *payload,
            size_t length)
{
    uint8_t header[FRAME_HEADER_SIZE] = {(uint8_t)type, (uint8_t)length, (uint8_t)(length >> 8),
                                         (uint8_t)(length >> 16), (uint8_t)(length >> 24)};

    channel_buffer_append(&channel->out, header, sizeof(header));
    channel_buffer_append(&channel->out, payload, length);
}

bool
channel_next(struct channel *channel, struct channel_frame *frame)
{
    struct channel_buffer *in = &channel->in;
    const uint8_t *header;
    size_t length;

    if (channel_buffer_length(in) < FRAME_HEADER_SIZE)
        return false;
    header = in->data + in->start;
    length = (size_t)header[1] | (size_t)header[2] << 8 | (size_t)header[3] << 16 |
             (size_t)header[4] << 24;
    if (length > CHANNEL_PAYLOAD_MAX) {
        channel->closed = true;
        return false;
    }
    if (channel_buffer_length(in) < FRAME_HEADER_SIZE + length)
        return false;
    *frame = (struct channel_frame){
        .type = header[0], .payload = header + FRAME_HEADER_SIZE, .length = length};
    in->start += FRAME_HEADER_SIZE + length;
    return true;
}

int64_t
channel_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
