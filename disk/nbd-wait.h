/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connecting to qemu-nbd on a unix socket, with a time limit: for block-nbd.c and home.c. */
#ifndef DISTRICT_DISK_NBD_WAIT_H
#define DISTRICT_DISK_NBD_WAIT_H

#include <glib.h>
#include <libnbd.h>
#include <stdbool.h>

/*
 * Connect to socket and go through the handshake, until *limit_us (CLOCK_MONOTONIC as of
 * g_get_monotonic_time). keep_on: asked between tries while nobody listens there yet; NULL: then it
 * fails at once. NULL with error set. name: for messages.
 */
struct nbd_handle *nbd_wait_connect(const char *name, const char *socket, gint64 limit_us,
                                    bool (*keep_on)(void *opaque), void *opaque, GError **error);

/* Let the handle work for a while, at most until limit_us. False: the connection is lost, or the
 * time is up. */
bool nbd_wait_turn(struct nbd_handle *nbd, gint64 limit_us);

#endif
