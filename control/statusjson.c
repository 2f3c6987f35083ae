/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What district-ckpt and district-standby say of themselves, as JSON. */
#include "control/statusjson.h"

static JsonObject *
percentiles_to_json(const District__CkptPercentiles *p)
{
    JsonObject *item = json_object_new();

    if (p != NULL) {
        json_object_set_int_member(item, "count", (gint64)p->count);
        json_object_set_int_member(item, "p50", (gint64)p->p50);
        json_object_set_int_member(item, "p90", (gint64)p->p90);
        json_object_set_int_member(item, "p99", (gint64)p->p99);
        json_object_set_int_member(item, "max", (gint64)p->max);
        json_object_set_int_member(item, "mean", (gint64)p->mean);
    }
    return item;
}

static void
set_percentiles(JsonObject *object, const char *key, const District__CkptPercentiles *p)
{
    JsonObject *item = percentiles_to_json(p);

    if (p != NULL)
        json_object_set_int_member(item, "last", (gint64)p->last);
    json_object_set_object_member(object, key, item);
}

/* A district-ckpt that an older districtd has started has none. */
static void
set_measures(JsonObject *object, const District__CkptStatusReply *s)
{
    JsonObject *phases = json_object_new();
    JsonObject *recent = json_object_new();

    for (size_t i = 0; i < s->n_measures; i++) {
        const District__CkptMeasure *m = s->measures[i];
        set_percentiles(m->phase ? phases : object, m->name, m->all);
        json_object_set_object_member(recent, m->name, percentiles_to_json(m->recent));
    }
    json_object_set_object_member(object, "phases", phases);
    json_object_set_object_member(object, "recent", recent);
}

static JsonArray *
ckpt_members(const District__CkptStatusReply *s)
{
    JsonArray *members = json_array_new();

    for (size_t i = 0; i < s->n_members; i++) {
        JsonObject *item = json_object_new();
        json_object_set_string_member(item, "name", s->members[i]->name);
        json_object_set_string_member(item, "state", s->members[i]->state);
        json_object_set_string_member(item, "dirty_source", s->members[i]->dirty_source);
        json_object_set_int_member(item, "ram_size", (gint64)s->members[i]->ram_size);
        json_object_set_int_member(item, "vcpus", s->members[i]->vcpus);
        json_object_set_string_member(item, "waiting", s->members[i]->waiting);
        json_array_add_object_element(members, item);
    }
    return members;
}

JsonObject *
ckpt_status_to_json(const District__CkptStatusReply *s)
{
    JsonObject *object = json_object_new();
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"incarnation", s->incarnation},
        {"epoch", s->epoch},
        {"committed_epoch", s->committed_epoch},
        {"dirty_pages", s->dirty_pages},
        {"wire_bytes", s->wire_bytes},
        {"zero_pages", s->zero_pages},
        {"unchanged_pages", s->unchanged_pages},
        {"raw_pages", s->raw_pages},
        {"delta_pages", s->delta_pages},
        {"duplicate_pages", s->duplicate_pages},
        {"lag_ns", s->lag_ns},
        {"interval_now_ns", s->interval_now_ns},
        {"slowdown_ppm", s->slowdown_ppm},
        {"sync_done_pages", s->sync_done_pages},
        {"sync_total_pages", s->sync_total_pages},
        {"load_done_pages", s->load_done_pages},
        {"load_total_pages", s->load_total_pages},
        {"durable_id", s->durable_id},
        {"durable_age_ns", s->durable_age_ns},
        {"durable_checkpoints", s->durable_checkpoints},
        {"durable_bytes", s->durable_bytes},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(numbers); i++)
        json_object_set_int_member(object, numbers[i].key, (gint64)numbers[i].value);
    json_object_set_int_member(object, "zstd_level", s->zstd_level);
    json_object_set_int_member(object, "encode_threads", s->encode_threads);
    json_object_set_boolean_member(object, "resting", s->resting);
    json_object_set_string_member(object, "state", s->state);
    json_object_set_string_member(object, "protection", s->protection);
    json_object_set_string_member(object, "protection_error", s->protection_error);
    json_object_set_string_member(object, "durable_error", s->durable_error);
    set_percentiles(object, "pause_ns", s->pause_ns);
    set_percentiles(object, "skew_ns", s->skew_ns);
    set_percentiles(object, "commit_ns", s->commit_ns);
    set_percentiles(object, "interval_ns", s->interval_ns);
    set_measures(object, s);
    json_object_set_array_member(object, "members", ckpt_members(s));
    return object;
}

JsonObject *
standby_status_to_json(const District__StandbyStatusReply *s)
{
    JsonObject *object = json_object_new();

    json_object_set_boolean_member(object, "connected", s->connected);
    json_object_set_int_member(object, "committed_epoch", (gint64)s->committed_epoch);
    json_object_set_int_member(object, "incarnation", (gint64)s->incarnation);
    json_object_set_int_member(object, "received_bytes", (gint64)s->received_bytes);
    json_object_set_int_member(object, "epochs", (gint64)s->epochs);
    json_object_set_int_member(object, "ram_bytes", (gint64)s->ram_bytes);
    json_object_set_int_member(object, "heard_ms_ago", (gint64)s->heard_ms_ago);
    json_object_set_int_member(object, "committed_realtime_ns", s->committed_realtime_ns);
    json_object_set_string_member(object, "error", s->error);
    json_object_set_string_member(object, "peer", s->peer);
    return object;
}
