/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of any format that QEMU knows, as home images: libnbd's asynchronous commands, driven by
 * the main loop, to a qemu-nbd of our own (nbd-server.h).
 *
 * Theory of operation. libnbd ends commands from inside its calls, ours included. So what has ended
 * goes to a list, and the source tells it from its dispatch. When the connection breaks, libnbd
 * ends all commands with an error; from then on each new one ends with EIO. Nothing is started
 * again: writes may have been lost that qemu-nbd had in its caches, and a guest that is told of
 * errors can know.
 *
 * A range longer than one command may be is done in steps.
 */
#include "disk/block.h"
#include "disk/nbd-server.h"

#include <errno.h>
#include <gio/gio.h>

/* Longest command: qemu-nbd takes 32 MiB of data, and lengths have 32 bits. */
#define DATA_STEP (16ULL << 20)
#define RANGE_STEP (1ULL << 30)

typedef enum NbdKind { NBD_READ, NBD_WRITE, NBD_FLUSH, NBD_ZERO, NBD_TRIM } NbdKind;

typedef struct NbdBackend NbdBackend;

typedef struct NbdRequest {
    GList link; /* in ended */
    NbdBackend *backend;
    NbdKind kind;
    uint64_t offset;
    uint64_t len;  /* left */
    uint64_t step; /* of it, in the command under way */
    uint8_t *buf;
    uint32_t flags;
    bool ended; /* that one */
    int error;
    BlockDone done;
    void *opaque;
} NbdRequest;

struct NbdBackend {
    BlockBackend base;
    NbdServer *server;
    struct nbd_handle *nbd;
    GSource *source;
    GPollFD poll;
    bool lost;
    GQueue ended; /* of NbdRequest: commands that have ended and are not told yet */
};

typedef struct NbdSource {
    GSource source;
    NbdBackend *backend;
} NbdSource;

/* ---- Commands ---- */

static void
request_ended(NbdRequest *request, int error)
{
    request->ended = true;
    request->error = error;
    request->link.data = request;
    g_queue_push_tail_link(&request->backend->ended, &request->link);
}

/* Called by libnbd. 1: forget the command. */
static int
command_done(void *opaque, int *error)
{
    request_ended(opaque, *error);
    return 1;
}

static void
request_issue(NbdRequest *r)
{
    struct nbd_handle *nbd = r->backend->nbd;
    nbd_completion_callback done = {.callback = command_done, .user_data = r};
    bool data = r->kind == NBD_READ || r->kind == NBD_WRITE;
    int64_t cookie = -1;

    r->ended = false;
    r->step = MIN(r->len, data ? DATA_STEP : RANGE_STEP);
    switch (r->kind) {
    case NBD_READ:
        cookie = nbd_aio_pread(nbd, r->buf, r->step, r->offset, done, 0);
        break;
    case NBD_WRITE:
        cookie = nbd_aio_pwrite(nbd, r->buf, r->step, r->offset, done, 0);
        break;
    case NBD_FLUSH:
        cookie = nbd_aio_flush(nbd, done, 0);
        break;
    case NBD_ZERO:
        cookie = nbd_aio_zero(nbd, r->step, r->offset, done, r->flags);
        break;
    case NBD_TRIM:
        cookie = nbd_aio_trim(nbd, r->step, r->offset, done, 0);
        break;
    }
    /* libnbd 1.14 takes the cookie from memory that it has freed if the command has ended in the call. */
    if (cookie < 0 && !r->ended)
        request_ended(r, EIO);
}

/* A command has ended: go on with the next step, or tell. */
static void
request_go_on(NbdRequest *r)
{
    r->offset += r->step;
    r->len -= r->step;
    if (r->buf != NULL)
        r->buf += r->step;
    if (r->error == 0 && r->len > 0) {
        request_issue(r);
        return;
    }
    /* What libnbd says of a connection that broke means nothing to a guest. */
    if (r->error == ENOTCONN || r->error == ESHUTDOWN)
        r->error = EIO;
    r->done(r->opaque, r->error);
    g_free(r);
}

static NbdRequest *
request_new(BlockBackend *b, NbdKind kind, uint64_t offset, uint64_t len, BlockDone done,
            void *opaque)
{
    NbdRequest *r = g_new0(NbdRequest, 1);

    r->backend = (NbdBackend *)b;
    r->kind = kind;
    r->offset = offset;
    r->len = len;
    r->done = done;
    r->opaque = opaque;
    return r;
}

/* ---- Operations ---- */

static void
nbd_block_read(BlockBackend *b, uint64_t offset, void *buf, size_t len, BlockDone done,
               void *opaque)
{
    NbdRequest *r = request_new(b, NBD_READ, offset, len, done, opaque);

    r->buf = buf;
    request_issue(r);
}

static void
nbd_block_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len, BlockDone done,
                void *opaque)
{
    NbdRequest *r = request_new(b, NBD_WRITE, offset, len, done, opaque);

    r->buf = (uint8_t *)buf;
    request_issue(r);
}

static void
nbd_block_flush(BlockBackend *b, BlockDone done, void *opaque)
{
    request_issue(request_new(b, NBD_FLUSH, 0, 0, done, opaque));
}

static void
nbd_block_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap, BlockDone done,
               void *opaque)
{
    NbdRequest *r = request_new(b, NBD_ZERO, offset, len, done, opaque);

    r->flags = unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
    request_issue(r);
}

static void
nbd_block_discard(BlockBackend *b, uint64_t offset, uint64_t len, BlockDone done, void *opaque)
{
    request_issue(request_new(b, NBD_TRIM, offset, len, done, opaque));
}

static void
nbd_block_close(BlockBackend *b)
{
    NbdBackend *backend = (NbdBackend *)b;

    g_source_destroy(backend->source);
    g_source_unref(backend->source);
    nbd_close(backend->nbd);
    nbd_server_stop(backend->server);
    g_free(backend->base.home);
    g_free(backend->base.image);
    g_free(backend);
}

static const BlockBackendOps nbd_ops = {
    .read = nbd_block_read,
    .write = nbd_block_write,
    .flush = nbd_block_flush,
    .zero = nbd_block_zero,
    .discard = nbd_block_discard,
    .close = nbd_block_close,
};

/* ---- The source ---- */

static gboolean
source_prepare(GSource *source, gint *timeout)
{
    NbdBackend *backend = ((NbdSource *)source)->backend;
    unsigned direction = backend->lost ? 0 : nbd_aio_get_direction(backend->nbd);

    backend->poll.events = (direction & LIBNBD_AIO_DIRECTION_READ ? G_IO_IN : 0) |
                           (direction & LIBNBD_AIO_DIRECTION_WRITE ? G_IO_OUT : 0);
    *timeout = -1;
    return backend->ended.length > 0;
}

static gboolean
source_check(GSource *source)
{
    NbdBackend *backend = ((NbdSource *)source)->backend;

    return backend->ended.length > 0 || (!backend->lost && backend->poll.revents != 0);
}

static void
source_notify(NbdBackend *backend)
{
    gushort events = backend->poll.revents;

    backend->poll.revents = 0;
    if (events & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        nbd_aio_notify_read(backend->nbd);
    /* Reading may have changed what it waits for. */
    if ((events & G_IO_OUT) && (nbd_aio_get_direction(backend->nbd) & LIBNBD_AIO_DIRECTION_WRITE))
        nbd_aio_notify_write(backend->nbd);
}

static void
source_check_lost(NbdBackend *backend)
{
    if (!nbd_aio_is_dead(backend->nbd) && !nbd_aio_is_closed(backend->nbd))
        return;
    backend->lost = true;
    g_source_remove_poll(backend->source, &backend->poll);
    g_warning("disk %s: its qemu-nbd has gone: every request fails from now on; restart the member",
              backend->base.home);
}

static gboolean
source_dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    NbdBackend *backend = ((NbdSource *)source)->backend;
    guint n;

    if (!backend->lost) {
        source_notify(backend);
        source_check_lost(backend);
    }
    /* Those that end meanwhile have their turn next; a completion may close the backend. */
    for (n = backend->ended.length; n > 0 && !g_source_is_destroyed(source); n--)
        request_go_on(g_queue_pop_head_link(&backend->ended)->data);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

static void
source_attach(NbdBackend *backend)
{
    backend->source = g_source_new(&source_funcs, sizeof(NbdSource));
    ((NbdSource *)backend->source)->backend = backend;
    backend->poll.fd = nbd_aio_get_fd(backend->nbd);
    g_source_add_poll(backend->source, &backend->poll);
    g_source_set_static_name(backend->source, "nbd");
    /* As in uring.c. */
    g_source_set_can_recurse(backend->source, TRUE);
    g_source_attach(backend->source, NULL);
}

/* ---- Opening ---- */

static gboolean
export_check(NbdBackend *backend, const char *path, GError **error)
{
    int64_t bytes = nbd_get_size(backend->nbd);
    const char *wrong = NULL;

    if (bytes <= 0 || bytes % SECTOR_BYTES != 0 || (uint64_t)bytes > DISK_BYTES_MAX)
        wrong = "its size is not a multiple of 512 from 512 to 64T";
    else if (!backend->base.read_only && nbd_is_read_only(backend->nbd) != 0)
        wrong = "it can only be read; open it with readonly=on";
    if (wrong != NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "disk %s: %s", path, wrong);
        return FALSE;
    }
    backend->base.bytes = (uint64_t)bytes;
    return TRUE;
}

BlockBackend *
block_nbd_open(const char *path, const char *format, BlockMode mode, const char *socket_dir,
               GError **error)
{
    NbdBackend *backend = g_new0(NbdBackend, 1);

    backend->base.ops = &nbd_ops;
    backend->base.read_only = mode != BLOCK_WRITE;
    backend->server = nbd_server_start(path, format, mode, socket_dir, &backend->nbd, error);
    if (backend->server == NULL) {
        g_free(backend);
        return NULL;
    }
    backend->base.home = g_strconcat("nbd:", nbd_server_socket(backend->server), NULL);
    if (mode == BLOCK_WRITE) {
        g_autofree char *absolute = g_canonicalize_filename(path, NULL);
        backend->base.image = g_strconcat(format, ":", absolute, NULL);
    }
    g_queue_init(&backend->ended);
    source_attach(backend);
    if (export_check(backend, path, error))
        return &backend->base;
    nbd_block_close(&backend->base);
    return NULL;
}
