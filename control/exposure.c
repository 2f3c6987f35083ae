/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a standby knows of its home's output. */
#include "control/exposure.h"
#include "common/clock.h"

/* Two hosts measure the same silence; be sure to be on the side of resetting. */
#define MARGIN_NS (500 * NS_PER_MS)
/* The home counts on from the break before until it has our acknowledgement. */
#define ACK_NS (500 * NS_PER_MS)
/* A host that was heard so shortly before the stream ended was alive. */
#define ALIVE_NS (1 * NS_PER_S)
/* What a district-ckpt that died had held, its successor holds for so long (docs/protocol.md). */
#define ORPHAN_HOLD_NS (3 * NS_PER_S)

void
exposure_silent(Exposure *exposure, int64_t heard_ns)
{
    if (exposure->synced_ns != 0 && heard_ns - exposure->synced_ns >= ACK_NS) {
        exposure->since_ns = heard_ns;
        exposure->closed = FALSE;
    }
    exposure->synced_ns = 0;
    exposure->epochs = 0;
}

void
exposure_lost(Exposure *exposure, int64_t heard_ns, int64_t now_ns)
{
    gboolean committed = exposure->synced_ns != 0;

    exposure_silent(exposure, heard_ns);
    exposure->closed |= committed && now_ns - heard_ns < ALIVE_NS;
    exposure->copying = FALSE;
}

void
exposure_begun(Exposure *exposure, int64_t heard_ns)
{
    exposure_silent(exposure, heard_ns);
    exposure->copying = TRUE;
}

void
exposure_synced(Exposure *exposure, int64_t now_ns)
{
    exposure->copying = FALSE;
    if (exposure->synced_ns == 0)
        exposure->synced_ns = now_ns;
}

/* Only a stream that is up commits; and a break forgets what streams before it had committed. */
void
exposure_look(Exposure *exposure, gboolean connected, uint64_t epochs, int64_t now_ns)
{
    if (connected && exposure->epochs != 0 && epochs + 1 > exposure->epochs)
        exposure_synced(exposure, now_ns);
    exposure->epochs = connected ? epochs + 1 : 0;
}

gboolean
exposure_must_reset(const Exposure *exposure, int64_t heard_ns, int64_t now_ns,
                    uint32_t detach_after_ms)
{
    int64_t patience = detach_after_ms * NS_PER_MS;
    Exposure then = *exposure;

    if (exposure->copying)
        return TRUE; /* what is here may be long out of date */
    exposure_silent(&then, heard_ns);
    if (then.closed)
        patience = MIN(patience, ORPHAN_HOLD_NS);
    return now_ns - then.since_ns >= patience - MARGIN_NS;
}
