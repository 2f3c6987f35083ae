/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Colours: how the frames inside a district become part of a consistent cut.
 *
 * Theory of operation (after Chandy and Lamport 1985, and Lai and Yang 1987)
 *
 * The colour of a port is the number of the last cut its member has undergone; a frame has the
 * colour its sender's port had when it was read. During cut N there are members that have been cut
 * (colour N) and members that have not (a lower colour). Two rules make the cut consistent:
 *
 *  - From CutBegin until a member is cut, nothing is delivered to it. So whatever it has received
 *    by then it has received from members that had not been cut when they sent it, and no frame
 *    lies in its socket that its state does not account for. Frames for it wait in its queue.
 *  - A frame of a lower colour than N that has not been delivered when its receiver is cut is in
 *    flight at the cut. It is recorded, and delivered too.
 *
 * At CutMember the member has stopped, and all that it sent is in its socket; that is read first
 * and still has the old colour. Hence once all members are cut, no frame of the old colour is
 * missing. No member waits for another: it runs on as soon as it has itself been cut.
 *
 * A frame of which the receiver has read only a part is in flight. The record holds it whole; the
 * engine saves no partial frame. A frame of which the sender has written only a part is read when
 * its rest comes, in the new colour; the engine saves it as not yet sent.
 *
 * Frames from the outside have no colour and are never part of a cut: to a restored guest they are
 * lost on the way. A cut that is not completed (CutAbort, its client gone, 5 s over) leaves colours
 * as they are, which is no matter: they only ever grow, and epochs are never reused.
 */
#include "netproxy/switch-priv.h"

#include "common/clock.h"

#define CUT_TIME_MAX_NS (5 * NS_PER_S)

guint64
switch_cut_epoch(const Switch *sw)
{
    return sw->cut.epoch;
}

gboolean
cut_may_deliver(const Switch *sw, const Port *port)
{
    return !sw->cut.epoch || !port_is_member(sw, port) || port->colour == sw->cut.epoch;
}

/* frame, in the queue of a member that has been cut, was sent before its sender was. */
static gboolean
cut_in_flight(const Switch *sw, const Frame *frame)
{
    return frame->colour != FRAME_COLOUR_NONE && frame->colour < sw->cut.epoch;
}

static void
cut_record(Switch *sw, Port *port, Frame *frame)
{
    /* Past the limit the frame is lost on the way, as a frame may be. */
    if (sw->recorded_bytes + frame->len > CUT_RECORDED_BYTES_MAX)
        return;
    if (frame_queue_push(&port->recorded, frame))
        sw->recorded_bytes += frame->len;
}

void
cut_note_queued(Switch *sw, Port *port, Frame *frame)
{
    if (sw->cut.epoch && port_is_member(sw, port) && port->colour == sw->cut.epoch &&
        cut_in_flight(sw, frame))
        cut_record(sw, port, frame);
}

static gboolean
cut_check(const Switch *sw, guint64 epoch, GError **error)
{
    if (epoch != 0 && sw->cut.epoch == epoch)
        return TRUE;
    g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                "no cut of epoch %" G_GUINT64_FORMAT " is under way: begin it (again)", epoch);
    return FALSE;
}

/* The cut is over, one way or the other: deliver everything. */
static void
cut_finish(Switch *sw)
{
    for (guint i = 0; i < sw->n_members; i++)
        frame_queue_clear(&sw->ports[i].recorded);
    sw->recorded_bytes = 0;
    sw->cut.epoch = 0;
}

void
cut_abandon(Switch *sw, const char *why)
{
    if (!sw->cut.epoch)
        return;
    g_warning("cut of epoch %" G_GUINT64_FORMAT " abandoned: %s", sw->cut.epoch, why);
    cut_finish(sw);
}

gboolean
switch_cut_begin(Switch *sw, guint64 epoch, GError **error)
{
    if (sw->cut.epoch) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                    "the cut of epoch %" G_GUINT64_FORMAT " is still under way: end or abort it",
                    sw->cut.epoch);
        return FALSE;
    }
    if (epoch <= sw->epoch_begun || epoch >= FRAME_COLOUR_NONE - 1) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                    "epoch %" G_GUINT64_FORMAT " cannot follow epoch %" G_GUINT64_FORMAT
                    ": numbers only grow",
                    epoch, sw->epoch_begun);
        return FALSE;
    }
    sw->epoch_begun = epoch;
    sw->cut = (Cut){.epoch = epoch, .deadline_ns = sw->now_ns + CUT_TIME_MAX_NS};
    return TRUE;
}

gboolean
switch_cut_member(Switch *sw, guint64 epoch, const char *member, GError **error)
{
    if (!cut_check(sw, epoch, error))
        return FALSE;
    Port *port = switch_member(sw, member, error);
    if (!port)
        return FALSE;
    if (port->colour == epoch) {
        g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                    "member %s has already been cut for epoch %" G_GUINT64_FORMAT, member, epoch);
        return FALSE;
    }
    if (!switch_drain(sw, port, error))
        return FALSE;
    for (GList *l = port->queue.frames.head; l; l = l->next) {
        if (cut_in_flight(sw, l->data))
            cut_record(sw, port, l->data);
    }
    port->colour = epoch;
    return TRUE;
}

gboolean
switch_cut_end(Switch *sw, guint64 epoch, guint8 **state, gsize *state_len, GError **error)
{
    if (!cut_check(sw, epoch, error))
        return FALSE;
    for (guint i = 0; i < sw->n_members; i++) {
        if (sw->ports[i].colour != epoch) {
            g_set_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED,
                        "member %s has not been cut for epoch %" G_GUINT64_FORMAT
                        ": cut it, or abort the cut",
                        sw->ports[i].name, epoch);
            return FALSE;
        }
    }
    *state = netstate_save(sw, epoch, state_len);
    if (sw->epoch_first == 0)
        sw->epoch_first = epoch;
    sw->epoch_ended = epoch;
    cut_finish(sw);
    return TRUE;
}

gboolean
switch_cut_abort(Switch *sw, guint64 epoch, GError **error)
{
    if (!cut_check(sw, epoch, error))
        return FALSE;
    cut_finish(sw);
    return TRUE;
}
