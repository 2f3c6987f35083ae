/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verb: console. Joins this terminal and the pty of a member's serial port, in raw mode. */
#include "control/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x1d /* ^] */

static gboolean
write_all(int fd, const char *data, ssize_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, (size_t)len);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return FALSE;
        data += n;
        len -= n;
    }
    return TRUE;
}

/* Carry bytes both ways until ^] or either end closes. */
static void
carry(int pty)
{
    char buf[4096];
    struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {pty, POLLIN, 0}};

    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return;
        if (fds[1].revents != 0) {
            ssize_t n = read(pty, buf, sizeof(buf));
            if (n <= 0 || !write_all(STDOUT_FILENO, buf, n))
                return;
        }
        if (fds[0].revents != 0) {
            ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
            const char *escape = n > 0 ? memchr(buf, ESCAPE, (size_t)n) : NULL;
            if (n <= 0 || !write_all(pty, buf, escape ? escape - buf : n) || escape != NULL)
                return;
        }
    }
}

static gboolean
attach(const char *name, const char *path, GError **error)
{
    int pty = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios old;
    gboolean terminal = tcgetattr(STDIN_FILENO, &old) == 0;

    if (pty < 0) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE,
                    "%s: its console %s: %s: does it run?", name, path, g_strerror(errno));
        return FALSE;
    }
    struct termios line;
    if (tcgetattr(pty, &line) == 0) {
        cfmakeraw(&line);
        tcsetattr(pty, TCSANOW, &line);
    }
    if (terminal) {
        struct termios raw = old;
        fprintf(stderr, "%s: leave with ^]\r\n", name);
        cfmakeraw(&raw);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    carry(pty);
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSANOW, &old);
        fputs("\n", stderr);
    }
    close(pty);
    return TRUE;
}

static gboolean
print_log(const char *path, GError **error)
{
    g_autofree char *aside = g_strconcat(path, ".1", NULL);
    g_autofree char *older = NULL;
    g_autofree char *text = NULL;
    gsize len = 0;

    /* The engine puts a full log aside. */
    if (g_file_get_contents(aside, &older, &len, NULL))
        write_all(STDOUT_FILENO, older, (ssize_t)len);
    if (!g_file_get_contents(path, &text, &len, error))
        return FALSE;
    write_all(STDOUT_FILENO, text, (ssize_t)len);
    return TRUE;
}

/* The member's entry in what districtd says about the district; NULL with error set. */
static JsonObject *
find_member(JsonObject *district, const char *name, const char *member, GError **error)
{
    JsonArray *members = json_get_array(district, "members");

    for (guint i = 0; members != NULL && i < json_array_get_length(members); i++) {
        JsonObject *item = json_array_get_object_element(members, i);
        if (strcmp(json_get_string(item, "name", ""), member) == 0)
            return item;
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                "%s: no member %s: see district show %s", name, member, name);
    return NULL;
}

/* The pty of an engine that has gone may be somebody's terminal by now. */
static gboolean
check_runs(const char *full, const char *name, JsonObject *member, GError **error)
{
    if (json_object_has_member(member, "pid"))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                "%s: it does not run: see district show %s; console --log has what it has printed",
                full, name);
    return FALSE;
}

gboolean
cli_console(Cli *cli, int argc, char **argv, GError **error)
{
    char *full = NULL;
    gboolean log = FALSE;
    const GOptionEntry options[] = {
        {"log", 0, 0, G_OPTION_ARG_NONE, &log, "Print what it has printed so far", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME/MEMBER [--log]", options, 1, &full, error))
        return FALSE;
    g_auto(GStrv) parts = g_strsplit(full, "/", 2);
    if (g_strv_length(parts) != 2) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: write NAME/MEMBER", full);
        return FALSE;
    }
    g_autoptr(JsonObject) district = cli_once(cli, "show", cli_name(parts[0]), error);
    JsonObject *member = district != NULL ? find_member(district, parts[0], parts[1], error) : NULL;
    if (member == NULL || !(log || check_runs(full, parts[0], member, error)))
        return FALSE;
    return log ? print_log(json_get_string(member, "console_log", ""), error)
               : attach(full, json_get_string(member, "console", ""), error);
}
