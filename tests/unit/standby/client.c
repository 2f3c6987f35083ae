/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A districtd and a primary for tests of district-standby. */
#include "client.h"

#include "ckpt/layout.h"
#include "common/clock.h"
#include "common/pbmsg.h"

#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The standby process ---- */

void
rig_init(Rig *rig)
{
    static const char *const hosts[] = {"home", "spare", "other", NULL};
    g_autoptr(GError) error = NULL;

    *rig = (Rig){.control = -1};
    g_queue_init(&rig->events);
    rig->dir = g_dir_make_tmp("district-standby-XXXXXX", &error);
    g_assert_no_error(error);
    rig->disk_dir = g_build_filename(rig->dir, "disks", NULL);
    rig->control_path = g_build_filename(rig->dir, "control", NULL);
    certs_make(rig->dir, hosts);
}

static void
held_clear(Held *held)
{
    fdmsg_close_fds(held->fds, held->n);
    held->n = 0;
}

void
rig_message_free(District__StandbyMessage *message)
{
    protobuf_c_message_free_unpacked(&message->base, NULL);
}

void
rig_disconnect(Rig *rig)
{
    District__StandbyMessage *event;

    while ((event = g_queue_pop_head(&rig->events)) != NULL)
        rig_message_free(event);
    if (rig->control >= 0)
        close(rig->control);
    rig->control = -1;
}

static District__StandbyMessage *next_message(Rig *rig, int timeout_ms);

void
rig_kill(Rig *rig)
{
    District__StandbyMessage *message;

    if (rig->pid == 0)
        return;
    kill(rig->pid, SIGKILL);
    waitpid(rig->pid, NULL, 0);
    rig->pid = 0;
    while (rig->control >= 0 && (message = next_message(rig, 0)) != NULL)
        rig_message_free(message);
}

void
rig_clear(Rig *rig)
{
    const char *argv[] = {"rm", "-rf", rig->dir, NULL};

    rig_kill(rig);
    rig_disconnect(rig);
    held_clear(&rig->held);
    held_clear(&rig->reply_fds);
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
    g_free(rig->dir);
    g_free(rig->control_path);
    g_free(rig->disk_dir);
}

void
rig_start(Rig *rig)
{
    g_autofree char *pki = g_build_filename(rig->dir, "spare", NULL);
    const char *argv[] = {g_getenv("DISTRICT_STANDBY"),
                          "--name",
                          "shop",
                          "--host",
                          "spare",
                          "--control",
                          rig->control_path,
                          "--pki",
                          pki,
                          rig->disk_dir ? "--disk-dir" : NULL,
                          rig->disk_dir,
                          NULL};
    g_autoptr(GError) error = NULL;

    if (argv[0] == NULL)
        g_error("set DISTRICT_STANDBY to the district-standby to test");
    rig_disconnect(rig);
    g_assert_true(g_spawn_async(NULL, (char **)argv, NULL,
                                G_SPAWN_DO_NOT_REAP_CHILD |
                                    (g_test_verbose() ? 0 : G_SPAWN_STDERR_TO_DEV_NULL),
                                NULL, NULL, &rig->pid, &error));
    g_assert_no_error(error);
    rig_connect(rig);
}

void
rig_connect(Rig *rig)
{
    g_autoptr(GError) error = NULL;

    rig_disconnect(rig);
    rig->control = fdmsg_connect(rig->control_path, LIMIT_MS, &error);
    g_assert_no_error(error);
}

/* ---- Control protocol ---- */

/* The next message but HOLD, whose descriptors are kept; NULL: the connection is gone. */
static District__StandbyMessage *
next_message(Rig *rig, int timeout_ms)
{
    for (;;) {
        Held got = {.n = FDMSG_FDS_MAX};
        g_autoptr(GError) error = NULL;
        District__StandbyMessage *message = (District__StandbyMessage *)pbmsg_recv(
            rig->control, &district__standby_message__descriptor, got.fds, &got.n, timeout_ms,
            &error);

        if (message == NULL)
            return NULL;
        if (message->m_case != DISTRICT__STANDBY_MESSAGE__M_EVENT) {
            held_clear(&rig->reply_fds);
            rig->reply_fds = got;
            return message;
        }
        if (message->event->kind != DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HOLD) {
            g_assert_cmpuint(got.n, ==, 0);
            return message;
        }
        held_clear(&rig->held);
        rig->held = got;
        rig_message_free(message);
    }
}

District__StandbyMessage *
rig_call(Rig *rig, District__StandbyRequest *request, const int *fds, guint n_fds)
{
    g_autoptr(GError) error = NULL;

    request->id = ++rig->next_id;
    g_assert_true(pbmsg_send(rig->control, &request->base, fds, n_fds, LIMIT_MS, &error));
    for (;;) {
        District__StandbyMessage *message = next_message(rig, LIMIT_MS);

        g_assert_nonnull(message);
        if (message->m_case == DISTRICT__STANDBY_MESSAGE__M_REPLY) {
            g_assert_cmpuint(message->reply->id, ==, request->id);
            return message;
        }
        g_queue_push_tail(&rig->events, message);
    }
}

/* The error of a call, NULL for none. */
static char *
call_for_error(Rig *rig, District__StandbyRequest *request, const int *fds, guint n_fds)
{
    District__StandbyMessage *message = rig_call(rig, request, fds, n_fds);
    char *error = *message->reply->error != '\0' ? g_strdup(message->reply->error) : NULL;

    rig_message_free(message);
    return error;
}

void
rig_config(Rig *rig, uint64_t min_incarnation, uint32_t silence_ms)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyConfigRequest config = DISTRICT__STANDBY_CONFIG_REQUEST__INIT;
    g_autofree char *error = NULL;

    config.min_incarnation = min_incarnation;
    config.silence_ms = silence_ms;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_CONFIG;
    request.config = &config;
    error = call_for_error(rig, &request, NULL, 0);
    g_assert_cmpstr(error, ==, NULL);
}

char *
rig_adopt(Rig *rig)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyAdoptRequest adopt = DISTRICT__STANDBY_ADOPT_REQUEST__INIT;

    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ADOPT;
    request.adopt = &adopt;
    return call_for_error(rig, &request, rig->held.fds, rig->held.n);
}

char *
rig_activate(Rig *rig, uint64_t incarnation, District__StandbyActivateReply *activated)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyActivateRequest activate = DISTRICT__STANDBY_ACTIVATE_REQUEST__INIT;
    District__StandbyMessage *message;
    char *error = NULL;

    activate.incarnation = incarnation;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ACTIVATE;
    request.activate = &activate;
    message = rig_call(rig, &request, NULL, 0);
    if (*message->reply->error != '\0') {
        error = g_strdup(message->reply->error);
    } else {
        g_assert_nonnull(message->reply->activate);
        *activated = *message->reply->activate;
        activated->n_disk_files = 0;
        activated->disk_files = NULL;
    }
    rig_message_free(message);
    return error;
}

District__StandbyMessage *
rig_status(Rig *rig)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyStatusRequest status = DISTRICT__STANDBY_STATUS_REQUEST__INIT;
    District__StandbyMessage *message;

    request.op_case = DISTRICT__STANDBY_REQUEST__OP_STATUS;
    request.status = &status;
    message = rig_call(rig, &request, NULL, 0);
    g_assert_nonnull(message->reply->status);
    return message;
}

District__StandbyMessage *
rig_event(Rig *rig, District__StandbyEventKind kind)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    for (;;) {
        District__StandbyMessage *message = g_queue_pop_head(&rig->events);

        if (message == NULL)
            message = next_message(rig, LIMIT_MS);
        g_assert_nonnull(message);
        g_assert_cmpint(message->m_case, ==, DISTRICT__STANDBY_MESSAGE__M_EVENT);
        if (message->event->kind == kind)
            return message;
        rig_message_free(message);
        g_assert_cmpint(clock_monotonic_ns(), <, until);
    }
}

/* ---- Connections ---- */

/* A connected pair of TCP sockets. */
static void
tcp_pair(int pair[2])
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listening, (struct sockaddr *)&addr, sizeof addr), ==, 0);
    g_assert_cmpint(listen(listening, 1), ==, 0);
    g_assert_cmpint(getsockname(listening, (struct sockaddr *)&addr, &len), ==, 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(pair[0], (struct sockaddr *)&addr, sizeof addr), ==, 0);
    pair[1] = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(pair[1], >=, 0);
    close(listening);
}

int
rig_tcp(Rig *rig, const char *peer_name)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyStreamRequest stream = DISTRICT__STANDBY_STREAM_REQUEST__INIT;
    g_autofree char *error = NULL;
    int pair[2];

    tcp_pair(pair);
    stream.peer_name = (char *)peer_name;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_STREAM;
    request.stream = &stream;
    error = call_for_error(rig, &request, &pair[1], 1);
    g_assert_cmpstr(error, ==, NULL);
    close(pair[1]);
    return pair[0];
}

/* ---- A primary ---- */

void
primary_open(Primary *primary, Rig *rig, const char *host, uint32_t n_members, uint64_t ram_pages)
{
    g_autofree char *pki = g_build_filename(rig->dir, host, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsIdentity) identity = tls_identity_load(pki, &error);

    g_assert_no_error(error);
    *primary = (Primary){0};
    writer_init(&primary->writer, n_members, ram_pages);
    primary->writer.version = STREAM_VERSION;
    primary->channel =
        tls_channel_client(identity, rig_tcp(rig, "home"), "spare", LIMIT_MS, &error);
    g_assert_no_error(error);
}

void
primary_close(Primary *primary)
{
    g_clear_pointer(&primary->channel, tls_channel_free);
    writer_clear(&primary->writer);
}

gboolean
primary_flush(Primary *primary)
{
    GByteArray *out = primary->writer.out;
    gboolean sent = tls_channel_send(primary->channel, out->data, out->len, LIMIT_MS, NULL);

    writer_drain(&primary->writer);
    return sent;
}

gboolean
primary_record(Primary *primary, RecordHeader *header, uint8_t **payload, int timeout_ms)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    g_autofree uint8_t *buffer = NULL;

    if (!tls_channel_recv(primary->channel, raw, sizeof raw, timeout_ms, NULL))
        return FALSE;
    g_assert_true(record_header_decode(raw, header, NULL));
    buffer = g_malloc(header->length + 1);
    if (header->length > 0 &&
        !tls_channel_recv(primary->channel, buffer, header->length, timeout_ms, NULL))
        return FALSE;
    g_assert_true(record_verify(raw, buffer, NULL));
    *payload = g_steal_pointer(&buffer);
    return TRUE;
}

void
primary_greet(Primary *primary, uint64_t *held)
{
    District__StreamHello *hello;
    g_autofree uint8_t *payload = NULL;
    RecordHeader header;

    writer_hello(&primary->writer);
    g_assert_true(primary_flush(primary));
    g_assert_true(primary_record(primary, &header, &payload, LIMIT_MS));
    g_assert_cmpint(header.type, ==, RECORD_HELLO);
    g_assert_cmpuint(header.sequence, ==, 0);
    hello = district__stream_hello__unpack(NULL, header.length, payload);
    g_assert_cmpstr(hello->district, ==, "shop");
    g_assert_cmpstr(hello->host, ==, "spare");
    if (held != NULL)
        *held = hello->committed_epoch;
    district__stream_hello__free_unpacked(hello, NULL);
}

gboolean
primary_wait_ack(Primary *primary, uint64_t epoch, int timeout_ms)
{
    int64_t until = clock_monotonic_ns() + timeout_ms * NS_PER_MS;

    while (primary->acked < epoch && clock_monotonic_ns() < until) {
        g_autofree uint8_t *payload = NULL;
        District__StreamAck *ack;
        RecordHeader header;

        if (!primary_record(primary, &header, &payload, timeout_ms) || header.type == RECORD_ERROR)
            return FALSE;
        if (header.type != RECORD_ACK)
            continue;
        ack = district__stream_ack__unpack(NULL, header.length, payload);
        primary->acked = ack->committed_epoch;
        district__stream_ack__free_unpacked(ack, NULL);
    }
    return primary->acked >= epoch;
}

District__StreamError *
primary_wait_error(Primary *primary)
{
    for (;;) {
        g_autofree uint8_t *payload = NULL;
        RecordHeader header;

        g_assert_true(primary_record(primary, &header, &payload, LIMIT_MS));
        if (header.type == RECORD_ERROR)
            return district__stream_error__unpack(NULL, header.length, payload);
    }
}
