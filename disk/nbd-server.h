/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A qemu-nbd of our own, which serves one image on a unix socket and ends with this process. */
#ifndef DISTRICT_DISK_NBD_SERVER_H
#define DISTRICT_DISK_NBD_SERVER_H

#include "disk/block.h"

#include <libnbd.h>

typedef struct NbdServer NbdServer;

/*
 * Start it for the image at path, connect (*nbd: the caller's, connected and through the handshake)
 * and log what it says from then on, from the main context of this thread. It ends with this thread.
 * NULL with error set, after 10 s at the latest.
 */
NbdServer *nbd_server_start(const char *path, const char *format, BlockMode mode,
                            const char *socket_dir, struct nbd_handle **nbd, GError **error);
/* End it: the image is closed in order, and free for others when this returns. */
void nbd_server_stop(NbdServer *server);

/* Path of its socket. */
const char *nbd_server_socket(const NbdServer *server);

#endif
