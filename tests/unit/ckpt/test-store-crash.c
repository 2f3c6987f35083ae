/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store and crashes: its writer killed at any moment, power lost at any moment, a full disk.
 *
 * Loss of power is played by hooks on fsync(2) and fdatasync(2): each notes what the file or the
 * list of names in the directory is at that moment, and that is durable. Of everything else each
 * page of a file may be old or new, a file may have any length between its old and its new one,
 * and each name may be there or not. A store made from that is opened and must have all that had
 * been acknowledged, exactly, and nothing that is not a checkpoint.
 *
 * A full disk is played by a hook on pwrite(2) and write(2), a broken one by those on syncs and on
 * read(2).
 */
#include "store-rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- What is durable ---- */

typedef struct Durable {
    GHashTable *files; /* inode -> GBytes: content at its last sync */
    GHashTable *dirs;  /* path -> GHashTable: name -> inode at its last sync */
} Durable;

static Durable durable;      /* files NULL: nothing is noted */
static int writes_left = -1; /* then the disk is full; -1: never */
static int syncs_left = -1;  /* then a sync fails, once */
static int reads_left = -1;  /* the same */

/* In the middle of something, before a sync: play the loss of power now and then. */
static void (*before_sync)(void);

static GBytes *
content_of(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat st;
    uint8_t *data;

    if (fd < 0)
        return NULL;
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    data = g_malloc((gsize)st.st_size + 1);
    g_assert_cmpint(pread(fd, data, (size_t)st.st_size, 0), ==, st.st_size);
    close(fd);
    return g_bytes_new_take(data, (gsize)st.st_size);
}

static GHashTable *
names_in(int dir_fd)
{
    GHashTable *names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    DIR *dir = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *entry;

    g_assert_nonnull(dir);
    while ((entry = readdir(dir)) != NULL) {
        struct stat st;

        if (entry->d_name[0] != '.' && fstatat(dir_fd, entry->d_name, &st, 0) == 0)
            g_hash_table_insert(names, g_strdup(entry->d_name), GSIZE_TO_POINTER(st.st_ino));
    }
    closedir(dir);
    return names;
}

static void
note_sync(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;

    if (durable.files == NULL || fstat(fd, &st) != 0)
        return;
    if (S_ISDIR(st.st_mode))
        g_hash_table_replace(durable.dirs, g_file_read_link(link, NULL), names_in(fd));
    else
        g_hash_table_replace(durable.files, GSIZE_TO_POINTER(st.st_ino),
                             content_of(AT_FDCWD, link));
}

/* Count down; at 0 fail with err, once. */
static bool
out_of_order(int *left, int err)
{
    if (*left < 0 || (*left)-- > 0)
        return false;
    errno = err;
    return true;
}

static int
sync_hook(long call, int fd)
{
    if (out_of_order(&syncs_left, EIO))
        return -1;
    if (before_sync != NULL)
        before_sync();
    if (syscall(call, fd) != 0)
        return -1;
    note_sync(fd);
    return 0;
}

int
fsync(int fd)
{
    return sync_hook(SYS_fsync, fd);
}

int
fdatasync(int fd)
{
    return sync_hook(SYS_fdatasync, fd);
}

static bool
disk_full(void)
{
    if (writes_left == 0) {
        errno = ENOSPC;
        return true;
    }
    if (writes_left > 0)
        writes_left--;
    return false;
}

ssize_t
write(int fd, const void *buf, size_t n)
{
    return fd > 2 && disk_full() ? -1 : syscall(SYS_write, fd, buf, n);
}

ssize_t
read(int fd, void *buf, size_t n)
{
    return out_of_order(&reads_left, EIO) ? -1 : syscall(SYS_read, fd, buf, n);
}

ssize_t
pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
    return disk_full() ? -1 : syscall(SYS_pwrite64, fd, buf, n, offset);
}

/* ---- Losing power ---- */

static bool
chance(gint of)
{
    return g_test_rand_int_range(0, of) == 0;
}

/* Of a file that was old when it was last synced and is now new. how: 0 all is lost, 1 nothing is,
 * else any part. */
static void
write_remains(const char *path, GBytes *old, GBytes *new, int how)
{
    const size_t page = 4096;
    gsize old_len = old != NULL ? g_bytes_get_size(old) : 0, new_len = g_bytes_get_size(new);
    const uint8_t *a = old != NULL ? g_bytes_get_data(old, NULL) : NULL;
    const uint8_t *b = g_bytes_get_data(new, NULL);
    gsize len = how == 0 ? old_len
                : how == 1
                    ? new_len
                    : MIN(old_len, new_len) +
                          (gsize)(g_test_rand_double() *
                                  (double)(MAX(old_len, new_len) - MIN(old_len, new_len) + 1));
    g_autofree uint8_t *data = g_malloc0(len + 1);

    for (gsize at = 0; at < len; at += page) {
        bool newer = how == 1 || (how > 1 && g_test_rand_bit());
        const uint8_t *from = newer ? b : a;
        gsize from_len = newer ? new_len : old_len;

        if (at < from_len)
            memcpy(data + at, from + at, MIN(MIN(page, len - at), from_len - at));
    }
    g_assert_true(g_file_set_contents_full(path, (char *)data, (gssize)len,
                                           G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

/* A name: as it was when the directory was synced, or as it is now. */
static gsize
inode_left(GHashTable *old, GHashTable *new, const char *name, int how)
{
    gsize a = GPOINTER_TO_SIZE(g_hash_table_lookup(old, name));
    gsize b = GPOINTER_TO_SIZE(g_hash_table_lookup(new, name));

    if (how == 0 || how == 1)
        return how == 0 ? a : b;
    return g_test_rand_bit() ? a : b;
}

static void lose_power_dir(const char *from, const char *to, int how);

static void
lose_power_name(int fd, const char *from, const char *to, const char *name, gsize inode, int how)
{
    g_autofree char *a = g_build_filename(from, name, NULL);
    g_autofree char *b = g_build_filename(to, name, NULL);
    GBytes *old = g_hash_table_lookup(durable.files, GSIZE_TO_POINTER(inode));
    g_autoptr(GBytes) new = NULL;
    struct stat st;
    bool there = fstatat(fd, name, &st, 0) == 0 && st.st_ino == inode;

    if (there && S_ISDIR(st.st_mode)) {
        lose_power_dir(a, b, how);
        return;
    }
    /* A file without a name here any more keeps what it had at its last sync. */
    new = there ? content_of(fd, name) : NULL;
    if (new == NULL)
        new = old != NULL ? g_bytes_ref(old) : g_bytes_new_static("", 0);
    write_remains(b, old, new, how);
}

static void
lose_power_dir(const char *from, const char *to, int how)
{
    int fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_autoptr(GHashTable) new = names_in(fd);
    g_autoptr(GHashTable) nothing = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) all = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTable *old = g_hash_table_lookup(durable.dirs, from);
    GHashTableIter iter;
    gpointer name;

    g_assert_cmpint(g_mkdir_with_parents(to, 0700), ==, 0);
    if (old == NULL)
        old = nothing;
    g_hash_table_iter_init(&iter, new);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_hash_table_add(all, name);
    g_hash_table_iter_init(&iter, old);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_hash_table_add(all, name);
    g_hash_table_iter_init(&iter, all);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        gsize inode = inode_left(old, new, name, how);

        /* Memory shared by SQLite's users, not a file that outlives them. */
        if (inode != 0 && !g_str_has_suffix(name, "-shm"))
            lose_power_name(fd, from, to, name, inode, how);
    }
    close(fd);
}

/* ---- Loss of power in the midst of work ---- */

static struct {
    Rig *rig;
    uint64_t acknowledged;  /* the last commit that has returned */
    uint64_t head;          /* that must be the head, unless it is newer than acknowledged, */
    uint64_t next_head;     /* or this one, which is being made the head */
    uint64_t labelled;      /* a checkpoint that must not go, nor its label */
    bool gone[RIG_IDS_MAX]; /* pruned: must not come back */
    bool busy;              /* already looking */
    unsigned looked;
} power;

static bool
may_be_head(uint64_t id)
{
    return id == power.head || id == power.next_head || id > power.acknowledged;
}

/* A restart asks for the head before anyone opens the store to write. */
static void
look_at_as_reader(Rig *after)
{
    uint64_t id;

    if (power.acknowledged == 0)
        return;
    rig_open(after, CKPT_STORE_READ);
    g_assert_true(ckpt_store_find(after->store, "latest", &id, NULL));
    g_assert_true(may_be_head(id));
    g_clear_pointer(&after->store, ckpt_store_close);
}

/* What must be there. Checkpoints that only the policy keeps may have been pruned. */
static void
look_at(const char *dir)
{
    Rig after;
    uint64_t head, id;
    g_autoptr(GError) error = NULL;

    rig_init_at(&after, dir);
    memcpy(after.plan, power.rig->plan, sizeof after.plan);
    look_at_as_reader(&after);
    rig_open(&after, CKPT_STORE_CREATE);
    rig_assert_all(&after);
    rig_assert_clean(&after);
    g_assert_true(ckpt_store_head(after.store, &head, &error));
    g_assert_true(may_be_head(head));
    g_assert_true(power.acknowledged == 0 || rig_has(&after, power.acknowledged));
    if (power.labelled != 0) {
        g_assert_true(rig_has(&after, power.labelled));
        g_assert_true(ckpt_store_find(after.store, "keep", &id, &error));
        g_assert_cmpuint(id, >=, power.labelled);
    }
    for (id = 1; id <= power.acknowledged; id++)
        g_assert_false(power.gone[id] && rig_has(&after, id));
    /* It goes on from there. */
    after.incarnation++;
    if (power.acknowledged != 0 && chance(4)) {
        rig_commit(&after, false, NULL);
        rig_prune(&after, &(CkptStorePolicy){.keep_last = 2, .keep_labelled = true});
        rig_assert_all(&after);
    }
    rig_leave(&after);
}

static void
lose_power(void)
{
    g_autofree char *dir = NULL;
    Durable kept = durable;

    if (power.busy || !chance(3))
        return;
    power.busy = true;
    before_sync = NULL;
    dir = g_strconcat(power.rig->dir, "-after", NULL);
    lose_power_dir(power.rig->dir, dir, g_test_rand_int_range(0, 6));
    durable.files = NULL; /* what is done there is another machine's life */
    look_at(dir);
    durable = kept;
    rig_remove_tree(dir);
    before_sync = lose_power;
    power.busy = false;
    power.looked++;
}

/* Remember what has gone. */
static void
note_gone(Rig *rig)
{
    g_autoptr(GPtrArray) entries = ckpt_store_list(rig->store, NULL);

    for (uint64_t id = 1; id <= power.acknowledged; id++)
        power.gone[id] = true;
    for (guint i = 0; i < entries->len; i++)
        power.gone[((CkptStoreEntry *)g_ptr_array_index(entries, i))->id] = false;
}

static void
go_back(Rig *rig)
{
    g_autoptr(GPtrArray) entries = ckpt_store_list(rig->store, NULL);
    g_autoptr(GError) error = NULL;
    const CkptStoreEntry *to =
        g_ptr_array_index(entries, (guint)g_test_rand_int_range(0, (gint32)entries->len));

    power.next_head = to->id;
    g_assert_true(ckpt_store_set_head(rig->store, to->id, &error));
    power.head = to->id;
}

static void
label_last(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    uint64_t before = power.labelled;

    g_assert_true(ckpt_store_label(rig->store, power.acknowledged, "keep", &error));
    power.labelled = power.acknowledged;
    lose_power();
    if (before != 0 && before != power.labelled)
        g_assert_true(ckpt_store_label(rig->store, before, NULL, &error));
}

static void
work_once(Rig *rig, uint64_t round)
{
    const CkptStorePolicy policy = {.keep_last = 3, .keep_labelled = true};
    g_autoptr(GError) error = NULL;
    CkptStorePruned pruned;
    gboolean done;

    power.acknowledged = rig_commit(rig, chance(8), NULL);
    power.head = power.next_head = power.acknowledged;
    lose_power();
    if (round == 2 || chance(6))
        label_last(rig);
    if (chance(4))
        go_back(rig);
    ckpt_store_merge_some(rig->store, 50 * 4096, rig_find_home, rig, &done, &error);
    g_assert_no_error(error);
    ckpt_store_prune(rig->store, &policy, 60000, &pruned, &error);
    g_assert_no_error(error);
    note_gone(rig);
    lose_power();
    if (chance(7))
        rig_reopen(rig);
}

static void
test_power(void)
{
    const unsigned times = g_test_slow() ? 2000 : 120;
    Rig rig;

    memset(&power, 0, sizeof power);
    durable.files = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_bytes_unref);
    durable.dirs =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_hash_table_unref);
    power.rig = &rig;
    rig_init(&rig);
    before_sync = lose_power;
    for (uint64_t round = 0; power.looked < times && round < times * 2; round++)
        work_once(&rig, round);
    before_sync = NULL;
    g_test_message("power was lost %u times", power.looked);
    g_assert_cmpuint(power.looked, >=, times);
    rig_assert_all(&rig);
    g_clear_pointer(&durable.files, g_hash_table_unref);
    g_clear_pointer(&durable.dirs, g_hash_table_unref);
    rig_clear(&rig);
}

/* ---- kill -9 ---- */

/* What the child tells: a file that both know, one line for each intent and each success. */
static void
tell(int fd, char what, uint64_t id, uint64_t parent, bool full)
{
    g_autofree char *line = g_strdup_printf("%c %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %d\n",
                                            what, id, parent, full);

    g_assert_cmpint(write(fd, line, strlen(line)), ==, (gssize)strlen(line));
}

static void
child_round(Rig *rig, int fd)
{
    const CkptStorePolicy policy = {.keep_last = 4, .keep_labelled = true};
    bool full = chance(8), label = chance(5);
    CkptStoreCommit commit;
    CkptStorePruned pruned;
    gboolean done;
    uint64_t head, id;

    if (!ckpt_store_head(rig->store, &head, NULL))
        _exit(2);
    full = full || head == 0;
    /* The intent is told before there can be a whole file: its number is known only then. */
    id = 0;
    {
        g_autoptr(GByteArray) bytes = NULL;
        int file;

        if (!ckpt_store_prepare(rig->store, &id, &file, NULL))
            _exit(2);
        tell(fd, 'p', id, head, full);
        bytes = rig_file(rig, id, head, full, label ? "keep" : NULL, NULL);
        if (write(file, bytes->data, bytes->len) != (gssize)bytes->len || fdatasync(file) != 0)
            _exit(2);
        close(file);
    }
    commit = rig_commit_of(rig, id, head, full, label ? "keep" : NULL);
    if (!ckpt_store_commit(rig->store, id, &commit, NULL))
        _exit(2);
    tell(fd, label ? 'l' : 'c', id, head, full);
    if (!ckpt_store_merge_some(rig->store, 60 * 4096, rig_find_home, rig, &done, NULL) ||
        !ckpt_store_prune(rig->store, &policy, 50000, &pruned, NULL))
        _exit(2);
    if (chance(6) && ckpt_store_set_head(rig->store, head != 0 ? head : id, NULL))
        tell(fd, 'h', head != 0 ? head : id, 0, false);
}

static void
child_run(const char *dir, int fd, uint64_t incarnation)
{
    Rig rig;

    rig_init_at(&rig, dir);
    rig.incarnation = incarnation;
    rig_open(&rig, CKPT_STORE_CREATE);
    tell(fd, 'o', 0, 0, false);
    for (;;)
        child_round(&rig, fd);
}

typedef struct Told {
    uint64_t last; /* commit or change of head */
    GArray *labelled;
    guint commits;
} Told;

static void
hear(const char *path, Rig *rig, Told *told)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i] != NULL && *lines[i] != '\0'; i++) {
        char *p = lines[i] + 1;
        uint64_t id = g_ascii_strtoull(p, &p, 10), parent = g_ascii_strtoull(p, &p, 10);
        bool full = g_ascii_strtoull(p, &p, 10) != 0;

        if (lines[i][0] == 'p')
            rig->plan[id] = (RigPlan){parent, true, full};
        if (lines[i][0] == 'c' || lines[i][0] == 'l')
            told->commits++;
        if (lines[i][0] == 'l')
            g_array_append_val(told->labelled, id);
        if (strchr("clh", lines[i][0]) != NULL)
            told->last = id;
    }
}

static void
look_after_kill(Rig *rig, const Told *told)
{
    g_autoptr(GError) error = NULL;

    rig_open(rig, CKPT_STORE_CREATE);
    rig_assert_all(rig);
    rig_assert_clean(rig);
    g_assert_true(told->last == 0 || rig_has(rig, told->last));
    for (guint i = 0; i < told->labelled->len; i++)
        g_assert_true(rig_has(rig, g_array_index(told->labelled, uint64_t, i)));
    /* Not too many to look at every time. */
    for (guint i = 0; told->labelled->len > 6 && i < told->labelled->len; i++)
        ckpt_store_label(rig->store, g_array_index(told->labelled, uint64_t, i), NULL, &error);
    if (told->labelled->len > 6)
        g_array_set_size(told->labelled, 0);
    g_assert_no_error(error);
    g_clear_pointer(&rig->store, ckpt_store_close);
}

/* Until the child has told so much; bounded, for a busy machine. */
static void
wait_for_lines(const char *path, int lines)
{
    const gint64 until = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;
    int found = 0;

    while (found < lines && g_get_monotonic_time() < until) {
        g_autofree char *text = NULL;

        g_usleep(1000);
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        found = 0;
        for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
            found++;
    }
}

static void
test_kill(void)
{
    const int kills = 30;
    g_autofree char *log = NULL;
    Told told = {.labelled = g_array_new(FALSE, FALSE, sizeof(uint64_t))};
    Rig rig;

    rig_init(&rig);
    g_clear_pointer(&rig.store, ckpt_store_close);
    log = g_build_filename(rig.dir, "told", NULL);
    for (int i = 0; i < kills; i++) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
        int status;
        pid_t pid;

        g_assert_cmpint(fd, >=, 0);
        pid = fork();
        if (pid == 0)
            child_run(rig.dir, fd, rig.incarnation + (uint64_t)i);
        close(fd);
        wait_for_lines(log, g_test_rand_int_range(0, 20));
        g_usleep((gulong)g_test_rand_int_range(0, 15000));
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        told.last = 0;
        hear(log, &rig, &told);
        look_after_kill(&rig, &told);
    }
    g_test_message("%u checkpoints in %d lives", told.commits, kills);
    g_assert_cmpuint(told.commits, >, (guint)kills);
    g_array_unref(told.labelled);
    rig_clear(&rig);
}

/* ---- A full disk ---- */

static bool
is_named(const GError *error)
{
    return g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_FULL) ||
           g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOSPC);
}

/* One of everything; FALSE at the first that fails. */
static gboolean
all_work(Rig *rig, uint64_t *committed, GError **error)
{
    const CkptStorePolicy policy = {.keep_last = 2, .keep_labelled = true};
    CkptStorePruned pruned = {0};
    gboolean done = FALSE;
    uint64_t id;

    for (int i = 0; i < 3; i++) {
        if (!rig_try_commit(rig, false, NULL, &id, error))
            return FALSE;
        *committed = id;
    }
    if (!ckpt_store_label(rig->store, id - 1, "x", error))
        return FALSE;
    while (!done) {
        if (!ckpt_store_merge_some(rig->store, UINT64_MAX, rig_find_home, rig, &done, error))
            return FALSE;
    }
    while (!pruned.done) {
        if (!ckpt_store_prune(rig->store, &policy, UINT64_MAX, &pruned, error))
            return FALSE;
    }
    return ckpt_store_label(rig->store, id - 1, NULL, error);
}

static void
test_disk_full(void)
{
    bool through = false;
    unsigned failed = 0;
    uint64_t committed = 0;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, "first");
    for (int writes = 0; !through; writes += 1 + writes / 12) {
        g_autoptr(GError) error = NULL;

        writes_left = writes;
        through = all_work(&rig, &committed, &error);
        writes_left = -1;
        if (!through) {
            failed++;
            g_assert_true(is_named(error));
        }
        rig_assert_all(&rig);
        rig_assert_clean(&rig);
        g_assert_true(committed == 0 || rig_has(&rig, committed));
        if (failed % 5 == 4)
            rig_reopen(&rig);
        rig_prune(&rig, &(CkptStorePolicy){.keep_last = 2});
        rig_assert_all(&rig);
    }
    g_assert_cmpuint(failed, >, 10);
    rig_clear(&rig);
}

/* ---- A broken disk ---- */

static bool
is_io(const GError *error)
{
    return g_error_matches(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_IO) ||
           g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_IO) ||
           g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOSPC); /* as the rig says it */
}

static void
test_sync_fails(void)
{
    const CkptStorePolicy keep_two = {.keep_last = 2};
    uint64_t committed = 0;
    bool through = false;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, "first");
    for (int syncs = 0; !through; syncs++) {
        g_autoptr(GError) error = NULL;

        syncs_left = syncs;
        through = all_work(&rig, &committed, &error);
        g_assert_true(through || is_io(error));
        through = through && syncs_left >= 0;
        syncs_left = -1;
        rig_assert_all(&rig);
        rig_assert_clean(&rig);
        g_assert_true(committed == 0 || rig_has(&rig, committed));
        if (syncs % 4 == 3)
            rig_reopen(&rig);
        rig_prune(&rig, &keep_two);
    }
    rig_assert_all(&rig);
    rig_clear(&rig);
}

static void
test_read_fails(void)
{
    bool through = false;
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    for (int reads = 0; !through; reads++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Image) image = NULL;

        reads_left = reads;
        image = ckpt_store_load(rig.store, 3, rig.dir, &error);
        through = reads_left >= 0;
        reads_left = -1;
        g_assert_true((image != NULL) == through);
        if (through)
            continue;
        g_assert_true(is_io(error));
        g_assert_nonnull(strstr(error->message, "checkpoint-"));
        rig_assert_loads(&rig, 3);
    }
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL);
    g_log_set_handler(NULL, G_LOG_LEVEL_MESSAGE, g_log_default_handler, NULL);
    rig_in_memory = true;
    g_test_add_func("/store/nothing that was acknowledged is lost with power", test_power);
    g_test_add_func("/store/its writer may be killed at any moment", test_kill);
    g_test_add_func("/store/a full disk is named, and later it goes on", test_disk_full);
    g_test_add_func("/store/a sync that fails is named, and later it goes on", test_sync_fails);
    g_test_add_func("/store/a file that cannot be read is named", test_read_fails);
    return g_test_run();
}
