/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * district-standby: receives the checkpoints of one district, keeps the last committed one hot in
 * memory, and hands it over when the district fails over to this host. Started by districtd.
 */
#include "ckpt/layout.h"
#include "common/log.h"
#include "standby/diskset.h"
#include "standby/standby.h"

#include <glib-unix.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *opt_name, *opt_host, *opt_control, *opt_pki, *opt_disk_dir;

static const GOptionEntry options[] = {
    {"name", 0, 0, G_OPTION_ARG_STRING, &opt_name, "The district", "NAME"},
    {"host", 0, 0, G_OPTION_ARG_STRING, &opt_host, "This host's name", "NAME"},
    {"control", 0, 0, G_OPTION_ARG_FILENAME, &opt_control, "Control socket to listen on", "PATH"},
    {"pki", 0, 0, G_OPTION_ARG_FILENAME, &opt_pki, "Directory of the host's certificates", "DIR"},
    {"disk-dir", 0, 0, G_OPTION_ARG_FILENAME, &opt_disk_dir, "Directory for disks; its own", "DIR"},
    {0},
};

static gboolean
on_signal(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_CONTINUE;
}

static gboolean
parse_options(int *argc, char ***argv, GError **error)
{
    g_autoptr(GOptionContext) context =
        g_option_context_new("- keep a hot copy of a district (started by districtd)");

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, argc, argv, error))
        return FALSE;
    if (opt_disk_dir != NULL &&
        (!g_path_is_absolute(opt_disk_dir) || strlen(opt_disk_dir) > DISK_DIR_BYTES_MAX)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--disk-dir must be an absolute path of at most %d bytes", DISK_DIR_BYTES_MAX);
        return FALSE;
    }
    if (*argc == 1 && opt_name != NULL && opt_host != NULL && opt_control != NULL &&
        opt_pki != NULL && layout_name_good(opt_name) && layout_name_good(opt_host))
        return TRUE;
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                "--name, --host, --control and --pki are all needed; see --help");
    return FALSE;
}

int
main(int argc, char **argv)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autoptr(TlsIdentity) identity = NULL;
    g_autoptr(GError) error = NULL;
    Standby *standby = NULL;

    setlocale(LC_ALL, "");
    signal(SIGPIPE, SIG_IGN);
    if (parse_options(&argc, &argv, &error)) {
        log_init("district-standby", opt_name);
        identity = tls_identity_load(opt_pki, &error);
    }
    if (identity != NULL)
        standby =
            standby_new(opt_name, opt_host, opt_control, opt_disk_dir, identity, loop, &error);
    if (standby == NULL) {
        fprintf(stderr, "district-standby: %s\n", error->message);
        return EXIT_FAILURE;
    }
    g_unix_signal_add(SIGTERM, on_signal, loop);
    g_unix_signal_add(SIGINT, on_signal, loop);
    g_main_loop_run(loop);
    standby_free(standby);
    return EXIT_SUCCESS;
}
