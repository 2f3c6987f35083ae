/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another host as districtd sees it: its links (one dialled per address, and those it dialled), and
 * requests over whichever of them is up.
 *
 * Messages, one JSON object each: {"method": NAME, "arguments": {...}, "id": N} asks, the same
 * without an id tells, {"id": N, "return": {...}} and {"id": N, "error": TEXT, "class": CLASS}
 * answer. An answer may come over another link than the question went.
 */
#include "control/daemon.h"
#include "control/hostlink.h"
#include "common/clock.h"

#include <string.h>
#include <unistd.h>

#define PEER_REACHABLE_NS (1000 * NS_PER_MS)
/* Most connections of one host, and most whose handshake is not done yet. */
#define PEER_ACCEPTED_MAX 8
#define HANDSHAKES_MAX 32
#define REFUSAL_QUIET_NS (60 * NS_PER_S)

struct Peer {
    Daemon *daemon;
    char *name;
    HostLink *dialled[2]; /* by address and by second address; NULL if there is none */
    GPtrArray *accepted;  /* of HostLink */
    GHashTable *calls;    /* id -> PeerCall */
    gint64 next_id;
    int64_t heard_ns; /* by links that are closed by now */
    gboolean was_up;
    char *last_error;
};

typedef struct PeerCall {
    Peer *peer;
    gint64 id;
    char *method;
    HostLink *link; /* over which it went; only compared */
    guint timer;
    PeerReply reply;
    gpointer data;
} PeerCall;

static guint handshakes; /* accepted connections that have not shown who they are */

static void link_up(HostLink *link, const char *name, gpointer data);
static void link_message(HostLink *link, JsonObject *message, gpointer data);
static void link_down(HostLink *link, const char *why, gpointer data);
static const HostLinkOps peer_ops = {link_up, link_message, link_down};

static void
call_free(gpointer data)
{
    PeerCall *call = data;

    if (call->timer != 0)
        g_source_remove(call->timer);
    g_free(call->method);
    g_free(call);
}

Peer *
peer_new(Daemon *daemon, const Host *host)
{
    Peer *peer = g_new0(Peer, 1);
    const char *pki = daemon->config->pki_dir;

    peer->daemon = daemon;
    peer->name = g_strdup(host->name);
    peer->accepted = g_ptr_array_new_with_free_func((GDestroyNotify)hostlink_close);
    peer->calls = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, call_free);
    peer->dialled[0] = hostlink_dial(pki, host->name, host->address, host->port, &peer_ops, peer);
    if (host->second_address != NULL)
        peer->dialled[1] =
            hostlink_dial(pki, host->name, host->second_address, host->port, &peer_ops, peer);
    return peer;
}

/* Take call out of the table and answer it. */
static void
call_finish(PeerCall *call, JsonObject *answer, const GError *error)
{
    g_hash_table_steal(call->peer->calls, &call->id);
    call->reply(answer, error, call->data);
    call_free(call);
}

/* Fail what went over link (NULL: all): the answer may be lost with it. */
static void
peer_fail_calls(Peer *peer, const HostLink *link)
{
    g_autoptr(GError) error =
        g_error_new(CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                    "host %s: the connection was lost: see district host list", peer->name);
    g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(gint64));
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, peer->calls);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const PeerCall *call = value;
        if (link == NULL || call->link == link)
            g_array_append_val(ids, call->id);
    }
    /* By number: an answer may end or make others. */
    for (guint i = 0; i < ids->len; i++) {
        PeerCall *call = g_hash_table_lookup(peer->calls, &g_array_index(ids, gint64, i));
        if (call != NULL)
            call_finish(call, NULL, error);
    }
}

void
peer_free(Peer *peer)
{
    if (peer == NULL)
        return;
    hostlink_close(peer->dialled[0]);
    hostlink_close(peer->dialled[1]);
    g_ptr_array_unref(peer->accepted);
    peer_fail_calls(peer, NULL);
    g_hash_table_unref(peer->calls);
    g_free(peer->last_error);
    g_free(peer->name);
    g_free(peer);
}

const char *
peer_name(const Peer *peer)
{
    return peer->name;
}

Daemon *
peer_daemon(const Peer *peer)
{
    return peer->daemon;
}

typedef void (*LinkVisit)(HostLink *link, gpointer data);

static void
peer_visit_links(const Peer *peer, LinkVisit visit, gpointer data)
{
    for (int i = 0; i < 2; i++) {
        if (peer->dialled[i] != NULL)
            visit(peer->dialled[i], data);
    }
    for (guint i = 0; i < peer->accepted->len; i++)
        visit(peer->accepted->pdata[i], data);
}

static void
visit_heard(HostLink *link, gpointer data)
{
    int64_t *latest = data;

    *latest = MAX(*latest, hostlink_heard_ns(link));
}

int64_t
peer_heard_ns(const Peer *peer)
{
    int64_t latest = peer->heard_ns;

    peer_visit_links(peer, visit_heard, &latest);
    return latest;
}

static void
visit_count(HostLink *link, gpointer data)
{
    *(guint *)data += hostlink_is_up(link) ? 1 : 0;
}

guint
peer_links_up(const Peer *peer)
{
    guint up = 0;

    peer_visit_links(peer, visit_count, &up);
    return up;
}

gboolean
peer_reachable(const Peer *peer)
{
    return peer_links_up(peer) > 0 &&
           clock_monotonic_ns() - peer_heard_ns(peer) < PEER_REACHABLE_NS;
}

/* The link that was heard last is the one most likely to get through. */
static void
visit_best(HostLink *link, gpointer data)
{
    HostLink **best = data;

    if (hostlink_is_up(link) &&
        (*best == NULL || hostlink_heard_ns(link) > hostlink_heard_ns(*best)))
        *best = link;
}

/* Returns the link it went over, NULL if none is up. */
static HostLink *
peer_send(Peer *peer, JsonObject *message)
{
    HostLink *best = NULL;

    peer_visit_links(peer, visit_best, &best);
    if (best != NULL)
        hostlink_send(best, message);
    return best;
}

static gboolean
on_call_timeout(gpointer data)
{
    PeerCall *call = data;
    g_autoptr(GError) error =
        g_error_new(CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                    "host %s: no answer to %s: is it up? see district host list", call->peer->name,
                    call->method);

    call->timer = 0;
    call_finish(call, NULL, error);
    return G_SOURCE_REMOVE;
}

void
peer_request(Peer *peer, const char *method, JsonObject *arguments, int timeout_ms, PeerReply reply,
             gpointer data)
{
    g_autoptr(JsonObject) message = json_object_new();
    PeerCall *call = g_new0(PeerCall, 1);

    call->peer = peer;
    call->id = ++peer->next_id;
    call->method = g_strdup(method);
    call->reply = reply;
    call->data = data;
    g_hash_table_insert(peer->calls, &call->id, call);
    json_object_set_string_member(message, "method", method);
    json_object_set_object_member(message, "arguments", arguments);
    json_object_set_int_member(message, "id", call->id);
    /* Unreachable: say so soon, but not from inside this call. */
    call->link = peer_send(peer, message);
    call->timer = g_timeout_add(call->link ? (guint)timeout_ms : 1, on_call_timeout, call);
}

void
peer_note(Peer *peer, const char *method, JsonObject *arguments)
{
    g_autoptr(JsonObject) message = json_object_new();

    json_object_set_string_member(message, "method", method);
    json_object_set_object_member(message, "arguments", arguments);
    peer_send(peer, message);
}

void
peer_answer(Daemon *daemon, const char *host, gint64 id, JsonObject *result, const GError *error)
{
    Peer *peer = g_hash_table_lookup(daemon->peers, host);
    g_autoptr(JsonObject) message = json_object_new();

    if (peer == NULL || id == 0)
        return;
    json_object_set_int_member(message, "id", id);
    if (error != NULL) {
        json_object_set_string_member(message, "error", error->message);
        json_object_set_string_member(message, "class", control_error_class(error));
    } else {
        json_object_set_object_member(message, "return",
                                      result != NULL ? json_object_ref(result) : json_object_new());
    }
    peer_send(peer, message);
}

/* ---- Links ---- */

static void
handle_answer(Peer *peer, gint64 id, JsonObject *message)
{
    PeerCall *call = g_hash_table_lookup(peer->calls, &id);
    const char *text = json_get_string(message, "error", NULL);
    g_autoptr(GError) error = NULL;

    if (call == NULL)
        return;
    if (text != NULL)
        error = g_error_new(CONTROL_ERROR,
                            (gint)control_error_of_peer(json_get_string(message, "class", NULL)),
                            "host %s: %.1000s", peer->name, text);
    call_finish(call, error != NULL ? NULL : json_get_object(message, "return"), error);
}

static void
link_message(HostLink *link, JsonObject *message, gpointer data)
{
    Peer *peer = data;
    const char *method = json_get_string(message, "method", NULL);
    gint64 id = json_get_int(message, "id", 0);
    JsonObject *arguments = json_get_object(message, "arguments");

    if (method == NULL)
        handle_answer(peer, id, message);
    else if (arguments != NULL)
        exchange_handle(peer, method, arguments, id);
}

static void
link_up(HostLink *link, const char *name, gpointer data)
{
    Peer *peer = data;

    g_clear_pointer(&peer->last_error, g_free);
    if (!peer->was_up)
        daemon_event(peer->daemon, "host-up", peer->name, "connected");
    peer->was_up = TRUE;
    exchange_peer_up(peer, hostlink_remote_address(link));
}

static void
link_down(HostLink *link, const char *why, gpointer data)
{
    Peer *peer = data;

    peer->heard_ns = MAX(peer->heard_ns, hostlink_heard_ns(link));
    if (g_strcmp0(peer->last_error, why) != 0)
        g_message("host %s: %s", peer->name, why);
    g_free(peer->last_error);
    peer->last_error = g_strdup(why);
    g_ptr_array_remove_fast(peer->accepted, link); /* closes it; no-op for a dialled one */
    if (peer_links_up(peer) == 0 && peer->was_up) {
        peer->was_up = FALSE;
        daemon_event(peer->daemon, "host-down", peer->name, "no connection: %s", why);
    }
    peer_fail_calls(peer, link);
}

/* ---- Accepted connections: the daemon's until it is known whose they are ---- */

/* A host that keeps trying is worth one line a minute. */
static gboolean
refusal_is_news(const char *from, const char *why)
{
    static char *last;
    static int64_t told_ns;
    g_autofree char *now = g_strdup_printf("%s %s", from, why);

    if (g_strcmp0(last, now) == 0 && clock_monotonic_ns() - told_ns < REFUSAL_QUIET_NS)
        return FALSE;
    g_free(last);
    last = g_steal_pointer(&now);
    told_ns = clock_monotonic_ns();
    return TRUE;
}

static void
newcomer_up(HostLink *link, const char *name, gpointer data)
{
    Daemon *daemon = data;
    Peer *peer = name != NULL ? g_hash_table_lookup(daemon->peers, name) : NULL;

    handshakes--;
    if (peer == NULL || peer->accepted->len >= PEER_ACCEPTED_MAX) {
        const char *why = peer == NULL ? "its certificate is good but the host is not known here: "
                                         "district host add"
                                       : "too many connections from this host";
        if (refusal_is_news(name != NULL ? name : "?", why))
            daemon_event(daemon, "refused", name != NULL ? name : "?", "connection from %s: %s",
                         hostlink_remote_address(link), why);
        hostlink_close(link);
        return;
    }
    hostlink_set_ops(link, &peer_ops, peer);
    g_ptr_array_add(peer->accepted, link);
    link_up(link, name, peer);
}

static void
newcomer_message(HostLink *link, JsonObject *message, gpointer data)
{
    /* By now it is a peer's, or closed; whoever speaks all the same is not listened to. */
    hostlink_close(link);
}

static void
newcomer_down(HostLink *link, const char *why, gpointer data)
{
    Daemon *daemon = data;
    const char *from = hostlink_remote_address(link);

    handshakes--;
    if (refusal_is_news(from, why))
        daemon_event(daemon, "refused", from, "%s", why);
    hostlink_close(link);
}

static const HostLinkOps newcomer_ops = {newcomer_up, newcomer_message, newcomer_down};

void
daemon_accept_control(Daemon *daemon, int fd)
{
    if (handshakes >= HANDSHAKES_MAX) {
        close(fd);
        return;
    }
    handshakes++;
    hostlink_accept(daemon->config->pki_dir, fd, &newcomer_ops, daemon);
}
