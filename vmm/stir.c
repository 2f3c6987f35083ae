/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stirring: stir.h has the theory. */
#include "vmm/stir.h"

#include "common/taskclock.h"
#include "vmm/vcpu.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct Stir {
    int eventfd;
    gint armed;
    bool counting; /* clocks may be */
    bool tried;
    unsigned n_clocks; /* 0: not possible */
    int clocks[MACHINE_VCPUS_MAX];
};

Stir *
stir_new(int fd, GError **error)
{
    Stir *stir = g_new0(Stir, 1);

    stir->eventfd = fd >= 0 ? fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stir->eventfd >= 0)
        return stir;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "no eventfd for the guest's stirring: %s",
                g_strerror(errno));
    g_free(stir);
    return NULL;
}

int
stir_fd(const Stir *stir)
{
    return stir->eventfd;
}

void
stir_now(Stir *stir)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then it is readable anyway. */
    if (g_atomic_int_compare_and_exchange(&stir->armed, 1, 0) &&
        write(stir->eventfd, &one, sizeof one) < 0)
        g_debug("stirring: %s", g_strerror(errno));
}

static void
stir_stop_clocks(Stir *stir)
{
    for (unsigned i = 0; stir->counting && i < stir->n_clocks; i++)
        task_clock_stop(stir->clocks[i]);
    stir->counting = false;
}

static gboolean
stir_clock_ran(int fd, GIOCondition condition, void *opaque)
{
    Stir *stir = opaque;

    stir_stop_clocks(stir);
    stir_now(stir);
    return G_SOURCE_CONTINUE;
}

static bool
stir_clocks_open(Stir *stir, const VcpuSet *vcpus)
{
    for (unsigned i = 0; i < vcpus->n; i++) {
        stir->clocks[i] = task_clock_open(vcpus->vcpu[i].tid, STIR_CPU_NS);
        if (stir->clocks[i] >= 0)
            continue;
        g_message(
            "an idle guest is looked at as often as a busy one: no clock of what vCPU %u uses: %s",
            i, g_strerror(errno));
        while (i > 0)
            close(stir->clocks[--i]);
        return false;
    }
    return true;
}

bool
stir_possible(Stir *stir, const VcpuSet *vcpus)
{
    if (stir->tried)
        return stir->n_clocks > 0;
    stir->tried = true;
    if (!stir_clocks_open(stir, vcpus))
        return false;
    stir->n_clocks = vcpus->n;
    for (unsigned i = 0; i < stir->n_clocks; i++)
        g_unix_fd_add_full(G_PRIORITY_HIGH, stir->clocks[i], G_IO_IN, stir_clock_ran, stir, NULL);
    return true;
}

void
stir_arm(Stir *stir, const VcpuSet *vcpus)
{
    uint64_t stale;

    stir_stop_clocks(stir);
    if (read(stir->eventfd, &stale, sizeof stale) < 0 && errno != EAGAIN)
        g_debug("stirring: %s", g_strerror(errno));
    g_atomic_int_set(&stir->armed, 1);
    /* After a guest reset there is a client that has said HELLO to an earlier life of the process. */
    if (!stir_possible(stir, vcpus))
        stir_now(stir);
    for (unsigned i = 0; i < stir->n_clocks; i++) {
        if (task_clock_start(stir->clocks[i], STIR_CPU_NS) < 0)
            stir_now(stir);
    }
    stir->counting = true;
}

void
stir_disarm(Stir *stir)
{
    g_atomic_int_set(&stir->armed, 0);
    stir_stop_clocks(stir);
}
