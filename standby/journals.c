/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journals that a stream brings.
 *
 * Theory of operation. A journal is a raw file, journal-MEMBER.img. A stream always begins with a
 * copy of each, which goes to a file of its own, so that what there is stays whole until the copy is:
 * PUBLISH makes the copies durable and renames them over their predecessors. From then on records are
 * written to the files as they come. So at any instant journal-MEMBER.img is what the primary's had
 * at some instant, with all writes of before and none of after, but perhaps a part of one that
 * nobody has been told of.
 *
 * The thread takes all that is queued, writes it in order, then makes it durable with one fdatasync
 * per file, and tells. So a slow disk delays journals alone, and many small writes share its delay.
 *
 * A thread that hangs in its disk cannot be ended. It does nothing more once it is let go: what it
 * still writes is what it was at, to a file that its stream had; the next stream's copies are in new
 * files, and its own have lost their names before these are made. Only a member must not be run on a
 * file that it may still write to: journals_wait_ended.
 */
#include "standby/journals.h"

#include "standby/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_PREFIX "journal-"
#define FILE_SUFFIX ".img"
#define COPY_MARK ".img.copy-"
/* Data queued and not yet durable. A primary has a few MiB for each member under way. */
#define QUEUE_BYTES_MAX ((size_t)2 << 30)

#define KIND_BEGIN DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN
#define KIND_DATA DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA

typedef struct JournalFile {
    char *member;
    char *copy_name; /* NULL: it has been published */
    uint64_t size;
    int fd;
    bool dirty; /* written since the last fdatasync */
} JournalFile;

typedef struct JournalItem {
    uint64_t seq;
    District__StreamJournalKind kind;
    char *member;
    uint64_t size, offset;
    uint8_t *data;
    size_t len;
} JournalItem;

struct Journals {
    gatomicrefcount refs; /* the stream's and the thread's */
    char *dir;

    /* The stream's thread: what has been announced. */
    GHashTable *sizes; /* member -> uint64_t */
    bool published;
    bool started;

    /* The journals' thread. */
    int dir_fd;
    GPtrArray *files; /* of JournalFile */

    GMutex lock; /* guards what follows */
    GCond cond;
    GQueue queue; /* of JournalItem */
    size_t bytes; /* of data in it, and in what the thread is at */
    bool stop;
    GError *error;
    JournalsDurable durable;
    gpointer opaque;
};

static GMutex running_lock; /* guards running: threads that have not ended */
static GCond running_cond;
static unsigned running;

char *
journals_file_name(const char *member)
{
    return g_strconcat(FILE_PREFIX, member, FILE_SUFFIX, NULL);
}

/* errno says why. */
static gboolean
journals_fail(const Journals *j, const char *name, const char *doing, GError **error)
{
    int code = errno;
    bool full = code == ENOSPC || code == EDQUOT;

    return standby_refuse(full ? STANDBY_FULL : DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN,
                          error, "%s/%s on the standby host cannot %s: %s%s", j->dir, name, doing,
                          g_strerror(code), full ? ": make room there" : "");
}

/* ---- Files ---- */

static void
file_free(gpointer data)
{
    JournalFile *file = data;

    if (file->fd >= 0)
        close(file->fd);
    g_free(file->member);
    g_free(file->copy_name);
    g_free(file);
}

/* The name that it has now; caller frees. */
static char *
file_name(const JournalFile *file)
{
    return file->copy_name != NULL ? g_strdup(file->copy_name) : journals_file_name(file->member);
}

static JournalFile *
file_find(const Journals *j, const char *member)
{
    for (guint i = 0; i < j->files->len; i++) {
        JournalFile *file = j->files->pdata[i];

        if (strcmp(file->member, member) == 0)
            return file;
    }
    return NULL;
}

static gboolean
file_fail(const Journals *j, const JournalFile *file, const char *doing, GError **error)
{
    int code = errno;
    g_autofree char *name = file_name(file);

    errno = code;
    return journals_fail(j, name, doing, error);
}

/* What copies before have left takes its names with it, whoever may still have them open. */
static void
remove_leftovers(const Journals *j)
{
    int fd = openat(j->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (g_str_has_prefix(entry->d_name, FILE_PREFIX) && strstr(entry->d_name, COPY_MARK) &&
            unlinkat(j->dir_fd, entry->d_name, 0) == 0)
            g_message("%s/%s: removed what an unfinished copy has left", j->dir, entry->d_name);
    }
    closedir(dir);
}

static gboolean
open_dir(Journals *j, GError **error)
{
    if (j->dir_fd >= 0)
        return TRUE;
    if (mkdir(j->dir, S_IRWXU) != 0 && errno != EEXIST)
        return journals_fail(j, ".", "be made", error);
    j->dir_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->dir_fd < 0)
        return journals_fail(j, ".", "be opened", error);
    remove_leftovers(j);
    return TRUE;
}

/* Room for all of it is taken now: later there is nobody to be told that there is none. */
static gboolean
do_begin(Journals *j, const JournalItem *item, GError **error)
{
    static gint copies;
    JournalFile *file;

    if (!open_dir(j, error))
        return FALSE;
    file = g_new0(JournalFile, 1);
    g_ptr_array_add(j->files, file);
    file->member = g_strdup(item->member);
    file->size = item->size;
    file->copy_name = g_strdup_printf(FILE_PREFIX "%s" COPY_MARK "%d-%d", item->member,
                                      (int)getpid(), g_atomic_int_add(&copies, 1));
    file->fd = openat(j->dir_fd, file->copy_name,
                      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file->fd < 0 || ftruncate(file->fd, (off_t)file->size) != 0)
        return journals_fail(j, file->copy_name, "be made", error);
    if (fallocate(file->fd, 0, 0, (off_t)file->size) != 0 && errno != EOPNOTSUPP)
        return journals_fail(j, file->copy_name, "have its room", error);
    file->dirty = true;
    return TRUE;
}

static gboolean
do_data(Journals *j, const JournalItem *item, GError **error)
{
    JournalFile *file = file_find(j, item->member);

    for (size_t done = 0; done < item->len;) {
        ssize_t n =
            pwrite(file->fd, item->data + done, item->len - done, (off_t)(item->offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return file_fail(j, file, "be written", error);
        done += (size_t)n;
    }
    file->dirty = true;
    return TRUE;
}

static gboolean
sync_files(Journals *j, GError **error)
{
    for (guint i = 0; i < j->files->len; i++) {
        JournalFile *file = j->files->pdata[i];

        if (file->dirty && fdatasync(file->fd) != 0)
            return file_fail(j, file, "be made durable", error);
        file->dirty = false;
    }
    return TRUE;
}

static gboolean
do_publish(Journals *j, GError **error)
{
    if (!sync_files(j, error))
        return FALSE;
    for (guint i = 0; i < j->files->len; i++) {
        JournalFile *file = j->files->pdata[i];
        g_autofree char *name = journals_file_name(file->member);

        if (renameat(j->dir_fd, file->copy_name, j->dir_fd, name) != 0)
            return journals_fail(j, name, "be replaced", error);
        g_clear_pointer(&file->copy_name, g_free);
    }
    if (j->dir_fd >= 0 && fsync(j->dir_fd) != 0)
        return journals_fail(j, ".", "be made durable", error);
    return TRUE;
}

/* ---- The thread ---- */

static void
item_free(gpointer data)
{
    JournalItem *item = data;

    g_free(item->member);
    g_free(item->data);
    g_free(item);
}

static void
journals_unref(Journals *j)
{
    if (!g_atomic_ref_count_dec(&j->refs))
        return;
    g_queue_clear_full(&j->queue, item_free);
    g_ptr_array_unref(j->files);
    g_hash_table_unref(j->sizes);
    if (j->dir_fd >= 0)
        close(j->dir_fd);
    g_clear_error(&j->error);
    g_mutex_clear(&j->lock);
    g_cond_clear(&j->cond);
    g_free(j->dir);
    g_free(j);
}

static gboolean
do_item(Journals *j, const JournalItem *item, GError **error)
{
    switch (item->kind) {
    case KIND_BEGIN:
        return do_begin(j, item, error);
    case KIND_DATA:
        return do_data(j, item, error);
    default:
        return do_publish(j, error);
    }
}

/* FALSE: it is to stop. */
static bool
still_wanted(Journals *j)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&j->lock);

    return !j->stop;
}

/* All that has come; *bytes of data. False: it is to stop. */
static bool
take_items(Journals *j, GQueue *items, size_t *bytes)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&j->lock);

    while (!j->stop && g_queue_is_empty(&j->queue))
        g_cond_wait(&j->cond, &j->lock);
    *items = j->queue;
    g_queue_init(&j->queue);
    *bytes = j->bytes;
    return !j->stop;
}

/* Write items in order and make them durable. False: stopped, or error is set. */
static bool
do_items(Journals *j, const GQueue *items, GError **error)
{
    for (const GList *at = items->head; at != NULL; at = at->next) {
        if (!still_wanted(j) || !do_item(j, at->data, error))
            return false;
    }
    return still_wanted(j) && sync_files(j, error);
}

static void
note_done(Journals *j, uint64_t seq, size_t bytes, GError *error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&j->lock);

    j->bytes -= bytes;
    if (error != NULL)
        j->error = error;
    else if (!j->stop)
        j->durable(seq, j->opaque);
}

static gpointer
journals_run(gpointer data)
{
    Journals *j = data;
    GQueue items = G_QUEUE_INIT;
    GError *error = NULL;
    bool good = true;
    size_t bytes = 0;

    while (good && take_items(j, &items, &bytes)) {
        uint64_t seq = ((const JournalItem *)g_queue_peek_tail(&items))->seq;

        good = do_items(j, &items, &error);
        g_queue_clear_full(&items, item_free);
        if (good || error != NULL)
            note_done(j, seq, bytes, error);
    }
    g_queue_clear_full(&items, item_free);
    journals_unref(j);
    g_mutex_lock(&running_lock);
    running--;
    g_cond_broadcast(&running_cond);
    g_mutex_unlock(&running_lock);
    return NULL;
}

static void
journals_start(Journals *j)
{
    if (j->started)
        return;
    j->started = true;
    g_mutex_lock(&running_lock);
    running++;
    g_mutex_unlock(&running_lock);
    g_atomic_ref_count_inc(&j->refs);
    g_thread_unref(g_thread_new("journals", journals_run, j));
}

/* ---- The stream's side ---- */

Journals *
journals_new(const char *dir, JournalsDurable durable, gpointer opaque)
{
    Journals *j = g_new0(Journals, 1);

    g_atomic_ref_count_init(&j->refs);
    j->dir = g_strdup(dir);
    j->sizes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    j->dir_fd = -1;
    j->files = g_ptr_array_new_with_free_func(file_free);
    g_mutex_init(&j->lock);
    g_cond_init(&j->cond);
    g_queue_init(&j->queue);
    j->durable = durable;
    j->opaque = opaque;
    return j;
}

void
journals_free(Journals *j)
{
    g_mutex_lock(&j->lock);
    j->stop = true;
    g_cond_broadcast(&j->cond);
    g_mutex_unlock(&j->lock);
    journals_unref(j);
}

static gboolean
check_data(const Journals *j, const District__StreamJournal *record, GError **error)
{
    const uint64_t *size = g_hash_table_lookup(j->sizes, record->member);

    if (size != NULL && record->data.len <= *size && record->offset <= *size - record->data.len)
        return TRUE;
    return standby_refuse(STANDBY_DAMAGED, error,
                          size == NULL
                              ? "JOURNAL record: no copy of the journal of member %s has begun"
                              : "JOURNAL record: beyond the end of the journal of member %s",
                          record->member);
}

/* Does record fit what came before? */
static gboolean
check_record(Journals *j, const District__StreamJournal *record, GError **error)
{
    if (j->dir == NULL)
        return standby_refuse(STANDBY_REFUSED, error,
                              "the district has journals, and district-standby was started without "
                              "--disk-dir: use the same release of districtd");
    if (record->kind == KIND_DATA)
        return check_data(j, record, error);
    if (j->published ||
        (record->kind == KIND_BEGIN && g_hash_table_contains(j->sizes, record->member)))
        return standby_refuse(STANDBY_DAMAGED, error,
                              "JOURNAL record: the journals have been copied already");
    if (record->kind == KIND_BEGIN)
        g_hash_table_insert(j->sizes, g_strdup(record->member),
                            g_memdup2(&record->size, sizeof record->size));
    else
        j->published = true;
    return TRUE;
}

gboolean
journals_push(Journals *j, const District__StreamJournal *record, GError **error)
{
    JournalItem *item;

    if (!check_record(j, record, error) || !journals_good(j, error))
        return FALSE;
    item = g_new0(JournalItem, 1);
    item->seq = record->seq;
    item->kind = record->kind;
    item->member = g_strdup(record->member);
    item->size = record->size;
    item->offset = record->offset;
    item->data = g_memdup2(record->data.data, record->data.len);
    item->len = record->data.len;
    journals_start(j);
    g_mutex_lock(&j->lock);
    g_queue_push_tail(&j->queue, item);
    j->bytes += item->len;
    g_cond_broadcast(&j->cond);
    g_mutex_unlock(&j->lock);
    return TRUE;
}

gboolean
journals_good(Journals *j, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&j->lock);

    if (j->error != NULL) {
        if (error != NULL)
            *error = g_error_copy(j->error);
        return FALSE;
    }
    return j->bytes <= QUEUE_BYTES_MAX ||
           standby_refuse(STANDBY_FULL, error,
                          "more than %zu MiB of journals wait to be made durable in %s",
                          QUEUE_BYTES_MAX >> 20, j->dir);
}

bool
journals_wait_ended(int timeout_ms)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    bool in_time = true;
    bool ended;

    g_mutex_lock(&running_lock);
    while (in_time && running > 0)
        in_time = g_cond_wait_until(&running_cond, &running_lock, until);
    ended = running == 0;
    g_mutex_unlock(&running_lock);
    return ended;
}
