/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the member protocol says of disks, for member_server.c. */
#ifndef DISTRICT_VMM_MEMBER_DISKS_H
#define DISTRICT_VMM_MEMBER_DISKS_H

#include "vmm/disks.h"

#include "member.pb-c.h"

/* Two for each disk with an overlay, and more for one that is still being filled in. */
#define MEMBER_DISK_FDS_MAX ((2 + LAZYDISK_FDS) * DISKS_MAX)

typedef struct MemberDiskReply {
    District__MemberDisk disks[DISKS_MAX];
    District__MemberDisk *disk_list[DISKS_MAX];
    District__MemberDiskCut cuts[DISKS_MAX];
    District__MemberDiskCut *cut_list[DISKS_MAX];
    District__MemberJournal journal;
    int link_fd; /* of the journal; -1: none */
} MemberDiskReply;

/* Tell of all disks; append descriptors to fds. The journal gets a new link: room->link_fd, which is
 * among fds, is to be closed when it has been sent. */
gboolean member_disks_hello(const Disks *disks, MemberDiskReply *room,
                            District__MemberHelloReply *hello, int *fds, guint *n_fds,
                            GError **error);
/* The client has gone. */
void member_disks_bye(const Disks *disks);
/* Cut each disk with an overlay; the cuts are room's cut_list. Returns how many. */
size_t member_disks_cut(const Disks *disks, MemberDiskReply *room);
gboolean member_disks_note(const Disks *disks, const District__MemberDisksRequest *request,
                           GError **error);
/* Descriptors that a RESTORE must carry beside RAM; NULL in *wrong if its disks fit ours, or if it
 * brings none: overlays begin empty then. */
guint member_disks_restore_fds(const Disks *disks, const District__MemberRestoreRequest *request,
                               const char **wrong);
/* Take the overlays over; fds that have been are set to -1. */
gboolean member_disks_restore(const Disks *disks, const District__MemberRestoreRequest *request,
                              int *fds, GError **error);

#endif
