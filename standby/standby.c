/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-standby's main object.
 *
 * Theory of operation. The main thread owns all of this: phase, streams, the silence timer, the
 * control socket's requests. A stream lives on its own threads and sends news here; at most one has
 * its turn and writes to the shadow, and it loses the turn only by having ended. So while the main
 * thread activates or adopts, with no stream left, the shadow is its alone.
 *
 * Silence counts from the last sign of life of a stream that had its turn, and goes on counting
 * when that stream is lost: a host that died says nothing, a process that died loses its
 * connection, and districtd judges both. A goodbye stops it.
 */
#include "standby/standby.h"

#include "common/clock.h"
#include "common/fdmsg.h"
#include "common/trace.h"
#include "standby/control.h"
#include "standby/error.h"
#include "standby/journals.h"
#include "standby/stream.h"

#include <unistd.h>

/* Streams at once, most of them in their handshake: a bound on what strangers can take. */
#define STREAMS_MAX 8
/* Longest wait at activation for the last committed epoch to be in the images and durable on disk.
 */
#define SETTLE_TIMEOUT_MS 10000

struct Standby {
    char *name;
    char *host;
    TlsIdentity *identity;
    GMainLoop *loop;
    Control *control;
    Keeper *keeper;
    StandbyPhase phase;

    GPtrArray *streams; /* of Stream, oldest first; each holds a reference */
    Stream *current;    /* the one that has its turn, NULL if there is none */
    char *last_peer;
    char *last_error;
    uint64_t last_incarnation;
    uint64_t past_bytes, past_epochs; /* of streams that have ended */

    uint32_t silence_ms;
    guint silence_source;
    int64_t heard_ns; /* 0: silence does not count */
    bool silent;
};

/* Allowed moves, by phase: bits of the next. */
static const unsigned moves[STANDBY_N_PHASES] = {
    [STANDBY_EMPTY] = 1u << STANDBY_HOLDING,
    [STANDBY_HOLDING] = 1u << STANDBY_HANDING,
    [STANDBY_HANDING] = 1u << STANDBY_HANDED | 1u << STANDBY_HOLDING,
    [STANDBY_HANDED] = 1u << STANDBY_HOLDING,
};

static const char *const phase_names[STANDBY_N_PHASES] = {
    [STANDBY_EMPTY] = "empty",
    [STANDBY_HOLDING] = "holding",
    [STANDBY_HANDING] = "handing over",
    [STANDBY_HANDED] = "handed over",
};

static void
standby_move(Standby *standby, StandbyPhase next)
{
    if (next == standby->phase)
        return;
    if (!(moves[standby->phase] & 1u << next))
        g_critical("no move from %s to %s", phase_names[standby->phase], phase_names[next]);
    g_debug("now %s", phase_names[next]);
    standby->phase = next;
}

/* ---- Silence ---- */

static int64_t
last_heard(const Standby *standby)
{
    return standby->current != NULL ? stream_heard_ns(standby->current) : standby->heard_ns;
}

static void silence_arm(Standby *standby);

static gboolean
on_silence_timer(gpointer data)
{
    Standby *standby = data;

    standby->silence_source = 0;
    silence_arm(standby);
    return G_SOURCE_REMOVE;
}

/* Raise SILENT if it is due, else look again when it may be. */
static void
silence_arm(Standby *standby)
{
    int64_t heard = last_heard(standby), left_ns;

    g_clear_handle_id(&standby->silence_source, g_source_remove);
    if (standby->silence_ms == 0 || heard == 0 || standby->silent)
        return;
    left_ns = heard + standby->silence_ms * NS_PER_MS - clock_monotonic_ns();
    if (left_ns > 0) {
        standby->silence_source = g_timeout_add_full(
            G_PRIORITY_HIGH, (guint)(left_ns / NS_PER_MS) + 1, on_silence_timer, standby, NULL);
        return;
    }
    standby->silent = true;
    if (standby->current != NULL)
        stream_ask_heard(standby->current);
    control_send_event(standby->control, DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_SILENT,
                       standby->last_peer, keeper_status(standby->keeper).committed_epoch,
                       standby->last_incarnation, NULL, 0);
}

static void
heard_again(Standby *standby)
{
    if (standby->silent) {
        standby->silent = false;
        control_send_event(standby->control, DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HEARD,
                           standby->last_peer, keeper_status(standby->keeper).committed_epoch,
                           standby->last_incarnation, NULL, 0);
    }
    silence_arm(standby);
}

/* ---- Streams ---- */

/* End stream and tell districtd. */
static void
close_stream(Standby *standby, Stream *stream)
{
    bool lost;

    stream_stop(stream);
    lost = stream_was_connected(stream);
    standby->past_bytes += stream_received_bytes(stream);
    standby->past_epochs += stream_epochs(stream);
    if (stream == standby->current) {
        standby->current = NULL;
        standby->heard_ns = stream_said_goodbye(stream) ? 0 : stream_heard_ns(stream);
        silence_arm(standby);
    }
    g_free(standby->last_error);
    standby->last_error = g_strdup(stream_outcome(stream));
    g_message("stream from %s: %s", stream_peer(stream), stream_outcome(stream));
    control_send_event(standby->control,
                       lost ? DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_LOST
                            : DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_REFUSED,
                       stream_outcome(stream), keeper_status(standby->keeper).committed_epoch,
                       stream_incarnation(stream), NULL, 0);
    g_ptr_array_remove(standby->streams, stream);
}

static void
close_all_streams(Standby *standby)
{
    while (standby->streams->len > 0)
        close_stream(standby, g_ptr_array_index(standby->streams, 0));
}

static void
give_turn(Standby *standby, Stream *stream)
{
    if (standby->current != NULL)
        close_stream(standby, standby->current);
    standby->current = stream;
    g_free(standby->last_peer);
    standby->last_peer = g_strdup(stream_peer(stream));
    standby->last_incarnation = stream_incarnation(stream);
    stream_give_turn(stream);
    heard_again(standby);
}

static void
on_stream_news(Stream *stream, StreamNews news, gpointer opaque)
{
    Standby *standby = opaque;
    KeeperStatus held = keeper_status(standby->keeper);

    if (!g_ptr_array_find(standby->streams, stream, NULL))
        return; /* closed while the news was on its way */
    switch (news) {
    case STREAM_NEWS_WAITING:
        give_turn(standby, stream);
        break;
    case STREAM_NEWS_CONNECTED:
        g_message("stream from %s: receiving", stream_peer(stream));
        control_send_event(standby->control, DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_CONNECTED,
                           stream_peer(stream), held.committed_epoch, stream_incarnation(stream),
                           NULL, 0);
        break;
    case STREAM_NEWS_COMMITTED_FIRST:
        standby_move(standby, STANDBY_HOLDING);
        control_send_event(standby->control,
                           DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_COMMITTED_FIRST,
                           stream_peer(stream), held.committed_epoch, held.incarnation, NULL, 0);
        break;
    case STREAM_NEWS_HEARD:
        heard_again(standby);
        break;
    case STREAM_NEWS_ENDED:
        close_stream(standby, stream);
        break;
    }
}

/*
 * Room for one more stream, at the expense of the one that has been in its handshake for longest:
 * who never shows a certificate must not keep out the primary. FALSE if there is none.
 */
static gboolean
make_room(Standby *standby)
{
    if (standby->streams->len < STREAMS_MAX)
        return TRUE;
    for (guint i = 0; i < standby->streams->len; i++) {
        Stream *stream = g_ptr_array_index(standby->streams, i);
        if (stream_state(stream) == STREAM_HANDSHAKE) {
            close_stream(standby, stream);
            return TRUE;
        }
    }
    return FALSE;
}

static char *
do_stream(Standby *standby, const District__StandbyStreamRequest *request, int *fds, guint n_fds)
{
    StreamConfig config = {
        .identity = standby->identity,
        .keeper = standby->keeper,
        .host = standby->host,
        .peer_name = request->peer_name,
        .notify = on_stream_news,
        .opaque = standby,
    };

    if (n_fds != 1)
        return g_strdup_printf("stream of district %s: pass exactly one connection", standby->name);
    if (*request->peer_name == '\0')
        return g_strdup_printf("stream of district %s: name the peer", standby->name);
    if (!make_room(standby))
        return g_strdup_printf("stream of district %s: %d connections are open already: try again",
                               standby->name, STREAMS_MAX);
    g_ptr_array_add(standby->streams, stream_new(&config, g_steal_fd(&fds[0])));
    return NULL;
}

/* ---- Requests ---- */

static char *
do_config(Standby *standby, const District__StandbyConfigRequest *request)
{
    keeper_require(standby->keeper, request->min_incarnation, request->min_incarnation);
    standby->silence_ms = request->silence_ms;
    standby->silent = false;
    silence_arm(standby);
    return NULL;
}

static char *
do_adopt(Standby *standby, const int *fds, guint n_fds)
{
    g_autoptr(GError) error = NULL;
    Shadow *shadow;

    if (standby->phase != STANDBY_EMPTY || standby->streams->len > 0)
        return g_strdup_printf("standby of district %s is %s: only a fresh one can adopt",
                               standby->name, phase_names[standby->phase]);
    shadow = shadow_adopt(keeper_disk_dir(standby->keeper), fds, n_fds, &error);
    if (shadow != NULL && g_strcmp0(shadow_district(shadow), standby->name) != 0) {
        g_set_error(&error, STANDBY_ERROR, STANDBY_REFUSED, "it is of district %s",
                    shadow_district(shadow));
        g_clear_pointer(&shadow, shadow_free);
    }
    if (shadow == NULL)
        return g_strdup_printf("district %s cannot be adopted: %s", standby->name, error->message);
    g_message("adopted epoch %" G_GUINT64_FORMAT, shadow_committed(shadow));
    keeper_put(standby->keeper, shadow);
    standby_move(standby, STANDBY_HOLDING);
    return NULL;
}

static District__StandbyStatusReply
make_status(const Standby *standby)
{
    District__StandbyStatusReply reply = DISTRICT__STANDBY_STATUS_REPLY__INIT;
    KeeperStatus held = keeper_status(standby->keeper);
    int64_t heard = last_heard(standby);

    reply.connected =
        standby->current != NULL && stream_state(standby->current) == STREAM_RECEIVING;
    reply.committed_epoch = held.committed_epoch;
    reply.incarnation =
        standby->last_incarnation != 0 ? standby->last_incarnation : held.incarnation;
    reply.received_bytes = standby->past_bytes;
    reply.epochs = standby->past_epochs;
    for (guint i = 0; i < standby->streams->len; i++) {
        reply.received_bytes += stream_received_bytes(standby->streams->pdata[i]);
        reply.epochs += stream_epochs(standby->streams->pdata[i]);
    }
    reply.ram_bytes = held.ram_bytes;
    if (heard != 0)
        reply.heard_ms_ago = (uint64_t)((clock_monotonic_ns() - heard) / NS_PER_MS);
    if (!reply.connected && standby->last_error != NULL)
        reply.error = standby->last_error;
    reply.committed_realtime_ns = held.realtime_ns;
    if (standby->last_peer != NULL)
        reply.peer = standby->last_peer;
    return reply;
}

static gboolean
send_reply(Standby *standby, District__StandbyReply *reply, const int *fds, guint n_fds)
{
    District__StandbyMessage message = DISTRICT__STANDBY_MESSAGE__INIT;

    message.m_case = DISTRICT__STANDBY_MESSAGE__M_REPLY;
    message.reply = reply;
    return control_send(standby->control, &message, fds, n_fds);
}

static void
answer_disks(Standby *standby, District__StandbyReply *reply)
{
    District__StandbyDisksReply disks = DISTRICT__STANDBY_DISKS_REPLY__INIT;
    g_autoptr(GPtrArray) held = keeper_disks(standby->keeper, &disks.epoch);
    g_autofree District__StandbyDisk *disk = g_new(District__StandbyDisk, held->len + 1);
    g_autofree District__StandbyDisk **list = g_new(District__StandbyDisk *, held->len + 1);

    for (guint i = 0; i < held->len; i++) {
        const KeeperDisk *from = held->pdata[i];

        disk[i] = (District__StandbyDisk)DISTRICT__STANDBY_DISK__INIT;
        disk[i].member = from->member;
        disk[i].index = from->index;
        disk[i].size = from->bytes;
        disk[i].file = from->path;
        list[i] = &disk[i];
    }
    disks.n_disks = held->len;
    disks.disks = list;
    reply->disks = &disks;
    send_reply(standby, reply, NULL, 0);
}

/* ---- Activation ---- */

/* Send the committed state with the reply. */
static gboolean
hand_over(Standby *standby, uint64_t id, Shadow *shadow, int64_t decided_ns, GError **error)
{
    District__StandbyReply reply = DISTRICT__STANDBY_REPLY__INIT;
    District__StandbyActivateReply activate = DISTRICT__STANDBY_ACTIVATE_REPLY__INIT;
    const RamSet *ram = shadow_ram(shadow);
    const DiskSet *disks = shadow_disks(shadow);
    g_auto(GStrv) files = g_new0(char *, disks->n + 1);
    int fds[FDMSG_FDS_MAX];
    gboolean sent;

    /* The member's engine has its journal open already. */
    if (!journals_wait_ended(SETTLE_TIMEOUT_MS)) {
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "a journal is still being written in %s: its file system hangs; try again",
                    keeper_disk_dir(standby->keeper));
        return FALSE;
    }
    if (!shadow_settle(shadow, SETTLE_TIMEOUT_MS, error))
        return FALSE;
    fds[0] = shadow_state_memfd(shadow, &activate.state_len, error);
    if (fds[0] < 0)
        return FALSE;
    for (uint32_t i = 0; i < ram->n; i++)
        fds[1 + i] = ram->fds[i];
    for (uint32_t i = 0; i < disks->n; i++) {
        fds[1 + ram->n + i] = disks->files[i].fd;
        files[i] = disk_set_path(disks, i);
    }
    activate.n_disk_files = disks->n;
    activate.disk_files = files;
    activate.disks_epoch = disks->born;
    activate.epoch = shadow_committed(shadow);
    activate.decided_ns = (uint64_t)decided_ns;
    activate.handed_ns = (uint64_t)clock_monotonic_ns();
    reply.id = id;
    reply.activate = &activate;
    sent = send_reply(standby, &reply, fds, 1 + ram->n + disks->n);
    close(fds[0]);
    if (!sent)
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED, "districtd did not take it");
    else
        trace_standby_activated(activate.epoch, clock_monotonic_ns() - decided_ns);
    return sent;
}

/* Returns why it could not be done; NULL: done and answered. */
static char *
do_activate(Standby *standby, uint64_t id, const District__StandbyActivateRequest *request)
{
    int64_t decided_ns = clock_monotonic_ns();
    g_autoptr(GError) error = NULL;
    KeeperStatus held = keeper_status(standby->keeper);
    Shadow *shadow;
    gboolean good;

    if (held.committed_epoch == 0)
        return g_strdup_printf("nothing of district %s is committed here yet: it cannot be "
                               "activated before its first epoch is complete",
                               standby->name);
    if (request->incarnation <= held.incarnation)
        return g_strdup_printf("district %s is held at incarnation %" G_GUINT64_FORMAT
                               ": activate it with a newer one",
                               standby->name, held.incarnation);
    if (!keeper_held(standby->keeper, &error))
        return g_strdup(error->message);
    close_all_streams(standby);
    standby_move(standby, STANDBY_HOLDING); /* the news of the first commit may be on its way */
    standby_move(standby, STANDBY_HANDING);
    shadow = keeper_take(standby->keeper);
    good = shadow_unspent(shadow, &error) && hand_over(standby, id, shadow, decided_ns, &error);
    /*
     * Kept until districtd ends us: whoever is killed before the members run, the image can be asked
     * for again. Once they run it is marked as spent, and refused.
     */
    keeper_put(standby->keeper, shadow);
    if (!good) {
        standby_move(standby, STANDBY_HOLDING);
        return g_strdup_printf("district %s cannot be activated: %s", standby->name,
                               error->message);
    }
    g_message("handed over epoch %" G_GUINT64_FORMAT " to incarnation %" G_GUINT64_FORMAT,
              shadow_committed(shadow), request->incarnation);
    keeper_require(standby->keeper, request->incarnation + 1, request->incarnation);
    standby_move(standby, STANDBY_HANDED);
    standby->heard_ns = 0;
    return NULL;
}

/* ---- Control ---- */

static void
on_request(void *opaque, const District__StandbyRequest *request, int *fds, guint n_fds)
{
    Standby *standby = opaque;
    District__StandbyReply reply = DISTRICT__STANDBY_REPLY__INIT;
    District__StandbyStatusReply status;
    g_autofree char *failure = NULL;

    reply.id = request->id;
    switch (request->op_case) {
    case DISTRICT__STANDBY_REQUEST__OP_STREAM:
        failure = do_stream(standby, request->stream, fds, n_fds);
        break;
    case DISTRICT__STANDBY_REQUEST__OP_CONFIG:
        failure = do_config(standby, request->config);
        break;
    case DISTRICT__STANDBY_REQUEST__OP_ADOPT:
        failure = do_adopt(standby, fds, n_fds);
        break;
    case DISTRICT__STANDBY_REQUEST__OP_ACTIVATE:
        failure = do_activate(standby, request->id, request->activate);
        if (failure == NULL)
            return; /* answered with the descriptors */
        break;
    case DISTRICT__STANDBY_REQUEST__OP_STATUS:
        status = make_status(standby);
        reply.status = &status;
        break;
    case DISTRICT__STANDBY_REQUEST__OP_DISKS:
        answer_disks(standby, &reply);
        return;
    case DISTRICT__STANDBY_REQUEST__OP_QUIT:
        g_main_loop_quit(standby->loop);
        break;
    default:
        failure = g_strdup("unknown request: use the same release of districtd");
        break;
    }
    if (failure != NULL)
        reply.error = failure;
    send_reply(standby, &reply, NULL, 0);
}

/* A client that is new may be a districtd that has lost everything it held. */
static void
on_client(void *opaque)
{
    Standby *standby = opaque;

    keeper_hold_again(standby->keeper);
}

static gboolean
on_hold(const int *fds, guint n_fds, uint64_t epoch, uint64_t incarnation, gpointer opaque)
{
    Standby *standby = opaque;

    if (control_send_event(standby->control, DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HOLD, NULL,
                           epoch, incarnation, fds, n_fds))
        return TRUE;
    g_message("nobody to hold epoch %" G_GUINT64_FORMAT " for us yet", epoch);
    return FALSE;
}

static const ControlOps control_ops = {
    .connected = on_client,
    .request = on_request,
};

Standby *
standby_new(const char *name, const char *host, const char *control_path, const char *disk_dir,
            TlsIdentity *identity, GMainLoop *loop, GError **error)
{
    Standby *standby = g_new0(Standby, 1);

    standby->control = control_new(control_path, &control_ops, standby, error);
    if (standby->control == NULL) {
        g_free(standby);
        return NULL;
    }
    standby->name = g_strdup(name);
    standby->host = g_strdup(host);
    standby->identity = identity;
    standby->loop = loop;
    standby->keeper = keeper_new(name, disk_dir, on_hold, standby);
    standby->streams = g_ptr_array_new_with_free_func((GDestroyNotify)stream_unref);
    return standby;
}

void
standby_free(Standby *standby)
{
    close_all_streams(standby);
    g_clear_handle_id(&standby->silence_source, g_source_remove);
    g_ptr_array_unref(standby->streams);
    keeper_free(standby->keeper);
    control_free(standby->control);
    g_free(standby->last_peer);
    g_free(standby->last_error);
    g_free(standby->name);
    g_free(standby->host);
    g_free(standby);
}
