/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mutual TLS between hosts, and the join that gives a host its certificates. */
#include "common/tls.h"
#include "control/pki.h"

#include <arpa/inet.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT_MS 5000
#define JOIN_LIMIT_MS 20000 /* a join may take 10 s */

/* A scratch directory with the certificates of host "a" (the CA) and, after a join, of "b". */
typedef struct Fixture {
    char *dir, *a, *b;
} Fixture;

static void
fixture_set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->dir = g_dir_make_tmp("district-tls-XXXXXX", &error);
    g_assert_no_error(error);
    f->a = g_build_filename(f->dir, "a", NULL);
    f->b = g_build_filename(f->dir, "b", NULL);
    g_assert_true(pki_init(f->a, "a", &error));
    g_assert_no_error(error);
}

static void
fixture_tear_down(Fixture *f, gconstpointer data)
{
    const char *argv[] = {"rm", "-rf", f->dir, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
    g_free(f->dir);
    g_free(f->a);
    g_free(f->b);
}

static int
listen_loopback(uint16_t *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

/* Server side of a join: one connection, in a thread. */
typedef struct JoinServer {
    const char *dir;
    int listen_fd;
    char *peer;
    GError *error;
} JoinServer;

static gpointer
join_server_run(gpointer data)
{
    JoinServer *s = data;
    char buf[TLS_PREAMBLE_BYTES], *kind = NULL, *district = NULL;
    int fd = accept(s->listen_fd, NULL, NULL);

    g_assert_cmpint(recv(fd, buf, sizeof(buf), MSG_WAITALL), ==, (gssize)sizeof(buf));
    g_assert_true(tls_preamble_parse(buf, &kind, &district, NULL));
    g_assert_cmpstr(kind, ==, "join");
    g_free(kind);
    g_free(district);
    pki_join_serve(s->dir, fd, &s->peer, &s->error);
    return NULL;
}

static gboolean
join_with(Fixture *f, const char *token, char **peer, GError **error)
{
    JoinServer s = {.dir = f->a};
    uint16_t port;

    s.listen_fd = listen_loopback(&port);
    GThread *thread = g_thread_new("join", join_server_run, &s);
    gboolean joined = pki_join(f->b, "b", "a", "127.0.0.1", port, token, error);
    g_thread_join(thread);
    close(s.listen_fd);
    g_clear_error(&s.error);
    *peer = s.peer;
    return joined;
}

static void
join(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *token = pki_invite(f->a, "b", &error);
    g_autofree char *peer = NULL;

    g_assert_no_error(error);
    g_assert_true(join_with(f, token, &peer, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(peer, ==, "b");
}

static void
test_join_gives_identity(Fixture *f, gconstpointer data)
{
    join(f);
    g_assert_true(pki_present(f->b));
}

static void
test_token_is_void_after_use(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *token = pki_invite(f->a, "b", &error);
    g_autofree char *wrong = g_strdup(token), *peer = NULL;

    wrong[0] = wrong[0] == '0' ? '1' : '0';
    g_assert_false(join_with(f, wrong, &peer, &error));
    g_assert_nonnull(strstr(error->message, "void"));
    g_clear_error(&error);
    g_assert_false(join_with(f, token, &peer, &error));
    g_assert_nonnull(strstr(error->message, "no open invitation"));
    g_assert_false(pki_present(f->b));
}

static void
test_wrong_ca_in_token_is_noticed(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *token = pki_invite(f->a, "b", &error);
    g_autofree char *peer = NULL;
    size_t last = strlen(token) - 1;

    token[last] = token[last] == '0' ? '1' : '0';
    g_assert_false(join_with(f, token, &peer, &error));
    g_assert_nonnull(strstr(error->message, "not a of the CA in the token"));
}

/* Server side of a join whose client takes its time. */
typedef struct SlowJoin {
    const char *dir;
    int fd;
    gint done;
    GError *error;
} SlowJoin;

static gpointer
slow_join_run(gpointer data)
{
    SlowJoin *s = data;
    char *peer = NULL;

    g_assert_false(pki_join_serve(s->dir, s->fd, &peer, &s->error));
    g_atomic_int_set(&s->done, 1);
    return NULL;
}

/* A byte now and then, which is never a whole request. */
static void
test_slow_join_ends(Fixture *f, gconstpointer data)
{
    g_autoptr(TlsIdentity) identity = tls_identity_load(f->a, NULL);
    gint64 end = g_get_monotonic_time() + JOIN_LIMIT_MS * 1000;
    SlowJoin s = {.dir = f->a};
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    s.fd = pair[1];
    GThread *thread = g_thread_new("join", slow_join_run, &s);
    g_autoptr(TlsChannel) client = tls_channel_client(identity, pair[0], "a", LIMIT_MS, NULL);
    g_assert_nonnull(client);
    while (!g_atomic_int_get(&s.done)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        tls_channel_send(client, " ", 1, LIMIT_MS, NULL);
        g_usleep(200000);
    }
    g_thread_join(thread);
    g_assert_error(s.error, TLS_ERROR, TLS_ERROR_TIMEOUT);
    g_clear_error(&s.error);
}

/* One end of a TLS connection over a socketpair, in a thread. */
typedef struct Server {
    const char *dir;
    const char *wants;
    int fd;
    TlsChannel *channel;
    GError *error;
} Server;

static gpointer
server_run(gpointer data)
{
    Server *s = data;
    g_autoptr(TlsIdentity) identity = tls_identity_load(s->dir, &s->error);

    if (identity)
        s->channel = tls_channel_server(identity, s->fd, s->wants, LIMIT_MS, &s->error);
    return NULL;
}

static TlsChannel *
connect_channel(const char *client_dir, const char *client_wants, Server *s, GError **error)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    s->fd = pair[1];
    GThread *thread = g_thread_new("server", server_run, s);
    g_autoptr(TlsIdentity) identity = tls_identity_load(client_dir, error);
    TlsChannel *ch = tls_channel_client(identity, pair[0], client_wants, LIMIT_MS, error);
    g_thread_join(thread);
    return ch;
}

static void
test_data_passes_both_ways(Fixture *f, gconstpointer data)
{
    Server s = {.dir = f->a, .wants = "b"};
    g_autoptr(GError) error = NULL;
    char buf[5];

    join(f);
    g_autoptr(TlsChannel) client = connect_channel(f->b, "a", &s, &error);
    g_assert_no_error(error);
    g_assert_no_error(s.error);
    g_assert_cmpstr(tls_channel_peer_name(s.channel), ==, "b");
    g_assert_cmpstr(tls_channel_peer_name(client), ==, "a");
    g_assert_true(tls_channel_send(client, "hello", 5, LIMIT_MS, &error));
    g_assert_true(tls_channel_recv(s.channel, buf, 5, LIMIT_MS, &error));
    g_assert_cmpmem(buf, 5, "hello", 5);
    g_assert_true(tls_channel_send(s.channel, "world", 5, LIMIT_MS, &error));
    g_assert_true(tls_channel_recv(client, buf, 5, LIMIT_MS, &error));
    g_assert_cmpmem(buf, 5, "world", 5);
    tls_channel_free(s.channel);
}

static void
test_other_name_is_refused(Fixture *f, gconstpointer data)
{
    Server s = {.dir = f->a, .wants = "c"};
    g_autoptr(GError) error = NULL;

    join(f);
    G_GNUC_UNUSED g_autoptr(TlsChannel) client = connect_channel(f->b, "a", &s, &error);
    g_assert_null(s.channel);
    g_assert_error(s.error, TLS_ERROR, TLS_ERROR_PEER);
    g_clear_error(&s.error);
}

static void
test_other_ca_is_refused(Fixture *f, gconstpointer data)
{
    Server s = {.dir = f->a, .wants = "b"};
    g_autoptr(GError) error = NULL;

    g_assert_true(pki_init(f->b, "b", &error));
    g_autoptr(TlsChannel) client = connect_channel(f->b, "a", &s, &error);
    g_assert_null(client);
    g_assert_null(s.channel);
    g_assert_error(error, TLS_ERROR, TLS_ERROR_PEER);
    g_clear_error(&s.error);
}

static void
test_plaintext_is_refused(Fixture *f, gconstpointer data)
{
    Server s = {.dir = f->a};
    int pair[2];
    static const char text[] = "GET / HTTP/1.0\r\n\r\n";

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    s.fd = pair[1];
    g_assert_cmpint(write(pair[0], text, sizeof(text)), ==, (gssize)sizeof(text));
    server_run(&s);
    g_assert_null(s.channel);
    g_assert_error(s.error, TLS_ERROR, TLS_ERROR_PEER);
    g_clear_error(&s.error);
    close(pair[0]);
}

static void
test_silent_peer_times_out(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsIdentity) identity = tls_identity_load(f->a, &error);
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_null(tls_channel_server(identity, pair[1], NULL, 50, &error));
    g_assert_error(error, TLS_ERROR, TLS_ERROR_TIMEOUT);
    close(pair[0]);
}

static void
test_preamble_carries_any_name(void)
{
    char buf[TLS_PREAMBLE_BYTES] = {0};
    g_autofree char *kind = NULL, *district = NULL;
    g_autoptr(GError) error = NULL;

    g_snprintf(buf, sizeof(buf), "DISTRICT/1 stream my_shop.2-a\n");
    tls_preamble_parse(buf, &kind, &district, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(district, ==, "my_shop.2-a");
}

static void
test_foreign_preamble_is_refused(void)
{
    char buf[TLS_PREAMBLE_BYTES] = "GET / HTTP/1.0\r\n";
    char *kind = NULL, *district = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_false(tls_preamble_parse(buf, &kind, &district, &error));
    memcpy(buf, "DISTRICT/1 stream ../etc\n", 26);
    g_assert_false(tls_preamble_parse(buf, &kind, &district, NULL));
    memset(buf, 'a', sizeof(buf));
    g_assert_false(tls_preamble_parse(buf, &kind, &district, NULL));
}

#define ADD(path, func) g_test_add(path, Fixture, NULL, fixture_set_up, func, fixture_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/pki/a join gives a host its identity", test_join_gives_identity);
    ADD("/pki/a token is void after one use, right or wrong", test_token_is_void_after_use);
    ADD("/pki/a token of another CA is noticed by the joiner", test_wrong_ca_in_token_is_noticed);
    ADD("/pki/a join that never gets done ends", test_slow_join_ends);
    ADD("/tls/data passes both ways between joined hosts", test_data_passes_both_ways);
    ADD("/tls/a certificate of another name is refused", test_other_name_is_refused);
    ADD("/tls/a certificate of another CA is refused", test_other_ca_is_refused);
    ADD("/tls/a plaintext peer is refused", test_plaintext_is_refused);
    ADD("/tls/a silent peer times out", test_silent_peer_times_out);
    g_test_add_func("/tls/a preamble carries any name a district may have",
                    test_preamble_carries_any_name);
    g_test_add_func("/tls/a foreign preamble is refused", test_foreign_preamble_is_refused);
    return g_test_run();
}
