/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Urgent threads: while guests stand still, those that they wait for go before all else (SCHED_FIFO,
 * sched(7)). On a host with more to do than it has CPUs, each of them would otherwise wait for its
 * turn, some ms long, several times in a pause.
 *
 * Only for stretches that are short by themselves. Where it is not allowed (CAP_SYS_NICE,
 * RLIMIT_RTPRIO) nothing happens.
 */
#ifndef DISTRICT_COMMON_URGENT_H
#define DISTRICT_COMMON_URGENT_H

#include <stdbool.h>
#include <sys/types.h>

/* Thread tid (gettid(2)) of this process, 0: the caller, is urgent or is not any more. */
void urgent_set(pid_t tid, bool urgent);

#endif
