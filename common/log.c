/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Logging set-up: one line per message on stderr. */
#include "common/log.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

static char *log_prefix;
static gboolean log_debug;

static const char *
log_field(const GLogField *fields, gsize n_fields, const char *key)
{
    for (gsize i = 0; i < n_fields; i++) {
        if (strcmp(fields[i].key, key) == 0 && fields[i].length < 0)
            return fields[i].value;
    }
    return "";
}

static GLogWriterOutput
log_writer(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
    if ((level & (G_LOG_LEVEL_DEBUG | G_LOG_LEVEL_INFO)) && !log_debug)
        return G_LOG_WRITER_HANDLED;

    const char *severity = level & G_LOG_LEVEL_ERROR      ? "fatal: "
                           : level & G_LOG_LEVEL_CRITICAL ? "critical: "
                           : level & G_LOG_LEVEL_WARNING  ? "warning: "
                                                          : "";
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *stamp = g_date_time_format(now, "%H:%M:%S.%f");
    g_autofree char *line = g_strdup_printf("%s %s: %s%s\n", stamp, log_prefix, severity,
                                            log_field(fields, n_fields, "MESSAGE"));
    /* One write per line keeps lines of several processes on one file whole. */
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        return G_LOG_WRITER_UNHANDLED;
    return G_LOG_WRITER_HANDLED;
}

void
log_init(const char *program, const char *tag)
{
    log_prefix = tag ? g_strdup_printf("%s[%s]", program, tag) : g_strdup(program);
    log_debug = g_getenv("DISTRICT_DEBUG") != NULL;
    g_log_set_writer_func(log_writer, NULL, NULL);
}
