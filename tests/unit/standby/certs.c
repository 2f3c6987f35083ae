/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Certificates for tests: one CA, and a directory per host laid out as common/tls.h says. */
#include "client.h"

#include <glib/gstdio.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

static gnutls_x509_privkey_t
make_key(void)
{
    gnutls_x509_privkey_t key;

    gnutls_x509_privkey_init(&key);
    g_assert_cmpint(gnutls_x509_privkey_generate(
                        key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                    ==, 0);
    return key;
}

/* ca NULL: a self-signed CA. */
static gnutls_x509_crt_t
make_cert(const char *name, gnutls_x509_privkey_t key, gnutls_x509_crt_t ca,
          gnutls_x509_privkey_t ca_key)
{
    static uint32_t serial = 1;
    uint32_t number = GUINT32_TO_BE(serial++);
    gnutls_x509_crt_t cert;

    gnutls_x509_crt_init(&cert);
    gnutls_x509_crt_set_version(cert, 3);
    gnutls_x509_crt_set_serial(cert, &number, sizeof number);
    gnutls_x509_crt_set_activation_time(cert, time(NULL) - 3600);
    gnutls_x509_crt_set_expiration_time(cert, time(NULL) + 24 * 3600);
    gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                  (unsigned)strlen(name));
    gnutls_x509_crt_set_key(cert, key);
    gnutls_x509_crt_set_basic_constraints(cert, ca == NULL, -1);
    if (ca == NULL)
        gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_KEY_CERT_SIGN);
    else
        gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, name, (unsigned)strlen(name),
                                             GNUTLS_FSAN_SET);
    g_assert_cmpint(gnutls_x509_crt_sign2(cert, ca != NULL ? ca : cert, ca != NULL ? ca_key : key,
                                          GNUTLS_DIG_SHA256, 0),
                    ==, 0);
    return cert;
}

static void
save(const char *dir, const char *name, const gnutls_datum_t *pem)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *parent = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(parent, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, (const char *)pem->data, pem->size, NULL));
}

static void
save_cert(const char *dir, const char *name, gnutls_x509_crt_t cert)
{
    gnutls_datum_t pem;

    g_assert_cmpint(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pem), ==, 0);
    save(dir, name, &pem);
    gnutls_free(pem.data);
}

static void
save_key(const char *dir, const char *name, gnutls_x509_privkey_t key)
{
    gnutls_datum_t pem;

    g_assert_cmpint(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), ==, 0);
    save(dir, name, &pem);
    gnutls_free(pem.data);
}

void
certs_make(const char *dir, const char *const *hosts)
{
    gnutls_x509_privkey_t ca_key = make_key();
    gnutls_x509_crt_t ca = make_cert("test CA", ca_key, NULL, NULL);

    for (; *hosts != NULL; hosts++) {
        g_autofree char *host_dir = g_build_filename(dir, *hosts, NULL);
        gnutls_x509_privkey_t key = make_key();
        gnutls_x509_crt_t cert = make_cert(*hosts, key, ca, ca_key);

        save_cert(host_dir, "CA/cacert.pem", ca);
        save_cert(host_dir, "servercert.pem", cert);
        save_cert(host_dir, "clientcert.pem", cert);
        save_key(host_dir, "private/serverkey.pem", key);
        save_key(host_dir, "private/clientkey.pem", key);
        gnutls_x509_crt_deinit(cert);
        gnutls_x509_privkey_deinit(key);
    }
    gnutls_x509_crt_deinit(ca);
    gnutls_x509_privkey_deinit(ca_key);
}
