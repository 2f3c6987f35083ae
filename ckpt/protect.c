/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Protection: the life of the stream to the standby, and what district-net is told about it. */
#include "ckpt/coordinator-internal.h"

#include "ckpt/stream-out.h"
#include "common/trace.h"

#include <string.h>

#define BACKOFF_MIN_NS (100 * NS_PER_MS)
#define BACKOFF_MAX_NS (2 * NS_PER_S)
#define REFUSED_RETRY_NS (5 * NS_PER_S)
#define SILENCE_MIN_MS 500
#define SILENCE_MAX_MS 3000
#define HEARTBEATS_PER_SILENCE 4
#define HEARTBEAT_MIN_MS 100
#define HEARTBEAT_MAX_MS 800
#define DETACH_DEFAULT_MS 3000
/* An epoch sent is to be acknowledged within this or detach_after, whichever is longer. */
#define ACK_MIN_NS (10 * NS_PER_S)

static const char *const protect_state_names[PROTECT_STATES] = {
    [PROTECT_OFF] = "off",           [PROTECT_CONNECTING] = "connecting",
    [PROTECT_SYNCING] = "syncing",   [PROTECT_PROTECTED] = "protected",
    [PROTECT_DETACHED] = "detached",
};

#define TO(state) (1u << (state))
/* Allowed moves. */
static const unsigned protect_moves[PROTECT_STATES] = {
    [PROTECT_OFF] = TO(PROTECT_CONNECTING),
    [PROTECT_CONNECTING] = TO(PROTECT_SYNCING) | TO(PROTECT_DETACHED) | TO(PROTECT_OFF),
    [PROTECT_SYNCING] = TO(PROTECT_PROTECTED) | TO(PROTECT_CONNECTING) | TO(PROTECT_OFF),
    [PROTECT_PROTECTED] = TO(PROTECT_CONNECTING) | TO(PROTECT_OFF),
    [PROTECT_DETACHED] = TO(PROTECT_SYNCING) | TO(PROTECT_OFF),
};

const char *
protect_state_name(ProtectState state)
{
    return protect_state_names[state];
}

static void
protect_move(Coordinator *c, ProtectState state)
{
    if (c->protect.state == state)
        return;
    if (!(protect_moves[c->protect.state] & TO(state)))
        g_critical("protection: %s to %s is not a move", protect_state_name(c->protect.state),
                   protect_state_name(state));
    c->protect.state = state;
}

static void
protect_set_error(Coordinator *c, const char *text)
{
    g_free(c->protect.error);
    c->protect.error = g_strdup(text);
}

bool
protect_tell_net(Coordinator *c, bool hold)
{
    g_autoptr(GError) error = NULL;

    if (c->protect.net_told == (hold ? NET_TOLD_HOLD : NET_TOLD_FREE))
        return true;
    if (!netctl_mode(c->net, c->protect.output_commit, hold, &error)) {
        g_warning("%s", error->message);
        return false;
    }
    c->protect.net_told = hold ? NET_TOLD_HOLD : NET_TOLD_FREE;
    if (!hold)
        journals_release(c);
    return true;
}

/* Nothing heard from the standby for this long means lost. */
static int
protect_silence_ms(const Coordinator *c)
{
    return (int)CLAMP(c->protect.detach_after_ns / NS_PER_MS / 2, SILENCE_MIN_MS, SILENCE_MAX_MS);
}

/* Of who is lost after that silence. Each one wakes threads on both sides, which is what a district costs
 * while it has nothing to do. */
static int
protect_heartbeat_ms(int silence_ms)
{
    return CLAMP(silence_ms / HEARTBEATS_PER_SILENCE, HEARTBEAT_MIN_MS, HEARTBEAT_MAX_MS);
}

static gpointer
protect_transport(Coordinator *c, GError **error)
{
    TlsIdentity *identity = NULL;

    if (!c->pki_dir)
        g_set_error(error, TLS_ERROR, TLS_ERROR_FILES,
                    "no certificates: start district-ckpt with --pki");
    else
        identity = tls_identity_load(c->pki_dir, error);
    return identity
               ? stream_out_new(identity, c->protect.address, c->protect.port, c->protect.peer_name,
                                c->district, protect_silence_ms(c), c->inbox)
               : NULL;
}

static void protect_lost(Coordinator *c, const char *why, bool refused);

/*
 * A full copy replaces what the standby has of the disks. One of which not all is known here would
 * replace a good one by a torn one: rather there is none.
 */
static bool
protect_lacks_disks(Coordinator *c)
{
    const char *name = disks_unlisted(c);
    g_autofree char *why = NULL;

    if (name)
        why = g_strdup_printf("member %s is off, and not all of its disks is known here: what the "
                              "standby has of them is kept; stop and start the district",
                              name);
    if (why)
        protect_lost(c, why, true);
    return why != NULL;
}

static void
protect_connect(Coordinator *c)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    g_autofree uint32_t *wire_index = g_new0(uint32_t, c->n_members);
    g_autoptr(GError) error = NULL;

    if (protect_lacks_disks(c))
        return;
    gpointer transport = protect_transport(c, &error);
    if (!transport) {
        protect_set_error(c, error->message);
        c->protect.retry_ns = clock_monotonic_ns() + REFUSED_RETRY_NS;
        return;
    }
    members_listed(c, wire_index);
    coordinator_hello(c, true, &hello);
    hello.heartbeat_ms = (uint32_t)protect_heartbeat_ms(protect_silence_ms(c));
    SinkConfig config = {.id = ++c->last_sink_id,
                         .transport = &stream_out_transport,
                         .opaque = transport,
                         .inbox = c->inbox,
                         .pool = c->pool,
                         .hello = &hello,
                         .n_pages_of = c->n_pages_of,
                         .wire_index = wire_index,
                         .n_members = c->n_members,
                         .cache_bytes = c->delta_cache,
                         .heartbeat_ms = protect_heartbeat_ms(c->protect.failover_after_ms)};
    c->stream = target_new(c, sink_new(&config));
    disks_begin_streamed(c);
    c->protect.resend_ns = 0;
}

/* NULL, or what is wrong with the time between cuts that is wanted. */
static const char *
protect_refuse_interval(const District__CkptProtectRequest *want)
{
    if (!want->auto_interval)
        return want->interval_us != 0 &&
                       (want->interval_us < INTERVAL_MIN_US || want->interval_us > INTERVAL_MAX_US)
                   ? "the interval must be 1 ms to 60 s"
                   : NULL;
    if (want->max_slowdown != 0 &&
        (want->max_slowdown < PACE_SLOWDOWN_MIN || want->max_slowdown > PACE_SLOWDOWN_MAX))
        return "the slowdown must be 1 to 50 per cent";
    if (want->max_lag_us != 0 && (want->max_lag_us < PACE_LAG_MIN_NS / NS_PER_US ||
                                  want->max_lag_us > PACE_LAG_MAX_NS / NS_PER_US))
        return "the lag must be 10 ms to 4 s";
    return NULL;
}

static const char *
protect_refuse(const Coordinator *c, const District__CkptProtectRequest *want)
{
    if (c->run == RUN_HANDED_OVER || c->run == RUN_HANDING_OVER || c->run == RUN_FAILED)
        return "the district does not run here";
    if (c->protect.state != PROTECT_OFF)
        return "it is protected already; unprotect it first";
    if (want->peer_name[0] == '\0' || want->address[0] == '\0' || want->port == 0 ||
        want->port > UINT16_MAX)
        return "name, address and port of the standby host are needed";
    return protect_refuse_interval(want);
}

static void
protect_set_interval(Protection *p, const District__CkptProtectRequest *want)
{
    uint64_t interval_us = want->interval_us ? want->interval_us : INTERVAL_DEFAULT_US;

    p->interval_ns = want->auto_interval ? 0 : (int64_t)interval_us * NS_PER_US;
    pace_init(&p->pace, want->max_slowdown, (int64_t)want->max_lag_us * NS_PER_US);
}

void
protect_request(Coordinator *c, ControlRequest *request)
{
    const District__CkptProtectRequest *want = request->message->protect;
    const char *refusal = protect_refuse(c, want);

    if (refusal) {
        control_request_error(request, "district %s: cannot protect: %s", c->district, refusal);
        return;
    }
    Protection *p = &c->protect;
    p->peer_name = g_strdup(want->peer_name);
    p->address = g_strdup(want->address);
    p->port = (uint16_t)want->port;
    protect_set_interval(p, want);
    p->output_commit = want->output_commit;
    p->detach_after_ns =
        (int64_t)(want->detach_after_ms ? want->detach_after_ms : DETACH_DEFAULT_MS) * NS_PER_MS;
    p->failover_after_ms = (int)MIN(want->failover_after_ms, INT_MAX);
    p->lost_ns = clock_monotonic_ns();
    p->retry_ns = 0;
    p->detach_said = false;
    p->backoff_ns = BACKOFF_MIN_NS;
    protect_move(c, PROTECT_CONNECTING);
    control_request_ok(request);
}

void
protect_drop_stream(Coordinator *c, bool bye)
{
    if (!c->stream)
        return;
    SinkStats stats = sink_stats(c->stream->sink);
    status_add_sink(c, &stats);
    journals_stream_down(c);
    if (bye && c->stream->up)
        sink_finish(c->stream->sink);
    target_free(c->stream, bye && c->stream->up);
    c->stream = NULL;
    while (!g_queue_is_empty(&c->in_flight))
        epoch_unref(g_queue_pop_head(&c->in_flight));
    coordinator_unstage(c);
}

void
protect_unprotect(Coordinator *c)
{
    Protection *p = &c->protect;

    if (c->run == RUN_HANDING_OVER)
        life_hand_over_fail(c, "protection was ended");
    protect_drop_stream(c, true);
    /* What a failed district has not committed may have been undone elsewhere: it never leaves. */
    if (c->run != RUN_FAILED)
        protect_tell_net(c, false);
    protect_move(c, PROTECT_OFF);
    g_clear_pointer(&p->peer_name, g_free);
    g_clear_pointer(&p->address, g_free);
    g_clear_pointer(&p->error, g_free);
}

void
protect_restart(Coordinator *c, const char *why)
{
    if (c->protect.state == PROTECT_OFF)
        return;
    if (c->run == RUN_HANDING_OVER)
        life_hand_over_fail(c, why);
    protect_drop_stream(c, true);
    protect_set_error(c, why);
    c->protect.retry_ns = 0;
    c->protect.lost_ns = clock_monotonic_ns();
    if (c->protect.state != PROTECT_DETACHED)
        protect_move(c, PROTECT_CONNECTING);
}

static void
protect_say_detached(Coordinator *c, const char *why)
{
    if (c->protect.detach_said)
        return;
    c->protect.detach_said = true;
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DETACHED, "", why, 0);
}

/* Nobody to commit to for too long: release output, go on alone. */
static void
protect_detach(Coordinator *c)
{
    if (!protect_tell_net(c, false))
        return;
    protect_move(c, PROTECT_DETACHED);
    protect_say_detached(c, c->protect.error ? c->protect.error : "the standby cannot be reached");
}

/*
 * There has been no commit for detach_after. Output does not wait for a full sync either: it may
 * take minutes, and the cut that completes it holds output again. From that cut on, its
 * acknowledgement is waited for.
 */
static void
protect_overdue(Coordinator *c)
{
    if (c->protect.state == PROTECT_CONNECTING)
        protect_detach(c);
    else if (c->protect.state == PROTECT_SYNCING && c->stream && c->stream->phase < TARGET_STEADY &&
             c->protect.net_told != NET_TOLD_FREE && protect_tell_net(c, false))
        protect_say_detached(c, "the standby is being brought up to date");
}

/* A standby that beats but commits nothing is as good as lost. */
static void
protect_check_acks(Coordinator *c, int64_t now)
{
    const Epoch *oldest = g_queue_peek_head(&c->in_flight);
    int64_t limit = MAX(c->protect.detach_after_ns, ACK_MIN_NS);

    if (c->stream && journals_stalled_ns(c, now) >= limit)
        sink_fail(c->stream->sink,
                  g_error_new(STREAM_OUT_ERROR, STREAM_ERROR_LOST,
                              "it has not made a journal durable in %.0f s: is its disk slow?",
                              (double)limit / NS_PER_S));
    if (!oldest || !c->stream || now - oldest->cut_ns < limit ||
        now - sink_stats(c->stream->sink).emitted_ns < limit)
        return;
    sink_fail(c->stream->sink, g_error_new(STREAM_OUT_ERROR, STREAM_ERROR_LOST,
                                           "it has not acknowledged epoch %" G_GUINT64_FORMAT
                                           " in %.0f s though it was sent",
                                           oldest->number, (double)limit / NS_PER_S));
}

/*
 * The full copy, once it is known how much there is of the disks: the standby is told, and may have
 * no room for it. Nothing is read of the homes before overlays give all that they have again: a block
 * that moves from an overlay to a home in between would be in neither.
 */
static void
protect_begin_copy(Coordinator *c)
{
    Target *stream = c->stream;
    int64_t now = clock_monotonic_ns();

    if (!stream || !stream->up || stream->phase != TARGET_OPENING ||
        (stream->disk_sync && !disk_sync_counted(stream->disk_sync)) || now < c->protect.resend_ns)
        return;
    if (!disks_resend_streamed(c)) {
        c->protect.resend_ns = now + DISKS_RESEND_AGAIN_NS;
        return;
    }
    target_begin(c, stream);
    if (stream->disk_sync)
        disk_sync_begin(stream->disk_sync);
    journals_stream_up(c);
}

void
protect_tick(Coordinator *c, int64_t now)
{
    Protection *p = &c->protect;

    if (p->state == PROTECT_OFF && p->net_told != NET_TOLD_FREE && coordinator_runs(c) &&
        netctl_connected(c->net) && now - p->lost_ns >= DETACH_DEFAULT_MS * NS_PER_MS)
        protect_tell_net(c, false);
    if (coordinator_runs(c) && p->lost_ns && now - p->lost_ns >= p->detach_after_ns)
        protect_overdue(c);
    protect_check_acks(c, now);
    protect_begin_copy(c);
    if ((p->state == PROTECT_CONNECTING || p->state == PROTECT_DETACHED) && !c->stream &&
        coordinator_runs(c) && !lazy_under_way(c) && now >= p->retry_ns)
        protect_connect(c);
}

void
protect_up(Coordinator *c, uint64_t held)
{
    numbers_skip_to(c, held);
    g_clear_pointer(&c->protect.error, g_free);
    c->protect.backoff_ns = BACKOFF_MIN_NS;
    protect_move(c, PROTECT_SYNCING);
    c->stream->up = true;
    c->stream->disk_sync = disks_sync_homes(c);
    protect_begin_copy(c);
}

static void
protect_committed(Coordinator *c, Epoch *epoch)
{
    g_autoptr(GError) error = NULL;
    int64_t now = clock_monotonic_ns();
    SinkEpochTimes times;

    coordinator_measure(c, MEASURE_COMMIT, now - epoch->cut_ns, now);
    /* Those of a full copy would say nothing of the epochs after it. */
    if (c->protect.state != PROTECT_SYNCING &&
        sink_epoch_times(c->stream->sink, epoch->number, &times)) {
        coordinator_measure(c, MEASURE_ENCODE, times.encode_ns, now);
        coordinator_measure(c, MEASURE_SEND, times.send_ns, now);
    }
    if (c->protect.state != PROTECT_SYNCING)
        pace_drained(&c->protect.pace, now - MAX(epoch->cut_ns, c->protect.acked_ns));
    c->protect.acked_ns = now;
    trace_epoch_committed(epoch->number, now - epoch->cut_ns);
    c->committed = epoch->number;
    c->committed_cut_ns = epoch->cut_ns;
    if (!netctl_commit(c->net, epoch->cut, &error))
        g_warning("%s", error->message);
    if (c->protect.state == PROTECT_SYNCING) {
        protect_move(c, PROTECT_PROTECTED);
        c->protect.lost_ns = 0;
        c->protect.detach_said = false;
        coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED, "", "",
                          epoch->number);
    }
}

void
protect_ack(Coordinator *c, uint64_t number)
{
    Epoch *epoch;

    if (number > c->stream_base || c->protect.state < PROTECT_SYNCING) {
        sink_fail(c->stream->sink, g_error_new(FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                                               "the standby acknowledged epoch %" G_GUINT64_FORMAT
                                               ", which was never sent",
                                               number));
        return;
    }
    while ((epoch = g_queue_peek_head(&c->in_flight)) && epoch->number <= number) {
        protect_committed(c, epoch);
        epoch_unref(g_queue_pop_head(&c->in_flight));
    }
    life_hand_over_acked(c, number);
}

static void
protect_lost(Coordinator *c, const char *why, bool refused)
{
    Protection *p = &c->protect;
    int64_t now = clock_monotonic_ns();
    bool was_up = p->state == PROTECT_PROTECTED || p->state == PROTECT_SYNCING;
    bool news = g_strcmp0(p->error, why) != 0;

    protect_set_error(c, why);
    p->retry_ns = now + (refused ? REFUSED_RETRY_NS : p->backoff_ns);
    p->backoff_ns = MIN(p->backoff_ns * 2, BACKOFF_MAX_NS);
    if (p->lost_ns == 0)
        p->lost_ns = now;
    if (was_up)
        protect_move(c, PROTECT_CONNECTING);
    if (refused && news)
        coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_REFUSED, "", why, 0);
    else if (was_up)
        coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STREAM_LOST, "", why, 0);
    if (was_up || news)
        g_warning("standby %s: %s; trying again", p->peer_name, why);
}

/* A newer incarnation lives elsewhere: stop first, explain afterwards. */
static void
protect_superseded(Coordinator *c, const GError *why)
{
    District__CkptEvent event = DISTRICT__CKPT_EVENT__INIT;

    members_fail_district(c, why->message);
    event.kind = DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_SUPERSEDED;
    event.text = why->message;
    event.incarnation = MAX(stream_out_error_newer(why), c->incarnation + 1);
    control_server_event(c->control, &event);
    protect_move(c, PROTECT_OFF);
}

void
protect_closed(Coordinator *c, const GError *error)
{
    bool refused = g_error_matches(error, STREAM_OUT_ERROR, STREAM_ERROR_REFUSED_BY_IT);

    protect_drop_stream(c, false);
    if (c->protect.state == PROTECT_OFF)
        return;
    if (g_error_matches(error, STREAM_OUT_ERROR, STREAM_ERROR_NEWER_LIVES)) {
        protect_superseded(c, error);
        return;
    }
    if (c->run == RUN_HANDING_OVER)
        life_hand_over_fail(c, error->message);
    protect_lost(c, error->message, refused);
}
