/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The receiving side of the format, shared by district-standby (from the wire) and by reading a
 * checkpoint file: a state machine that is fed records in order and calls back with verified
 * content. It knows the order of records, the sequence, the tally and all limits; it does not know
 * where pages are kept.
 */
#ifndef DISTRICT_CKPT_RECEIVE_H
#define DISTRICT_CKPT_RECEIVE_H

#include "ckpt/encode.h"
#include "stream.pb-c.h"

typedef struct ReceiverOps {
    /* HELLO has been parsed, its version is ours and its district a possible name. Refuse by
     * returning FALSE with error. */
    gboolean (*hello)(void *opaque, const District__StreamHello *hello, GError **error);
    /* A new epoch. Members, names and sizes are already checked against the limits. */
    gboolean (*begin)(void *opaque, const District__StreamEpochBegin *begin, GError **error);
    /* Pages of an image (RAM of each of begin's members, then their disks; layout_image_count).
     * A disk's last block is zeros beyond its end. Only staged: the epoch is not verified yet. */
    gboolean (*pages)(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count,
                      GError **error);
    /* The rest of the cut: packed CutState bytes and the same parsed; consistent with begin. */
    gboolean (*state)(void *opaque, const uint8_t *packed, size_t len,
                      const District__CutState *state, GError **error);
    /* The epoch is complete and verified: commit. */
    gboolean (*end)(void *opaque, uint64_t epoch, GError **error);
    /* A JOURNAL record in its order, checked on its own (layout_check_journal); it is of no epoch.
     * NULL where there are none: in files but exported ones. */
    gboolean (*journal)(void *opaque, const District__StreamJournal *record, GError **error);
    /* What the owner has of a page of RAM now, all that has come for it included (PageContentFunc).
     * NULL where there are no deltas: in files. It says which version of the format is read, too. */
    const uint8_t *(*content)(void *opaque, uint32_t image, uint64_t page);
} ReceiverOps;

typedef struct Receiver Receiver;
Receiver *receiver_new(const ReceiverOps *ops, void *opaque);
void receiver_free(Receiver *receiver);

/* Feed one record whose header has been decoded; verifies the checksum itself. After FALSE the
 * receiver refuses everything. HEARTBEAT is accepted and ignored. */
gboolean receiver_record(Receiver *receiver, const uint8_t raw_header[RECORD_HEADER_BYTES],
                         const uint8_t *payload, GError **error);

/* True between records of an epoch (an EOF here is a truncated epoch). */
bool receiver_in_epoch(const Receiver *receiver);

/* True once BYE has been received: the end was wanted. */
bool receiver_over(const Receiver *receiver);

#endif
