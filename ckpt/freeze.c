/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A cut becomes an epoch on each sink that takes part: EPOCH_BEGIN, pages, STATE, EPOCH_END. */
#include "ckpt/coordinator-internal.h"

#include "common/trace.h"

/* The disks of a member that are in cuts, as messages: room for DISKS_MAX. Returns how many. */
static size_t
freeze_disks(const Member *m, District__StreamDisk *disks, District__StreamDisk **list)
{
    size_t n = 0;

    for (unsigned k = 0; k < m->n_disks; k++) {
        if (!m->disks[k].overlay)
            continue;
        district__stream_disk__init(&disks[n]);
        disks[n].size = m->disks[k].size;
        list[n] = &disks[n];
        n++;
    }
    return n;
}

/* Room for the lists of all members that a message points to. */
typedef struct FreezeLists {
    District__RamRegion **regions;
    District__StreamDisk *disks;
    District__StreamDisk **disk_list;
} FreezeLists;

static void
freeze_lists_init(FreezeLists *lists, uint32_t n_members)
{
    lists->regions = g_new0(District__RamRegion *, (size_t)n_members * MEMBER_REGIONS_MAX);
    lists->disks = g_new0(District__StreamDisk, (size_t)n_members * DISKS_MAX);
    lists->disk_list = g_new0(District__StreamDisk *, (size_t)n_members * DISKS_MAX);
}

static void
freeze_lists_clear(FreezeLists *lists)
{
    g_free(lists->regions);
    g_free(lists->disks);
    g_free(lists->disk_list);
}

static GByteArray *
freeze_pack(const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    GByteArray *packed = g_byte_array_new();

    g_byte_array_set_size(packed, (guint)bytes);
    protobuf_c_message_pack(message, packed->data);
    return packed;
}

static void
freeze_member_layout(const Member *m, uint32_t i, FreezeLists *lists, District__StreamMember *out)
{
    size_t at = (size_t)i * DISKS_MAX;

    district__stream_member__init(out);
    out->name = m->name;
    out->ram_size = m->ram_size;
    out->n_regions = m->n_regions;
    out->regions = lists->regions + (size_t)i * MEMBER_REGIONS_MAX;
    for (size_t k = 0; k < m->n_regions; k++)
        out->regions[k] = &m->regions[k];
    out->disks = lists->disk_list + at;
    out->n_disks = freeze_disks(m, lists->disks + at, out->disks);
}

/* What will come of each disk, of which a standby must have the room. */
static void
freeze_data(Coordinator *c, const DiskSync *sync, FreezeLists *lists)
{
    for (uint32_t i = 0; i < c->n_disks; i++) {
        const CutDisk *disk = &c->disks[i];
        lists->disks[(size_t)disk->member * DISKS_MAX + disk->number].data =
            disks_data(c, i, sync != NULL ? disk_sync_data(sync, disks_image(c, i)) : 0);
    }
}

/* A StreamEpochBegin and all that it points to. */
typedef struct FreezeBegin {
    District__StreamEpochBegin message;
    District__StreamMember *members;
    FreezeLists lists;
} FreezeBegin;

static void
freeze_begin_fill(Coordinator *c, uint64_t number, bool full, uint64_t base, FreezeBegin *out)
{
    district__stream_epoch_begin__init(&out->message);
    out->members = g_new0(District__StreamMember, c->n_members);
    freeze_lists_init(&out->lists, c->n_members);
    out->message.epoch = number;
    out->message.full = full;
    out->message.base_epoch = base;
    out->message.members = g_new0(District__StreamMember *, c->n_members);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!member_is_listed(c->members[i]))
            continue;
        freeze_member_layout(c->members[i], i, &out->lists, &out->members[i]);
        out->message.members[out->message.n_members++] = &out->members[i];
    }
}

static void
freeze_begin_clear(FreezeBegin *begin)
{
    g_free(begin->message.members);
    g_free(begin->members);
    freeze_lists_clear(&begin->lists);
}

GByteArray *
freeze_pack_begin(Coordinator *c, uint64_t number, bool full, uint64_t base)
{
    FreezeBegin begin;

    freeze_begin_fill(c, number, full, base, &begin);
    GByteArray *packed = freeze_pack(&begin.message.base);
    freeze_begin_clear(&begin);
    return packed;
}

void
freeze_begin(Coordinator *c, Target *target, uint64_t number, bool full, uint64_t base)
{
    FreezeBegin begin;

    freeze_begin_fill(c, number, full, base, &begin);
    if (full && target == c->stream)
        freeze_data(c, target->disk_sync, &begin.lists);
    sink_begin(target->sink, &begin.message);
    freeze_begin_clear(&begin);
}

static void
freeze_member_state(const Coordinator *c, const Epoch *epoch, uint32_t i, FreezeLists *lists,
                    District__CutMember *out)
{
    District__StreamMember layout;

    freeze_member_layout(c->members[i], i, lists, &layout);
    district__cut_member__init(out);
    out->name = layout.name;
    out->ram_size = layout.ram_size;
    out->n_regions = layout.n_regions;
    out->regions = layout.regions;
    out->n_disks = layout.n_disks;
    out->disks = layout.disks;
    out->engine = c->members[i]->engine;
    if (!epoch->members[i].state)
        return; /* off: only its disks are there */
    out->state.data = epoch->members[i].state->data;
    out->state.len = epoch->members[i].state->len;
}

static void
freeze_fill_state(const Coordinator *c, const Epoch *epoch, uint64_t number,
                  District__CutState *cut)
{
    cut->version = CUT_STATE_VERSION;
    cut->district = c->district;
    cut->epoch = number;
    cut->cut = epoch->cut;
    cut->incarnation = c->incarnation;
    cut->net.data = epoch->net->data;
    cut->net.len = epoch->net->len;
    cut->definition = c->definition;
    cut->realtime_ns = epoch->realtime_ns;
}

GByteArray *
freeze_pack_state(const Coordinator *c, const Epoch *epoch, uint64_t number, GError **error)
{
    District__CutState cut = DISTRICT__CUT_STATE__INIT;
    g_autofree District__CutMember *members = g_new0(District__CutMember, c->n_members);
    g_autofree District__CutMember **list = g_new0(District__CutMember *, c->n_members);
    GByteArray *packed = NULL;
    FreezeLists lists;

    freeze_lists_init(&lists, c->n_members);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!member_is_listed(c->members[i]))
            continue;
        freeze_member_state(c, epoch, i, &lists, &members[i]);
        list[cut.n_members++] = &members[i];
    }
    freeze_fill_state(c, epoch, number, &cut);
    cut.members = list;
    size_t bytes = district__cut_state__get_packed_size(&cut);
    if (bytes <= CUT_STATE_BYTES_MAX)
        packed = freeze_pack(&cut.base);
    else
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "the state of the cut beside RAM takes %zu bytes, above the limit of %u", bytes,
                    CUT_STATE_BYTES_MAX);
    freeze_lists_clear(&lists);
    return packed;
}

void
freeze_queue(Coordinator *c, Target *target, Epoch *epoch, uint64_t number, bool full,
             const DurableRange *ranges)
{
    GError *error = NULL;
    GByteArray *state = freeze_pack_state(c, epoch, number, &error);

    if (!state) {
        sink_fail(target->sink, error);
        return;
    }
    sink_epoch_pages(target->sink, epoch, number, full);
    if (ranges && !disks_queue(c, target, number, ranges, &error))
        sink_fail(target->sink, error);
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
    g_autofree DurableRange *ranges = disks_streamed_ranges(c);
    freeze_queue(c, target, epoch, epoch->number, full, ranges);
    c->stream_base = epoch->number;
    target->phase = TARGET_STEADY;
    g_queue_push_tail(&c->in_flight, epoch_ref(epoch));
}

static void
freeze_to_file(Coordinator *c, Epoch *epoch)
{
    freeze_queue(c, c->file, epoch, c->file->number, true, NULL);
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
    persist_take(c, epoch);
    if (target_takes_cut(c->stream))
        freeze_to_stream(c, epoch);
    if (c->file && c->file->phase == TARGET_COMPLETING)
        freeze_to_file(c, epoch);
    c->staging_active = coordinator_stages(c);
    trace_epoch_frozen(epoch->cut, epoch->number, staging_pages(epoch->staging));
}
