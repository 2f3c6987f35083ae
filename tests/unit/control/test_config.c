/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* districtd.conf. */
#include "control/config.h"
#include "control/error.h"

#include <glib/gstdio.h>
#include <string.h>

static Config *
load(const char *text, GError **error)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("conf-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_close(fd, NULL);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    Config *config = config_load(path, TRUE, error);
    g_unlink(path);
    return config;
}

static void
test_defaults(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Config) config = load("[Daemon]\nHostName=h1\n", &error);

    g_assert_no_error(error);
    g_assert_cmpstr(config->state_dir, ==, "/var/lib/district");
    g_assert_cmpuint(config->port, ==, 7117);
}

static void
check_error(const char *text, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(load(text, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, word));
    g_assert_nonnull(strstr(error->message, "conf-"));
}

static void
test_errors(void)
{
    check_error("[Daemon]\nHotsName=h1\n", "HotsName=");
    check_error("[Deamon]\n", "[Deamon]");
    check_error("[Daemon]\nHostName=h1\nPort=0\n", "Port=");
    check_error("[Daemon]\nHostName=h1\nStateDir=x\n", "StateDir=");
    check_error("[Daemon]\nHostName=H 1\n", "HostName=");
}

static void
test_missing(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(config_load("/nowhere/districtd.conf", TRUE, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/what is left out has a default", test_defaults);
    g_test_add_func("/config/errors name the key and the file", test_errors);
    g_test_add_func("/config/a file that was asked for must be there", test_missing);
    return g_test_run();
}
