/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks in the member protocol. Lists are of the disks with an overlay, in order. */
#include "vmm/member_disks.h"

static gboolean
hello_journal(const Disks *disks, MemberDiskReply *room, District__MemberHelloReply *hello,
              int *fds, guint *n_fds, GError **error)
{
    room->link_fd = -1;
    if (disks->journal == NULL)
        return TRUE;
    district__member_journal__init(&room->journal);
    room->journal.size = journal_bytes(disks->journal);
    room->journal.can_freeze = true;
    room->journal.path = (char *)journal_path(disks->journal);
    hello->journal = &room->journal;
    room->link_fd = journal_link(disks->journal, error);
    room->journal.mode = journal_mode(disks->journal);
    fds[(*n_fds)++] = room->link_fd;
    return room->link_fd >= 0;
}

/* Those of overlays that are still being filled in come last. */
static void
hello_lazy(const Disks *disks, District__MemberHelloReply *hello, int *fds, guint *n_fds)
{
    hello->can_lazy_disks = true;
    for (guint i = 0; i < disks->n; i++) {
        hello->disks[i]->lazy = disk_is_lazy(disks->disk[i]);
        for (int k = 0; k < LAZYDISK_FDS && hello->disks[i]->lazy; k++)
            fds[(*n_fds)++] = disk_lazy_fds(disks->disk[i])[k];
    }
}

void
member_disks_bye(const Disks *disks)
{
    if (disks->journal != NULL)
        journal_unlink(disks->journal);
}

gboolean
member_disks_hello(const Disks *disks, MemberDiskReply *room, District__MemberHelloReply *hello,
                   int *fds, guint *n_fds, GError **error)
{
    for (guint i = 0; i < disks->n; i++) {
        const Disk *disk = disks->disk[i];
        District__MemberDisk *told = &room->disks[i];

        district__member_disk__init(told);
        told->size = disk_bytes(disk);
        told->home = (char *)disk_home(disk);
        if (disk_image(disk) != NULL)
            told->image = (char *)disk_image(disk);
        told->overlay = disk_has_overlay(disk);
        told->read_only = disk_read_only(disk);
        room->disk_list[i] = told;
        if (!told->overlay)
            continue;
        disk_position(disk, &told->cuts, &told->index_entries);
        disk_overlay_fds(disk, &fds[*n_fds], &fds[*n_fds + 1]);
        *n_fds += 2;
    }
    hello->disks = room->disk_list;
    hello->n_disks = disks->n;
    if (!hello_journal(disks, room, hello, fds, n_fds, error))
        return FALSE;
    hello_lazy(disks, hello, fds, n_fds);
    return TRUE;
}

size_t
member_disks_cut(const Disks *disks, MemberDiskReply *room)
{
    size_t n = 0;

    for (guint i = 0; i < disks->n; i++) {
        District__MemberDiskCut *cut = &room->cuts[n];

        if (!disk_has_overlay(disks->disk[i]))
            continue;
        district__member_disk_cut__init(cut);
        cut->cut = disk_cut(disks->disk[i], &cut->index_end);
        room->cut_list[n++] = cut;
    }
    return n;
}

static guint
overlays(const Disks *disks)
{
    guint n = 0;

    for (guint i = 0; i < disks->n; i++)
        n += disk_has_overlay(disks->disk[i]);
    return n;
}

gboolean
member_disks_note(const Disks *disks, const District__MemberDisksRequest *request, GError **error)
{
    gboolean done = TRUE;
    guint k = 0;

    if (request->n_disks != overlays(disks)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "notes on %zu disks; disks with an overlay: %u", request->n_disks,
                    overlays(disks));
        return FALSE;
    }
    for (guint i = 0; i < disks->n; i++) {
        const District__MemberDiskNote *note;

        if (!disk_has_overlay(disks->disk[i]))
            continue;
        note = request->disks[k++];
        disk_released_below(disks->disk[i], note->released_below);
        disk_home_below(disks->disk[i], note->home_below);
        /* What has been released above may be what makes room for it. */
        done = done && (!note->resend || disk_resend(disks->disk[i], error));
    }
    return done;
}

static guint
lazy_disks(const District__MemberRestoreRequest *request)
{
    guint n = 0;

    for (size_t i = 0; i < request->n_disk_lazy; i++)
        n += request->disk_lazy[i] != 0;
    return n;
}

guint
member_disks_restore_fds(const Disks *disks, const District__MemberRestoreRequest *request,
                         const char **wrong)
{
    *wrong = NULL;
    if (request->n_disk_entries == 0 && !request->disks_only)
        return 0;
    *wrong = request->n_disk_entries == overlays(disks)
                 ? NULL
                 : "it has another number of disks with overlays; start it with the disks that it "
                   "was saved with";
    if (request->n_disk_lazy != 0 && request->n_disk_lazy != request->n_disk_entries)
        *wrong = "it is not said of each disk whether its data comes later";
    return 2 * overlays(disks) + LAZYDISK_FDS * lazy_disks(request);
}

gboolean
member_disks_restore(const Disks *disks, const District__MemberRestoreRequest *request, int *fds,
                     GError **error)
{
    const int *lazy = fds + 2 * request->n_disk_entries;
    guint k = 0;

    for (guint i = 0; i < disks->n && request->n_disk_entries > 0; i++) {
        if (!disk_has_overlay(disks->disk[i]))
            continue;
        if (!disk_restore(disks->disk[i], fds[2 * k], fds[2 * k + 1], request->disk_entries[k],
                          error))
            return FALSE;
        fds[2 * k] = fds[2 * k + 1] = -1;
        if (request->n_disk_lazy > 0 && request->disk_lazy[k]) {
            if (!disk_lazy_begin(disks->disk[i], lazy, error))
                return FALSE;
            lazy += LAZYDISK_FDS;
        }
        k++;
    }
    return TRUE;
}
