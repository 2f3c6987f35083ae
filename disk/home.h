/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A member's home image for district-ckpt: reading it for the first copy, and writing committed
 * blocks to it. Synchronous, for one thread at a time; several may have one home open. The engine
 * holds the image's lock on behalf of all of them, so none is taken here; when it has gone, a raw
 * image has none.
 *
 * Every wait for qemu-nbd has a limit. After it, or after any other failure of a connection, the
 * Home fails at every call and can only be closed; opening it anew may work.
 *
 * Ranges lie inside the home.
 */
#ifndef DISTRICT_DISK_HOME_H
#define DISTRICT_DISK_HOME_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Home Home;

/*
 * home: as in MemberDisk.home, "raw:PATH" or "nbd:SOCKET"; or "image:FORMAT:PATH" of one that no
 * engine has open: a qemu-nbd of our own does, as long as anybody here. bytes: size of the disk, which
 * the image must have. NULL with error set.
 */
Home *home_open(const char *home, uint64_t bytes, bool write, GError **error);
void home_close(Home *home);

gboolean home_read(Home *home, uint64_t offset, void *buf, size_t len, GError **error);
gboolean home_write(Home *home, uint64_t offset, const void *buf, size_t len, GError **error);
/* The range reads as zeros afterwards; its space may be given back. */
gboolean home_zero(Home *home, uint64_t offset, uint64_t len, GError **error);
/* All that was written is durable. */
gboolean home_flush(Home *home, GError **error);

/*
 * The first range at or after from that may have other content than zeros: [*start, *end). *start
 * is the size of the home if there is none. What has been written since the home was opened need not
 * be told: answers for a GiB ahead are kept.
 */
gboolean home_next_data(Home *home, uint64_t from, uint64_t *start, uint64_t *end, GError **error);

#endif
