/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting, pausing and resuming the machine. All on the main thread. */
#ifndef DISTRICT_VMM_LIFECYCLE_H
#define DISTRICT_VMM_LIFECYCLE_H

#include "vmm/machine_priv.h"

/* When each phase of a pause ended, CLOCK_MONOTONIC nanoseconds. */
typedef struct PauseTimes {
    int64_t requested_ns;
    int64_t vcpus_out_ns;
    int64_t devices_rest_ns;
    int64_t saved_ns;
    int64_t harvested_ns;
} PauseTimes;

typedef struct PauseResult {
    PauseTimes times;
    size_t state_len;
    uint64_t pages; /* of the last harvest */
} PauseResult;

/*
 * Bring the machine to rest; if state is not NULL save into it (capacity bytes); then harvest into
 * bits. A machine that is at rest already is saved and harvested as it is. On failure a machine
 * that was running runs again. An error is also given when the guest has just gone (exit_wanted).
 */
gboolean machine_pause(Machine *m, uint8_t *state, size_t capacity, uint64_t *bits,
                       PauseResult *result, GError **error);

/* The restore is done: it now is paused. */
void machine_restored(Machine *m);

/* Let it run; nothing to do if it does. */
gboolean machine_resume(Machine *m, GError **error);

/*
 * From the request to pause on the calling thread is urgent (common/urgent.h). To be called when a
 * request has been answered: it no longer is, unless the guest stands still.
 */
void machine_calm(Machine *m);

/* Bring it to rest for good: the guest has gone, or the process ends. Devices have flushed after.
 */
void machine_shut_down(Machine *m);

#endif
