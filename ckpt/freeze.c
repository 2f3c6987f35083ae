/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A cut becomes an epoch on each sink that takes part: EPOCH_BEGIN, pages, STATE, EPOCH_END. */
#include "ckpt/coordinator-internal.h"

void
freeze_begin(Coordinator *c, Target *target, uint64_t number, bool full, uint64_t base)
{
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    g_autofree District__StreamMember *members = g_new0(District__StreamMember, c->n_members);
    g_autofree District__StreamMember **list = g_new0(District__StreamMember *, c->n_members);
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func(g_free);

    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        if (!member_is_on(m))
            continue;
        District__RamRegion **r = g_new0(District__RamRegion *, m->n_regions);
        for (size_t k = 0; k < m->n_regions; k++)
            r[k] = &m->regions[k];
        g_ptr_array_add(regions, r);
        district__stream_member__init(&members[i]);
        members[i].name = m->name;
        members[i].ram_size = m->ram_size;
        members[i].n_regions = m->n_regions;
        members[i].regions = r;
        list[begin.n_members++] = &members[i];
    }
    begin.epoch = number;
    begin.full = full;
    begin.base_epoch = base;
    begin.members = list;
    sink_begin(target->sink, &begin);
}

static void
freeze_member_state(const Coordinator *c, const Epoch *epoch, uint32_t i, District__CutMember *out,
                    District__RamRegion **regions)
{
    Member *m = c->members[i];

    district__cut_member__init(out);
    for (size_t k = 0; k < m->n_regions; k++)
        regions[k] = &m->regions[k];
    out->name = m->name;
    out->ram_size = m->ram_size;
    out->n_regions = m->n_regions;
    out->regions = regions;
    out->engine = m->engine;
    out->state.data = epoch->members[i].state->data;
    out->state.len = epoch->members[i].state->len;
}

/* The packed CutState of epoch under its number on one sink; NULL with error set if too large. */
static GByteArray *
freeze_pack_state(const Coordinator *c, const Epoch *epoch, uint64_t number, GError **error)
{
    District__CutState cut = DISTRICT__CUT_STATE__INIT;
    g_autofree District__CutMember *members = g_new0(District__CutMember, c->n_members);
    g_autofree District__CutMember **list = g_new0(District__CutMember *, c->n_members);
    g_autofree District__RamRegion **regions =
        g_new0(District__RamRegion *, (size_t)c->n_members * MEMBER_REGIONS_MAX);

    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!epoch->members[i].state)
            continue;
        freeze_member_state(c, epoch, i, &members[i], regions + (size_t)i * MEMBER_REGIONS_MAX);
        list[cut.n_members++] = &members[i];
    }
    cut.version = CUT_STATE_VERSION;
    cut.district = c->district;
    cut.epoch = number;
    cut.cut = epoch->cut;
    cut.incarnation = c->incarnation;
    cut.members = list;
    cut.net.data = epoch->net->data;
    cut.net.len = epoch->net->len;
    cut.definition = c->definition;
    cut.realtime_ns = epoch->realtime_ns;

    size_t bytes = district__cut_state__get_packed_size(&cut);
    if (bytes > CUT_STATE_BYTES_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "the state of the cut beside RAM takes %zu bytes, above the limit of %u", bytes,
                    CUT_STATE_BYTES_MAX);
        return NULL;
    }
    GByteArray *packed = g_byte_array_new();
    g_byte_array_set_size(packed, (guint)bytes);
    district__cut_state__pack(&cut, packed->data);
    return packed;
}

/* Queue what epoch has for target; its EPOCH_BEGIN is queued already. */
static void
freeze_queue(Coordinator *c, Target *target, Epoch *epoch, uint64_t number, bool full)
{
    GError *error = NULL;
    GByteArray *state = freeze_pack_state(c, epoch, number, &error);

    if (!state) {
        sink_fail(target->sink, error);
        return;
    }
    sink_epoch_pages(target->sink, epoch, number, full);
    sink_state_end(target->sink, number, state);
}

static void
freeze_to_stream(Coordinator *c, Epoch *epoch)
{
    Target *target = c->stream;
    bool full = target->phase == TARGET_COMPLETING;

    epoch->number = full ? target->number : epoch->cut;
    if (!full)
        freeze_begin(c, target, epoch->number, false, c->stream_base);
    freeze_queue(c, target, epoch, epoch->number, full);
    c->stream_base = epoch->number;
    target->phase = TARGET_STEADY;
    g_queue_push_tail(&c->in_flight, epoch_ref(epoch));
}

static void
freeze_to_file(Coordinator *c, Epoch *epoch)
{
    freeze_queue(c, c->file, epoch, c->file->number, true);
    sink_finish(c->file->sink);
    c->file->phase = TARGET_FINISHING;
}

void
freeze_epoch(Coordinator *c, Epoch *epoch)
{
    G_GNUC_UNUSED g_autoptr(Epoch) owned = epoch;

    epoch->pool = c->stagings;
    epoch->staging = c->staging;
    c->staging = staging_pool_take(c->stagings);
    if (target_takes_cut(c->stream))
        freeze_to_stream(c, epoch);
    if (c->file && c->file->phase == TARGET_COMPLETING)
        freeze_to_file(c, epoch);
    c->staging_active = c->stream && c->stream->phase == TARGET_STEADY;
}
