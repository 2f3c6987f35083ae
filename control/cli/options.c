/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options, tables and progress bars of the district command. */
#include "control/cli/cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH 40
/* Of a line with a bar: all but the bar and the text; and the last column, which may wrap. */
#define BAR_REST 10
#define COLUMNS_DEFAULT 80

/* All that is given goes to districtd in JSON. */
static gboolean
check_text(const char *verb, const char *text, GError **error)
{
    if (text == NULL || g_utf8_validate(text, -1, NULL))
        return TRUE;
    g_autofree char *shown = g_utf8_make_valid(text, -1);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: \"%s\" is not UTF-8, as names, labels and paths have to be", verb, shown);
    return FALSE;
}

/* Options with texts are of the type of file names, which takes them as they are; that of strings would
 * convert them from the locale, which "C" has no words for. */
static gboolean
check_options(const char *verb, const GOptionEntry *entries, GError **error)
{
    for (const GOptionEntry *i = entries; i != NULL && i->long_name != NULL; i++) {
        if (i->arg == G_OPTION_ARG_FILENAME && !check_text(verb, *(char **)i->arg_data, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
cli_parse(int *argc, char ***argv, const char *usage, const GOptionEntry *entries, int n_words,
          char **words, GError **error)
{
    g_autoptr(GOptionContext) context = g_option_context_new(usage);
    g_autofree char *command = g_strconcat("district ", (*argv)[0], NULL);

    g_set_prgname(command); /* for --help */
    if (entries != NULL)
        g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, error)) {
        g_prefix_error(error, "%s: ", (*argv)[0]);
        return FALSE;
    }
    if (!check_options((*argv)[0], entries, error))
        return FALSE;
    if (*argc - 1 != n_words) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "usage: %s%s%s", command,
                    usage[0] != '\0' ? " " : "", usage);
        return FALSE;
    }
    for (int i = 0; i < n_words; i++) {
        words[i] = (*argv)[i + 1];
        if (!check_text((*argv)[0], words[i], error))
            return FALSE;
    }
    return TRUE;
}

JsonObject *
cli_name(const char *name)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "name", name);
    return arguments;
}

gboolean
cli_print_json(const Cli *cli, JsonObject *result)
{
    if (cli->json) {
        g_autofree char *line = json_to_line(result);
        fputs(line, stdout);
        fflush(stdout);
    }
    return TRUE;
}

static void
measure_row(const char *row, gsize *widths, gsize n)
{
    g_auto(GStrv) cells = g_strsplit(row, "\t", (gint)n);

    for (gsize i = 0; cells[i] != NULL; i++)
        widths[i] = MAX(widths[i], (gsize)g_utf8_strlen(cells[i], -1));
}

static void
print_row(const char *row, const gsize *widths, gsize n)
{
    g_auto(GStrv) cells = g_strsplit(row, "\t", (gint)n);

    for (gsize i = 0; cells[i] != NULL; i++) {
        gboolean last = cells[i + 1] == NULL;
        gsize width = last ? 0 : widths[i] + 2;
        gsize len = (gsize)g_utf8_strlen(cells[i], -1);
        printf("%s%*s", cells[i], (int)(width > len ? width - len : 0), "");
    }
    putchar('\n');
}

void
cli_print_table(GPtrArray *rows)
{
    gsize widths[32] = {0};

    for (guint i = 0; i < rows->len; i++)
        measure_row(rows->pdata[i], widths, G_N_ELEMENTS(widths));
    for (guint i = 0; i < rows->len; i++)
        print_row(rows->pdata[i], widths, G_N_ELEMENTS(widths));
    fflush(stdout);
}

gboolean
cli_is_terminal(void)
{
    return isatty(STDERR_FILENO);
}

static int
terminal_columns(void)
{
    struct winsize size = {0};

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : COLUMNS_DEFAULT;
}

void
cli_progress(const char *what, guint64 done, guint64 total)
{
    if (!cli_is_terminal())
        return;
    if (total == 0) {
        fputs("\r\033[K", stderr);
        return;
    }
    int room = MAX(terminal_columns() - BAR_REST, 0);
    int width = MIN(room, BAR_WIDTH);
    double part = (double)MIN(done, total) / (double)total;
    g_autofree char *filled = g_strnfill((gsize)(part * width), '=');
    g_autofree char *text = g_utf8_substring(what, 0, MIN(g_utf8_strlen(what, -1), room - width));
    fprintf(stderr, "\r\033[K%s [%-*s] %3.0f %%", text, width, filled, part * 100);
}
