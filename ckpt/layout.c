/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unpacking and checking of the protobuf messages in a checkpoint stream or file. */
#include "ckpt/layout.h"

#include "common/pbmsg.h"

#include <string.h>

/* ---- Unpacking ---- */

ProtobufCMessage *
layout_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len,
              const char *what, GError **error)
{
    ProtobufCMessage *message = pbmsg_unpack(type, data, len, pbmsg_budget(len));

    if (message == NULL)
        format_damaged(error, "damaged %s: it does not parse", what);
    return message;
}

/* ---- Names and memory layouts ---- */

bool
layout_name_good(const char *name)
{
    size_t len = strnlen(name, NAME_BYTES_MAX + 1);

    if (len == 0 || len > NAME_BYTES_MAX || !(g_ascii_isalnum(name[0]) || name[0] == '_'))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(name[i]) && strchr("._-", name[i]) == NULL)
            return false;
    }
    return true;
}

static bool
pages_whole(uint64_t bytes)
{
    return bytes % PAGE_BYTES == 0;
}

/* [a, a + size) and [b, b + size) have something in common; neither range wraps. */
static bool
ranges_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static gboolean
check_region(const char *name, uint64_t ram_size, District__RamRegion *const *regions, size_t i,
             GError **error)
{
    const District__RamRegion *r = regions[i];

    if (r->size == 0 || !pages_whole(r->size) || !pages_whole(r->gpa) || !pages_whole(r->offset))
        return format_damaged(error, "member %s: RAM region %zu is not of whole pages", name, i);
    if (r->size > ram_size || r->offset > ram_size - r->size || r->gpa > UINT64_MAX - r->size)
        return format_damaged(error, "member %s: RAM region %zu is out of range", name, i);
    for (size_t j = 0; j < i; j++) {
        const District__RamRegion *q = regions[j];
        if (ranges_overlap(r->gpa, r->size, q->gpa, q->size) ||
            ranges_overlap(r->offset, r->size, q->offset, q->size))
            return format_damaged(error, "member %s: RAM regions %zu and %zu overlap", name, j, i);
    }
    return TRUE;
}

static gboolean
check_member(const char *name, uint64_t ram_size, District__RamRegion *const *regions,
             size_t n_regions, GError **error)
{
    if (!layout_name_good(name))
        return format_damaged(error, "a member's name is not one");
    if (ram_size == 0 || ram_size > RAM_BYTES_MAX || !pages_whole(ram_size))
        return format_damaged(error, "member %s: %" G_GUINT64_FORMAT " is not a possible RAM size",
                              name, ram_size);
    if (n_regions > REGIONS_MAX)
        return format_damaged(error, "member %s: %zu RAM regions, at most %d are allowed", name,
                              n_regions, REGIONS_MAX);
    for (size_t i = 0; i < n_regions; i++) {
        if (!check_region(name, ram_size, regions, i, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_disks(const char *name, District__StreamDisk *const *disks, size_t n_disks, GError **error)
{
    if (n_disks > DISKS_MAX)
        return format_damaged(error, "member %s: %zu disks, at most %d are allowed", name, n_disks,
                              DISKS_MAX);
    for (size_t i = 0; i < n_disks; i++) {
        uint64_t size = disks[i]->size;

        if (size == 0 || size > DISK_BYTES_MAX || size % SECTOR_BYTES != 0)
            return format_damaged(
                error, "member %s: %" G_GUINT64_FORMAT " is not a possible disk size", name, size);
    }
    return TRUE;
}

static gboolean
check_member_count(size_t n_members, GError **error)
{
    if (n_members >= 1 && n_members <= MEMBERS_MAX)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                "a district of %zu members: 1 to %d are allowed", n_members, MEMBERS_MAX);
    return FALSE;
}

gboolean
layout_check_begin(const District__StreamEpochBegin *begin, GError **error)
{
    if (!check_member_count(begin->n_members, error))
        return FALSE;
    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        if (!check_member(m->name, m->ram_size, m->regions, m->n_regions, error) ||
            !check_disks(m->name, m->disks, m->n_disks, error))
            return FALSE;
        for (size_t j = 0; j < i; j++) {
            if (strcmp(begin->members[j]->name, m->name) == 0)
                return format_damaged(error, "two members are named %s", m->name);
        }
    }
    return TRUE;
}

gboolean
layout_check_cut(const District__CutState *cut, GError **error)
{
    if (cut->version != CUT_STATE_VERSION) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN,
                    "the cut's state is of version %u, this program reads version %u: use the "
                    "release that wrote it",
                    cut->version, CUT_STATE_VERSION);
        return FALSE;
    }
    if (!layout_name_good(cut->district))
        return format_damaged(error, "the cut's district name is not one");
    if (cut->epoch == 0 || cut->epoch > EPOCH_NUMBER_MAX || cut->cut > EPOCH_NUMBER_MAX)
        return format_damaged(error, "the cut has no possible epoch number");
    if (!check_member_count(cut->n_members, error))
        return FALSE;
    for (size_t i = 0; i < cut->n_members; i++) {
        const District__CutMember *m = cut->members[i];
        if (!check_member(m->name, m->ram_size, m->regions, m->n_regions, error) ||
            !check_disks(m->name, m->disks, m->n_disks, error))
            return FALSE;
    }
    return TRUE;
}

static bool
regions_equal(District__RamRegion *const *a, size_t n_a, District__RamRegion *const *b, size_t n_b)
{
    if (n_a != n_b)
        return false;
    for (size_t i = 0; i < n_a; i++) {
        if (a[i]->gpa != b[i]->gpa || a[i]->size != b[i]->size || a[i]->offset != b[i]->offset)
            return false;
    }
    return true;
}

static bool
disks_equal(District__StreamDisk *const *a, size_t n_a, District__StreamDisk *const *b, size_t n_b)
{
    if (n_a != n_b)
        return false;
    for (size_t i = 0; i < n_a; i++) {
        if (a[i]->size != b[i]->size)
            return false;
    }
    return true;
}

gboolean
layout_check_match(const District__StreamEpochBegin *begin, const District__CutState *cut,
                   GError **error)
{
    if (cut->epoch != begin->epoch)
        return format_damaged(error,
                              "the cut's state is of epoch %" G_GUINT64_FORMAT
                              " inside epoch %" G_GUINT64_FORMAT,
                              cut->epoch, begin->epoch);
    if (cut->n_members != begin->n_members)
        return format_damaged(error, "the cut has state of %zu members, its RAM is of %zu",
                              cut->n_members, begin->n_members);
    for (size_t i = 0; i < cut->n_members; i++) {
        const District__CutMember *c = cut->members[i];
        const District__StreamMember *b = begin->members[i];

        if (strcmp(c->name, b->name) != 0)
            return format_damaged(error, "the cut's member %zu is %s, its RAM is of %s", i, c->name,
                                  b->name);
        if (c->ram_size != b->ram_size ||
            !regions_equal(c->regions, c->n_regions, b->regions, b->n_regions))
            return format_damaged(error, "member %s: the cut's state and its RAM differ in layout",
                                  c->name);
        if (!disks_equal(c->disks, c->n_disks, b->disks, b->n_disks))
            return format_damaged(error, "member %s: the cut's state and the epoch differ in disks",
                                  c->name);
    }
    return TRUE;
}

uint32_t
layout_image_count(const District__StreamEpochBegin *begin)
{
    size_t n = begin->n_members;

    for (size_t i = 0; i < begin->n_members; i++)
        n += begin->members[i]->n_disks;
    return (uint32_t)n;
}

uint64_t *
layout_image_bytes(const District__StreamEpochBegin *begin)
{
    uint64_t *bytes = g_new0(uint64_t, layout_image_count(begin));
    size_t image = begin->n_members;

    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        bytes[i] = m->ram_size;
        for (size_t k = 0; k < m->n_disks; k++)
            bytes[image++] = m->disks[k]->size;
    }
    return bytes;
}

uint64_t *
layout_image_pages(const District__StreamEpochBegin *begin)
{
    uint64_t *pages = layout_image_bytes(begin);
    uint32_t n = layout_image_count(begin);

    for (uint32_t i = 0; i < n; i++)
        pages[i] = disk_blocks(pages[i]);
    return pages;
}

char *
layout_image_name(const District__StreamEpochBegin *begin, uint32_t image)
{
    size_t disk = image - begin->n_members;

    if (image < begin->n_members)
        return g_strdup_printf("RAM of member %s", begin->members[image]->name);
    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];

        if (disk < m->n_disks)
            return g_strdup_printf("disk %zu of member %s", disk, m->name);
        disk -= m->n_disks;
    }
    return g_strdup_printf("image %u, which does not exist", image);
}

/* ---- Journals ---- */

static bool
journal_begin_good(const District__StreamJournal *r)
{
    return r->size >= JOURNAL_BYTES_MIN && r->size <= JOURNAL_BYTES_MAX &&
           r->size % PAGE_BYTES == 0 && r->offset == 0 && r->data.len == 0;
}

static bool
journal_data_good(const District__StreamJournal *r)
{
    return r->data.len > 0 && r->data.len <= JOURNAL_DATA_MAX && r->data.len % SECTOR_BYTES == 0 &&
           r->offset % SECTOR_BYTES == 0 && r->offset <= JOURNAL_BYTES_MAX - r->data.len &&
           r->size == 0;
}

static bool
journal_publish_good(const District__StreamJournal *r)
{
    return r->member[0] == '\0' && r->size == 0 && r->offset == 0 && r->data.len == 0;
}

gboolean
layout_check_journal(const District__StreamJournal *record, GError **error)
{
    bool good = false;

    switch (record->kind) {
    case DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN:
        good = layout_name_good(record->member) && journal_begin_good(record);
        break;
    case DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA:
        good = layout_name_good(record->member) && journal_data_good(record);
        break;
    case DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH:
        good = journal_publish_good(record);
        break;
    default:
        break;
    }
    if (!good)
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged JOURNAL record: its kind, member, size or range is not possible");
    return good;
}
