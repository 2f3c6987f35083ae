/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A home image in memory, whose requests end when the test says so, in any order, and fail as the
 * test wants.
 */
#ifndef DISTRICT_TESTS_DISK_FAKE_HOME_H
#define DISTRICT_TESTS_DISK_FAKE_HOME_H

#include "disk/block.h"

typedef struct FakeHome {
    BlockBackend backend;
    uint8_t *bytes;    /* the test's */
    GPtrArray *queue;  /* of requests that have not ended */
    guint auto_source; /* ends them by itself, while not held back */
    bool held;
    int error;               /* what requests end with; 0: they are done */
    unsigned reads, changes; /* done so far */
    unsigned flushes;
    bool *closed; /* set by close; may be NULL */
} FakeHome;

/* bytes: size of the image, which stays the test's. */
FakeHome *fake_home_new(uint8_t *bytes, uint64_t size);
/* Whether requests wait for fake_home_end. */
void fake_home_hold(FakeHome *home, bool held);
/* Requests that have not ended; end one of them (index below that). */
unsigned fake_home_waiting(const FakeHome *home);
void fake_home_end(FakeHome *home, unsigned index);

#endif
