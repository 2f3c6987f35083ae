/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Client of district-net's control protocol (common/proto/net.proto). Used by the coordinator
 * thread only. A NetCtl without a path (--net none) succeeds at everything and has an empty state:
 * for districts that have no network.
 */
#ifndef DISTRICT_CKPT_NETCTL_H
#define DISTRICT_CKPT_NETCTL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define NET_CALL_TIMEOUT_MS 5000
#define NET_STATE_BYTES_MAX (32u * 1024 * 1024)

typedef struct NetCtl NetCtl;

/* path NULL: no network. Does not connect. */
NetCtl *netctl_new(const char *path);
void netctl_free(NetCtl *net);

/* Connect, retrying for timeout_ms. After any call has failed for want of a connection,
 * netctl_connected says false and this may be called again. */
gboolean netctl_connect(NetCtl *net, int timeout_ms, GError **error);
bool netctl_connected(const NetCtl *net);
/* Notice a district-net that has gone while nothing was asked of it. Does not block. */
void netctl_check(NetCtl *net);

gboolean netctl_cut_begin(NetCtl *net, uint64_t cut, GError **error);
/* Split in two so that the caller can copy pages while district-net drains the port. */
gboolean netctl_cut_member_send(NetCtl *net, uint64_t cut, const char *member, GError **error);
gboolean netctl_cut_member_wait(NetCtl *net, GError **error);
/* *state: the network's state at the cut, caller frees with g_byte_array_unref. */
gboolean netctl_cut_end(NetCtl *net, uint64_t cut, GByteArray **state, GError **error);
gboolean netctl_cut_abort(NetCtl *net, uint64_t cut, GError **error);
gboolean netctl_commit(NetCtl *net, uint64_t cut, GError **error);
gboolean netctl_restore(NetCtl *net, const void *state, size_t len, bool reset_crossing,
                        uint64_t incarnation, GError **error);
gboolean netctl_announce(NetCtl *net, GError **error);
gboolean netctl_mode(NetCtl *net, bool output_commit, bool protect, GError **error);

#endif
