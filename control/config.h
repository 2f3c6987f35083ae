/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* districtd.conf (districtd(8)). */
#ifndef DISTRICT_CONTROL_CONFIG_H
#define DISTRICT_CONTROL_CONFIG_H

#include <glib.h>
#include <stdint.h>

#define CONFIG_FILE_DEFAULT "/etc/district/districtd.conf"
#define CONFIG_SOCKET_NAME "districtd.sock"

typedef struct Config {
    char *host_name; /* this host's District name */
    char *state_dir;
    char *runtime_dir;
    char *log_dir;
    char *pki_dir;
    char *listen;      /* address for other hosts */
    char *libexec_dir; /* or NULL */
    uint16_t port;
} Config;

/*
 * Read file. When it does not exist and required is FALSE, all defaults apply. Unknown sections and
 * keys are errors that name the file.
 */
Config *config_load(const char *file, gboolean required, GError **error);
void config_free(Config *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Config, config_free)

/* Path of districtd's API socket; caller frees. */
char *config_socket_path(const Config *config);

#endif
