/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks in cuts. */
#include "ckpt/coordinator-internal.h"

#include <sys/stat.h>

#define DISKS_LOOK_NS (100 * NS_PER_MS)

/* A sink's workers read the data of entries from cut low on. */
typedef struct DiskHold {
    gint refs; /* atomic: the queue's and the sink's */
    gint done; /* atomic */
    uint64_t low;
    Inbox *inbox;
} DiskHold;

static void
disk_hold_unref(DiskHold *hold)
{
    if (g_atomic_int_dec_and_test(&hold->refs))
        g_free(hold);
}

/* Any thread. */
static void
disk_hold_done(gpointer data)
{
    DiskHold *hold = data;

    g_atomic_int_set(&hold->done, 1);
    inbox_wake(hold->inbox);
    disk_hold_unref(hold);
}

static DiskHold *
disk_hold_new(Coordinator *c, CutDisk *disk, uint64_t low)
{
    DiskHold *hold = g_new0(DiskHold, 1);

    *hold = (DiskHold){.refs = 2, .low = low, .inbox = c->inbox};
    g_queue_push_tail(&disk->holds, hold);
    return hold;
}

void
disks_begin(Coordinator *c)
{
    g_autoptr(GArray) disks = g_array_new(FALSE, TRUE, sizeof(CutDisk));

    for (uint32_t m = 0; m < c->n_members; m++) {
        unsigned number = 0;
        for (unsigned k = 0; k < c->members[m]->n_disks; k++) {
            const MemberDisk *md = &c->members[m]->disks[k];
            CutDisk disk = {.member = m,
                            .index = k,
                            .number = number,
                            .stored_end = UINT64_MAX,
                            .listed = md->home[0] != '\0'}; /* else all of it is in the store */
            if (!md->overlay)
                continue;
            number++;
            g_array_append_val(disks, disk);
        }
    }
    c->n_disks = disks->len;
    c->disks = (CutDisk *)(void *)g_array_free(g_steal_pointer(&disks), FALSE);
    for (uint32_t i = 0; i < c->n_disks; i++)
        g_queue_init(&c->disks[i].holds);
}

void
disks_free(Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_disks; i++)
        g_queue_clear_full(&c->disks[i].holds, (GDestroyNotify)disk_hold_unref);
    g_clear_pointer(&c->disks, g_free);
    c->n_disks = 0;
}

MemberDisk *
disks_member_disk(const Coordinator *c, uint32_t i)
{
    return &c->members[c->disks[i].member]->disks[c->disks[i].index];
}

uint32_t
disks_image(const Coordinator *c, uint32_t i)
{
    return members_listed(c, NULL) + i;
}

static DurableRange
disk_range(const Coordinator *c, uint32_t i, uint64_t from)
{
    const MemberDisk *disk = disks_member_disk(c, i);

    return (DurableRange){
        .image = disks_image(c, i), .from = from, .to = disk->index_end, .cut = disk->cut};
}

DurableRange *
disks_stored_ranges(Coordinator *c)
{
    DurableRange *ranges = g_new0(DurableRange, MAX(c->n_disks, 1));

    for (uint32_t i = 0; i < c->n_disks; i++) {
        ranges[i] = disk_range(c, i, c->disks[i].stored);
        ranges[i].to = MIN(ranges[i].to, c->disks[i].stored_end);
        c->disks[i].stored = ranges[i].to;
        c->disks[i].writing_cut = ranges[i].cut;
    }
    return ranges;
}

DurableRange *
disks_streamed_ranges(Coordinator *c)
{
    DurableRange *ranges = g_new0(DurableRange, MAX(c->n_disks, 1));

    for (uint32_t i = 0; i < c->n_disks; i++) {
        ranges[i] = disk_range(c, i, c->disks[i].streamed);
        c->disks[i].streamed = ranges[i].to;
    }
    return ranges;
}

static gboolean
disk_queue(Coordinator *c, Target *target, uint64_t number, uint32_t i, const DurableRange *range,
           GError **error)
{
    CutDisk *disk = &c->disks[i];
    const MemberDisk *md = disks_member_disk(c, i);
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(DiskIndexEntry));

    if (!member_disk_read(md, range->from, range->to, entries, error))
        return FALSE;
    if (entries->len == 0)
        return TRUE;
    DiskHold *hold = disk_hold_new(
        c, disk, target == c->stream ? disk->streamed_cut + 1 : disk->durable_cut + 1);
    sink_disk_blocks(target->sink, number, range->image, md->data_fd,
                     (const DiskIndexEntry *)(const void *)entries->data, entries->len,
                     disk_hold_done, hold);
    return TRUE;
}

gboolean
disks_queue(Coordinator *c, Target *target, uint64_t number, const DurableRange *ranges,
            GError **error)
{
    for (uint32_t i = 0; i < c->n_disks; i++) {
        if (!disk_queue(c, target, number, i, &ranges[i], error))
            return FALSE;
        if (target == c->stream)
            c->disks[i].streamed_cut = ranges[i].cut;
    }
    return TRUE;
}

DiskSync *
disks_sync_homes(Coordinator *c)
{
    g_autofree DiskSyncHome *homes = g_new0(DiskSyncHome, MAX(c->n_disks, 1));
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_disks; i++) {
        const MemberDisk *disk = disks_member_disk(c, i);
        homes[n++] =
            (DiskSyncHome){.image = disks_image(c, i), .home = disk->home, .bytes = disk->size};
    }
    return n > 0 ? disk_sync_new(homes, n, c->disk_sync_rate, c->inbox) : NULL;
}

uint64_t
disks_data(const Coordinator *c, uint32_t i, uint64_t home)
{
    const MemberDisk *disk = disks_member_disk(c, i);
    struct stat st;
    uint64_t overlay = fstat(disk->data_fd, &st) == 0 ? (uint64_t)st.st_blocks * SECTOR_BYTES : 0;

    /* Much of one may be in the other as well. */
    return MIN(disk->size, MAX(home, overlay));
}

/* ---- What engines are told ---- */

/* The stream still needs the data of entries from this cut on; UINT64_MAX: of none. */
static uint64_t
disk_stream_needs(const Coordinator *c, CutDisk *disk)
{
    /* What has been listed for it may come before its full copy has begun. */
    bool streams = c->stream && (c->stream->phase >= TARGET_SYNCING || disk->streamed_whole);
    uint64_t needs = streams ? disk->streamed_cut + 1 : UINT64_MAX;
    DiskHold *hold;

    while ((hold = g_queue_peek_head(&disk->holds)) && g_atomic_int_get(&hold->done))
        disk_hold_unref(g_queue_pop_head(&disk->holds));
    for (GList *at = disk->holds.head; at; at = at->next)
        needs = MIN(needs, ((DiskHold *)at->data)->low);
    return needs;
}

/* Notes for the disks of one member; returns how many. *news: something of it is new. */
static size_t
disks_notes(Coordinator *c, uint32_t member, District__MemberDiskNote notes[DISKS_MAX], bool *news)
{
    size_t n = 0;

    *news = false;
    for (uint32_t i = 0; i < c->n_disks; i++) {
        CutDisk *disk = &c->disks[i];
        if (disk->member != member)
            continue;
        uint64_t released = MIN(disk->durable_cut + 1, disk_stream_needs(c, disk));
        uint64_t home = durable_home_below(c->persist->durable, i);
        *news = *news || released > disk->released_below || home > disk->home_below;
        disk->released_below = MAX(disk->released_below, released);
        disk->home_below = MAX(disk->home_below, home);
        district__member_disk_note__init(&notes[n]);
        notes[n].released_below = disk->released_below;
        notes[n++].home_below = disk->home_below;
    }
    return n;
}

static bool
disks_send(Coordinator *c, uint32_t member, bool resend, GError **error)
{
    District__MemberDiskNote notes[DISKS_MAX];
    District__MemberDiskNote *list[DISKS_MAX];
    bool news;
    size_t n = disks_notes(c, member, notes, &news);

    for (size_t k = 0; k < n; k++) {
        notes[k].resend = resend;
        list[k] = &notes[k];
    }
    return n > 0 && (news || resend) && member_is_on(c->members[member]) &&
           member_send_disks(c->members[member], list, n, error);
}

/* Tell the members of what is new. resend: of each, whether it is to list all again; whether it has. */
static bool
disks_tell(Coordinator *c, bool *resend)
{
    GError **errors = g_newa0(GError *, c->n_members);
    bool *asked = g_newa0(bool, c->n_members);

    for (uint32_t m = 0; m < c->n_members; m++)
        asked[m] = disks_send(c, m, resend[m], &errors[m]);
    for (uint32_t m = 0; m < c->n_members; m++)
        resend[m] = asked[m] && member_collect_disks(c->members[m], &errors[m]) && resend[m];
    return members_settle(c, errors);
}

void
disks_begin_stored(Coordinator *c, bool known)
{
    for (uint32_t i = 0; i < c->n_disks; i++) {
        const Member *m = c->members[c->disks[i].member];
        c->disks[i].stored = disks_member_disk(c, i)->index_end;
        c->disks[i].stored_whole = known || !member_is_on(m);
    }
}

void
disks_untake_stored(Coordinator *c, const DurableRange *ranges)
{
    for (uint32_t i = 0; i < c->n_disks; i++)
        c->disks[i].stored = ranges[i].from;
}

bool
disks_stored_whole(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_disks; i++) {
        if (!c->disks[i].stored_whole)
            return false;
    }
    return true;
}

void
disks_resend_stored(Coordinator *c)
{
    bool *resend = g_newa0(bool, c->n_members);

    for (uint32_t i = 0; i < c->n_disks; i++)
        resend[c->disks[i].member] = resend[c->disks[i].member] || !c->disks[i].stored_whole;
    disks_tell(c, resend);
    for (uint32_t i = 0; i < c->n_disks; i++)
        c->disks[i].stored_whole = c->disks[i].stored_whole || resend[c->disks[i].member];
}

void
disks_begin_streamed(Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_disks; i++)
        c->disks[i].streamed_whole = false;
}

bool
disks_resend_streamed(Coordinator *c)
{
    bool *resend = g_newa0(bool, c->n_members);
    bool whole = true;

    for (uint32_t i = 0; i < c->n_disks; i++) {
        CutDisk *disk = &c->disks[i];
        bool on = member_is_on(c->members[disk->member]);
        if (disk->streamed_whole)
            continue;
        disk->streamed = on ? disks_member_disk(c, i)->index_end : disk->listed_from;
        disk->streamed_cut = disks_member_disk(c, i)->cut;
        disk->streamed_whole = !on;
        resend[disk->member] = on;
    }
    bool good = disks_tell(c, resend);
    for (uint32_t i = 0; i < c->n_disks; i++) {
        c->disks[i].streamed_whole = c->disks[i].streamed_whole || resend[c->disks[i].member];
        whole = whole && c->disks[i].streamed_whole;
    }
    return good && whole;
}

/* ---- Members that are off ---- */

static bool
disks_list_last(Coordinator *c, uint32_t member)
{
    g_autoptr(GError) error = NULL;

    if (disks_send(c, member, true, &error) && member_collect_disks_off(c->members[member], &error))
        return true;
    g_warning("member %s: it is off, and what its disks have beside their images is not known: %s",
              c->members[member]->name, error ? error->message : "its engine has ended");
    return false;
}

void
disks_member_off(Coordinator *c, uint32_t member)
{
    bool any = false;

    for (uint32_t i = 0; i < c->n_disks; i++) {
        CutDisk *disk = &c->disks[i];
        if (disk->member != member)
            continue;
        any = true;
        disk->listed = false;
        disk->listed_from = disks_member_disk(c, i)->index_end;
    }
    if (!any || !c->persist || !disks_list_last(c, member))
        return;
    for (uint32_t i = 0; i < c->n_disks; i++) {
        CutDisk *disk = &c->disks[i];
        if (disk->member != member)
            continue;
        disk->listed = true;
        /* What the store does not lack is not written to it once more. */
        if (disk->stored_whole)
            disk->stored_end = disk->listed_from;
        disk->stored_whole = true;
    }
}

void
disks_own_homes(Coordinator *c, uint32_t member)
{
    Member *m = c->members[member];

    for (unsigned k = 0; k < m->n_disks; k++)
        member_disk_own_home(&m->disks[k]);
    for (uint32_t i = 0; i < c->n_disks && c->persist; i++) {
        if (c->disks[i].member == member)
            durable_set_home(c->persist->durable, i, disks_member_disk(c, i)->home);
    }
}

const char *
disks_unlisted(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_disks; i++) {
        const Member *m = c->members[c->disks[i].member];
        if (!member_is_on(m) && !c->disks[i].listed)
            return m->name;
    }
    return NULL;
}

void
disks_tick(Coordinator *c, int64_t now)
{
    if (c->n_disks == 0 || !c->persist || !coordinator_runs(c) || now < c->next_disks_ns)
        return;
    c->next_disks_ns = now + DISKS_LOOK_NS;
    disks_tell(c, g_newa0(bool, c->n_members));
}
