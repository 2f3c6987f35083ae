/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the coordinator measures: a distribution of each since the beginning, and one of recent times
 * for those who watch.
 *
 * Recent is: in windows of MEASURE_WINDOW_NS, the one before and the one now. So it covers the last 5
 * to 10 s, whoever asks and however often; two that ask at different rates do not disturb each other,
 * as they would if each question began a new window.
 */
#ifndef DISTRICT_CKPT_STATS_H
#define DISTRICT_CKPT_STATS_H

#include "ckpt/histogram.h"

#define MEASURE_WINDOW_NS INT64_C(5000000000)

/* All zero is a valid empty measure. Owned by one thread. */
typedef struct Measure {
    Histogram all;
    Histogram windows[2];
    unsigned window;   /* the one now */
    int64_t window_ns; /* when it began */
    uint64_t last;     /* sample */
} Measure;

/* now: CLOCK_MONOTONIC, never less than before. */
void measure_add(Measure *measure, uint64_t value, int64_t now);
/* Of what has been added since about MEASURE_WINDOW_NS before now, and at most twice that. */
Percentiles measure_recent(Measure *measure, int64_t now);

/* What is measured. Durations in nanoseconds, but for MEASURE_RESIDUE_PAGES. */
typedef enum {
    /* The phases of a pause, per member, in their order: they add up to MEASURE_PAUSE. */
    MEASURE_KICK,    /* asked until all vCPUs are out of the guest */
    MEASURE_DEVICES, /* until devices are at rest */
    MEASURE_SAVE,    /* until the engine has saved its state */
    MEASURE_HARVEST, /* until it has told of the pages dirtied last */
    MEASURE_REPLY,   /* until its answer is taken in: the way here, and the members before it */
    MEASURE_RESIDUE, /* copying those pages */
    MEASURE_STATE,   /* copying the state, and colouring the port at district-net */
    MEASURE_RESUME,  /* from the request to go on until the vCPUs are started */
    MEASURE_PHASES,  /* how many */
    /* Each pause as a whole, and what was copied in it. */
    MEASURE_PAUSE = MEASURE_PHASES,
    MEASURE_RESIDUE_PAGES,
    /* Each cut, of all members. */
    MEASURE_SKEW,     /* first member asked to last member asked, as they noticed it */
    MEASURE_INTERVAL, /* to the next one */
    MEASURE_PRECUT,   /* the harvests just before it, while guests run */
    /* Each epoch of a stream, but for full copies. */
    MEASURE_ENCODE, /* by the workers, added up */
    MEASURE_SEND,   /* writing its records, added up */
    MEASURE_COMMIT, /* from its cut to the standby's acknowledgement */
    MEASURES,
} MeasureKind;

/* "kick_ns" and so on: as in JSON. */
const char *measure_name(MeasureKind kind);

#endif
