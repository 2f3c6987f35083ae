/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A member whose guest had powered itself off before this district-ckpt began. There is no engine to
 * tell of it: what it was, and which disks it has, is what the newest checkpoint says. Its overlays
 * have gone with the last district-ckpt; what they had is in the store.
 */
#include "ckpt/member-hello.h"

#include <errno.h>
#include <sys/mman.h>

/* Nothing is over the home that the store does not have. Where the home is, is not known. */
static gboolean
off_disk(Member *member, unsigned number, uint64_t bytes, GError **error)
{
    MemberDisk *disk = &member->disks[member->n_disks++];

    *disk = (MemberDisk){.member = g_strdup(member->name),
                         .number = number,
                         .size = bytes,
                         .n_blocks = disk_blocks(bytes),
                         .home = g_strdup(""),
                         .overlay = true,
                         .data_fd = memfd_create("overlay-data", MFD_CLOEXEC),
                         .index_fd = memfd_create("overlay-index", MFD_CLOEXEC)};
    if (disk->data_fd >= 0 && disk->index_fd >= 0)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "member %s: disk %u: memfd_create: %s",
                member->name, number, g_strerror(errno));
    return FALSE;
}

gboolean
member_adopt_off(Member *member, const District__CutMember *saved, GError **error)
{
    if (saved->n_disks > DISKS_MAX || saved->n_regions > MEMBER_REGIONS_MAX) {
        g_set_error(
            error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
            "member %s: the newest checkpoint says that it has %zu disks and %zu regions of "
            "RAM",
            member->name, saved->n_disks, saved->n_regions);
        return FALSE;
    }
    member->engine = g_strdup(saved->engine);
    member->ram_size = saved->ram_size;
    member_copy_regions(member, saved->regions, saved->n_regions);
    for (size_t i = 0; i < saved->n_disks; i++) {
        if (!off_disk(member, (unsigned)i, saved->disks[i]->size, error))
            return FALSE;
    }
    return TRUE;
}
