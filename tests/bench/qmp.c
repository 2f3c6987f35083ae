/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stock QEMU with the tiny guest on KVM; qmp.h describes it. */
#include "tests/bench/qmp.h"

#include "common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND_LIMIT_NS (60 * NS_PER_S)
/* A software KVM needs 10 s for SeaBIOS, and 2 s for qboot. */
#define BOOT_LIMIT_NS (60 * NS_PER_S)
#define POLL_MIGRATION_US 200
#define MONITOR_FD 3

struct Qemu {
    GPid pid;
    int fd;         /* the monitor's other end */
    GString *input; /* read and not yet a whole line */
    GHashTable *events;
    uint8_t *ram;
    size_t ram_bytes;
};

static gboolean fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean
fail(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "QEMU: %s", text);
    return FALSE;
}

/* ---- The monitor ---- */

/* One line, without its end; NULL with error set at the deadline or when QEMU has gone. */
static char *
read_line(Qemu *qemu, int64_t deadline, GError **error)
{
    char part[4096];

    for (;;) {
        char *end = memchr(qemu->input->str, '\n', qemu->input->len);
        if (end) {
            char *line = g_strndup(qemu->input->str, (gsize)(end - qemu->input->str));
            g_string_erase(qemu->input, 0, end - qemu->input->str + 1);
            return line;
        }
        struct pollfd poll_fd = {.fd = qemu->fd, .events = POLLIN};
        int64_t left = MAX(deadline - clock_monotonic_ns(), 0);
        if (poll(&poll_fd, 1, (int)(left / NS_PER_MS)) == 0) {
            fail(error, "the monitor does not answer in time");
            return NULL;
        }
        ssize_t n = recv(qemu->fd, part, sizeof(part), 0);
        if (n <= 0) {
            fail(error, "it has ended: its last words are on standard error");
            return NULL;
        }
        g_string_append_len(qemu->input, part, n);
    }
}

static void
note_event(Qemu *qemu, JsonObject *object)
{
    JsonObject *at = json_object_get_object_member(object, "timestamp");
    int64_t *ns = g_new0(int64_t, 1);

    *ns = json_object_get_int_member(at, "seconds") * NS_PER_S +
          json_object_get_int_member(at, "microseconds") * NS_PER_US;
    g_hash_table_replace(qemu->events, g_strdup(json_object_get_string_member(object, "event")),
                         ns);
}

/* Read until the answer to a command. */
static JsonNode *
read_answer(Qemu *qemu, GError **error)
{
    int64_t deadline = clock_monotonic_ns() + COMMAND_LIMIT_NS;

    for (;;) {
        g_autofree char *line = read_line(qemu, deadline, error);
        g_autoptr(JsonNode) node = line ? json_from_string(line, NULL) : NULL;
        if (!line)
            return NULL;
        if (!node || !JSON_NODE_HOLDS_OBJECT(node))
            continue;
        JsonObject *object = json_node_get_object(node);
        if (json_object_has_member(object, "return"))
            return json_node_copy(json_object_get_member(object, "return"));
        if (json_object_has_member(object, "event"))
            note_event(qemu, object);
        if (json_object_has_member(object, "error")) {
            fail(error, "%s", line);
            return NULL;
        }
    }
}

static gboolean
send_with_fd(int socket_fd, const char *text, int fd)
{
    struct iovec part = {.iov_base = (void *)text, .iov_len = strlen(text)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    return sendmsg(socket_fd, &message, MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

JsonNode *
qemu_command(Qemu *qemu, const char *json, int fd, GError **error)
{
    g_autofree char *line = g_strconcat(json, "\n", NULL);

    if (!send_with_fd(qemu->fd, line, fd)) {
        fail(error, "the monitor: %s", g_strerror(errno));
        return NULL;
    }
    return read_answer(qemu, error);
}

gboolean
qemu_do(Qemu *qemu, const char *json, GError **error)
{
    g_autoptr(JsonNode) answer = qemu_command(qemu, json, -1, error);

    return answer != NULL;
}

int64_t
qemu_event_ns(const Qemu *qemu, const char *name)
{
    const int64_t *ns = g_hash_table_lookup(qemu->events, name);

    return ns ? *ns : 0;
}

JsonNode *
qemu_wait_migrated(Qemu *qemu, GError **error)
{
    int64_t deadline = clock_monotonic_ns() + COMMAND_LIMIT_NS;

    while (clock_monotonic_ns() < deadline) {
        g_autoptr(JsonNode) answer =
            qemu_command(qemu, "{\"execute\":\"query-migrate\"}", -1, error);
        if (!answer)
            return NULL;
        const char *status =
            json_object_get_string_member_with_default(json_node_get_object(answer), "status", "");
        if (strcmp(status, "completed") == 0)
            return g_steal_pointer(&answer);
        if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
            fail(error, "the migration has %s", status);
            return NULL;
        }
        g_usleep(POLL_MIGRATION_US);
    }
    fail(error, "the migration does not end");
    return NULL;
}

/* ---- Life ---- */

static void
in_child(gpointer data)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(*(int *)data, MONITOR_FD);
    fcntl(MONITOR_FD, F_SETFD, 0);
}

static gboolean
start(Qemu *qemu, const QemuConfig *config, GError **error)
{
    g_autofree char *ram = g_strdup_printf("%uM", config->ram_mib);
    g_autofree char *memory = g_strdup_printf("memory-backend-memfd,id=ram,size=%s,share=on", ram);
    g_autofree char *debugcon = g_strdup_printf("file:%s", config->output);
    /* A software KVM has no SMM, and refuses MSR_IA32_ARCH_CAPABILITIES. */
    const char *argv[] = {config->program,
                          "-machine",
                          "q35,smm=off,accel=kvm,memory-backend=ram",
                          "-cpu",
                          "host,-arch-capabilities",
                          "-m",
                          ram,
                          "-object",
                          memory,
                          "-nodefaults",
                          "-display",
                          "none",
                          "-no-reboot",
                          "-bios",
                          "qboot.rom",
                          "-kernel",
                          config->guest,
                          "-append",
                          config->command_line,
                          "-debugcon",
                          debugcon,
                          "-chardev",
                          "socket,id=monitor,fd=3",
                          "-mon",
                          "monitor,mode=control",
                          NULL};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return fail(error, "socketpair: %s", g_strerror(errno));
    qemu->fd = pair[0];
    gboolean good = g_spawn_async(NULL, (char **)argv, NULL,
                                  G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH |
                                      G_SPAWN_LEAVE_DESCRIPTORS_OPEN,
                                  in_child, &pair[1], &qemu->pid, error);
    close(pair[1]);
    return good;
}

static gboolean
wait_for_output(const char *path, GError **error)
{
    int64_t deadline = clock_monotonic_ns() + BOOT_LIMIT_NS;
    struct stat st;

    while (stat(path, &st) < 0 || st.st_size == 0) {
        if (clock_monotonic_ns() > deadline)
            return fail(error, "the guest has not begun within %lld s", BOOT_LIMIT_NS / NS_PER_S);
        g_usleep(10000);
    }
    return TRUE;
}

/* The memfd that QEMU has for the guest's RAM, by its name. */
static int
open_ram(const Qemu *qemu)
{
    g_autofree char *fds = g_strdup_printf("/proc/%d/fd", qemu->pid);
    g_autoptr(GDir) dir = g_dir_open(fds, 0, NULL);

    for (const char *name; dir && (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(fds, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        if (target && g_str_has_prefix(target, "/memfd:memory-backend-memfd"))
            return open(path, O_RDONLY | O_CLOEXEC);
    }
    return -1;
}

static gboolean
map_ram(Qemu *qemu, GError **error)
{
    int fd = open_ram(qemu);

    if (fd < 0)
        return fail(error, "the memfd of its RAM is not among its files");
    void *map = mmap(NULL, qemu->ram_bytes, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return fail(error, "mapping its RAM: %s", g_strerror(errno));
    qemu->ram = map;
    return TRUE;
}

Qemu *
qemu_new(const QemuConfig *config, GError **error)
{
    g_autoptr(Qemu) qemu = g_new0(Qemu, 1);

    qemu->fd = -1;
    qemu->ram_bytes = (size_t)config->ram_mib << 20;
    qemu->input = g_string_new(NULL);
    qemu->events = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_unlink(config->output);
    if (!start(qemu, config, error) ||
        !qemu_do(qemu, "{\"execute\":\"qmp_capabilities\"}", error) ||
        !wait_for_output(config->output, error) || !map_ram(qemu, error))
        return NULL;
    return g_steal_pointer(&qemu);
}

void
qemu_free(Qemu *qemu)
{
    if (!qemu)
        return;
    if (qemu->pid > 0) {
        kill(qemu->pid, SIGKILL);
        waitpid(qemu->pid, NULL, 0);
    }
    if (qemu->fd >= 0)
        close(qemu->fd);
    if (qemu->ram)
        munmap(qemu->ram, qemu->ram_bytes);
    g_string_free(qemu->input, TRUE);
    g_hash_table_unref(qemu->events);
    g_free(qemu);
}

const uint8_t *
qemu_ram(const Qemu *qemu)
{
    return qemu->ram;
}
