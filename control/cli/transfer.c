/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Verbs: export, import.
 *
 * The file is opened here, with the rights and in the directory of whoever called, and goes to
 * districtd as a descriptor. It has no name before it is whole (O_TMPFILE), so nothing is left of it
 * whatever ends us; where the file system has no such files, a name of its own is removed again.
 *
 * Along with it goes the end of a pipe to which the process that does the work tells how far it is.
 * When we are interrupted or killed our end closes, and that ends the work.
 */
#include "control/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Nothing is said of what takes less. */
#define QUIET_US G_USEC_PER_SEC

static gboolean G_GNUC_PRINTF(3, 4) fail(GError **error, ControlError code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);

    g_set_error_literal(error, CONTROL_ERROR, (gint)code, text);
    return FALSE;
}

/* ---- Progress ---- */

typedef struct Bar {
    const char *what; /* the verb */
    gint64 since_us;
    GString *lines; /* read, and not looked at */
} Bar;

static void
bar_draw(const Bar *bar, const char *line)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);

    if (g_strv_length(words) != 3 || g_get_monotonic_time() - bar->since_us < QUIET_US)
        return;
    guint64 total = g_ascii_strtoull(words[2], NULL, 10);
    g_autofree char *what = g_strdup_printf("%s: %s", bar->what, words[0]);
    if (total != 0)
        cli_progress(what, g_ascii_strtoull(words[1], NULL, 10), total);
    else if (cli_is_terminal())
        fprintf(stderr, "\r\033[K%s", what);
}

/* CliWatch */
static gboolean
bar_watch(int fd, gpointer data)
{
    Bar *bar = data;
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    char *end = NULL;

    if (n < 0 && errno == EINTR)
        return TRUE;
    if (n <= 0)
        return FALSE;
    g_string_append_len(bar->lines, chunk, n);
    while ((end = strchr(bar->lines->str, '\n')) != NULL) {
        g_autofree char *line = g_strndup(bar->lines->str, (gsize)(end - bar->lines->str));
        g_string_erase(bar->lines, 0, (gssize)strlen(line) + 1);
        bar_draw(bar, line);
    }
    return TRUE;
}

/* One request with the file and a pipe; file_fd stays the caller's. */
static JsonObject *
call_with_file(Cli *cli, const char *verb, JsonObject *arguments, int file_fd, GError **error)
{
    Bar bar = {.what = verb, .since_us = g_get_monotonic_time()};
    JsonObject *result = NULL;
    int ends[2] = {-1, -1};
    Client *client = cli_connect(cli, error);

    if (client == NULL || pipe2(ends, O_CLOEXEC) != 0) {
        if (client != NULL)
            fail(error, CONTROL_ERROR_FAILED, "%s: pipe: %s", verb, g_strerror(errno));
        cli_disconnect(client);
        json_object_unref(arguments);
        return NULL;
    }
    bar.lines = g_string_new(NULL);
    cli_pass_fds(client, (const int[]){file_fd, ends[1]}, 2);
    cli_watch(client, ends[0], bar_watch, &bar);
    result = cli_call(client, verb, arguments, error);
    cli_progress("", 0, 0);
    cli_disconnect(client);
    close(ends[0]);
    close(ends[1]);
    g_string_free(bar.lines, TRUE);
    return result;
}

/* ---- A file that is made ---- */

typedef struct NewFile {
    const char *path;
    gboolean replace;
    int fd;
    char *temporary; /* its name until it is whole; NULL: it has none */
} NewFile;

/* For those who interrupt us. */
static const char *volatile temporary_now;

static void
on_signal(int signal)
{
    if (temporary_now != NULL)
        unlink(temporary_now);
    _exit(128 + signal);
}

static gboolean
file_error(const NewFile *file, GError **error)
{
    int code = errno;

    return fail(error, CONTROL_ERROR_FAILED, "%s: %s", file->path, g_strerror(code));
}

static gboolean
file_check(const NewFile *file, GError **error)
{
    struct stat st;

    if (lstat(file->path, &st) != 0)
        return errno == ENOENT || file_error(file, error);
    if (!S_ISREG(st.st_mode))
        return fail(error, CONTROL_ERROR_EXISTS,
                    "%s: it is no ordinary file: give another name, or - for a pipe", file->path);
    return file->replace || fail(error, CONTROL_ERROR_EXISTS,
                                 "%s: it exists already: export --force replaces it", file->path);
}

static gboolean
file_open_named(NewFile *file, GError **error)
{
    file->temporary = g_strconcat(file->path, ".XXXXXX", NULL);
    file->fd = g_mkstemp_full(file->temporary, O_RDWR | O_CLOEXEC, 0600);
    if (file->fd < 0) {
        g_clear_pointer(&file->temporary, g_free);
        return file_error(file, error);
    }
    temporary_now = file->temporary;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    return TRUE;
}

static gboolean
file_open(NewFile *file, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(file->path);

    if (!file_check(file, error))
        return FALSE;
    file->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file->fd >= 0)
        return TRUE;
    /* EISDIR: the kernel is too old for them (open(2)). */
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
        return file_error(file, error);
    return file_open_named(file, error);
}

/* Give a nameless file a name that nothing has. */
static gboolean
file_link(const NewFile *file, const char *path, GError **error)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", file->fd);

    return linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ||
           file_error(file, error);
}

static gboolean
file_sync_dir(const NewFile *file, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(file->path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gboolean good = (fd >= 0 && fsync(fd) == 0) || file_error(file, error);

    if (fd >= 0)
        close(fd);
    return good;
}

/* From its temporary name to the one it shall have. */
static gboolean
file_rename(NewFile *file, GError **error)
{
    unsigned how = file->replace ? 0 : RENAME_NOREPLACE;

    /* A file system that cannot promise it: then the look at the start has to do. */
    if (renameat2(AT_FDCWD, file->temporary, AT_FDCWD, file->path, how) != 0 &&
        !(errno == EINVAL && rename(file->temporary, file->path) == 0))
        return file_error(file, error);
    temporary_now = NULL;
    g_clear_pointer(&file->temporary, g_free);
    return TRUE;
}

/* Only a rename can replace a file, so a nameless one needs a name before. */
static gboolean
file_replace(NewFile *file, GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.%d", file->path, (int)getpid());

    if (!file_link(file, temporary, error))
        return FALSE;
    file->temporary = g_steal_pointer(&temporary);
    return file_rename(file, error);
}

/* It is whole, and on the disk: now it gets its name, durably. */
static gboolean
file_publish(NewFile *file, GError **error)
{
    gboolean good = file->temporary != NULL ? file_rename(file, error)
                    : file->replace         ? file_replace(file, error)
                                            : file_link(file, file->path, error);

    return good && file_sync_dir(file, error);
}

static void
file_clear(NewFile *file)
{
    temporary_now = NULL;
    if (file->temporary != NULL)
        unlink(file->temporary);
    g_free(file->temporary);
    if (file->fd >= 0)
        close(file->fd);
}

/* ---- export ---- */

static JsonObject *
export_call(Cli *cli, const char *name, const char *path, const char *at, int fd, GError **error)
{
    JsonObject *arguments = cli_name(name);

    json_object_set_string_member(arguments, "file", path);
    if (at != NULL)
        json_object_set_string_member(arguments, "at", at);
    return call_with_file(cli, "export", arguments, fd, error);
}

static gboolean
export_to_stdout(Cli *cli, const char *name, const char *at, GError **error)
{
    if (isatty(STDOUT_FILENO) || cli->json)
        return fail(error, CONTROL_ERROR_INVALID,
                    "export -: the file goes to standard output: lead it to a pipe or a file, "
                    "without --json");
    g_autoptr(JsonObject) result =
        export_call(cli, name, "standard output", at, STDOUT_FILENO, error);
    return result != NULL;
}

gboolean
cli_export(Cli *cli, int argc, char **argv, GError **error)
{
    char *words[2] = {NULL, NULL};
    g_autofree char *at = NULL;
    gboolean force = FALSE;
    const GOptionEntry options[] = {
        {"at", 0, 0, G_OPTION_ARG_FILENAME, &at, "Checkpoint: number or label (the last one)",
         "ID"},
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "Replace a file that is there", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "NAME FILE|- [--at ID] [--force]", options, 2, words, error))
        return FALSE;
    if (strcmp(words[1], "-") == 0)
        return export_to_stdout(cli, words[0], at, error);
    NewFile file = {.path = words[1], .replace = force, .fd = -1};
    if (!file_open(&file, error))
        return FALSE;
    g_autoptr(JsonObject) result = export_call(cli, words[0], words[1], at, file.fd, error);
    gboolean good = result != NULL && file_publish(&file, error);
    file_clear(&file);
    if (!good)
        return FALSE;
    if (!cli->json)
        printf("%s: checkpoint %" G_GINT64_FORMAT " exported to %s, %" G_GINT64_FORMAT " bytes\n",
               words[0], json_get_int(result, "checkpoint", 0), words[1],
               json_get_int(result, "bytes", 0));
    return cli_print_json(cli, result);
}

/* ---- import ---- */

static int
import_open(const char *path, GError **error)
{
    struct stat st;
    int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        fail(error, CONTROL_ERROR_FAILED, "%s: %s", path, g_strerror(errno));
    } else if (S_ISDIR(st.st_mode) || isatty(fd)) {
        fail(error, CONTROL_ERROR_INVALID, "%s: it is no file of district export", path);
    } else {
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* A line for each of the paths in an answer. what: the words between it and what is there now. */
static void
print_paths(JsonObject *result, const char *name, const char *which, const char *what)
{
    JsonArray *paths = json_get_array(result, which);

    for (guint i = 0; paths != NULL && i < json_array_get_length(paths); i++) {
        JsonNode *node = json_array_get_element(paths, i);
        JsonObject *item = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        /* It is of the file, and so whoever made that could talk to the terminal. */
        g_autofree char *value = g_strescape(json_get_string(item, "value", "?"), NULL);
        printf("%s: [Member %s] %s=%s %s%s\n", name, json_get_string(item, "member", "?"),
               json_get_string(item, "key", "?"), value, what, json_get_string(item, "now", ""));
    }
}

static void
print_imported(JsonObject *result)
{
    const char *name = json_get_string(result, "name", "?");

    printf("%s imported, as it was in epoch %" G_GINT64_FORMAT ": district start %s\n", name,
           json_get_int(result, "epoch", 0), name);
    print_paths(result, name, "replaced", "is not written to; it is now ");
    print_paths(result, name, "reads", "is read from this host");
}

gboolean
cli_import(Cli *cli, int argc, char **argv, GError **error)
{
    char *path = NULL;
    g_autofree char *as = NULL;
    gboolean isolated = FALSE;
    const GOptionEntry options[] = {
        {"as", 0, 0, G_OPTION_ARG_FILENAME, &as, "Name of the new district (as in the file)",
         "NAME"},
        {"isolated", 0, 0, G_OPTION_ARG_NONE, &isolated, "Without Bridge=: no way out", NULL},
        {0},
    };

    if (!cli_parse(&argc, &argv, "FILE|- [--as NAME] [--isolated]", options, 1, &path, error))
        return FALSE;
    int fd = import_open(path, error);
    if (fd < 0)
        return FALSE;
    JsonObject *arguments = json_object_new();
    json_object_set_string_member(arguments, "file",
                                  strcmp(path, "-") == 0 ? "standard input" : path);
    json_object_set_boolean_member(arguments, "isolated", isolated);
    if (as != NULL)
        json_object_set_string_member(arguments, "as", as);
    g_autoptr(JsonObject) result = call_with_file(cli, "import", arguments, fd, error);
    close(fd);
    if (result == NULL)
        return FALSE;
    if (!cli->json)
        print_imported(result);
    return cli_print_json(cli, result);
}
