/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A district-net without a network: it speaks the control protocol to one client at a time, notes
 * what it was told, and answers each kind of request as the test wants it.
 */
#ifndef DISTRICT_TESTS_FAKE_NET_H
#define DISTRICT_TESTS_FAKE_NET_H

#include "net.pb-c.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef District__NetRequest__OpCase FakeNetOp;

typedef enum {
    FAKE_NET_DO,       /* do it and say so */
    FAKE_NET_REFUSE,   /* answer with an error, change nothing */
    FAKE_NET_HANG,     /* change nothing, say nothing */
    FAKE_NET_NO_STATE, /* CutEnd: succeed, but without the state */
} FakeNetAnswer;

typedef struct FakeNet FakeNet;

FakeNet *fake_net_new(const char *path);
void fake_net_free(FakeNet *net);

/* How requests of a kind are answered from now on. */
void fake_net_answer(FakeNet *net, FakeNetOp op, FakeNetAnswer answer);

/* Requests of a kind that have come, however answered. */
unsigned fake_net_count(FakeNet *net, FakeNetOp op);
/* Does it hold output, by the last Mode that was done? */
bool fake_net_holds(FakeNet *net);
/* The last cut that was committed. */
uint64_t fake_net_committed(FakeNet *net);
/* Cuts begun while no output was held. */
unsigned fake_net_loose_cuts(FakeNet *net);

#endif
