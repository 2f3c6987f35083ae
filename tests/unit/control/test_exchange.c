/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What other hosts may say and ask, and what they may not. */
#include "rig.h"

#include <string.h>

#define OTHER_UUID "1c3e4d5f-6071-4829-93a4-b5c6d7e8f90a"
#define IMPOSSIBLE "9223372036854775807"

/* A host says or asks something. */
static void
say(Peer *peer, const char *method, const char *arguments)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) object = json_parse_object(arguments, strlen(arguments), &error);

    g_assert_no_error(error);
    exchange_handle(peer, method, object, 1);
}

static void
test_claim_counts(Rig *rig, gconstpointer data)
{
    say(rig_add_peer(rig, "h2"), "claims",
        "{\"districts\":[{\"district\":\"shop\",\"uuid\":\"" RIG_UUID "\",\"incarnation\":7}]}");
    g_assert_cmpuint(district_next_incarnation(rig->district), ==, 8);
}

static void
test_impossible_claim(Rig *rig, gconstpointer data)
{
    say(rig_add_peer(rig, "h2"), "claims",
        "{\"districts\":[{\"district\":\"shop\",\"uuid\":\"" RIG_UUID
        "\",\"incarnation\":" IMPOSSIBLE ",\"home\":true,\"active\":true}]}");
    g_assert_cmpuint(district_next_incarnation(rig->district), ==, 4);
    g_assert_cmpint(rig->district->record.role, ==, ROLE_HOME);
}

static void
test_impossible_standby(Rig *rig, gconstpointer data)
{
    say(rig_add_peer(rig, "h2"), "prepare-standby",
        "{\"district\":\"bank\",\"uuid\":\"" OTHER_UUID "\",\"incarnation\":" IMPOSSIBLE
        ",\"definition\":\"[District]\\nName=bank\\n[Member db]\\nKernel=/dev/null\\nMemory=2M\\n\""
        "}");
    g_assert_cmpuint(g_hash_table_size(rig->daemon.districts), ==, 1);
}

static void
test_impossible_take_over(Rig *rig, gconstpointer data)
{
    rig->district->record.peer = g_strdup("h2");
    say(rig_add_peer(rig, "h2"), "take-over",
        "{\"district\":\"shop\",\"uuid\":\"" RIG_UUID "\",\"incarnation\":" IMPOSSIBLE "}");
    g_assert_cmpint(rig->district->record.role, ==, ROLE_HOME);
}

/* ---- Who may make a standby of a home ---- */

/* With more memory than it has, so that it can be seen whose definition is there. */
#define PREPARE_SHOP                                                                               \
    "{\"district\":\"shop\",\"uuid\":\"" RIG_UUID "\",\"incarnation\":9,\"definition\":"           \
    "\"[District]\\nName=shop\\n[Member db]\\nKernel=/dev/null\\nMemory=4M\\n\"}"

static uint64_t
memory_of(const District *d)
{
    return ((const DefinitionMember *)d->definition->members->pdata[0])->memory;
}

static void
test_home_is_seized(Rig *rig, gconstpointer data)
{
    rig->district->record.peer = g_strdup("h2");
    say(rig_add_peer(rig, "h3"), "prepare-standby", PREPARE_SHOP);
    g_assert_cmpint(rig->district->record.role, ==, ROLE_HOME);
    g_assert_cmpstr(rig->district->record.peer, ==, "h2");
    g_assert_cmpuint(memory_of(rig->district), ==, 2 << 20);
}

static void
test_home_changes(Rig *rig, gconstpointer data)
{
    rig->district->record.peer = g_strdup("h2");
    say(rig_add_peer(rig, "h2"), "prepare-standby", PREPARE_SHOP);
    g_assert_cmpint(rig->district->record.role, ==, ROLE_STANDBY);
    g_assert_cmpuint(memory_of(rig->district), ==, 4 << 20);
}

#define ADD(name, function) g_test_add(name, Rig, NULL, rig_set_up, function, rig_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/exchange/the next number is above every claim", test_claim_counts);
    ADD("/exchange/a claim to a number that cannot be is passed over", test_impossible_claim);
    ADD("/exchange/nobody stands by for a number that cannot be", test_impossible_standby);
    ADD("/exchange/a home is not ended for a number that cannot be", test_impossible_take_over);
    ADD("/exchange/a home becomes nobody's standby but its own standby's", test_home_is_seized);
    ADD("/exchange/a home may become the standby of what was its standby", test_home_changes);
    return g_test_run();
}
