/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside member*.c: HELLO, its checks, and the request/reply primitives. */
#ifndef DISTRICT_CKPT_MEMBER_HELLO_H
#define DISTRICT_CKPT_MEMBER_HELLO_H

#include "ckpt/member.h"
#include "stream.pb-c.h"

/* Send a request; assigns its id. doing: for the error message. */
gboolean member_send(Member *member, District__MemberRequest *request, const char *doing,
                     const int *fds, guint n_fds, GError **error);

/* Receive the reply; NULL with error set unless it is of kind want. Free it with free_unpacked. */
District__MemberReply *member_collect(Member *member, District__MemberReply__OpCase want,
                                      const char *doing, int *fds, guint *n_fds, int timeout_ms,
                                      GError **error);

/* Check ram_fd against the announced size and map a duplicate of it as the member's RAM. */
gboolean member_map_ram(Member *member, int ram_fd, GError **error);

/* Disks with an overlay. */
unsigned member_overlays(const Member *member);

/* The overlays that a restore brings become the member's. */
gboolean member_disks_replace(Member *member, const MemberImage *image, GError **error);

void member_copy_regions(Member *member, District__RamRegion *const *regions, size_t n);

/* member-off.c: what saved, which has been checked, says of a member that has no engine any more. */
gboolean member_adopt_off(Member *member, const District__CutMember *saved, GError **error);

/* Forget all that HELLO told. */
void member_hello_clear(Member *member);

#endif
