/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unpacking and checking of the protobuf messages in a checkpoint stream or file: sizes, names,
 * memory layouts. What passes here can be used without further range checks.
 */
#ifndef DISTRICT_CKPT_LAYOUT_H
#define DISTRICT_CKPT_LAYOUT_H

#include "ckpt/format.h"
#include "stream.pb-c.h"

/* Most regions of one member. */
#define REGIONS_MAX 64

/*
 * protobuf_c_message_unpack with a limit on memory in proportion to len, so that a small hostile
 * message cannot take much. what names it in the error. Free with
 * protobuf_c_message_free_unpacked(message, NULL).
 */
ProtobufCMessage *layout_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                size_t len, const char *what, GError **error);

/* 1 to MEMBERS_MAX members with distinct good names and possible memory layouts. */
gboolean layout_check_begin(const District__StreamEpochBegin *begin, GError **error);

/* The images that PAGES records of begin may name: RAM of each member, then the disks of each. */
uint32_t layout_image_count(const District__StreamEpochBegin *begin);
/* Pages of each image; caller frees. begin has been checked. */
uint64_t *layout_image_pages(const District__StreamEpochBegin *begin);
/* Bytes of each image; caller frees. Only a disk's may be other than whole pages. */
uint64_t *layout_image_bytes(const District__StreamEpochBegin *begin);
/* "RAM of member db", "disk 0 of member db": an image for a reader; caller frees. */
char *layout_image_name(const District__StreamEpochBegin *begin, uint32_t image);

/* Version, district name, epoch and members of a CutState on its own. */
gboolean layout_check_cut(const District__CutState *cut, GError **error);

/* Do the two, each already checked, speak of the same epoch and the same members? */
gboolean layout_check_match(const District__StreamEpochBegin *begin, const District__CutState *cut,
                            GError **error);

/* A JOURNAL record on its own: it has the fields of its kind, in range, and no others. */
gboolean layout_check_journal(const District__StreamJournal *record, GError **error);

/* A district, member or host name: 1 to NAME_BYTES_MAX of A-Z a-z 0-9 . _ -, not starting with . or
 * -. */
bool layout_name_good(const char *name);

#endif
