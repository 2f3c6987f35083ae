/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mutually authenticated TLS 1.3 between hosts (GnuTLS; RFC 8446). Each host has a certificate
 * whose subject alternative name (DNS) is its District host name, issued by the CA the operator
 * made. Files, as libvirt lays them out, below one directory: CA/cacert.pem   servercert.pem
 * clientcert.pem   private/serverkey.pem   private/clientkey.pem
 *
 * A channel owns its socket. It is used by one thread for sending and one for receiving at most, or
 * by one for both. All calls are bounded by the timeouts given.
 */
#ifndef DISTRICT_COMMON_TLS_H
#define DISTRICT_COMMON_TLS_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Every TCP connection between hosts opens with one fixed-size preamble in the clear, before TLS.
 * It only says which process the connection is for; nothing in it is trusted.
 */
#define TLS_PREAMBLE_BYTES 64 /* "DISTRICT/1 <kind> <district>\n", padded with NUL */
#define TLS_PORT_DEFAULT 7117

typedef enum {
    TLS_ERROR_FILES,   /* a certificate or key is missing or unreadable */
    TLS_ERROR_PEER,    /* the peer's certificate is not acceptable, or it speaks no TLS */
    TLS_ERROR_CLOSED,  /* end of stream */
    TLS_ERROR_TIMEOUT, /* the time limit passed */
    TLS_ERROR_SYSTEM,
} TlsError;

#define TLS_ERROR (tls_error_quark())
GQuark tls_error_quark(void);

typedef struct TlsIdentity TlsIdentity; /* certificates and key, loaded; immutable, ref-counted */
typedef struct TlsChannel TlsChannel;

/* Load from directory pki_dir. NULL with an error that names the file. */
TlsIdentity *tls_identity_load(const char *pki_dir, GError **error);
void tls_identity_unref(TlsIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsIdentity, tls_identity_unref)

/* Connect TCP to address:port; -1 with error set. */
int tls_tcp_connect(const char *address, uint16_t port, int timeout_ms, GError **error);

/* Send the preamble for kind ("control", "stream") and district ("-" for none) on a fresh socket.
 */
gboolean tls_preamble_send(int fd, const char *kind, const char *district, int timeout_ms,
                           GError **error);

/* Parse a preamble. FALSE if it is not one. kind and district: newly allocated. */
gboolean tls_preamble_parse(const char buf[TLS_PREAMBLE_BYTES], char **kind, char **district,
                            GError **error);

/*
 * Handshake as client or server on fd (ownership passes, closed on failure too). peer_name: the
 * name the peer's certificate must carry, NULL for any name the CA has signed.
 */
TlsChannel *tls_channel_client(TlsIdentity *identity, int fd, const char *peer_name, int timeout_ms,
                               GError **error);
TlsChannel *tls_channel_server(TlsIdentity *identity, int fd, const char *peer_name, int timeout_ms,
                               GError **error);

/*
 * For the one conversation that happens before a host has a certificate (control/pki.h): a server
 * that asks the client for none, and a client that accepts a server whose chain ends in the CA
 * certificate with this SHA-256 (32 bytes) and which carries peer_name.
 */
TlsChannel *tls_channel_server_any(TlsIdentity *identity, int fd, int timeout_ms, GError **error);
TlsChannel *tls_channel_client_pinned(int fd, const uint8_t ca_sha256[32], const char *peer_name,
                                      int timeout_ms, GError **error);

/* Close at once (no waiting for the peer). */
void tls_channel_free(TlsChannel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsChannel, tls_channel_free)

/* The name in the peer's certificate (first DNS SAN); owned by the channel. */
const char *tls_channel_peer_name(TlsChannel *channel);

/* The socket, for poll. tls_channel_pending: decrypted bytes that poll will not announce. */
int tls_channel_fd(TlsChannel *channel);
size_t tls_channel_pending(TlsChannel *channel);

/* Send all of data. */
gboolean tls_channel_send(TlsChannel *channel, const void *data, size_t len, int timeout_ms,
                          GError **error);

/* Receive exactly len bytes; timeout_ms bounds the whole of it. */
gboolean tls_channel_recv(TlsChannel *channel, void *buf, size_t len, int timeout_ms,
                          GError **error);

/* Receive between 1 and cap bytes. Returns the count, or -1 with error set. */
gssize tls_channel_recv_some(TlsChannel *channel, void *buf, size_t cap, int timeout_ms,
                             GError **error);

/* Make calls blocked on the channel in other threads fail soon (shutdown(2)); for stopping. */
void tls_channel_interrupt(TlsChannel *channel);

#endif
