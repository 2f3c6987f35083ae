/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The coordinator's inbox: a queue and an eventfd. */
#include "ckpt/inbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

struct Inbox {
    GAsyncQueue *queue;
    int event_fd;
};

Inbox *
inbox_new(void)
{
    Inbox *inbox = g_new0(Inbox, 1);

    inbox->queue = g_async_queue_new();
    inbox->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return inbox;
}

void
inbox_free(Inbox *inbox)
{
    InboxMessage *message;

    while ((message = inbox_take(inbox))) {
        g_clear_error(&message->error);
        g_free(message);
    }
    g_async_queue_unref(inbox->queue);
    close(inbox->event_fd);
    g_free(inbox);
}

void
inbox_wake(Inbox *inbox)
{
    /* Fails only if the counter is full, and then the coordinator is awake anyway. */
    eventfd_write(inbox->event_fd, 1);
}

void
inbox_post(Inbox *inbox, const InboxMessage *message)
{
    g_async_queue_push(inbox->queue, g_memdup2(message, sizeof(*message)));
    inbox_wake(inbox);
}

int
inbox_fd(Inbox *inbox)
{
    return inbox->event_fd;
}

InboxMessage *
inbox_take(Inbox *inbox)
{
    InboxMessage *message = g_async_queue_try_pop(inbox->queue);
    eventfd_t ignored;

    if (message)
        return message;
    /* Clear first, then look again: a post between the two is not lost. */
    eventfd_read(inbox->event_fd, &ignored);
    return g_async_queue_try_pop(inbox->queue);
}
