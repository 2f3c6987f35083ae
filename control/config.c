/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* districtd.conf: reading, defaults and checks. */
#include "control/config.h"
#include "control/error.h"
#include "control/units.h"
#include "common/tls.h"

#include <string.h>

static gboolean G_GNUC_PRINTF(4, 5)
    config_error(GError **error, const char *file, const char *key, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: [Daemon] %s=: %s", file, key,
                text);
    return FALSE;
}

static char **
config_field(Config *config, const char *key)
{
    const struct {
        const char *key;
        char **field;
    } rows[] = {
        {"HostName", &config->host_name},     {"StateDir", &config->state_dir},
        {"RuntimeDir", &config->runtime_dir}, {"LogDir", &config->log_dir},
        {"PkiDir", &config->pki_dir},         {"Listen", &config->listen},
        {"LibexecDir", &config->libexec_dir},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (strcmp(rows[i].key, key) == 0)
            return rows[i].field;
    }
    return NULL;
}

static gboolean
config_read_key(Config *config, GKeyFile *kf, const char *key, const char *file, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *value = g_key_file_get_string(kf, "Daemon", key, &why);

    if (value == NULL)
        return config_error(error, file, key, "%s", why->message);
    if (strcmp(key, "Port") == 0) {
        guint64 port = 0;
        if (!g_ascii_string_to_unsigned(value, 10, 1, 65535, &port, NULL))
            return config_error(error, file, key, "\"%.40s\" is not a port: give 1 to 65535",
                                value);
        config->port = (uint16_t)port;
        return TRUE;
    }
    char **field = config_field(config, key);
    if (field == NULL)
        return config_error(error, file, key, "unknown key: see districtd(8)");
    if (g_str_has_suffix(key, "Dir") && !g_path_is_absolute(value))
        return config_error(error, file, key, "\"%.200s\" is not an absolute path", value);
    g_free(*field);
    *field = g_steal_pointer(&value);
    return TRUE;
}

static gboolean
config_read(Config *config, GKeyFile *kf, const char *file, GError **error)
{
    g_auto(GStrv) groups = g_key_file_get_groups(kf, NULL);
    for (char **group = groups; *group != NULL; group++) {
        if (strcmp(*group, "Daemon") == 0)
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: [%.60s]: unknown section: use [Daemon]", file, *group);
        return FALSE;
    }
    g_auto(GStrv) keys = g_key_file_get_keys(kf, "Daemon", NULL, NULL);
    for (char **key = keys; key != NULL && *key != NULL; key++) {
        if (!config_read_key(config, kf, *key, file, error))
            return FALSE;
    }
    return TRUE;
}

static void
config_default(char **field, const char *value)
{
    if (*field == NULL)
        *field = g_strdup(value);
}

/* This machine's host name up to the first dot, in District's character set. */
static char *
config_default_host(void)
{
    g_autofree char *host = g_ascii_strdown(g_get_host_name(), -1);

    host[strcspn(host, ".")] = '\0';
    return g_steal_pointer(&host);
}

static gboolean
config_complete(Config *config, const char *file, GError **error)
{
    g_autoptr(GError) why = NULL;

    config_default(&config->state_dir, "/var/lib/district");
    config_default(&config->runtime_dir, "/run/district");
    config_default(&config->log_dir, "/var/log/district");
    config_default(&config->pki_dir, "/etc/pki/district");
    config_default(&config->listen, "0.0.0.0");
    if (config->host_name == NULL)
        config->host_name = config_default_host();
    if (!units_check_name(config->host_name, &why))
        return config_error(error, file, "HostName", "%s", why->message);
    return TRUE;
}

Config *
config_load(const char *file, gboolean required, GError **error)
{
    g_autoptr(Config) config = g_new0(Config, 1);
    g_autoptr(GKeyFile) kf = g_key_file_new();
    g_autoptr(GError) why = NULL;

    config->port = TLS_PORT_DEFAULT;
    if (!g_key_file_load_from_file(kf, file, G_KEY_FILE_NONE, &why)) {
        if (required || !g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: %s", file, why->message);
            return NULL;
        }
    } else if (!config_read(config, kf, file, error)) {
        return NULL;
    }
    if (!config_complete(config, file, error))
        return NULL;
    return g_steal_pointer(&config);
}

void
config_free(Config *config)
{
    if (config == NULL)
        return;
    g_free(config->host_name);
    g_free(config->state_dir);
    g_free(config->runtime_dir);
    g_free(config->log_dir);
    g_free(config->pki_dir);
    g_free(config->listen);
    g_free(config->libexec_dir);
    g_free(config);
}

char *
config_socket_path(const Config *config)
{
    return g_build_filename(config->runtime_dir, CONFIG_SOCKET_NAME, NULL);
}
