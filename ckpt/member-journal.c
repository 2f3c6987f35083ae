/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A member's journal: its image and its link. The engine is not trusted. */
#include "ckpt/member-journal.h"

#include "ckpt/format.h"
#include "ckpt/member.h"
#include "common/clock.h"
#include "common/pbmsg.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_LENGTH_MAX 4096
#define SEND_MS 100
#define MODES (DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD + 1)

static gboolean
journal_refuse(GError **error, const char *path, const char *what)
{
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST, "journal %.200s: %s", path, what);
    return FALSE;
}

gboolean
member_journal_open(MemberJournal *journal, const char *path, uint64_t size, GError **error)
{
    struct stat st;

    *journal = (MemberJournal){.fd = -1, .link = -1};
    if (path[0] != '/' || strlen(path) > PATH_LENGTH_MAX)
        return journal_refuse(error, path, "not an absolute path");
    /* Not blocking: a FIFO of that name must not hold us up. */
    journal->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (journal->fd < 0 || fstat(journal->fd, &st) != 0)
        return journal_refuse(error, path, g_strerror(errno));
    if (!S_ISREG(st.st_mode) || (size != 0 && (uint64_t)st.st_size != size))
        return journal_refuse(error, path, "not a regular file of the size that it has as a disk");
    journal->size = (uint64_t)st.st_size;
    if (journal->size < JOURNAL_BYTES_MIN || journal->size > JOURNAL_BYTES_MAX ||
        journal->size % PAGE_BYTES != 0)
        return journal_refuse(error, path, "it must have 1 MiB to 1 GiB, in steps of 4 KiB");
    journal->path = g_strdup(path);
    return TRUE;
}

gboolean
member_journal_init(MemberJournal *journal, const District__MemberJournal *hello, int link,
                    GError **error)
{
    if (!member_journal_open(journal, hello->path, hello->size, error))
        return FALSE;
    if ((unsigned)hello->mode >= MODES)
        return journal_refuse(error, hello->path, "its mode is none");
    journal->mode = hello->mode;
    journal->can_freeze = hello->can_freeze;
    journal->link = fcntl(link, F_DUPFD_CLOEXEC, 3);
    return journal->link >= 0 || journal_refuse(error, hello->path, g_strerror(errno));
}

static void
journal_link_ended(MemberJournal *journal)
{
    close(journal->link);
    journal->link = -1;
    journal->orders = 0;
    journal->freezing = journal->frozen = false;
    journal->ended_ns = clock_monotonic_ns();
}

void
member_journal_clear(MemberJournal *journal)
{
    /* One that was never set is all zeros. */
    if (journal->path != NULL || journal->fd > 0)
        close(journal->fd);
    if (journal->link > 0)
        close(journal->link);
    g_free(journal->path);
    *journal = (MemberJournal){.fd = -1, .link = -1};
}

static bool
journal_order(MemberJournal *journal, District__JournalOrder *order)
{
    g_autoptr(GError) error = NULL;

    if (journal->link < 0)
        return false;
    if (pbmsg_send(journal->link, &order->base, NULL, 0, SEND_MS, &error))
        return true;
    if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
        g_warning("journal %s: its engine takes no orders: %s", journal->path, error->message);
    journal_link_ended(journal);
    return false;
}

void
member_journal_set_mode(MemberJournal *journal, District__JournalMode mode)
{
    District__JournalOrder order = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalSetMode set = DISTRICT__JOURNAL_SET_MODE__INIT;

    set.mode = mode;
    order.m_case = DISTRICT__JOURNAL_ORDER__M_SET_MODE;
    order.set_mode = &set;
    journal->mode = mode;
    if (journal_order(journal, &order))
        journal->orders++;
}

void
member_journal_end(MemberJournal *journal, uint64_t seq)
{
    District__JournalOrder order = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalEnd end = DISTRICT__JOURNAL_END__INIT;

    end.seq = seq;
    order.m_case = DISTRICT__JOURNAL_ORDER__M_END;
    order.end = &end;
    journal_order(journal, &order);
}

void
member_journal_freeze(MemberJournal *journal, bool on)
{
    District__JournalOrder order = DISTRICT__JOURNAL_ORDER__INIT;
    District__JournalFreeze freeze = DISTRICT__JOURNAL_FREEZE__INIT;

    freeze.on = on;
    order.m_case = DISTRICT__JOURNAL_ORDER__M_FREEZE;
    order.freeze = &freeze;
    journal->freezing = on;
    journal->frozen = false;
    journal_order(journal, &order);
}

/* ---- News ---- */

static bool
journal_range_good(const MemberJournal *journal, const District__JournalRange *range)
{
    return range->len > 0 && range->len <= JOURNAL_DATA_MAX &&
           (range->len | range->offset) % SECTOR_BYTES == 0 && range->offset < journal->size &&
           range->len <= journal->size - range->offset;
}

static bool
journal_news_good(const MemberJournal *journal, const District__JournalNews *news)
{
    switch (news->m_case) {
    case DISTRICT__JOURNAL_NEWS__M_MODE:
        return journal->orders > 0;
    case DISTRICT__JOURNAL_NEWS__M_WRITTEN:
        for (size_t i = 0; i < news->written->n_ranges; i++) {
            if (!journal_range_good(journal, news->written->ranges[i]))
                return false;
        }
        return news->written->n_ranges > 0 && news->written->n_ranges <= JOURNAL_RANGES_MAX;
    case DISTRICT__JOURNAL_NEWS__M_FROZEN:
        return journal->can_freeze;
    default:
        return false;
    }
}

District__JournalNews *
member_journal_take(MemberJournal *journal, const char *member)
{
    g_autoptr(GError) error = NULL;

    while (journal->link >= 0) {
        District__JournalNews *news = (District__JournalNews *)pbmsg_recv(
            journal->link, &district__journal_news__descriptor, NULL, NULL, 0, &error);
        bool good = news != NULL && journal_news_good(journal, news);

        if (news == NULL && g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            return NULL;
        if (good && news->m_case == DISTRICT__JOURNAL_NEWS__M_WRITTEN)
            return news;
        if (good && news->m_case == DISTRICT__JOURNAL_NEWS__M_FROZEN)
            journal->frozen = journal->freezing;
        else if (good)
            journal->orders--;
        else if (news != NULL || !g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
            g_warning("member %s: what it says of its journal cannot be: %s", member,
                      error != NULL ? error->message : "is it the same version?");
        if (news != NULL)
            district__journal_news__free_unpacked(news, NULL);
        if (!good)
            journal_link_ended(journal);
    }
    return NULL;
}

gboolean
member_journal_read(const MemberJournal *journal, uint64_t offset, uint8_t *data, size_t len,
                    GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(journal->fd, data + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return journal_refuse(error, journal->path,
                                  n < 0 ? g_strerror(errno) : "it has become shorter");
        done += (size_t)n;
    }
    return TRUE;
}
