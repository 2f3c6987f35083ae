/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Full syncs. */
#include "ckpt/target.h"

#include "ckpt/coordinator-internal.h"
#include "common/pagebits.h"

#include <unistd.h>

Target *
target_new(Coordinator *c, Sink *sink)
{
    Target *target = g_new0(Target, 1);

    target->sink = sink;
    target->n_members = c->n_members;
    target->words = g_new0(size_t, c->n_members);
    for (uint32_t i = 0; i < c->n_members; i++)
        target->words[i] = c->members[i]->words;
    return target;
}

static void
target_clear_pending(Target *target)
{
    for (uint32_t i = 0; target->pending && i < target->n_members; i++)
        g_free(target->pending[i]);
    g_clear_pointer(&target->pending, g_free);
}

void
target_free(Target *target, bool flush)
{
    sink_release(target->sink, flush);
    target_clear_pending(target);
    g_clear_pointer(&target->disk_sync, disk_sync_free);
    g_free(target->words);
    g_free(target);
}

/* Mark the pages of member that hold data. A file system without holes has data throughout. */
static void
target_mark_data(Target *target, uint32_t i, const Member *member)
{
    off_t end = (off_t)member->ram_size;
    off_t data = 0, hole;

    while (data < end && (data = lseek(member->ram_fd, data, SEEK_DATA)) >= 0) {
        hole = lseek(member->ram_fd, data, SEEK_HOLE);
        if (hole < 0)
            hole = end;
        uint64_t first = page_count((uint64_t)data);
        uint64_t last = page_count((uint64_t)hole + PAGE_BYTES - 1);
        pagebits_set_range(target->pending[i], first, MIN(last, member->n_pages) - first);
        data = hole;
    }
}

void
target_begin(Coordinator *c, Target *target)
{
    target->number = numbers_next(c);
    target->pending = g_new0(uint64_t *, c->n_members);
    for (uint32_t i = 0; i < c->n_members; i++) {
        target->pending[i] = g_new0(uint64_t, target->words[i] + 1);
        if (member_is_on(c->members[i]))
            target_mark_data(target, i, c->members[i]);
    }
    target->total = target_pending(target);
    target->left_before = target->total;
    target->phase = TARGET_SYNCING;
    freeze_begin(c, target, target->number, true, 0);
}

uint64_t
target_pending(const Target *target)
{
    uint64_t pages = 0;

    for (uint32_t i = 0; target->pending && i < target->n_members; i++)
        pages += pagebits_count(target->pending[i], target->words[i]);
    return pages;
}

/*
 * Up to PAGES_PER_RECORD_MAX pending pages of one member and one encoder shard, from where the pass
 * is; they are pending no more. 0: the pass has come to its end.
 */
static uint32_t
target_next_batch(Target *target, uint32_t *member, uint64_t pages[PAGES_PER_RECORD_MAX])
{
    uint32_t n = 0;

    for (; target->at_member < target->n_members; target->at_member++, target->at_word = 0) {
        uint64_t *pending = target->pending[target->at_member];
        for (; target->at_word < target->words[target->at_member]; target->at_word++) {
            uint64_t base = (uint64_t)target->at_word * 64;
            if (n > 0 && (base >> ENCODE_SHARD_SHIFT) != (pages[0] >> ENCODE_SHARD_SHIFT))
                break;
            uint64_t *word = &pending[target->at_word];
            for (; *word != 0 && n < PAGES_PER_RECORD_MAX; *word &= *word - 1)
                pages[n++] = base + (uint64_t)__builtin_ctzll(*word);
            if (n == PAGES_PER_RECORD_MAX)
                break;
        }
        if (n > 0) {
            *member = target->at_member;
            return n;
        }
    }
    return 0;
}

/* Stage all that is pending: from now on harvested pages are staged, and the next cut has it all.
 */
static void
target_complete(Coordinator *c, Target *target)
{
    for (uint32_t i = 0; i < target->n_members; i++) {
        for (size_t w = 0; w < target->words[i]; w++) {
            for (uint64_t bits = target->pending[i][w]; bits != 0; bits &= bits - 1) {
                uint64_t page = (uint64_t)w * 64 + (uint64_t)__builtin_ctzll(bits);
                staging_copy(c->staging, i, page, c->members[i]->ram + page * PAGE_BYTES);
            }
        }
    }
    target_clear_pending(target);
    target->phase = TARGET_COMPLETING;
    c->staging_active = true;
    g_debug("epoch %" G_GUINT64_FORMAT ": full sync needs only a cut, after %u passes",
            target->number, target->passes);
}

/* At the end of a pass: another one, or is it good enough? */
static void
target_pass_end(Coordinator *c, Target *target)
{
    uint64_t harvested;

    target->at_member = 0;
    target->at_word = 0;
    /* While disks or journals are still copied, RAM is only kept up with, at the pace of harvests. */
    if (target->disk_sync || (target == c->stream && !journals_ready(c))) {
        target->passes = 0;
        return;
    }
    if (!harvest_all(c, &harvested) || target->phase != TARGET_SYNCING)
        return;
    uint64_t left = target_pending(target);
    target->passes++;
    /* A pass that leaves three quarters of what it began with is not getting anywhere. */
    bool hopeless = target->passes >= SYNC_PASSES_MAX ||
                    (target->passes > 2 && left > target->left_before / 4 * 3);
    target->left_before = left;
    if (left <= SYNC_RESIDUE_PAGES || hopeless)
        target_complete(c, target);
}

/* Queue what has been read of the homes meanwhile. */
static void
target_tick_disks(Target *target)
{
    GError *error = NULL;
    DiskSyncBatch *batch;

    if (!target->disk_sync)
        return;
    while (sink_sync_outstanding(target->sink) < SYNC_BATCHES_MAX &&
           (batch = disk_sync_take(target->disk_sync))) {
        sink_sync_disk(target->sink, target->number, batch->image, batch->blocks, batch->n,
                       batch->data);
        disk_sync_batch_free(batch);
    }
    if (!disk_sync_over(target->disk_sync, &error))
        return;
    g_clear_pointer(&target->disk_sync, disk_sync_free);
    if (error)
        sink_fail(target->sink, error);
}

void
target_tick(Coordinator *c, Target *target)
{
    uint64_t pages[PAGES_PER_RECORD_MAX];
    uint32_t member;

    if (!target || target->phase != TARGET_SYNCING)
        return;
    target_tick_disks(target);
    while (sink_sync_outstanding(target->sink) < SYNC_BATCHES_MAX) {
        uint32_t n = target_next_batch(target, &member, pages);
        if (n == 0) {
            target_pass_end(c, target);
            return;
        }
        sink_sync_pages(target->sink, target->number, member, pages, n, c->members[member]->ram);
    }
}
