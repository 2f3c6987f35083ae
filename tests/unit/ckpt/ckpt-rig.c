/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A whole district-ckpt between fake members and a fake standby. */
#include "ckpt-rig.h"

#include "common/clock.h"
#include "common/pbmsg.h"
#include "control/pki.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

/* A full sync of a guest that writes without end takes a minute with ASan on a slow, busy machine. */
#define LIMIT_MS 180000

static char *
rig_path(Rig *rig, const char *name)
{
    return g_build_filename(rig->dir, name, NULL);
}

Rig *
rig_new(guint n_members, const FakeMemberConfig *like)
{
    FakeMemberConfig each[RIG_MEMBERS_MAX];

    for (guint i = 0; i < n_members; i++)
        each[i] = *like;
    return rig_new_mixed(n_members, each);
}

Rig *
rig_new_mixed(guint n_members, const FakeMemberConfig *each)
{
    Rig *rig = g_new0(Rig, 1);
    g_autoptr(GError) error = NULL;

    rig->dir = g_dir_make_tmp("district-ckpt-XXXXXX", &error);
    g_assert_no_error(error);
    rig->pki = rig_path(rig, "pki");
    g_assert_true(pki_init(rig->pki, "a", &error));
    g_assert_no_error(error);
    rig->control = -1;
    rig->events = g_array_new(FALSE, FALSE, sizeof(District__CkptEventKind));
    rig->n_members = n_members;
    for (guint i = 0; i < n_members; i++) {
        g_autofree char *name = g_strdup_printf("m%u", i);
        g_autofree char *path = rig_path(rig, name);
        FakeMemberConfig config = each[i];
        config.name = name;
        config.path = path;
        rig->members[i] = fake_member_new(&config);
    }
    rig->standby = fake_standby_new(rig->pki);
    return rig;
}

void
rig_add_net(Rig *rig)
{
    g_autofree char *path = rig_path(rig, "net");

    rig->net = fake_net_new(path);
}

void
rig_connect(Rig *rig)
{
    g_autofree char *path = rig_path(rig, "control");
    g_autoptr(GError) error = NULL;

    if (rig->control >= 0)
        close(rig->control);
    rig->control = fdmsg_connect(path, LIMIT_MS, &error);
    g_assert_no_error(error);
}

/* A test that fails leaves no process behind. One that limits the size of files wants errors for it. */
static void
die_with_parent(gpointer data)
{
    signal(SIGXFSZ, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void
rig_run(Rig *rig)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;

    g_assert_nonnull(g_getenv("DISTRICT_CKPT"));
    g_ptr_array_add(argv, g_strdup(g_getenv("DISTRICT_CKPT")));
    g_ptr_array_add(argv, g_strdup("--name=shop"));
    g_ptr_array_add(argv, g_strdup("--host=a"));
    g_ptr_array_add(argv,
                    rig->net ? g_strdup_printf("--net=%s/net", rig->dir) : g_strdup("--net=none"));
    g_ptr_array_add(argv, g_strdup_printf("--control=%s/control", rig->dir));
    g_ptr_array_add(argv, g_strdup_printf("--pki=%s", rig->pki));
    for (guint i = 0; i < rig->n_members; i++)
        g_ptr_array_add(argv, rig->off[i] ? g_strdup_printf("--member=m%u=off", i)
                                          : g_strdup_printf("--member=m%u=%s/m%u", i, rig->dir, i));
    for (char **option = rig->options; option != NULL && *option != NULL; option++)
        g_ptr_array_add(argv, g_strdup(*option));
    g_ptr_array_add(argv, NULL);
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_NONE);
    g_subprocess_launcher_set_child_setup(launcher, die_with_parent, NULL, NULL);
    rig->process = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, &error);
    g_assert_no_error(error);
    rig_connect(rig);
}

void
rig_kill(Rig *rig)
{
    g_autofree char *path = rig_path(rig, "control");

    g_subprocess_force_exit(rig->process);
    g_subprocess_wait(rig->process, NULL, NULL);
    g_clear_object(&rig->process);
    unlink(path);
}

void
rig_send(Rig *rig, District__CkptRequest *request, const int *fds, guint n_fds)
{
    g_autoptr(GError) error = NULL;

    request->id = ++rig->last_id;
    pbmsg_send(rig->control, &request->base, fds, n_fds, LIMIT_MS, &error);
    g_assert_no_error(error);
}

/* One message: an event is noted (NULL), a reply returned. */
static District__CkptReply *
rig_read(Rig *rig, int timeout_ms, GError **error)
{
    District__CkptMessage *message = (District__CkptMessage *)pbmsg_recv(
        rig->control, &district__ckpt_message__descriptor, NULL, NULL, timeout_ms, error);
    District__CkptReply *reply = NULL;

    if (!message)
        return NULL;
    if (message->m_case == DISTRICT__CKPT_MESSAGE__M_EVENT) {
        g_test_message("event %d: %s %s", message->event->kind, message->event->member,
                       message->event->text);
        g_array_append_val(rig->events, message->event->kind);
        rig->event_incarnation = message->event->incarnation;
    } else {
        reply = message->reply;
        message->reply = NULL;
        message->m_case = DISTRICT__CKPT_MESSAGE__M__NOT_SET;
    }
    district__ckpt_message__free_unpacked(message, NULL);
    return reply;
}

District__CkptReply *
rig_receive_any(Rig *rig, int timeout_ms)
{
    District__CkptReply *reply = NULL;

    while (!reply) {
        g_autoptr(GError) error = NULL;
        reply = rig_read(rig, timeout_ms, &error);
        g_assert_no_error(error);
    }
    return reply;
}

District__CkptReply *
rig_receive(Rig *rig, int timeout_ms)
{
    District__CkptReply *reply = rig_receive_any(rig, timeout_ms);

    g_assert_cmpuint(reply->id, ==, rig->last_id);
    return reply;
}

District__CkptReply *
rig_call(Rig *rig, District__CkptRequest *request, const int *fds, guint n_fds)
{
    rig_send(rig, request, fds, n_fds);
    return rig_receive(rig, LIMIT_MS);
}

static void
rig_call_ok(Rig *rig, District__CkptRequest *request)
{
    District__CkptReply *reply = rig_call(rig, request, NULL, 0);

    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
}

void
rig_start(Rig *rig)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;

    start.incarnation = 1;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
    request.start = &start;
    rig_call_ok(rig, &request);
}

/* protect has the rest. */
static void
rig_protect_as(Rig *rig, District__CkptProtectRequest *protect)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;

    protect->peer_name = (char *)"a";
    protect->address = (char *)"127.0.0.1";
    protect->port = fake_standby_port(rig->standby);
    protect->output_commit = true;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PROTECT;
    request.protect = protect;
    rig_call_ok(rig, &request);
}

void
rig_protect(Rig *rig, unsigned interval_us, unsigned detach_after_ms)
{
    District__CkptProtectRequest protect = DISTRICT__CKPT_PROTECT_REQUEST__INIT;

    protect.interval_us = interval_us;
    protect.detach_after_ms = detach_after_ms;
    rig_protect_as(rig, &protect);
}

void
rig_protect_auto(Rig *rig, unsigned max_slowdown, unsigned max_lag_ms)
{
    District__CkptProtectRequest protect = DISTRICT__CKPT_PROTECT_REQUEST__INIT;

    protect.auto_interval = true;
    protect.max_slowdown = max_slowdown;
    protect.max_lag_us = (uint64_t)max_lag_ms * 1000;
    protect.detach_after_ms = 30000;
    rig_protect_as(rig, &protect);
}

void
rig_unprotect(Rig *rig)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptUnprotectRequest unprotect = DISTRICT__CKPT_UNPROTECT_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_UNPROTECT;
    request.unprotect = &unprotect;
    rig_call_ok(rig, &request);
}

int
rig_create(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

char *
rig_checkpoint(Rig *rig, const char *path)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckpointRequest checkpoint = DISTRICT__CKPT_CHECKPOINT_REQUEST__INIT;
    int fd = rig_create(path);
    char *error = NULL;

    checkpoint.path = (char *)path;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECKPOINT;
    request.checkpoint = &checkpoint;
    District__CkptReply *reply = rig_call(rig, &request, &fd, 1);
    close(fd);
    if (reply->error[0])
        error = g_strdup(reply->error);
    else
        g_assert_cmpuint(reply->bytes, >, 0);
    district__ckpt_reply__free_unpacked(reply, NULL);
    return error;
}

District__CkptStatusReply *
rig_status(Rig *rig, District__CkptReply **hold)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
    request.status = &status;
    *hold = rig_call(rig, &request, NULL, 0);
    g_assert_nonnull((*hold)->status);
    return (*hold)->status;
}

char *
rig_protection(Rig *rig)
{
    District__CkptReply *hold;
    char *text = g_strdup(rig_status(rig, &hold)->protection);

    district__ckpt_reply__free_unpacked(hold, NULL);
    return text;
}

char *
rig_state(Rig *rig)
{
    District__CkptReply *hold;
    char *text = g_strdup(rig_status(rig, &hold)->state);

    district__ckpt_reply__free_unpacked(hold, NULL);
    return text;
}

unsigned
rig_count_events(Rig *rig, District__CkptEventKind kind)
{
    unsigned n = 0;

    for (guint i = 0; i < rig->events->len; i++)
        n += g_array_index(rig->events, District__CkptEventKind, i) == kind;
    return n;
}

void
rig_wait_event(Rig *rig, District__CkptEventKind kind)
{
    while (rig_count_events(rig, kind) == 0) {
        g_autoptr(GError) error = NULL;
        g_assert_null(rig_read(rig, LIMIT_MS, &error));
        g_assert_no_error(error);
    }
}

void
rig_wait_good(Rig *rig, unsigned epochs)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    while (fake_standby_good(rig->standby) < epochs && clock_monotonic_ns() < until)
        g_usleep(2000);
    g_assert_cmpuint(fake_standby_good(rig->standby), >=, epochs);
}

void
rig_free(Rig *rig)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptQuitRequest quit = DISTRICT__CKPT_QUIT_REQUEST__INIT;
    g_autoptr(GError) error = NULL;
    const char *rm[] = {"rm", "-rf", rig->dir, NULL};

    g_assert_cmpuint(fake_standby_wrong(rig->standby), ==, 0);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_QUIT;
    request.quit = &quit;
    rig_call_ok(rig, &request);
    g_subprocess_wait_check(rig->process, NULL, &error);
    g_assert_no_error(error);
    g_object_unref(rig->process);
    close(rig->control);
    for (guint i = 0; i < rig->n_members; i++)
        fake_member_free(rig->members[i]);
    fake_standby_free(rig->standby);
    fake_net_free(rig->net);
    g_array_unref(rig->events);
    g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_strfreev(rig->options);
    g_free(rig->pki);
    g_free(rig->dir);
    g_free(rig);
}
