/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The district rig: district-ckpt, district-standby, and the port between them. */
#include "rig.h"

#include "common/clock.h"
#include "common/pbmsg.h"
#include "common/tls.h"
#include "control/pki.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOST "rig"
#define DISTRICT "shop"
#define STREAM_REQUEST_ID G_MAXUINT64

/* ---- Control connections ---- */

static void
control_open(Rig *rig, Control *c, const char *who, const char *path,
             const ProtobufCMessageDescriptor *type)
{
    g_autoptr(GError) error = NULL;

    c->who = who;
    c->type = type;
    c->events = c->events ? c->events : g_queue_new();
    c->fd = fdmsg_connect(path, RIG_LIMIT_MS, &error);
    if (c->fd < 0)
        rig_fail(rig->dir, "%s does not listen: %s", who, error->message);
}

static void
control_close(Control *c)
{
    if (c->fd > 0)
        close(c->fd);
    c->fd = 0;
    if (!c->events)
        return;
    for (ProtobufCMessage *m; (m = g_queue_pop_head(c->events));)
        protobuf_c_message_free_unpacked(m, NULL);
}

/* Keep the descriptors of a HOLD event in place of earlier ones. */
static void
control_hold(Control *c, const int *fds, guint n)
{
    fdmsg_close_fds(c->held, c->n_held);
    memcpy(c->held, fds, n * sizeof(int));
    c->n_held = n;
}

/* The event in a message of either kind, 0 if it is a reply. */
static int
message_event(const ProtobufCMessage *m)
{
    if (m->descriptor == &district__ckpt_message__descriptor) {
        const District__CkptMessage *c = (const District__CkptMessage *)m;
        return c->m_case == DISTRICT__CKPT_MESSAGE__M_EVENT ? (int)c->event->kind : 0;
    }
    const District__StandbyMessage *s = (const District__StandbyMessage *)m;
    return s->m_case == DISTRICT__STANDBY_MESSAGE__M_EVENT ? (int)s->event->kind : 0;
}

static uint64_t
message_id(const ProtobufCMessage *m)
{
    if (m->descriptor == &district__ckpt_message__descriptor)
        return ((const District__CkptMessage *)m)->reply->id;
    return ((const District__StandbyMessage *)m)->reply->id;
}

/* Receive one message; events are queued and NULL returned. fds of a reply go to fds. */
static ProtobufCMessage *
control_read(Control *c, int *fds, guint *n_fds, int limit_ms, GError **error)
{
    int got[RIG_FDS_MAX];
    guint n = RIG_FDS_MAX;
    ProtobufCMessage *m = pbmsg_recv(c->fd, c->type, got, &n, limit_ms, error);

    if (!m)
        return NULL;
    int event = message_event(m);
    if (event == 0) {
        if (fds && n <= *n_fds)
            memcpy(fds, got, n * sizeof(int));
        else
            fdmsg_close_fds(got, n);
        if (n_fds)
            *n_fds = n;
        return m;
    }
    if (m->descriptor == &district__standby_message__descriptor &&
        event == DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_HOLD)
        control_hold(c, got, n);
    else
        fdmsg_close_fds(got, n);
    g_queue_push_tail(c->events, m);
    return NULL;
}

static uint64_t next_id = 1;

/* Send a request and wait for the reply of that id. */
static ProtobufCMessage *
control_call(Rig *rig, Control *c, const ProtobufCMessage *request, uint64_t id, const int *fds,
             guint n_fds, int *reply_fds, guint *n_reply_fds)
{
    g_autoptr(GError) error = NULL;
    int64_t deadline = clock_monotonic_ns() + RIG_LIMIT_MS * NS_PER_MS;
    guint capacity = n_reply_fds ? *n_reply_fds : 0;

    if (!pbmsg_send(c->fd, request, fds, n_fds, RIG_LIMIT_MS, &error))
        rig_fail(rig->dir, "%s takes no request: %s", c->who, error->message);
    while (clock_monotonic_ns() < deadline) {
        if (n_reply_fds)
            *n_reply_fds = capacity;
        ProtobufCMessage *m = control_read(c, reply_fds, n_reply_fds, RIG_LIMIT_MS, &error);
        if (error)
            rig_fail(rig->dir, "%s does not answer: %s", c->who, error->message);
        if (m && message_id(m) == id)
            return m;
        if (m)
            protobuf_c_message_free_unpacked(m, NULL);
    }
    rig_fail(rig->dir, "%s does not answer request %" G_GUINT64_FORMAT, c->who, id);
}

/* Wait for an event; earlier ones are dropped. */
static gboolean
control_wait_event(Control *c, int kind, int limit_ms)
{
    int64_t deadline = clock_monotonic_ns() + limit_ms * NS_PER_MS;

    for (;;) {
        for (ProtobufCMessage *m; (m = g_queue_pop_head(c->events));) {
            int event = message_event(m);
            protobuf_c_message_free_unpacked(m, NULL);
            if (event == kind)
                return TRUE;
        }
        int64_t left = deadline - clock_monotonic_ns();
        if (left <= 0)
            return FALSE;
        g_autoptr(GError) error = NULL;
        ProtobufCMessage *m = control_read(c, NULL, NULL, (int)(left / NS_PER_MS) + 1, &error);
        if (m)
            protobuf_c_message_free_unpacked(m, NULL);
        if (error)
            return FALSE;
    }
}

gboolean
rig_wait_ckpt_event(Rig *rig, District__CkptEventKind kind, int limit_ms)
{
    return control_wait_event(&rig->ckpt_ctl, (int)kind, limit_ms);
}

gboolean
rig_wait_standby_event(Rig *rig, District__StandbyEventKind kind, int limit_ms)
{
    return control_wait_event(&rig->standby_ctl, (int)kind, limit_ms);
}

/* ---- The port between the hosts ---- */

/* Hand an accepted connection to district-standby, as districtd does. */
static void
rig_route(Rig *rig, int fd)
{
    char buf[TLS_PREAMBLE_BYTES];
    g_autofree char *kind = NULL, *district = NULL;
    struct timeval limit = {.tv_sec = 5};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (recv(fd, buf, sizeof(buf), MSG_WAITALL) != sizeof(buf) ||
        !tls_preamble_parse(buf, &kind, &district, NULL))
        return;
    g_mutex_lock(&rig->standby_lock);
    if (rig->standby_ctl.fd > 0) {
        District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
        District__StandbyStreamRequest stream = DISTRICT__STANDBY_STREAM_REQUEST__INIT;
        request.id = STREAM_REQUEST_ID;
        request.op_case = DISTRICT__STANDBY_REQUEST__OP_STREAM;
        request.stream = &stream;
        stream.peer_name = HOST;
        pbmsg_send(rig->standby_ctl.fd, &request.base, &fd, 1, 1000, NULL);
    }
    g_mutex_unlock(&rig->standby_lock);
}

static gpointer
rig_acceptor(gpointer data)
{
    Rig *rig = data;

    while (!g_atomic_int_get(&rig->stopping)) {
        struct pollfd pfd = {.fd = rig->listen_fd, .events = POLLIN};
        if (poll(&pfd, 1, 50) <= 0)
            continue;
        int fd = accept4(rig->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        rig_route(rig, fd);
        close(fd);
    }
    return NULL;
}

static void
rig_listen(Rig *rig)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);

    rig->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(rig->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(rig->listen_fd, 8), ==, 0);
    g_assert_cmpint(getsockname(rig->listen_fd, (struct sockaddr *)&addr, &len), ==, 0);
    rig->port = ntohs(addr.sin_port);
}

/* ---- The rig ---- */

Rig *
rig_new(void)
{
    Rig *rig = g_new0(Rig, 1);
    g_autoptr(GError) error = NULL;

    rig->dir = g_dir_make_tmp("district-rig-XXXXXX", &error);
    g_assert_no_error(error);
    rig->pki = g_build_filename(rig->dir, "pki", NULL);
    g_assert_true(pki_init(rig->pki, HOST, &error));
    g_mutex_init(&rig->standby_lock);
    rig_listen(rig);
    rig->acceptor = g_thread_new("acceptor", rig_acceptor, rig);
    return rig;
}

void
rig_free(Rig *rig)
{
    rig_ckpt_stop(rig);
    rig_net_stop(rig);
    rig_standby_stop(rig);
    fdmsg_close_fds(rig->standby_ctl.held, rig->standby_ctl.n_held);
    g_atomic_int_set(&rig->stopping, 1);
    g_thread_join(rig->acceptor);
    close(rig->listen_fd);
    g_mutex_clear(&rig->standby_lock);
    if (rig->ckpt_ctl.events)
        g_queue_free(rig->ckpt_ctl.events);
    if (rig->standby_ctl.events)
        g_queue_free(rig->standby_ctl.events);
    const char *argv[] = {"rm", "-rf", rig->dir, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
    g_free(rig->dir);
    g_free(rig->pki);
    g_free(rig->net_control);
    g_free(rig);
}

void
rig_net_start(Rig *rig, const char *const *ports, uint64_t incarnation)
{
    g_autofree char *inc = g_strdup_printf("%" G_GUINT64_FORMAT, incarnation);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;

    if (!rig->net_control)
        rig->net_control = g_build_filename(rig->dir, "net.sock", NULL);
    unlink(rig->net_control);
    const char *fixed[] = {g_getenv("DISTRICT_NET"), "--name",        DISTRICT, "--control",
                           rig->net_control,         "--incarnation", inc};
    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(argv, (gpointer)fixed[i]);
    for (; *ports; ports++) {
        g_ptr_array_add(argv, "--port");
        g_ptr_array_add(argv, (gpointer)*ports);
    }
    g_ptr_array_add(argv, NULL);
    proc_start(&rig->net, rig->dir, "net", (const char *const *)argv->pdata);
    int fd = fdmsg_connect(rig->net_control, RIG_LIMIT_MS, &error);
    if (fd < 0)
        rig_fail(rig->dir, "district-net does not listen: %s", error->message);
    close(fd);
}

void
rig_net_stop(Rig *rig)
{
    proc_kill(&rig->net);
}

void
rig_ckpt_start(Rig *rig, const char *const *members, uint64_t incarnation)
{
    g_autofree char *socket = g_build_filename(rig->dir, "ckpt.sock", NULL);
    g_autofree char *inc = g_strdup_printf("%" G_GUINT64_FORMAT, incarnation);
    g_autofree char *definition = g_build_filename(rig->dir, "shop.district", NULL);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();

    unlink(socket);
    if (!g_file_test(definition, G_FILE_TEST_EXISTS))
        g_assert_true(g_file_set_contents(definition, "[District]\nName=shop\n", -1, NULL));
    const char *fixed[] = {g_getenv("DISTRICT_CKPT"),
                           "--name",
                           DISTRICT,
                           "--host",
                           HOST,
                           "--control",
                           socket,
                           "--net",
                           rig->net_control ? rig->net_control : "none",
                           "--pki",
                           rig->pki,
                           "--definition",
                           definition,
                           "--incarnation",
                           inc};
    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(argv, (gpointer)fixed[i]);
    for (; *members; members++) {
        g_ptr_array_add(argv, "--member");
        g_ptr_array_add(argv, (gpointer)*members);
    }
    g_ptr_array_add(argv, NULL);
    proc_start(&rig->ckpt, rig->dir, "ckpt", (const char *const *)argv->pdata);
    control_open(rig, &rig->ckpt_ctl, "district-ckpt", socket, &district__ckpt_message__descriptor);
}

void
rig_ckpt_stop(Rig *rig)
{
    proc_kill(&rig->ckpt);
    control_close(&rig->ckpt_ctl);
}

void
rig_standby_start(Rig *rig, gboolean adopt)
{
    g_autofree char *socket = g_build_filename(rig->dir, "standby.sock", NULL);
    const char *argv[] = {g_getenv("DISTRICT_STANDBY"),
                          "--name",
                          DISTRICT,
                          "--control",
                          socket,
                          "--pki",
                          rig->pki,
                          "--host",
                          HOST,
                          NULL};

    unlink(socket);
    proc_start(&rig->standby, rig->dir, "standby", argv);
    Control fresh = rig->standby_ctl;
    control_open(rig, &fresh, "district-standby", socket, &district__standby_message__descriptor);
    g_mutex_lock(&rig->standby_lock);
    rig->standby_ctl = fresh;
    g_mutex_unlock(&rig->standby_lock);
    if (!adopt || rig->standby_ctl.n_held == 0)
        return;
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyAdoptRequest op = DISTRICT__STANDBY_ADOPT_REQUEST__INIT;
    request.id = next_id++;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ADOPT;
    request.adopt = &op;
    District__StandbyMessage *m = (District__StandbyMessage *)control_call(
        rig, &rig->standby_ctl, &request.base, request.id, rig->standby_ctl.held,
        rig->standby_ctl.n_held, NULL, NULL);
    if (*m->reply->error)
        rig_fail(rig->dir, "adopt: %s", m->reply->error);
    district__standby_message__free_unpacked(m, NULL);
}

void
rig_standby_stop(Rig *rig)
{
    g_mutex_lock(&rig->standby_lock);
    proc_kill(&rig->standby);
    /* What it said before it died counts: above all the descriptors to be held. */
    while (rig->standby_ctl.fd > 0) {
        g_autoptr(GError) error = NULL;
        ProtobufCMessage *m = control_read(&rig->standby_ctl, NULL, NULL, 0, &error);
        if (m)
            protobuf_c_message_free_unpacked(m, NULL);
        if (error)
            break;
    }
    control_close(&rig->standby_ctl);
    g_mutex_unlock(&rig->standby_lock);
}

/* ---- Requests ---- */

static District__CkptMessage *
ckpt_ask(Rig *rig, District__CkptRequest *request, const int *fds, guint n_fds)
{
    request->id = next_id++;
    return (District__CkptMessage *)control_call(rig, &rig->ckpt_ctl, &request->base, request->id,
                                                 fds, n_fds, NULL, NULL);
}

/* Call district-ckpt; the reply must be without error. */
static District__CkptMessage *
ckpt_call(Rig *rig, District__CkptRequest *request, const int *fds, guint n_fds)
{
    District__CkptMessage *m = ckpt_ask(rig, request, fds, n_fds);

    if (*m->reply->error)
        rig_fail(rig->dir, "district-ckpt: %s", m->reply->error);
    return m;
}

void
rig_ckpt_cold_start(Rig *rig, uint64_t incarnation)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest op = DISTRICT__CKPT_START_REQUEST__INIT;

    op.incarnation = incarnation;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
    request.start = &op;
    district__ckpt_message__free_unpacked(ckpt_call(rig, &request, NULL, 0), NULL);
}

void
rig_protect(Rig *rig, uint64_t interval_us)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptProtectRequest op = DISTRICT__CKPT_PROTECT_REQUEST__INIT;

    op.peer_name = HOST;
    op.address = "127.0.0.1";
    op.port = rig->port;
    op.interval_us = interval_us;
    op.detach_after_ms = 5000;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PROTECT;
    request.protect = &op;
    district__ckpt_message__free_unpacked(ckpt_call(rig, &request, NULL, 0), NULL);
}

void
rig_wait_protected(Rig *rig)
{
    if (!rig_wait_ckpt_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED, RIG_LIMIT_MS))
        rig_fail(rig->dir, "the district was not protected within %d ms", RIG_LIMIT_MS);
}

gboolean
rig_activate(Rig *rig, uint64_t incarnation, RigImage *image)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyActivateRequest op = DISTRICT__STANDBY_ACTIVATE_REQUEST__INIT;

    op.incarnation = incarnation;
    request.id = next_id++;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ACTIVATE;
    request.activate = &op;
    image->n_fds = RIG_FDS_MAX;
    District__StandbyMessage *m = (District__StandbyMessage *)control_call(
        rig, &rig->standby_ctl, &request.base, request.id, NULL, 0, image->fds, &image->n_fds);
    gboolean done = !*m->reply->error && m->reply->activate;
    if (done) {
        image->state_len = m->reply->activate->state_len;
        image->epoch = m->reply->activate->epoch;
    } else {
        g_test_message("activate: %s", m->reply->error);
    }
    district__standby_message__free_unpacked(m, NULL);
    return done;
}

void
rig_image_clear(RigImage *image)
{
    fdmsg_close_fds(image->fds, image->n_fds);
    image->n_fds = 0;
}

char *
rig_check_image(Rig *rig, const RigImage *image)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckRequest op = DISTRICT__CKPT_CHECK_REQUEST__INIT;
    District__CkptMessage *m;
    char *error;

    op.state_len = image->state_len;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECK;
    request.check = &op;
    m = ckpt_ask(rig, &request, image->fds, 1);
    error = *m->reply->error ? g_strdup(m->reply->error) : NULL;
    district__ckpt_message__free_unpacked(m, NULL);
    return error;
}

void
rig_start_image(Rig *rig, const RigImage *image, uint64_t incarnation)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartImageRequest op = DISTRICT__CKPT_START_IMAGE_REQUEST__INIT;

    op.state_len = image->state_len;
    op.incarnation = incarnation;
    op.reset_crossing = TRUE;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START_IMAGE;
    request.start_image = &op;
    district__ckpt_message__free_unpacked(ckpt_call(rig, &request, image->fds, image->n_fds), NULL);
}

uint64_t
rig_checkpoint(Rig *rig, const char *path)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckpointRequest op = DISTRICT__CKPT_CHECKPOINT_REQUEST__INIT;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    op.path = (char *)path;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECKPOINT;
    request.checkpoint = &op;
    District__CkptMessage *m = ckpt_call(rig, &request, &fd, 1);
    uint64_t epoch = m->reply->epoch;
    district__ckpt_message__free_unpacked(m, NULL);
    close(fd);
    return epoch;
}

void
rig_start_file(Rig *rig, const char *path, uint64_t incarnation)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartFileRequest op = DISTRICT__CKPT_START_FILE_REQUEST__INIT;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    op.path = (char *)path;
    op.incarnation = incarnation;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START_FILE;
    request.start_file = &op;
    district__ckpt_message__free_unpacked(ckpt_call(rig, &request, &fd, 1), NULL);
    close(fd);
}

District__CkptMessage *
rig_status(Rig *rig)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest op = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &op;
    return ckpt_call(rig, &request, NULL, 0);
}

District__StandbyMessage *
rig_standby_status(Rig *rig)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyStatusRequest op = DISTRICT__STANDBY_STATUS_REQUEST__INIT;

    request.id = next_id++;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_STATUS;
    request.status = &op;
    return (District__StandbyMessage *)control_call(rig, &rig->standby_ctl, &request.base,
                                                    request.id, NULL, 0, NULL, NULL);
}
