/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening, closing and handing on of the guest's disks. */
#include "vmm/disks.h"

#include "vmm/devices/devices.h"

#include <glib/gstdio.h>
#include <string.h>

/* The overlay of a disk, with its number; set by the program for itself over a reset. */
#define INHERIT_ENV "DISTRICT_VMM_INHERIT_DISK"
#define INHERIT_JOURNAL_ENV "DISTRICT_VMM_INHERIT_JOURNAL"
#define CLOSE_LIMIT_US (2 * G_USEC_PER_SEC)
#define CLOSE_POLL_MS 5

/* Where sockets of qemu-nbd go: nobody else may be able to put one there. */
static char *
disks_socket_dir(Disks *disks, const Options *o, GError **error)
{
    if (o->member_socket != NULL)
        return g_path_get_dirname(o->member_socket);
    if (o->overlay_dir != NULL)
        return g_strdup(o->overlay_dir);
    if (disks->own_dir == NULL)
        disks->own_dir = g_dir_make_tmp("district-vmm-XXXXXX", error);
    return g_strdup(disks->own_dir);
}

static BlockBackend *
disks_home_open(Disks *disks, const Options *o, const OptionDisk *option, GError **error)
{
    BlockMode mode = option->shared ? BLOCK_SHARED : option->read_only ? BLOCK_READ : BLOCK_WRITE;
    g_autofree char *socket_dir = NULL;

    if (g_str_equal(option->format, "raw"))
        return block_raw_open(option->path, mode, error);
    socket_dir = disks_socket_dir(disks, o, error);
    return socket_dir == NULL
               ? NULL
               : block_nbd_open(option->path, option->format, mode, socket_dir, error);
}

gboolean
disks_open(Disks *disks, const Options *o, GError **error)
{
    for (guint i = 0; i < o->n_disks; i++) {
        const OptionDisk *option = &o->disks[i];
        BlockBackend *home = disks_home_open(disks, o, option, error);

        if (home == NULL)
            return FALSE;
        /* Nothing is written to a read-only one. */
        disks->disk[i] =
            disk_new(option->path, home, option->read_only ? NULL : o->overlay_dir, error);
        if (disks->disk[i] == NULL)
            return FALSE;
        disks->home[i] = home;
        disks->n++;
    }
    if (o->journal != NULL)
        disks->journal = journal_open(o->journal, error);
    return o->journal == NULL || disks->journal != NULL;
}

static gboolean
disks_wake(gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

void
disks_close(Disks *disks)
{
    gint64 limit = g_get_monotonic_time() + CLOSE_LIMIT_US;
    guint wake = g_timeout_add(CLOSE_POLL_MS, disks_wake, NULL);

    if (disks->journal != NULL)
        journal_abandon(disks->journal);

    while (!virtio_blk_idle() && g_get_monotonic_time() < limit)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(wake);
    for (guint i = 0; i < disks->n && virtio_blk_idle(); i++)
        disk_free(disks->disk[i]);
    disks->n = 0;
    if (disks->journal != NULL && virtio_blk_idle())
        journal_close(disks->journal);
    disks->journal = NULL;
    if (disks->own_dir != NULL)
        g_rmdir(disks->own_dir);
    g_clear_pointer(&disks->own_dir, g_free);
}

bool
disks_lazy(const Disks *disks)
{
    bool lazy = false;

    for (guint i = 0; i < disks->n; i++) {
        disk_lazy_hurry(disks->disk[i]);
        lazy = lazy || disk_is_lazy(disks->disk[i]);
    }
    return lazy;
}

const char *
disks_waiting(const Disks *disks)
{
    const char *waiting = NULL;

    for (guint i = 0; i < disks->n && waiting == NULL; i++)
        waiting = disk_waiting(disks->disk[i]);
    if (waiting == NULL && disks->journal != NULL)
        waiting = journal_waiting(disks->journal);
    return waiting;
}

/* ---- Guest reset ---- */

static gboolean
disks_hand_journal_on(Disks *disks, GError **error)
{
    Journal *journal = g_steal_pointer(&disks->journal);
    g_autofree char *text = NULL;

    if (journal == NULL)
        return TRUE;
    text = journal_hand_on(journal, error);
    journal_close(journal);
    return text != NULL && g_setenv(INHERIT_JOURNAL_ENV, text, TRUE);
}

gboolean
disks_hand_on(Disks *disks, GError **error)
{
    guint n = disks->n;

    /* Whatever comes of it, they are of no use after this. */
    disks->n = 0;
    for (guint i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf(INHERIT_ENV "%u", i);
        g_autofree char *text = NULL;

        if (disk_has_overlay(disks->disk[i])) {
            text = disk_hand_on(disks->disk[i], error);
            if (text == NULL)
                return FALSE;
            g_setenv(name, text, TRUE);
        }
        disks->home[i]->ops->close(disks->home[i]);
    }
    if (disks->own_dir != NULL)
        g_rmdir(disks->own_dir);
    return disks_hand_journal_on(disks, error);
}

gboolean
disks_inherit(Disks *disks, GError **error)
{
    for (guint i = 0; i < disks->n; i++) {
        g_autofree char *name = g_strdup_printf(INHERIT_ENV "%u", i);
        g_autofree char *text = g_strdup(g_getenv(name));

        g_unsetenv(name);
        if (text != NULL && disk_has_overlay(disks->disk[i]) &&
            !disk_inherit(disks->disk[i], text, error))
            return FALSE;
    }
    g_autofree char *link = g_strdup(g_getenv(INHERIT_JOURNAL_ENV));

    g_unsetenv(INHERIT_JOURNAL_ENV);
    return link == NULL || disks->journal == NULL || journal_inherit(disks->journal, link, error);
}
