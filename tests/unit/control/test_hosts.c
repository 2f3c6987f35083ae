/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hosts: addresses as people write them, and the file. */
#include "control/error.h"
#include "control/hosts.h"

#include <glib/gstdio.h>

static void
check(const char *text, const char *address, uint16_t port)
{
    g_autofree char *got = NULL;
    uint16_t number = 7117;

    g_assert_true(host_parse_address(text, &got, &number, NULL));
    g_assert_cmpstr(got, ==, address);
    g_assert_cmpuint(number, ==, port);
}

static void
test_addresses(void)
{
    check("10.0.0.2", "10.0.0.2", 7117);
    check("10.0.0.2:99", "10.0.0.2", 99);
    check("host.example", "host.example", 7117);
    check("fe80::1", "fe80::1", 7117);
    check("[fe80::1]:99", "fe80::1", 99);
    check("[fe80::1]", "fe80::1", 7117);
}

static void
test_bad_addresses(void)
{
    static const char *const bad[] = {"",     ":1",     "a:0", "a:65536", "a:x", "a b",
                                      "a;rm", "[::1]x", "-rf", "[",       "a:"};

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *got = NULL;
        g_autoptr(GError) error = NULL;
        uint16_t port = 7117;
        if (host_parse_address(bad[i], &got, &port, &error))
            g_error("\"%s\" was taken for an address", bad[i]);
        g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
    }
}

static void
test_round_trip(void)
{
    g_autofree char *dir = g_dir_make_tmp("hosts-XXXXXX", NULL);
    g_autofree char *file = g_build_filename(dir, "hosts.json", NULL);
    g_autoptr(GPtrArray) in = hosts_load(dir, NULL);
    Host *host = g_new0(Host, 1);

    g_assert_cmpuint(in->len, ==, 0);
    host->name = g_strdup("h2");
    host->address = g_strdup("10.0.0.2");
    host->second_address = g_strdup("10.1.0.2");
    host->port = 7117;
    host->learned = TRUE;
    g_ptr_array_add(in, host);
    g_assert_true(hosts_save(dir, in, NULL));
    g_autoptr(GPtrArray) out = hosts_load(dir, NULL);
    g_assert_cmpuint(out->len, ==, 1);
    const Host *got = out->pdata[0];
    g_assert_cmpstr(got->second_address, ==, "10.1.0.2");
    g_assert_true(got->learned);
    g_unlink(file);
    g_rmdir(dir);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hosts/an address may carry a port", test_addresses);
    g_test_add_func("/hosts/what is no address is refused", test_bad_addresses);
    g_test_add_func("/hosts/what is saved is loaded", test_round_trip);
    return g_test_run();
}
