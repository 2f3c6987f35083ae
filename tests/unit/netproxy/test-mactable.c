/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose an address is. */
#include "netproxy/mactable.h"
#include "common/clock.h"

#define OUTSIDE 3
#define AGE_NS (300 * NS_PER_S)

static const guint8 gateway[MAC_BYTES] = {0x52, 0x54, 0, 0, 0, 1};
static const guint8 server[MAC_BYTES] = {0x52, 0x54, 0, 0, 0, 2};

static void
test_gateway_is_not_taken(void)
{
    MacTable *table = mac_table_new(OUTSIDE);

    mac_table_learn(table, gateway, OUTSIDE, NS_PER_S);
    for (gint64 now = 2; now < 1000; now += 200) {
        mac_table_learn(table, gateway, 0, now * NS_PER_S);
        g_assert_cmpuint(mac_table_find(table, gateway), ==, OUTSIDE);
        mac_table_learn(table, gateway, OUTSIDE, now * NS_PER_S);
    }
    mac_table_free(table);
}

static void
test_member_is_not_taken(void)
{
    MacTable *table = mac_table_new(OUTSIDE);

    mac_table_learn(table, server, 1, NS_PER_S);
    mac_table_learn(table, server, OUTSIDE, 2 * NS_PER_S);
    mac_table_learn(table, server, 0, 2 * NS_PER_S);
    g_assert_cmpuint(mac_table_find(table, server), ==, 1);
    mac_table_free(table);
}

/* What has been silent for long may have moved, either way. */
static void
test_moves(void)
{
    MacTable *table = mac_table_new(OUTSIDE);

    mac_table_learn(table, gateway, OUTSIDE, 0);
    mac_table_learn(table, gateway, 0, AGE_NS);
    g_assert_cmpuint(mac_table_find(table, gateway), ==, 0);
    mac_table_learn(table, gateway, 1, 2 * AGE_NS);
    g_assert_cmpuint(mac_table_find(table, gateway), ==, 1);
    mac_table_learn(table, gateway, OUTSIDE, 3 * AGE_NS);
    g_assert_cmpuint(mac_table_find(table, gateway), ==, OUTSIDE);
    mac_table_learn(table, gateway, 1, 3 * AGE_NS + 1);
    g_assert_cmpuint(mac_table_find(table, gateway), ==, OUTSIDE);
    mac_table_free(table);
}

/* An address that has moved away makes room for another one of its member. */
static void
test_limit(void)
{
    MacTable *table = mac_table_new(OUTSIDE);
    guint8 mac[MAC_BYTES] = {0x52, 0x54, 0, 0, 1, 0};

    for (guint i = 0; i <= MAC_MEMBER_MAX; i++) {
        mac[5] = (guint8)i;
        mac_table_learn(table, mac, 0, 0);
    }
    g_assert_cmpuint(mac_table_find(table, mac), ==, MAC_PORT_NONE);
    mac[5] = 0;
    mac_table_learn(table, mac, OUTSIDE, AGE_NS);
    mac[5] = MAC_MEMBER_MAX;
    mac_table_learn(table, mac, 0, AGE_NS);
    g_assert_cmpuint(mac_table_find(table, mac), ==, 0);
    mac_table_free(table);
}

/* A standby hears its members outside while they run elsewhere. */
static void
test_members_come_home(void)
{
    MacTable *table = mac_table_new(OUTSIDE);

    mac_table_learn(table, server, OUTSIDE, 0);
    mac_table_forget_far(table);
    mac_table_learn(table, server, 1, 1);
    g_assert_cmpuint(mac_table_find(table, server), ==, 1);
    mac_table_free(table);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mactable/no member takes the gateway's address", test_gateway_is_not_taken);
    g_test_add_func("/mactable/nobody takes a member's address", test_member_is_not_taken);
    g_test_add_func("/mactable/an address that was silent for long may move", test_moves);
    g_test_add_func("/mactable/a member has so many addresses at a time", test_limit);
    g_test_add_func("/mactable/members come home from outside", test_members_come_home);
    return g_test_run();
}
