/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes of ours that must outlive us: start, adoption, watching. */
#include "control/child.h"
#include "control/error.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct Child {
    RunProcess *process;
    ChildExited exited;
    gpointer data;
    int pidfd;
    int gate; /* write end; -1 once released */
    guint watch;
};

static char *
program_in(const char *dir, const char *below, const char *name)
{
    g_autofree char *path = g_build_filename(dir, below, name, NULL);

    return access(path, X_OK) == 0 ? g_steal_pointer(&path) : NULL;
}

char *
child_find_program(const char *libexec_dir, const char *name, GError **error)
{
    static const char *const below[] = {".", "../vmm", "../ckpt", "../netproxy", "../standby"};
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *self_dir = self != NULL ? g_path_get_dirname(self) : g_strdup("/");
    const char *const first[] = {g_getenv("DISTRICT_LIBEXEC"), libexec_dir};
    char *path = NULL;

    for (gsize i = 0; path == NULL && i < G_N_ELEMENTS(first); i++)
        path = first[i] != NULL ? program_in(first[i], ".", name) : NULL;
    for (gsize i = 0; path == NULL && i < G_N_ELEMENTS(below); i++)
        path = program_in(self_dir, below[i], name);
    if (path == NULL)
        path = program_in(DISTRICT_LIBEXEC_DIR, ".", name);
    if (path == NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                    "%s: program not found: set LibexecDir= in districtd.conf to its directory",
                    name);
    return path;
}

/* In the child, after fork: only async-signal-safe calls (signal-safety(7)). Never returns. */
static void G_GNUC_NORETURN
child_main(const char *const *argv, int gate_read, int gate_write, int log, int null, int inherit)
{
    char token = 0;
    sigset_t none;

    close(gate_write);
    setsid();
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    if (inherit >= 0)
        fcntl(inherit, F_SETFD, 0);
    if (read(gate_read, &token, 1) != 1)
        _exit(0);
    execv(argv[0], (char *const *)argv);
    _exit(CHILD_STATUS_NO_EXEC);
}

static int
child_status(const Child *child)
{
    siginfo_t info = {0};

    if (waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0)
        return CHILD_STATUS_UNKNOWN;
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static gboolean
on_pidfd(gint fd, GIOCondition condition, gpointer data)
{
    Child *child = data;

    child->watch = 0;
    child->exited(child, child_status(child), child->data);
    return G_SOURCE_REMOVE;
}

static int
pidfd_open_of(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static Child *
child_new(pid_t pid, const char *kind, const char *member, ChildExited exited, gpointer data)
{
    int pidfd = pidfd_open_of(pid);
    if (pidfd < 0)
        return NULL;
    Child *child = g_new0(Child, 1);
    child->process = g_new0(RunProcess, 1);
    child->process->kind = g_strdup(kind);
    child->process->member = g_strdup(member);
    child->process->pid = pid;
    child->exited = exited;
    child->data = data;
    child->pidfd = pidfd;
    child->gate = -1;
    child->watch = g_unix_fd_add(pidfd, G_IO_IN, on_pidfd, child);
    return child;
}

static pid_t
child_fork(const char *const *argv, const char *log_path, int gate[2], int inherit_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t pid = -1;

    if (null >= 0 && log >= 0 && pipe2(gate, O_CLOEXEC) == 0) {
        pid = fork();
        if (pid == 0)
            child_main(argv, gate[0], gate[1], log, null, inherit_fd);
        close(gate[0]);
        if (pid < 0)
            close(gate[1]);
    }
    int saved = errno;
    if (null >= 0)
        close(null);
    if (log >= 0)
        close(log);
    errno = saved;
    return pid;
}

Child *
child_spawn(const char *kind, const char *member, const char *const *argv, const char *log_path,
            int inherit_fd, ChildExited exited, gpointer data, GError **error)
{
    int gate[2] = {-1, -1};
    pid_t pid = child_fork(argv, log_path, gate, inherit_fd);
    Child *child = pid > 0 ? child_new(pid, kind, member, exited, data) : NULL;

    if (child == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: cannot start (log %s): %s",
                    argv[0], log_path, g_strerror(errno));
        if (pid > 0)
            close(gate[1]);
        return NULL;
    }
    child->gate = gate[1];
    process_start_time(pid, &child->process->start_time);
    return child;
}

void
child_release(Child *child)
{
    if (child->gate < 0)
        return;
    if (write(child->gate, "g", 1) != 1)
        g_warning("pid %d: cannot open its gate: %s", (int)child->process->pid, g_strerror(errno));
    close(child->gate);
    child->gate = -1;
}

Child *
child_adopt(const RunProcess *process, ChildExited exited, gpointer data)
{
    Child *child = child_new(process->pid, process->kind, process->member, exited, data);

    /* Checked with the pidfd open: from here on it cannot become another process. */
    if (child != NULL && !run_process_alive(process))
        g_clear_pointer(&child, child_free);
    if (child != NULL)
        child->process->start_time = process->start_time;
    return child;
}

const RunProcess *
child_process(const Child *child)
{
    return child->process;
}

void
child_signal(Child *child, int signal)
{
    if (syscall(SYS_pidfd_send_signal, child->pidfd, signal, NULL, 0) != 0 && errno != ESRCH)
        g_warning("pid %d: cannot send signal %d: %s", (int)child->process->pid, signal,
                  g_strerror(errno));
}

void
child_free(Child *child)
{
    if (child == NULL)
        return;
    if (child->watch != 0)
        g_source_remove(child->watch);
    if (child->gate >= 0)
        close(child->gate);
    close(child->pidfd);
    run_process_free(child->process);
    g_free(child);
}
