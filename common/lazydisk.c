/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memfd: a page with the head, then a bitmap of places that are there, one of places that are
 * waited for, and for each place its block.
 *
 * The engine sets the bit of a place that it waits for and then looks once more whether it is there;
 * district-ckpt says that it is there and then looks whether it is waited for: both in that order for
 * all to see, so at least one of them notices.
 */
#include "common/lazydisk.h"

#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3144595a414c5344) /* "DSLAZYD1" */
/* 64 TiB of blocks. */
#define PLACES_MAX (DISK_BYTES_MAX / PAGE_BYTES)

typedef struct Head {
    uint64_t magic;
    uint64_t places;
    uint32_t done; /* atomic */
} Head;

struct LazyDisk {
    int fds[LAZYDISK_FDS];
    void *map;
    uint64_t bytes;
    uint64_t places; /* as it was when it was opened */
    Head *head;
    uint64_t *present;
    uint64_t *wanted;
    const uint64_t *blocks;
};

static uint64_t
bytes_for(uint64_t places)
{
    uint64_t blocks = places * sizeof(uint64_t);

    return PAGE_BYTES + 2 * pagebits_bytes(places) +
           (blocks + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void
lay_out(LazyDisk *lazy)
{
    uint8_t *at = lazy->map;

    lazy->head = (Head *)(void *)at;
    at += PAGE_BYTES;
    lazy->present = (uint64_t *)(void *)at;
    at += pagebits_bytes(lazy->places);
    lazy->wanted = (uint64_t *)(void *)at;
    at += pagebits_bytes(lazy->places);
    lazy->blocks = (const uint64_t *)(void *)at;
}

void
lazydisk_free(LazyDisk *lazy)
{
    if (lazy == NULL)
        return;
    if (lazy->map != NULL)
        munmap(lazy->map, lazy->bytes);
    for (int i = 0; i < LAZYDISK_FDS; i++) {
        if (lazy->fds[i] >= 0)
            close(lazy->fds[i]);
    }
    g_free(lazy);
}

static LazyDisk *
lazy_alloc(void)
{
    LazyDisk *lazy = g_new0(LazyDisk, 1);

    for (int i = 0; i < LAZYDISK_FDS; i++)
        lazy->fds[i] = -1;
    return lazy;
}

static gboolean
lazy_fail(GError **error, int err, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err),
                "what is shared of an overlay that is being read: %s: %s", what, g_strerror(err));
    return FALSE;
}

static gboolean
lazy_map(LazyDisk *lazy, GError **error)
{
    lazy->map = memfd_map(lazy->fds[0], lazy->bytes, TRUE, error);
    return lazy->map != NULL;
}

LazyDisk *
lazydisk_new(const uint64_t *blocks, uint64_t places, GError **error)
{
    g_autoptr(LazyDisk) lazy = lazy_alloc();

    g_return_val_if_fail(places > 0 && places <= PLACES_MAX, NULL);
    lazy->places = places;
    lazy->bytes = bytes_for(places);
    lazy->fds[0] = memfd_create_sealed("lazy-disk", lazy->bytes, error);
    if (lazy->fds[0] < 0 || !lazy_map(lazy, error))
        return NULL;
    for (int i = 1; i < LAZYDISK_FDS; i++) {
        lazy->fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (lazy->fds[i] < 0) {
            lazy_fail(error, errno, "eventfd");
            return NULL;
        }
    }
    lay_out(lazy);
    lazy->head->places = places;
    for (uint64_t i = 0; i < places; i++)
        ((uint64_t *)lazy->blocks)[i] = blocks[i];
    lazy->head->magic = MAGIC;
    return g_steal_pointer(&lazy);
}

LazyDisk *
lazydisk_open(const int fds[LAZYDISK_FDS], GError **error)
{
    g_autoptr(LazyDisk) lazy = lazy_alloc();

    for (int i = 0; i < LAZYDISK_FDS; i++) {
        lazy->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (lazy->fds[i] < 0) {
            lazy_fail(error, errno, "its descriptors");
            return NULL;
        }
    }
    /* Whoever passed them may have passed what blocks. */
    for (int i = 1; i < LAZYDISK_FDS; i++) {
        if (fcntl(lazy->fds[i], F_SETFL, O_NONBLOCK) < 0) {
            lazy_fail(error, errno, "its eventfds");
            return NULL;
        }
    }
    if (!memfd_check(lazy->fds[0], 0, "what is shared of an overlay that is being read", error))
        return NULL;
    lazy->bytes = memfd_size(lazy->fds[0]);
    if (lazy->bytes < 2 * PAGE_BYTES || !lazy_map(lazy, error)) {
        if (error != NULL && *error == NULL)
            lazy_fail(error, EINVAL, "it is too small");
        return NULL;
    }
    lazy->places = ((const Head *)lazy->map)->places;
    if (((const Head *)lazy->map)->magic != MAGIC || lazy->places == 0 ||
        lazy->places > PLACES_MAX || bytes_for(lazy->places) != lazy->bytes) {
        lazy_fail(error, EINVAL, "it is of another kind or size");
        return NULL;
    }
    lay_out(lazy);
    return g_steal_pointer(&lazy);
}

const int *
lazydisk_fds(const LazyDisk *lazy)
{
    return lazy->fds;
}

uint64_t
lazydisk_places(const LazyDisk *lazy)
{
    return lazy->places;
}

uint64_t
lazydisk_block(const LazyDisk *lazy, uint64_t place)
{
    return lazy->blocks[place];
}

static bool
is_there(const LazyDisk *lazy, uint64_t place)
{
    return (__atomic_load_n(&lazy->present[place / 64], __ATOMIC_SEQ_CST) >> (place % 64)) & 1;
}

bool
lazydisk_has(const LazyDisk *lazy, uint64_t first, uint64_t count)
{
    uint64_t end = MIN(first + count, lazy->places);

    for (uint64_t place = first; place < end; place++) {
        if (!is_there(lazy, place))
            return false;
    }
    return true;
}

static void
wake(int fd)
{
    const uint64_t one = 1;

    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

bool
lazydisk_want(LazyDisk *lazy, uint64_t first, uint64_t count)
{
    uint64_t end = MIN(first + count, lazy->places);

    if (lazydisk_has(lazy, first, count))
        return true;
    for (uint64_t place = first; place < end; place++)
        __atomic_fetch_or(&lazy->wanted[place / 64], (uint64_t)1 << (place % 64), __ATOMIC_SEQ_CST);
    if (lazydisk_has(lazy, first, count))
        return true;
    wake(lazy->fds[1]);
    return false;
}

bool
lazydisk_done(const LazyDisk *lazy)
{
    return __atomic_load_n(&lazy->head->done, __ATOMIC_SEQ_CST) != 0;
}

void
lazydisk_woken(const LazyDisk *lazy, bool engine)
{
    uint64_t count;

    while (read(lazy->fds[engine ? 2 : 1], &count, sizeof count) < 0 && errno == EINTR)
        ;
}

bool
lazydisk_wanted(const LazyDisk *lazy, uint64_t *from)
{
    size_t words = pagebits_words(lazy->places);

    for (size_t w = *from / 64; w < words; w++) {
        uint64_t bits = __atomic_load_n(&lazy->wanted[w], __ATOMIC_SEQ_CST) &
                        ~__atomic_load_n(&lazy->present[w], __ATOMIC_SEQ_CST);

        if (w == *from / 64)
            bits &= UINT64_MAX << (*from % 64);
        if (bits == 0)
            continue;
        *from = (uint64_t)w * 64 + (uint64_t)__builtin_ctzll(bits);
        return *from < lazy->places;
    }
    return false;
}

void
lazydisk_put(LazyDisk *lazy, uint64_t place)
{
    uint64_t bit = (uint64_t)1 << (place % 64);

    __atomic_fetch_or(&lazy->present[place / 64], bit, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&lazy->wanted[place / 64], __ATOMIC_SEQ_CST) & bit)
        wake(lazy->fds[2]);
}

void
lazydisk_finish(LazyDisk *lazy)
{
    __atomic_store_n(&lazy->head->done, 1, __ATOMIC_SEQ_CST);
    wake(lazy->fds[2]);
}
