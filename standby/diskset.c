/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks of a shadow: which files there are, and how they are named. */
#include "standby/diskset.h"

#include "ckpt/layout.h"
#include "standby/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SYNC_MARK ".raw.sync-"

static District__StreamErrorCode
code_of_errno(int err)
{
    return err == ENOSPC || err == EDQUOT ? STANDBY_FULL
                                          : DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN;
}

/* ---- Names ---- */

static char *
last_name(const DiskFile *file)
{
    return ledger_disk_file(file->member, file->index);
}

static char *
sync_name(const DiskSet *set, const DiskFile *file)
{
    return g_strdup_printf("%s-%u" SYNC_MARK "%" G_GUINT64_FORMAT, file->member, file->index,
                           set->born);
}

/* A name that a file has only while its epoch is received. */
static bool
is_sync_name(const char *name)
{
    const char *number = g_strrstr(name, SYNC_MARK);

    if (number == NULL)
        return false;
    number += strlen(SYNC_MARK);
    return *number != '\0' && strspn(number, "0123456789") == strlen(number);
}

/* Is name the file that fd is of? */
static bool
names_it(const DiskSet *set, const char *name, int fd)
{
    struct stat named, open;

    return fstatat(set->dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &open) == 0 &&
           named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

char *
disk_set_name(const DiskSet *set, uint32_t disk)
{
    return g_strdup_printf("disk %u of member %s", set->files[disk].index, set->files[disk].member);
}

char *
disk_set_path(const DiskSet *set, uint32_t disk)
{
    g_autofree char *name = last_name(&set->files[disk]);

    return g_build_filename(set->dir, name, NULL);
}

/* ---- The directory ---- */

/* What an epoch that was never completed has left behind. */
static void
remove_leftovers(const DiskSet *set)
{
    int fd = openat(set->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (is_sync_name(entry->d_name) && unlinkat(set->dir_fd, entry->d_name, 0) == 0)
            g_message("%s/%s: removed what an unfinished copy has left", set->dir, entry->d_name);
    }
    closedir(dir);
}

static gboolean
open_dir(DiskSet *set, const char *dir, GError **error)
{
    if (dir == NULL)
        return standby_refuse(STANDBY_REFUSED, error,
                              "the district has disks, and district-standby was started without "
                              "--disk-dir: use the same release of districtd");
    set->dir = g_strdup(dir);
    if (mkdir(dir, S_IRWXU) != 0 && errno != EEXIST)
        return standby_refuse(code_of_errno(errno), error, "%s: cannot be made for disks: %s", dir,
                              g_strerror(errno));
    set->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (set->dir_fd >= 0)
        return TRUE;
    return standby_refuse(STANDBY_REFUSED, error, "%s: cannot be used for disks: %s", dir,
                          g_strerror(errno));
}

static gboolean
check_space(const DiskSet *set, const District__StreamEpochBegin *begin, GError **error)
{
    uint64_t needed = 0, available;
    struct statvfs fs;

    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        for (size_t k = 0; k < m->n_disks; k++)
            needed += MIN(m->disks[k]->data, m->disks[k]->size);
    }
    if (fstatvfs(set->dir_fd, &fs) != 0)
        return TRUE; /* it will be noticed when it is full */
    available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (available >= PAGE_BYTES && available >= needed)
        return TRUE;
    return standby_refuse(STANDBY_FULL, error,
                          "not enough room for disks in %s on the standby host: %" G_GUINT64_FORMAT
                          " MiB needed, %" G_GUINT64_FORMAT
                          " MiB free: free some or use another host",
                          set->dir, needed >> 20, available >> 20);
}

/* ---- Coming and going ---- */

static DiskSet *
disk_set_alloc(uint32_t n, uint64_t born)
{
    DiskSet *set = g_new0(DiskSet, 1);

    g_mutex_init(&set->lock);
    set->dir_fd = -1;
    set->born = born;
    set->n = n;
    set->files = g_new0(DiskFile, n);
    for (uint32_t i = 0; i < n; i++)
        set->files[i].fd = -1;
    for (unsigned i = 0; i < LEDGER_SLOTS && n > 0; i++)
        set->filter[i] = g_malloc0(DISK_FILTER_BITS / 8);
    return set;
}

void
disk_set_free(DiskSet *set)
{
    if (set == NULL)
        return;
    for (uint32_t i = 0; i < set->n; i++) {
        g_autofree char *name = sync_name(set, &set->files[i]);

        if (set->files[i].fd < 0)
            continue;
        if (set->fresh)
            unlinkat(set->dir_fd, name, 0);
        close(set->files[i].fd);
    }
    if (set->dir_fd >= 0)
        close(set->dir_fd);
    for (unsigned i = 0; i < LEDGER_SLOTS; i++)
        g_free(set->filter[i]);
    g_mutex_clear(&set->lock);
    g_free(set->files);
    g_free(set->dir);
    g_free(set);
}

static gboolean
create_file(const DiskSet *set, DiskFile *file, GError **error)
{
    g_autofree char *name = sync_name(set, file);

    file->fd = openat(set->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      S_IRUSR | S_IWUSR);
    if (file->fd >= 0 && ftruncate(file->fd, (off_t)file->bytes) == 0)
        return TRUE;
    return standby_refuse(code_of_errno(errno), error,
                          "%s/%s: cannot be made as a disk of %" G_GUINT64_FORMAT " bytes: %s",
                          set->dir, name, file->bytes, g_strerror(errno));
}

DiskSet *
disk_set_new(const char *dir, const District__StreamEpochBegin *begin, GError **error)
{
    uint32_t n = layout_image_count(begin) - (uint32_t)begin->n_members;
    g_autoptr(DiskSet) set = disk_set_alloc(n, begin->epoch);
    DiskFile *file = set->files;

    if (n == 0)
        return g_steal_pointer(&set);
    if (!open_dir(set, dir, error))
        return NULL;
    remove_leftovers(set);
    if (!check_space(set, begin, error))
        return NULL;
    set->fresh = true;
    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        for (uint32_t k = 0; k < m->n_disks; k++, file++) {
            g_strlcpy(file->member, m->name, sizeof file->member);
            file->index = k;
            file->bytes = m->disks[k]->size;
            if (!create_file(set, file, error))
                return NULL;
        }
    }
    return g_steal_pointer(&set);
}

/* ---- Adopting ---- */

/* Is fd a file that can be what file says? */
static gboolean
check_file(const DiskSet *set, uint32_t disk, int fd, GError **error)
{
    const DiskFile *file = &set->files[disk];
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags >= 0 && (flags & O_ACCMODE) == O_RDWR && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == file->bytes)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "disk %u of member %s: what is held is not its file: resynchronise from the "
                "primary",
                file->index, file->member);
    return FALSE;
}

/* Complete a rename that the predecessor was killed before. */
static gboolean
settle_name(const DiskSet *set, const DiskFile *file, int fd, GError **error)
{
    g_autofree char *last = last_name(file);
    g_autofree char *first = sync_name(set, file);

    if (names_it(set, last, fd))
        return TRUE;
    if (names_it(set, first, fd) && renameat(set->dir_fd, first, set->dir_fd, last) == 0)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "%s/%s has been removed or replaced: resynchronise from the primary", set->dir,
                last);
    return FALSE;
}

DiskSet *
disk_set_adopt(const char *dir, const int *fds, const Ledger *ledger, GError **error)
{
    g_autoptr(DiskSet) set = disk_set_alloc(ledger->n_disks, ledger->born);
    const LedgerDisk *disks = ledger_disks(ledger);

    if (set->n == 0)
        return g_steal_pointer(&set);
    if (!open_dir(set, dir, error))
        return NULL;
    for (uint32_t i = 0; i < set->n; i++) {
        DiskFile *file = &set->files[i];

        g_strlcpy(file->member, ledger->member[disks[i].member].name, sizeof file->member);
        file->index = disks[i].index;
        file->bytes = disks[i].size;
        if (!check_file(set, i, fds[i], error) || !settle_name(set, file, fds[i], error))
            return NULL;
    }
    remove_leftovers(set);
    for (uint32_t i = 0; i < set->n; i++)
        set->files[i].fd = fds[i];
    return g_steal_pointer(&set);
}

/* ---- Publishing ---- */

static bool
has_file(const DiskSet *set, const DiskFile *like)
{
    for (uint32_t i = 0; i < set->n; i++) {
        if (set->files[i].index == like->index && strcmp(set->files[i].member, like->member) == 0)
            return true;
    }
    return false;
}

gboolean
disk_set_publish(DiskSet *set, const DiskSet *old, GError **error)
{
    set->fresh = false;
    for (uint32_t i = 0; i < set->n; i++) {
        g_autofree char *first = sync_name(set, &set->files[i]);
        g_autofree char *last = last_name(&set->files[i]);

        if (renameat(set->dir_fd, first, set->dir_fd, last) != 0)
            return standby_refuse(code_of_errno(errno), error, "%s/%s: cannot be renamed to %s: %s",
                                  set->dir, first, last, g_strerror(errno));
    }
    for (uint32_t i = 0; old != NULL && i < old->n; i++) {
        g_autofree char *name = last_name(&old->files[i]);

        if (!has_file(set, &old->files[i]) && names_it(old, name, old->files[i].fd))
            unlinkat(old->dir_fd, name, 0);
    }
    return TRUE;
}

uint64_t
disk_set_bytes(const DiskSet *set)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < set->n; i++)
        sum += set->files[i].bytes;
    return sum;
}
