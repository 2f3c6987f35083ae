/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Base images: the RAM of each member as it was at the root or before (store.c).
 *
 * Theory of operation. base/ram-MEMBER.img is the RAM, byte for byte, sparse. base/ram-MEMBER.sums
 * has 8 bytes per page: XXH3-64 of the page, or 0 for a page of zeros. While the root is merged,
 * the two may differ for pages of the root's file, and only for those, since a page and its sum are
 * not written at once; whoever reads takes these pages from the root's file.
 */
#include "ckpt/store-internal.h"

#include <xxhash.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUM_BYTES sizeof(uint64_t)
/* Pages that are looked at together: one page of sums. */
#define WINDOW_PAGES (PAGE_BYTES / SUM_BYTES)

struct BaseImage {
    CkptStore *store;
    char *name;
    char *sums_name;
    int fd;
    int sums_fd;
    uint64_t pages;
};

static gboolean
base_fail(const BaseImage *base, const char *name, const char *what, int err, GError **error)
{
    return store_fail_errno(base->store, name, what, err, error);
}

/* ---- Opening ---- */

static int
base_open_file(BaseImage *base, const char *name, BaseMode mode, GError **error)
{
    int flags = mode == BASE_READ  ? O_RDONLY
                : mode == BASE_NEW ? O_RDWR | O_CREAT | O_TRUNC
                                   : O_RDWR;
    int fd = openat(base->store->dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        base_fail(base, name, "opening this base image", errno, error);
    return fd;
}

static gboolean
base_check_size(const BaseImage *base, int fd, const char *name, uint64_t bytes, BaseMode mode,
                GError **error)
{
    struct stat st;

    if (mode == BASE_NEW && ftruncate(fd, (off_t)bytes) != 0)
        return base_fail(base, name, "ftruncate", errno, error);
    if (fstat(fd, &st) != 0)
        return base_fail(base, name, "fstat", errno, error);
    return (uint64_t)st.st_size == bytes ||
           store_fail(base->store, CKPT_STORE_ERROR_DAMAGED, error,
                      "%s: damaged: %" G_GUINT64_FORMAT " bytes instead of %" G_GUINT64_FORMAT
                      ": bring back an intact copy of the store",
                      name, (uint64_t)st.st_size, bytes);
}

BaseImage *
base_open(CkptStore *store, const char *member, uint64_t bytes, BaseMode mode, GError **error)
{
    g_autoptr(BaseImage) base = g_new0(BaseImage, 1);

    base->store = store;
    base->name = g_strdup_printf(STORE_BASE_DIR "/ram-%s.img", member);
    base->sums_name = g_strdup_printf(STORE_BASE_DIR "/ram-%s.sums", member);
    base->pages = page_count(bytes);
    base->fd = base->sums_fd = -1;
    base->fd = base_open_file(base, base->name, mode, error);
    if (base->fd < 0)
        return NULL;
    base->sums_fd = base_open_file(base, base->sums_name, mode, error);
    if (base->sums_fd < 0 || !base_check_size(base, base->fd, base->name, bytes, mode, error) ||
        !base_check_size(base, base->sums_fd, base->sums_name, base->pages * SUM_BYTES, mode,
                         error))
        return NULL;
    return g_steal_pointer(&base);
}

void
base_close(BaseImage *base)
{
    if (base == NULL)
        return;
    if (base->fd >= 0)
        close(base->fd);
    if (base->sums_fd >= 0)
        close(base->sums_fd);
    g_free(base->name);
    g_free(base->sums_name);
    g_free(base);
}

const char *
base_name(const BaseImage *base)
{
    return base->name;
}

uint64_t
base_allocated(const BaseImage *base)
{
    const uint64_t stat_block = 512; /* stat(2) */
    struct stat st;

    return fstat(base->fd, &st) == 0 ? (uint64_t)st.st_blocks * stat_block : 0;
}

/* ---- Writing ---- */

static uint64_t
page_sum(const uint8_t *data)
{
    uint64_t sum = XXH3_64bits(data, PAGE_BYTES);

    return sum != 0 ? sum : 1;
}

static bool
is_zero(const uint8_t *data)
{
    static const uint8_t zeroes[PAGE_BYTES];

    return memcmp(data, zeroes, PAGE_BYTES) == 0;
}

static int
write_zeros(int fd, uint64_t at, uint64_t bytes)
{
    static const uint8_t zeroes[PAGE_BYTES];
    int err = 0;

    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) == 0)
        return 0;
    for (uint64_t done = 0; err == 0 && done < bytes; done += PAGE_BYTES)
        err = store_write_all(fd, zeroes, PAGE_BYTES, at + done);
    return err;
}

static gboolean
base_write_run(void *opaque, uint64_t first, uint32_t count, const uint8_t *data, GError **error)
{
    BaseImage *base = opaque;
    uint64_t at = first << PAGE_SHIFT_4K, bytes = (uint64_t)count << PAGE_SHIFT_4K;
    uint64_t sums[PAGES_PER_RECORD_MAX] = {0};
    int err = data != NULL ? store_write_all(base->fd, data, bytes, at)
                           : write_zeros(base->fd, at, bytes);

    if (err != 0)
        return base_fail(base, base->name, "writing it", err, error);
    for (uint32_t i = 0; data != NULL && i < count; i++) {
        const uint8_t *page = data + (size_t)i * PAGE_BYTES;
        sums[i] = GUINT64_TO_LE(is_zero(page) ? 0 : page_sum(page));
    }
    err = store_write_all(base->sums_fd, sums, count * SUM_BYTES, first * SUM_BYTES);
    return err == 0 || base_fail(base, base->sums_name, "writing it", err, error);
}

gboolean
base_write(BaseImage *base, const DecodedPage *pages, uint32_t count, GError **error)
{
    return storefile_runs(pages, count, base_write_run, base, error);
}

gboolean
base_sync(BaseImage *base, GError **error)
{
    if (fdatasync(base->fd) != 0)
        return base_fail(base, base->name, "fdatasync", errno, error);
    if (fdatasync(base->sums_fd) != 0)
        return base_fail(base, base->sums_name, "fdatasync", errno, error);
    return TRUE;
}

/* Is name that of a base image of one of images? */
static bool
is_wanted(const char *name, const GArray *images)
{
    for (guint i = 0; i < images->len; i++) {
        const StoreImage *image = &g_array_index(images, StoreImage, i);
        g_autofree char *img = g_strdup_printf("ram-%s.img", image->member);
        g_autofree char *sums = g_strdup_printf("ram-%s.sums", image->member);

        if (strcmp(name, img) == 0 || strcmp(name, sums) == 0)
            return true;
    }
    return false;
}

gboolean
base_remove_others(CkptStore *store, const GArray *images, GError **error)
{
    int fd = openat(store->base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    gboolean good = TRUE;

    if (dir == NULL) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        return store_fail_errno(store, STORE_BASE_DIR, "reading the directory", saved, error);
    }
    while (good && (entry = readdir(dir)) != NULL) {
        if (g_str_has_prefix(entry->d_name, "ram-") && !is_wanted(entry->d_name, images) &&
            unlinkat(fd, entry->d_name, 0) != 0 && errno != ENOENT)
            good = store_fail_errno(store, STORE_BASE_DIR, entry->d_name, errno, error);
    }
    closedir(dir);
    return good;
}

/* ---- Reading ---- */

/* First unit of size unit at or after at that has data; UINT64_MAX: none. */
static gboolean
next_data(BaseImage *base, int fd, const char *name, uint64_t at, uint64_t unit, uint64_t *next,
          GError **error)
{
    off_t found = lseek(fd, (off_t)(at * unit), SEEK_DATA);

    *next = found < 0 ? UINT64_MAX : (uint64_t)found / unit;
    return found >= 0 || errno == ENXIO || base_fail(base, name, "lseek", errno, error);
}

static gboolean
read_all(BaseImage *base, int fd, const char *name, void *buf, size_t len, uint64_t offset,
         GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return base_fail(base, name, "reading it", n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    return TRUE;
}

static gboolean
read_window(BaseImage *base, uint64_t first, uint64_t count, uint8_t *data, uint64_t *sums,
            BasePage func, void *opaque, GError **error)
{
    if (!read_all(base, base->fd, base->name, data, count * PAGE_BYTES, first * PAGE_BYTES,
                  error) ||
        !read_all(base, base->sums_fd, base->sums_name, sums, count * SUM_BYTES, first * SUM_BYTES,
                  error))
        return FALSE;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *page = data + i * PAGE_BYTES;
        uint64_t sum = GUINT64_FROM_LE(sums[i]);
        bool zero = is_zero(page);

        if (zero && sum == 0)
            continue;
        if (!func(opaque, first + i, zero ? NULL : page, !zero && sum == page_sum(page), error))
            return FALSE;
    }
    return TRUE;
}

gboolean
base_read_some(BaseImage *base, uint64_t first, uint64_t count, uint8_t *buffer, BasePage func,
               void *opaque, GError **error)
{
    uint64_t sums[WINDOW_PAGES];

    g_return_val_if_fail(count <= WINDOW_PAGES, FALSE);
    return read_window(base, first, count, buffer, sums, func, opaque, error);
}

gboolean
base_next(BaseImage *base, uint64_t from, uint64_t *next, GError **error)
{
    uint64_t page, sum;

    if (!next_data(base, base->fd, base->name, from, PAGE_BYTES, &page, error) ||
        !next_data(base, base->sums_fd, base->sums_name, from, SUM_BYTES, &sum, error))
        return FALSE;
    *next = MIN(page, sum);
    return TRUE;
}

gboolean
base_read(BaseImage *base, BasePage func, void *opaque, GError **error)
{
    g_autofree uint8_t *data = g_malloc(WINDOW_PAGES * PAGE_BYTES);
    uint64_t sums[WINDOW_PAGES] = {0};

    for (uint64_t at = 0; at < base->pages;) {
        uint64_t first, count;

        if (!base_next(base, at, &first, error))
            return FALSE;
        if (first >= base->pages)
            break;
        first -= first % WINDOW_PAGES;
        count = MIN(WINDOW_PAGES, base->pages - first);
        if (!read_window(base, first, count, data, sums, func, opaque, error))
            return FALSE;
        at = first + count;
    }
    return TRUE;
}
