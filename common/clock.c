/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clocks in nanoseconds. */
#include "common/clock.h"

#include <time.h>

static int64_t
clock_read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t
clock_monotonic_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

int64_t
clock_realtime_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}
