/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control server's requests. */
#include "netproxy/control.h"

#include "common/clock.h"
#include "common/memfd.h"
#include "common/urgent.h"

#include <sys/mman.h>

/* The longest for one cut. */
#define URGENT_NS (10 * NS_PER_MS)

static gboolean
control_refuse(GError **error, const char *why)
{
    g_set_error_literal(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED, why);
    return FALSE;
}

static void
control_hurry(Control *control, gint64 until_ns)
{
    if ((control->urgent_until_ns != 0) != (until_ns != 0))
        urgent_set(0, until_ns != 0);
    control->urgent_until_ns = until_ns;
}

void
control_tick(Control *control, gint64 now_ns)
{
    if (now_ns > control->urgent_until_ns)
        control_hurry(control, 0);
}

static gboolean
control_cut_begin(Control *control, int client, guint64 epoch, GError **error)
{
    if (!switch_cut_begin(control->sw, epoch, error))
        return FALSE;
    control->cutter = client;
    control_hurry(control, clock_monotonic_ns() + URGENT_NS);
    return TRUE;
}

/* Reply with a packed state in a memfd. */
static gboolean
control_reply_state(const guint8 *state, gsize len, District__NetReply *reply, int *reply_fd,
                    GError **error)
{
    *reply_fd = memfd_from_data("district-net-state", state, len, error);
    if (*reply_fd < 0)
        return FALSE;
    reply->cut_end = g_new(District__NetCutEndReply, 1);
    district__net_cut_end_reply__init(reply->cut_end);
    reply->cut_end->state_len = len;
    return TRUE;
}

static gboolean
control_cut_end(Control *control, guint64 epoch, District__NetReply *reply, int *reply_fd,
                GError **error)
{
    g_autofree guint8 *state = NULL;
    gsize len;

    control_hurry(control, 0);
    return switch_cut_end(control->sw, epoch, &state, &len, error) &&
           control_reply_state(state, len, reply, reply_fd, error);
}

/* The state is copied before it is looked at: whoever sent the memfd can still write to it. */
static guint8 *
control_copy_state(int fd, guint64 len, GError **error)
{
    if (!memfd_check(fd, 0, "network state", error))
        return NULL;
    if (len == 0 || len > memfd_size(fd)) {
        control_refuse(error, "network state: its length does not fit its memfd");
        return NULL;
    }
    void *map = memfd_map(fd, len, FALSE, error);
    if (!map)
        return NULL;
    guint8 *copy = g_memdup2(map, len);
    munmap(map, len);
    return copy;
}

static gboolean
control_restore(Control *control, const District__NetRestoreRequest *request, const int *fds,
                guint n_fds, GError **error)
{
    g_autofree guint8 *state = NULL;
    g_autoptr(GError) why = NULL;

    if (n_fds != 1)
        return control_refuse(error, "restore: one memfd must come with the request");
    state = control_copy_state(fds[0], request->state_len, error);
    if (!state || !switch_restore(control->sw, state, request->state_len, request->reset_crossing,
                                  request->incarnation, error))
        return FALSE;
    if (request->reset_crossing && control->undone &&
        !switch_reset_flows(control->sw, g_bytes_get_data(control->undone, NULL),
                            g_bytes_get_size(control->undone), &why))
        g_warning("connections made since the checkpoint are reset when they are heard of: %s",
                  why->message);
    return TRUE;
}

static void
control_stats(Control *control, District__NetReply *reply)
{
    reply->stats = g_new(District__NetStatsReply, 1);
    switch_stats(control->sw, reply->stats);
}

static gboolean
control_dispatch(Control *control, int client, const District__NetRequest *request, const int *fds,
                 guint n_fds, District__NetReply *reply, int *reply_fd, GError **error)
{
    Switch *sw = control->sw;

    switch (request->op_case) {
    case DISTRICT__NET_REQUEST__OP_CUT_BEGIN:
        return control_cut_begin(control, client, request->cut_begin->epoch, error);
    case DISTRICT__NET_REQUEST__OP_CUT_MEMBER:
        return switch_cut_member(sw, request->cut_member->epoch, request->cut_member->member,
                                 error);
    case DISTRICT__NET_REQUEST__OP_CUT_END:
        return control_cut_end(control, request->cut_end->epoch, reply, reply_fd, error);
    case DISTRICT__NET_REQUEST__OP_CUT_ABORT:
        return switch_cut_abort(sw, request->cut_abort->epoch, error);
    case DISTRICT__NET_REQUEST__OP_COMMIT:
        return switch_commit(sw, request->commit->epoch, error);
    case DISTRICT__NET_REQUEST__OP_RESTORE:
        return control_restore(control, request->restore, fds, n_fds, error);
    case DISTRICT__NET_REQUEST__OP_ANNOUNCE:
        switch_announce(sw);
        return TRUE;
    case DISTRICT__NET_REQUEST__OP_MODE:
        switch_set_mode(sw, request->mode->output_commit, request->mode->protected_);
        return TRUE;
    case DISTRICT__NET_REQUEST__OP_STATS:
        control_stats(control, reply);
        return TRUE;
    default:
        return control_refuse(error, "this district-net does not know the request: update it");
    }
}

void
control_handle(Control *control, int client, const District__NetRequest *request, const int *fds,
               guint n_fds, District__NetReply *reply, int *reply_fd)
{
    g_autoptr(GError) error = NULL;

    district__net_reply__init(reply);
    reply->id = request->id;
    *reply_fd = -1;
    /* An empty reply would be a packet of no bytes, which reads as the end of the connection. */
    if (request->id == 0)
        reply->error = g_strdup("request refused: its id must be 1 or more");
    else if (!control_dispatch(control, client, request, fds, n_fds, reply, reply_fd, &error))
        reply->error = g_strdup(error->message);
}

void
control_reply_clear(District__NetReply *reply)
{
    if (reply->error != (char *)protobuf_c_empty_string)
        g_free(reply->error);
    g_free(reply->cut_end);
    if (reply->stats)
        switch_stats_clear(reply->stats);
    g_free(reply->stats);
    district__net_reply__init(reply);
}

void
control_client_gone(Control *control, int client)
{
    if (control->cutter != client)
        return;
    control->cutter = -1;
    guint64 epoch = switch_cut_epoch(control->sw);
    if (epoch == 0)
        return;
    g_warning("cut of epoch %" G_GUINT64_FORMAT " abandoned: its client is gone", epoch);
    switch_cut_abort(control->sw, epoch, NULL);
}
