/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Certificates of hosts: CA, own identity, invitation and join.
 *
 * One key pair serves a host as client and as server; it is written under both names because that
 * is the layout libvirt and QEMU users know. The token is kept as a hash in a file named after the
 * peer and is removed by its first use, right or wrong, so that it cannot be guessed at.
 */
#include "control/pki.h"

#include "common/clock.h"
#include "common/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PKI_JOIN_MS 10000
#define PKI_JOIN_BYTES_MAX (64 * 1024)
#define PKI_CERT_DAYS 3650
#define PKI_SECRET_BYTES 20
#define PKI_SHA256_BYTES 32

#define PKI_ERROR g_quark_from_static_string("pki-error-quark")

static void
pki_set_error(GError **error, const char *what, const char *why)
{
    g_set_error(error, PKI_ERROR, 0, "%s: %s", what, why);
}

/* ---- Files ---- */

static gboolean
pki_write(const char *dir, const char *name, const char *text, int mode, GError **error)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *parent = g_path_get_dirname(path);

    if (g_mkdir_with_parents(parent, mode == 0600 ? 0700 : 0755) < 0) {
        pki_set_error(error, parent, g_strerror(errno));
        return FALSE;
    }
    return g_file_set_contents_full(
        path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, mode, error);
}

static char *
pki_read(const char *dir, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, error) ? text : NULL;
}

static gboolean
pki_has(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    return g_file_test(path, G_FILE_TEST_IS_REGULAR);
}

gboolean
pki_present(const char *dir)
{
    return pki_has(dir, "CA/cacert.pem") && pki_has(dir, "servercert.pem") &&
           pki_has(dir, "private/serverkey.pem") && pki_has(dir, "clientcert.pem") &&
           pki_has(dir, "private/clientkey.pem");
}

static gboolean
pki_store_identity(const char *dir, const char *ca, const char *cert, const char *key,
                   GError **error)
{
    return pki_write(dir, "private/serverkey.pem", key, 0600, error) &&
           pki_write(dir, "private/clientkey.pem", key, 0600, error) &&
           pki_write(dir, "CA/cacert.pem", ca, 0644, error) &&
           pki_write(dir, "clientcert.pem", cert, 0644, error) &&
           pki_write(dir, "servercert.pem", cert, 0644, error);
}

/* ---- Keys and certificates ---- */

static char *
pki_take_pem(int rc, gnutls_datum_t *pem, const char *what, GError **error)
{
    char *text = NULL;

    if (rc < 0)
        pki_set_error(error, what, gnutls_strerror(rc));
    else
        text = g_strndup((char *)pem->data, pem->size);
    gnutls_free(pem->data);
    return text;
}

static gnutls_x509_privkey_t
pki_key_new(GError **error)
{
    gnutls_x509_privkey_t key;

    gnutls_x509_privkey_init(&key);
    int rc = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                          GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    if (rc < 0) {
        pki_set_error(error, "cannot generate a key", gnutls_strerror(rc));
        gnutls_x509_privkey_deinit(key);
        return NULL;
    }
    return key;
}

static char *
pki_key_pem(gnutls_x509_privkey_t key, GError **error)
{
    gnutls_datum_t pem = {0};

    return pki_take_pem(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), &pem,
                        "cannot export a key", error);
}

static char *
pki_cert_pem(gnutls_x509_crt_t crt, GError **error)
{
    gnutls_datum_t pem = {0};

    return pki_take_pem(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem), &pem,
                        "cannot export a certificate", error);
}

/* What CA and host certificates have in common: version, serial, validity, subject. */
static gnutls_x509_crt_t
pki_cert_new(const char *common_name)
{
    gnutls_x509_crt_t crt;
    uint8_t serial[16];
    time_t now = time(NULL);

    gnutls_x509_crt_init(&crt);
    gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
    serial[0] &= 0x7f; /* RFC 5280 §4.1.2.2: a positive integer */
    gnutls_x509_crt_set_version(crt, 3);
    gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
    /* Hosts' clocks may differ by some hours at installation. */
    gnutls_x509_crt_set_activation_time(crt, now - 24 * 3600);
    gnutls_x509_crt_set_expiration_time(crt, now + PKI_CERT_DAYS * 24L * 3600);
    gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, common_name,
                                  (unsigned)strlen(common_name));
    return crt;
}

static char *
pki_sign(gnutls_x509_crt_t crt, gnutls_x509_crt_t ca, gnutls_x509_privkey_t ca_key, GError **error)
{
    int rc = gnutls_x509_crt_sign2(crt, ca, ca_key, GNUTLS_DIG_SHA256, 0);

    if (rc < 0) {
        pki_set_error(error, "cannot sign a certificate", gnutls_strerror(rc));
        return NULL;
    }
    return pki_cert_pem(crt, error);
}

static char *
pki_make_ca(gnutls_x509_privkey_t key, GError **error)
{
    gnutls_x509_crt_t crt = pki_cert_new("District host CA");

    gnutls_x509_crt_set_key(crt, key);
    gnutls_x509_crt_set_ca_status(crt, 1);
    gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
    char *pem = pki_sign(crt, crt, key, error);
    gnutls_x509_crt_deinit(crt);
    return pem;
}

typedef struct PkiCa {
    gnutls_x509_crt_t crt;
    gnutls_x509_privkey_t key;
    char *pem;
} PkiCa;

static void
pki_ca_free(PkiCa *ca)
{
    gnutls_x509_crt_deinit(ca->crt);
    gnutls_x509_privkey_deinit(ca->key);
    g_free(ca->pem);
    g_free(ca);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PkiCa, pki_ca_free)

static PkiCa *
pki_ca_load(const char *dir, GError **error)
{
    if (!pki_has(dir, "private/cakey.pem")) {
        g_set_error(error, PKI_ERROR, 0,
                    "%s has no CA key: run 'district host add' on the host that made the first "
                    "certificates",
                    dir);
        return NULL;
    }
    g_autofree char *key = pki_read(dir, "private/cakey.pem", error);
    g_autofree char *pem = key ? pki_read(dir, "CA/cacert.pem", error) : NULL;
    if (!pem)
        return NULL;

    g_autoptr(PkiCa) ca = g_new0(PkiCa, 1);
    gnutls_datum_t k = {(unsigned char *)key, (unsigned)strlen(key)};
    gnutls_datum_t c = {(unsigned char *)pem, (unsigned)strlen(pem)};
    gnutls_x509_crt_init(&ca->crt);
    gnutls_x509_privkey_init(&ca->key);
    int rc = gnutls_x509_privkey_import(ca->key, &k, GNUTLS_X509_FMT_PEM);
    if (rc >= 0)
        rc = gnutls_x509_crt_import(ca->crt, &c, GNUTLS_X509_FMT_PEM);
    if (rc < 0) {
        pki_set_error(error, "cannot read the CA", gnutls_strerror(rc));
        return NULL;
    }
    ca->pem = g_steal_pointer(&pem);
    return g_steal_pointer(&ca);
}

/* Issue a certificate for host; key and crq: exactly one is given, for its public key. */
static char *
pki_issue(const PkiCa *ca, const char *host, gnutls_x509_privkey_t key, gnutls_x509_crq_t crq,
          GError **error)
{
    gnutls_x509_crt_t crt = pki_cert_new(host);
    int rc = key ? gnutls_x509_crt_set_key(crt, key) : gnutls_x509_crt_set_crq(crt, crq);

    /* set_crq copies the subject as well: put ours back, the request has no say in it. */
    if (rc >= 0)
        rc = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, host,
                                           (unsigned)strlen(host));
    if (rc >= 0)
        rc = gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, host,
                                                  (unsigned)strlen(host), GNUTLS_FSAN_SET);
    if (rc < 0) {
        pki_set_error(error, "cannot make a certificate", gnutls_strerror(rc));
        gnutls_x509_crt_deinit(crt);
        return NULL;
    }
    gnutls_x509_crt_set_ca_status(crt, 0);
    gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
    gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
    gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
    char *pem = pki_sign(crt, ca->crt, ca->key, error);
    gnutls_x509_crt_deinit(crt);
    return pem;
}

static gboolean
pki_init_ca(const char *dir, GError **error)
{
    gnutls_x509_privkey_t key = pki_key_new(error);

    if (!key)
        return FALSE;
    g_autofree char *key_pem = pki_key_pem(key, error);
    g_autofree char *ca = key_pem ? pki_make_ca(key, error) : NULL;
    gnutls_x509_privkey_deinit(key);
    return ca && pki_write(dir, "CA/cacert.pem", ca, 0644, error) &&
           pki_write(dir, "private/cakey.pem", key_pem, 0600, error);
}

gboolean
pki_init(const char *dir, const char *host, GError **error)
{
    if (pki_present(dir))
        return TRUE;
    if (!pki_has(dir, "private/cakey.pem")) {
        if (pki_has(dir, "CA/cacert.pem")) {
            g_set_error(error, PKI_ERROR, 0,
                        "%s has a CA certificate but no identity: complete it or empty it", dir);
            return FALSE;
        }
        if (!pki_init_ca(dir, error))
            return FALSE;
    }
    g_autoptr(PkiCa) ca = pki_ca_load(dir, error);
    gnutls_x509_privkey_t key = ca ? pki_key_new(error) : NULL;
    if (!key)
        return FALSE;
    g_autofree char *key_pem = pki_key_pem(key, error);
    g_autofree char *cert = key_pem ? pki_issue(ca, host, key, NULL, error) : NULL;
    gnutls_x509_privkey_deinit(key);
    return cert && pki_store_identity(dir, ca->pem, cert, key_pem, error);
}

/* ---- Tokens ---- */

static char *
pki_hex(const uint8_t *data, size_t len)
{
    GString *text = g_string_sized_new(len * 2);

    for (size_t i = 0; i < len; i++)
        g_string_append_printf(text, "%02x", data[i]);
    return g_string_free(text, FALSE);
}

static gboolean
pki_unhex(const char *text, uint8_t *out, size_t len)
{
    if (strlen(text) != len * 2)
        return FALSE;
    for (size_t i = 0; i < len; i++) {
        int hi = g_ascii_xdigit_value(text[2 * i]), lo = g_ascii_xdigit_value(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return FALSE;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return TRUE;
}

/* SHA-256 of the CA certificate's DER form, as the token carries it. */
static gboolean
pki_ca_digest(const PkiCa *ca, uint8_t digest[PKI_SHA256_BYTES], GError **error)
{
    size_t size = PKI_SHA256_BYTES;
    int rc = gnutls_x509_crt_get_fingerprint(ca->crt, GNUTLS_DIG_SHA256, digest, &size);

    if (rc < 0)
        pki_set_error(error, "CA certificate", gnutls_strerror(rc));
    return rc >= 0;
}

static char *
pki_token_file(const char *peer)
{
    return g_strdup_printf("tokens/%s", peer);
}

char *
pki_invite(const char *dir, const char *peer, GError **error)
{
    uint8_t secret[PKI_SECRET_BYTES], digest[PKI_SHA256_BYTES];
    g_autoptr(PkiCa) ca = pki_ca_load(dir, error);

    if (!ca || !pki_ca_digest(ca, digest, error))
        return NULL;
    gnutls_rnd(GNUTLS_RND_KEY, secret, sizeof(secret));
    g_autofree char *secret_text = pki_hex(secret, sizeof(secret));
    g_autofree char *hash = g_compute_checksum_for_string(G_CHECKSUM_SHA256, secret_text, -1);
    g_autofree char *content = g_strdup_printf("%s %" G_GINT64_FORMAT "\n", hash,
                                               g_get_real_time() / 1000000 + PKI_TOKEN_SECONDS);
    g_autofree char *file = pki_token_file(peer);
    if (!pki_write(dir, file, content, 0600, error))
        return NULL;
    g_autofree char *digest_text = pki_hex(digest, sizeof(digest));
    return g_strdup_printf("%s.%s", secret_text, digest_text);
}

/* Use up peer's token. TRUE if secret is the one that was given out and it is still valid. */
static gboolean
pki_token_redeem(const char *dir, const char *peer, const char *secret, GError **error)
{
    g_autofree char *file = pki_token_file(peer);
    g_autofree char *path = g_build_filename(dir, file, NULL);
    g_autofree char *content = pki_read(dir, file, NULL);
    char hash[65];
    gint64 expires = 0;

    if (!content || unlink(path) < 0 ||
        sscanf(content, "%64s %" G_GINT64_FORMAT, hash, &expires) != 2 || strlen(hash) != 64) {
        g_set_error(error, PKI_ERROR, 0, "host %s has no open invitation here", peer);
        return FALSE;
    }
    g_autofree char *given = g_compute_checksum_for_string(G_CHECKSUM_SHA256, secret, -1);
    if (gnutls_memcmp(given, hash, 64) != 0 || g_get_real_time() / 1000000 > expires) {
        g_set_error(error, PKI_ERROR, 0,
                    "the token of host %s is wrong or expired and is void now: invite it again",
                    peer);
        return FALSE;
    }
    return TRUE;
}

/* ---- Join: one JSON line each way ---- */

static int64_t
pki_deadline(void)
{
    return clock_monotonic_ns() + PKI_JOIN_MS * NS_PER_MS;
}

static int
pki_left_ms(int64_t deadline)
{
    return (int)MAX((deadline - clock_monotonic_ns()) / NS_PER_MS, 0);
}

static gboolean
pki_send_json(TlsChannel *ch, JsonBuilder *builder, int64_t deadline, GError **error)
{
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    g_autofree char *text = json_to_string(root, FALSE);
    g_autofree char *line = g_strconcat(text, "\n", NULL);

    return tls_channel_send(ch, line, strlen(line), pki_left_ms(deadline), error);
}

static JsonNode *
pki_recv_json(TlsChannel *ch, int64_t deadline, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char part[4096];

    while (!memchr(line->str, '\n', line->len)) {
        gssize n = tls_channel_recv_some(ch, part, sizeof(part), pki_left_ms(deadline), error);
        if (n < 0)
            return NULL;
        g_string_append_len(line, part, n);
        if (line->len > PKI_JOIN_BYTES_MAX) {
            g_set_error(error, PKI_ERROR, 0, "the peer sent more than a join message may have");
            return NULL;
        }
    }
    JsonNode *node = json_from_string(line->str, error);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        g_clear_error(error);
        g_set_error(error, PKI_ERROR, 0, "the peer sent no join message");
        g_clear_pointer(&node, json_node_unref);
    }
    return node;
}

static void
pki_add_string(JsonBuilder *builder, const char *name, const char *value)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_string_value(builder, value);
}

/* A host name as certificates and file names carry it. */
static gboolean
pki_name_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return n > 0 && n <= 40 && name[n] == '\0' && name[0] != '-';
}

static const char *
pki_member(JsonNode *node, const char *name)
{
    return json_object_get_string_member_with_default(json_node_get_object(node), name, "");
}

/* Check the request and sign it. Returns the certificate; *peer is set. */
static char *
pki_answer_join(const PkiCa *ca, const char *dir, JsonNode *request, char **peer, GError **error)
{
    const char *name = pki_member(request, "name");
    const char *csr = pki_member(request, "request");
    gnutls_datum_t pem = {(unsigned char *)csr, (unsigned)strlen(csr)};
    gnutls_x509_crq_t crq;
    char *cert = NULL;

    if (!pki_name_valid(name)) {
        g_set_error(error, PKI_ERROR, 0, "a host of no valid name asked to join");
        return NULL;
    }
    if (!pki_token_redeem(dir, name, pki_member(request, "secret"), error))
        return NULL;
    gnutls_x509_crq_init(&crq);
    if (gnutls_x509_crq_import(crq, &pem, GNUTLS_X509_FMT_PEM) < 0 ||
        gnutls_x509_crq_verify(crq, 0) < 0)
        g_set_error(error, PKI_ERROR, 0, "host %s sent no valid certificate request", name);
    else
        cert = pki_issue(ca, name, NULL, crq, error);
    gnutls_x509_crq_deinit(crq);
    if (cert)
        *peer = g_strdup(name);
    return cert;
}

gboolean
pki_join_serve(const char *dir, int fd, char **peer, GError **error)
{
    g_autoptr(TlsIdentity) identity = tls_identity_load(dir, error);
    g_autoptr(PkiCa) ca = identity ? pki_ca_load(dir, error) : NULL;
    int64_t deadline = pki_deadline(); /* for all of it: who joins is not known yet */

    if (!ca) {
        close(fd);
        return FALSE;
    }
    g_autoptr(TlsChannel) ch = tls_channel_server_any(identity, fd, pki_left_ms(deadline), error);
    g_autoptr(JsonNode) request = ch ? pki_recv_json(ch, deadline, error) : NULL;
    if (!request)
        return FALSE;

    g_autoptr(GError) refusal = NULL;
    g_autofree char *name = NULL;
    g_autofree char *cert = pki_answer_join(ca, dir, request, &name, &refusal);
    g_autoptr(JsonBuilder) reply = json_builder_new();
    json_builder_begin_object(reply);
    if (cert) {
        pki_add_string(reply, "certificate", cert);
        pki_add_string(reply, "ca", ca->pem);
    } else {
        pki_add_string(reply, "error", refusal ? refusal->message : "refused");
    }
    json_builder_end_object(reply);
    if (!pki_send_json(ch, reply, deadline, error))
        return FALSE;
    if (!cert) {
        g_propagate_error(error, g_steal_pointer(&refusal));
        return FALSE;
    }
    *peer = g_steal_pointer(&name);
    return TRUE;
}

static char *
pki_make_request(const char *host, gnutls_x509_privkey_t key, GError **error)
{
    gnutls_x509_crq_t crq;
    gnutls_datum_t pem = {0};

    gnutls_x509_crq_init(&crq);
    gnutls_x509_crq_set_version(crq, 1);
    gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, host,
                                  (unsigned)strlen(host));
    int rc = gnutls_x509_crq_set_key(crq, key);
    if (rc >= 0)
        rc = gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0);
    if (rc >= 0)
        rc = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &pem);
    gnutls_x509_crq_deinit(crq);
    return pki_take_pem(rc, &pem, "cannot make a certificate request", error);
}

/* The conversation of a join; returns the peer's answer. */
static JsonNode *
pki_ask(const char *host, const char *peer, const char *address, uint16_t port, const char *secret,
        const uint8_t digest[PKI_SHA256_BYTES], const char *csr, GError **error)
{
    int fd = tls_tcp_connect(address, port, PKI_JOIN_MS, error);

    if (fd < 0)
        return NULL;
    if (!tls_preamble_send(fd, "join", "-", PKI_JOIN_MS, error)) {
        close(fd);
        return NULL;
    }
    g_autoptr(TlsChannel) ch = tls_channel_client_pinned(fd, digest, peer, PKI_JOIN_MS, error);
    if (!ch)
        return NULL;
    g_autoptr(JsonBuilder) request = json_builder_new();
    json_builder_begin_object(request);
    pki_add_string(request, "name", host);
    pki_add_string(request, "secret", secret);
    pki_add_string(request, "request", csr);
    json_builder_end_object(request);
    return pki_send_json(ch, request, pki_deadline(), error)
               ? pki_recv_json(ch, pki_deadline(), error)
               : NULL;
}

gboolean
pki_join(const char *dir, const char *host, const char *peer, const char *address, uint16_t port,
         const char *token, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(token, ".", 2);
    uint8_t digest[PKI_SHA256_BYTES];

    if (pki_present(dir)) {
        g_set_error(error, PKI_ERROR, 0,
                    "%s already has certificates; to join another CA, move that directory away",
                    dir);
        return FALSE;
    }
    if (g_strv_length(parts) != 2 || !pki_unhex(parts[1], digest, sizeof(digest))) {
        g_set_error(error, PKI_ERROR, 0,
                    "the token is not complete: copy it whole from 'district host add' on %s",
                    peer);
        return FALSE;
    }
    gnutls_x509_privkey_t key = pki_key_new(error);
    if (!key)
        return FALSE;
    g_autofree char *key_pem = pki_key_pem(key, error);
    g_autofree char *csr = key_pem ? pki_make_request(host, key, error) : NULL;
    gnutls_x509_privkey_deinit(key);
    g_autoptr(JsonNode) reply =
        csr ? pki_ask(host, peer, address, port, parts[0], digest, csr, error) : NULL;
    if (!reply)
        return FALSE;
    if (*pki_member(reply, "error")) {
        g_set_error(error, PKI_ERROR, 0, "%s refused: %s", peer, pki_member(reply, "error"));
        return FALSE;
    }
    return pki_store_identity(dir, pki_member(reply, "ca"), pki_member(reply, "certificate"),
                              key_pem, error);
}
