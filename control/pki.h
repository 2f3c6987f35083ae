/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Certificates of hosts. The first host that adds another becomes the CA; the other side joins with
 * a one-time token, so a two-host set-up is one command on each side and no file is copied by hand.
 *
 * A token is "<secret>.<sha256 of the CA certificate>" in base32/hex text: the joining side knows
 * by it that it talks to the right CA, the CA that the joiner was invited. It is valid once, for
 * PKI_TOKEN_SECONDS. Layout of the directory: common/tls.h, plus private/cakey.pem on the CA's
 * host.
 */
#ifndef DISTRICT_CONTROL_PKI_H
#define DISTRICT_CONTROL_PKI_H

#include <glib.h>
#include <stdint.h>

#define PKI_TOKEN_SECONDS 3600

/* TRUE if pki_dir has a complete identity (CA certificate, own certificates and keys). */
gboolean pki_present(const char *pki_dir);

/* Make a CA and this host's certificates (name in the SAN) unless an identity is there already. */
gboolean pki_init(const char *pki_dir, const char *host, GError **error);

/* Invite peer: store the token's hash in pki_dir/tokens (0600) and return the token (caller frees).
 * Fails on a host that has no CA key, naming where the CA is. */
char *pki_invite(const char *pki_dir, const char *peer, GError **error);

/*
 * Serve a join on an accepted connection (preamble "join" consumed; fd ownership passes): TLS with
 * the server's certificate only, check the token, sign the request. Blocks for at most 10 s: call
 * from a worker thread. *peer: the name that joined (caller frees).
 */
gboolean pki_join_serve(const char *pki_dir, int fd, char **peer, GError **error);

/* Join: get this host's (named host) certificates from peer's districtd at address:port. */
gboolean pki_join(const char *pki_dir, const char *host, const char *peer, const char *address,
                  uint16_t port, const char *token, GError **error);

#endif
