/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Measures: since the beginning and recently. */
#include "ckpt/stats.h"

#include <glib.h>

static const char *const names[MEASURES] = {
    [MEASURE_KICK] = "kick_ns",     [MEASURE_DEVICES] = "devices_ns",
    [MEASURE_SAVE] = "save_ns",     [MEASURE_HARVEST] = "harvest_ns",
    [MEASURE_REPLY] = "reply_ns",   [MEASURE_RESIDUE] = "residue_ns",
    [MEASURE_STATE] = "state_ns",   [MEASURE_RESUME] = "resume_ns",
    [MEASURE_PAUSE] = "pause_ns",   [MEASURE_RESIDUE_PAGES] = "residue_pages",
    [MEASURE_SKEW] = "skew_ns",     [MEASURE_INTERVAL] = "interval_ns",
    [MEASURE_PRECUT] = "precut_ns", [MEASURE_ENCODE] = "encode_ns",
    [MEASURE_SEND] = "send_ns",     [MEASURE_COMMIT] = "commit_ns",
};

const char *
measure_name(MeasureKind kind)
{
    return names[kind];
}

/* Begin a new window if it is time to. */
static void
measure_roll(Measure *measure, int64_t now)
{
    int64_t age = now - measure->window_ns;

    if (age < MEASURE_WINDOW_NS)
        return;
    measure->window = 1 - measure->window;
    histogram_clear(&measure->windows[measure->window]);
    measure->window_ns += MEASURE_WINDOW_NS;
    if (age < 2 * MEASURE_WINDOW_NS)
        return;
    /* Nothing for so long: what is left is old as well. */
    histogram_clear(&measure->windows[1 - measure->window]);
    measure->window_ns = now;
}

void
measure_add(Measure *measure, uint64_t value, int64_t now)
{
    measure_roll(measure, now);
    histogram_add(&measure->all, value);
    histogram_add(&measure->windows[measure->window], value);
    measure->last = value;
}

Percentiles
measure_recent(Measure *measure, int64_t now)
{
    measure_roll(measure, now);
    Histogram sum = measure->windows[measure->window];

    histogram_merge(&sum, &measure->windows[1 - measure->window]);
    return histogram_percentiles(&sum);
}
