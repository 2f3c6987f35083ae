/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One control connection between two hosts' districtd.
 *
 * The main thread and the link's thread share: outgoing (an async queue of lines), wake (an eventfd
 * that says there are some, or that it is time to stop, or to read on), stop, heard_ns and waiting
 * (atomics). Everything else belongs to the thread that made it. The thread's news travel as idle
 * sources of the default main context, in order; is_up and closed are only ever touched there. A peer
 * that says more than the main thread takes in is not read from, and has to wait.
 */
#include "control/hostlink.h"
#include "control/apiparse.h"
#include "control/json.h"
#include "common/clock.h"
#include "common/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_MS 250
#define SEND_TIMEOUT_MS 2000
#define OUTGOING_MAX 4096
/* Most messages that wait for the main thread; a long one counts for several. */
#define WAITING_MAX 64
#define WAITING_BYTES 16384

struct HostLink {
    gatomicrefcount refs;
    const HostLinkOps *ops;
    gpointer data;
    char *pki_dir;
    char *peer; /* NULL: accepted, whoever the certificate says */
    char *address;
    char *remote;
    uint16_t port;
    int accepted_fd; /* -1 for a dialling link */
    int wake;
    gint stop;
    gint64 heard_ns;
    gint waiting;          /* at least WAITING_MAX: nothing more is taken */
    GAsyncQueue *outgoing; /* of char *, lines */
    gboolean is_up;
    gboolean closed;
};

typedef enum { NEWS_UP, NEWS_MESSAGE, NEWS_DOWN } NewsKind;

typedef struct News {
    HostLink *link;
    NewsKind kind;
    char *text;
    JsonObject *message;
    gint weight; /* of waiting */
} News;

static HostLink *
hostlink_ref(HostLink *link)
{
    g_atomic_ref_count_inc(&link->refs);
    return link;
}

static void
hostlink_unref(HostLink *link)
{
    if (!g_atomic_ref_count_dec(&link->refs))
        return;
    g_free(link->pki_dir);
    g_free(link->peer);
    g_free(link->address);
    g_free(link->remote);
    if (link->accepted_fd >= 0)
        close(link->accepted_fd);
    close(link->wake);
    g_async_queue_unref(link->outgoing);
    g_free(link);
}

static void
news_free(gpointer data)
{
    News *news = data;
    HostLink *link = news->link;
    gint before = g_atomic_int_add(&link->waiting, -news->weight);

    if (before >= WAITING_MAX && before - news->weight < WAITING_MAX)
        eventfd_write(link->wake, 1);
    hostlink_unref(link);
    g_free(news->text);
    if (news->message != NULL)
        json_object_unref(news->message);
    g_free(news);
}

static gboolean
news_deliver(gpointer data)
{
    News *news = data;
    HostLink *link = news->link;

    if (link->closed)
        return G_SOURCE_REMOVE;
    switch (news->kind) {
    case NEWS_UP:
        link->is_up = TRUE;
        link->ops->up(link, news->text, link->data);
        break;
    case NEWS_MESSAGE:
        link->ops->message(link, news->message, link->data);
        break;
    case NEWS_DOWN:
        link->is_up = FALSE;
        link->ops->down(link, news->text, link->data);
        break;
    }
    return G_SOURCE_REMOVE;
}

static void
news_send(HostLink *link, News news)
{
    News *sent = g_new(News, 1);

    *sent = news;
    sent->link = hostlink_ref(link);
    g_main_context_invoke_full(NULL, G_PRIORITY_DEFAULT, news_deliver, sent, news_free);
}

static void
news_post(HostLink *link, NewsKind kind, const char *text)
{
    news_send(link, (News){.kind = kind, .text = g_strdup(text)});
}

/* bytes: of its line. */
static void
news_post_message(HostLink *link, JsonObject *message, gsize bytes)
{
    gint weight = 1 + (gint)(bytes / WAITING_BYTES);

    g_atomic_int_add(&link->waiting, weight);
    news_send(link, (News){.kind = NEWS_MESSAGE, .message = message, .weight = weight});
}

static gboolean
is_full(HostLink *link)
{
    return g_atomic_int_get(&link->waiting) >= WAITING_MAX;
}

static gboolean
should_stop(HostLink *link)
{
    return g_atomic_int_get(&link->stop) != 0;
}

static void
heard_now(HostLink *link)
{
    __atomic_store_n(&link->heard_ns, clock_monotonic_ns(), __ATOMIC_RELAXED);
}

/* Split what has arrived into lines, as far as they are taken; an empty line is a heartbeat. */
static gboolean
take_lines(HostLink *link, GByteArray *buffer, GError **error)
{
    gsize start = 0;
    const char *newline = NULL;
    gboolean full = FALSE;

    while (start < buffer->len && !(full = is_full(link)) &&
           (newline = memchr(buffer->data + start, '\n', buffer->len - start)) != NULL) {
        gsize len = (gsize)(newline - (char *)buffer->data) - start;
        if (len > 0) {
            JsonObject *message = json_parse_object((char *)buffer->data + start, len, error);
            if (message == NULL)
                return FALSE;
            news_post_message(link, message, len);
        }
        start += len + 1;
    }
    if (start > 0)
        g_byte_array_remove_range(buffer, 0, (guint)start);
    if (full || buffer->len <= API_LINE_MAX)
        return TRUE;
    g_set_error(error, TLS_ERROR, TLS_ERROR_PEER, "sent a line longer than %d bytes", API_LINE_MAX);
    return FALSE;
}

static gboolean
receive_some(HostLink *link, TlsChannel *channel, GByteArray *buffer, GError **error)
{
    guint8 chunk[16384];
    g_autoptr(GError) why = NULL;
    gssize n = tls_channel_recv_some(channel, chunk, sizeof(chunk), 50, &why);

    if (n < 0) {
        if (g_error_matches(why, TLS_ERROR, TLS_ERROR_TIMEOUT))
            return TRUE; /* a record that carried no data, or only part of one */
        g_propagate_error(error, g_steal_pointer(&why));
        return FALSE;
    }
    heard_now(link);
    g_byte_array_append(buffer, chunk, (guint)n);
    return TRUE;
}

static gboolean
send_queued(HostLink *link, TlsChannel *channel, GError **error)
{
    eventfd_t count = 0;
    char *line = NULL;

    eventfd_read(link->wake, &count);
    while ((line = g_async_queue_try_pop(link->outgoing)) != NULL) {
        gboolean good = tls_channel_send(channel, line, strlen(line), SEND_TIMEOUT_MS, error);
        g_free(line);
        if (!good)
            return FALSE;
    }
    return TRUE;
}

/* Wait for wait_ms at most; then send what is to be sent, and receive into buffer, unless it is NULL. */
static gboolean
talk(HostLink *link, TlsChannel *channel, GByteArray *buffer, int wait_ms, GError **error)
{
    gboolean pending = buffer != NULL && tls_channel_pending(channel) > 0;
    struct pollfd fds[] = {{buffer != NULL ? tls_channel_fd(channel) : -1, POLLIN, 0},
                           {link->wake, POLLIN, 0}};

    poll(fds, 2, pending ? 0 : wait_ms);
    if ((fds[1].revents & POLLIN) && !send_queued(link, channel, error))
        return FALSE;
    return (fds[0].revents == 0 && !pending) || receive_some(link, channel, buffer, error);
}

/* Talk until something goes wrong or the link is closed. */
static gboolean
converse(HostLink *link, TlsChannel *channel, GError **error)
{
    g_autoptr(GByteArray) buffer = g_byte_array_new();
    int64_t next_beat = 0, deaf_ns = 0;

    while (!should_stop(link)) {
        int64_t now = clock_monotonic_ns();
        if (now >= next_beat) {
            if (!tls_channel_send(channel, "\n", 1, SEND_TIMEOUT_MS, error))
                return FALSE;
            next_beat = now + HOSTLINK_BEAT_MS * NS_PER_MS;
        }
        if (!take_lines(link, buffer, error))
            return FALSE;
        gboolean full = is_full(link);
        int wait = (int)((next_beat - now) / NS_PER_MS) + 1;
        if (!talk(link, channel, full ? NULL : buffer, wait, error))
            return FALSE;
        now = clock_monotonic_ns();
        if (full)
            deaf_ns = now; /* who is not read from is not silent */
        if (now - MAX(hostlink_heard_ns(link), deaf_ns) > HOSTLINK_SILENCE_MS * NS_PER_MS) {
            g_set_error(error, TLS_ERROR, TLS_ERROR_TIMEOUT, "silent for %d ms",
                        HOSTLINK_SILENCE_MS);
            return FALSE;
        }
    }
    g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "closed");
    return FALSE;
}

static TlsChannel *
open_channel(HostLink *link, GError **error)
{
    g_autoptr(TlsIdentity) identity = tls_identity_load(link->pki_dir, error);
    int fd = link->accepted_fd;

    if (identity == NULL)
        return NULL;
    if (link->peer == NULL) {
        link->accepted_fd = -1;
        return tls_channel_server(identity, fd, NULL, HOSTLINK_HANDSHAKE_MS, error);
    }
    fd = tls_tcp_connect(link->address, link->port, HOSTLINK_HANDSHAKE_MS, error);
    if (fd < 0)
        return NULL;
    if (!tls_preamble_send(fd, "control", "-", HOSTLINK_HANDSHAKE_MS, error)) {
        close(fd);
        return NULL;
    }
    return tls_channel_client(identity, fd, link->peer, HOSTLINK_HANDSHAKE_MS, error);
}

/* Drop lines queued for a connection that has ended. */
static void
drop_queued(HostLink *link)
{
    char *line = NULL;

    while ((line = g_async_queue_try_pop(link->outgoing)) != NULL)
        g_free(line);
}

static void
run_once(HostLink *link)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsChannel) channel = open_channel(link, &error);

    if (channel != NULL) {
        heard_now(link);
        news_post(link, NEWS_UP, tls_channel_peer_name(channel));
        converse(link, channel, &error);
    }
    drop_queued(link);
    news_post(link, NEWS_DOWN, error->message);
}

static gpointer
hostlink_thread(gpointer data)
{
    HostLink *link = data;

    do {
        run_once(link);
        struct pollfd wake = {link->wake, POLLIN, 0};
        if (link->peer != NULL && !should_stop(link))
            poll(&wake, 1, RETRY_MS);
        eventfd_t count = 0;
        eventfd_read(link->wake, &count);
    } while (link->peer != NULL && !should_stop(link));
    hostlink_unref(link);
    return NULL;
}

static HostLink *
hostlink_new(const char *pki_dir, const HostLinkOps *ops, gpointer data)
{
    HostLink *link = g_new0(HostLink, 1);

    g_atomic_ref_count_init(&link->refs);
    link->ops = ops;
    link->data = data;
    link->pki_dir = g_strdup(pki_dir);
    link->accepted_fd = -1;
    link->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    link->outgoing = g_async_queue_new_full(g_free);
    return link;
}

static void
hostlink_start(HostLink *link)
{
    g_thread_unref(g_thread_new("hostlink", hostlink_thread, hostlink_ref(link)));
}

HostLink *
hostlink_dial(const char *pki_dir, const char *peer, const char *address, uint16_t port,
              const HostLinkOps *ops, gpointer data)
{
    HostLink *link = hostlink_new(pki_dir, ops, data);

    link->peer = g_strdup(peer);
    link->address = g_strdup(address);
    link->port = port;
    hostlink_start(link);
    return link;
}

static char *
socket_remote_address(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof(peer);
    char text[INET6_ADDRSTRLEN] = "";

    if (getpeername(fd, (struct sockaddr *)&peer, &len) != 0)
        return g_strdup("");
    if (peer.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&peer)->sin_addr, text, sizeof(text));
    else if (peer.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&peer)->sin6_addr, text, sizeof(text));
    return g_strdup(text);
}

HostLink *
hostlink_accept(const char *pki_dir, int fd, const HostLinkOps *ops, gpointer data)
{
    HostLink *link = hostlink_new(pki_dir, ops, data);

    link->accepted_fd = fd;
    link->remote = socket_remote_address(fd);
    hostlink_start(link);
    return link;
}

void
hostlink_set_ops(HostLink *link, const HostLinkOps *ops, gpointer data)
{
    link->ops = ops;
    link->data = data;
}

void
hostlink_send(HostLink *link, JsonObject *message)
{
    /* A peer that reads nothing is found by its silence; until then memory is bounded. */
    if (!link->is_up || g_async_queue_length(link->outgoing) > OUTGOING_MAX)
        return;
    g_async_queue_push(link->outgoing, json_to_line(message));
    eventfd_write(link->wake, 1);
}

gboolean
hostlink_is_up(HostLink *link)
{
    return link->is_up;
}

int64_t
hostlink_heard_ns(HostLink *link)
{
    return __atomic_load_n(&link->heard_ns, __ATOMIC_RELAXED);
}

const char *
hostlink_remote_address(HostLink *link)
{
    return link->remote;
}

void
hostlink_close(HostLink *link)
{
    if (link == NULL)
        return;
    link->closed = TRUE;
    link->is_up = FALSE;
    g_atomic_int_set(&link->stop, 1);
    eventfd_write(link->wake, 1);
    hostlink_unref(link);
}
