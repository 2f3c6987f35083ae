/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Autostart=yes: the first districtd after a boot of the host brings districts up that are at home
 * here. One that ran goes on from its last durable checkpoint; one that had been stopped, or that
 * has no checkpoint, boots. Nothing is started while its standby's host cannot be asked whether it
 * has taken over: that is waited for, and a person can decide otherwise (start --force).
 *
 * RUNTIME/boot-id tells boots apart: the directory is gone after one, or the kernel's id is another
 * one. What is due is marked by a file in the district's runtime directory, so that a districtd that
 * is killed meanwhile does not leave districts behind.
 */
#include "control/daemon.h"
#include "common/clock.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define RETRY_NS (5 * NS_PER_S)

/* ---- Which boot is this? ---- */

static gboolean
same_boot(const char *path, char **id)
{
    g_autofree char *before = NULL;

    if (!g_file_get_contents(BOOT_ID, id, NULL, NULL))
        *id = g_strdup("");
    return g_file_get_contents(path, &before, NULL, NULL) && strcmp(before, *id) == 0;
}

static void
mark(District *d)
{
    g_autofree char *dir = district_run_path(d, NULL);
    g_autofree char *path = district_run_path(d, "autostart");
    g_autoptr(GError) error = NULL;

    d->autostart_due = TRUE;
    if (g_mkdir_with_parents(dir, 0700) != 0 || !store_write_file(path, "", 0, FALSE, &error))
        g_warning("%s: autostart: a districtd after this one will not know: %s", d->name,
                  error != NULL ? error->message : g_strerror(errno));
}

static gboolean
is_marked(const District *d)
{
    g_autofree char *path = district_run_path(d, "autostart");

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void
settle(District *d)
{
    g_autofree char *path = district_run_path(d, "autostart");

    d->autostart_due = FALSE;
    unlink(path);
}

static gboolean
may_start(const District *d)
{
    return d->record.role == ROLE_HOME && d->record.ended_incarnation == 0 &&
           (d->state == STATE_STOPPED || d->state == STATE_FAILED);
}

void
autostart_begin(Daemon *daemon)
{
    g_autofree char *path = g_build_filename(daemon->config->runtime_dir, "boot-id", NULL);
    g_autofree char *id = NULL;
    g_autoptr(GError) error = NULL;
    gboolean known = same_boot(path, &id);
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        District *d = value;
        if (known)
            d->autostart_due = is_marked(d);
        else if (d->definition->autostart && may_start(d))
            mark(d);
    }
    if (!known && !store_write_file(path, id, -1, FALSE, &error))
        g_warning("%s", error->message);
}

/* ---- Starting ---- */

static void
on_started(JsonObject *result, const GError *error, gpointer data)
{
    District *d = data;
    gint64 id = error == NULL ? json_get_int(result, "checkpoint", 0) : 0;

    if (g_error_matches(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE) ||
        g_error_matches(error, CONTROL_ERROR, CONTROL_ERROR_BUSY)) {
        g_message("%s: autostart: %s", d->name, error->message);
        return;
    }
    settle(d);
    if (error != NULL)
        daemon_event(d->daemon, "failed", d->name, "autostart: %s", error->message);
    else if (id != 0)
        daemon_event(d->daemon, "autostarted", d->name, "from checkpoint %" G_GINT64_FORMAT, id);
    else
        daemon_event(d->daemon, "autostarted", d->name, "booted");
}

/* It runs from the checkpoint that it had got to, unless that life had ended. */
static void
bring_up(District *d)
{
    g_autoptr(GError) error = NULL;

    if (!d->record.stopped && checkpoint_find(d, NULL, &error) != 0)
        operation_restart(d, NULL, FALSE, on_started, d);
    else if (error == NULL || g_error_matches(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND))
        operation_start(d, FALSE, on_started, d);
    else
        on_started(NULL, error, d); /* a store that cannot be read is not booted over */
}

void
autostart_tick(District *d)
{
    int64_t now = clock_monotonic_ns();

    if (!d->autostart_due || d->job != NULL || now < d->autostart_ns)
        return;
    if (!may_start(d)) {
        settle(d); /* someone else has seen to it */
        return;
    }
    const Peer *peer =
        d->record.peer != NULL ? g_hash_table_lookup(d->daemon->peers, d->record.peer) : NULL;
    if (peer != NULL && !peer_reachable(peer)) {
        district_set_state(d, d->state,
                           "autostart waits for the standby's host, which may have taken over");
        return;
    }
    d->autostart_ns = now + RETRY_NS;
    bring_up(d);
}
