/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keys that change while both directions of a channel are in use. */
#include "../../../common/tls.c" /* what GnuTLS does by itself after 256 GiB is asked for here */
#include "control/pki.h"

#define LIMIT_MS 20000
#define RUN_NS (3 * NS_PER_S)
/* GnuTLS takes eight new keys in a second. */
#define REKEY_NS (140 * NS_PER_MS)
#define MESSAGE_BYTES 64

typedef struct End {
    TlsChannel *channel;
    GThread *sender, *receiver;
    gint *stop; /* atomic */
    uint64_t sent, received;
    unsigned keys;
} End;

/* The message after the last has a number that says so. */
static gboolean
end_send(End *end, uint64_t number, GError **error)
{
    uint8_t message[MESSAGE_BYTES] = {0};

    memcpy(message, &number, sizeof(number));
    return tls_channel_send(end->channel, message, sizeof(message), LIMIT_MS, error);
}

static gpointer
sender_run(gpointer data)
{
    End *end = data;
    g_autoptr(GError) error = NULL;
    int64_t next = clock_monotonic_ns() + REKEY_NS;

    while (!g_atomic_int_get(end->stop)) {
        if (clock_monotonic_ns() >= next) {
            int rc = GNUTLS_E_AGAIN;
            while (rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED) {
                tls_enter(end->channel);
                rc = gnutls_session_key_update(end->channel->session, 0);
                g_mutex_unlock(&end->channel->lock);
            }
            end->keys += rc == 0;
            next += REKEY_NS;
        }
        end_send(end, ++end->sent, &error);
        g_assert_no_error(error);
    }
    end_send(end, UINT64_MAX, &error);
    g_assert_no_error(error);
    return NULL;
}

static gpointer
receiver_run(gpointer data)
{
    End *end = data;
    g_autoptr(GError) error = NULL;

    for (;;) {
        uint8_t message[MESSAGE_BYTES];
        uint64_t number;

        tls_channel_recv(end->channel, message, sizeof(message), LIMIT_MS, &error);
        g_assert_no_error(error);
        memcpy(&number, message, sizeof(number));
        if (number == UINT64_MAX)
            return NULL;
        g_assert_cmpuint(number, ==, ++end->received);
    }
}

typedef struct Server {
    TlsIdentity *identity;
    int fd;
} Server;

static gpointer
server_run(gpointer data)
{
    Server *server = data;
    g_autoptr(GError) error = NULL;
    TlsChannel *channel = tls_channel_server(server->identity, server->fd, "a", LIMIT_MS, &error);

    g_assert_no_error(error);
    return channel;
}

/* Both ends of a connection, of one host with itself. */
static void
ends_connect(const char *pki, End *ends)
{
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_true(pki_init(pki, "a", &error));
    g_autoptr(TlsIdentity) identity = tls_identity_load(pki, &error);
    g_assert_no_error(error);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    Server server = {identity, fds[1]};
    GThread *thread = g_thread_new("server", server_run, &server);
    ends[0].channel = tls_channel_client(identity, fds[0], "a", LIMIT_MS, &error);
    g_assert_no_error(error);
    ends[1].channel = g_thread_join(thread);
}

static void
test_keys_change(void)
{
    g_autofree char *dir = g_dir_make_tmp("district-tls-keys-XXXXXX", NULL);
    const char *rm[] = {"rm", "-rf", dir, NULL};
    End ends[2] = {0};
    gint stop = 0;

    ends_connect(dir, ends);
    for (int i = 0; i < 2; i++) {
        ends[i].stop = &stop;
        ends[i].sender = g_thread_new("sender", sender_run, &ends[i]);
        ends[i].receiver = g_thread_new("receiver", receiver_run, &ends[i]);
    }
    g_usleep(RUN_NS / 1000);
    g_atomic_int_set(&stop, 1);
    for (int i = 0; i < 2; i++) {
        g_thread_join(ends[i].sender);
        g_thread_join(ends[i].receiver);
    }
    for (int i = 0; i < 2; i++) {
        g_test_message("%u new keys, %" G_GUINT64_FORMAT " messages", ends[i].keys, ends[i].sent);
        g_assert_cmpuint(ends[i].keys, >, 0);
        g_assert_cmpuint(ends[i].received, ==, ends[!i].sent);
        tls_channel_free(ends[i].channel);
    }
    g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tls/nothing is lost when keys change while both sides send",
                    test_keys_change);
    return g_test_run();
}
