/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A clock of the CPU time that one thread uses, in the kernel and in guests too, that can be waited for:
 * perf_event_open(2), PERF_COUNT_SW_TASK_CLOCK.
 */
#ifndef DISTRICT_COMMON_TASKCLOCK_H
#define DISTRICT_COMMON_TASKCLOCK_H

#include <stdint.h>
#include <sys/types.h>

/*
 * A descriptor, stopped, close-on-exec, that becomes readable for poll(2) each time that thread tid (0: the
 * caller) has used period_ns while it was started; the kernel takes 10 us at least. -1 with errno: EACCES
 * without CAP_PERFMON where kernel.perf_event_paranoid is above 1.
 */
int task_clock_open(pid_t tid, uint64_t period_ns);

/* Start it with a whole period before it, whatever it has counted so far. 0, or -1 with errno. */
int task_clock_start(int fd, uint64_t period_ns);
void task_clock_stop(int fd);

#endif
