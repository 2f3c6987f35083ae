/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Home images behind an engine's qemu-nbd. libnbd's synchronous calls would wait for ever for a
 * server that is stopped, so commands are started asynchronously and waited for with a limit.
 */
#include "disk/home-ops.h"
#include "disk/nbd-wait.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

#define CONNECT_LIMIT_US (5 * G_USEC_PER_SEC)
/* A disk that has not answered for so long is not going to. */
#define COMMAND_LIMIT_US (30 * G_USEC_PER_SEC)
#define DATA_STEP (16ULL << 20)
#define RANGE_STEP (1ULL << 30)
#define STATUS_STEP (1ULL << 30)

typedef struct DataRange {
    uint64_t start, end;
} DataRange;

typedef struct NbdHome {
    Home base;
    struct nbd_handle *nbd; /* NULL: it has failed */
    bool has_status;        /* the server tells what is allocated */
    /* The command under way. */
    bool ended;
    int error;
    /* Of the last block status: what is known from known_from to status_at. */
    uint64_t known_from, status_at;
    GArray *data;  /* of DataRange */
    guint data_at; /* those before it end before what was asked for last */
} NbdHome;

static int
command_done(void *opaque, int *error)
{
    NbdHome *home = opaque;

    home->ended = true;
    home->error = *error;
    return 1;
}

static nbd_completion_callback
command_begin(NbdHome *home)
{
    home->ended = false;
    home->error = 0;
    return (nbd_completion_callback){.callback = command_done, .user_data = home};
}

static gboolean
command_fail(NbdHome *home, const char *doing, int code, bool lost, GError **error)
{
    if (lost)
        g_clear_pointer(&home->nbd, nbd_close);
    return home_fail(home->base.name, doing, code, error);
}

/* Wait for the command that cookie is of. */
static gboolean
command_wait(NbdHome *home, int64_t cookie, const char *doing, GError **error)
{
    gint64 limit = g_get_monotonic_time() + COMMAND_LIMIT_US;

    if (cookie < 0)
        return command_fail(home, doing, EIO, true, error);
    while (!home->ended) {
        if (!nbd_wait_turn(home->nbd, limit) && !home->ended)
            return command_fail(home, doing, g_get_monotonic_time() >= limit ? ETIMEDOUT : EIO,
                                true, error);
    }
    if (home->error == ENOTCONN || home->error == ESHUTDOWN)
        return command_fail(home, doing, EIO, true, error);
    return home->error == 0 || command_fail(home, doing, home->error, false, error);
}

static gboolean
command_possible(NbdHome *home, const char *doing, GError **error)
{
    return home->nbd != NULL || home_fail(home->base.name, doing, ENOTCONN, error);
}

static gboolean
nbd_home_read(Home *base, uint64_t offset, void *buf, size_t len, GError **error)
{
    NbdHome *home = (NbdHome *)base;

    for (size_t done = 0, step; done < len; done += step) {
        step = MIN(len - done, DATA_STEP);
        if (!command_possible(home, "read", error) ||
            !command_wait(home,
                          nbd_aio_pread(home->nbd, (char *)buf + done, step, offset + done,
                                        command_begin(home), 0),
                          "read", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
nbd_home_write(Home *base, uint64_t offset, const void *buf, size_t len, GError **error)
{
    NbdHome *home = (NbdHome *)base;

    for (size_t done = 0, step; done < len; done += step) {
        step = MIN(len - done, DATA_STEP);
        if (!command_possible(home, "write", error) ||
            !command_wait(home,
                          nbd_aio_pwrite(home->nbd, (const char *)buf + done, step, offset + done,
                                         command_begin(home), 0),
                          "write", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
nbd_home_zero(Home *base, uint64_t offset, uint64_t len, GError **error)
{
    NbdHome *home = (NbdHome *)base;

    for (uint64_t step; len > 0; offset += step, len -= step) {
        step = MIN(len, RANGE_STEP);
        if (!command_possible(home, "write zeros", error) ||
            !command_wait(home, nbd_aio_zero(home->nbd, step, offset, command_begin(home), 0),
                          "write zeros", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
nbd_home_flush(Home *base, GError **error)
{
    NbdHome *home = (NbdHome *)base;

    return command_possible(home, "sync", error) &&
           command_wait(home, nbd_aio_flush(home->nbd, command_begin(home), 0), "sync", error);
}

/* ---- Allocated ranges ---- */

static void
status_add(NbdHome *home, uint64_t end)
{
    DataRange *last =
        home->data->len > 0 ? &g_array_index(home->data, DataRange, home->data->len - 1) : NULL;
    DataRange range = {home->status_at, end};

    if (last != NULL && last->end == home->status_at)
        last->end = end;
    else
        g_array_append_val(home->data, range);
}

/* Called by libnbd with pairs of a length and its flags. */
static int
status_take(void *opaque, const char *context, uint64_t offset, uint32_t *entries, size_t n,
            int *error)
{
    NbdHome *home = opaque;

    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != home->status_at)
        return 0;
    for (size_t i = 0; i + 1 < n && home->status_at < home->base.bytes; i += 2) {
        uint64_t end = MIN(home->status_at + entries[i], home->base.bytes);

        if (!(entries[i + 1] & LIBNBD_STATE_ZERO) && end > home->status_at)
            status_add(home, end);
        home->status_at = end;
    }
    return 0;
}

/* All that the server says at once is kept: a fragmented image has thousands of ranges in it. */
static gboolean
status_ask(NbdHome *home, uint64_t from, GError **error)
{
    nbd_extent_callback take = {.callback = status_take, .user_data = home};

    home->known_from = home->status_at = from;
    home->data_at = 0;
    g_array_set_size(home->data, 0);
    if (!command_possible(home, "find its data", error) ||
        !command_wait(home,
                      nbd_aio_block_status(home->nbd, MIN(home->base.bytes - from, STATUS_STEP),
                                           from, take, command_begin(home), 0),
                      "find its data", error))
        return FALSE;
    /* It must say something, or this would never end. */
    return home->status_at > from || command_fail(home, "find its data", EPROTO, true, error);
}

/* The first known range that ends after from; NULL: there is none. */
static const DataRange *
data_find(NbdHome *home, uint64_t from)
{
    const DataRange *ranges = (const DataRange *)(const void *)home->data->data;

    if (home->data_at > 0 && ranges[home->data_at - 1].end > from)
        home->data_at = 0;
    while (home->data_at < home->data->len && ranges[home->data_at].end <= from)
        home->data_at++;
    return home->data_at < home->data->len ? &ranges[home->data_at] : NULL;
}

static gboolean
nbd_home_next_data(Home *base, uint64_t from, uint64_t *start, uint64_t *end, GError **error)
{
    NbdHome *home = (NbdHome *)base;

    *start = from;
    *end = base->bytes;
    if (!home->has_status)
        return command_possible(home, "find its data", error);
    while (from < base->bytes) {
        bool known = from >= home->known_from && from < home->status_at;

        if (!command_possible(home, "find its data", error) ||
            (!known && !status_ask(home, from, error)))
            return FALSE;
        const DataRange *range = data_find(home, from);
        if (range != NULL) {
            *start = MAX(range->start, from);
            *end = range->end;
            return TRUE;
        }
        from = home->status_at;
    }
    *start = *end = base->bytes;
    return TRUE;
}

static void
nbd_home_close(Home *base)
{
    NbdHome *home = (NbdHome *)base;

    g_clear_pointer(&home->nbd, nbd_close);
    g_array_unref(home->data);
    g_free(home);
}

static const HomeOps nbd_ops = {
    .read = nbd_home_read,
    .write = nbd_home_write,
    .zero = nbd_home_zero,
    .flush = nbd_home_flush,
    .next_data = nbd_home_next_data,
    .close = nbd_home_close,
};

Home *
home_nbd_open(const char *socket, uint64_t bytes, bool write, GError **error)
{
    g_autofree char *name = g_strconcat("home image nbd:", socket, NULL);
    struct nbd_handle *nbd = nbd_wait_connect(
        name, socket, g_get_monotonic_time() + CONNECT_LIMIT_US, NULL, NULL, error);
    const char *wrong = NULL;
    NbdHome *home;

    if (nbd == NULL)
        return NULL;
    if (nbd_get_size(nbd) != (int64_t)bytes)
        wrong = "it has another size than the disk";
    else if (write && nbd_is_read_only(nbd) != 0)
        wrong = "it can only be read";
    if (wrong != NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", name, wrong);
        nbd_close(nbd);
        return NULL;
    }
    home = g_new0(NbdHome, 1);
    home->base.ops = &nbd_ops;
    home->nbd = nbd;
    home->data = g_array_new(FALSE, FALSE, sizeof(DataRange));
    home->has_status = nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return &home->base;
}
