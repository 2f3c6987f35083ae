/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The virtual switch of one district: a port for each member and one for the outside.
 *
 * All calls are made by one thread and none of them waits. Ports are numbered: members in the order
 * given at switch_new(), then the outside. The caller runs the event loop: it learns through
 * SwitchWatchFunc which descriptors to poll, and reports what happens to them.
 */
#ifndef DISTRICT_NETPROXY_SWITCH_H
#define DISTRICT_NETPROXY_SWITCH_H

#include "netproxy/link.h"
#include "net.pb-c.h"

typedef struct Switch Switch;

typedef enum {
    SWITCH_ERROR_REFUSED, /* not legal now, or numbers do not fit */
    SWITCH_ERROR_STATE,   /* a saved state that cannot be loaded */
} SwitchError;

#define SWITCH_ERROR (switch_error_quark())
GQuark switch_error_quark(void);

/* Poll fd of port for input and output as told; neither: forget it, it is about to be closed. */
typedef void (*SwitchWatchFunc)(void *opaque, guint port, int fd, gboolean input, gboolean output);

/* names: NULL-terminated, the members. watch may be NULL. */
Switch *switch_new(const char *const *names, guint64 incarnation, SwitchWatchFunc watch,
                   void *opaque);
void switch_free(Switch *sw);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Switch, switch_free)

guint switch_outside_port(const Switch *sw);

/* --- Connections --- */

/* fd is the connection of port from now on; it becomes the switch's. An earlier one is closed. */
void switch_attach(Switch *sw, guint port, LinkKind kind, int fd);
/* fd of port is readable or writable. Frames are queued, not sent: see switch_flush(). */
void switch_readable(Switch *sw, guint port);
void switch_writable(Switch *sw, guint port);
/* Send what is queued and may be sent. Call after each round of events. */
void switch_flush(Switch *sw);

/* Set the switch's clock (CLOCK_MONOTONIC, ns) and do what is due. Call before each round. */
void switch_tick(Switch *sw, gint64 now_ns);
/* When switch_tick() is next needed; G_MAXINT64: not at all. */
gint64 switch_deadline(const Switch *sw);

/* --- Cuts (cut.c) and output (boundary.c); common/proto/net.proto has the meaning --- */

gboolean switch_cut_begin(Switch *sw, guint64 epoch, GError **error);
gboolean switch_cut_member(Switch *sw, guint64 epoch, const char *member, GError **error);
/* *state: the packed NetState (netstate.proto) of the cut, the caller's to free. */
gboolean switch_cut_end(Switch *sw, guint64 epoch, guint8 **state, gsize *state_len,
                        GError **error);
gboolean switch_cut_abort(Switch *sw, guint64 epoch, GError **error);
/* Epoch of the cut under way, 0: none. */
guint64 switch_cut_epoch(const Switch *sw);

gboolean switch_commit(Switch *sw, guint64 epoch, GError **error);
void switch_set_mode(Switch *sw, gboolean output_commit, gboolean protected);

/* Load a state (netstate.c). FALSE: nothing was changed. */
gboolean switch_restore(Switch *sw, const guint8 *state, gsize state_len, gboolean reset_crossing,
                        guint64 incarnation, GError **error);
/*
 * After a restore with reset_crossing, before members send: reset the connections too that only the
 * life that is undone knew, data being from its switch_save_flows(). FALSE: nothing was changed.
 */
gboolean switch_reset_flows(Switch *sw, const guint8 *data, gsize len, GError **error);
/* The connections that cross now, as a packed NetState; the caller's to free. */
guint8 *switch_save_flows(Switch *sw, gsize *len);
void switch_announce(Switch *sw);

/* Fill a reply; free with switch_stats_clear(). */
void switch_stats(const Switch *sw, District__NetStatsReply *stats);
void switch_stats_clear(District__NetStatsReply *stats);

#endif
