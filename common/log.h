/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging set-up. All processes log with GLib (g_message, g_warning, g_debug) to stderr, a line
 * each, prefixed with time, program and district or member, so that the logs of one host can be
 * merged. g_debug is shown when DISTRICT_DEBUG is set. Nothing in District logs from inside a
 * pause.
 */
#ifndef DISTRICT_COMMON_LOG_H
#define DISTRICT_COMMON_LOG_H

/*
 * Install the log writer for this process. tag: what this process serves ("shop", "shop/db"), may
 * be NULL; copied. Call once, before any thread is started.
 */
void log_init(const char *program, const char *tag);

#endif
