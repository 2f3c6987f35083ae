/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The coordinator's thread: states, loop and dispatch.
 *
 * Theory of operation. One thread owns everything about cuts and epochs: members, district-net, the
 * staging being filled, and the two targets (the standby's stream, a checkpoint file). Others own
 * their part and talk to it through the inbox: the control server, each sink's thread, the thread
 * that hears the standby. The loop sleeps until the inbox, a member's socket or the next deadline,
 * then: takes the inbox; lets protect.c connect or give up; throttles or releases guests; harvests
 * (harvest.c); feeds full syncs (target.c); and makes a cut if one is due and possible (cut.c).
 *
 * Back-pressure. A cut needs a free staging and fewer than EPOCHS_IN_FLIGHT_MAX epochs not yet
 * acknowledged. While it is not possible, dirty pages gather in the current staging; when that
 * passes STAGING_SOFT_PAGES, guests are held for slices (RUN_THROTTLED). Nothing is dropped.
 *
 * Every wait in here is bounded: members and district-net have 5 s to answer, a stream is lost when
 * it has been silent for long, and then output is released after the time the user chose.
 */
#include "ckpt/coordinator-internal.h"
#include "ckpt/lazy-aid.h"

#include <poll.h>
#include <string.h>

/* Throttled guests are held and run in turn for as long. */
#define THROTTLE_HOLD_NS (10 * NS_PER_MS)
#define THROTTLE_RUN_NS (2 * NS_PER_MS)
#define IDLE_NS (500 * NS_PER_MS)
#define REST_LOOK_NS (2 * NS_PER_S)
#define FINISH_WAIT_MS 2000
#define COPY_THREADS_MAX 3u
/* A last checkpoint has so long to become durable. */
#define QUIT_CHECKPOINT_NS (30 * NS_PER_S)

static const char *const run_state_names[RUN_STATES] = {
    [RUN_WAITING] = "waiting",      [RUN_RUNNING] = "running",         [RUN_THROTTLED] = "running",
    [RUN_HANDING_OVER] = "running", [RUN_HANDED_OVER] = "handed-over", [RUN_FAILED] = "failed",
};

#define TO(state) (1u << (state))
/* Allowed moves. */
static const unsigned run_moves[RUN_STATES] = {
    [RUN_WAITING] = TO(RUN_RUNNING) | TO(RUN_FAILED),
    [RUN_RUNNING] = TO(RUN_THROTTLED) | TO(RUN_HANDING_OVER) | TO(RUN_FAILED) | TO(RUN_WAITING),
    [RUN_THROTTLED] = TO(RUN_RUNNING) | TO(RUN_FAILED) | TO(RUN_WAITING),
    [RUN_HANDING_OVER] = TO(RUN_RUNNING) | TO(RUN_HANDED_OVER) | TO(RUN_FAILED),
    [RUN_HANDED_OVER] = TO(RUN_RUNNING) | TO(RUN_FAILED),
    [RUN_FAILED] = 0,
};

const char *
run_state_name(RunState state)
{
    return run_state_names[state];
}

bool
coordinator_move(Coordinator *c, RunState state)
{
    if (c->run == state)
        return false;
    if (!(run_moves[c->run] & TO(state))) {
        g_critical("district: %s to %s is not a move", run_state_name(c->run),
                   run_state_name(state));
        return false;
    }
    c->run = state;
    return true;
}

bool
coordinator_runs(const Coordinator *c)
{
    return c->run == RUN_RUNNING || c->run == RUN_THROTTLED || c->run == RUN_HANDING_OVER;
}

void
coordinator_hello(const Coordinator *c, bool stream, District__StreamHello *hello)
{
    hello->version = stream ? STREAM_VERSION : FILE_VERSION;
    hello->software = (char *)"district-ckpt " DISTRICT_VERSION;
    hello->district = c->district;
    hello->incarnation = c->incarnation;
    hello->host = c->host;
}

void
coordinator_measure(Coordinator *c, MeasureKind kind, int64_t value, int64_t now)
{
    measure_add(&c->stats->measures[kind], (uint64_t)MAX(value, 0), now);
}

bool
coordinator_stages(const Coordinator *c)
{
    return persist_stages(c) || target_takes_cut(c->stream) ||
           (c->file && c->file->phase == TARGET_COMPLETING) ||
           (c->persist && c->persist->full && c->persist->full->phase == TARGET_COMPLETING);
}

void
coordinator_unstage(Coordinator *c)
{
    c->staging_active = coordinator_stages(c);
    if (!c->staging_active)
        staging_pool_clear(c->stagings, c->staging);
}

void
coordinator_event(Coordinator *c, District__CkptEventKind kind, const char *member,
                  const char *text, uint64_t epoch)
{
    District__CkptEvent event = DISTRICT__CKPT_EVENT__INIT;

    event.kind = kind;
    event.member = (char *)member;
    event.text = (char *)text;
    event.epoch = epoch;
    event.incarnation = c->incarnation;
    control_server_event(c->control, &event);
}

/* ---- The inbox ---- */

/* Disks are not left with what is in no checkpoint, unless that takes too long. */
static void
coordinator_quit_request(Coordinator *c, ControlRequest *request)
{
    if (c->quit_request == NULL && persist_final(c)) {
        c->quit_request = request;
        c->quit_deadline_ns = clock_monotonic_ns() + QUIT_CHECKPOINT_NS;
        return;
    }
    c->quit = true;
    control_request_ok(request);
}

static void
coordinator_quit_tick(Coordinator *c, int64_t now)
{
    bool over = persist_final_over(c);

    if (c->quit_request == NULL || (!over && coordinator_runs(c) && now < c->quit_deadline_ns))
        return;
    if (!over)
        g_warning("ending without a last checkpoint of the disks");
    control_request_ok(g_steal_pointer(&c->quit_request));
    c->quit = true;
}

static void
coordinator_control(Coordinator *c, ControlRequest *request)
{
    switch (request->message->op_case) {
    case DISTRICT__CKPT_REQUEST__OP_START:
        life_start(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_START_IMAGE:
        life_start_image(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_START_FILE:
        life_start_file(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_CHECK:
        life_check(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_PROTECT:
        protect_request(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_UNPROTECT:
        protect_unprotect(c);
        control_request_ok(request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_CHECKPOINT:
        checkpoint_request(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_HAND_OVER:
        life_hand_over(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_TAKE_BACK:
        life_take_back(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_POWER_BUTTON:
        life_power_button(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_PERSIST:
        persist_request(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_START_STORE:
        life_start_store(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_PIN:
        persist_pin(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_COPY_JOURNALS:
        journals_copy_request(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_STATUS:
        status_request(c, request);
        break;
    case DISTRICT__CKPT_REQUEST__OP_QUIT:
        coordinator_quit_request(c, request);
        break;
    default:
        control_request_error(request, "district %s: unknown request; is the client newer?",
                              c->district);
    }
}

static void
coordinator_stream_message(Coordinator *c, const InboxMessage *message)
{
    switch (message->kind) {
    case INBOX_SINK_UP:
        protect_up(c, message->number);
        break;
    case INBOX_SINK_ACK:
        protect_ack(c, message->number);
        break;
    case INBOX_SINK_JOURNAL:
        journals_ack(c, message->number);
        break;
    case INBOX_SINK_CLOSED:
        protect_closed(c, message->error);
        break;
    default:
        break;
    }
}

static void
coordinator_file_message(Coordinator *c, const InboxMessage *message)
{
    switch (message->kind) {
    case INBOX_SINK_UP:
        checkpoint_up(c);
        break;
    case INBOX_SINK_FINISHED:
        checkpoint_finished(c, message->number);
        break;
    case INBOX_SINK_CLOSED:
        checkpoint_fail(c, message->error->message);
        break;
    default:
        break;
    }
}

static void
coordinator_full_message(Coordinator *c, const InboxMessage *message)
{
    switch (message->kind) {
    case INBOX_SINK_UP:
        persist_full_up(c);
        break;
    case INBOX_SINK_FINISHED:
        persist_full_finished(c);
        break;
    case INBOX_SINK_CLOSED:
        persist_full_closed(c, message->error->message);
        break;
    default:
        break;
    }
}

/* TRUE: it was from a thread that has to do with files. */
static bool
coordinator_store_message(Coordinator *c, const InboxMessage *message)
{
    switch (message->kind) {
    case INBOX_DURABLE_DONE:
        persist_done(c, message->number);
        return true;
    case INBOX_DURABLE_FAILED:
        persist_failed(c, message->error);
        return true;
    case INBOX_DURABLE_HOME:
        return true; /* disks_tick looks */
    case INBOX_LOADED:
        lazy_loaded(c);
        return true;
    case INBOX_LOAD_FAILED:
        lazy_failed(c, message->error->message);
        return true;
    case INBOX_COPIED:
        journals_copy_worked(c);
        return true;
    default:
        return false;
    }
}

static bool
coordinator_is_full(const Coordinator *c, uint64_t sink)
{
    return c->persist && c->persist->full && sink_id(c->persist->full->sink) == sink;
}

static void
coordinator_take_inbox(Coordinator *c)
{
    InboxMessage *message;

    while (!c->quit && (message = inbox_take(c->inbox))) {
        if (message->kind == INBOX_CONTROL)
            coordinator_control(c, message->request);
        else if (coordinator_store_message(c, message))
            c->next_disks_ns = 0;
        else if (coordinator_is_full(c, message->sink_id))
            coordinator_full_message(c, message);
        else if (c->stream && sink_id(c->stream->sink) == message->sink_id)
            coordinator_stream_message(c, message);
        else if (c->file && sink_id(c->file->sink) == message->sink_id)
            coordinator_file_message(c, message);
        g_clear_error(&message->error);
        g_free(message);
    }
}

/* ---- The loop ---- */

/* What the guests change can be neither cut nor staged. */
static bool
coordinator_pressed(const Coordinator *c)
{
    return c->staging_active && staging_pages(c->staging) > STAGING_SOFT_PAGES && !cut_possible(c);
}

/* Then they are held for a slice of time, and another one. */
static void
coordinator_throttle(Coordinator *c, int64_t now)
{
    bool pressed = coordinator_pressed(c);

    if (c->run == RUN_RUNNING && pressed && now >= c->throttle_ns) {
        members_pause(c);
        if (c->run != RUN_RUNNING)
            return;
        for (uint32_t i = 0; i < c->n_members; i++) {
            if (member_is_on(c->members[i]))
                harvest_take(c, i);
        }
        coordinator_move(c, RUN_THROTTLED);
        c->throttle_ns = now + THROTTLE_HOLD_NS;
    } else if (c->run == RUN_THROTTLED && (!pressed || now >= c->throttle_ns)) {
        coordinator_move(c, RUN_RUNNING);
        members_resume(c);
        /* From now: letting them go may have taken as long itself. */
        c->throttle_ns = clock_monotonic_ns() + THROTTLE_RUN_NS;
    }
}

static bool
coordinator_harvests(const Coordinator *c, int64_t now)
{
    bool wanted = (c->stream && c->stream->phase >= TARGET_SYNCING) ||
                  (c->file && c->file->phase != TARGET_FINISHING) || persist_harvests(c, now);

    /* A district about to be handed over is harvested until its last cut. */
    return wanted && !rest_holds(c, now) &&
           (c->run == RUN_RUNNING || (c->run == RUN_HANDING_OVER && c->hand_over.number == 0));
}

static int64_t
coordinator_deadline(const Coordinator *c, int64_t now)
{
    int64_t next = now + (c->run == RUN_WAITING ? REST_LOOK_NS : IDLE_NS);

    if (rest_holds(c, now))
        return MIN(MIN(now + REST_LOOK_NS, c->rest_until_ns), persist_deadline(c, now));
    if (coordinator_harvests(c, now))
        next = MIN(next, c->next_harvest_ns);
    if (c->run == RUN_RUNNING && !(c->stream && c->stream->phase == TARGET_STEADY))
        next = MIN(next, persist_deadline(c, now));
    if (c->run == RUN_RUNNING && c->stream && c->stream->phase == TARGET_STEADY && cut_possible(c))
        next = MIN(next, MAX(c->next_cut_ns, c->cut_retry_ns));
    if (now < c->cut_retry_ns)
        next = MIN(next, c->cut_retry_ns);
    if (c->run == RUN_THROTTLED || (c->run == RUN_RUNNING && coordinator_pressed(c)))
        next = MIN(next, c->throttle_ns);
    if (c->protect.state != PROTECT_OFF && !c->stream)
        next = MIN(next, MAX(c->protect.retry_ns, now + NS_PER_MS));
    if (c->protect.lost_ns && now < c->protect.lost_ns + c->protect.detach_after_ns)
        next = MIN(next, c->protect.lost_ns + c->protect.detach_after_ns);
    return next;
}

static void
coordinator_tick(Coordinator *c)
{
    int64_t now = clock_monotonic_ns();
    uint64_t pages;

    members_describe_tick(c, now);
    cut_reach_net(c, now);
    protect_tick(c, now);
    journals_tick(c, now);
    journals_copy_tick(c, now);
    coordinator_throttle(c, now);
    if (coordinator_runs(c))
        persist_tick(c, now);
    disks_tick(c, now);
    if (coordinator_harvests(c, now)) {
        if (now >= c->next_harvest_ns && !harvest_all(c, &pages))
            return;
        target_tick(c, c->stream);
        target_tick(c, c->file);
        cut_tick(c, now);
    }
    life_hand_over_tick(c, now);
    coordinator_quit_tick(c, now);
}

/* Sleep until something is to be done. */
static void
coordinator_sleep(Coordinator *c)
{
    uint32_t n = 3 * c->n_members + 1;
    g_autofree struct pollfd *polls = g_new0(struct pollfd, n);
    int64_t now = clock_monotonic_ns();
    int64_t wait = MAX(coordinator_deadline(c, now) - now, 0);
    struct timespec ts = {.tv_sec = wait / NS_PER_S, .tv_nsec = wait % NS_PER_S};
    bool members = false, full = journals_full(c), rests = c->rest_until_ns != 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        const MemberJournal *journal = &c->members[i]->journal;
        polls[i] = (struct pollfd){.fd = c->members[i]->fd, .events = POLLIN | POLLRDHUP};
        polls[c->n_members + i] =
            (struct pollfd){.fd = journal->path && !full ? journal->link : -1, .events = POLLIN};
        polls[2 * c->n_members + i] =
            (struct pollfd){.fd = rests ? c->members[i]->stir_fd : -1, .events = POLLIN};
    }
    polls[n - 1] = (struct pollfd){.fd = inbox_fd(c->inbox), .events = POLLIN};
    if (ppoll(polls, n, &ts, NULL) <= 0)
        return;
    for (uint32_t i = 0; i < c->n_members; i++) {
        members = members || polls[i].revents != 0;
        if (polls[2 * c->n_members + i].revents != 0)
            rest_stir(c);
    }
    if (members)
        members_check_idle(c);
}

/* A wanted end: finish the stream, stop the members. */
static void
coordinator_quit(Coordinator *c)
{
    checkpoint_fail(c, "district-ckpt was told to quit");
    persist_full_closed(c, "district-ckpt was told to quit");
    if (c->run == RUN_HANDING_OVER)
        life_hand_over_fail(c, "district-ckpt was told to quit");
    members_quit(c);
    /* Without BYE after a failure: the standby's state is what there is to go on from. */
    protect_drop_stream(c, c->run != RUN_FAILED);
    if (!loader_stop(c->loader, FINISH_WAIT_MS)) {
        encode_pool_wait_unused(c->pool, FINISH_WAIT_MS);
        return; /* it reads the store that the rest is about, too */
    }
    g_clear_pointer(&c->loader, loader_free);
    g_clear_pointer(&c->clone_reader, ckpt_store_close);
    /* BYE is written meanwhile, and what file there was is closed. */
    c->settled = journals_copy_abandon(c) && persist_close(c) &&
                 encode_pool_wait_unused(c->pool, FINISH_WAIT_MS);
}

static gpointer
coordinator_run(gpointer data)
{
    Coordinator *c = data;

    life_adopt(c);
    while (!c->quit) {
        coordinator_sleep(c);
        coordinator_take_inbox(c);
        journals_take(c);
        if (!c->quit)
            coordinator_tick(c);
    }
    coordinator_quit(c);
    g_main_loop_quit(c->loop);
    return NULL;
}

/* ---- Creation ---- */

static gboolean
coordinator_connect_members(Coordinator *c, const CoordinatorConfig *config, int connect_ms,
                            GError **error)
{
    c->n_members = g_strv_length(config->member_names);
    c->members = g_new0(Member *, c->n_members);
    c->n_pages_of = g_new0(uint64_t, c->n_members);
    c->faults_of = g_new0(uint64_t, c->n_members);
    for (uint32_t i = 0; i < c->n_members; i++)
        c->members[i] = member_new(config->member_names[i], config->member_paths[i]);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (strcmp(config->member_paths[i], MEMBER_PATH_OFF) == 0) {
            c->members[i]->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
            c->n_pages_of[i] = 1;
            if (config->journal_paths[i] &&
                !member_journal_open(&c->members[i]->journal, config->journal_paths[i], 0, error))
                return FALSE;
            continue;
        }
        if (!member_connect(c->members[i], connect_ms, error))
            return FALSE;
        c->n_pages_of[i] = c->members[i]->n_pages;
    }
    return TRUE;
}

static gboolean
coordinator_connect(Coordinator *c, const CoordinatorConfig *config, int connect_ms, GError **error)
{
    LazyAid *aid = lazy_aid_begin(config);
    gboolean connected = coordinator_connect_members(c, config, connect_ms, error);

    lazy_aid_end(aid);
    if (!connected)
        return FALSE;
    c->net = netctl_new(config->net_path);
    return netctl_connect(c->net, connect_ms, error);
}

Coordinator *
coordinator_new(const CoordinatorConfig *config, Inbox *inbox, int connect_ms, GError **error)
{
    Coordinator *c = g_new0(Coordinator, 1);

    c->district = g_strdup(config->district);
    c->host = g_strdup(config->host);
    c->definition = g_strdup(config->definition);
    c->pki_dir = g_strdup(config->pki_dir);
    c->incarnation = config->incarnation;
    c->clone_of = g_strdup(config->clone.of);
    c->clone_store = g_strdup(config->clone.store);
    c->clone_overlays = g_strdup(config->clone.overlay_dir);
    c->clone_id = config->clone.id;
    c->disk_sync_rate = config->disk_sync_rate;
    c->delta_cache = config->delta_cache;
    c->load_rate = config->load_rate;
    c->inbox = inbox;
    c->stats = g_new0(CoordinatorStats, 1);
    c->protect.net_told = NET_TOLD_UNKNOWN;
    pace_init(&c->protect.pace, 0, 0);
    g_queue_init(&c->in_flight);
    g_queue_init(&c->journals.told);
    numbers_open(c, config->numbers_path);
    /* On failure the process ends: nothing is freed here. */
    if (!coordinator_connect(c, config, connect_ms, error))
        return NULL;
    c->stagings = staging_pool_new(c->n_pages_of, c->n_members, STAGING_SOFT_PAGES / c->n_members,
                                   inbox, error);
    if (!c->stagings)
        return NULL;
    c->staging = staging_pool_take(c->stagings);
    if (!persist_open(c, &config->persist, error))
        return NULL;
    c->pool = encode_pool_new(0);
    c->copier = page_copier_new(MIN(g_get_num_processors() - 1, COPY_THREADS_MAX));
    return c;
}

void
coordinator_start(Coordinator *c, ControlServer *control, GMainLoop *loop)
{
    c->control = control;
    c->loop = loop;
    c->thread = g_thread_new("coordinator", coordinator_run, c);
}

bool
coordinator_join(Coordinator *c)
{
    g_thread_join(c->thread);
    if (!c->settled)
        return false;
    encode_pool_free(c->pool);
    page_copier_free(c->copier);
    staging_pool_give(c->stagings, c->staging);
    staging_pool_free(c->stagings);
    for (uint32_t i = 0; i < c->n_members; i++)
        member_free(c->members[i]);
    netctl_free(c->net);
    disks_free(c);
    g_queue_clear_full(&c->journals.told, g_free);
    g_free(c->members);
    g_free(c->n_pages_of);
    g_free(c->faults_of);
    g_free(c->protect.peer_name);
    g_free(c->protect.address);
    g_free(c->protect.error);
    g_free(c->run_error);
    g_free(c->numbers_path);
    g_free(c->district);
    g_free(c->host);
    g_free(c->definition);
    g_free(c->pki_dir);
    g_free(c->clone_of);
    g_free(c->clone_store);
    g_free(c->clone_overlays);
    g_free(c->stats);
    g_free(c);
    return true;
}
