/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The member side of the rig: processes, tiny guests, and a direct client of the member protocol.
 */
#include "rig.h"

#include "common/clock.h"
#include "common/memfd.h"
#include "common/pbmsg.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_TAIL 2000
#define LOG_LEVELS 3 /* DIR/HOST/log/DISTRICT */

/* ---- Processes ---- */

void
rig_sleep_at_random(int limit_ms)
{
    g_usleep((gulong)g_random_int_range(0, limit_ms * 1000));
}

/* The end of each log in a directory and, so many levels deep, in those in it; not of guests' consoles. */
static void
tell_logs(const char *dir, int deep)
{
    g_autoptr(GDir) entries = g_dir_open(dir, 0, NULL);

    for (const char *name; entries && (name = g_dir_read_name(entries));) {
        g_autofree char *path = g_build_filename(dir, name, NULL), *text = NULL;
        if (deep > 0 && g_file_test(path, G_FILE_TEST_IS_DIR))
            tell_logs(path, deep - 1);
        if (!g_str_has_suffix(name, ".log") || g_str_has_suffix(name, ".console.log") ||
            !g_file_get_contents(path, &text, NULL, NULL))
            continue;
        size_t len = strlen(text);
        g_printerr("# %s: %s\n", path, text + (len > LOG_TAIL ? len - LOG_TAIL : 0));
    }
}

void
rig_fail(const char *dir, const char *format, ...)
{
    va_list args;

    tell_logs(dir, LOG_LEVELS);
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_error("%s", message);
}

static void
proc_child_setup(gpointer log)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(GPOINTER_TO_INT(log), STDOUT_FILENO);
    dup2(GPOINTER_TO_INT(log), STDERR_FILENO);
}

void
proc_start(Proc *proc, const char *dir, const char *name, const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *file = g_strdup_printf("%s/%s.log", dir, name);
    int log = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    g_free(proc->name);
    proc->name = g_strdup(name);
    g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, proc_child_setup,
                  GINT_TO_POINTER(log), &proc->pid, &error);
    close(log);
    if (error)
        rig_fail(dir, "cannot start %s: %s", name, error->message);
}

void
proc_kill(Proc *proc)
{
    if (proc->pid == 0)
        return;
    kill(proc->pid, SIGKILL);
    waitpid(proc->pid, NULL, 0);
    proc->pid = 0;
}

int
proc_wait(Proc *proc, int limit_ms)
{
    int64_t deadline = clock_monotonic_ns() + limit_ms * NS_PER_MS;
    int status = 0;

    while (waitpid(proc->pid, &status, WNOHANG) == 0) {
        if (clock_monotonic_ns() > deadline)
            g_error("%s did not end within %d ms", proc->name, limit_ms);
        g_usleep(1000);
    }
    proc->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- Tiny guests ---- */

void
vmm_start(Vmm *vmm, const char *dir, const char *member, unsigned generation, gboolean incoming,
          const char *guest_options, const char *vmm_options)
{
    g_autofree char *log = g_strdup_printf("vmm-%s", member);
    g_autofree char *name = g_strdup_printf("shop/%s", member);
    g_auto(GStrv) extra = g_strsplit(vmm_options, " ", -1);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();

    g_free(vmm->socket);
    g_free(vmm->debugcon);
    vmm->socket = g_strdup_printf("%s/%s.%u.sock", dir, member, generation);
    vmm->debugcon = g_strdup_printf("%s/%s.%u.out", dir, member, generation);
    const char *fixed[] = {g_getenv("DISTRICT_VMM"),
                           "--name",
                           name,
                           "--serial",
                           "none",
                           "--debugcon",
                           vmm->debugcon,
                           "--member-socket",
                           vmm->socket,
                           incoming ? "--incoming" : "--paused"};
    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(argv, (gpointer)fixed[i]);
    const char *boot[] = {"--kernel", g_getenv("TINY_GUEST"), "--append", guest_options};
    for (guint i = 0; !incoming && i < G_N_ELEMENTS(boot); i++)
        g_ptr_array_add(argv, (gpointer)boot[i]);
    for (char **word = extra; *word && **word; word++)
        g_ptr_array_add(argv, *word);
    g_ptr_array_add(argv, NULL);
    proc_start(&vmm->proc, dir, log, (const char *const *)argv->pdata);
}

void
vmm_stop(Vmm *vmm)
{
    proc_kill(&vmm->proc);
    if (vmm->socket)
        unlink(vmm->socket);
}

char *
vmm_report(const Vmm *vmm)
{
    char *text = NULL;

    return g_file_get_contents(vmm->debugcon, &text, NULL, NULL) ? text : g_strdup("");
}

void
vmm_wait_lines(const Vmm *vmm, guint lines)
{
    int64_t deadline = clock_monotonic_ns() + RIG_LIMIT_MS * NS_PER_MS;

    for (;;) {
        g_autofree char *text = vmm_report(vmm);
        guint n = 0;
        for (const char *p = text; (p = strstr(p, "chain cpu=")); p++) {
            if (strchr(p, '\n'))
                n++;
        }
        if (n >= lines)
            return;
        if (clock_monotonic_ns() > deadline)
            g_error("the guest made %u of %u reports in %d ms: %s", n, lines, RIG_LIMIT_MS, text);
        g_usleep(2000);
    }
}

/* ---- Member protocol ---- */

static District__MemberReply *
member_call(Member *member, District__MemberRequest *request, const int *fds, guint n_fds,
            int *reply_fds, guint *n_reply_fds)
{
    g_autoptr(GError) error = NULL;

    request->id = ++member->next_id;
    if (!pbmsg_send(member->fd, &request->base, fds, n_fds, RIG_LIMIT_MS, &error))
        g_error("member takes no request: %s", error->message);
    District__MemberReply *reply =
        (District__MemberReply *)pbmsg_recv(member->fd, &district__member_reply__descriptor,
                                            reply_fds, n_reply_fds, RIG_LIMIT_MS, &error);
    if (!reply)
        g_error("member does not answer: %s", error->message);
    g_assert_cmpuint(reply->id, ==, request->id);
    if (*reply->error)
        g_error("member: %s", reply->error);
    return reply;
}

void
member_open(Member *member, const char *socket)
{
    g_autoptr(GError) error = NULL;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberHelloRequest op = DISTRICT__MEMBER_HELLO_REQUEST__INIT;
    int fds[3];
    guint n = 3;

    *member = (Member){.fd = fdmsg_connect(socket, RIG_LIMIT_MS, &error)};
    if (member->fd < 0)
        g_error("member does not listen: %s", error->message);
    op.version = 2;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HELLO;
    request.hello = &op;
    District__MemberReply *reply = member_call(member, &request, NULL, 0, fds, &n);
    g_assert_cmpuint(n, >=, 2);
    member->bitmap_fd = fds[0];
    member->state_fd = fds[1];
    member->ram_fd = n == 3 ? fds[2] : -1;
    member->ram_size = reply->hello->ram_size;
    district__member_reply__free_unpacked(reply, NULL);
}

void
member_close(Member *member)
{
    close(member->fd);
    close(member->bitmap_fd);
    close(member->state_fd);
    if (member->ram_fd >= 0)
        close(member->ram_fd);
}

void
member_resume(Member *member)
{
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberResumeRequest op = DISTRICT__MEMBER_RESUME_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESUME;
    request.resume = &op;
    district__member_reply__free_unpacked(member_call(member, &request, NULL, 0, NULL, NULL), NULL);
}

uint64_t
member_pause(Member *member)
{
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberPauseRequest op = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;

    op.save_state = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &op;
    District__MemberReply *reply = member_call(member, &request, NULL, 0, NULL, NULL);
    uint64_t len = reply->pause->state_len;
    district__member_reply__free_unpacked(reply, NULL);
    return len;
}

void
member_harvest(Member *member)
{
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberHarvestRequest op = DISTRICT__MEMBER_HARVEST_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HARVEST;
    request.harvest = &op;
    district__member_reply__free_unpacked(member_call(member, &request, NULL, 0, NULL, NULL), NULL);
}

void
member_restore(Member *member, int ram_fd, const void *state, uint64_t len)
{
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberRestoreRequest op = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;

    g_assert_cmpint(pwrite(member->state_fd, state, len, 0), ==, (gssize)len);
    op.state_len = len;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &op;
    district__member_reply__free_unpacked(member_call(member, &request, &ram_fd, 1, NULL, NULL),
                                          NULL);
}
