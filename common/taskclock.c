/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A clock of the CPU time of a thread. */
#include "common/taskclock.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int
task_clock_open(pid_t tid, uint64_t period_ns)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof attr,
                                   .config = PERF_COUNT_SW_TASK_CLOCK,
                                   .sample_period = period_ns,
                                   .wakeup_events = 1,
                                   .disabled = 1};
    size_t ring = 2 * (size_t)sysconf(_SC_PAGESIZE);
    int fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);

    /* Without a ring it never becomes readable. Mapped read-only it is overwritten, and never full. The
     * mapping keeps the clock: both last until the process ends. */
    if (fd < 0 || mmap(NULL, ring, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

int
task_clock_start(int fd, uint64_t period_ns)
{
    /* To set the period is to begin a new one: what is left of the last one would be gone on with. */
    if (ioctl(fd, PERF_EVENT_IOC_PERIOD, &period_ns) < 0)
        return -1;
    return ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
}

void
task_clock_stop(int fd)
{
    ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
}
