/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lazy restore: the guest runs before its RAM is there. The client (district-ckpt) holds a duplicate
 * of our userfaultfd and puts pages in place, those first that somebody waits for.
 *
 * The descriptor stays open here too. So when the client is killed, whoever touches a page that is
 * not there goes on waiting, for the next client, instead of finding zeros. ioctl_userfaultfd(2).
 *
 * It may be the main thread that waits, so that nobody answers the next client's HELLO. So while the
 * guest runs, a thread that touches no guest memory passes the descriptor to whoever connects to a
 * socket of its own.
 */
#ifndef DISTRICT_VMM_LAZY_RAM_H
#define DISTRICT_VMM_LAZY_RAM_H

#include "vmm/machine_priv.h"

/*
 * Take ram_fd, an empty memfd, as guest RAM that will be filled in. An error of code
 * MACHINE_ERROR_CONFIG has changed nothing, and ram_fd is still the caller's; after any other the
 * machine is unusable.
 */
gboolean lazy_ram_begin(Machine *m, int ram_fd, GError **error);

/* Does this host let us? */
bool lazy_ram_possible(void);

/* For machine_ram_attach: RAM has been mapped, and nothing has looked at it yet. */
gboolean lazy_ram_register(Machine *m, GError **error);

/* The guest is about to run: from now on whoever connects to a socket beside member_socket is sent a
 * MemberLazyReply. Does nothing if RAM is not being filled in, or this has been done. */
void lazy_ram_share(Machine *m, const char *member_socket);
/* It is not, any more. */
void lazy_ram_unshare(Machine *m);

/* All pages that are not zero are there. */
gboolean lazy_ram_end(Machine *m, GError **error);

#endif
