/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pinning a checkpoint for someone who reads it. The writer thread does it, between its slices of
 * merging, so that none is under way; before there is one nothing is merged.
 */
#include "ckpt/durable-internal.h"

#include "ckpt/control-server.h"

static gboolean
pin_hold(Durable *d, const District__CkptPinRequest *want, GError **error)
{
    if (!ckpt_store_pin(d->store, want->checkpoint_id, want->owner, error))
        return FALSE;
    if (durable_flush_homes(d, error))
        return TRUE;
    ckpt_store_unpin(d->store, want->checkpoint_id, want->owner, NULL);
    return FALSE;
}

static void
pin_do(Durable *d, ControlRequest *request)
{
    const District__CkptPinRequest *want = request->message->pin;
    g_autoptr(GError) error = NULL;

    if (want->release ? ckpt_store_unpin(d->store, want->checkpoint_id, want->owner, &error)
                      : pin_hold(d, want, &error))
        control_request_ok(request);
    else
        control_request_error(request, "district %s: %s", d->district, error->message);
}

void
durable_pin(Durable *d, ControlRequest *request)
{
    if (d->writer == NULL) {
        pin_do(d, request);
        return;
    }
    g_mutex_lock(&d->lock);
    g_queue_push_tail(&d->pins, request);
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
}

bool
durable_do_pin(Durable *d)
{
    g_mutex_lock(&d->lock);
    ControlRequest *request = g_queue_pop_head(&d->pins);
    g_mutex_unlock(&d->lock);
    if (request != NULL)
        pin_do(d, request);
    return request != NULL;
}

void
durable_refuse_pins(Durable *d)
{
    while (!g_queue_is_empty(&d->pins))
        control_request_error(g_queue_pop_head(&d->pins),
                              "district %s: district-ckpt ends: try again", d->district);
}
