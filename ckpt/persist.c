/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When cuts are made durable.
 *
 * While the district is protected, cuts are frequent anyway, and the first one after the time for a
 * durable checkpoint has come is it. Else a cut is made for it alone; guests run undisturbed until
 * shortly before, when harvests begin, so that what is copied at the cut is little.
 *
 * From the cut of a full checkpoint on, everything that is harvested is staged (PERSIST_STEADY), so
 * the next durable checkpoint has what changed since. Of disks it has the entries of their indexes
 * since the one before. When it has been committed, engines are told that what was overwritten
 * since need not be kept; when the store has merged it into the homes, that overlays may drop it.
 */
#include "ckpt/coordinator-internal.h"

#include "ckpt/file-out.h"

#include <string.h>

/* Harvests for a durable cut begin so long before it. */
#define LEAD_NS (200 * NS_PER_MS)
#define CLOSE_WAIT_MS 2000
/* When the writer was not ready, or no cut could be made. */
#define AGAIN_NS (100 * NS_PER_MS)

#define TO(state) (1u << (state))
static const unsigned persist_moves[PERSIST_STATES] = {
    [PERSIST_IDLE] = TO(PERSIST_WANTED) | TO(PERSIST_STEADY),
    [PERSIST_WANTED] = TO(PERSIST_SYNCING) | TO(PERSIST_IDLE),
    [PERSIST_SYNCING] = TO(PERSIST_STEADY) | TO(PERSIST_WANTED),
    [PERSIST_STEADY] = TO(PERSIST_IDLE) | TO(PERSIST_WANTED),
};

static void
persist_move(Persist *p, PersistState state)
{
    if (p->state == state)
        return;
    if (!(persist_moves[p->state] & TO(state)))
        g_critical("durable checkpoints: no move from state %d to %d", p->state, state);
    p->state = state;
}

static bool
persist_wanted(const Persist *p)
{
    return p->every_ns != INT64_MAX || p->waiting.length > 0;
}

/* ---- Beginning ---- */

gboolean
persist_open(Coordinator *c, const PersistConfig *config, GError **error)
{
    DurableConfig durable = {.dir = config->dir,
                             .district = c->district,
                             .host = c->host,
                             .keep = config->keep,
                             .merge_rate = config->merge_rate,
                             .inbox = c->inbox,
                             .n_pages_of = c->n_pages_of,
                             .n_members = c->n_members};
    Durable *opened;

    if (config->dir == NULL)
        return TRUE;
    opened = durable_new(&durable, error);
    if (opened == NULL)
        return FALSE;
    c->persist = g_new0(Persist, 1);
    c->persist->durable = opened;
    c->persist->dir = g_strdup(config->dir);
    c->persist->every_ns = config->every_ns;
    g_queue_init(&c->persist->requests);
    g_queue_init(&c->persist->waiting);
    return TRUE;
}

/* Our own descriptors for the writer. */
static DurableDisk *
persist_copy_disks(Coordinator *c, GError **error)
{
    DurableDisk *copies = g_new0(DurableDisk, MAX(c->n_disks, 1));

    for (uint32_t i = 0; i < c->n_disks; i++) {
        copies[i].member = c->disks[i].member;
        copies[i].number = c->disks[i].number;
        if (member_disk_copy(&copies[i].disk, disks_member_disk(c, i), error))
            continue;
        while (i-- > 0)
            member_disk_clear(&copies[i].disk);
        g_free(copies);
        return NULL;
    }
    return copies;
}

gboolean
persist_begin(Coordinator *c, uint64_t parent_id, uint64_t parent_epoch, PersistOrigin origin,
              GError **error)
{
    Persist *p = c->persist;

    if (p == NULL)
        return TRUE;
    DurableDisk *copies = persist_copy_disks(c, error);
    if (copies == NULL)
        return FALSE;
    durable_begin(p->durable, copies, c->n_disks, parent_id);
    disks_begin_stored(c, origin != PERSIST_ADOPTED);
    p->parent_id = parent_id;
    p->parent_epoch = parent_epoch;
    numbers_skip_to(c, parent_epoch);
    p->next_ns = p->every_ns == INT64_MAX ? INT64_MAX : clock_monotonic_ns() + p->every_ns;
    if (origin == PERSIST_FROM)
        persist_move(p, PERSIST_STEADY);
    else if (persist_wanted(p))
        persist_move(p, PERSIST_WANTED);
    c->staging_active = coordinator_stages(c);
    return TRUE;
}

/* ---- What is due ---- */

bool
persist_stages(const Coordinator *c)
{
    return c->persist && c->persist->state == PERSIST_STEADY;
}

/* Someone waits, or the time has come. */
static int64_t
persist_due_ns(const Persist *p)
{
    if (p->waiting.length > 0 || p->parent_id == 0 || (p->final && p->final_number == 0))
        return 0;
    return p->next_ns;
}

bool
persist_harvests(const Coordinator *c, int64_t now)
{
    const Persist *p = c->persist;

    if (!p || p->state == PERSIST_IDLE || p->state == PERSIST_WANTED)
        return false;
    if (p->state == PERSIST_SYNCING)
        return p->full && p->full->phase != TARGET_FINISHING;
    return p->writing == 0 && durable_ready(p->durable) && now >= persist_due_ns(p) - LEAD_NS;
}

bool
persist_cut_due(const Coordinator *c, int64_t now)
{
    const Persist *p = c->persist;

    if (!p)
        return false;
    if (p->state == PERSIST_SYNCING)
        return p->full && p->full->phase == TARGET_COMPLETING;
    return p->state == PERSIST_STEADY && p->writing == 0 && now >= persist_due_ns(p) &&
           durable_ready(p->durable);
}

int64_t
persist_deadline(const Coordinator *c, int64_t now)
{
    const Persist *p = c->persist;
    int64_t due;

    /* The writer wakes us when it is ready. */
    if (p && !disks_stored_whole(c))
        return MAX(p->resend_ns, now);
    if (!p || p->state == PERSIST_IDLE || p->writing != 0 || !durable_ready(p->durable))
        return INT64_MAX;
    if (p->state == PERSIST_SYNCING)
        return INT64_MAX;
    due = persist_due_ns(p);
    if (p->state == PERSIST_STEADY && now < due - LEAD_NS)
        return due - LEAD_NS;
    /* Overdue: whatever stands in the way, look again in a while. */
    return due > now ? due : now + AGAIN_NS;
}

/* The one that is begun is for the first who waits, and for those who want the same label or none;
 * others get one of their own. */
static void
persist_serve_waiting(Persist *p)
{
    const ControlRequest *first = g_queue_peek_head(&p->waiting);

    for (GList *at = p->waiting.head; at != NULL;) {
        GList *next = at->next;
        const char *label = ((ControlRequest *)at->data)->message->persist->label;

        if (label[0] == '\0' || strcmp(label, first->message->persist->label) == 0) {
            g_queue_push_tail(&p->requests, at->data);
            g_queue_delete_link(&p->waiting, at);
        }
        at = next;
    }
}

/* ---- A full one ---- */

static void
persist_full_start(Coordinator *c)
{
    Persist *p = c->persist;
    const ControlRequest *first = g_queue_peek_head(&p->waiting);
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    g_autofree uint32_t *wire_index = g_new0(uint32_t, c->n_members);
    int fd;

    if (!durable_take_file(p->durable, &p->full_id, &fd))
        return;
    members_listed(c, wire_index);
    coordinator_hello(c, false, &hello);
    hello.checkpoint_id = p->full_id;
    hello.parent_id = p->parent_id;
    if (first)
        hello.label = first->message->persist->label;
    g_autofree char *path = ckpt_store_new_path(durable_store(p->durable), p->full_id);
    SinkConfig config = {.id = ++c->last_sink_id,
                         .transport = &file_out_transport,
                         .opaque = file_out_new(fd, path),
                         .inbox = c->inbox,
                         .pool = c->pool,
                         .hello = &hello,
                         .n_pages_of = c->n_pages_of,
                         .wire_index = wire_index,
                         .n_members = c->n_members};
    p->full = target_new(c, sink_new(&config));
    p->full_label = first ? g_strdup(first->message->persist->label) : NULL;
    persist_move(p, PERSIST_SYNCING);
    persist_serve_waiting(p);
}

void
persist_full_up(Coordinator *c)
{
    target_begin(c, c->persist->full);
}

/* The full one's sink has gone, one way or the other. */
static void
persist_full_end(Coordinator *c)
{
    SinkStats stats = sink_stats(c->persist->full->sink);

    status_add_sink(c, &stats);
    target_free(c->persist->full, false);
    c->persist->full = NULL;
}

void
persist_full_finished(Coordinator *c)
{
    Persist *p = c->persist;

    persist_full_end(c);
    durable_file_done(p->durable, p->full_id, g_steal_pointer(&p->full_cut));
}

/* Members wait for the next try. */
void
persist_full_closed(Coordinator *c, const char *why)
{
    Persist *p = c->persist;

    if (!p || !p->full)
        return;
    persist_full_end(c);
    /* Entries that it had taken are in no checkpoint. Nobody has released them. */
    if (p->full_cut)
        disks_untake_stored(c, p->full_cut->ranges);
    g_clear_pointer(&p->full_cut, durable_cut_free);
    g_clear_pointer(&p->full_label, g_free);
    durable_file_done(p->durable, p->full_id, NULL);
    p->writing = 0;
    p->final_number = 0;
    if (p->state != PERSIST_WANTED)
        persist_move(p, p->state == PERSIST_IDLE ? PERSIST_IDLE : PERSIST_WANTED);
    p->next_ns = p->every_ns == INT64_MAX ? INT64_MAX : clock_monotonic_ns() + p->every_ns;
    while (!g_queue_is_empty(&p->requests))
        control_request_error(g_queue_pop_head(&p->requests), "district %s: no checkpoint: %s",
                              c->district, why);
    coordinator_unstage(c);
    g_warning("no durable checkpoint: %s", why);
}

/* ---- Cuts ---- */

static DurableCut *
persist_cut_new(Coordinator *c, const Epoch *epoch, uint64_t number, bool full)
{
    Persist *p = c->persist;
    DurableCut *cut = g_new0(DurableCut, 1);

    cut->number = number;
    cut->incarnation = c->incarnation;
    cut->realtime_ns = epoch->realtime_ns;
    cut->parent_id = p->parent_id;
    cut->full = full;
    cut->wire_index = g_new0(uint32_t, c->n_members);
    members_listed(c, cut->wire_index);
    cut->ranges = disks_stored_ranges(c);
    p->writing = number;
    if (p->final && p->final_number == 0)
        p->final_number = number;
    if (p->every_ns != INT64_MAX)
        p->next_ns = MAX(p->next_ns + p->every_ns, clock_monotonic_ns());
    return cut;
}

/* The cut that completes a full checkpoint. */
static void
persist_complete(Coordinator *c, Epoch *epoch)
{
    Persist *p = c->persist;

    /* What was gathered for an incremental one is older than this. */
    durable_gather_clear(p->durable);
    p->full_cut = persist_cut_new(c, epoch, p->full->number, true);
    p->full_cut->label = g_steal_pointer(&p->full_label);
    freeze_queue(c, p->full, epoch, p->full->number, true, p->full_cut->ranges);
    sink_finish(p->full->sink);
    p->full->phase = TARGET_FINISHING;
    persist_move(p, PERSIST_STEADY);
}

/* Everything gathered so far, this epoch included, becomes a checkpoint. */
static void
persist_write(Coordinator *c, Epoch *epoch)
{
    Persist *p = c->persist;
    const ControlRequest *first = g_queue_peek_head(&p->waiting);
    g_autoptr(GError) error = NULL;
    GByteArray *state = freeze_pack_state(c, epoch, epoch->cut, &error);

    if (!state) {
        g_warning("no durable checkpoint: %s", error->message);
        p->next_ns = clock_monotonic_ns() + MIN(p->every_ns, 10 * NS_PER_S);
        return;
    }
    DurableCut *cut = persist_cut_new(c, epoch, epoch->cut, false);
    cut->label = first ? g_strdup(first->message->persist->label) : NULL;
    cut->begin = freeze_pack_begin(c, epoch->cut, false, p->parent_epoch);
    cut->state = state;
    persist_serve_waiting(p);
    durable_write(p->durable, cut);
}

void
persist_take(Coordinator *c, Epoch *epoch)
{
    Persist *p = c->persist;

    if (!p)
        return;
    if (p->state == PERSIST_SYNCING && p->full && p->full->phase == TARGET_COMPLETING) {
        persist_complete(c, epoch);
        return;
    }
    if (p->state != PERSIST_STEADY)
        return;
    durable_gather(p->durable, epoch);
    if (persist_cut_due(c, clock_monotonic_ns()))
        persist_write(c, epoch);
}

/* ---- Afterwards ---- */

static void
persist_answer(Coordinator *c, uint64_t id, uint64_t bytes)
{
    Persist *p = c->persist;

    while (!g_queue_is_empty(&p->requests)) {
        District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;
        reply.epoch = p->writing;
        reply.bytes = bytes;
        reply.checkpoint_id = id;
        control_request_reply(g_queue_pop_head(&p->requests), &reply);
    }
}

void
persist_done(Coordinator *c, uint64_t id)
{
    Persist *p = c->persist;
    DurableStats stats;

    durable_stats(p->durable, &stats);
    p->parent_id = id;
    p->parent_epoch = p->writing;
    persist_answer(c, id, stats.last_bytes);
    g_debug("checkpoint %" G_GUINT64_FORMAT " of epoch %" G_GUINT64_FORMAT " is durable", id,
            p->writing);
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DURABLE, "", "", p->writing);
    for (uint32_t i = 0; i < c->n_disks; i++)
        c->disks[i].durable_cut = c->disks[i].writing_cut;
    p->final_done = p->final_done || (p->final_number != 0 && p->writing == p->final_number);
    p->writing = 0;
    /* Nobody wants another one: stop gathering, which costs. */
    if (!persist_wanted(p) && c->n_disks == 0) {
        persist_move(p, PERSIST_IDLE);
        coordinator_unstage(c);
    }
}

void
persist_failed(Coordinator *c, const GError *why)
{
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STORE_FAILED, "", why->message, 0);
}

void
persist_request(Coordinator *c, ControlRequest *request)
{
    Persist *p = c->persist;
    const char *label = request->message->persist->label;

    if (!p) {
        control_request_error(
            request, "district %s: it has no store: start district-ckpt with --store", c->district);
        return;
    }
    if (c->run != RUN_RUNNING && c->run != RUN_THROTTLED) {
        control_request_error(request, "district %s: no checkpoint: the district does not run",
                              c->district);
        return;
    }
    if (label[0] != '\0' && !ckpt_store_label_good(label)) {
        control_request_error(request,
                              "district %s: \"%.64s\" is no label: give 1 to 64 printable "
                              "characters, neither a number nor \"latest\"",
                              c->district, label);
        return;
    }
    g_queue_push_tail(&p->waiting, request);
    if (p->state == PERSIST_IDLE)
        persist_move(p, PERSIST_WANTED);
}

void
persist_pin(Coordinator *c, ControlRequest *request)
{
    if (c->persist)
        durable_pin(c->persist->durable, request);
    else
        control_request_error(request, "district %s: it has no store of its own", c->district);
}

/*
 * Of overlays that we know nothing of, all is to be in the first checkpoint. They are asked for it at
 * once, however late that one is due: engines whose guests have powered themselves off can tell no more.
 */
static void
persist_resend(Coordinator *c, int64_t now)
{
    Persist *p = c->persist;

    if (disks_stored_whole(c) || now < p->resend_ns)
        return;
    p->resend_ns = now + DISKS_RESEND_AGAIN_NS;
    disks_resend_stored(c);
}

void
persist_tick(Coordinator *c, int64_t now)
{
    Persist *p = c->persist;

    if (p)
        persist_resend(c, now);
    if (p && p->state == PERSIST_WANTED && coordinator_runs(c) && !p->full && !lazy_under_way(c) &&
        disks_stored_whole(c) && now >= persist_due_ns(p))
        persist_full_start(c);
    if (p && p->full)
        target_tick(c, p->full);
}

static void
persist_refuse_all(Coordinator *c, GQueue *requests)
{
    while (!g_queue_is_empty(requests))
        control_request_error(g_queue_pop_head(requests),
                              "district %s: no checkpoint: district-ckpt was told to quit",
                              c->district);
}

bool
persist_close(Coordinator *c)
{
    Persist *p = g_steal_pointer(&c->persist);

    if (!p)
        return true;
    persist_refuse_all(c, &p->requests);
    persist_refuse_all(c, &p->waiting);
    if (!durable_free(p->durable, CLOSE_WAIT_MS))
        return false;
    durable_cut_free(p->full_cut);
    g_free(p->full_label);
    g_free(p->dir);
    g_free(p);
    return true;
}

void
persist_members_changed(Coordinator *c)
{
    Persist *p = c->persist;

    if (!p)
        return;
    persist_full_closed(c, "a member powered itself off");
    if (p->state == PERSIST_STEADY)
        persist_move(p, PERSIST_WANTED);
    coordinator_unstage(c);
}

void
persist_soon(Coordinator *c)
{
    Persist *p = c->persist;

    if (p)
        p->next_ns = MIN(p->next_ns, clock_monotonic_ns());
}

bool
persist_final(Coordinator *c)
{
    Persist *p = c->persist;

    if (!p || c->n_disks == 0 || !coordinator_runs(c))
        return false;
    p->final = true;
    return true;
}

bool
persist_final_over(const Coordinator *c)
{
    return !c->persist || c->persist->final_done;
}
