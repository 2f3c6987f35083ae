/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client of a child's control socket: it never blocks, and every request is answered once. */
#include "control/error.h"
#include "control/rpc.h"
#include "common/fdmsg.h"
#include "common/pbmsg.h"
#include "ckpt.pb-c.h"

#include <glib/gstdio.h>
#include <poll.h>
#include <unistd.h>

#define SPIN_LIMIT_US (5 * G_USEC_PER_SEC)

typedef struct Fixture {
    char *dir;
    char *path;
    Rpc *rpc;
    guint answers;
    guint events;
    gboolean failed;
    guint64 epoch;
} Fixture;

static void
on_event(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    ((Fixture *)data)->events++;
}

static void
on_reply(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    Fixture *f = data;

    f->answers++;
    f->failed = error != NULL;
    if (message != NULL)
        f->epoch = ((District__CkptMessage *)message)->reply->epoch;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("rpc-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "s", NULL);
    f->rpc = rpc_new(&rpc_ckpt_protocol, f->path, "test", on_event, f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    rpc_free(f->rpc);
    g_unlink(f->path);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
}

static void
ask(Fixture *f, int timeout_ms)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    rpc_call(f->rpc, &request.base, NULL, 0, timeout_ms, on_reply, f);
}

/* One turn of the loop. */
static void
turn(void)
{
    g_main_context_iteration(NULL, FALSE);
    g_usleep(500);
}

/* Run the loop until *value is wanted; a busy machine may take its time. */
static void
spin_until(const guint *value, guint wanted)
{
    gint64 end = g_get_monotonic_time() + SPIN_LIMIT_US;

    while (*value != wanted && g_get_monotonic_time() < end)
        turn();
    g_assert_cmpuint(*value, ==, wanted);
}

/* Run the loop for ms. */
static void
spin(guint ms)
{
    gint64 end = g_get_monotonic_time() + (gint64)ms * 1000;

    while (g_get_monotonic_time() < end)
        turn();
}

static int
accept_one(int listener)
{
    gint64 end = g_get_monotonic_time() + SPIN_LIMIT_US;

    while (g_get_monotonic_time() < end) {
        int fd = fdmsg_accept(listener, NULL);
        if (fd >= 0)
            return fd;
        turn();
    }
    g_error("no connection came");
}

static District__CkptRequest *
receive(int fd)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    gint64 end = g_get_monotonic_time() + SPIN_LIMIT_US;

    while (poll(&readable, 1, 0) == 0 && g_get_monotonic_time() < end)
        turn();
    return (District__CkptRequest *)pbmsg_recv(fd, &district__ckpt_request__descriptor, NULL, NULL,
                                               5000, NULL);
}

static void
answer(int fd, guint64 id, const char *error)
{
    District__CkptMessage message = DISTRICT__CKPT_MESSAGE__INIT;
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;

    reply.id = id;
    reply.epoch = 42;
    reply.error = (char *)error;
    message.m_case = DISTRICT__CKPT_MESSAGE__M_REPLY;
    message.reply = &reply;
    g_assert_true(pbmsg_send(fd, &message.base, NULL, 0, 1000, NULL));
}

static void
test_before_server(Fixture *f, gconstpointer data)
{
    ask(f, 5000);
    spin(20);
    int listener = fdmsg_listen(f->path, NULL);
    int fd = accept_one(listener);
    District__CkptRequest *request = receive(fd);
    g_assert_nonnull(request);
    answer(fd, request->id, "");
    spin_until(&f->answers, 1);
    g_assert_false(f->failed);
    g_assert_cmpuint(f->epoch, ==, 42);
    protobuf_c_message_free_unpacked(&request->base, NULL);
    close(fd);
    close(listener);
}

static void
test_error(Fixture *f, gconstpointer data)
{
    int listener = fdmsg_listen(f->path, NULL);
    int fd = accept_one(listener);

    ask(f, 5000);
    District__CkptRequest *request = receive(fd);
    answer(fd, request->id, "no");
    spin_until(&f->answers, 1);
    g_assert_true(f->failed);
    protobuf_c_message_free_unpacked(&request->base, NULL);
    close(fd);
    close(listener);
}

static void
test_timeout(Fixture *f, gconstpointer data)
{
    ask(f, 30);
    spin_until(&f->answers, 1);
    g_assert_true(f->failed);
}

static void
test_server_dies(Fixture *f, gconstpointer data)
{
    int listener = fdmsg_listen(f->path, NULL);
    int fd = accept_one(listener);

    ask(f, 5000);
    District__CkptRequest *request = receive(fd);
    protobuf_c_message_free_unpacked(&request->base, NULL);
    close(fd);
    spin_until(&f->answers, 1);
    g_assert_true(f->failed);
    fd = accept_one(listener); /* it comes again by itself */
    close(fd);
    close(listener);
}

static void
test_garbage(Fixture *f, gconstpointer data)
{
    int listener = fdmsg_listen(f->path, NULL);
    int fd = accept_one(listener);

    ask(f, 5000);
    g_assert_true(fdmsg_send(fd, "\xff\xff\xff", 3, NULL, 0, 1000, NULL));
    spin_until(&f->answers, 1);
    g_assert_true(f->failed);
    close(fd);
    close(listener);
}

static void
test_foreign_id(Fixture *f, gconstpointer data)
{
    int listener = fdmsg_listen(f->path, NULL);
    int fd = accept_one(listener);

    ask(f, 5000);
    District__CkptRequest *request = receive(fd);
    answer(fd, 4711, "no");
    answer(fd, request->id, "");
    spin_until(&f->answers, 1);
    g_assert_false(f->failed);
    protobuf_c_message_free_unpacked(&request->base, NULL);
    close(fd);
    close(listener);
}

#define ADD(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/rpc/a request made before the server is there is answered", test_before_server);
    ADD("/rpc/an error is an error", test_error);
    ADD("/rpc/a request without an answer fails in time", test_timeout);
    ADD("/rpc/requests fail when the server dies, and it connects again", test_server_dies);
    ADD("/rpc/a packet that does not parse ends the connection", test_garbage);
    ADD("/rpc/an answer that nobody waits for is ignored", test_foreign_id);
    return g_test_run();
}
