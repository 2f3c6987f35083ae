/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, times, names and addresses as people write them. */
#include "control/error.h"
#include "control/units.h"

#include <string.h>

static void
test_size(void)
{
    uint64_t bytes = 0;

    g_assert_true(units_parse_size("512M", &bytes, NULL));
    g_assert_cmpuint(bytes, ==, 512ULL << 20);
}

static void
test_size_bad(void)
{
    static const char *const bad[] = {"",         "M",   "512", "512MB", "-1M",
                                      "1.5G",     " 1M", "1 M", "0x1M",  "99999999999999999999M",
                                      "17000000T"};
    uint64_t bytes = 7;

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(units_parse_size(bad[i], &bytes, &error));
        g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
    }
    g_assert_cmpuint(bytes, ==, 7);
}

static void
test_time(void)
{
    uint64_t us = 0;

    g_assert_true(units_parse_time("25ms", &us, NULL));
    g_assert_cmpuint(us, ==, 25000);
    g_assert_true(units_parse_time("2min", &us, NULL));
    g_assert_cmpuint(us, ==, 120000000);
    g_assert_false(units_parse_time("25", &us, NULL));
}

static void
test_names(void)
{
    static const char *const bad[] = {
        "",    "-a", "a-",  "A",        "a_b",
        "a/b", "..", "a b", "\xc3\xa4", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

    g_assert_true(units_check_name("shop-1", NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(units_check_name(bad[i], NULL));
}

static void
test_mac(void)
{
    uint8_t mac[6];

    g_assert_true(units_parse_mac("52:54:00:aB:01:fF", mac, NULL));
    g_assert_cmpmem(mac, 6, ((uint8_t[]){0x52, 0x54, 0, 0xab, 1, 0xff}), 6);
    g_assert_false(units_parse_mac("53:54:00:00:00:01", mac, NULL)); /* multicast */
    g_assert_false(units_parse_mac("52:54:00:00:00", mac, NULL));
    g_assert_false(units_parse_mac("52-54-00-00-00-01", mac, NULL));
}

static void
test_format(void)
{
    g_autofree char *m = units_format_size(512ULL << 20);
    g_autofree char *k = units_format_size(4096 + 1024);

    g_assert_cmpstr(m, ==, "512M");
    g_assert_cmpstr(k, ==, "5K");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/units/a size is a number and a unit", test_size);
    g_test_add_func("/units/anything else is no size and changes nothing", test_size_bad);
    g_test_add_func("/units/a time is a number and a unit", test_time);
    g_test_add_func("/units/names have few characters and a limited length", test_names);
    g_test_add_func("/units/a mac is six octets and not multicast", test_mac);
    g_test_add_func("/units/a size is printed as it can be read", test_format);
    return g_test_run();
}
