/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hosts this one knows, kept in STATE/hosts.json. */
#ifndef DISTRICT_CONTROL_HOSTS_H
#define DISTRICT_CONTROL_HOSTS_H

#include <glib.h>
#include <stdint.h>

typedef struct Host {
    char *name;
    char *address;        /* host name or IP */
    char *second_address; /* a path that shares nothing with the first, or NULL */
    uint16_t port;
    gboolean
        learned; /* address and port are as the host said when it joined; it may correct them */
} Host;

void host_free(Host *host);

/*
 * "ADDRESS", "ADDRESS:PORT" or "[IPV6]:PORT"; without a port *port is left alone. FALSE with error
 * set if it is none of these.
 */
gboolean host_parse_address(const char *text, char **address, uint16_t *port, GError **error);

/* An array of Host (empty if the file is missing); NULL with error set if the file is damaged. */
GPtrArray *hosts_load(const char *state_dir, GError **error);
gboolean hosts_save(const char *state_dir, GPtrArray *hosts, GError **error);

#endif
