/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page arithmetic: guest pages are 4 KiB everywhere in District. */
#ifndef DISTRICT_COMMON_PAGE_H
#define DISTRICT_COMMON_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT_4K 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT_4K)

/* Largest guest RAM accepted anywhere, bytes: 1 TiB. Peers' and files' sizes are checked against
 * it. */
#define RAM_BYTES_MAX ((uint64_t)1 << 40)
/* Largest disk, bytes: 64 TiB; and most disks of a member. */
#define DISK_BYTES_MAX ((uint64_t)1 << 46)
#define DISKS_MAX 8
/* Sizes of disks are multiples of this, bytes. */
#define SECTOR_BYTES 512
/* Sizes of journals, bytes; multiples of PAGE_BYTES. */
#define JOURNAL_BYTES_MIN ((uint64_t)1 << 20)
#define JOURNAL_BYTES_MAX ((uint64_t)1 << 30)
/* Most members of a district. */
#define MEMBERS_MAX 256
/* Longest district, member or host name, bytes without the terminating NUL. */
#define NAME_BYTES_MAX 40

static inline uint64_t
page_count(uint64_t bytes)
{
    return bytes >> PAGE_SHIFT_4K;
}

/* Blocks of PAGE_BYTES of a disk of so many bytes; the last one may be only partly there. */
static inline uint64_t
disk_blocks(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT_4K;
}

#endif
