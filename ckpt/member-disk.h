/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A member's disk as district-ckpt sees it: the two files of its overlay (common/diskindex.h), how
 * far its index went at the last cut, and what the engine was told of earlier cuts.
 *
 * Nothing in the files is trusted: they are read with pread(2), never mapped, and every entry is
 * checked before it is used. A disk without overlay is in no cut.
 */
#ifndef DISTRICT_CKPT_MEMBER_DISK_H
#define DISTRICT_CKPT_MEMBER_DISK_H

#include "common/diskindex.h"
#include "common/lazydisk.h"
#include "common/page.h"
#include "member.pb-c.h"

#include <glib.h>
#include <stdbool.h>

typedef struct MemberDisk {
    char *member; /* its name, for messages */
    unsigned number;
    uint64_t size; /* bytes */
    uint64_t n_blocks;
    char *home; /* as MemberDisk.home of the protocol; if it is off, as disk/home.h has it, or "" */
    char *image; /* as MemberDisk.image; NULL: its engine says none */
    bool overlay;
    bool read_only;
    int data_fd;  /* -1 without overlay */
    int index_fd; /* -1 without overlay */
    uint64_t cut; /* number of the last cut; 0: none */
    uint64_t index_end;
    LazyDisk *lazy; /* at HELLO: its data file is still being filled in; else NULL */
} MemberDisk;

/* From HELLO: fds are those of its overlay, duplicated here. FALSE: what the engine says cannot be;
 * the error is one line without the member's name. */
gboolean member_disk_init(MemberDisk *disk, const char *member, unsigned number,
                          const District__MemberDisk *hello, const int fds[2], GError **error);
void member_disk_clear(MemberDisk *disk);

/* Note the cut that a PAUSE reply tells of. FALSE with error set if it cannot be. */
gboolean member_disk_cut(MemberDisk *disk, const District__MemberDiskCut *cut, GError **error);

/* Its engine has ended: from now on we serve its home ourselves. FALSE: that is not needed, or not
 * possible. */
bool member_disk_own_home(MemberDisk *disk);

/* Another owner of the same files. FALSE with error set: no descriptors are left. */
gboolean member_disk_copy(MemberDisk *to, const MemberDisk *from, GError **error);

/* Read the block that entry, which has been checked, stands for: PAGE_BYTES to data. */
gboolean member_disk_block(const MemberDisk *disk, const DiskIndexEntry *entry, uint8_t *data,
                           GError **error);

/*
 * The entries [from, to) of the index, the last one of each block only, in no order, appended to
 * entries (of DiskIndexEntry). FALSE with error set if one is not possible or cannot be read.
 */
gboolean member_disk_read(const MemberDisk *disk, uint64_t from, uint64_t to, GArray *entries,
                          GError **error);

#endif
