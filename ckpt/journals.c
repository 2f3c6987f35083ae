/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Journals on their way to the standby.
 *
 * Theory of operation. An engine does a write in its image first, and durably, then tells of it
 * here; the data is read from the image and sent at once, ahead of what is queued of epochs, in the
 * order in which it was told. What "ended" means to the guest follows from the engine's mode:
 *
 *   FREE  the district is not protected, or no longer counts as such: nobody is told
 *   COPY  the standby is being given a copy: writes are told, and sent, but do not wait
 *   HOLD  writes wait until the standby has acknowledged them, or until they are set free
 *
 * A stream begins with a copy of all journals (OPENING, COPYING), as a stream begins with all of RAM.
 * When that and what was written meanwhile is durable there, engines are told to hold (CLOSING), the
 * copies take the place of what the standby had (PUBLISHING), and from then on every write is
 * acknowledged before it ends (LIVE). Only then may the cut be made that completes the full epoch
 * (target.c): so an epoch that can be failed over to never finds a journal without a write that has
 * ended.
 *
 * When a stream is lost, writes go on waiting, for a new stream and its copy, which has them, or for
 * the moment in which held output is released (protect.c); then they are free, and so are those that
 * are told later. A stream that is being brought up again holds before output does: its writes wait
 * for a standby that answers, and if it is lost before output is held again they are free at once.
 *
 * A district-ckpt that comes after another one finds engines that hold, and does as if it had lost
 * the stream itself.
 */
#include "ckpt/journals.h"

#include "ckpt/coordinator-internal.h"

#include <string.h>

#define MODE_FREE DISTRICT__JOURNAL_MODE__JOURNAL_MODE_FREE
#define MODE_COPY DISTRICT__JOURNAL_MODE__JOURNAL_MODE_COPY
#define MODE_HOLD DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD
/* Records of a copy sent and not acknowledged: of 1 MiB at most. */
#define COPY_AHEAD_MAX 16
/* And in all: then engines are not listened to. */
#define AHEAD_MAX 256
/* An engine whose guest is off stays for 2 s; one that stays for longer without its link is broken. */
#define LINK_GONE_NS (5 * NS_PER_S)

/* A write that an engine has told of. */
typedef struct ToldWrite {
    uint32_t member;
    uint64_t engine_seq;
    /* The last record with its data on this stream; 0: the copy has it; UINT64_MAX: none has, and the
     * stream is about to be lost. */
    uint64_t sent;
} ToldWrite;

static MemberJournal *
journal_of(const Coordinator *c, uint32_t member)
{
    MemberJournal *journal = &c->members[member]->journal;

    return journal->path != NULL ? journal : NULL;
}

bool
journals_are(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (journal_of(c, i) != NULL)
            return true;
    }
    return false;
}

bool
journals_ready(const Coordinator *c)
{
    return c->journals.phase == JOURNALS_LIVE || !journals_are(c);
}

/* ---- Sending ---- */

static void
journals_send(Coordinator *c, District__StreamJournal *record)
{
    Journals *j = &c->journals;

    if (j->sent == j->acked)
        j->waited_ns = clock_monotonic_ns();
    record->seq = ++j->sent;
    sink_journal(c->stream->sink, record);
}

static void
journals_send_data(Coordinator *c, uint32_t member, uint64_t offset, uint8_t *data, size_t len)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA;
    record.member = c->members[member]->name;
    record.offset = offset;
    record.data.data = data;
    record.data.len = len;
    journals_send(c, &record);
}

static void
journals_send_begin(Coordinator *c, uint32_t member)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN;
    record.member = c->members[member]->name;
    record.size = journal_of(c, member)->size;
    journals_send(c, &record);
}

static void
journals_send_publish(Coordinator *c)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;

    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH;
    journals_send(c, &record);
}

/* ---- Modes ---- */

/* Order mode of all engines that are there and have another one. */
static void
journals_set_mode(Coordinator *c, District__JournalMode mode, bool also_holding)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        MemberJournal *journal = journal_of(c, i);

        if (journal != NULL && journal->link >= 0 && journal->mode != mode &&
            (also_holding || journal->mode != MODE_HOLD))
            member_journal_set_mode(journal, mode);
    }
}

static bool
journals_confirmed(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        const MemberJournal *journal = journal_of(c, i);

        if (journal != NULL && journal->orders > 0)
            return false;
    }
    return true;
}

static void
journals_forget_told(Coordinator *c)
{
    g_queue_clear_full(&c->journals.told, g_free);
}

void
journals_release(Coordinator *c)
{
    Journals *j = &c->journals;

    /* A stream that lives is waited for. */
    if (j->phase >= JOURNALS_CLOSING)
        return;
    journals_set_mode(c, j->phase == JOURNALS_OFF ? MODE_FREE : MODE_COPY, true);
    journals_forget_told(c);
}

/* ---- What engines tell ---- */

/* Send what is in the ranges now. FALSE: the stream has failed. */
static bool
journals_send_ranges(Coordinator *c, uint32_t member, const District__JournalWritten *written)
{
    for (size_t i = 0; i < written->n_ranges; i++) {
        const District__JournalRange *range = written->ranges[i];
        g_autofree uint8_t *data = g_malloc(range->len);
        GError *error = NULL;

        if (!member_journal_read(journal_of(c, member), range->offset, data, range->len, &error)) {
            sink_fail(c->stream->sink, error);
            return false;
        }
        journals_send_data(c, member, range->offset, data, range->len);
    }
    return true;
}

static void
journals_written(Coordinator *c, uint32_t member, const District__JournalWritten *written)
{
    Journals *j = &c->journals;
    ToldWrite *told;

    told = g_new(ToldWrite, 1);
    *told = (ToldWrite){member, written->seq, 0};
    if (j->phase >= JOURNALS_COPYING)
        told->sent = journals_send_ranges(c, member, written) ? j->sent : UINT64_MAX;
    g_queue_push_tail(&j->told, told);
}

bool
journals_full(const Coordinator *c)
{
    return c->journals.sent - c->journals.acked > AHEAD_MAX && c->journals.phase != JOURNALS_OFF;
}

void
journals_take(Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        MemberJournal *journal = journal_of(c, i);
        District__JournalNews *news;

        while (journal != NULL && !journals_full(c) &&
               (news = member_journal_take(journal, c->members[i]->name))) {
            /* Without a stream only those are remembered that wait. */
            if (c->journals.phase != JOURNALS_OFF || journal->mode == MODE_HOLD)
                journals_written(c, i, news->written);
            district__journal_news__free_unpacked(news, NULL);
        }
    }
}

/* What the standby has now, durably and in the place where it is looked for, may end. */
static void
journals_end_told(Coordinator *c)
{
    Journals *j = &c->journals;
    const ToldWrite *told;

    while ((told = g_queue_peek_head(&j->told)) && told->sent <= j->acked) {
        member_journal_end(journal_of(c, told->member), told->engine_seq);
        g_free(g_queue_pop_head(&j->told));
    }
}

/* ---- The life of a stream ---- */

void
journals_stream_up(Coordinator *c)
{
    Journals *j = &c->journals;

    if (!journals_are(c))
        return;
    j->sent = j->acked = j->awaited = 0;
    j->phase = JOURNALS_OPENING;
    journals_set_mode(c, MODE_COPY, false);
}

void
journals_stream_down(Coordinator *c)
{
    Journals *j = &c->journals;

    if (j->phase == JOURNALS_OFF)
        return;
    j->phase = JOURNALS_OFF;
    g_clear_pointer(&j->copy, disk_sync_free);
    for (GList *at = j->told.head; at; at = at->next)
        ((ToldWrite *)at->data)->sent = 0; /* the next copy has it */
    if (c->protect.net_told == NET_TOLD_FREE)
        journals_release(c);
    else
        journals_set_mode(c, MODE_FREE, false);
}

static void
journals_begin_copy(Coordinator *c)
{
    Journals *j = &c->journals;
    g_autofree DiskSyncHome *homes = g_new0(DiskSyncHome, c->n_members);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        const MemberJournal *journal = journal_of(c, i);

        if (journal == NULL)
            continue;
        g_ptr_array_add(names, g_strconcat("raw:", journal->path, NULL));
        homes[n] = (DiskSyncHome){.image = i, .home = names->pdata[n], .bytes = journal->size};
        n++;
        journals_send_begin(c, i);
    }
    j->copy = disk_sync_new(homes, n, c->disk_sync_rate, c->inbox);
    disk_sync_begin(j->copy);
    j->phase = JOURNALS_COPYING;
}

/*
 * Runs of blocks that lie one after the other, as a record each. What the batch has of them may be
 * older than a write that has been sent meanwhile, and must not go over it: they are read again.
 */
static bool
journals_send_batch(Coordinator *c, const DiskSyncBatch *batch, GError **error)
{
    for (uint32_t i = 0, n; i < batch->n; i += n) {
        uint64_t offset = batch->blocks[i] * PAGE_BYTES;
        uint8_t *data = batch->data + i * PAGE_BYTES;

        for (n = 1; i + n < batch->n && batch->blocks[i + n] == batch->blocks[i] + n;)
            n++;
        if (!member_journal_read(journal_of(c, batch->image), offset, data, n * PAGE_BYTES, error))
            return false;
        journals_send_data(c, batch->image, offset, data, n * PAGE_BYTES);
    }
    return true;
}

static void
journals_copy_on(Coordinator *c)
{
    Journals *j = &c->journals;
    DiskSyncBatch *batch;
    GError *error = NULL;

    while (!error && j->sent - j->acked < COPY_AHEAD_MAX && (batch = disk_sync_take(j->copy))) {
        journals_send_batch(c, batch, &error);
        disk_sync_batch_free(batch);
    }
    if (!error && !disk_sync_over(j->copy, &error))
        return;
    g_clear_pointer(&j->copy, disk_sync_free);
    j->awaited = j->sent;
    if (error)
        sink_fail(c->stream->sink, error);
}

/* As far as it goes without waiting. */
static void
journals_go_on(Coordinator *c)
{
    Journals *j = &c->journals;

    if (j->phase == JOURNALS_OPENING && journals_confirmed(c))
        journals_begin_copy(c);
    if (j->phase == JOURNALS_COPYING && j->copy)
        journals_copy_on(c);
    if (j->phase == JOURNALS_COPYING && !j->copy && j->acked >= j->awaited) {
        j->phase = JOURNALS_CLOSING;
        journals_set_mode(c, MODE_HOLD, true);
    }
    if (j->phase == JOURNALS_CLOSING && journals_confirmed(c)) {
        journals_send_publish(c);
        j->awaited = j->sent;
        j->phase = JOURNALS_PUBLISHING;
    }
    if (j->phase == JOURNALS_PUBLISHING && j->acked >= j->awaited)
        j->phase = JOURNALS_LIVE;
    if (j->phase == JOURNALS_LIVE)
        journals_end_told(c);
}

void
journals_ack(Coordinator *c, uint64_t seq)
{
    Journals *j = &c->journals;

    if (seq > j->sent || seq < j->acked) {
        sink_fail(c->stream->sink,
                  g_error_new(FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                              "the standby acknowledged JOURNAL record %" G_GUINT64_FORMAT
                              " of %" G_GUINT64_FORMAT,
                              seq, j->sent));
        return;
    }
    j->acked = seq;
    j->waited_ns = clock_monotonic_ns();
    journals_go_on(c);
}

int64_t
journals_stalled_ns(const Coordinator *c, int64_t now)
{
    const Journals *j = &c->journals;

    return j->phase != JOURNALS_OFF && j->sent > j->acked ? now - j->waited_ns : 0;
}

/* An engine that lives without its link would let its guest wait for ever. */
static void
journals_check_links(Coordinator *c, int64_t now)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        const MemberJournal *journal = journal_of(c, i);

        if (journal == NULL || journal->ended_ns == 0 || now - journal->ended_ns < LINK_GONE_NS ||
            !member_is_on(c->members[i]))
            continue;
        members_trouble(c, c->members[i],
                        g_error_new(MEMBER_ERROR, MEMBER_ERROR_LOST,
                                    "member %s: the link of its journal has ended, and its engine "
                                    "has not",
                                    c->members[i]->name));
    }
}

void
journals_tick(Coordinator *c, int64_t now)
{
    journals_check_links(c, now);
    if (c->journals.phase != JOURNALS_OFF)
        journals_go_on(c);
}
