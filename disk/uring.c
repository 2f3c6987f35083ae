/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An io_uring as a GSource.
 *
 * Theory of operation: a call only queues its operation. Before the main loop sleeps, prepare()
 * hands what is queued to the kernel in one system call; an eventfd, which the kernel signals for
 * each completion, wakes the loop; dispatch() takes completions. At most URING_DEPTH operations are
 * with the kernel, which is less than its completion queue holds, so that none can overflow; the
 * others stay queued.
 *
 * A transfer may end short (a signal, a file system that is nearly full): the rest is queued again,
 * until it is done or the kernel says why not.
 */
#include "disk/uring.h"

#include <errno.h>
#include <gio/gio.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define URING_DEPTH 256
/* How long to wait before handing over again what the kernel did not take for want of memory. */
#define SUBMIT_RETRY_MS 5

typedef enum UringKind {
    URING_READV,
    URING_WRITEV,
    URING_FSYNC,
    URING_FALLOCATE,
} UringKind;

typedef struct UringOp {
    GList link; /* in queued */
    UringKind kind;
    int fd;
    int mode; /* of fallocate; flags of fsync */
    uint64_t offset;
    uint64_t len; /* of fallocate */
    UringDone done;
    void *opaque;
    unsigned n_iov, first_iov;
    struct iovec iov[];
} UringOp;

struct Uring {
    GSource source;
    struct io_uring ring;
    int event_fd;
    bool ring_ready;
    GQueue queued;      /* of UringOp: not yet in the submission queue */
    unsigned submitted; /* in the submission queue or with the kernel */
};

static struct io_uring_sqe *
uring_sqe(Uring *uring)
{
    if (uring->submitted == URING_DEPTH)
        return NULL;
    return io_uring_get_sqe(&uring->ring);
}

static void
op_prepare(const UringOp *op, struct io_uring_sqe *sqe)
{
    const struct iovec *iov = op->iov + op->first_iov;
    unsigned n_iov = op->n_iov - op->first_iov;

    switch (op->kind) {
    case URING_READV:
        io_uring_prep_readv(sqe, op->fd, iov, n_iov, op->offset);
        break;
    case URING_WRITEV:
        io_uring_prep_writev(sqe, op->fd, iov, n_iov, op->offset);
        break;
    case URING_FSYNC:
        io_uring_prep_fsync(sqe, op->fd, (unsigned)op->mode);
        break;
    case URING_FALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, op->mode, op->offset, op->len);
        break;
    }
}

/* Hand over what is queued. Returns whether the kernel has all that there is room for. */
static bool
uring_submit(Uring *uring)
{
    while (uring->queued.length > 0) {
        struct io_uring_sqe *sqe = uring_sqe(uring);
        UringOp *op;

        if (sqe == NULL)
            break;
        op = g_queue_pop_head_link(&uring->queued)->data;
        op_prepare(op, sqe);
        io_uring_sqe_set_data(sqe, op);
        uring->submitted++;
    }
    if (io_uring_sq_ready(&uring->ring) > 0)
        io_uring_submit(&uring->ring);
    return io_uring_sq_ready(&uring->ring) == 0;
}

static gboolean
uring_prepare(GSource *source, gint *timeout)
{
    Uring *uring = (Uring *)source;

    *timeout = uring_submit(uring) ? -1 : SUBMIT_RETRY_MS;
    return io_uring_cq_ready(&uring->ring) > 0;
}

static gboolean
uring_check(GSource *source)
{
    return io_uring_cq_ready(&((Uring *)source)->ring) > 0;
}

/* Leave out what has been transferred. Returns whether that was all. */
static bool
op_advance(UringOp *op, size_t n)
{
    op->offset += n;
    while (op->first_iov < op->n_iov && n >= op->iov[op->first_iov].iov_len)
        n -= op->iov[op->first_iov++].iov_len;
    if (op->first_iov == op->n_iov)
        return true;
    op->iov[op->first_iov].iov_base = (char *)op->iov[op->first_iov].iov_base + n;
    op->iov[op->first_iov].iov_len -= n;
    return false;
}

/* What has come of an operation: EAGAIN: to be continued; else 0 or its error. */
static int
op_result(UringOp *op, int result)
{
    if (result == -EINTR || result == -EAGAIN)
        return EAGAIN;
    if (result < 0)
        return -result;
    if (op->kind == URING_FSYNC || op->kind == URING_FALLOCATE)
        return 0;
    if (result == 0)
        return EIO;
    return op_advance(op, (size_t)result) ? 0 : EAGAIN;
}

static void
op_complete(Uring *uring, UringOp *op, int result)
{
    int error = op_result(op, result);

    uring->submitted--;
    if (error == EAGAIN) {
        g_queue_push_tail_link(&uring->queued, &op->link);
        return;
    }
    op->done(op->opaque, error);
    g_free(op);
}

/* Take the completions there are. One of them may free the ring: the caller holds a reference. */
static void
uring_reap(Uring *uring)
{
    struct io_uring_cqe *cqe;

    while (!g_source_is_destroyed(&uring->source) && io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        UringOp *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&uring->ring, cqe);
        op_complete(uring, op, result);
    }
}

static gboolean
uring_dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    Uring *uring = (Uring *)source;
    uint64_t count;

    /* Only wakes; how many there are is in the queue. Empty if this turn did not need waking. */
    while (read(uring->event_fd, &count, sizeof count) < 0 && errno == EINTR)
        continue;
    uring_reap(uring);
    return G_SOURCE_CONTINUE;
}

static void
uring_finalize(GSource *source)
{
    Uring *uring = (Uring *)source;

    if (uring->ring_ready)
        io_uring_queue_exit(&uring->ring);
    if (uring->event_fd >= 0)
        close(uring->event_fd);
}

static GSourceFuncs uring_funcs = {
    .prepare = uring_prepare,
    .check = uring_check,
    .dispatch = uring_dispatch,
    .finalize = uring_finalize,
};

static Uring *
uring_fail(Uring *uring, int code, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                "io_uring: %s; allow it to this process (sysctl kernel.io_uring_disabled=0, "
                "seccomp filters, the limit of open files)",
                g_strerror(code));
    g_source_unref(&uring->source);
    return NULL;
}

Uring *
uring_new(GError **error)
{
    Uring *uring = (Uring *)g_source_new(&uring_funcs, sizeof(Uring));
    int result;

    g_queue_init(&uring->queued);
    uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->event_fd < 0)
        return uring_fail(uring, errno, error);
    result = io_uring_queue_init(URING_DEPTH, &uring->ring, 0);
    if (result < 0)
        return uring_fail(uring, -result, error);
    uring->ring_ready = true;
    result = io_uring_register_eventfd(&uring->ring, uring->event_fd);
    if (result < 0)
        return uring_fail(uring, -result, error);
    g_source_set_static_name(&uring->source, "io_uring");
    /* Nothing runs the main loop from a completion. Without this GLib takes the descriptor out of
     * the loop for each dispatch, and wakes the loop twice for that. */
    g_source_set_can_recurse(&uring->source, TRUE);
    g_source_add_unix_fd(&uring->source, uring->event_fd, G_IO_IN);
    g_source_attach(&uring->source, NULL);
    return uring;
}

void
uring_free(Uring *uring)
{
    g_assert(uring_busy(uring) == 0);
    g_source_destroy(&uring->source);
    g_source_unref(&uring->source);
}

void
uring_drain(Uring *uring)
{
    struct io_uring_cqe *cqe;

    while (uring_busy(uring) > 0) {
        if (!uring_submit(uring))
            g_usleep(SUBMIT_RETRY_MS * G_TIME_SPAN_MILLISECOND);
        else if (io_uring_wait_cqe(&uring->ring, &cqe) == 0)
            uring_reap(uring);
    }
}

unsigned
uring_busy(const Uring *uring)
{
    return uring->queued.length + uring->submitted;
}

static UringOp *
uring_queue(Uring *uring, UringKind kind, int fd, const struct iovec *iov, unsigned n_iov,
            UringDone done, void *opaque)
{
    UringOp *op = g_malloc0(sizeof(UringOp) + n_iov * sizeof *iov);

    op->link.data = op;
    op->kind = kind;
    op->fd = fd;
    op->done = done;
    op->opaque = opaque;
    op->n_iov = n_iov;
    if (n_iov > 0)
        memcpy(op->iov, iov, n_iov * sizeof *iov);
    g_queue_push_tail_link(&uring->queued, &op->link);
    return op;
}

void
uring_readv(Uring *uring, int fd, const struct iovec *iov, unsigned n_iov, uint64_t offset,
            UringDone done, void *opaque)
{
    uring_queue(uring, URING_READV, fd, iov, n_iov, done, opaque)->offset = offset;
}

void
uring_writev(Uring *uring, int fd, const struct iovec *iov, unsigned n_iov, uint64_t offset,
             UringDone done, void *opaque)
{
    uring_queue(uring, URING_WRITEV, fd, iov, n_iov, done, opaque)->offset = offset;
}

void
uring_fsync(Uring *uring, int fd, bool data_only, UringDone done, void *opaque)
{
    uring_queue(uring, URING_FSYNC, fd, NULL, 0, done, opaque)->mode =
        data_only ? IORING_FSYNC_DATASYNC : 0;
}

void
uring_fallocate(Uring *uring, int fd, int mode, uint64_t offset, uint64_t len, UringDone done,
                void *opaque)
{
    UringOp *op = uring_queue(uring, URING_FALLOCATE, fd, NULL, 0, done, opaque);

    op->mode = mode;
    op->offset = offset;
    op->len = len;
}
