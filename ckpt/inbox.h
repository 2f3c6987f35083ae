/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The coordinator's inbox: what other threads (control server, sinks) tell the coordinator thread.
 * Any thread posts; only the coordinator takes. An eventfd makes it part of the coordinator's poll.
 */
#ifndef DISTRICT_CKPT_INBOX_H
#define DISTRICT_CKPT_INBOX_H

#include <glib.h>
#include <stdint.h>

struct ControlRequest;

typedef enum {
    INBOX_CONTROL,        /* request: a client's request, ownership passes */
    INBOX_SINK_UP,        /* sink is open; number: the epoch its peer holds, 0 for none */
    INBOX_SINK_ACK,       /* number: the epoch that the standby has committed */
    INBOX_SINK_JOURNAL,   /* number: JOURNAL records up to this one are durable at the standby */
    INBOX_SINK_CLOSED,    /* error: why; the sink takes nothing any more */
    INBOX_SINK_FINISHED,  /* everything queued is out and safe; number: bytes written */
    INBOX_DURABLE_DONE,   /* number: the checkpoint in the store that was committed */
    INBOX_DURABLE_FAILED, /* error: why the store cannot be written; it is tried again */
    INBOX_DURABLE_HOME,   /* homes have caught up: durable_home_below */
    INBOX_LOADED,         /* memory has been read from the store */
    INBOX_LOAD_FAILED,    /* error: why it cannot be */
    INBOX_COPIED,         /* the thread that copies journals has done what it was at */
} InboxKind;

typedef struct InboxMessage {
    InboxKind kind;
    uint64_t sink_id; /* sinks come and go: a message of one that has gone is dropped */
    uint64_t number;
    GError *error;                  /* owned */
    struct ControlRequest *request; /* owned by whoever takes the message */
} InboxMessage;

typedef struct Inbox Inbox;
Inbox *inbox_new(void);
/* Messages left are dropped, requests in them are not answered. */
void inbox_free(Inbox *inbox);

/* Post a copy of message; ownership of error and request passes. */
void inbox_post(Inbox *inbox, const InboxMessage *message);

/* Only wake the coordinator: there is room again somewhere. */
void inbox_wake(Inbox *inbox);

/* The fd to poll for reading, and the next message or NULL (which also clears the fd). Free the
 * message with g_free after its error and request. */
int inbox_fd(Inbox *inbox);
InboxMessage *inbox_take(Inbox *inbox);

#endif
