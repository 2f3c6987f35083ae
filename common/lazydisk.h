/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What engine and district-ckpt share of an overlay whose data is still being read from the store: for
 * each place of the data file that was given out before the guest ran, whether its data is there, and
 * whether somebody waits for it. A place is put once and never taken back.
 *
 * A sealed memfd and two eventfds, by which either side wakes the other: the engine when it waits for
 * a place, district-ckpt when a place that is waited for is there. So whoever comes after a
 * district-ckpt that was killed finds all there is to know.
 *
 * The engine trusts what it is told of places that are there. Neither trusts the numbers.
 */
#ifndef DISTRICT_COMMON_LAZYDISK_H
#define DISTRICT_COMMON_LAZYDISK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Descriptors, in this order: the memfd, the one that wakes district-ckpt, the one that wakes the
 * engine. */
#define LAZYDISK_FDS 3

typedef struct LazyDisk LazyDisk;

/* block[i] is the block of the disk at place i. NULL with error set. */
LazyDisk *lazydisk_new(const uint64_t *blocks, uint64_t places, GError **error);
/* From the other side; fds are duplicated. NULL with error set: they are not what they should be. */
LazyDisk *lazydisk_open(const int fds[LAZYDISK_FDS], GError **error);
void lazydisk_free(LazyDisk *lazy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LazyDisk, lazydisk_free)

/* They stay its own. */
const int *lazydisk_fds(const LazyDisk *lazy);
uint64_t lazydisk_places(const LazyDisk *lazy);
/* In range; of any value. */
uint64_t lazydisk_block(const LazyDisk *lazy, uint64_t place);

/* Is the data of these places there? Those beyond lazydisk_places always are. Any thread. */
bool lazydisk_has(const LazyDisk *lazy, uint64_t first, uint64_t count);

/* The engine: wait for them. TRUE: they are there already. */
bool lazydisk_want(LazyDisk *lazy, uint64_t first, uint64_t count);
/* All places are there, and nothing will be put any more. */
bool lazydisk_done(const LazyDisk *lazy);
/* The eventfd of this side has been readable. */
void lazydisk_woken(const LazyDisk *lazy, bool engine);

/* district-ckpt: the next place from *from on that is waited for and not there. FALSE: none. */
bool lazydisk_wanted(const LazyDisk *lazy, uint64_t *from);
/* The data of a place is in the file. */
void lazydisk_put(LazyDisk *lazy, uint64_t place);
void lazydisk_finish(LazyDisk *lazy);

#endif
