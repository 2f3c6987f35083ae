/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM that is filled in while the guest runs. */
#include "vmm/lazy_ram.h"

#include "common/memfd.h"
#include "common/pbmsg.h"

#include "member.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The socket's name: that of the member's, and this. */
#define SHARE_SUFFIX ".lazy"
#define SEND_LIMIT_MS 1000

static gboolean
lazy_fail(const Machine *m, MachineError code, const char *what, GError **error)
{
    g_set_error(error, MACHINE_ERROR, code, "%s: %s: %s", m->name, what, g_strerror(errno));
    return FALSE;
}

/* One that faults of the kernel on our behalf are reported by too (KVM, read(2)): that takes
 * CAP_SYS_PTRACE or vm.unprivileged_userfaultfd. -1 with errno. */
static int
lazy_open(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    int saved;

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

bool
lazy_ram_possible(void)
{
    int fd = lazy_open();

    if (fd < 0)
        return false;
    close(fd);
    return true;
}

gboolean
lazy_ram_begin(Machine *m, int ram_fd, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (m->state != MACHINE_AWAITING_RESTORE || m->ram != NULL) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "%s has its RAM already, or does not await a restore", m->name);
        return FALSE;
    }
    if (!memfd_check(ram_fd, m->ram_size, "guest RAM", &why)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "%s: %s", m->name, why->message);
        return FALSE;
    }
    m->lazy_fd = lazy_open();
    if (m->lazy_fd < 0)
        return lazy_fail(m, MACHINE_ERROR_CONFIG, "no userfaultfd(2) with shared memory here",
                         error);
    return machine_ram_attach(m, ram_fd, error);
}

gboolean
lazy_ram_register(Machine *m, GError **error)
{
    struct uffdio_register range = {
        .range = {.start = (uint64_t)(uintptr_t)m->ram, .len = m->ram_size},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    return ioctl(m->lazy_fd, UFFDIO_REGISTER, &range) == 0 ||
           lazy_fail(m, MACHINE_ERROR_KVM, "userfaultfd of guest RAM", error);
}

/* ---- For the next client ---- */

struct LazyShare {
    char *path;
    int listen_fd;
    int stop_fd;
    int lazy_fd; /* the machine's */
    uint64_t ram_address;
    GThread *thread;
};

static void
share_pass(const LazyShare *share)
{
    District__MemberLazyReply reply = DISTRICT__MEMBER_LAZY_REPLY__INIT;
    g_autoptr(GError) error = NULL;
    int fd = fdmsg_accept(share->listen_fd, &error);

    reply.ram_address = share->ram_address;
    if (fd >= 0 && pbmsg_send(fd, &reply.base, &share->lazy_fd, 1, SEND_LIMIT_MS, &error))
        g_message("passed memory that is being filled in to another client");
    if (error != NULL)
        g_debug("%s: %s", share->path, error->message);
    if (fd >= 0)
        close(fd);
}

static gpointer
share_run(gpointer data)
{
    LazyShare *share = data;
    struct pollfd polls[] = {{.fd = share->listen_fd, .events = POLLIN},
                             {.fd = share->stop_fd, .events = POLLIN}};

    /* Not limited: it is the thread's life. */
    while (polls[1].revents == 0) {
        if (poll(polls, G_N_ELEMENTS(polls), -1) > 0 && polls[0].revents != 0)
            share_pass(share);
    }
    return NULL;
}

void
lazy_ram_share(Machine *m, const char *member_socket)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    int listen_fd;

    if (m->lazy_fd < 0 || m->lazy_share != NULL)
        return;
    path = g_strconcat(member_socket, SHARE_SUFFIX, NULL);
    listen_fd = fdmsg_listen(path, &error);
    if (listen_fd < 0) {
        g_warning("a client that is killed may hang the guest: %s", error->message);
        return;
    }
    m->lazy_share = g_new0(LazyShare, 1);
    *m->lazy_share = (LazyShare){.path = g_steal_pointer(&path),
                                 .listen_fd = listen_fd,
                                 .stop_fd = eventfd(0, EFD_CLOEXEC),
                                 .lazy_fd = m->lazy_fd,
                                 .ram_address = (uint64_t)(uintptr_t)m->ram};
    m->lazy_share->thread = g_thread_new("lazy-share", share_run, m->lazy_share);
}

void
lazy_ram_unshare(Machine *m)
{
    LazyShare *share = g_steal_pointer(&m->lazy_share);
    const uint64_t one = 1;

    if (share == NULL)
        return;
    if (write(share->stop_fd, &one, sizeof one) != sizeof one)
        g_error("%s: cannot stop its thread: %s", share->path, g_strerror(errno));
    g_thread_join(share->thread);
    unlink(share->path);
    close(share->listen_fd);
    close(share->stop_fd);
    g_free(share->path);
    g_free(share);
}

gboolean
lazy_ram_end(Machine *m, GError **error)
{
    struct uffdio_range range = {.start = (uint64_t)(uintptr_t)m->ram, .len = m->ram_size};

    if (m->lazy_fd < 0)
        return TRUE;
    lazy_ram_unshare(m);
    /* The client has the descriptor too: closing ours is not the end of it. This wakes all who
     * wait. */
    if (ioctl(m->lazy_fd, UFFDIO_UNREGISTER, &range) != 0)
        return lazy_fail(m, MACHINE_ERROR_KVM, "end of the userfaultfd of guest RAM", error);
    close(m->lazy_fd);
    m->lazy_fd = -1;
    return TRUE;
}
