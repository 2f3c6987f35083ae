/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks of a member: HELLO, cuts, and reading the index. */
#include "ckpt/member-disk.h"

#include "ckpt/member.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOME_BYTES_MAX 4096
#define READ_ENTRIES 4096

static gboolean G_GNUC_PRINTF(3, 4)
    disk_refuse(const MemberDisk *disk, GError **error, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST, "member %s: disk %u: %s", disk->member,
                disk->number, what);
    return FALSE;
}

static gboolean
disk_check(const MemberDisk *disk, const District__MemberDisk *hello, GError **error)
{
    if (hello->size == 0 || hello->size % SECTOR_BYTES != 0 || hello->size > DISK_BYTES_MAX)
        return disk_refuse(disk, error, "its size of %" PRIu64 " bytes is out of range",
                           hello->size);
    if (strlen(hello->home) > HOME_BYTES_MAX ||
        !(g_str_has_prefix(hello->home, "raw:/") || g_str_has_prefix(hello->home, "nbd:/")))
        return disk_refuse(disk, error, "its home is not named as raw:PATH or nbd:PATH");
    if (strlen(hello->image) > HOME_BYTES_MAX ||
        (hello->image[0] != '\0' && !strstr(hello->image, ":/")))
        return disk_refuse(disk, error, "its image is not named as FORMAT:PATH");
    if (hello->overlay && hello->read_only)
        return disk_refuse(disk, error, "it is read-only and has an overlay");
    return TRUE;
}

/* A regular file, open for reading: reading it cannot block for long. */
static int
disk_file(const MemberDisk *disk, int fd, const char *what, GError **error)
{
    struct stat st;
    int copy;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        disk_refuse(disk, error, "its %s is not a regular file", what);
        return -1;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        disk_refuse(disk, error, "%s: %s", what, g_strerror(errno));
    return copy;
}

gboolean
member_disk_init(MemberDisk *disk, const char *member, unsigned number,
                 const District__MemberDisk *hello, const int fds[2], GError **error)
{
    *disk =
        (MemberDisk){.member = g_strdup(member), .number = number, .data_fd = -1, .index_fd = -1};
    if (!disk_check(disk, hello, error))
        return FALSE;
    disk->size = hello->size;
    disk->n_blocks = disk_blocks(hello->size);
    disk->home = g_strdup(hello->home);
    disk->image = hello->image[0] != '\0' ? g_strdup(hello->image) : NULL;
    disk->overlay = hello->overlay;
    disk->cut = hello->cuts;
    disk->index_end = hello->index_entries;
    disk->read_only = hello->read_only;
    if (!disk->overlay)
        return TRUE;
    disk->data_fd = disk_file(disk, fds[0], "data file", error);
    if (disk->data_fd < 0)
        return FALSE;
    disk->index_fd = disk_file(disk, fds[1], "index file", error);
    return disk->index_fd >= 0;
}

void
member_disk_clear(MemberDisk *disk)
{
    if (disk->data_fd >= 0)
        close(disk->data_fd);
    if (disk->index_fd >= 0)
        close(disk->index_fd);
    lazydisk_free(disk->lazy);
    g_free(disk->member);
    g_free(disk->home);
    g_free(disk->image);
    *disk = (MemberDisk){.data_fd = -1, .index_fd = -1};
}

bool
member_disk_own_home(MemberDisk *disk)
{
    if (disk->image == NULL || !g_str_has_prefix(disk->home, "nbd:"))
        return false;
    g_free(disk->home);
    disk->home = g_strconcat("image:", disk->image, NULL);
    return true;
}

gboolean
member_disk_copy(MemberDisk *to, const MemberDisk *from, GError **error)
{
    *to = *from;
    to->member = g_strdup(from->member);
    to->home = g_strdup(from->home);
    to->image = g_strdup(from->image);
    to->lazy = NULL;
    to->data_fd = fcntl(from->data_fd, F_DUPFD_CLOEXEC, 3);
    to->index_fd = fcntl(from->index_fd, F_DUPFD_CLOEXEC, 3);
    if (to->data_fd >= 0 && to->index_fd >= 0)
        return TRUE;
    disk_refuse(from, error, "its overlay: %s", g_strerror(errno));
    member_disk_clear(to);
    return FALSE;
}

gboolean
member_disk_cut(MemberDisk *disk, const District__MemberDiskCut *cut, GError **error)
{
    if (cut->cut <= disk->cut || cut->index_end < disk->index_end ||
        cut->index_end > (uint64_t)INT64_MAX / sizeof(DiskIndexEntry))
        return disk_refuse(disk, error,
                           "cut %" PRIu64 " with %" PRIu64 " entries cannot follow cut %" PRIu64
                           " with %" PRIu64,
                           cut->cut, cut->index_end, disk->cut, disk->index_end);
    disk->cut = cut->cut;
    disk->index_end = cut->index_end;
    return TRUE;
}

static gboolean
read_entries(const MemberDisk *disk, uint64_t from, size_t count, DiskIndexEntry *to,
             GError **error)
{
    size_t bytes = count * sizeof *to;

    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(disk->index_fd, (uint8_t *)to + done, bytes - done,
                          (off_t)(from * sizeof *to + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return disk_refuse(disk, error, "its index cannot be read at entry %" PRIu64 ": %s",
                               from, n < 0 ? g_strerror(errno) : "it ends before");
        done += (size_t)n;
    }
    return TRUE;
}

static bool
entry_possible(const MemberDisk *disk, const DiskIndexEntry *entry, uint64_t data_bytes)
{
    if (entry->block >= disk->n_blocks)
        return false;
    return entry->offset == DISK_INDEX_ZERO ||
           (entry->offset % PAGE_BYTES == 0 && data_bytes >= PAGE_BYTES &&
            entry->offset <= data_bytes - PAGE_BYTES);
}

/* Add count entries; at: block -> its place in entries + 1. */
static gboolean
add_entries(const MemberDisk *disk, const DiskIndexEntry *read, size_t count, uint64_t data_bytes,
            GHashTable *at, GArray *entries, GError **error)
{
    for (size_t i = 0; i < count; i++) {
        gpointer key = GSIZE_TO_POINTER(read[i].block);
        gsize place = GPOINTER_TO_SIZE(g_hash_table_lookup(at, key));

        if (!entry_possible(disk, &read[i], data_bytes))
            return disk_refuse(
                disk, error, "an entry of its index is not possible: block %" PRIu64 " at %" PRIu64,
                read[i].block, read[i].offset);
        if (place != 0) {
            g_array_index(entries, DiskIndexEntry, place - 1) = read[i];
            continue;
        }
        g_array_append_val(entries, read[i]);
        g_hash_table_insert(at, key, GSIZE_TO_POINTER((gsize)entries->len));
    }
    return TRUE;
}

gboolean
member_disk_read(const MemberDisk *disk, uint64_t from, uint64_t to, GArray *entries,
                 GError **error)
{
    g_autofree DiskIndexEntry *read = g_new0(DiskIndexEntry, READ_ENTRIES);
    g_autoptr(GHashTable) at = g_hash_table_new(NULL, NULL);
    struct stat st;

    /* Later entries may be of data written since: what is checked against is at least as large. */
    if (from > to || fstat(disk->data_fd, &st) != 0)
        return disk_refuse(disk, error, "its overlay cannot be read");
    while (from < to) {
        size_t count = MIN(to - from, READ_ENTRIES);

        if (!read_entries(disk, from, count, read, error) ||
            !add_entries(disk, read, count, (uint64_t)st.st_size, at, entries, error))
            return FALSE;
        from += count;
    }
    return TRUE;
}

gboolean
member_disk_block(const MemberDisk *disk, const DiskIndexEntry *entry, uint8_t *data,
                  GError **error)
{
    if (entry->offset == DISK_INDEX_ZERO) {
        memset(data, 0, PAGE_BYTES);
        return TRUE;
    }
    for (size_t done = 0; done < PAGE_BYTES;) {
        ssize_t n =
            pread(disk->data_fd, data + done, PAGE_BYTES - done, (off_t)(entry->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return disk_refuse(disk, error, "block %" PRIu64 " of its overlay cannot be read: %s",
                               entry->block, n < 0 ? g_strerror(errno) : "the file ends before");
        done += (size_t)n;
    }
    return TRUE;
}
