/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mutually authenticated TLS 1.3 between hosts.
 *
 * Sockets are non-blocking and every wait is a poll with a deadline. One thread may send and another
 * receive, but not at the same moment: after 2^24 records GnuTLS changes the keys (RFC 8446 §4.6.3),
 * and whichever thread does so touches the other's direction as well. No lock is held in a wait.
 */
#include "common/tls.h"

#include "common/clock.h"
#include "common/page.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

G_DEFINE_QUARK(tls - error - quark, tls_error)

/* AES-128-GCM first: it is in hardware nearly everywhere; ChaCha20 where it is not offered. */
#define TLS_PRIORITY                                                                               \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305:+AES-256-GCM"
#define TLS_RECORD_BYTES 16384

struct TlsIdentity {
    gint refs;
    gnutls_certificate_credentials_t creds;
    gnutls_certificate_credentials_t join_creds; /* own chain with the CA, client's not verified */
};

struct TlsChannel {
    int fd;
    GMutex lock; /* guards session once the handshake is over */
    GMutex turn; /* to wait for lock: who sends a lot does not keep the other from receiving */
    gnutls_session_t session;
    TlsIdentity *identity;                   /* NULL for a pinned client */
    gnutls_certificate_credentials_t pinned; /* its credentials then */
    char *peer_name;
};

/* ---- Identity ---- */

static char *
tls_file(const char *dir, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    char *text = NULL;
    g_autoptr(GError) cause = NULL;

    if (!g_file_get_contents(path, &text, NULL, &cause)) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_FILES,
                    "%s; make host certificates with 'district host add'", cause->message);
        return NULL;
    }
    return text;
}

static gnutls_datum_t
tls_datum(char *text)
{
    return (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)strlen(text)};
}

static gboolean
tls_set_key(gnutls_certificate_credentials_t creds, char *cert, char *key, const char *what,
            GError **error)
{
    gnutls_datum_t c = tls_datum(cert), k = tls_datum(key);
    int rc = gnutls_certificate_set_x509_key_mem2(creds, &c, &k, GNUTLS_X509_FMT_PEM, NULL, 0);

    if (rc < 0) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_FILES, "%s certificate and key: %s", what,
                    gnutls_strerror(rc));
        return FALSE;
    }
    return TRUE;
}

static gboolean
tls_identity_fill(TlsIdentity *id, const char *dir, GError **error)
{
    g_autofree char *ca = tls_file(dir, "CA/cacert.pem", error);
    g_autofree char *cert = ca ? tls_file(dir, "servercert.pem", error) : NULL;
    g_autofree char *key = cert ? tls_file(dir, "private/serverkey.pem", error) : NULL;
    g_autofree char *ccert = key ? tls_file(dir, "clientcert.pem", error) : NULL;
    g_autofree char *ckey = ccert ? tls_file(dir, "private/clientkey.pem", error) : NULL;

    if (!ckey)
        return FALSE;
    gnutls_datum_t ca_pem = tls_datum(ca);
    int rc = gnutls_certificate_set_x509_trust_mem(id->creds, &ca_pem, GNUTLS_X509_FMT_PEM);
    if (rc < 1) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_FILES, "%s/CA/cacert.pem: no usable certificate",
                    dir);
        return FALSE;
    }
    g_autofree char *chain = g_strconcat(cert, "\n", ca, NULL);
    /* GnuTLS picks by the role; the server's pair must come first for servers without SNI. */
    return tls_set_key(id->creds, cert, key, "server", error) &&
           tls_set_key(id->creds, ccert, ckey, "client", error) &&
           tls_set_key(id->join_creds, chain, key, "server", error);
}

TlsIdentity *
tls_identity_load(const char *pki_dir, GError **error)
{
    TlsIdentity *id = g_new0(TlsIdentity, 1);

    id->refs = 1;
    gnutls_certificate_allocate_credentials(&id->creds);
    gnutls_certificate_allocate_credentials(&id->join_creds);
    if (!tls_identity_fill(id, pki_dir, error)) {
        tls_identity_unref(id);
        return NULL;
    }
    return id;
}

void
tls_identity_unref(TlsIdentity *id)
{
    if (!id || !g_atomic_int_dec_and_test(&id->refs))
        return;
    gnutls_certificate_free_credentials(id->creds);
    gnutls_certificate_free_credentials(id->join_creds);
    g_free(id);
}

/* ---- TCP and preamble ---- */

static gboolean
tls_wait(int fd, short events, int64_t deadline, GError **error)
{
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = events};
        int64_t left = deadline - clock_monotonic_ns();
        int n = poll(&pfd, 1, left <= 0 ? 0 : (int)((left + NS_PER_MS - 1) / NS_PER_MS));
        if (n > 0)
            return TRUE;
        if (n == 0) {
            g_set_error(error, TLS_ERROR, TLS_ERROR_TIMEOUT, "no answer within the time limit");
            return FALSE;
        }
        if (errno != EINTR) {
            g_set_error(error, TLS_ERROR, TLS_ERROR_SYSTEM, "poll: %s", g_strerror(errno));
            return FALSE;
        }
    }
}

static int64_t
tls_deadline(int timeout_ms)
{
    return clock_monotonic_ns() + timeout_ms * NS_PER_MS;
}

/* Connect to one resolved address; -1 with error set. */
static int
tls_tcp_connect_one(const struct addrinfo *ai, int64_t deadline, GError **error)
{
    int one = 1, so_error = 0;
    socklen_t len = sizeof(so_error);
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_SYSTEM, "socket: %s", g_strerror(errno));
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
        so_error = errno;
        if (so_error == EINPROGRESS) {
            if (!tls_wait(fd, POLLOUT, deadline, error)) {
                close(fd);
                return -1;
            }
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &so_error, &len);
        }
    }
    if (so_error != 0) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_SYSTEM, "%s", g_strerror(so_error));
        close(fd);
        return -1;
    }
    return fd;
}

int
tls_tcp_connect(const char *address, uint16_t port, int timeout_ms, GError **error)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    g_autofree char *service = g_strdup_printf("%u", port);
    int64_t deadline = tls_deadline(timeout_ms);
    int rc = getaddrinfo(address, service, &hints, &list);
    int fd = -1;
    g_autoptr(GError) last = NULL;

    if (rc != 0) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_SYSTEM, "%s: %s", address, gai_strerror(rc));
        return -1;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        /* An address that does not answer leaves their share of the time to the others. */
        int64_t now = clock_monotonic_ns(), left = 1;
        for (struct addrinfo *next = ai->ai_next; next; next = next->ai_next)
            left++;
        g_clear_error(&last);
        fd = tls_tcp_connect_one(ai, now + MAX(deadline - now, 0) / left, &last);
    }
    freeaddrinfo(list);
    if (fd < 0)
        g_set_error(error, TLS_ERROR, last ? last->code : TLS_ERROR_SYSTEM, "%s port %u: %s",
                    address, port, last ? last->message : "no address");
    return fd;
}

gboolean
tls_preamble_send(int fd, const char *kind, const char *district, int timeout_ms, GError **error)
{
    char buf[TLS_PREAMBLE_BYTES] = {0};
    int64_t deadline = tls_deadline(timeout_ms);
    int n = g_snprintf(buf, sizeof(buf), "DISTRICT/1 %s %s\n", kind, district);

    if (n >= (int)sizeof(buf)) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_SYSTEM, "district name %s is too long", district);
        return FALSE;
    }
    for (size_t done = 0; done < sizeof(buf);) {
        ssize_t sent = send(fd, buf + done, sizeof(buf) - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            done += (size_t)sent;
        } else if (errno == EAGAIN || errno == EINTR) {
            if (!tls_wait(fd, POLLOUT, deadline, error))
                return FALSE;
        } else {
            g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "send: %s", g_strerror(errno));
            return FALSE;
        }
    }
    return TRUE;
}

/* A word of a preamble: what a name may have, 1 to NAME_BYTES_MAX bytes of it. */
static gboolean
tls_word_valid(const char *word)
{
    size_t n = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

    return n > 0 && n <= NAME_BYTES_MAX && word[n] == '\0';
}

gboolean
tls_preamble_parse(const char buf[TLS_PREAMBLE_BYTES], char **kind, char **district, GError **error)
{
    const char *end = memchr(buf, '\n', TLS_PREAMBLE_BYTES);
    g_autofree char *line = end ? g_strndup(buf, (gsize)(end - buf)) : NULL;
    g_auto(GStrv) words = line ? g_strsplit(line, " ", 4) : NULL;

    if (!words || g_strv_length(words) != 3 || strcmp(words[0], "DISTRICT/1") != 0 ||
        !tls_word_valid(words[1]) || !tls_word_valid(words[2])) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER,
                    "not a District peer, or one of another version");
        return FALSE;
    }
    *kind = g_strdup(words[1]);
    *district = g_strdup(words[2]);
    return TRUE;
}

/* ---- Channel ---- */

static TlsChannel *
tls_channel_new(int fd, unsigned role, gnutls_certificate_credentials_t creds)
{
    TlsChannel *ch = g_new0(TlsChannel, 1);
    int one = 1;

    ch->fd = fd;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    g_mutex_init(&ch->lock);
    g_mutex_init(&ch->turn);
    gnutls_init(&ch->session, role | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(ch->session, TLS_PRIORITY, NULL);
    gnutls_credentials_set(ch->session, GNUTLS_CRD_CERTIFICATE, creds);
    gnutls_transport_set_int(ch->session, fd);
    return ch;
}

static gboolean
tls_fatal(TlsChannel *ch, int rc, GError **error)
{
    if (rc == GNUTLS_E_PREMATURE_TERMINATION || rc == 0) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "the peer closed the connection");
    } else if (rc == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        gnutls_datum_t text = {0};
        gnutls_certificate_verification_status_print(
            gnutls_session_get_verify_cert_status(ch->session), GNUTLS_CRT_X509, &text, 0);
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER, "the peer's certificate is refused: %s",
                    text.data ? (char *)text.data : "invalid");
        gnutls_free(text.data);
    } else if (rc == GNUTLS_E_PULL_ERROR || rc == GNUTLS_E_PUSH_ERROR) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "the connection broke");
    } else if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER, "the peer refused us: %s",
                    gnutls_alert_get_name(gnutls_alert_get(ch->session)));
    } else {
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER, "TLS: %s", gnutls_strerror(rc));
    }
    return FALSE;
}

/* Wait until the operation that returned a non-fatal code can go on. */
static gboolean
tls_retry(TlsChannel *ch, int rc, short events, int64_t deadline, GError **error)
{
    if (rc == GNUTLS_E_INTERRUPTED)
        return TRUE;
    if (rc == GNUTLS_E_AGAIN)
        return tls_wait(ch->fd, events, deadline, error);
    if (gnutls_error_is_fatal(rc))
        return tls_fatal(ch, rc, error);
    return TRUE;
}

static char *
tls_cert_name(const gnutls_datum_t *der)
{
    gnutls_x509_crt_t crt;
    char name[256];
    size_t size = sizeof(name);
    char *result = NULL;

    gnutls_x509_crt_init(&crt);
    if (gnutls_x509_crt_import(crt, der, GNUTLS_X509_FMT_DER) == 0 &&
        gnutls_x509_crt_get_subject_alt_name(crt, 0, name, &size, NULL) == GNUTLS_SAN_DNSNAME)
        result = g_strndup(name, size);
    gnutls_x509_crt_deinit(crt);
    return result;
}

static gboolean
tls_handshake(TlsChannel *ch, int timeout_ms, GError **error)
{
    int64_t deadline = tls_deadline(timeout_ms);
    unsigned n = 0;
    int rc;

    while ((rc = gnutls_handshake(ch->session)) < 0) {
        short events = gnutls_record_get_direction(ch->session) ? POLLOUT : POLLIN;
        if (!tls_retry(ch, rc, events, deadline, error))
            return FALSE;
    }
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(ch->session, &n);
    if (certs && n > 0)
        ch->peer_name = tls_cert_name(&certs[0]);
    return TRUE;
}

static TlsChannel *
tls_channel_mutual(TlsIdentity *id, int fd, unsigned role, const char *peer_name, int timeout_ms,
                   GError **error)
{
    TlsChannel *ch = tls_channel_new(fd, role, id->creds);

    g_atomic_int_inc(&id->refs);
    ch->identity = id;
    if (role == GNUTLS_SERVER)
        gnutls_certificate_server_set_request(ch->session, GNUTLS_CERT_REQUIRE);
    gnutls_session_set_verify_cert(ch->session, peer_name, 0);
    if (!tls_handshake(ch, timeout_ms, error)) {
        tls_channel_free(ch);
        return NULL;
    }
    if (!ch->peer_name) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER, "the peer's certificate carries no name");
        tls_channel_free(ch);
        return NULL;
    }
    return ch;
}

TlsChannel *
tls_channel_client(TlsIdentity *identity, int fd, const char *peer_name, int timeout_ms,
                   GError **error)
{
    return tls_channel_mutual(identity, fd, GNUTLS_CLIENT, peer_name, timeout_ms, error);
}

TlsChannel *
tls_channel_server(TlsIdentity *identity, int fd, const char *peer_name, int timeout_ms,
                   GError **error)
{
    return tls_channel_mutual(identity, fd, GNUTLS_SERVER, peer_name, timeout_ms, error);
}

TlsChannel *
tls_channel_server_any(TlsIdentity *identity, int fd, int timeout_ms, GError **error)
{
    TlsChannel *ch = tls_channel_new(fd, GNUTLS_SERVER, identity->join_creds);

    g_atomic_int_inc(&identity->refs);
    ch->identity = identity;
    if (!tls_handshake(ch, timeout_ms, error)) {
        tls_channel_free(ch);
        return NULL;
    }
    return ch;
}

/* The last certificate of the chain must be the pinned CA, and have issued the first for name. */
static gboolean
tls_verify_pinned(gnutls_session_t session, const uint8_t ca_sha256[32], const char *name)
{
    unsigned n = 0, status = ~0U;
    uint8_t digest[32];
    gnutls_x509_crt_t crt, ca;
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(session, &n);

    if (!certs || n < 2 ||
        gnutls_hash_fast(GNUTLS_DIG_SHA256, certs[n - 1].data, certs[n - 1].size, digest) < 0 ||
        memcmp(digest, ca_sha256, sizeof(digest)) != 0)
        return FALSE;
    gnutls_x509_crt_init(&crt);
    gnutls_x509_crt_init(&ca);
    gboolean good = gnutls_x509_crt_import(crt, &certs[0], GNUTLS_X509_FMT_DER) == 0 &&
                    gnutls_x509_crt_import(ca, &certs[n - 1], GNUTLS_X509_FMT_DER) == 0 &&
                    gnutls_x509_crt_verify(crt, &ca, 1, 0, &status) == 0 && status == 0 &&
                    gnutls_x509_crt_check_hostname(crt, name);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_crt_deinit(ca);
    return good;
}

TlsChannel *
tls_channel_client_pinned(int fd, const uint8_t ca_sha256[32], const char *peer_name,
                          int timeout_ms, GError **error)
{
    gnutls_certificate_credentials_t creds;

    gnutls_certificate_allocate_credentials(&creds);
    TlsChannel *ch = tls_channel_new(fd, GNUTLS_CLIENT, creds);
    ch->pinned = creds;
    if (!tls_handshake(ch, timeout_ms, error)) {
        tls_channel_free(ch);
        return NULL;
    }
    if (!tls_verify_pinned(ch->session, ca_sha256, peer_name)) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_PEER,
                    "the host answering is not %s of the CA in the token; get a new token there",
                    peer_name);
        tls_channel_free(ch);
        return NULL;
    }
    return ch;
}

void
tls_channel_free(TlsChannel *ch)
{
    if (!ch)
        return;
    /* A close-notify or a pending alert if there is room for it; no waiting. */
    gnutls_bye(ch->session, GNUTLS_SHUT_WR);
    close(ch->fd);
    gnutls_deinit(ch->session);
    g_mutex_clear(&ch->lock);
    g_mutex_clear(&ch->turn);
    if (ch->pinned)
        gnutls_certificate_free_credentials(ch->pinned);
    tls_identity_unref(ch->identity);
    g_free(ch->peer_name);
    g_free(ch);
}

const char *
tls_channel_peer_name(TlsChannel *ch)
{
    return ch->peer_name;
}

int
tls_channel_fd(TlsChannel *ch)
{
    return ch->fd;
}

/* For one call of GnuTLS; whoever waits is next. */
static void
tls_enter(TlsChannel *ch)
{
    g_mutex_lock(&ch->turn);
    g_mutex_lock(&ch->lock);
    g_mutex_unlock(&ch->turn);
}

size_t
tls_channel_pending(TlsChannel *ch)
{
    tls_enter(ch);
    size_t pending = gnutls_record_check_pending(ch->session);
    g_mutex_unlock(&ch->lock);
    return pending;
}

static ssize_t
tls_record_send(TlsChannel *ch, const char *data, size_t len)
{
    tls_enter(ch);
    ssize_t n = gnutls_record_send(ch->session, data, len);
    g_mutex_unlock(&ch->lock);
    return n;
}

static ssize_t
tls_record_recv(TlsChannel *ch, void *buf, size_t cap)
{
    tls_enter(ch);
    ssize_t n = gnutls_record_recv(ch->session, buf, cap);
    g_mutex_unlock(&ch->lock);
    return n;
}

gboolean
tls_channel_send(TlsChannel *ch, const void *data, size_t len, int timeout_ms, GError **error)
{
    int64_t deadline = tls_deadline(timeout_ms);

    for (size_t done = 0; done < len;) {
        size_t part = MIN(len - done, TLS_RECORD_BYTES);
        ssize_t n = tls_record_send(ch, (const char *)data + done, part);
        if (n > 0)
            done += (size_t)n;
        else if (!tls_retry(ch, (int)n, POLLOUT, deadline, error))
            return FALSE;
    }
    return TRUE;
}

gssize
tls_channel_recv_some(TlsChannel *ch, void *buf, size_t cap, int timeout_ms, GError **error)
{
    int64_t deadline = tls_deadline(timeout_ms);

    for (;;) {
        ssize_t n = tls_record_recv(ch, buf, cap);
        if (n > 0)
            return n;
        if (n == 0) {
            tls_fatal(ch, 0, error);
            return -1;
        }
        if (!tls_retry(ch, (int)n, POLLIN, deadline, error))
            return -1;
    }
}

gboolean
tls_channel_recv(TlsChannel *ch, void *buf, size_t len, int timeout_ms, GError **error)
{
    int64_t deadline = tls_deadline(timeout_ms);

    for (size_t done = 0; done < len;) {
        int64_t left_ms = (deadline - clock_monotonic_ns()) / NS_PER_MS;
        gssize n =
            tls_channel_recv_some(ch, (char *)buf + done, len - done, (int)MAX(left_ms, 0), error);
        if (n < 0)
            return FALSE;
        done += (size_t)n;
    }
    return TRUE;
}

void
tls_channel_interrupt(TlsChannel *ch)
{
    shutdown(ch->fd, SHUT_RDWR);
}
