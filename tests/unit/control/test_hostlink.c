/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A control connection, with the other host played by a thread. */
#include "control/hostlink.h"
#include "control/json.h"
#include "control/pki.h"
#include "control/store.h"
#include "common/tls.h"

#include <string.h>
#include <sys/socket.h>

#define LIMIT_MS 20000
#define MESSAGES 2048
#define MESSAGE_BYTES 1024

typedef struct Fixture {
    char *dir;
    HostLink *link;
    GThread *thread; /* the other host */
    int fd;          /* its end */
    gint sent;       /* messages, by it */
    gint received;
    gboolean down;
} Fixture;

static void
on_up(HostLink *link, const char *peer, gpointer data)
{
}

static void
on_message(HostLink *link, JsonObject *message, gpointer data)
{
    Fixture *f = data;

    g_assert_cmpint(json_get_int(message, "n", -1), ==, f->received);
    f->received++;
}

static void
on_down(HostLink *link, const char *why, gpointer data)
{
    g_message("down: %s", why);
    ((Fixture *)data)->down = TRUE;
}

static const HostLinkOps ops = {on_up, on_message, on_down};

/* Send all messages as fast as they are taken. */
static gpointer
other_host(gpointer data)
{
    Fixture *f = data;
    g_autofree char *pad = g_strnfill(MESSAGE_BYTES, 'x');
    g_autoptr(TlsIdentity) identity = tls_identity_load(f->dir, NULL);
    g_autoptr(TlsChannel) channel = tls_channel_client(identity, f->fd, "h1", LIMIT_MS, NULL);

    g_assert_nonnull(channel);
    for (int i = 0; i < MESSAGES; i++) {
        g_autofree char *line = g_strdup_printf("{\"n\":%d,\"pad\":\"%s\"}\n", i, pad);
        g_assert_true(tls_channel_send(channel, line, strlen(line), LIMIT_MS, NULL));
        g_atomic_int_inc(&f->sent);
    }
    return g_steal_pointer(&channel);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    int ends[2];

    f->dir = g_dir_make_tmp("hostlink-XXXXXX", &error);
    g_assert_no_error(error);
    g_assert_true(pki_init(f->dir, "h1", &error));
    g_assert_no_error(error);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    f->fd = ends[0];
    f->link = hostlink_accept(f->dir, ends[1], &ops, f);
    f->thread = g_thread_new("other host", other_host, f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    tls_channel_free(g_thread_join(f->thread));
    hostlink_close(f->link);
    g_assert_true(store_remove_tree(f->dir, NULL));
    g_free(f->dir);
}

/* Until it sends no more, without a turn of our loop. */
static void
wait_blocked(Fixture *f)
{
    gint64 end = g_get_monotonic_time() + LIMIT_MS * 1000;
    gint before = -1, now = 0;

    while (before != now || now == 0) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(300000);
        before = now;
        now = g_atomic_int_get(&f->sent);
    }
}

static void
receive_all(Fixture *f)
{
    gint64 end = g_get_monotonic_time() + LIMIT_MS * 1000;

    while (f->received < MESSAGES) {
        g_assert_false(f->down);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(200);
    }
}

static void
test_bounded(Fixture *f, gconstpointer data)
{
    wait_blocked(f);
    g_assert_cmpint(g_atomic_int_get(&f->sent), <, MESSAGES / 2);
    receive_all(f);
}

static void
test_not_silent(Fixture *f, gconstpointer data)
{
    wait_blocked(f);
    g_usleep((HOSTLINK_SILENCE_MS + 500) * 1000);
    receive_all(f);
}

#define ADD(name, function) g_test_add(name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    /* What the link's thread has to say is said in iterations of our own only. */
    g_assert_true(g_main_context_acquire(NULL));
    ADD("/hostlink/who says more than is taken in has to wait, and nothing is lost", test_bounded);
    ADD("/hostlink/who has to wait is not taken to be silent", test_not_silent);
    return g_test_run();
}
