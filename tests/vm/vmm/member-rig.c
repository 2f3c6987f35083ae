/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A district-vmm process and a client of its member socket, for tests. */
#include "member-rig.h"

#include "common/memfd.h"
#include "common/pbmsg.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_MS 10000

/* A test that fails must leave no guest running. */
static void
rig_die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

Rig *
rig_start(const char *program, const char *const *extra)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    Rig *rig = g_new0(Rig, 1);

    rig->client = rig->bitmap_fd = rig->state_fd = rig->ram_fd = rig->lazy_fd = -1;
    rig->directory = g_dir_make_tmp("test-member-XXXXXX", NULL);
    rig->socket = g_build_filename(rig->directory, "member", NULL);
    rig->debugcon = g_build_filename(rig->directory, "debugcon", NULL);
    g_ptr_array_add(argv, (char *)program);
    for (const char *const *arg = (const char *const[]){"--name", "test/guest", "--memory",
                                                        RIG_RAM_TEXT, "--member-socket", NULL};
         *arg != NULL; arg++)
        g_ptr_array_add(argv, (char *)*arg);
    g_ptr_array_add(argv, rig->socket);
    g_ptr_array_add(argv, (char *)"--debugcon");
    g_ptr_array_add(argv, rig->debugcon);
    for (; *extra != NULL; extra++)
        g_ptr_array_add(argv, (char *)*extra);
    g_ptr_array_add(argv, NULL);
    g_spawn_async(NULL, (char **)argv->pdata, NULL, G_SPAWN_DO_NOT_REAP_CHILD, rig_die_with_parent,
                  NULL, &rig->pid, &error);
    g_assert_no_error(error);
    return rig;
}

District__MemberReply *
rig_call(Rig *rig, District__MemberRequest *request, const int *fds, guint n_fds)
{
    g_autoptr(GError) error = NULL;
    int got[4 + 2 * RIG_DISKS_MAX] = {-1, -1, -1};
    guint n_got = G_N_ELEMENTS(got), n_memory;
    District__MemberReply *reply;

    request->id = ++rig->next_id;
    pbmsg_send(rig->client, &request->base, fds, n_fds, LIMIT_MS, &error);
    g_assert_no_error(error);
    reply = (District__MemberReply *)pbmsg_recv(rig->client, &district__member_reply__descriptor,
                                                got, &n_got, LIMIT_MS, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(reply->id, ==, request->id);
    if (reply->op_case == DISTRICT__MEMBER_REPLY__OP_LAZY && reply->lazy->ram_address != 0) {
        rig->lazy_fd = got[--n_got];
        rig->lazy_address = reply->lazy->ram_address;
    }
    if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_HELLO) {
        if (reply->hello->lazy)
            rig->lazy_fd = got[--n_got];
        n_memory =
            reply->hello->state == DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE ? 2 : 3;
        rig->bitmap_fd = got[0];
        rig->state_fd = got[1];
        rig->ram_fd = n_memory == 3 ? got[2] : -1;
        rig->n_disk_fds = n_got - n_memory;
        memcpy(rig->disk_fds, got + n_memory, rig->n_disk_fds * sizeof *got);
    } else {
        g_assert_cmpuint(n_got, ==, 0);
    }
    return reply;
}

static void
rig_note_disks(Rig *rig, const District__MemberHelloReply *hello)
{
    guint overlays = 0;

    rig->n_disks = (guint)hello->n_disks;
    for (guint i = 0; i < rig->n_disks; i++) {
        g_free(rig->home[i]);
        rig->home[i] = g_strdup(hello->disks[i]->home);
        rig->disk_size[i] = hello->disks[i]->size;
        overlays += hello->disks[i]->overlay ? 1 : 0;
    }
    g_assert_cmpuint(rig->n_disk_fds, ==, 2 * overlays);
}

void
rig_connect(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    District__MemberHelloRequest hello = DISTRICT__MEMBER_HELLO_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;

    rig->client = fdmsg_connect(rig->socket, LIMIT_MS, &error);
    g_assert_no_error(error);
    hello.version = 2;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HELLO;
    request.hello = &hello;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    g_assert_cmpuint(reply->hello->ram_size, ==, RIG_RAM);
    g_assert_cmpstr(reply->hello->engine, ==, "kvm");
    g_assert_cmpstr(reply->hello->name, ==, "guest"); /* of --name test/guest */
    g_assert_true(memfd_check(rig->bitmap_fd, 0, "bitmap", NULL));
    g_assert_true(memfd_check(rig->state_fd, reply->hello->state_capacity, "state", NULL));
    g_assert_cmpint(rig->ram_fd >= 0, ==,
                    reply->hello->state != DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE);
    rig_note_disks(rig, reply->hello);
    rig->bitmap = memfd_map(rig->bitmap_fd, memfd_size(rig->bitmap_fd), TRUE, NULL);
    rig->state = memfd_map(rig->state_fd, memfd_size(rig->state_fd), TRUE, NULL);
    district__member_reply__free_unpacked(reply, NULL);
}

void
rig_disconnect(Rig *rig)
{
    if (rig->client < 0)
        return;
    munmap(rig->bitmap, memfd_size(rig->bitmap_fd));
    munmap(rig->state, memfd_size(rig->state_fd));
    close(rig->client);
    close(rig->bitmap_fd);
    close(rig->state_fd);
    if (rig->ram_fd >= 0)
        close(rig->ram_fd);
    if (rig->lazy_fd >= 0)
        close(rig->lazy_fd);
    fdmsg_close_fds(rig->disk_fds, rig->n_disk_fds);
    rig->n_disk_fds = 0;
    rig->client = rig->bitmap_fd = rig->state_fd = rig->ram_fd = rig->lazy_fd = -1;
}

void
rig_resume(Rig *rig)
{
    District__MemberResumeRequest resume = DISTRICT__MEMBER_RESUME_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESUME;
    request.resume = &resume;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    g_assert_cmpuint(reply->resume->resumed_ns, >, 0);
    district__member_reply__free_unpacked(reply, NULL);
}

uint64_t
rig_pause(Rig *rig, gboolean save)
{
    return rig_pause_held(rig, save, FALSE);
}

uint64_t
rig_pause_held(Rig *rig, gboolean save, gboolean hold)
{
    District__MemberPauseRequest pause = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    const District__MemberPauseReply *p;
    uint64_t len;

    pause.save_state = save;
    pause.hold = hold;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &pause;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    p = reply->pause;
    g_assert_true(p->requested_ns <= p->vcpus_out_ns && p->vcpus_out_ns <= p->devices_rest_ns &&
                  p->devices_rest_ns <= p->saved_ns && p->saved_ns <= p->harvested_ns);
    g_test_message("pause: vCPUs out %" G_GINT64_FORMAT " us, devices at rest +%" G_GINT64_FORMAT
                   ", saved +%" G_GINT64_FORMAT ", harvested +%" G_GINT64_FORMAT,
                   (gint64)(p->vcpus_out_ns - p->requested_ns) / 1000,
                   (gint64)(p->devices_rest_ns - p->vcpus_out_ns) / 1000,
                   (gint64)(p->saved_ns - p->devices_rest_ns) / 1000,
                   (gint64)(p->harvested_ns - p->saved_ns) / 1000);
    rig->n_cuts = (guint)p->n_disks;
    g_assert_cmpuint(rig->n_cuts, ==, rig->n_disk_fds / 2);
    for (guint i = 0; i < rig->n_cuts; i++) {
        rig->cut[i] = p->disks[i]->cut;
        rig->index_end[i] = p->disks[i]->index_end;
    }
    len = p->state_len;
    district__member_reply__free_unpacked(reply, NULL);
    return len;
}

District__MemberState
rig_state(Rig *rig)
{
    District__MemberDescribeRequest describe = DISTRICT__MEMBER_DESCRIBE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    District__MemberState state;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_DESCRIBE;
    request.describe = &describe;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    g_assert_cmpuint(reply->describe->rss_bytes, >, 0);
    g_test_message("memory beside guest RAM: %" G_GUINT64_FORMAT " KiB",
                   reply->describe->rss_bytes / 1024);
    state = reply->describe->state;
    district__member_reply__free_unpacked(reply, NULL);
    return state;
}

void
rig_restore_disks(Rig *rig, int ram_fd, uint64_t state_len, const int *disk_fds, guint n_disk_fds,
                  const uint64_t *entries)
{
    District__MemberRestoreRequest restore = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    int fds[1 + 2 * RIG_DISKS_MAX] = {ram_fd};
    District__MemberReply *reply;

    restore.state_len = state_len;
    restore.disk_entries = (uint64_t *)entries;
    restore.n_disk_entries = n_disk_fds / 2;
    if (n_disk_fds > 0)
        memcpy(fds + 1, disk_fds, n_disk_fds * sizeof *fds);
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &restore;
    reply = rig_call(rig, &request, fds, 1 + n_disk_fds);
    g_assert_cmpstr(reply->error, ==, "");
    district__member_reply__free_unpacked(reply, NULL);
}

char *
rig_disks(Rig *rig, guint n, uint64_t released_below, uint64_t home_below, gboolean resend)
{
    District__MemberDiskNote note = DISTRICT__MEMBER_DISK_NOTE__INIT;
    District__MemberDiskNote *list[RIG_DISKS_MAX];
    District__MemberDisksRequest disks = DISTRICT__MEMBER_DISKS_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    char *error;

    note.released_below = released_below;
    note.home_below = home_below;
    note.resend = resend;
    for (guint i = 0; i < n; i++)
        list[i] = &note;
    disks.disks = list;
    disks.n_disks = n;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_DISKS;
    request.disks = &disks;
    reply = rig_call(rig, &request, NULL, 0);
    error = g_strdup(reply->error);
    district__member_reply__free_unpacked(reply, NULL);
    return error;
}

int
rig_wait_exit(Rig *rig)
{
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    int status;

    while (waitpid(rig->pid, &status, WNOHANG) == 0) {
        if (g_get_monotonic_time() > limit)
            g_error("district-vmm does not end");
        g_usleep(1000);
    }
    rig->pid = 0;
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

char *
rig_debugcon(Rig *rig)
{
    char *text = NULL;

    return g_file_get_contents(rig->debugcon, &text, NULL, NULL) ? text : g_strdup("");
}

gsize
rig_output(Rig *rig)
{
    g_autofree char *text = rig_debugcon(rig);

    return strlen(text);
}

void
rig_free(Rig *rig)
{
    rig_disconnect(rig);
    if (rig->pid != 0) {
        kill(rig->pid, SIGTERM);
        g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    }
    unlink(rig->debugcon);
    /* How districtd tells an end from a loss (district-vmm(8)). */
    g_autofree char *ended = g_strconcat(rig->socket, ".ended", NULL);
    unlink(ended);
    g_assert_cmpint(rmdir(rig->directory), ==, 0); /* nothing left behind */
    for (guint i = 0; i < rig->n_disks; i++)
        g_free(rig->home[i]);
    g_free(rig->directory);
    g_free(rig->socket);
    g_free(rig->debugcon);
    g_free(rig);
}
