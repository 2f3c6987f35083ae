/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two Linux TCP stacks on either side of a real district-net: two network namespaces, each with a
 * TAP device. "far" is what the outside of a district is; its TAP is district-net's. "guest" stands
 * for a member: a thread carries frames between its TAP and the member's socket.
 */
#ifndef DISTRICT_TESTS_NETPROXY_TWOHOSTS_H
#define DISTRICT_TESTS_NETPROXY_TWOHOSTS_H

#include <glib.h>
#include <netinet/in.h>

typedef enum { HOST_GUEST, HOST_FAR } Host;

typedef struct TwoHosts TwoHosts;

/* NULL with error set if this machine cannot do it (root and /dev/net/tun are needed). */
TwoHosts *two_hosts_new(const char *district_net, GError **error);
void two_hosts_free(TwoHosts *hosts);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TwoHosts, two_hosts_free)

/* Start district-net, and connect the guest to it unless without_guest. */
void two_hosts_start_net(TwoHosts *hosts, guint64 incarnation);
/* The guest's end of the wire: connected to the running district-net, or cut off. */
void two_hosts_plug(TwoHosts *hosts);
void two_hosts_unplug(TwoHosts *hosts);
/* SIGKILL. */
void two_hosts_kill_net(TwoHosts *hosts);
/* SIGTERM; it ends by itself, within 5 s. */
void two_hosts_end_net(TwoHosts *hosts);

/* A control connection to the running district-net. */
int two_hosts_control(TwoHosts *hosts);

/* The address of host, 10.99.0.1 or .2, fd99::1 or ::2. */
void two_hosts_address(Host host, int family, guint16 port, struct sockaddr_storage *address);
/* A TCP socket in host's stack, blocking, with 5 s time limits. */
int two_hosts_socket(TwoHosts *hosts, Host host, int family);
/* A connection from host to the other one's port: client_fd at host, server_fd at the other. */
void two_hosts_connect(TwoHosts *hosts, Host host, int family, guint16 port, int *client_fd,
                       int *server_fd);
/* Run a command of iproute2 in host's namespace. */
void two_hosts_run(TwoHosts *hosts, Host host, const char *command);

#endif
