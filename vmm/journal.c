/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal disk.
 *
 * Theory of operation. Writes are done in batches, one batch at a time: those that have come by the
 * time the one before has ended, in their order, and up to the first that overlaps another. The
 * batch is written, made durable with one fdatasync, told to the client, and ends when the client
 * says that the standby has it. So while the client reads what it was told of, nothing else is
 * written; both hosts see overlapping writes in the same order; and writers that come meanwhile
 * share the next fdatasync on either host.
 *
 *   IDLE -> WRITING -> SYNCING -> TELLING -> WAITING -> IDLE
 *                                    '-- nobody to wait for --^
 *
 * A write that has failed here is told too: whatever it has left in the image is there on both
 * hosts. After a failed fdatasync the kernel may have dropped what was to be written, so nothing
 * that is said later can be relied on: the journal then fails for good.
 *
 * Reads go to the image as they are. A flush has nothing to do: what has ended is durable.
 *
 * The client may go at any time. In JOURNAL_MODE_HOLD the batch then waits for the next one and is
 * told to it again. A client that copies the image freezes the journal for it: no batch is begun
 * until it is thawed, or the client is gone. A client that does not read (it is stopped, say) keeps a batch in TELLING once
 * the socket is full, and it is tried again; in JOURNAL_MODE_FREE nobody is told.
 */
#include "vmm/journal.h"

#include "common/fdmsg.h"
#include "common/pbmsg.h"
#include "vmm/machine_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH_MAX 64
#define TELL_RETRY_MS 5
#define MODE_SEND_MS 1000
#define MODES (DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD + 1)

#define MODE_FREE DISTRICT__JOURNAL_MODE__JOURNAL_MODE_FREE
#define MODE_COPY DISTRICT__JOURNAL_MODE__JOURNAL_MODE_COPY
#define MODE_HOLD DISTRICT__JOURNAL_MODE__JOURNAL_MODE_HOLD

typedef enum {
    BATCH_IDLE,
    BATCH_WRITING,
    BATCH_SYNCING,
    BATCH_TELLING, /* durable here; the client could not be told yet */
    BATCH_WAITING, /* for the client */
    BATCH_ENDING,  /* in the callbacks, which may bring new writes */
} BatchState;

typedef struct JournalWrite {
    Journal *journal;
    uint64_t offset;
    size_t len;
    const void *buf;
    int error;
    BlockDone done;
    void *opaque;
} JournalWrite;

struct Journal {
    BlockBackend base; /* what the disk is on; first */
    BlockBackend *raw;
    Disk *disk;
    char *waiting;
    District__JournalMode mode;
    bool failed;     /* an fdatasync has failed */
    bool frozen;     /* no batch is begun */
    bool freeze_due; /* the client waits to be told that none is under way */

    BatchState state;
    uint64_t seq; /* of the batch told last */
    GQueue queue; /* of JournalWrite: those after the batch */
    guint n_batch;
    JournalWrite *batch[BATCH_MAX];
    guint writing; /* of the batch, not yet written */

    int link; /* -1: no client */
    guint link_source;
    guint retry_source;
};

static void batch_next(Journal *j);
static void batch_tell(Journal *j);
static void link_tell_frozen(Journal *j);

/* ---- The batch ---- */

static void
batch_end(Journal *j)
{
    JournalWrite *ended[BATCH_MAX];
    guint n = j->n_batch;

    memcpy(ended, j->batch, n * sizeof *ended);
    j->n_batch = 0;
    j->state = BATCH_ENDING;
    for (guint i = 0; i < n; i++) {
        ended[i]->done(ended[i]->opaque, ended[i]->error);
        g_free(ended[i]);
    }
    j->state = BATCH_IDLE;
    batch_next(j);
}

static void
batch_synced(void *opaque, int error)
{
    Journal *j = opaque;

    if (error != 0 && !j->failed)
        g_warning("journal %s: cannot be made durable: %s: it takes no more writes until the "
                  "member is started again",
                  journal_path(j), g_strerror(error));
    j->failed = j->failed || error != 0;
    for (guint i = 0; i < j->n_batch && j->failed; i++)
        j->batch[i]->error = EIO;
    batch_tell(j);
    link_tell_frozen(j);
}

static void
batch_written(void *opaque, int error)
{
    JournalWrite *w = opaque;
    Journal *j = w->journal;

    w->error = error;
    if (--j->writing > 0)
        return;
    j->state = BATCH_SYNCING;
    j->raw->ops->flush(j->raw, batch_synced, j);
}

static bool
batch_overlaps(const Journal *j, const JournalWrite *w)
{
    for (guint i = 0; i < j->n_batch; i++) {
        const JournalWrite *b = j->batch[i];

        if (w->offset < b->offset + b->len && b->offset < w->offset + w->len)
            return true;
    }
    return false;
}

static void
batch_next(Journal *j)
{
    JournalWrite *w;

    if (j->state != BATCH_IDLE || j->frozen)
        return;
    while (j->n_batch < BATCH_MAX && (w = g_queue_peek_head(&j->queue)) != NULL &&
           !batch_overlaps(j, w))
        j->batch[j->n_batch++] = g_queue_pop_head(&j->queue);
    if (j->n_batch == 0)
        return;
    j->state = BATCH_WRITING;
    j->writing = j->n_batch;
    for (guint i = 0; i < j->n_batch; i++) {
        w = j->batch[i];
        j->raw->ops->write(j->raw, w->offset, w->buf, w->len, batch_written, w);
    }
}

/* ---- The link ---- */

static void
link_close(Journal *j)
{
    g_clear_handle_id(&j->link_source, g_source_remove);
    if (j->link >= 0)
        close(j->link);
    j->link = -1;
}

/* FALSE: it is gone, or takes nothing now (then it is still there). */
static gboolean
link_send(Journal *j, District__JournalNews *news, int timeout_ms)
{
    g_autoptr(GError) error = NULL;

    if (j->link < 0)
        return FALSE;
    if (pbmsg_send(j->link, &news->base, NULL, 0, timeout_ms, &error))
        return TRUE;
    if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
        journal_unlink(j);
    return FALSE;
}

static gboolean
link_tell_batch(Journal *j)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalWritten written = DISTRICT__JOURNAL_WRITTEN__INIT;
    District__JournalRange ranges[BATCH_MAX];
    District__JournalRange *list[BATCH_MAX];

    for (guint i = 0; i < j->n_batch; i++) {
        district__journal_range__init(&ranges[i]);
        ranges[i].offset = j->batch[i]->offset;
        ranges[i].len = j->batch[i]->len;
        list[i] = &ranges[i];
    }
    written.seq = j->seq;
    written.ranges = list;
    written.n_ranges = j->n_batch;
    news.m_case = DISTRICT__JOURNAL_NEWS__M_WRITTEN;
    news.written = &written;
    return link_send(j, &news, 0);
}

static gboolean
on_tell_retry(void *opaque)
{
    Journal *j = opaque;

    j->retry_source = 0;
    if (j->state == BATCH_TELLING)
        batch_tell(j);
    return G_SOURCE_REMOVE;
}

/* The batch is durable here: tell the client, if there is one who wants to hear. */
static void
batch_tell(Journal *j)
{
    if (j->state == BATCH_SYNCING)
        j->seq++;
    j->state = BATCH_TELLING;
    if (j->mode != MODE_FREE && link_tell_batch(j))
        j->state = BATCH_WAITING;
    /* link_send may have found that the client is gone. */
    if (j->mode == MODE_FREE || (j->mode == MODE_COPY && j->state == BATCH_WAITING))
        batch_end(j);
    else if (j->state == BATCH_TELLING && j->link >= 0 && j->retry_source == 0)
        j->retry_source = g_timeout_add(TELL_RETRY_MS, on_tell_retry, j);
}

/* The reply to an order to set the mode must not be lost: the client waits for it. */
static gboolean
link_set_mode(Journal *j, District__JournalMode mode)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalModeNow now = DISTRICT__JOURNAL_MODE_NOW__INIT;

    j->mode = mode;
    now.mode = mode;
    news.m_case = DISTRICT__JOURNAL_NEWS__M_MODE;
    news.mode = &now;
    if (!link_send(j, &news, MODE_SEND_MS))
        return FALSE;
    if (j->state == BATCH_TELLING)
        batch_tell(j);
    else if (j->state == BATCH_WAITING && mode != MODE_HOLD)
        batch_end(j);
    return TRUE;
}

/* As the reply to an order to freeze, once nothing is being written. */
static void
link_tell_frozen(Journal *j)
{
    District__JournalNews news = DISTRICT__JOURNAL_NEWS__INIT;
    District__JournalFrozen frozen = DISTRICT__JOURNAL_FROZEN__INIT;

    if (!j->freeze_due || j->state == BATCH_WRITING || j->state == BATCH_SYNCING)
        return;
    j->freeze_due = false;
    news.m_case = DISTRICT__JOURNAL_NEWS__M_FROZEN;
    news.frozen = &frozen;
    link_send(j, &news, MODE_SEND_MS);
}

static void
journal_freeze(Journal *j, bool on)
{
    j->frozen = j->freeze_due = on;
    link_tell_frozen(j);
    batch_next(j);
}

static gboolean
link_take(Journal *j, const District__JournalOrder *order)
{
    switch (order->m_case) {
    case DISTRICT__JOURNAL_ORDER__M_SET_MODE:
        return (unsigned)order->set_mode->mode < MODES && link_set_mode(j, order->set_mode->mode);
    case DISTRICT__JOURNAL_ORDER__M_END:
        if (j->state == BATCH_WAITING && order->end->seq >= j->seq)
            batch_end(j);
        return TRUE;
    case DISTRICT__JOURNAL_ORDER__M_FREEZE:
        journal_freeze(j, order->freeze->on);
        return TRUE;
    default:
        return FALSE;
    }
}

static gboolean
on_link(int fd, GIOCondition condition, void *opaque)
{
    Journal *j = opaque;
    g_autoptr(GError) error = NULL;
    District__JournalOrder *order = (District__JournalOrder *)pbmsg_recv(
        fd, &district__journal_order__descriptor, NULL, NULL, 0, &error);
    gboolean good = order != NULL && link_take(j, order);

    if (order != NULL)
        district__journal_order__free_unpacked(order, NULL);
    if (good || g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
        return G_SOURCE_CONTINUE;
    if (error != NULL && !g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
        g_warning("journal %s: its link: %s", journal_path(j), error->message);
    if (j->link != fd)
        return G_SOURCE_REMOVE; /* it went while the order was taken */
    journal_unlink(j);
    return G_SOURCE_REMOVE;
}

static void
link_adopt(Journal *j, int fd)
{
    j->link = fd;
    j->link_source = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_link, j);
}

int
journal_link(Journal *j, GError **error)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "journal %s: no link: %s",
                    journal_path(j), g_strerror(errno));
        return -1;
    }
    journal_unlink(j);
    link_adopt(j, ends[0]);
    if (j->state == BATCH_TELLING || j->state == BATCH_WAITING)
        batch_tell(j);
    return ends[1];
}

void
journal_unlink(Journal *j)
{
    link_close(j);
    if (j->mode == MODE_COPY)
        j->mode = MODE_FREE;
    if (j->mode == MODE_FREE && j->state == BATCH_TELLING && j->retry_source == 0)
        j->retry_source = g_timeout_add(0, on_tell_retry, j);
    journal_freeze(j, false);
}

/* ---- The backend of its disk ---- */

static void
journal_read(BlockBackend *b, uint64_t offset, void *buf, size_t len, BlockDone done, void *opaque)
{
    Journal *j = (Journal *)b;

    j->raw->ops->read(j->raw, offset, buf, len, done, opaque);
}

static void
journal_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len, BlockDone done,
              void *opaque)
{
    Journal *j = (Journal *)b;
    JournalWrite *w = g_new(JournalWrite, 1);

    *w = (JournalWrite){j, offset, len, buf, 0, done, opaque};
    g_queue_push_tail(&j->queue, w);
    batch_next(j);
}

typedef struct JournalFlush {
    Journal *journal;
    BlockDone done;
    void *opaque;
} JournalFlush;

static gboolean
on_flush(void *opaque)
{
    JournalFlush *flush = opaque;

    flush->done(flush->opaque, flush->journal->failed ? EIO : 0);
    return G_SOURCE_REMOVE;
}

/* All that has ended is durable. */
static void
journal_flush(BlockBackend *b, BlockDone done, void *opaque)
{
    JournalFlush *flush = g_new(JournalFlush, 1);

    *flush = (JournalFlush){(Journal *)b, done, opaque};
    g_idle_add_full(G_PRIORITY_DEFAULT, on_flush, flush, g_free);
}

/* virtio-blk offers neither of a journal, and refuses both. */
static void
journal_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap, BlockDone done,
             void *opaque)
{
    g_assert_not_reached();
}

static void
journal_discard(BlockBackend *b, uint64_t offset, uint64_t len, BlockDone done, void *opaque)
{
    g_assert_not_reached();
}

static void
journal_backend_close(BlockBackend *b)
{
    Journal *j = (Journal *)b;

    link_close(j);
    g_clear_handle_id(&j->retry_source, g_source_remove);
    j->raw->ops->close(j->raw);
    g_free(j->waiting);
    g_free(j);
}

static const BlockBackendOps journal_ops = {
    .read = journal_read,
    .write = journal_write,
    .flush = journal_flush,
    .zero = journal_zero,
    .discard = journal_discard,
    .close = journal_backend_close,
};

Journal *
journal_open(const char *path, GError **error)
{
    BlockBackend *raw = block_raw_open(path, false, error);
    Journal *j;

    if (raw == NULL)
        return NULL;
    if (raw->bytes % PAGE_BYTES != 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "journal %s has %" G_GUINT64_FORMAT " bytes; it must be a multiple of 4096",
                    path, (guint64)raw->bytes);
        raw->ops->close(raw);
        return NULL;
    }
    j = g_new0(Journal, 1);
    j->base = (BlockBackend){.ops = &journal_ops, .bytes = raw->bytes, .home = raw->home};
    j->raw = raw;
    j->link = -1;
    g_queue_init(&j->queue);
    j->waiting = g_strdup_printf("writes to journal %s wait for the standby: it is slow, or lost; "
                                 "look at district show",
                                 journal_path(j));
    j->disk = disk_new("journal", &j->base, NULL, error);
    return j;
}

void
journal_abandon(Journal *j)
{
    link_close(j);
    j->mode = MODE_FREE;
    if (j->state == BATCH_TELLING || j->state == BATCH_WAITING)
        batch_end(j);
    journal_freeze(j, false);
}

void
journal_close(Journal *j)
{
    disk_free(j->disk);
}

Disk *
journal_disk(Journal *j)
{
    return j->disk;
}

uint64_t
journal_bytes(const Journal *j)
{
    return j->base.bytes;
}

const char *
journal_path(const Journal *j)
{
    return j->base.home + strlen("raw:");
}

District__JournalMode
journal_mode(const Journal *j)
{
    return j->mode;
}

const char *
journal_waiting(const Journal *j)
{
    return j->state == BATCH_TELLING || j->state == BATCH_WAITING ? j->waiting : NULL;
}

/* ---- Guest reset ---- */

char *
journal_hand_on(Journal *j, GError **error)
{
    char *text;

    g_assert(j->state == BATCH_IDLE);
    if (j->link >= 0 && fcntl(j->link, F_SETFD, 0) < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "journal %s: %s", journal_path(j),
                    g_strerror(errno));
        return NULL;
    }
    text = g_strdup_printf("%d,%d,%" G_GUINT64_FORMAT ",%d", j->link, (int)j->mode, (guint64)j->seq,
                           j->frozen);
    g_clear_handle_id(&j->link_source, g_source_remove);
    j->link = -1; /* stays open */
    return text;
}

gboolean
journal_inherit(Journal *j, const char *text, GError **error)
{
    guint64 seq;
    int fd, mode, frozen;

    if (sscanf(text, "%d,%d,%" G_GUINT64_FORMAT ",%d", &fd, &mode, &seq, &frozen) != 4 ||
        (unsigned)mode >= MODES || (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "journal %s: what was handed on over the reset is no link", journal_path(j));
        return FALSE;
    }
    j->mode = (District__JournalMode)mode;
    j->seq = seq;
    j->frozen = fd >= 0 && frozen != 0;
    if (fd >= 0)
        link_adopt(j, fd);
    return TRUE;
}
