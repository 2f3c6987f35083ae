/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources of epochs for bench-encode: made up by a pattern, or recorded from a guest. */
#ifndef DISTRICT_BENCH_EPOCHS_H
#define DISTRICT_BENCH_EPOCHS_H

#include "ckpt/encode.h"

/* Pages of one epoch: of one image after the other, in ascending order. */
typedef struct BenchPage {
    uint32_t image;
    PageRef ref;
} BenchPage;

typedef struct EpochSource EpochSource;
struct EpochSource {
    uint32_t n_images;
    uint64_t *n_pages_of;
    /* The next epoch's pages into *pages (of BenchPage, empty); their data lives until the next call.
     * FALSE: there is none (error not set) or it cannot be read (error set). The first one is what
     * the reader starts from. */
    gboolean (*next)(EpochSource *source, GArray *pages, GError **error);
    void (*free)(EpochSource *source);
};

/* Names of the patterns, NULL-terminated. */
extern const char *const pattern_names[];

/* RAM of ram_pages for each of members, dirty pages of each in every epoch. NULL: no such pattern. */
EpochSource *pattern_source_new(const char *name, uint32_t members, uint64_t ram_pages,
                                uint64_t dirty);

/* Checkpoint files of dir in the order of their names: one epoch each, the first one full, as a
 * store or tests that record a guest leave them (docs/format.md). Their disks are left out. */
EpochSource *trace_source_new(const char *dir, GError **error);

#endif
