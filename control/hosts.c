/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hosts this one knows, kept in STATE/hosts.json. */
#include "control/hosts.h"
#include "control/error.h"
#include "control/json.h"
#include "control/store.h"
#include "control/units.h"
#include "common/tls.h"

#include <string.h>

void
host_free(Host *host)
{
    if (host == NULL)
        return;
    g_free(host->name);
    g_free(host->address);
    g_free(host->second_address);
    g_free(host);
}

/* Only what can stand in a host name or an IP address: it ends up in log lines and commands. */
static gboolean
address_good(const char *address)
{
    size_t len = strlen(address);

    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(address[i]) && strchr(".-:%_", address[i]) == NULL)
            return FALSE;
    }
    return len > 0 && len < 254 && address[0] != '-';
}

/* Where the port starts in text, or NULL; *host_len: length of what is before. */
static const char *
find_port(const char *text, const char **host, size_t *host_len)
{
    const char *colon = strrchr(text, ':');

    *host = text;
    *host_len = strlen(text);
    if (text[0] == '[' && strchr(text, ']') != NULL) {
        const char *close = strchr(text, ']');
        *host = text + 1;
        *host_len = (size_t)(close - text) - 1;
        return close[1] == ':' ? close + 2 : close[1] == '\0' ? NULL : "";
    }
    if (colon == NULL || strchr(text, ':') != colon)
        return NULL; /* none, or a bare IPv6 address */
    *host_len = (size_t)(colon - text);
    return colon + 1;
}

gboolean
host_parse_address(const char *text, char **address, uint16_t *port, GError **error)
{
    const char *host = NULL;
    size_t host_len = 0;
    guint64 number = *port;
    const char *digits = find_port(text, &host, &host_len);
    g_autofree char *name = g_strndup(host, host_len);

    if (!address_good(name) ||
        (digits != NULL && !g_ascii_string_to_unsigned(digits, 10, 1, 65535, &number, NULL))) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "\"%.100s\" is not an address: write NAME, IP, NAME:PORT or [IPV6]:PORT", text);
        return FALSE;
    }
    *address = g_steal_pointer(&name);
    *port = (uint16_t)number;
    return TRUE;
}

static char *
hosts_path(const char *state_dir)
{
    return g_build_filename(state_dir, "hosts.json", NULL);
}

static Host *
host_from_json(JsonObject *item)
{
    const char *name = json_get_string(item, "name", "");
    const char *address = json_get_string(item, "address", "");
    gint64 port = json_get_int(item, "port", 0);

    if (!units_check_name(name, NULL) || !address_good(address) || port < 1 || port > 65535)
        return NULL;
    Host *host = g_new0(Host, 1);
    host->name = g_strdup(name);
    host->address = g_strdup(address);
    host->second_address = g_strdup(json_get_string(item, "second_address", NULL));
    host->port = (uint16_t)port;
    host->learned = json_get_bool(item, "learned", FALSE);
    return host;
}

static gboolean
hosts_read(const char *text, gsize len, GPtrArray *hosts)
{
    g_autoptr(JsonObject) object = json_parse_object(text, len, NULL);
    JsonArray *array = json_get_array(object, "hosts");

    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        JsonNode *node = json_array_get_element(array, i);
        Host *host =
            JSON_NODE_HOLDS_OBJECT(node) ? host_from_json(json_node_get_object(node)) : NULL;
        if (host == NULL)
            return FALSE;
        g_ptr_array_add(hosts, host);
    }
    return array != NULL;
}

GPtrArray *
hosts_load(const char *state_dir, GError **error)
{
    g_autoptr(GPtrArray) hosts = g_ptr_array_new_with_free_func((GDestroyNotify)host_free);
    g_autofree char *path = hosts_path(state_dir);
    g_autofree char *text = NULL;
    gsize len = 0;

    if (!g_file_get_contents(path, &text, &len, NULL) || hosts_read(text, len, hosts))
        return g_steal_pointer(&hosts);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: damaged: remove it and add the hosts again", path);
    return NULL;
}

gboolean
hosts_save(const char *state_dir, GPtrArray *hosts, GError **error)
{
    g_autofree char *path = hosts_path(state_dir);
    g_autoptr(JsonObject) object = json_object_new();
    JsonArray *array = json_array_new();

    for (guint i = 0; i < hosts->len; i++) {
        const Host *host = hosts->pdata[i];
        JsonObject *item = json_object_new();
        json_object_set_string_member(item, "name", host->name);
        json_object_set_string_member(item, "address", host->address);
        json_object_set_int_member(item, "port", host->port);
        json_object_set_boolean_member(item, "learned", host->learned);
        if (host->second_address != NULL)
            json_object_set_string_member(item, "second_address", host->second_address);
        json_array_add_object_element(array, item);
    }
    json_object_set_array_member(object, "hosts", array);
    g_autofree char *text = json_to_text(object);
    return store_write_file(path, text, -1, TRUE, error);
}
