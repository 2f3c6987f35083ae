/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a standby knows of its home's output: may some have left the boundary that is not in what is
 * committed here? Then a take-over must reset crossing connections, output commit or not.
 *
 * The home releases held output when it has had no commit for DetachAfter, and goes on doing so
 * until the cut that completes a full copy to a new stream. So what counts is not whether there is
 * a stream but whether that has committed. All times are CLOCK_MONOTONIC.
 */
#ifndef DISTRICT_CONTROL_EXPOSURE_H
#define DISTRICT_CONTROL_EXPOSURE_H

#include <glib.h>
#include <stdint.h>

/* All zero: nothing is known, so the worst is assumed. */
typedef struct Exposure {
    int64_t since_ns;  /* the home was last heard before it had to do without commits */
    int64_t synced_ns; /* since when the stream commits; 0: it has not, or may be over */
    gboolean closed;   /* it was ended by a host that lived, perhaps by losing district-ckpt */
    gboolean copying;  /* a new stream is up and has not committed yet */
    uint64_t epochs;   /* committed by all streams when last looked at, plus one; 0: not known */
} Exposure;

/* The stream is silent, or was ended by this side; the home was last heard at heard_ns. */
void exposure_silent(Exposure *exposure, int64_t heard_ns);
/* The stream was ended, by the home or because it was silent for too long. */
void exposure_lost(Exposure *exposure, int64_t heard_ns, int64_t now_ns);
/* A new stream begins. */
void exposure_begun(Exposure *exposure, int64_t heard_ns);
/* The stream has committed its first epoch. */
void exposure_synced(Exposure *exposure, int64_t now_ns);
/* A look at the standby: is a stream up, and how many epochs have all of them committed? */
void exposure_look(Exposure *exposure, gboolean connected, uint64_t epochs, int64_t now_ns);
/* heard_ns: when the home was last heard. */
gboolean exposure_must_reset(const Exposure *exposure, int64_t heard_ns, int64_t now_ns,
                             uint32_t detach_after_ms);

#endif
