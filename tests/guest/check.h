/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Host-side checker of the tiny guest: does the same work on a copy of the working set, and
 * compares what the guest printed, or what a RAM image holds, with what it must be.
 */
#ifndef DISTRICT_TESTS_GUEST_CHECK_H
#define DISTRICT_TESTS_GUEST_CHECK_H

#include "guest.h"

#include <glib.h>

typedef struct GuestChecker GuestChecker;

/* Guest RAM as it lies in memory here. high, the RAM from 4 GiB on, may be NULL. */
typedef struct GuestImage {
    const void *low;
    uint64_t low_bytes;
    const void *high;
    uint64_t high_bytes;
} GuestImage;

/* For a guest with this command line. NULL with error set if the guest would not take it. */
GuestChecker *guest_checker_new(const char *command_line, GError **error);
void guest_checker_free(GuestChecker *checker);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestChecker, guest_checker_free)

const GuestParams *guest_checker_params(const GuestChecker *checker);

/*
 * The chain of cpu when round is done. Costs the guest's work since the last question, and from the
 * start when asked about an earlier round. FALSE with error set if there is no such CPU or round.
 */
gboolean guest_checker_chain(GuestChecker *checker, unsigned cpu, uint64_t round, uint64_t *chain,
                             GError **error);

/*
 * Check all whole lines of a guest's output; chain lines must have the right value, and an error
 * line fails. *n_chains, if not NULL: chain lines seen.
 */
gboolean guest_checker_output(GuestChecker *checker, const char *text, guint *n_chains,
                              GError **error);

/*
 * Check that a RAM image is exactly the state at some instant of this guest's life: the header page
 * is for the same command line, and each CPU's slice is, word for word, what the steps up to the
 * one in the header leave. The page of the step under way may be old and new word by word.
 */
gboolean guest_checker_image(GuestChecker *checker, const GuestImage *image, GError **error);

/* Where cpu is in an image. FALSE with error set if the image holds no guest that has got so far.
 */
gboolean guest_image_position(const GuestImage *image, unsigned cpu, ChainPos *pos, GError **error);

/* Copy the header page; FALSE with error set if the image is too small or no guest ran in it. */
gboolean guest_image_header(const GuestImage *image, GuestHeader *header, GError **error);

/*
 * Check that the content of a disk (its first bytes, GUEST_DISK_BYTES_MIN at least) is what the guest
 * of this header has written: each place as the header has it. The place of a write that is under
 * way may hold that one already.
 */
gboolean guest_disk_check(const GuestHeader *header, const void *content, gsize bytes,
                          GError **error);

/* op=journal: whether a journal with this content has all records up to told (as far as it has room
 * for them), whole. *last: the number in its head. */
gboolean guest_journal_check(const void *content, gsize bytes, guint64 told, guint64 *last,
                             GError **error);

#endif
