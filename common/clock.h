/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clocks in nanoseconds. */
#ifndef DISTRICT_COMMON_CLOCK_H
#define DISTRICT_COMMON_CLOCK_H

#include <stdint.h>

#define NS_PER_US 1000LL
#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL

/* CLOCK_MONOTONIC, nanoseconds. Comparable between processes of one host. */
int64_t clock_monotonic_ns(void);

/* CLOCK_REALTIME, nanoseconds since 1970. */
int64_t clock_realtime_ns(void);

#endif
