/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Status: what the coordinator tells about itself. */
#include "ckpt/coordinator-internal.h"

#include <string.h>

void
status_add_sink(Coordinator *c, const SinkStats *sink)
{
    SinkStats *sum = &c->stats->closed_sinks;

    encode_stats_add(&sum->pages, &sink->pages);
    sum->bytes += sink->bytes;
}

/* The messages of all measures. */
typedef struct StatusMeasures {
    District__CkptMeasure measures[MEASURES];
    District__CkptMeasure *list[MEASURES];
    District__CkptPercentiles all[MEASURES];
    District__CkptPercentiles recent[MEASURES];
} StatusMeasures;

static void
status_fill_percentiles(District__CkptPercentiles *out, const Percentiles *p)
{
    district__ckpt_percentiles__init(out);
    out->count = p->count;
    out->p50 = p->p50;
    out->p90 = p->p90;
    out->p99 = p->p99;
    out->max = p->max;
    out->mean = p->mean;
}

static void
status_fill_measures(Coordinator *c, District__CkptStatusReply *s, StatusMeasures *m)
{
    int64_t now = clock_monotonic_ns();

    for (unsigned i = 0; i < MEASURES; i++) {
        Measure *measure = &c->stats->measures[i];
        Percentiles all = histogram_percentiles(&measure->all);
        Percentiles recent = measure_recent(measure, now);

        status_fill_percentiles(&m->all[i], &all);
        m->all[i].last = measure->last;
        status_fill_percentiles(&m->recent[i], &recent);
        district__ckpt_measure__init(&m->measures[i]);
        m->measures[i].name = (char *)measure_name((MeasureKind)i);
        m->measures[i].phase = i < MEASURE_PHASES;
        m->measures[i].all = &m->all[i];
        m->measures[i].recent = &m->recent[i];
        m->list[i] = &m->measures[i];
    }
    s->n_measures = MEASURES;
    s->measures = m->list;
    s->pause_ns = &m->all[MEASURE_PAUSE];
    s->skew_ns = &m->all[MEASURE_SKEW];
    s->commit_ns = &m->all[MEASURE_COMMIT];
    s->interval_ns = &m->all[MEASURE_INTERVAL];
}

static const char *
status_member_state(const Member *m)
{
    switch ((int)m->run_state) {
    case DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE:
        return "awaiting restore";
    case DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED:
        return "paused";
    case DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING:
        return "running";
    case DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN:
        return "off";
    default:
        return "lost";
    }
}

static void
status_fill_members(const Coordinator *c, District__CkptMemberStatus *members,
                    District__CkptMemberStatus **list)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        const Member *m = c->members[i];
        district__ckpt_member_status__init(&members[i]);
        members[i].name = m->name;
        members[i].state = (char *)status_member_state(m);
        members[i].ram_size = m->ram_size;
        members[i].dirty_source = m->dirty_source;
        members[i].vcpus = m->vcpus;
        if (m->waiting)
            members[i].waiting = m->waiting;
        list[i] = &members[i];
    }
}

static void
status_fill_counts(Coordinator *c, District__CkptStatusReply *s)
{
    const Target *sync = c->stream;
    SinkStats now = {0};

    if (c->stream)
        now = sink_stats(c->stream->sink);
    s->zstd_level = now.level;
    s->encode_threads = now.threads;
    s->dirty_pages = c->stats->dirty_pages;
    s->wire_bytes = c->stats->closed_sinks.bytes + now.bytes;
    s->zero_pages = c->stats->closed_sinks.pages.zero + now.pages.zero;
    s->unchanged_pages = c->stats->closed_sinks.pages.unchanged + now.pages.unchanged;
    s->delta_pages = c->stats->closed_sinks.pages.delta + now.pages.delta;
    s->duplicate_pages = c->stats->closed_sinks.pages.duplicate + now.pages.duplicate;
    s->raw_pages = c->stats->closed_sinks.pages.raw + now.pages.raw;
    s->resting = rest_holds(c, clock_monotonic_ns());
    /* What is committed is all that there is. */
    bool whole = s->resting && c->in_flight.length == 0;
    if (c->committed_cut_ns && !whole)
        s->lag_ns = (uint64_t)(clock_monotonic_ns() - c->committed_cut_ns);
    if (sync && sync->phase >= TARGET_SYNCING) {
        s->sync_total_pages = sync->total;
        s->sync_done_pages = sync->total - MIN(target_pending(sync), sync->total);
    }
    if (c->protect.state != PROTECT_OFF) {
        s->interval_now_ns = (uint64_t)cut_interval_now_ns(c);
        s->slowdown_ppm = (uint32_t)c->protect.pace.slowdown_ppm;
    }
    if (c->loader)
        loader_progress(c->loader, &s->load_done_pages, &s->load_total_pages);
}

static void
status_fill_durable(Coordinator *c, District__CkptStatusReply *s, DurableStats *stats)
{
    if (!c->persist)
        return;
    durable_stats(c->persist->durable, stats);
    s->durable_id = stats->last_id;
    s->durable_checkpoints = stats->checkpoints;
    s->durable_bytes = stats->bytes;
    s->durable_error = stats->error;
    if (stats->last_id)
        s->durable_age_ns = (uint64_t)MAX(clock_realtime_ns() - stats->last_realtime_ns, 0);
}

/* The disks of a member that is on, as pointers to out, which has room for all; how many. */
static size_t
status_fill_disks(const Coordinator *c, const char *member, District__CkptDiskStatus *out,
                  District__CkptDiskStatus **list)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        const Member *m = c->members[i];
        if (strcmp(m->name, member) != 0 || !member_is_on(m))
            continue;
        for (unsigned k = 0; k < m->n_disks; k++) {
            if (!m->disks[k].overlay)
                continue;
            out[n] = (District__CkptDiskStatus)DISTRICT__CKPT_DISK_STATUS__INIT;
            out[n].number = n;
            out[n].home = m->disks[k].home;
            list[n] = &out[n];
            n++;
        }
    }
    return n;
}

void
status_request(Coordinator *c, ControlRequest *request)
{
    District__CkptStatusReply s = DISTRICT__CKPT_STATUS_REPLY__INIT;
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;
    District__CkptDiskStatus disks[DISKS_MAX], *disk_list[DISKS_MAX];
    DurableStats durable;
    StatusMeasures measures;
    g_autofree District__CkptMemberStatus *members =
        g_new0(District__CkptMemberStatus, c->n_members);
    g_autofree District__CkptMemberStatus **list =
        g_new0(District__CkptMemberStatus *, c->n_members);

    s.state = (char *)run_state_name(c->run);
    s.incarnation = c->incarnation;
    s.epoch = c->last_cut;
    s.committed_epoch = c->committed;
    s.protection = (char *)protect_state_name(c->protect.state);
    if (c->run == RUN_FAILED && c->run_error)
        s.protection_error = c->run_error;
    else if (c->run == RUN_THROTTLED)
        s.protection_error = (char *)"the guests are throttled: the standby or the link is too "
                                     "slow for what they change";
    else if (c->protect.error)
        s.protection_error = c->protect.error;
    status_fill_measures(c, &s, &measures);
    status_fill_counts(c, &s);
    status_fill_durable(c, &s, &durable);
    status_fill_members(c, members, list);
    s.n_members = c->n_members;
    s.members = list;
    s.n_disks = status_fill_disks(c, request->message->status->disks_of, disks, disk_list);
    s.disks = disk_list;
    reply.status = &s;
    control_request_reply(request, &reply);
}
