/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of journals, as of one moment of all of them, for a clone or an export.
 *
 * The files are made here. Who fills them is the district-ckpt that has the engines freeze the
 * journals (CopyJournals, docs/protocol.md), or, where no process of the district runs, one that is
 * started for each journal: in an operation on the district, so that nothing is started meanwhile.
 * Engines that nothing is known of have the journals locked, and that is found out.
 */
#include "control/daemon.h"
#include "common/fdmsg.h"
#include "ckpt.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* All phases of CopyJournals, and one more minute. */
#define COPY_MS (8 * 60 * 1000)

typedef struct Copy {
    char *member;
    char *from;
    int fd;
} Copy;

struct JournalCopies {
    GArray *copies; /* of Copy */
    guint next;     /* to be filled by a process of its own */
};

static void
copy_clear(gpointer data)
{
    Copy *copy = data;

    g_free(copy->member);
    g_free(copy->from);
    if (copy->fd >= 0)
        close(copy->fd);
}

static void
copies_clear(gpointer data)
{
    g_array_unref(((JournalCopies *)data)->copies);
}

JournalCopies *
journal_copies_ref(JournalCopies *copies)
{
    return g_rc_box_acquire(copies);
}

void
journal_copies_unref(JournalCopies *copies)
{
    if (copies != NULL)
        g_rc_box_release_full(copies, copies_clear);
}

guint
journal_copies_count(const JournalCopies *copies)
{
    return copies->copies->len;
}

const char *
journal_copies_member(const JournalCopies *copies, guint i)
{
    return g_array_index(copies->copies, Copy, i).member;
}

int
journal_copies_fd(const JournalCopies *copies, guint i)
{
    return g_array_index(copies->copies, Copy, i).fd;
}

/* ---- Making the files ---- */

static gboolean
copies_add(JournalCopies *copies, const District *d, const DefinitionMember *m, const char *dir,
           GError **error)
{
    Copy copy = {.member = g_strdup(m->name), .from = district_journal_path(d, m), .fd = -1};
    g_autofree char *own = store_district_dir(d->daemon->config->state_dir, d->name);

    if (journal_check(copy.from, m, error))
        copy.fd =
            dir != NULL ? journal_make_in(dir, m, error) : journal_make_nameless(own, m, error);
    g_array_append_val(copies->copies, copy);
    return copy.fd >= 0;
}

JournalCopies *
journal_copies_new(const District *d, const Definition *definition, const char *dir, GError **error)
{
    JournalCopies *copies = g_rc_box_new0(JournalCopies);
    gboolean good = TRUE;

    copies->copies = g_array_new(FALSE, FALSE, sizeof(Copy));
    g_array_set_clear_func(copies->copies, copy_clear);
    for (guint i = 0; i < definition->members->len && good; i++) {
        const DefinitionMember *m = definition->members->pdata[i];
        good = m->journal == 0 || copies_add(copies, d, m, dir, error);
    }
    if (good && copies->copies->len > FDMSG_FDS_MAX) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: %u members have journals, and no more than %d can be copied at once",
                    d->name, copies->copies->len, FDMSG_FDS_MAX);
        good = FALSE;
    }
    if (!good)
        g_clear_pointer(&copies, journal_copies_unref);
    return copies;
}

/* ---- Filling them ---- */

static void fill_next(Job *job);

/* data: the job. */
static void
on_filled(const char *out, const GError *error, gpointer data)
{
    Job *job = data;

    if (error != NULL)
        job_fail(job, error);
    else if (!job->finished)
        fill_next(job);
    job_unref(job);
}

static void
fill_next(Job *job)
{
    JournalCopies *copies = job->copies;
    const District *d = job->district;

    if (copies->next == copies->copies->len) {
        job_next(job);
        return;
    }
    const Copy *copy = &g_array_index(copies->copies, Copy, copies->next++);
    const char *options[] = {"--copy-journal", copy->from, NULL};
    int fd = fcntl(copy->fd, F_DUPFD_CLOEXEC, 3);
    store_query_files(d->daemon, d->name, options, &fd, 1, on_filled, job_ref(job));
}

static void
fill_by_ckpt(Job *job)
{
    const GArray *copies = job->copies->copies;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCopyJournalsRequest copy = DISTRICT__CKPT_COPY_JOURNALS_REQUEST__INIT;
    g_autofree char **members = g_new0(char *, copies->len);
    g_autofree int *fds = g_new0(int, copies->len);

    for (guint i = 0; i < copies->len; i++) {
        members[i] = g_array_index(copies, Copy, i).member;
        fds[i] = g_array_index(copies, Copy, i).fd;
    }
    copy.n_members = copies->len;
    copy.members = members;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_COPY_JOURNALS;
    request.copy_journals = &copy;
    job_call(job, job->district->ckpt, &request.base, fds, copies->len, COPY_MS, NULL);
}

void
step_copy_journals(Job *job)
{
    const District *d = job->district;

    if (job->copies->copies->len == 0)
        job_next(job);
    else if (processes_find(d, "ckpt", NULL) != NULL)
        fill_by_ckpt(job);
    else if (processes_count(d) == 0)
        fill_next(job);
    else
        job_fail_new(
            job, CONTROL_ERROR_STATE,
            "%s: its district-ckpt is not there, and its journals cannot be copied without: "
            "try again",
            d->name);
}
