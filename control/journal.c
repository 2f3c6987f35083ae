/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of journals on this host.
 *
 * They are made at the first start of a district, and never again: one that is missing later held
 * what guests were told is safe, and an empty one in its place would hide that it is gone. Those of a
 * copy are district-standby's to make; clones have copies of their originals' (journalcopy.c).
 */
#include "control/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static gboolean
journal_error(GError **error, const char *path, const char *doing)
{
    int code = errno;

    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: cannot %s: %s", path, doing,
                g_strerror(code));
    return FALSE;
}

/* All of its room is taken: a guest must not find later that there is none. */
static gboolean
journal_fill(int fd, const char *path, uint64_t bytes, GError **error)
{
    if (ftruncate(fd, (off_t)bytes) != 0)
        return journal_error(error, path, "be made");
    if (fallocate(fd, 0, 0, (off_t)bytes) != 0 && errno != EOPNOTSUPP)
        return journal_error(error, path, "take the room for the journal");
    return fsync(fd) == 0 || journal_error(error, path, "be made durable");
}

static gboolean
journal_make(const char *path, uint64_t bytes, GError **error)
{
    g_autofree char *made = g_strconcat(path, ".new", NULL);
    int fd = open(made, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    gboolean good;

    if (fd < 0)
        return journal_error(error, made, "be made");
    good = journal_fill(fd, made, bytes, error);
    close(fd);
    if (good && store_rename(made, path, error))
        return TRUE;
    unlink(made);
    return FALSE;
}

int
journal_make_in(const char *dir, const DefinitionMember *m, GError **error)
{
    g_autofree char *file = g_strdup_printf("journal-%s.img", m->name);
    g_autofree char *path = g_build_filename(dir, file, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0) {
        journal_error(error, path, "be made");
        return -1;
    }
    if (journal_fill(fd, path, m->journal, error))
        return fd;
    close(fd);
    return -1;
}

int
journal_make_nameless(const char *dir, const DefinitionMember *m, GError **error)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        g_autofree char *path = g_build_filename(dir, ".journal-XXXXXX", NULL);
        fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0)
            unlink(path);
    }
    if (fd < 0 || ftruncate(fd, (off_t)m->journal) != 0) {
        journal_error(error, dir, "take a copy of a journal");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* Is the file what the definition says? */
static gboolean
journal_look(const char *path, const DefinitionMember *m, struct stat *st, GError **error)
{
    int code = stat(path, st) == 0 ? 0 : errno;

    if (code == 0 && S_ISREG(st->st_mode) && (uint64_t)st->st_size == m->journal)
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                "%s: cannot be the journal of member %s: %s: restore it from a backup", path,
                m->name,
                code != 0 ? g_strerror(code) : "not a file of the size that Journal= says");
    return FALSE;
}

gboolean
journal_check(const char *path, const DefinitionMember *m, GError **error)
{
    struct stat st;

    return journal_look(path, m, &st, error);
}

gboolean
journals_prepare(const District *d, GError **error)
{
    gboolean first = d->incarnation == 0 && d->record.lineage == 0;

    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        g_autofree char *path = m->journal != 0 ? district_journal_path(d, m) : NULL;

        if (path == NULL)
            continue;
        if (first && !g_file_test(path, G_FILE_TEST_EXISTS) &&
            !journal_make(path, m->journal, error))
            return FALSE;
        if (!journal_check(path, m, error))
            return FALSE;
    }
    return TRUE;
}

uint64_t
journals_identity(const District *d, GError **error)
{
    uint64_t identity = 0;

    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        g_autofree char *path = m->journal != 0 ? district_journal_path(d, m) : NULL;
        struct stat st;

        if (path == NULL)
            continue;
        if (!journal_look(path, m, &st, error))
            return 0;
        identity = (identity + st.st_ino) * 0x9E3779B97F4A7C15ULL | 1;
    }
    return identity;
}
