/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM that is filled in while the guest runs. */
#include "vmm/lazy_ram.h"

#include "common/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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

gboolean
lazy_ram_end(Machine *m, GError **error)
{
    struct uffdio_range range = {.start = (uint64_t)(uintptr_t)m->ram, .len = m->ram_size};

    if (m->lazy_fd < 0)
        return TRUE;
    /* The client has the descriptor too: closing ours is not the end of it. This wakes all who
     * wait. */
    if (ioctl(m->lazy_fd, UFFDIO_UNREGISTER, &range) != 0)
        return lazy_fail(m, MACHINE_ERROR_KVM, "end of the userfaultfd of guest RAM", error);
    close(m->lazy_fd);
    m->lazy_fd = -1;
    return TRUE;
}
