/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Urgent threads. */
#include "common/urgent.h"

#include <errno.h>
#include <sched.h>

/* Threads that an urgent one starts are not. */
#define POLICY_URGENT (SCHED_FIFO | SCHED_RESET_ON_FORK)
#define PRIORITY_URGENT 1

void
urgent_set(pid_t tid, bool urgent)
{
    static bool refused; /* set once, by whatever thread */
    struct sched_param param = {.sched_priority = urgent ? PRIORITY_URGENT : 0};

    if (__atomic_load_n(&refused, __ATOMIC_RELAXED))
        return;
    if (sched_setscheduler(tid, urgent ? POLICY_URGENT : SCHED_OTHER, &param) < 0 && errno == EPERM)
        __atomic_store_n(&refused, true, __ATOMIC_RELAXED);
}
