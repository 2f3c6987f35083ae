/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies of journals (journals-copy.h). */
#include "ckpt/journals-copy.h"

#include "ckpt/control-server.h"
#include "ckpt/coordinator-internal.h"
#include "ckpt/journal-file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAFT_NS (300 * NS_PER_S)
#define FREEZE_NS (10 * NS_PER_S)
#define SYNC_NS (120 * NS_PER_S)
#define ABANDON_US G_USEC_PER_SEC
#define ABANDON_POLL_US 1000

typedef struct CopyItem {
    uint32_t member;
    char *path;
    uint64_t bytes;
    int from, to; /* ours */
} CopyItem;

/* The thread's while there is one, but for cancel and done. */
typedef struct CopyWork {
    GArray *items; /* of CopyItem */
    Inbox *inbox;
    GThread *thread; /* NULL: none */
    JournalsCopyPhase phase;
    gint cancel;
    gint done; /* the thread is only to be joined */
    GError *error;
} CopyWork;

static void
item_clear(gpointer data)
{
    CopyItem *item = data;

    g_free(item->path);
    close(item->from);
    close(item->to);
}

static CopyWork *
work_new(Inbox *inbox)
{
    CopyWork *work = g_new0(CopyWork, 1);

    work->items = g_array_new(FALSE, FALSE, sizeof(CopyItem));
    g_array_set_clear_func(work->items, item_clear);
    work->inbox = inbox;
    return work;
}

static void
work_free(CopyWork *work)
{
    g_clear_pointer(&work->thread, g_thread_join);
    g_array_unref(work->items);
    g_clear_error(&work->error);
    g_free(work);
}

/* ---- The thread ---- */

static gboolean
work_do(CopyWork *work, const CopyItem *item, GError **error)
{
    if (work->phase != JOURNALS_COPY_SYNCING)
        return journal_file_copy(item->from, item->to, item->bytes, item->path, &work->cancel,
                                 error);
    if (fsync(item->to) == 0)
        return TRUE;
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(errno),
                "journal %s: syncing its copy: %s", item->path, g_strerror(errno));
    return FALSE;
}

static gpointer
work_run(gpointer data)
{
    CopyWork *work = data;
    InboxMessage post = {.kind = INBOX_COPIED};

    for (guint i = 0; i < work->items->len && work->error == NULL; i++)
        work_do(work, &g_array_index(work->items, CopyItem, i), &work->error);
    inbox_post(work->inbox, &post);
    g_atomic_int_set(&work->done, 1);
    return NULL;
}

/* ---- Phases ---- */

static void
copy_enter(Coordinator *c, JournalsCopyPhase phase, int64_t limit_ns)
{
    JournalsCopy *copy = &c->journals_copy;

    copy->phase = phase;
    copy->deadline_ns = clock_monotonic_ns() + limit_ns;
    if (phase == JOURNALS_COPY_FREEZING)
        return;
    copy->work->phase = phase;
    copy->work->done = 0;
    copy->work->thread = g_thread_new("journals", work_run, copy->work);
}

static MemberJournal *
journal_at(Coordinator *c, guint i)
{
    return &c->members[g_array_index(c->journals_copy.work->items, CopyItem, i).member]->journal;
}

static void
copy_freeze(Coordinator *c, bool on)
{
    for (guint i = 0; i < c->journals_copy.work->items->len; i++)
        member_journal_freeze(journal_at(c, i), on);
}

static void
copy_clear(Coordinator *c)
{
    work_free(c->journals_copy.work);
    c->journals_copy = (JournalsCopy){0};
}

/* NULL: all is well. */
static void
copy_end(Coordinator *c, const char *why)
{
    JournalsCopy *copy = &c->journals_copy;

    if (copy->phase == JOURNALS_COPY_FREEZING || copy->phase == JOURNALS_COPY_FINAL)
        copy_freeze(c, false);
    if (why != NULL)
        control_request_error(copy->request, "district %s: its journals cannot be copied: %s",
                              c->district, why);
    else
        control_request_ok(copy->request);
    copy->request = NULL;
    copy->phase = JOURNALS_COPY_LEFT;
    g_atomic_int_set(&copy->work->cancel, 1);
    if (copy->work->thread == NULL)
        copy_clear(c);
}

/* Nothing is being written to any of them: who could is frozen, or has gone. */
static bool
copy_is_still(Coordinator *c)
{
    for (guint i = 0; i < c->journals_copy.work->items->len; i++) {
        const MemberJournal *journal = journal_at(c, i);

        if (journal->link >= 0 ? !journal->frozen : journal_file_in_use(journal->fd))
            return false;
    }
    return true;
}

void
journals_copy_worked(Coordinator *c)
{
    JournalsCopy *copy = &c->journals_copy;

    if (copy->phase == JOURNALS_COPY_OFF || copy->work->thread == NULL)
        return;
    g_clear_pointer(&copy->work->thread, g_thread_join);
    journals_take(c); /* has a link ended meanwhile? */
    if (copy->phase == JOURNALS_COPY_LEFT) {
        copy_clear(c);
    } else if (copy->work->error != NULL) {
        copy_end(c, copy->work->error->message);
    } else if (copy->phase == JOURNALS_COPY_DRAFT) {
        copy_enter(c, JOURNALS_COPY_FREEZING, FREEZE_NS);
        copy_freeze(c, true);
    } else if (copy->phase == JOURNALS_COPY_SYNCING) {
        copy_end(c, NULL);
    } else if (!copy_is_still(c)) {
        copy_end(c, "an engine has ended meanwhile: try again");
    } else {
        copy_freeze(c, false);
        copy_enter(c, JOURNALS_COPY_SYNCING, SYNC_NS);
    }
}

static void
copy_late(Coordinator *c)
{
    switch (c->journals_copy.phase) {
    case JOURNALS_COPY_FREEZING:
        copy_end(c, "a write to one of them takes too long: is the disk all right?");
        break;
    case JOURNALS_COPY_FINAL:
        copy_end(c, "writes of guests would wait for more than 10 s: stop the district first");
        break;
    default:
        copy_end(c, "it takes too long: is the disk all right?");
        break;
    }
}

void
journals_copy_tick(Coordinator *c, int64_t now)
{
    JournalsCopy *copy = &c->journals_copy;

    if (copy->phase == JOURNALS_COPY_OFF || copy->phase == JOURNALS_COPY_LEFT)
        return;
    if (copy->phase == JOURNALS_COPY_FREEZING && copy_is_still(c))
        copy_enter(c, JOURNALS_COPY_FINAL, FREEZE_NS);
    else if (now >= copy->deadline_ns)
        copy_late(c);
}

bool
journals_copy_abandon(Coordinator *c)
{
    JournalsCopy *copy = &c->journals_copy;
    gint64 limit = g_get_monotonic_time() + ABANDON_US;

    if (copy->phase != JOURNALS_COPY_OFF && copy->phase != JOURNALS_COPY_LEFT)
        copy_end(c, "district-ckpt was told to quit");
    if (copy->phase == JOURNALS_COPY_OFF)
        return true;
    /* It looks at cancel, but not while it syncs. */
    while (g_atomic_int_get(&copy->work->done) == 0 && g_get_monotonic_time() < limit)
        g_usleep(ABANDON_POLL_US);
    if (g_atomic_int_get(&copy->work->done) == 0)
        return false;
    copy_clear(c);
    return true;
}

/* ---- The request ---- */

static const Member *
find_member(const Coordinator *c, const char *name, uint32_t *index)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (strcmp(c->members[i]->name, name) != 0)
            continue;
        *index = i;
        return c->members[i]->journal.path != NULL ? c->members[i] : NULL;
    }
    return NULL;
}

/* NULL: good. */
static const char *
copy_add(Coordinator *c, CopyWork *work, const char *name, int to)
{
    CopyItem item = {0};
    struct stat st;
    const Member *member = find_member(c, name, &item.member);

    if (member == NULL)
        return "a member of that name with a journal is not there";
    if (member->journal.link >= 0 && !member->journal.can_freeze)
        return "an engine is of an older release: stop the district, or move it once, first";
    item.bytes = member->journal.size;
    if (fstat(to, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != item.bytes)
        return "a file for a copy has not the journal's size";
    item.from = fcntl(member->journal.fd, F_DUPFD_CLOEXEC, 3);
    item.to = fcntl(to, F_DUPFD_CLOEXEC, 3);
    item.path = g_strdup(member->journal.path);
    g_array_append_val(work->items, item);
    return item.from >= 0 && item.to >= 0 ? NULL : g_strerror(errno);
}

void
journals_copy_request(Coordinator *c, ControlRequest *request)
{
    const District__CkptCopyJournalsRequest *want = request->message->copy_journals;
    const char *why = c->journals_copy.phase != JOURNALS_COPY_OFF
                          ? "that is under way already: try again later"
                          : NULL;
    CopyWork *work = work_new(c->inbox);

    if (why == NULL && (want->n_members == 0 || want->n_members != request->n_fds))
        why = "not one file for each";
    for (size_t i = 0; why == NULL && i < want->n_members; i++)
        why = copy_add(c, work, want->members[i], request->fds[i]);
    if (why != NULL) {
        control_request_error(request, "district %s: its journals cannot be copied: %s",
                              c->district, why);
        work_free(work);
        return;
    }
    c->journals_copy = (JournalsCopy){.request = request, .work = work};
    copy_enter(c, JOURNALS_COPY_DRAFT, DRAFT_NS);
}
